//! The file of the node's admin: which services are in which registries.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer};

use super::preset::{Actuator, Consul, Eureka, Exec, Http, Nacos, Preset, StatusFile};
use crate::pods::Pod;

/// Most registries in one file.
const MOST_IN_FILE: usize = 1000;
/// Longest name of a registry, in bytes.
pub const LONGEST_NAME: usize = 64;
/// Longest `timeout`.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(600);
/// Most `retries`.
const MOST_RETRIES: u32 = 100;

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {} (--registries): {why}", .path.display())]
pub struct FileError {
    path: PathBuf,
    why: String,
}

/// A registry, for which services it is, and how it is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Registry {
    name: String,
    ports: Vec<u16>,
    #[serde(default)]
    pod: Option<PodSelector>,
    #[serde(default)]
    host: bool,
    #[serde(default = "default_timeout", deserialize_with = "duration")]
    timeout: Duration,
    #[serde(default = "default_retries")]
    retries: u32,
    #[serde(default)]
    on_failure: OnFailure,
    #[serde(default)]
    from: Option<From>,
    #[serde(default)]
    consul: Option<Consul>,
    #[serde(default)]
    nacos: Option<Nacos>,
    #[serde(default)]
    eureka: Option<Eureka>,
    #[serde(default)]
    actuator: Option<Actuator>,
    #[serde(default)]
    status_file: Option<StatusFile>,
    #[serde(default)]
    http: Option<Http>,
    #[serde(default)]
    exec: Option<Exec>,
}

/// Which pods.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PodSelector {
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// What becomes of a drain of which a registry cannot be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum OnFailure {
    /// It goes on.
    #[default]
    Continue,
    /// It ends, with nothing closed.
    Abort,
}

/// In which network namespace a registry is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum From {
    /// The node's own.
    Host,
    /// That of the service.
    Service,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    registries: Vec<Registry>,
}

fn default_timeout() -> Duration {
    Duration::from_secs(2)
}

fn default_retries() -> u32 {
    2
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(serde::de::Error::custom)
}

/// Reads the file. Since it says what the agent executes, with the agent's rights, nobody but root may be able to write
/// to it.
///
/// # Errors
/// It cannot be read, somebody else may write to it, or it makes no sense: with the reason.
pub fn read(path: &Path) -> Result<Vec<Registry>, FileError> {
    let fail = |why: String| FileError { path: path.into(), why };
    let mut file = File::open(path).map_err(|error| fail(error.to_string()))?;
    let about = file.metadata().map_err(|error| fail(error.to_string()))?;
    let me = rustix::process::geteuid().as_raw();
    if (about.uid() != 0 && about.uid() != me) || about.mode() & 0o022 != 0 {
        return Err(fail(format!(
            "user {} or others may write to it, and the agent would execute what they write; `chown root` and `chmod go-w` it",
            about.uid()
        )));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
    parse(&text).map_err(fail)
}

pub(super) fn parse(text: &str) -> Result<Vec<Registry>, String> {
    let content: Content = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    if content.registries.len() > MOST_IN_FILE {
        return Err(format!("it has more than {MOST_IN_FILE} registries"));
    }
    let mut names = BTreeSet::new();
    for registry in &content.registries {
        registry.check().map_err(|why| format!("registry {:?}: {why}", registry.name))?;
        if !names.insert(&registry.name) {
            return Err(format!(
                "there are two registries named {:?}; names are kept with drains, so give each its own",
                registry.name
            ));
        }
    }
    Ok(content.registries)
}

impl Registry {
    fn check(&self) -> Result<(), String> {
        if self.name.is_empty() || self.name.len() > LONGEST_NAME {
            return Err(format!("a name has 1 to {LONGEST_NAME} bytes"));
        }
        if self.name.chars().any(char::is_control) {
            return Err("a name has no control characters".into());
        }
        if self.ports.is_empty() || self.ports.contains(&0) {
            return Err("`ports` names at least one TCP port, from 1 on".into());
        }
        if self.host && self.pod.is_some() {
            return Err("it is either for `host` or for a `pod`".into());
        }
        if self.timeout.is_zero() || self.timeout > LONGEST_TIMEOUT {
            return Err("`timeout` is longer than 0s, and at most 10m".into());
        }
        if self.retries > MOST_RETRIES {
            return Err(format!("`retries` is at most {MOST_RETRIES}"));
        }
        let presets = self.presets();
        let [preset] = presets[..] else {
            return Err(
                "it has exactly one of consul, nacos, eureka, actuator, status-file, http and exec"
                    .into(),
            );
        };
        if self.from.is_some() && !preset.is_http() {
            return Err("`from` is for those that are asked over HTTP".into());
        }
        preset.check()
    }

    fn presets(&self) -> Vec<&dyn Preset> {
        let Self { consul, nacos, eureka, actuator, status_file, http, exec, .. } = self;
        fn one<P: Preset>(preset: Option<&P>) -> Option<&dyn Preset> {
            preset.map(|preset| preset as &dyn Preset)
        }
        let all = [
            one(consul.as_ref()),
            one(nacos.as_ref()),
            one(eureka.as_ref()),
            one(actuator.as_ref()),
            one(status_file.as_ref()),
            one(http.as_ref()),
            one(exec.as_ref()),
        ];
        all.into_iter().flatten().collect()
    }

    /// How it is told. There is one: it was checked.
    pub(super) fn preset(&self) -> Option<&dyn Preset> {
        self.presets().first().copied()
    }

    /// Its name, which no other has.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long an attempt may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How often it is tried again.
    pub(super) fn retries(&self) -> u32 {
        self.retries
    }

    pub(super) fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    /// In which namespace it is asked.
    pub(super) fn from(&self) -> From {
        let default = if self.actuator.is_some() { From::Service } else { From::Host };
        self.from.unwrap_or(default)
    }

    /// Whether it may be for a service on this port.
    pub(super) fn may_be_for(&self, port: u16, host: bool) -> bool {
        let place = if host { self.pod.is_none() } else { !self.host };
        self.ports.contains(&port) && place
    }

    /// Whether it is for services in this pod, or in none.
    pub(super) fn is_for(&self, pod: Option<&Pod>) -> bool {
        let Some(selector) = &self.pod else { return true };
        let Some(pod) = pod else { return false };
        let namespace = selector.namespace.as_ref().is_none_or(|name| *name == pod.namespace);
        namespace && selector.labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
    }

    /// Whether only some pods have it.
    pub(super) fn selects_pods(&self) -> bool {
        self.pod.is_some()
    }

    /// Whether it has to be known which pod a service is in.
    pub(super) fn needs_pod(&self) -> bool {
        !self.host
    }
}

/// The lines of a file, read anew at each use, so that secrets can be exchanged.
pub(super) fn lines(path: &Path) -> Result<Vec<String>, String> {
    let text =
        fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;

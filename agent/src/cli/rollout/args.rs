//! Arguments of `rollout`.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::Args;
use hyper::Uri;

use crate::cli::{
    args::{AdmissionArgs, RetireArgs},
    value::{self, Timeout},
};

/// Arguments of `rollout`.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct RolloutArgs {
    /// The inventory (YAML): which instances there are, by which agents, on which ports; or the URLs of agents, the node of
    /// each being an instance (with --port). Their order is that of the rollout
    #[arg(value_name = "FILE|URL", required = true)]
    pub(super) instances: Vec<String>,
    /// Of instances that are named by URLs: TCP ports, 1 to 65535; several as 80,443 or by repeating the option
    #[arg(long = "port", value_name = "PORT", value_delimiter = ',', value_parser = value::port)]
    pub(super) ports: Vec<u16>,
    /// Run by `sh -c` for each drained instance: replaces it by the new version. Must bear being run again. The instance is in the
    /// variables DRAINCTL_INSTANCE, DRAINCTL_AGENT, DRAINCTL_TARGET, DRAINCTL_PORTS, DRAINCTL_STAGE and its own `vars`
    #[arg(long, value_name = "CMD", required_unless_present_any = ["undo", "check"])]
    pub(super) release: Option<String>,
    /// Run instead of --release by --undo: brings the old version back. Must bear being run again
    #[arg(long, value_name = "CMD")]
    pub(super) rollback: Option<String>,
    /// How long --release, --rollback or --canary-check may take; then it is killed, and has failed
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = value::duration)]
    pub(super) command_timeout: Duration,
    /// Go on with a rollout that was stopped or killed. What has failed begins again with its drain
    #[arg(long, conflicts_with_all = ["undo", "check"])]
    pub(super) resume: bool,
    /// Bring the old version back, by --rollback, wherever --release was begun, the last one first; where it was stopped or
    /// killed, go on with that
    #[arg(long, requires = "rollback", conflicts_with_all = ["check", "canary"])]
    pub(super) undo: bool,
    /// Only look: is the inventory right, does every agent answer and let us, does every instance serve?
    #[arg(long)]
    pub(super) check: bool,
    /// Where each step is written down before it is done [default: FILE.journal; with URLs: drainctl-rollout.journal]
    #[arg(long, value_name = "FILE")]
    pub(super) journal: Option<PathBuf>,
    #[command(flatten)]
    pub(super) pace: Pace,
    #[command(flatten)]
    pub(super) health: HealthArgs,
    #[command(flatten)]
    pub(super) drain: DrainOptions,
    #[command(flatten)]
    pub(super) admission: AdmissionArgs,
    #[command(flatten)]
    pub(super) retire: RetireArgs,
}

/// How many, and when.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "How many at a time, and when")]
pub(super) struct Pace {
    /// Release the first N instances alone, and go on when they have proven themselves: by --canary-wait, then --canary-check, then
    /// --canary-ask, those that are given
    #[arg(long, value_name = "N")]
    pub(super) canary: Option<usize>,
    /// After the canaries, wait for so long
    #[arg(long, value_name = "DURATION", value_parser = value::duration, requires = "canary")]
    pub(super) canary_wait: Option<Duration>,
    /// After the canaries, run this by `sh -c`, and go on if it ends with 0; their names are in DRAINCTL_INSTANCES
    #[arg(long, value_name = "CMD", requires = "canary")]
    pub(super) canary_check: Option<String>,
    /// After the canaries, ask whether to go on, and read y from stdin
    #[arg(long, requires = "canary")]
    pub(super) canary_ask: bool,
    /// How many instances make a batch, as a number or of all (30%, rounded down, at least 1); the next one begins when all of a batch
    /// are done
    #[arg(long, value_name = "N|P%", default_value = "1")]
    pub(super) batch: Share,
    /// How many instances may be out at once: from before their drain until their traffic is back [default: --batch]
    #[arg(long, value_name = "N|P%")]
    pub(super) max_unavailable: Option<Share>,
    /// One by one, and ask before each; read y from stdin
    #[arg(long)]
    pub(super) step: bool,
}

/// When an instance is well.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "When an instance is well")]
pub(super) struct HealthArgs {
    /// What its agent asks it for, from inside its network namespace, before any client can: the path, on its first port, or
    /// http://HOST:PORT/PATH, HOST being what the request says, or https://, whose certificate is not verified. 200 to 399 is well
    /// [default: it is enough that its ports accept]
    #[arg(long, value_name = "PATH|URL")]
    pub(super) health: Option<Health>,
    /// How long it may take to become well after --release
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = value::duration)]
    pub(super) health_timeout: Duration,
}

/// As of `drain`; `--keep-closed` is always meant.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "How each is drained (see drainctl drain)")]
pub(super) struct DrainOptions {
    /// Refuse new connections once none has come for this long; 0s refuses them at once [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(super) quiet: Option<Duration>,
    /// Go on accepting for at least this long, from the start of the drain [default: 3s]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(super) min_settle: Option<Duration>,
    /// Refuse new connections after this long even if they still come [default: 60 % of --timeout]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(super) max_settle: Option<Duration>,
    /// Give up on an instance that is not empty after this long [default: auto]
    #[arg(long, value_name = "DURATION|auto")]
    pub(super) timeout: Option<Timeout>,
    /// Let traffic in again by itself when nobody has renewed a drain for this long: should drainctl be killed, or an instance stay
    /// out because something failed, this is how long it stays closed
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = value::duration)]
    pub(super) lease: Duration,
    /// In a pod that is not being deleted: refuse new connections also if it is the only ready one of a Service
    #[arg(long)]
    pub(super) close_anyway: bool,
}

/// A number of instances, or a part of them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    Count(usize),
    Percent(usize),
}

impl Share {
    /// How many of `all` that is; at least 1.
    pub(super) fn of(self, all: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => (all * percent / 100).max(1),
        }
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share = match text.strip_suffix('%') {
            Some(percent) => {
                percent.parse().ok().filter(|it| (1..=100).contains(it)).map(Self::Percent)
            }
            None => text.parse().ok().filter(|count| *count > 0).map(Self::Count),
        };
        share.ok_or_else(|| "a number of instances from 1, or a percentage from 1% to 100%".into())
    }
}

/// What to ask an instance for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Health {
    /// The header Host; `None`: the agent's default.
    pub(super) host: Option<String>,
    /// `None`: the instance's first port.
    pub(super) port: Option<u16>,
    pub(super) tls: bool,
    pub(super) path: String,
}

impl FromStr for Health {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self { host: None, port: None, tls: false, path: text.into() });
        }
        let wrong =
            || "a path such as /healthz, or a URL such as http://localhost:8081/healthz".to_owned();
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let host = uri.authority().map(|authority| authority.as_str().to_owned());
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { host, port: Some(port), tls, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        let table = [("3", 3), ("30%", 3), ("1%", 1), ("100%", 10), ("25%", 2), ("12", 12)];
        for (text, of_ten) in table {
            assert_eq!(text.parse::<Share>().unwrap().of(10), of_ten, "{text}");
        }
        for wrong in ["0", "0%", "101%", "-1", "3.5", "%", ""] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_asked_for() {
        let health = |host: Option<&str>, port, tls, path: &str| {
            Ok(Health { host: host.map(str::to_owned), port, tls, path: path.into() })
        };
        assert_eq!("/healthz?full=1".parse(), health(None, None, false, "/healthz?full=1"));
        let url = "http://web:8081/up";
        assert_eq!(url.parse(), health(Some("web:8081"), Some(8081), false, "/up"));
        assert_eq!("http://web".parse(), health(Some("web"), Some(80), false, "/"));
        assert_eq!("https://web/up".parse(), health(Some("web"), Some(443), true, "/up"));
        for wrong in ["healthz", "ftp://web/", "https:", ""] {
            assert!(wrong.parse::<Health>().is_err(), "{wrong:?}");
        }
    }
}

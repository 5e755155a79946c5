//! The inventory: which instances there are, as a YAML file or the URLs of their agents say it. Whatever is wrong with it
//! is found before anybody is asked anything.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    cli::{
        agent::AgentAddress,
        args::TargetArgs,
        exit::{Exit, Failure},
        target, value,
    },
    pods::PodName,
};

/// Most instances of one rollout.
const MOST: usize = 1000;

/// What the file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Of instances that name none; left out: `--agent`.
    agent: Option<String>,
    /// Of instances that name none.
    #[serde(default)]
    ports: Vec<u16>,
    instances: Vec<Entry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    agent: Option<String>,
    #[serde(default)]
    host: bool,
    pod: Option<String>,
    container: Option<String>,
    netns: Option<PathBuf>,
    #[serde(default)]
    ports: Vec<u16>,
    #[serde(default)]
    vars: BTreeMap<String, String>,
}

/// One instance.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    /// Letters, digits, dots, dashes and underscores.
    pub(super) name: String,
    pub(super) agent: AgentAddress,
    pub(super) target: TargetArgs,
    /// At least one, each once.
    pub(super) ports: Vec<u16>,
    /// For the commands.
    pub(super) vars: BTreeMap<String, String>,
}

/// What makes an instance the one it is, as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) name: String,
    agent: String,
    target: String,
    ports: Vec<u16>,
}

impl Instance {
    pub(super) fn identity(&self) -> Identity {
        let (agent, target) = (self.agent.to_string(), self.place());
        let mut ports = self.ports.clone();
        ports.sort_unstable();
        Identity { name: self.name.clone(), agent, target, ports }
    }

    /// Its target as options of `drainctl`.
    pub(super) fn place(&self) -> String {
        let TargetArgs { host: _, pod, container, netns, pid: _ } = &self.target;
        match (pod, container, netns) {
            (Some(pod), _, _) => format!("--pod {pod}"),
            (_, Some(id), _) => format!("--container {id}"),
            (_, _, Some(path)) => format!("--netns {}", path.display()),
            _ => "--host".into(),
        }
    }
}

/// The instances that these words of the command line name: a file, or URLs with these ports.
///
/// # Errors
/// The file cannot be read, or what is said makes no sense (exit code 2); then with everything that is wrong.
pub(super) fn find(
    words: &[String],
    ports: &[u16],
    agent: &AgentAddress,
) -> Result<Vec<Instance>, Failure> {
    let Some(path) = file(words) else {
        return by_urls(words, ports).map_err(usage);
    };
    let fail = |why: String| usage(format!("cannot use the inventory {}: {why}", path.display()));
    if !ports.is_empty() {
        return Err(fail("it names the ports of its instances itself: leave --port out".into()));
    }
    let text = fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
    parse(&text, agent).map_err(fail)
}

/// The file, if it is one that is named.
pub(super) fn file(words: &[String]) -> Option<&Path> {
    match words {
        [word] if !word.contains("://") => Some(Path::new(word)),
        _ => None,
    }
}

/// Each agent's node is one instance.
fn by_urls(urls: &[String], ports: &[u16]) -> Result<Vec<Instance>, String> {
    if ports.is_empty() {
        return Err(
            "instances that are named by URLs need --port, which of their ports it is about".into(),
        );
    }
    let entry = |text: &String| match text.parse::<AgentAddress>()? {
        AgentAddress::Url(url) => Ok(Entry {
            name: format!("{}-{}", url.host.replace(':', "-"), url.port),
            agent: Some(text.clone()),
            host: true,
            ..Entry::default()
        }),
        AgentAddress::Socket(_) => {
            Err(format!("{text:?} is no URL of an agent: name one inventory, or URLs only"))
        }
    };
    let instances = urls.iter().map(entry).collect::<Result<_, String>>()?;
    let file = File { agent: None, ports: ports.to_vec(), instances };
    checked(file, &AgentAddress::default())
}

fn parse(text: &str, agent: &AgentAddress) -> Result<Vec<Instance>, String> {
    checked(serde_saphyr::from_str(text).map_err(|error| error.to_string())?, agent)
}

fn checked(file: File, agent: &AgentAddress) -> Result<Vec<Instance>, String> {
    if file.instances.is_empty() || file.instances.len() > MOST {
        return Err(format!(
            "it has {} instances; a rollout has 1 to {MOST}",
            file.instances.len()
        ));
    }
    let agent = match &file.agent {
        Some(text) => text.parse().map_err(|why| format!("agent: {why}"))?,
        None => agent.clone(),
    };
    let (mut instances, mut wrong) = (Vec::new(), Vec::new());
    for entry in file.instances {
        let name = entry.name.clone();
        match instance(entry, &agent, &file.ports) {
            Ok(instance) => instances.push(instance),
            Err(why) => wrong.push(format!("instance {name:?}: {why}")),
        }
    }
    wrong.extend(duplicates(&instances));
    if wrong.is_empty() { Ok(instances) } else { Err(wrong.join("; ")) }
}

fn instance(entry: Entry, agent: &AgentAddress, ports: &[u16]) -> Result<Instance, String> {
    let Entry { name, agent: own, host, pod, container, netns, ports: own_ports, vars } = entry;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(is_plain) {
        return Err("a name has 1 to 100 letters, digits, dashes, underscores and dots, and begins with no dot".into());
    }
    let agent = match own {
        Some(text) => text.parse()?,
        None => agent.clone(),
    };
    let pod = pod.map(|pod| pod.parse::<PodName>().map_err(|e| e.to_string())).transpose()?;
    let targets = [host, pod.is_some(), container.is_some(), netns.is_some()];
    if targets.iter().filter(|is_named| **is_named).count() != 1 {
        return Err("say where it is, in one way: host: true, pod, container or netns".into());
    }
    let target = TargetArgs { pid: None, netns, pod, container, host };
    if matches!(agent, AgentAddress::Url(_)) {
        target::check_from_afar(&target).map_err(|_| {
            "an agent that is asked over TCP may be on another machine, where netns means nothing".to_owned()
        })?;
    }
    let ports = value::distinct(if own_ports.is_empty() { ports } else { &own_ports });
    if ports.is_empty() || ports.contains(&0) {
        return Err("it needs ports, a list of TCP ports from 1 to 65535".into());
    }
    if let Some(name) = vars.keys().find(|name| !is_variable(name)) {
        return Err(format!(
            "{name:?} is no name of a variable (letters, digits, underscores; not DRAINCTL_…)"
        ));
    }
    Ok(Instance { name, agent, target, ports, vars })
}

fn is_variable(name: &str) -> bool {
    let is_word = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let begins = name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
    is_word && begins && !name.starts_with("DRAINCTL_")
}

/// The same instance twice would be drained while it is thought to serve.
fn duplicates(instances: &[Instance]) -> Vec<String> {
    let (mut names, mut places, mut found) = (HashMap::new(), HashMap::new(), Vec::new());
    for instance in instances {
        let name = &instance.name;
        if names.insert(name, ()).is_some() {
            found.push(format!("instance {name:?} is there twice"));
        }
        for port in &instance.ports {
            let place = (instance.agent.to_string(), instance.place(), *port);
            if let Some(other) = places.insert(place, name).filter(|other| *other != name) {
                found.push(format!(
                    "instances {other:?} and {name:?} are the same: port {port} of {}",
                    instance.place()
                ));
            }
        }
    }
    found
}

fn usage(message: String) -> Failure {
    Failure::new(Exit::Usage, format!("{message}; nothing was changed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Instance>, String> {
        parse(text, &AgentAddress::default())
    }

    #[test]
    fn instances_with_what_they_share() {
        let instances = read(
            "agent: https://node-1:9443\nports: [8080]\ninstances:\n\
             - {name: web-1, pod: default/web-1}\n\
             - {name: web-2, agent: /run/a.sock, host: true, ports: [80, 443, 80], vars: {UNIT: web, N: \"2\"}}\n",
        )
        .unwrap();
        let [one, two] = instances.as_slice() else { panic!("{instances:?}") };
        assert_eq!(
            (one.agent.to_string(), one.place()),
            ("https://node-1:9443".into(), "--pod default/web-1".into())
        );
        assert_eq!(one.ports, [8080]);
        assert_eq!((two.agent.to_string(), two.place()), ("/run/a.sock".into(), "--host".into()));
        assert_eq!(two.ports, [80, 443]);
        assert_eq!(two.vars["N"], "2");
    }

    #[test]
    fn urls_are_instances_too() {
        let find = |words: &[&str], ports: &[u16]| {
            let words: Vec<String> = words.iter().map(ToString::to_string).collect();
            find(&words, ports, &AgentAddress::default()).map_err(|failure| failure.message)
        };
        let instances =
            find(&["https://web-1:9443", "https://[fd00::2]:9443"], &[80, 443]).unwrap();
        let [one, two] = instances.as_slice() else { panic!("{instances:?}") };
        assert_eq!((&*one.name, &*two.name), ("web-1-9443", "fd00--2-9443"));
        assert_eq!(two.agent.to_string(), "https://[fd00::2]:9443");
        assert_eq!((two.place(), &*two.ports), ("--host".into(), &[80, 443][..]));
        let table: [(&[&str], &[u16], &str); 5] = [
            (&["https://web-1:9443"], &[], "need --port"),
            (&["https://web-1:9443", "https://web-1:9443"], &[80], "is there twice"),
            (&["https://web-1:9443", "web.yaml"], &[80], "name one inventory, or URLs only"),
            (&["https://web-1:no"], &[80], "no"),
            (&["web.yaml"], &[80], "leave --port out"),
        ];
        for (words, ports, why) in table {
            let error = find(words, ports).expect_err(why);
            assert!(error.contains(why) && error.contains("nothing was changed"), "{error}");
        }
    }

    #[test]
    fn whatever_is_wrong_is_said() {
        let one = "instances:\n- {name: a, host: true, ports: [80]}\n";
        let table = [
            ("instances: []", "0 instances"),
            ("instances:\n- {name: a, host: true}", "needs ports"),
            ("instances:\n- {name: a, host: true, ports: [0]}", "1 to 65535"),
            ("instances:\n- {name: a, host: true, ports: [70000]}", "70000"),
            ("instances:\n- {name: a, ports: [80]}", "where it is"),
            ("instances:\n- {name: a, host: true, pod: a/b, ports: [80]}", "in one way"),
            ("instances:\n- {name: a, pod: a, ports: [80]}", "NAMESPACE/NAME"),
            ("instances:\n- {name: ../a, host: true, ports: [80]}", "a name has"),
            (
                "instances:\n- {name: a, host: true, ports: [80], vars: {DRAINCTL_X: \"1\"}}",
                "no name of a variable",
            ),
            ("instances:\n- {name: a, host: true, ports: [80], colour: red}", "colour"),
            (
                "instances:\n- {name: a, agent: \"https://x:1\", netns: /run/x, ports: [80]}",
                "another machine",
            ),
            ("agent: nonsense://x\ninstances:\n- {name: a, host: true, ports: [80]}", "agent"),
            (&format!("{one}- {{name: a, pod: a/b, ports: [80]}}"), "\"a\" is there twice"),
            (
                &format!("{one}- {{name: b, host: true, ports: [81, 80]}}"),
                "\"a\" and \"b\" are the same: port 80",
            ),
            ("{", ""),
        ];
        for (text, words) in table {
            let error = read(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
        assert!(read(one).is_ok());
    }
}

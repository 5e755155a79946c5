//! A machine of its own for a kubelet, as far as a machine can be divided: mount, PID and network namespaces with a root
//! folder in memory, made by `tests/kube/node/node.sh`. When its process 1 ends, so does all that ran in it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{self, Command, Output, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::{
    cmd, kubelet,
    netns::Netns,
    process::Process,
    wait::{LIMIT, eventually, eventually_some},
};

/// The node's address.
pub(super) const ADDRESS: &str = "192.0.2.10";

const SCRIPT: &str = include_str!("../../kube/node/node.sh");

/// What the names of its cgroups begin with; the process id of the test follows.
const PREFIX: &str = "drainctl-node-";

/// Moves itself into a cgroup and runs something else.
const IN_CGROUP: &str = r#"echo 0 >"$0/cgroup.procs" && exec "$@""#;

/// The node; it goes with everything in it when this is dropped.
#[derive(Debug)]
pub struct Node {
    cgroups: Cgroups,
    // The order matters: the processes end before their network namespace is removed.
    init: Process,
    pid: u32,
    netns: Arc<Netns>,
    dir: TempDir,
}

impl Node {
    /// Makes one that has the programs of a folder in `/kube`.
    pub fn start(programs: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("drainctl-node-").tempdir()?;
        let path = |name: &str| dir.path().join(name);
        for name in ["root", "shared", "logs"] {
            fs::create_dir(path(name))?;
        }
        fs::write(path("node.sh"), SCRIPT)?;
        let netns = Arc::new(Netns::new()?);
        let cgroups = Cgroups::new()?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", netns.path().display()));
        command.args(["unshare", "--mount", "--pid", "--fork", "--kill-child"]);
        command.args(["--propagation", "private", "sh"]).arg(path("node.sh"));
        command.args([&path("root"), &path("shared"), programs]);
        let log = path("logs/node");
        let mut init = logged(command, &log, "the node")?;
        let ready = path("shared/ready");
        eventually(LIMIT, "the node is ready", || {
            let text = || fs::read_to_string(&log).unwrap_or_default();
            ensure!(init.exited()?.is_none(), "the node ended: {}", text());
            Ok(ready.exists())
        })?;
        let pid = eventually_some(LIMIT, "process 1 of the node", || child_of(init.pid()))?;
        Ok(Self { cgroups, init, pid, netns, dir })
    }

    /// Its network.
    pub fn netns(&self) -> &Arc<Netns> {
        &self.netns
    }

    /// A folder that the node knows as `/shared`.
    pub fn shared(&self) -> PathBuf {
        self.dir.path().join("shared")
    }

    /// A file or folder of the node, as this process sees it.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.pid))
    }

    /// The name of the cgroup that all its pods are in.
    pub fn cgroup(&self) -> &str {
        &self.cgroups.name
    }

    /// Starts a daemon in a cgroup (v2) of its own, as an init system would.
    pub fn daemon(&self, name: &str, args: &[&str]) -> Result<Process> {
        let command = self.command(&self.cgroups.of_daemon(name)?, args);
        logged(command, &self.log(name), name)
    }

    /// Runs a program to its end, with something on its standard input.
    pub fn output(&self, args: &[&str], input: &str) -> Result<Output> {
        let cgroup = self.cgroups.of_daemon("other")?;
        cmd::output(&mut self.command(&cgroup, args), input)
    }

    /// The last lines of what a daemon has said.
    pub fn said(&self, name: &str) -> String {
        let text = fs::read(self.log(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Process ids in this process' eyes of what runs in the cgroups with this in their names.
    pub fn processes(&self, cgroup: &str) -> Result<Vec<u32>> {
        let entries = fs::read_dir("/proc")?.flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let inside = |pid: &u32| {
            // It may have ended.
            let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            cgroups.contains(cgroup) && cgroups.contains(self.cgroup())
        };
        Ok(pids.filter(inside).collect())
    }

    /// Keeps logs and configuration when this is dropped; returns where.
    pub fn keep(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join("logs").join(name)
    }

    fn command(&self, cgroup: &Path, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        let target = format!("--target={}", self.pid);
        command.args([&target, "--mount", "--net", "--pid", "sh", "-c", IN_CGROUP]);
        command.arg(cgroup).args(args).env_clear().env("HOME", "/root");
        command.env("PATH", "/kube:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Process 1 of a PID namespace takes all others with it.
        crate::process::kill(i32::try_from(self.pid).unwrap_or_default());
        if let Err(error) = self.init.wait(LIMIT) {
            eprintln!("the node does not end: {error:#}");
        }
    }
}

/// The child of `unshare`, which is process 1 inside.
fn child_of(pid: u32) -> Result<Option<u32>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(children.split_whitespace().next().map(str::parse).transpose()?)
}

fn logged(mut command: Command, log: &Path, what: &str) -> Result<Process> {
    let file = File::create(log).with_context(|| format!("write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    Ok(Process::new(command.spawn().with_context(|| format!("start {what}"))?, what))
}

/// A cgroup in each hierarchy of this machine: v2, and those of v1 that there are.
#[derive(Debug)]
struct Cgroups {
    name: String,
    v2: PathBuf,
    all: Vec<PathBuf>,
}

impl Cgroups {
    fn new() -> Result<Self> {
        let name = format!("{PREFIX}{}", process::id());
        let mounts = fs::read_to_string("/proc/mounts")?;
        let mounts = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (folder, kind) = (fields.next()?, fields.next()?);
            ["cgroup", "cgroup2"].contains(&kind).then(|| PathBuf::from(folder))
        });
        let roots: Vec<PathBuf> = mounts.collect();
        roots.iter().for_each(|root| sweep(root));
        let all: Vec<PathBuf> = roots.iter().map(|root| root.join(&name)).collect();
        for cgroup in &all {
            fs::create_dir(cgroup).with_context(|| format!("make cgroup {}", cgroup.display()))?;
        }
        Ok(Self { v2: kubelet::root()?.join(&name), name, all })
    }

    fn of_daemon(&self, name: &str) -> Result<PathBuf> {
        let cgroup = self.v2.join(name);
        fs::create_dir_all(&cgroup).with_context(|| format!("make cgroup {}", cgroup.display()))?;
        Ok(cgroup)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for cgroup in &self.all {
            // Processes that were killed may still be on their way out.
            let gone = eventually(LIMIT, "the cgroups are empty", || Ok(remove(cgroup).is_ok()));
            if let Err(error) = gone {
                eprintln!("{} stays behind: {error:#}", cgroup.display());
            }
        }
    }
}

/// Removes what tests that were killed before their guards could run have left in a hierarchy.
fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX);
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // If somebody is in it still, the next test tries again.
            let _ = remove(&entry.path());
        }
    }
}

/// Removes a cgroup and those below it.
fn remove(cgroup: &Path) -> Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    Ok(fs::remove_dir(cgroup)?)
}

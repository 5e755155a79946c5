//! A stand-in for a pod's sandbox: a process in a network namespace, in cgroups that are called as the kubelet and
//! containerd call them.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};

use crate::{
    kubelet::root,
    netns::Netns,
    process::Process,
    wait::{LIMIT, eventually},
};

/// Moves itself into the cgroup (a zero stands for the writing process) and waits.
const WAIT: &str = "echo 0 > $0/cgroup.procs && echo there && read";

/// A pod as the kernel sees it; it goes when this is dropped.
#[derive(Debug)]
pub struct Sandbox {
    id: String,
    /// From the innermost one to the outermost one.
    cgroups: Vec<PathBuf>,
    process: Option<Process>,
}

impl Sandbox {
    /// Has a pod of this uid run in the namespace.
    pub fn start(netns: &Netns, uid: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Other tests' ids must differ where an id may be cut.
        let id = format!("{number:04x}{:08x}{:052x}", process::id(), 0);
        let outer = root()?.join(format!("drainctl-t-pods-{}-{number}", process::id()));
        let pod = outer.join(format!("pod{uid}"));
        let container = pod.join(&id);
        fs::create_dir_all(&container).context("make the cgroups of a pod")?;
        let mut sandbox = Self { id, cgroups: vec![container, pod, outer], process: None };
        sandbox.process = Some(run(netns, &sandbox.cgroups[0])?);
        Ok(sandbox)
    }

    /// Id of its container.
    pub fn id(&self) -> &str {
        &self.id
    }
}

fn run(netns: &Netns, cgroup: &Path) -> Result<Process> {
    let mut command = Command::new("bash");
    command.args(["-c", WAIT]).arg(cgroup);
    // Its input stays open as long as the process is kept.
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = netns.run(|| command.spawn().context("start bash"))?;
    let output = child.stdout.take().context("bash has an output")?;
    let process = Process::new(child, "a stand-in for a sandbox");
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    ensure!(line == "there\n", "bash said {line:?}");
    Ok(process)
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.process = None;
        for cgroup in &self.cgroups {
            let removed = || Ok(fs::remove_dir(cgroup).is_ok());
            if let Err(error) = eventually(LIMIT, "the cgroup is empty", removed) {
                eprintln!("a cgroup stays behind: {error:#}");
            }
        }
    }
}

//! A stand-in for the kubelet: a cgroup of its own, and processes in it that open connections, as probes are.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Seek as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    cmd,
    netns::Netns,
    process::Process,
    wait::{LIMIT, eventually},
};

/// Moves itself into the cgroup (a zero stands for the writing process), connects, and holds the connection.
const CONNECT: &str =
    "echo 0 > $0/cgroup.procs && exec 3<>/dev/tcp/$1/$2 && echo connected && exec cat <&3";

/// Moves itself into the cgroup and waits.
const WAIT: &str = "echo 0 > $0/cgroup.procs && echo connected && read";

/// A cgroup (v2) with the processes of a kubelet; it goes when this is dropped.
#[derive(Debug)]
pub struct Kubelet {
    cgroup: PathBuf,
}

impl Kubelet {
    /// Makes the cgroup; nothing runs in it yet.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let cgroup = root()?.join(format!("drainctl-t-{}-{number}", process::id()));
        fs::create_dir(&cgroup).with_context(|| format!("make cgroup {}", cgroup.display()))?;
        Ok(Self { cgroup })
    }

    /// Its cgroup, for `--probe-cgroup`.
    pub fn cgroup(&self) -> Result<&str> {
        self.cgroup.to_str().context("a path of letters")
    }

    /// Opens a connection from `netns`, which is held until the process is dropped; none if it is refused.
    pub fn probe(&self, netns: &Netns, addr: SocketAddr) -> Result<Option<Process>> {
        let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
        let mut command = Command::new("bash");
        command.args(["-c", CONNECT]).arg(&self.cgroup).args([ip, port]);
        self.start(netns, command)
    }

    /// Asks as a kubelet does for a lifecycle hook, with `curl` and more of its options; it is killed when it is dropped.
    pub fn get(&self, netns: &Netns, url: &str, options: &[&str]) -> Result<Asked> {
        let script = "echo 0 > $0/cgroup.procs && exec curl \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(&self.cgroup);
        command.args([
            "-sSg",
            "--max-time",
            "120",
            "-A",
            "kube-lifecycle/1.34",
            "-w",
            "\n%{http_code}",
        ]);
        command.args(options).arg(url);
        let output = tempfile::tempfile()?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
        let child = netns.run(|| command.spawn().context("start curl"))?;
        Ok(Asked { process: Process::new(child, "curl"), output })
    }

    /// Has a process of the name `kubelet` run in it, in the namespaces of this process.
    pub fn run(&self, dir: &Path) -> Result<Process> {
        let program = dir.join("kubelet");
        cmd::copy_program(Path::new("/bin/bash"), &program)?;
        let mut command = Command::new(program);
        command.args(["-c", WAIT]).arg(&self.cgroup);
        self.start(&Netns::host()?, command)?.context("the stand-in does not run")
    }

    fn start(&self, netns: &Netns, mut command: Command) -> Result<Option<Process>> {
        // Its input stays open as long as the process is kept.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = netns.run(|| command.spawn().context("start bash"))?;
        let output = child.stdout.take().context("bash has an output")?;
        let process = Process::new(child, "a stand-in for the kubelet");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        match line.as_str() {
            "connected\n" => Ok(Some(process)),
            "" => Ok(None),
            other => bail!("bash said {other:?}"),
        }
    }
}

/// A request of the kubelet's that is under way.
#[derive(Debug)]
pub struct Asked {
    process: Process,
    output: File,
}

impl Asked {
    /// The status, 0 if there was none, and what came with it.
    pub fn answer(mut self) -> Result<(u16, String)> {
        self.process.wait(Duration::from_secs(60))?;
        let mut text = String::new();
        self.output.rewind()?;
        self.output.read_to_string(&mut text)?;
        let (body, status) = text.trim_end().rsplit_once('\n').unwrap_or(("", &text));
        Ok((status.trim().parse().with_context(|| format!("no status: {text:?}"))?, body.into()))
    }

    /// Whether there is no answer yet.
    pub fn is_waiting(&mut self) -> Result<bool> {
        Ok(self.process.exited()?.is_none())
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        // Its last process may be on its way out.
        let gone =
            eventually(LIMIT, "the cgroup is empty", || Ok(fs::remove_dir(&self.cgroup).is_ok()));
        if let Err(error) = gone {
            eprintln!("a cgroup stays behind: {error:#}");
        }
    }
}

/// Where cgroup v2 is mounted.
pub fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = fields.find_map(|fields| (*fields.get(2)? == "cgroup2").then(|| fields[1].into()));
    found.context("cgroup v2 is not mounted")
}

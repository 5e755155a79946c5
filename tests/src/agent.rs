//! A running `drain-agent`.

use std::{
    fs::{self, File, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    bpf::AgentMaps,
    bpffs::Bpffs,
    cmd,
    ctl::Ctl,
    dist::Dist,
    http,
    netns::Netns,
    process::Process,
    wait::{LIMIT, eventually, eventually_some},
};

/// An agent on its own socket. Stopped, and its log shown (libtest keeps that for failed tests), on drop.
#[derive(Debug)]
pub struct Agent {
    dist: Dist,
    dir: TempDir,
    bpffs: Bpffs,
    pin_dir: PathBuf,
    /// Another program than that of users.
    program: Option<PathBuf>,
    failpoint: Option<String>,
    /// What it is run by, such as `setpriv` and its options.
    wrapper: Vec<String>,
    process: Option<Process>,
    quiet: bool,
}

impl Agent {
    /// Starts an agent with its defaults.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts an agent with more options, and waits until it answers.
    pub fn start_with(options: &[&str]) -> Result<Self> {
        let mut agent = Self::prepare()?;
        agent.launch(options)?;
        Ok(agent)
    }

    /// Everything but the agent itself: a socket path where nobody listens.
    pub fn prepare() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("drainctl-agent-").tempdir()?;
        // Unprivileged callers must reach the socket and run the command line.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        let (dist, bpffs) = (Dist::from_env()?, Bpffs::mount()?);
        let pin_dir = bpffs.pin_dir();
        let (program, failpoint, process) = (None, None, None);
        let (wrapper, quiet) = (Vec::new(), false);
        Ok(Self { dist, dir, bpffs, pin_dir, program, failpoint, wrapper, process, quiet })
    }

    /// Starts the agent where [`Self::prepare`] or [`Self::stop`] left it.
    pub fn launch(&mut self, options: &[&str]) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let program = self.program.clone().unwrap_or_else(|| self.dist.agent());
        let mut command = match self.wrapper.split_first() {
            None => Command::new(program),
            Some((wrapper, its)) => {
                let mut command = Command::new(wrapper);
                command.args(its).arg(program);
                command
            }
        };
        command.envs(self.failpoint.iter().map(|name| ("DRAINCTL_FAILPOINT", name)));
        let child = command
            .arg("--socket")
            .arg(self.socket())
            .arg("--pin-dir")
            .arg(&self.pin_dir)
            .args(options)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start drain-agent")?;
        let mut process = Process::new(child, "drain-agent");
        let socket = self.socket();
        eventually(Duration::from_secs(30), "the agent answers", || {
            if let Some(status) = process.exited()? {
                bail!("drain-agent ended: {status}\n{}", self.log());
            }
            let answer = http::unix(&socket, "GET", "/healthz", "");
            Ok(answer.is_ok_and(|answer| answer.status == 200))
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Starts it so that it dies at this place before it answers.
    pub fn die_at(&mut self, place: &str, options: &[&str]) -> Result<()> {
        self.set_failpoint(Some(place));
        let started = self.launch(options);
        self.set_failpoint(None);
        match started {
            Err(error) if format!("{error:#}").contains("SIGABRT") => Ok(()),
            Err(error) => Err(error),
            Ok(()) => bail!("it does not come to {place:?}"),
        }
    }

    /// Waits until it has died by itself.
    pub fn await_death(&mut self) -> Result<()> {
        eventually(LIMIT, "the agent dies", || Ok(!self.is_running()?))
    }

    /// Keeps the log to itself when dropped.
    pub fn be_quiet(&mut self) {
        self.quiet = true;
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// Its folder, readable by everybody, removed on drop.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where it keeps its kernel objects.
    pub fn bpffs(&self) -> &Bpffs {
        &self.bpffs
    }

    /// Has it keep them elsewhere.
    pub fn set_pin_dir(&mut self, path: impl Into<PathBuf>) {
        self.pin_dir = path.into();
    }

    /// Has another program run from the next start on: the one that can be killed in the middle of a step.
    pub fn set_program(&mut self, program: impl Into<PathBuf>) {
        self.program = Some(program.into());
    }

    /// Has it run by another program from the next start on, which replaces itself by it.
    pub fn set_wrapper<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) {
        self.wrapper = words.into_iter().map(str::to_owned).collect();
    }

    /// Has it die at this place from the next start on.
    pub fn set_failpoint(&mut self, name: Option<&str>) {
        self.failpoint = name.map(str::to_owned);
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(match &mut self.process {
            Some(process) => process.exited()?.is_none(),
            None => false,
        })
    }

    /// Runs `drain-agent --uninstall` on its pin directory.
    pub fn uninstall(&self) -> Result<Output> {
        let mut command = Command::new(self.dist.agent());
        command.arg("--uninstall").arg("--pin-dir").arg(&self.pin_dir);
        cmd::output(&mut command, "")
    }

    /// The binaries it was started from.
    pub fn dist(&self) -> &Dist {
        &self.dist
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("the agent does not run")?.pid())
    }

    /// Where it listens over TCP, as its log says.
    pub fn endpoint(&self) -> Result<SocketAddr> {
        eventually_some(LIMIT, "the agent listens over TCP", || {
            let log = self.log();
            let line = log.lines().rev().find(|line| line.contains("listening over TCP"));
            let addr = line.and_then(|line| line.rsplit_once("addr=")).map(|(_, addr)| addr.trim());
            addr.map(|addr| addr.parse().context("an address")).transpose()
        })
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Sends SIGTERM and waits for a clean end.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.signal(Signal::TERM)?;
        process.signal(Signal::CONT)?; // A test that failed may have left it paused.
        let status = process.wait(LIMIT)?;
        if !status.success() {
            bail!("drain-agent ended: {status}\n{}", self.log());
        }
        Ok(())
    }

    /// Sends SIGTERM and waits until a next agent may start on the same pin directory, while this process goes on
    /// carrying the connections that it has.
    pub fn hand_on(&mut self) -> Result<Process> {
        let mut process = self.process.take().context("the agent does not run")?;
        process.signal(Signal::TERM)?;
        eventually(LIMIT, "it only goes on carrying", || {
            if let Some(status) = process.exited()? {
                bail!("drain-agent ended: {status}\n{}", self.log());
            }
            Ok(self.log().contains("goes on carrying"))
        })?;
        Ok(process)
    }

    /// Stops it where it is, as a debugger or a machine without CPU time to spare does.
    pub fn pause(&self) -> Result<()> {
        self.process.as_ref().context("the agent does not run")?.signal(Signal::STOP)
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
        self.process.as_ref().context("the agent does not run")?.signal(Signal::CONT)
    }

    /// Kills it, as a crash or the OOM killer would.
    pub fn crash(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.signal(Signal::KILL)?;
        process.wait(LIMIT).map(drop)
    }

    /// Its BPF maps, to look into and to spoil.
    pub fn maps(&self) -> Result<AgentMaps> {
        AgentMaps::of(self.pid()?)
    }

    /// The command line, run inside `netns` against this agent.
    pub fn ctl<'a>(&'a self, netns: &'a Netns) -> Ctl<'a> {
        Ctl::new(self, netns)
    }

    /// A counter or gauge of the agent that has no labels, without its prefix `drainctl_`.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let text = String::from_utf8(self.http("GET", "/metrics", "")?.body)?;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("drainctl_{name} ")));
        Ok(line.with_context(|| format!("no {name} in {text}"))?.parse()?)
    }

    /// A request to its socket, from the namespace and user of this process.
    pub fn http(&self, method: &str, path: &str, body: &str) -> Result<http::Response> {
        http::unix(&self.socket(), method, path, body)
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("agent.log")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let stopped = self.stop();
        if let (false, Err(error)) = (self.quiet, &stopped) {
            println!("stop the agent: {error:#}");
        }
        if !self.quiet {
            println!("--- log of the agent ---\n{}", self.log());
        }
    }
}

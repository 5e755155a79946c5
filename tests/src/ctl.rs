//! The command line under test, run in a namespace of choice.

use std::{
    ffi::OsString,
    fs::File,
    io::{Read, Seek},
    os::fd::OwnedFd,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use serde::Deserialize;

use crate::{
    agent::Agent,
    cmd,
    leaving::Retire,
    netns::Netns,
    process::Process,
    wait::{eventually, eventually_some, patient},
};

/// No call of the tests runs longer than this.
const LIMIT: Duration = Duration::from_secs(60);

/// How to run `drainctl`.
#[derive(Clone, Debug)]
pub struct Ctl<'a> {
    agent: &'a Agent,
    netns: &'a Netns,
    program: OsString,
    uid: Option<u32>,
    wrapper: Vec<&'a str>,
    /// Where the agent is asked; none: its socket.
    address: Option<String>,
}

impl<'a> Ctl<'a> {
    /// As root inside `netns`.
    pub fn new(agent: &'a Agent, netns: &'a Netns) -> Self {
        let program = agent.dist().drainctl().into();
        Self { agent, netns, program, uid: None, wrapper: Vec::new(), address: None }
    }

    /// As another user. The binary is copied to where that user can reach it.
    pub fn as_user(mut self, uid: u32) -> Result<Self> {
        let copy = self.agent.dir().join("drainctl");
        if !copy.exists() {
            cmd::copy_program(Path::new(&self.program), &copy)?;
        }
        self.program = copy.into();
        self.uid = Some(uid);
        Ok(self)
    }

    /// Under another program, for example `unshare --pid --fork`.
    pub fn under(mut self, wrapper: &[&'a str]) -> Self {
        self.wrapper = wrapper.to_vec();
        self
    }

    /// At another address than its socket's.
    pub fn at(mut self, address: &str) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Starts `drainctl VERB --agent SOCKET REST…`.
    pub fn start(&self, args: &[&str]) -> Result<Running> {
        let (verb, rest) = args.split_first().context("a verb is needed")?;
        let mut words: Vec<OsString> = self.wrapper.iter().map(OsString::from).collect();
        words.extend([self.program.clone(), verb.into(), "--agent".into()]);
        words
            .push(self.address.as_ref().map_or_else(|| self.agent.socket().into(), OsString::from));
        words.extend(with_patience(rest));
        let mut command = Command::new(&words[0]);
        let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        command.args(&words[1..]).stdin(Stdio::null());
        command.stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        let child = self.netns.run(|| command.spawn().context("start drainctl"))?;
        let what = format!("drainctl {}", args.join(" "));
        Ok(Running { process: Process::new(child, &what), what, stdout, stderr })
    }

    /// Runs it to its end.
    pub fn run(&self, args: &[&str]) -> Result<Outcome> {
        self.start(args)?.wait()
    }

    /// Runs it and insists on an exit code.
    pub fn expect(&self, code: i32, args: &[&str]) -> Result<Outcome> {
        self.run(args)?.expect(code)
    }

    /// `status --json`, all services of the namespace.
    pub fn services(&self) -> Result<Vec<Service>> {
        let outcome = self.expect(0, &["status", "--json"])?;
        let list: ServiceList = serde_json::from_str(&outcome.stdout)
            .with_context(|| format!("status --json: {}", outcome.stdout))?;
        Ok(list.services)
    }

    /// One port out of `status --json`; none if it is not listed.
    pub fn find(&self, port: u16) -> Result<Option<Service>> {
        let inode = self.netns.inode();
        let services = self.services()?;
        Ok(services.into_iter().find(|service| service.port == port && service.netns == inode))
    }

    /// One port out of `status --json`.
    pub fn service(&self, port: u16) -> Result<Service> {
        self.find(port)?.with_context(|| format!("status does not list port {port}"))
    }

    /// What the lists of the port's drain have done.
    pub fn admission(&self, port: u16) -> Result<Admission> {
        Ok(self.service(port)?.drain.context("no drain")?.admission)
    }

    /// Waits until the port is in this state.
    pub fn await_state(&self, port: u16, state: &str) -> Result<Service> {
        eventually_some(LIMIT, &format!("port {port} is {state}"), || {
            Ok(self.find(port)?.filter(|service| service.state == state))
        })
    }

    /// Waits until the port's status is as wanted.
    pub fn await_service(
        &self,
        port: u16,
        what: &str,
        mut wanted: impl FnMut(&Service) -> bool,
    ) -> Result<Service> {
        eventually_some(LIMIT, what, || Ok(self.find(port)?.filter(&mut wanted)))
    }
}

/// The words, but `--timeout 50s` and up to a minute as long as this machine needs: tests write that for what ends before.
fn with_patience(words: &[&str]) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.iter().map(OsString::from).collect();
    if let Some(at) = words.iter().position(|word| word == "--timeout")
        && let Some(value) = words.get_mut(at + 1)
        && let Some(seconds) = value.to_str().and_then(|value| value.strip_suffix('s'))
        && let Ok(seconds @ 50..=60) = seconds.parse()
    {
        *value = format!("{}s", patient(Duration::from_secs(seconds)).as_secs()).into();
    }
    words
}

/// A `drainctl` that runs.
#[derive(Debug)]
pub struct Running {
    process: Process,
    what: String,
    stdout: File,
    stderr: File,
}

impl Running {
    /// Whether it still waits.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.process.exited()?.is_none())
    }

    /// Its messages so far.
    pub fn stderr(&mut self) -> Result<String> {
        text(&mut self.stderr)
    }

    /// What it printed so far.
    pub fn stdout(&mut self) -> Result<String> {
        text(&mut self.stdout)
    }

    /// Becomes readable when it ends (a pidfd).
    pub fn exit_fd(&self) -> Result<OwnedFd> {
        let pid = i32::try_from(self.process.pid()).ok().and_then(Pid::from_raw);
        Ok(pidfd_open(pid.context("a process has a pid")?, PidfdFlags::empty())?)
    }

    /// As the OOM killer would.
    pub fn kill(&self) -> Result<()> {
        self.process.signal(Signal::KILL)
    }

    /// Ctrl-C.
    pub fn interrupt(&self) -> Result<()> {
        self.signal(Signal::INT)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Result<Outcome> {
        let mut code = None;
        let ended = eventually(LIMIT, &format!("the end of {}", self.what), || {
            let status = self.process.exited()?;
            code = status.and_then(|status| status.code());
            Ok(status.is_some())
        });
        let outcome = Outcome {
            what: self.what.clone(),
            code,
            stdout: text(&mut self.stdout)?,
            stderr: text(&mut self.stderr)?,
        };
        ended.with_context(|| outcome.clone())?;
        Ok(outcome)
    }
}

fn text(file: &mut File) -> Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// What a `drainctl` has left.
#[derive(Clone, Debug)]
pub struct Outcome {
    what: String,
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// Its messages.
    pub stderr: String,
}

impl Outcome {
    /// Insists on an exit code.
    pub fn expect(self, code: i32) -> Result<Self> {
        if self.code == Some(code) { Ok(self) } else { bail!("expected exit code {code}: {self}") }
    }

    /// Insists on a message that contains `text`.
    pub fn says(self, text: &str) -> Result<Self> {
        if self.stderr.contains(text) || self.stdout.contains(text) {
            Ok(self)
        } else {
            bail!("no word of {text:?}: {self}")
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, code, stdout, stderr } = self;
        write!(f, "{what} ended with {code:?}\nstdout: {stdout}\nstderr: {stderr}")
    }
}

#[derive(Debug, Deserialize)]
struct ServiceList {
    services: Vec<Service>,
}

/// One service in `status --json`: the documented fields, read apart from the agent's own types.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Service {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// TCP port.
    pub port: u16,
    /// `serving`, `settling`, `rejecting`, `drained` or `expired`.
    pub state: String,
    /// Established connections.
    pub flows: u64,
    /// Handshakes in progress.
    pub handshakes: u64,
    /// Connections in FIN_WAIT2 within the linger time.
    pub lingering: u64,
    /// Connections of clients that are ignored.
    pub ignored: u64,
    /// Connections opened by the kubelet.
    pub probes: u64,
    /// Connections that another listener serves.
    pub steered: u64,
    /// Connection attempts refused.
    pub rejected: u64,
    /// Since the newest connection.
    pub last_new_age_ms: Option<u64>,
    /// Why the count cannot be verified.
    pub unknown: Option<String>,
    /// What holds it.
    pub holds: Vec<Hold>,
    /// The drain, if there is one.
    pub drain: Option<Drain>,
}

/// Something that holds a service, in `status --json`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Hold {
    /// Its name.
    pub name: String,
    /// Since it was set.
    pub age_ms: u64,
    /// Until it ends by itself.
    pub left_ms: u64,
    /// Who set it.
    pub uid: u32,
}

/// The drain of a service in `status --json`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Drain {
    /// Since it began.
    pub age_ms: u64,
    /// Until the deadline.
    pub deadline_in_ms: u64,
    /// Until the lease is over.
    pub lease_in_ms: u64,
    /// Connection attempts given to the new server.
    pub handed_over: u64,
    /// Its listening sockets.
    pub takers: u64,
    /// Whether a new instance leaves the gate closed.
    pub keep_closed: bool,
    /// What became of connection attempts because of their client's address.
    pub admission: Admission,
    /// What has become of the connections.
    pub retire: Retire,
}

/// What the lists of a drain have done, in `status --json`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Admission {
    /// Let in by `--ignore`.
    pub ignored: u64,
    /// Let in by `--allow`.
    pub allowed: u64,
    /// Refused by `--fail-health-from`.
    pub failed_health: u64,
    /// Let in by `--keep-clients`.
    pub kept: u64,
}

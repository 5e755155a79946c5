//! A real, unmodified gRPC server in a pod, and clients that keep their channels: both are grpcio, which
//! `cargo xtask setup` has installed, with the programs of `tests/peers/python`.

use std::{
    collections::HashSet,
    fs::{self, File},
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde::Deserialize;
use tempfile::TempDir;

use crate::{
    cluster::{Pod, RPC_PORT, RPC_SERVICE},
    load::Tally,
    net::{self, Attempt},
    netns::Netns,
    peers::Place,
    process::Process,
    ss,
    wait::{LIMIT, eventually},
};

/// A server: the ids it was called with stay while it is stopped and started again.
#[derive(Debug)]
pub struct GrpcServer {
    netns: Arc<Netns>,
    place: Place,
    process: Option<Process>,
    _dir: TempDir,
}

impl GrpcServer {
    /// Starts one in a pod.
    pub fn start(pod: &Pod) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("drainctl-grpc-").tempdir()?;
        let place = Place {
            dir: dir.path().to_owned(),
            addr: pod.rpc_addr(),
            executed: dir.path().join("executed"),
            args: Vec::new(),
        };
        let netns = Arc::clone(&pod.netns);
        let mut server = Self { netns, place, process: None, _dir: dir };
        server.start_again()?;
        Ok(server)
    }

    /// Starts a new instance after [`Self::stop`]; returns when it listens.
    pub fn start_again(&mut self) -> Result<()> {
        let script = self.place.source("python/grpc_server.py");
        let launch = self.place.server(self.place.built("python/bin/python")?, &[&script]);
        let log = self.place.dir.join("log");
        let mut process = spawn(&self.netns, launch.command, "a gRPC server", &log, &log)?;
        eventually(LIMIT, "the gRPC server listens", || {
            if let Some(status) = process.exited()? {
                bail!("it ended: {status}: {}", fs::read_to_string(&log).unwrap_or_default());
            }
            ss::listens(&self.netns, RPC_PORT)
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Sends SIGTERM, for which Python has no handler unless the program makes one, and waits for the end.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::TERM)?;
            process.wait(LIMIT)?;
        }
        Ok(())
    }

    /// Waits until a client in `netns` is let in at `pod`.
    pub fn await_connected(netns: &Netns, pod: &Pod) -> Result<()> {
        Self::await_connected_to(netns, pod.rpc_addr())
    }

    /// Waits until a client in `netns` is let in at an address.
    pub fn await_connected_to(netns: &Netns, addr: SocketAddr) -> Result<()> {
        eventually(LIMIT, "the gRPC server lets clients in", || {
            Ok(net::attempt(netns, addr, LIMIT)? == Attempt::Connected)
        })
    }

    /// Unary calls that these servers have executed.
    ///
    /// # Errors
    /// One was executed twice.
    pub fn executed<'a>(servers: impl IntoIterator<Item = &'a Self>) -> Result<u64> {
        let mut ids = HashSet::new();
        for server in servers {
            for id in fs::read_to_string(&server.place.executed)?.lines() {
                if !ids.insert(id.to_owned()) {
                    bail!("the call {id} was executed twice");
                }
            }
        }
        Ok(ids.len() as u64)
    }
}

/// What the clients saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct GrpcTally {
    /// Unary calls, each with an id that the server notes.
    pub calls: Tally,
    /// Calls of seconds: messages of the server's, and messages to and fro.
    pub streams: Tally,
}

/// Clients in a program of their own inside the client's namespace.
#[derive(Debug)]
pub struct GrpcLoad {
    process: Process,
    out: PathBuf,
    err: PathBuf,
    _dir: TempDir,
}

impl GrpcLoad {
    /// Starts `channels` channels, and returns when there was an answer on each.
    pub fn start(client: &Netns, channels: u32) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("drainctl-grpc-").tempdir()?;
        let (out, err) = (dir.path().join("out"), dir.path().join("err"));
        let place = Place {
            dir: dir.path().to_owned(),
            addr: RPC_SERVICE.into(),
            executed: PathBuf::new(),
            args: vec![format!("--channels={channels}")],
        };
        let script = place.source("python/grpc_load.py");
        let launch = place.client(place.built("python/bin/python")?, &[&script]);
        let process = spawn(client, launch.command, "the gRPC clients", &out, &err)?;
        let mut load = Self { process, out, err, _dir: dir };
        load.await_warm().with_context(|| load.messages())?;
        Ok(load)
    }

    fn await_warm(&mut self) -> Result<()> {
        eventually(LIMIT, "an answer on each channel", || {
            if let Some(status) = self.process.exited()? {
                bail!("the gRPC clients ended: {status}");
            }
            Ok(fs::read_to_string(&self.out)?.lines().any(|line| line == "warm"))
        })
    }

    /// No new calls from now on.
    pub fn stop(&self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    /// Lets calls under way end after [`Self::stop`], and returns how all of them went.
    pub fn finish(mut self) -> Result<GrpcTally> {
        self.process.wait(LIMIT).with_context(|| self.messages())?;
        let out = fs::read_to_string(&self.out)?;
        let summary = out.lines().last().with_context(|| self.messages())?;
        serde_json::from_str(summary).with_context(|| format!("{summary}; {}", self.messages()))
    }

    fn messages(&self) -> String {
        let text = fs::read_to_string(&self.err).unwrap_or_default();
        format!("messages of the gRPC clients: {text}")
    }
}

fn spawn(
    netns: &Netns,
    mut command: Command,
    what: &str,
    out: &PathBuf,
    err: &PathBuf,
) -> Result<Process> {
    let append = |path| File::options().create(true).append(true).open(path);
    command.stdin(Stdio::null()).stdout(append(out)?).stderr(append(err)?);
    let child = netns.run(|| command.spawn().with_context(|| format!("start {what}")))?;
    Ok(Process::new(child, what))
}

//! A real HAProxy in front of pods, for HTTP/1 and gRPC, told through its runtime API which server is to be drained.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{
    cluster::{PORT, Pod, RPC_PORT},
    netns::Netns,
    process::Process,
    ss,
    wait::{LIMIT, eventually},
};

/// The backends, each with a server a pod.
const BACKENDS: [&str; 2] = ["http", "grpc"];

/// A proxy in a pod of its own.
#[derive(Debug)]
pub struct Haproxy {
    dir: TempDir,
    at: [SocketAddr; 2],
    _process: Process,
}

impl Haproxy {
    /// Starts one in `place`, in front of `pods`; returns when it listens.
    pub fn start(place: &Pod, pods: &[Pod]) -> Result<Self> {
        Self::start_with(place, pods, |_| String::new())
    }

    /// The same; `more` is what is added to the line of a pod's HTTP server.
    pub fn start_with(place: &Pod, pods: &[Pod], more: impl Fn(usize) -> String) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("drainctl-haproxy-").tempdir()?;
        let file = dir.path().join("haproxy.cfg");
        fs::write(&file, config(&dir.path().join("admin.sock").to_string_lossy(), pods, more))?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = place.netns.run(|| command.spawn().context("start haproxy"))?;
        let mut process = Process::new(child, "haproxy");
        let netns = Arc::clone(&place.netns);
        await_listening(&netns, &mut process)?;
        Ok(Self { dir, at: [place.addr(), place.rpc_addr()], _process: process })
    }

    /// Where it takes HTTP/1.
    pub fn http(&self) -> SocketAddr {
        self.at[0]
    }

    /// Where it takes gRPC.
    pub fn rpc(&self) -> SocketAddr {
        self.at[1]
    }

    /// Sets the state of a pod's servers: `ready`, `drain` or `maint`.
    pub fn set_state(&self, pod: usize, state: &str) -> Result<()> {
        BACKENDS.iter().try_for_each(|backend| {
            let command = format!("set server {backend}/pod{pod} state {state}");
            let answer = self.ask(&command)?;
            ensure!(answer.trim().is_empty(), "{command}: {answer}");
            Ok(())
        })
    }

    /// Sessions that are with a pod's servers, or wait for them.
    pub fn sessions(&self, pod: usize) -> Result<u64> {
        // qcur and scur (HAProxy's management guide, 9.1).
        let rows = self.rows(pod)?;
        rows.iter().map(|row| Ok(row[2].parse::<u64>()? + row[4].parse::<u64>()?)).sum()
    }

    /// What the proxy thinks of a pod's HTTP server, `UP` for example, and the weight it has there.
    pub fn state(&self, pod: usize) -> Result<(String, u32)> {
        let rows = self.rows(pod)?;
        let row = rows.iter().find(|row| row[0] == BACKENDS[0]).context("no such server")?;
        // status and weight.
        Ok((row[17].clone(), row[18].parse()?))
    }

    fn rows(&self, pod: usize) -> Result<Vec<Vec<String>>> {
        let table = self.ask("show stat")?;
        let name = format!("pod{pod}");
        let rows = table.lines().map(|line| line.split(',').map(str::to_owned).collect());
        let is_its = |row: &Vec<String>| BACKENDS.contains(&&*row[0]) && row.get(1) == Some(&name);
        Ok(rows.filter(is_its).collect())
    }

    fn ask(&self, command: &str) -> Result<String> {
        let mut socket = UnixStream::connect(self.dir.path().join("admin.sock"))?;
        writeln!(socket, "{command}")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

fn await_listening(netns: &Netns, process: &mut Process) -> Result<()> {
    eventually(LIMIT, "haproxy listens", || {
        if let Some(status) = process.exited()? {
            bail!("it ended: {status}");
        }
        Ok(ss::listens(netns, PORT)? && ss::listens(netns, RPC_PORT)?)
    })
}

fn config(admin: &str, pods: &[Pod], more: impl Fn(usize) -> String) -> String {
    let servers = |port, more: &dyn Fn(usize) -> String| -> String {
        let line = |(index, pod): (usize, &Pod)| {
            format!("  server pod{index} {}:{port} {}\n", pod.v4, more(index))
        };
        pods.iter().enumerate().map(line).collect()
    };
    format!(
        "global
  maxconn 4000
  stats socket {admin} mode 600 level admin
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-keep-alive 300s
  balance roundrobin
frontend http-in
  bind :{PORT}
  default_backend http
frontend grpc-in
  bind :{RPC_PORT} proto h2
  default_backend grpc
backend http
{}backend grpc
{}",
        servers(PORT, &more),
        servers(RPC_PORT, &|_| "proto h2".to_owned()),
    )
}

//! A connection that belongs to a process in the server's namespace, as those of real servers do, and whose every
//! byte the test writes and reads itself.

use std::{
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use rustix::fs::fstat;

use crate::{
    cluster::PORT,
    ctl::Running,
    fixture::Fixture,
    net::Pair,
    netns::Netns,
    process::Process,
    wait::{LIMIT, eventually},
    wire::Wire,
};

/// A connection, and the process that holds it.
#[derive(Debug)]
pub struct Held {
    /// The connection.
    pub wire: Wire,
    /// Does nothing but hold it.
    pub holder: Process,
}

impl Held {
    /// Has the server's end held by a process inside `netns`.
    pub fn new(netns: &Netns, pair: Pair) -> Result<Self> {
        Self::new_as(0, netns, pair)
    }

    /// Has the server's end held by a process of this user inside `netns`.
    pub fn new_as(uid: u32, netns: &Netns, pair: Pair) -> Result<Self> {
        let socket = OwnedFd::from(pair.server.try_clone()?);
        let mut command = Command::new("sleep");
        command.arg("infinity").stdin(Stdio::from(socket)).uid(uid);
        let child = netns.run(|| command.spawn().context("start sleep"))?;
        Ok(Self { wire: Wire::new(pair)?, holder: Process::new(child, "sleep") })
    }

    /// A connection of the client to the pod.
    pub fn connect(fixture: &Fixture) -> Result<Self> {
        Self::new(&fixture.pod().netns, fixture.pair()?)
    }

    /// What the holder has open.
    pub fn descriptors(&self) -> Result<Vec<String>> {
        descriptors(self.holder.pid())
    }

    /// The name of the server's socket among descriptors.
    pub fn socket_name(&self) -> Result<String> {
        let inode = fstat(self.wire.server().as_fd())?.st_ino;
        Ok(format!("socket:[{inode}]"))
    }
}

/// What a process has open, in order.
pub fn descriptors(pid: u32) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // The agent opens and closes as it likes.
        if let Ok(name) = fs::read_link(entry?.path()) {
            names.push(name.display().to_string());
        }
    }
    ensure!(!names.is_empty(), "process {pid} has nothing open");
    names.sort();
    Ok(names)
}

/// Starts `drainctl drain --port 80 --quiet 0s` with more options, and waits until these flows are followed.
pub fn drain<'a>(
    fixture: &Fixture,
    options: &[&str],
    flows: impl IntoIterator<Item = &'a Held>,
) -> Result<Running> {
    let ctl = fixture.ctl();
    let mut words = [&["drain", "--port", "80", "--quiet", "0s"], options].concat();
    if !options.contains(&"--timeout") {
        // The default is over too soon in an emulated machine.
        words.extend(["--timeout", "50s"]);
    }
    let drain = ctl.start(&words)?;
    ctl.await_state(PORT, "rejecting")?;
    let maps = fixture.agent.maps()?;
    for flow in flows {
        let cookie = flow.wire.cookie()?;
        eventually(LIMIT, "the flow is followed", || Ok(maps.turns()?.contains_key(&cookie)))?;
    }
    Ok(drain)
}

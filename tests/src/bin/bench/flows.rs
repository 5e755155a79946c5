//! Rows about many connections at a time.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
    time::Duration,
};

use anyhow::{Context, Result};
use drainctl_tests::{agent::Agent, netns::Netns, vanish::vanish, wait::eventually};
use rustix::net::{AddressFamily, SocketType, bind, connect, listen, socket};

use crate::{
    meter::Meter,
    rows::PORT,
    stats::{Bar, median},
    table::Row,
};

/// Connections at a time.
const FLOWS: usize = 100_000;
/// To one address and port, so many can be made from one address.
const PER_ADDRESS: usize = 50_000;
/// Above the server's own.
const FIRST_PORT: u16 = 10_000;
/// Drains of them.
const REPEATS: usize = 5;
/// For a scan of all of them, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the agent logs of each scan.
const SCANNED: &str = "scanned for flows to follow";

/// The server's ends of many connections, in the accept queue: no process has descriptors for so many. They end when
/// this is dropped.
pub(crate) struct Flows(#[expect(dead_code, reason = "held, not read")] OwnedFd);

impl Flows {
    /// Opens so many on the loopback of a namespace.
    pub(crate) fn open(netns: &Netns, count: usize) -> Result<Self> {
        netns.sysctl("net/core/somaxconn", &(2 * count).to_string())?;
        netns.sysctl("net/ipv4/tcp_max_syn_backlog", &(2 * count).to_string())?;
        netns.run(|| {
            let server = socket(AddressFamily::INET, SocketType::STREAM, None)?;
            bind(&server, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT))?;
            listen(&server, 2 * count as i32)?;
            for number in 0..count {
                let address = Ipv4Addr::new(127, 0, 0, 1 + (number / PER_ADDRESS) as u8);
                let client = socket(AddressFamily::INET, SocketType::STREAM, None)?;
                // The kernel would search long for a free port among so many.
                let port = FIRST_PORT + (number % PER_ADDRESS) as u16;
                bind(&client, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
                connect(&client, &SocketAddrV4::new(address, PORT))?;
                vanish(client.into())?;
            }
            Ok(Self(server))
        })
    }
}

/// How long it takes to take in all connections of a service for retiring, and the agent's memory meanwhile.
pub(crate) fn join() -> Result<Vec<Row>> {
    let netns = Netns::new()?;
    let flows = Flows::open(&netns, FLOWS)?;
    let mut agent = Agent::start_with(&["--log", "info,drainctl_agent::kernel::scans=debug"])?;
    agent.be_quiet();
    let ctl = agent.ctl(&netns);
    let port = PORT.to_string();
    let meter = Meter::new(agent.pid()?);
    let (mut times, mut resident, mut highest) = (Vec::new(), Vec::new(), Vec::new());
    for repeat in 0..REPEATS {
        meter.reset_highest()?;
        ctl.expect(0, &["drain", "--port", &port, "--no-wait"])?;
        eventually(PATIENCE, "the connections are joined", || {
            Ok(scans(&agent.log()).len() > repeat)
        })?;
        resident.push(meter.resident()?);
        highest.push(meter.highest()?);
        ctl.expect(0, &["undrain", "--port", &port])?;
    }
    for took in scans(&agent.log()) {
        times.push(took?.as_secs_f64());
    }
    drop(flows);
    let row = |name, unit, samples: &[f64], bar| Row::alone(name, unit, median(samples), bar);
    let bar = |value| Some(Bar::AtMost(value));
    Ok(vec![
        row("100,000 connections joined for retiring", "s", &times, bar(1.0)),
        row("agent's memory once they are joined", "MiB", &resident, bar(40.0)),
        row("agent's memory at most until then", "MiB", &highest, None),
    ])
}

/// How long each scan took that joined the connections.
fn scans(log: &str) -> Vec<Result<Duration>> {
    let field = |line: &str, name: &str| -> Result<u64> {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(name));
        Ok(value.with_context(|| format!("no {name} in the agent's log"))?.parse()?)
    };
    // The kernel visits a socket again where its buffer was full, and those are not counted twice.
    let is_of_all =
        |line: &&str| field(line, "joined=").is_ok_and(|joined| joined > FLOWS as u64 * 99 / 100);
    let lines = log.lines().filter(|line| line.contains(SCANNED)).filter(is_of_all);
    lines.map(|line| Ok(Duration::from_micros(field(line, "us=")?))).collect()
}

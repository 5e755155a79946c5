//! Rows about many connections at a time.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
    time::Duration,
};

use anyhow::{Context, Result};
use drainctl_tests::{
    agent::Agent,
    netns::Netns,
    vanish::vanish,
    wait::{LIMIT, eventually},
};
use rustix::net::{AddressFamily, SocketType, bind, connect, listen, socket};

use crate::{
    Row,
    stats::{Bar, median},
};

/// Connections at a time.
const FLOWS: usize = 100_000;
/// To one address and port, so many can be made from one address.
const PER_ADDRESS: usize = 50_000;
const PORT: u16 = 8080;
/// Above the server's own.
const FIRST_PORT: u16 = 10_000;
/// Drains of them.
const REPEATS: usize = 5;
/// What the agent logs of each scan.
const SCANNED: &str = "scanned for flows to follow";

/// The server's ends of many connections, in the accept queue: no process has descriptors for so many.
struct Flows(#[expect(dead_code, reason = "held, not read")] OwnedFd);

impl Flows {
    /// Opens them on the loopback of a namespace.
    fn open(netns: &Netns) -> Result<Self> {
        netns.sysctl("net/core/somaxconn", &(2 * FLOWS).to_string())?;
        netns.sysctl("net/ipv4/tcp_max_syn_backlog", &(2 * FLOWS).to_string())?;
        netns.run(|| {
            let server = socket(AddressFamily::INET, SocketType::STREAM, None)?;
            bind(&server, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT))?;
            listen(&server, 2 * FLOWS as i32)?;
            for number in 0..FLOWS {
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

/// How long it takes to take in all connections of a service for retiring.
pub(crate) fn join() -> Result<Row> {
    let netns = Netns::new()?;
    let flows = Flows::open(&netns)?;
    let mut agent = Agent::start_with(&["--log", "info,drainctl_agent::kernel::retire=debug"])?;
    agent.be_quiet();
    let ctl = agent.ctl(&netns);
    let port = PORT.to_string();
    let mut samples = Vec::new();
    for repeat in 0..REPEATS {
        ctl.expect(0, &["drain", "--port", &port, "--no-wait"])?;
        eventually(LIMIT, "the connections are joined", || Ok(scans(&agent.log()).len() > repeat))?;
        ctl.expect(0, &["undrain", "--port", &port])?;
    }
    for took in scans(&agent.log()) {
        samples.push(took?.as_secs_f64());
    }
    drop(flows);
    let name = "100,000 connections joined for retiring";
    Ok(Row::new(name, "s", median(&samples), Bar::AtMost(1.0)))
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

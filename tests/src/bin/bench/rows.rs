//! What drainctl costs the traffic: each row makes its own namespaces, measures, and says against which bar.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use aya::sys::{Stats, enable_stats};
use drainctl_tests::{
    agent::Agent,
    cmd,
    net::{Listening, Server, connect_here},
    netns::Netns,
    nginx::Nginx,
};

use crate::{
    programs::{Empty, Kind, cost},
    stats::{Bar, Side, Sides, interleave},
    table::Row,
};

/// Connections of one repetition.
const CONNECTIONS: usize = 2_000;
/// Where the servers listen.
pub(crate) const PORT: u16 = 8080;

pub(crate) fn here(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Cost of one lookup that the gate refuses, less that of an empty program.
pub(crate) fn gate_cost() -> Result<Vec<Row>> {
    let _stats = enable_stats(Stats::RunTime)?;
    let (ours, empty) = (Netns::new()?, Netns::new()?);
    let mut agent = Agent::start()?;
    agent.be_quiet();
    let _server = Server::start(&ours, Listening::on(Ipv4Addr::LOCALHOST, PORT))?;
    let port = PORT.to_string();
    agent.ctl(&ours).expect(0, &["drain", "--port", &port, "--quiet", "0s"])?;
    let mut nothing = Empty::load()?;
    nothing.attach_lookup(empty.path())?;
    let measure = |netns: &Netns, pid: u32| -> Result<f64> {
        let before = cost(pid, Kind::SkLookup)?;
        refused(netns, CONNECTIONS)?;
        cost(pid, Kind::SkLookup)?.since(before).per_run()
    };
    let pid = agent.pid()?;
    let sides = interleave(&mut [
        Box::new(|| measure(&ours, pid)),
        Box::new(|| measure(&empty, process::id())),
    ])?;
    Ok(vec![difference("gate: a refused lookup, less an empty program", &sides, 100.0)])
}

/// Connects to a port that refuses, so often.
pub(crate) fn refused(netns: &Netns, count: usize) -> Result<()> {
    netns.run(|| {
        for _ in 0..count {
            if TcpStream::connect(here(PORT)).is_ok() {
                bail!("a connection was to be refused and was not");
            }
        }
        Ok(())
    })
}

/// Cost of one connection, opened and closed, less what an empty program costs in the same calls.
pub(crate) fn tracker_cost() -> Result<Vec<Row>> {
    let _stats = enable_stats(Stats::RunTime)?;
    let netns = Netns::new()?;
    let mut agent = Agent::start()?;
    agent.be_quiet();
    let mut nothing = Empty::load()?;
    nothing.attach_ops()?;
    let server = Server::start(&netns, Listening::on(Ipv4Addr::LOCALHOST, PORT))?;
    let measure = |pid: u32| -> Result<f64> {
        let before = cost(pid, Kind::SockOps)?;
        churn(&netns, &server, CONNECTIONS)?;
        Ok(cost(pid, Kind::SockOps)?.since(before).ns() / CONNECTIONS as f64)
    };
    let pid = agent.pid()?;
    let sides = interleave(&mut [Box::new(|| measure(pid)), Box::new(|| measure(process::id()))])?;
    Ok(vec![difference("tracker: a connection, less an empty program", &sides, 600.0)])
}

/// How many nanoseconds more than the other side, against a bar.
fn difference(name: &str, sides: &Sides, bar: f64) -> Row {
    let less = |ours: f64, other: f64| ours - other;
    Row {
        name: name.into(),
        unit: "ns",
        per: "ns",
        ours: sides.middle(0),
        other: Some(sides.middle(1)),
        figure: sides.compared(1, less),
        noise: Some(sides.noise(less)),
        bar: Some(Bar::AtMost(bar)),
    }
}

/// How many times as many a second as on another side.
pub(crate) fn ratio(name: &str, sides: &Sides, other: usize, bar: Option<f64>) -> Row {
    let divided = |ours: f64, other: f64| ours / other;
    Row {
        name: name.into(),
        unit: "",
        per: "/s",
        ours: sides.middle(0),
        other: Some(sides.middle(other)),
        figure: sides.compared(other, divided),
        noise: Some(sides.noise(divided)),
        bar: bar.map(Bar::AtLeast),
    }
}

fn churn(netns: &Netns, server: &Server, count: usize) -> Result<()> {
    netns.run(|| {
        for _ in 0..count {
            let client = connect_here(here(PORT))?;
            drop(server.accept()?);
            drop(client);
        }
        Ok(())
    })
}

/// New connections a second, one request each, with the agent and without; and what attaching any program to the same place
/// costs: the kernel then fills in a context a dozen times for each connection.
pub(crate) fn connections() -> Result<Vec<Row>> {
    let sides = throughput(&["-H", "Connection: close"], true)?;
    let name = "connections, one request each: with / without";
    let empty = "the same: with the agent / with an empty program";
    Ok(vec![ratio(name, &sides, 1, Some(0.97)), ratio(empty, &sides, 2, None)])
}

/// Requests a second on keep-alive connections, with the agent and without.
pub(crate) fn keep_alive() -> Result<Vec<Row>> {
    let sides = throughput(&[], false)?;
    Ok(vec![ratio("keep-alive requests: with / without", &sides, 1, Some(0.99))])
}

/// Requests a second that wrk gets out of nginx with the agent, without, and if wanted with an empty program in the agent's place.
fn throughput(options: &[&str], beside_empty: bool) -> Result<Sides> {
    let netns = Arc::new(Netns::new()?);
    netns.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
    netns.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    let _nginx = Nginx::start_on(Arc::clone(&netns), &[PORT])?;
    let with = || -> Result<f64> {
        let mut agent = Agent::start()?;
        agent.be_quiet();
        wrk(&netns, options)
    };
    let empty = || -> Result<f64> {
        let mut nothing = Empty::load()?;
        nothing.attach_ops()?;
        wrk(&netns, options)
    };
    let mut sides: Vec<Side<'_>> = vec![Box::new(with), Box::new(|| wrk(&netns, options))];
    if beside_empty {
        sides.push(Box::new(empty));
    }
    interleave(&mut sides)
}

/// The second of two runs: the first takes what starting or stopping an agent has stirred up.
fn wrk(netns: &Netns, options: &[&str]) -> Result<f64> {
    wrk_for("1s", netns, options)?;
    wrk_for("2s", netns, options)
}

fn wrk_for(time: &str, netns: &Netns, options: &[&str]) -> Result<f64> {
    let url = format!("http://{}/ready", here(PORT));
    let mut args = vec!["-t", "1", "-c", "16", "-d", time];
    args.extend(options);
    args.push(&url);
    let output = netns.run(|| cmd::run("wrk", &args))?;
    if output.contains("Non-2xx") || output.contains("Socket errors") {
        bail!("wrk saw errors:\n{output}");
    }
    let line = output.lines().find_map(|l| l.strip_prefix("Requests/sec:"));
    Ok(line.context("no Requests/sec in wrk's output")?.trim().parse()?)
}

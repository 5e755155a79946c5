//! The rows of the table: each makes its own namespaces, measures, and says against which bar.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process,
    sync::Arc,
    thread,
    time::{Duration, Instant},
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
use rustix::event::{PollFd, PollFlags, poll};

use crate::{
    Row,
    programs::{Empty, Kind, cost},
    stats::{Bar, median, quantile},
};

/// Interleaved pairs of every ratio, and repetitions of every cost.
const PAIRS: usize = 15;
/// Connections of one repetition.
const CONNECTIONS: usize = 2_000;
/// Repetitions for a 99th percentile.
const REPEATS: usize = 300;
/// Between two probes of a gate.
const PROBE_EVERY: Duration = Duration::from_micros(100);
/// Where the servers listen.
const PORT: u16 = 8080;

fn here(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Cost of one lookup that the gate refuses, less that of an empty program.
pub(crate) fn gate_cost() -> Result<Row> {
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
    let mut samples = Vec::new();
    for _ in 0..PAIRS {
        samples.push(measure(&ours, agent.pid()?)? - measure(&empty, process::id())?);
    }
    Ok(Row::new("gate: cost of a refused lookup", "ns", median(&samples), Bar::AtMost(100.0)))
}

/// Connects to a port that refuses, so often.
fn refused(netns: &Netns, count: usize) -> Result<()> {
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
pub(crate) fn tracker_cost() -> Result<Row> {
    let _stats = enable_stats(Stats::RunTime)?;
    let netns = Netns::new()?;
    let mut agent = Agent::start()?;
    agent.be_quiet();
    let mut nothing = Empty::load()?;
    nothing.attach_ops()?;
    let server = Server::start(&netns, Listening::on(Ipv4Addr::LOCALHOST, PORT))?;
    let mut samples = Vec::new();
    for _ in 0..PAIRS {
        let read = || -> Result<_> {
            Ok((cost(agent.pid()?, Kind::SockOps)?, cost(process::id(), Kind::SockOps)?))
        };
        let before = read()?;
        churn(&netns, &server, CONNECTIONS)?;
        let after = read()?;
        let spent = after.0.since(before.0).ns() - after.1.since(before.1).ns();
        samples.push(spent / CONNECTIONS as f64);
    }
    Ok(Row::new("tracker: cost of a connection", "ns", median(&samples), Bar::AtMost(600.0)))
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

/// New connections a second, one request each, with the agent and without.
pub(crate) fn connections() -> Result<Row> {
    let ratios = throughput(&["-H", "Connection: close"])?;
    Ok(Row::new("connections/s with / without", "", median(&ratios), Bar::AtLeast(0.97)))
}

/// Requests a second on keep-alive connections, with the agent and without.
pub(crate) fn keep_alive() -> Result<Row> {
    let ratios = throughput(&[])?;
    Ok(Row::new("keep-alive requests/s with / without", "", median(&ratios), Bar::AtLeast(0.99)))
}

/// Requests a second that wrk gets out of nginx with the agent, divided by those without it.
fn throughput(options: &[&str]) -> Result<Vec<f64>> {
    let netns = Arc::new(Netns::new()?);
    netns.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
    netns.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    let _nginx = Nginx::start_on(Arc::clone(&netns), &[PORT])?;
    let with = || -> Result<f64> {
        let mut agent = Agent::start()?;
        agent.be_quiet();
        wrk(&netns, options)
    };
    let without = || wrk(&netns, options);
    (0..PAIRS)
        .map(|pair| {
            // Every other pair the other way round, so that a drift of the machine cancels out.
            let (a, b) = if pair % 2 == 0 {
                (with()?, without()?)
            } else {
                let b = without()?;
                (with()?, b)
            };
            Ok(a / b)
        })
        .collect()
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

/// From the start of `drainctl drain --quiet 0s` to the first refused connection.
pub(crate) fn exec_to_closed() -> Result<Row> {
    let netns = Arc::new(Netns::new()?);
    let mut agent = Agent::start()?;
    agent.be_quiet();
    // A real server, so that the accept queue never fills: a full one answers a SYN after a second.
    let _nginx = Nginx::start_on(Arc::clone(&netns), &[PORT])?;
    let ctl = agent.ctl(&netns);
    let port = PORT.to_string();
    let mut samples = Vec::new();
    for _ in 0..REPEATS {
        let start = Instant::now();
        let drain = ctl.start(&["drain", "--port", &port, "--quiet", "0s", "--no-wait"])?;
        let closed = netns.run(|| {
            while TcpStream::connect(here(PORT)).is_ok() {
                thread::sleep(PROBE_EVERY); // not a wait for a state: leaves the CPU to what is measured
            }
            Ok(start.elapsed())
        })?;
        samples.push(closed.as_secs_f64() * 1e3);
        drain.wait()?.expect(0)?;
        ctl.expect(0, &["undrain", "--port", &port])?;
    }
    Ok(Row::new("exec to gate closed, p99", "ms", quantile(&samples, 0.99), Bar::AtMost(10.0)))
}

/// From the end of the last connection to the end of the waiting `drainctl`.
pub(crate) fn close_to_exit() -> Result<Row> {
    let netns = Netns::new()?;
    let mut agent = Agent::start()?;
    agent.be_quiet();
    let server = Server::start(&netns, Listening::on(Ipv4Addr::LOCALHOST, PORT))?;
    let ctl = agent.ctl(&netns);
    let port = PORT.to_string();
    let mut samples = Vec::new();
    for _ in 0..REPEATS {
        let pairs = server.pairs(&netns, here(PORT), 1)?;
        let drain = ctl.start(&["drain", "--port", &port, "--quiet", "0s", "--timeout", "60s"])?;
        ctl.await_state(PORT, "rejecting")?;
        ctl.expect(3, &["ready", "--port", &port])?; // The first look is over.
        let exit = drain.exit_fd()?;
        let start = Instant::now();
        drop(pairs);
        // Readable once the process has ended.
        poll(&mut [PollFd::new(&exit, PollFlags::IN)], None)?;
        samples.push(start.elapsed().as_secs_f64() * 1e3);
        drain.wait()?.expect(0)?;
        ctl.expect(0, &["undrain", "--port", &port])?;
    }
    Ok(Row::new("last close to exit, p99", "ms", quantile(&samples, 0.99), Bar::AtMost(5.0)))
}

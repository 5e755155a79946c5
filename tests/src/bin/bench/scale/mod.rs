//! `scale`: cost against size. What a drain, a proof of zero and a list take, and what the agent uses, on nodes with more
//! and more connections, and with more and more services. No bars: to see what grows, and how.

mod report;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use drainctl_tests::{
    agent::Agent,
    http,
    net::{Acceptor, Listening, Server, reset},
    netns::Netns,
};

use crate::{
    flows::Flows,
    limits::{listener, more_files},
    meter::Meter,
    page,
    rows::{PORT, here},
    stats::median,
};

const FLOWS: [usize; 3] = [1_000, 10_000, 100_000];
const SERVICES: [usize; 3] = [1, 100, 1_000];
/// Repetitions of what takes milliseconds.
const REPEATS: usize = 7;
/// Over how long the agent's CPU time is measured.
const WATCHED: Duration = Duration::from_secs(3);
/// Services of one namespace: as many as may be drained there at once, but for a few.
const PER_NETNS: usize = 100;
/// Ports of one request for a drain, and services of one event stream.
const PER_REQUEST: usize = 50;
const FIRST_PORT: u16 = 2_000;
/// For an answer, or a proof.
const PATIENCE: Duration = Duration::from_secs(120);

/// What it costs at one size: milliseconds, MiB, and hundredths of a CPU.
#[derive(Clone, Copy, Debug, Default)]
struct Point {
    size: usize,
    start: f64,
    prove: f64,
    list: f64,
    resident: f64,
    idle: f64,
    churning: Churning,
}

/// What it costs while one connection after the other is opened and closed, as fast as one thread can.
#[derive(Clone, Copy, Debug, Default)]
struct Churning {
    rate: f64,
    resident: f64,
    cpu: f64,
}

/// Measures all sizes, prints the tables, and puts them into the page if wanted.
pub(crate) fn scale(out: Option<&Path>) -> Result<()> {
    more_files()?;
    let machine = page::machine()?;
    let flows = FLOWS.iter().map(|count| with_flows(*count)).collect::<Result<Vec<_>>>()?;
    let services =
        SERVICES.iter().map(|count| with_services(*count)).collect::<Result<Vec<_>>>()?;
    report::print(&machine, &flows, &services, out)
}

/// A node with so many connections, all of one service; the proof is of another one with a single connection.
fn with_flows(count: usize) -> Result<Point> {
    eprintln!("{count} connections …");
    let node = Node::new()?;
    let netns = Netns::new()?;
    let _flows = Flows::open(&netns, count)?;
    let other = PORT + 1;
    let _other = netns.run(|| listener(other, 16))?;
    let list = format!("/v1/services/{}:{PORT}/flows", netns.inode());
    let (start, prove) = (node.start(&netns, PORT)?, node.prove(&netns, other)?);
    let size = count;
    Ok(Point { size, start, prove, list: node.list(&list)?, ..node.used()? })
}

/// A node with so many services of one connection each; one of them is drained while all others serve,
/// the proof is of one more.
fn with_services(count: usize) -> Result<Point> {
    eprintln!("{count} services …");
    let node = Node::new()?;
    let mut places = Vec::new();
    for from in (0..count).step_by(PER_NETNS) {
        places.push(Place::new(PER_NETNS.min(count - from))?);
    }
    let netns = &places[0].netns;
    let _other = netns.run(|| listener(PORT, 16))?;
    let (start, prove) = (node.start(netns, FIRST_PORT)?, node.prove(netns, PORT)?);
    let list = node.list("/v1/services?netns=all")?;
    let point = Point { size: count, start, prove, list, ..node.used()? };
    node.all_at_once(places)?;
    Ok(point)
}

/// A namespace with services, and a connection to each in its accept queue.
struct Place {
    netns: Netns,
    ports: Vec<u16>,
    _listeners: Vec<OwnedFd>,
    clients: Vec<TcpStream>,
}

impl Place {
    fn new(count: usize) -> Result<Self> {
        let netns = Netns::new()?;
        let ports: Vec<u16> = (FIRST_PORT..).take(count).collect();
        let (listeners, clients) = netns.run(|| {
            let open = |port: &u16| Ok((listener(*port, 64)?, TcpStream::connect(here(*port))?));
            Ok(ports.iter().map(open).collect::<Result<Vec<_>>>()?.into_iter().unzip())
        })?;
        Ok(Self { netns, ports, _listeners: listeners, clients })
    }
}

/// An agent, and questions to it.
struct Node {
    agent: Agent,
    meter: Meter,
}

impl Node {
    fn new() -> Result<Self> {
        let mut agent = Agent::start_with(&["--log", "warn"])?;
        agent.be_quiet();
        let meter = Meter::new(agent.pid()?);
        Ok(Self { agent, meter })
    }

    /// From the request for a drain to the answer that its gate is closed: the median.
    fn start(&self, netns: &Netns, port: u16) -> Result<f64> {
        repeated(|| {
            let took = self.drain(netns, &[port])?;
            self.undrain(netns, port)?;
            Ok(took)
        })
    }

    /// From the end of the last connection of a service that drains to the word that it is drained: the median.
    fn prove(&self, netns: &Netns, port: u16) -> Result<f64> {
        repeated(|| {
            let client = netns.run(|| Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port))?))?;
            self.drain(netns, &[port])?;
            let stream = self.events(netns, &[port])?;
            // The first look, which waits for RCU, is over.
            let path = format!("/drained/{port}?netns={}", netns.inode());
            self.ask("GET", &path, "")?;
            let start = Instant::now();
            reset(client)?;
            await_drained(stream, 1)?;
            let took = start.elapsed();
            self.undrain(netns, port)?;
            Ok(took)
        })
    }

    fn list(&self, path: &str) -> Result<f64> {
        repeated(|| {
            let start = Instant::now();
            let answer = self.ask("GET", path, "")?;
            ensure!(answer.status == 200, "{path}: {}", answer.status);
            Ok(start.elapsed())
        })
    }

    /// What the agent uses with nothing to do, and under churn.
    fn used(&self) -> Result<Point> {
        let nothing = || {
            thread::sleep(WATCHED); // not a wait for a state: nothing is what is to be measured
            Ok(())
        };
        let idle = share(self.meter.during(nothing)?);
        let resident = self.meter.resident()?;
        let netns = Netns::new()?;
        let _server =
            Acceptor::start(Server::start(&netns, Listening::on(Ipv4Addr::LOCALHOST, PORT))?);
        let mut opened = 0;
        let churn = || {
            netns.run(|| {
                let end = Instant::now() + WATCHED;
                while Instant::now() < end {
                    reset(TcpStream::connect(here(PORT))?)?;
                    opened += 1;
                }
                Ok(())
            })
        };
        let (took, cpu) = self.meter.during(churn)?;
        let rate = f64::from(opened) / took.as_secs_f64();
        let churning = Churning { rate, resident: self.meter.resident()?, cpu: share((took, cpu)) };
        Ok(Point { resident, idle, churning, ..Point::default() })
    }

    /// Drains all services, and waits until all of them are proven empty.
    fn all_at_once(&self, mut places: Vec<Place>) -> Result<()> {
        let clients: Vec<TcpStream> =
            places.iter_mut().flat_map(|place| place.clients.drain(..)).collect();
        let start = Instant::now();
        for place in &places {
            place
                .ports
                .chunks(PER_REQUEST)
                .try_for_each(|ports| self.drain(&place.netns, ports).map(drop))?;
        }
        let started = start.elapsed();
        let parts = places
            .iter()
            .flat_map(|place| place.ports.chunks(PER_REQUEST).map(|ports| (&place.netns, ports)));
        let streams = parts.map(|(netns, ports)| Ok((self.events(netns, ports)?, ports.len())));
        let streams = streams.collect::<Result<Vec<_>>>()?;
        let start = Instant::now();
        clients.into_iter().try_for_each(reset)?;
        thread::scope(|scope| {
            let readers: Vec<_> = streams
                .into_iter()
                .map(|(stream, count)| scope.spawn(move || await_drained(stream, count)))
                .collect();
            readers.into_iter().try_for_each(|reader| {
                reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        eprintln!(
            "all drained at once: started in {started:.1?}, proven in {:.1?}",
            start.elapsed()
        );
        Ok(())
    }

    fn drain(&self, netns: &Netns, ports: &[u16]) -> Result<Duration> {
        let body = format!(
            "{{\"ports\":{ports:?},\"netns\":{},\"quiet_ms\":0,\"timeout_ms\":600000}}",
            netns.inode()
        );
        let start = Instant::now();
        let answer = self.ask("POST", "/v1/drains", &body)?;
        let took = start.elapsed();
        ensure!(answer.status == 202, "{}", String::from_utf8_lossy(&answer.body));
        Ok(took)
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Result<http::Response> {
        http::unix_within(PATIENCE, &self.agent.socket(), method, path, body)
            .with_context(|| format!("{method} {path}"))
    }

    fn undrain(&self, netns: &Netns, port: u16) -> Result<()> {
        let path = format!("/v1/drains/{}:{port}", netns.inode());
        let answer = self.ask("DELETE", &path, "")?;
        ensure!(answer.status == 200, "{path}: {}", answer.status);
        Ok(())
    }

    /// What happens to these services from now on.
    fn events(&self, netns: &Netns, ports: &[u16]) -> Result<BufReader<UnixStream>> {
        let ids: Vec<String> =
            ports.iter().map(|port| format!("{}:{port}", netns.inode())).collect();
        let mut stream = UnixStream::connect(self.agent.socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET /v1/events?services={} HTTP/1.1\r\nHost: agent\r\n\r\n",
            ids.join(",")
        )?;
        let mut lines = BufReader::new(stream);
        let mut status = String::new();
        lines.read_line(&mut status)?;
        ensure!(status.contains("200"), "{status}");
        Ok(lines)
    }
}

/// Reads until so many services are drained.
fn await_drained(stream: BufReader<UnixStream>, count: usize) -> Result<()> {
    let mut drained = std::collections::HashSet::new();
    for line in stream.lines() {
        let line = line.context("the event stream")?;
        let Ok(event) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
        if event["service"]["state"] == "drained" {
            drained.insert(event["service"]["id"].to_string());
        }
        if drained.len() == count {
            return Ok(());
        }
    }
    bail!("the event stream ended")
}

/// The median, milliseconds.
fn repeated(mut once: impl FnMut() -> Result<Duration>) -> Result<f64> {
    let samples = (0..REPEATS).map(|_| Ok(once()?.as_secs_f64() * 1e3));
    Ok(median(&samples.collect::<Result<Vec<_>>>()?).value)
}

/// Hundredths of a CPU.
fn share((took, cpu): (Duration, Duration)) -> f64 {
    100.0 * cpu.as_secs_f64() / took.as_secs_f64()
}

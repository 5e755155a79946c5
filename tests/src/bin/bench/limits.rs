//! `limits`: what a node full of services, connections, drains and waiting clients costs the agent. No bars: figures
//! for docs/limits.md, of this machine.

use std::{
    collections::HashSet,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    agent::Agent, http, net::reset, netns::Netns, vanish::vanish, wait::eventually,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, SocketType, bind, connect, listen, socket},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use crate::meter::{Meter, kib};

const NAMESPACES: usize = 4;
/// Listening ports in each of them.
const PORTS: usize = 2_500;
const FIRST_PORT: u16 = 2_000;
const DRAINS: usize = 500;
const CLIENTS: usize = 1_000;
/// Connections of one of the busy services; there are as many of these as all connections need.
const BUSY: usize = 100_000;
/// Connections from one client address: it has so many ports, above those of the services.
const PER_ADDRESS: usize = 50_000;
const FIRST_CLIENT_PORT: u16 = 10_000;
/// Over how long the steady state is watched.
const STEADY: Duration = Duration::from_secs(10);
/// For what may take long with a million connections.
const PATIENCE: Duration = Duration::from_secs(300);
/// Kernel memory of a connection, bytes, rounded up: its socket, and its entries in the tracker's maps.
const MEMORY: u64 = 4096;
/// Memory of the machine that is left to others, bytes. Connections are opened only as long as there is more.
const RESERVE: u64 = 4 << 30;
/// After how many connections that is looked at.
const CHECK_EVERY: usize = 10_000;

/// Measures and prints all, with so many connections on the node.
pub(crate) fn limits(flows: usize) -> Result<()> {
    check_memory(flows as u64 * MEMORY)?;
    println!("load average before: {}", fs::read_to_string("/proc/loadavg")?.trim());
    more_files()?;
    let room = (flows + 100_000).to_string();
    let mut agent = Agent::start_with(&["--max-flows", &room, "--log", "warn"])?;
    agent.be_quiet();
    let meter = Meter::new(agent.pid()?);
    meter.row("agent, nothing to do", "")?;
    println!("{:44} {:>8.0} MiB", "kernel memory of its maps", meter.maps()?);

    let netns = (0..=NAMESPACES).map(|_| Netns::new()).collect::<Result<Vec<_>>>()?;
    // The last one is for the busy services.
    let (netns, full) = (&netns[..NAMESPACES], &netns[NAMESPACES]);
    let services = open_services(netns)?;
    meter.row("10,000 services", "")?;
    let busy = flows.div_ceil(BUSY);
    let before = slab()?;
    let (opened, cpu) = meter.during(|| fill(full, busy, flows))?;
    let each = cpu.as_secs_f64() * 1e6 / flows as f64;
    let memory = slab()?.saturating_sub(before) as f64 / flows as f64;
    meter.row(
        &format!("{flows} connections"),
        &format!(
            "opened in {opened:.0?}, {memory:.0} bytes of the kernel each, agent {each:.2} µs each"
        ),
    )?;
    list(&agent, &meter)?;
    drain_busy(&agent, &meter, full, busy.min(flows / BUSY))?;
    drain_many(&agent, &meter, netns)?;
    drop(services);
    Ok(())
}

/// As many descriptors as this process may have.
pub(crate) fn more_files() -> Result<()> {
    let files = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })?)
}

/// What the kernel has allocated for its objects, such as sockets, bytes.
fn slab() -> Result<u64> {
    Ok(kib("/proc/meminfo", "SUnreclaim:")? << 10)
}

fn check_memory(wanted: u64) -> Result<()> {
    let available = kib("/proc/meminfo", "MemAvailable:")? << 10;
    ensure!(
        available >= wanted + RESERVE,
        "{} MiB of memory are available, and {} MiB are needed; give a smaller --flows",
        available >> 20,
        (wanted + RESERVE) >> 20,
    );
    Ok(())
}

/// Services that the agent knows: each has had a connection.
fn open_services(netns: &[Netns]) -> Result<Vec<OwnedFd>> {
    let mut listeners = Vec::new();
    for netns in netns {
        let here = netns.run(|| {
            let ports = FIRST_PORT..FIRST_PORT + PORTS as u16;
            let open = |port| {
                let server = listener(port, 64)?;
                reset(TcpStream::connect((Ipv4Addr::LOCALHOST, port))?)?;
                Ok(server)
            };
            ports.map(open).collect::<Result<Vec<_>>>()
        })?;
        listeners.extend(here);
    }
    Ok(listeners)
}

pub(crate) fn listener(port: u16, backlog: i32) -> Result<OwnedFd> {
    let server = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&server, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
    listen(&server, backlog)?;
    Ok(server)
}

/// The n-th busy port; they lie below the others.
fn busy_port(number: usize) -> u16 {
    1_000 + number as u16
}

/// Opens connections to the busy services. They stay in the accept queues, and their clients
/// are gone without a word: no process has descriptors for so many. The listeners are never closed.
fn fill(netns: &Netns, busy: usize, flows: usize) -> Result<()> {
    netns.sysctl("net/core/somaxconn", "1000000")?;
    netns.sysctl("net/ipv4/tcp_max_syn_backlog", "1000000")?;
    netns.run(|| {
        for service in 0..busy {
            std::mem::forget(listener(busy_port(service), 2 * BUSY as i32)?);
        }
        Ok(())
    })?;
    thread::scope(|scope| {
        let open = |half: usize| {
            netns.run(|| {
                for number in (half..flows).step_by(2) {
                    if number % CHECK_EVERY == half {
                        check_memory(0)?;
                    }
                    open_one(number / BUSY, number % BUSY)?;
                }
                Ok(())
            })
        };
        let other = scope.spawn(move || open(1));
        let result = open(0);
        result.and(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn open_one(service: usize, number: usize) -> Result<()> {
    let address = Ipv4Addr::new(127, 0, 0, 1 + (number / PER_ADDRESS) as u8);
    let client = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let port = FIRST_CLIENT_PORT + (number % PER_ADDRESS) as u16;
    // The same ports serve for each of the busy services.
    rustix::net::sockopt::set_socket_reuseaddr(&client, true)?;
    bind(&client, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    connect(&client, &SocketAddrV4::new(address, busy_port(service)))?;
    vanish(TcpStream::from(client))
}

fn list(agent: &Agent, meter: &Meter) -> Result<()> {
    let mut is_answered = false;
    let (took, cpu) = meter.during(|| {
        let answer = agent.http("GET", "/v1/services?netns=all", "");
        is_answered = answer.is_ok_and(|answer| answer.status == 200);
        Ok(())
    })?;
    let late = if is_answered { "" } else { ", without an answer in time" };
    let (cpu, peak) = (cpu.as_secs_f64(), meter.highest()?);
    let note = format!("{took:.2?}{late}, agent {cpu:.2} s, {peak:.0} MiB at most");
    meter.row("GET /v1/services?netns=all", &note)
}

/// 500 drains at once, each with a connection and two clients that wait.
fn drain_many(agent: &Agent, meter: &Meter, netns: &[Netns]) -> Result<()> {
    let services: Vec<(&Netns, u16)> = (0..DRAINS)
        .map(|number| (&netns[number % NAMESPACES], FIRST_PORT + number as u16))
        .collect();
    let flows = services
        .iter()
        .map(|(netns, port)| netns.run(|| Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, *port))?)));
    let flows = flows.collect::<Result<Vec<_>>>()?;
    let begin = Instant::now();
    let start = |(netns, port): &(&Netns, u16)| {
        let start = Instant::now();
        let body = format!(
            "{{\"ports\":[{port}],\"netns\":{},\"quiet_ms\":0,\"timeout_ms\":600000}}",
            netns.inode()
        );
        // The agent takes half a minute at most for an answer; the drain begins all the same.
        let answer = http::unix(&agent.socket(), "POST", "/v1/drains", &body);
        let is_late = answer.as_ref().map_or(true, |answer| answer.status == 500);
        ensure!(is_late || answer?.status == 202, "a drain was refused");
        Ok((start.elapsed(), is_late))
    };
    let mut starts = thread::scope(|scope| {
        let askers: Vec<_> = services.iter().map(|one| scope.spawn(move || start(one))).collect();
        let join = |asker: thread::ScopedJoinHandle<'_, Result<(Duration, bool)>>| {
            asker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        askers.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let all = begin.elapsed();
    starts.sort_unstable();
    let (half, most) = (starts[DRAINS / 2].0, starts[DRAINS * 99 / 100].0);
    let late = starts.iter().filter(|(_, is_late)| *is_late).count();
    meter.row(
        "500 drains",
        &format!("start: all in {all:.1?}, median {half:.1?}, p99 {most:.1?}; {late} without an answer in time"),
    )?;
    let mut clients = Clients::connect(agent, &services)?;
    meter.row("1,000 waiting clients", "")?;
    let (_, cpu) = meter.during(|| clients.read_for(STEADY, usize::MAX))?;
    let share = 100.0 * cpu.as_secs_f64() / STEADY.as_secs_f64();
    meter.row("500 drains, 1,000 clients, steady", &format!("{share:.0} % of a CPU"))?;
    let (zero, cpu) = meter.during(|| {
        flows.into_iter().try_for_each(reset)?;
        clients.read_for(PATIENCE, CLIENTS)
    })?;
    let cpu = cpu.as_secs_f64();
    meter.row(
        "500 proofs of zero, told 1,000 clients",
        &format!("{zero:.2?} in all, agent {cpu:.2} s"),
    )?;
    undrain_all(agent, meter, &services)?;
    drop(clients);
    Ok(())
}

fn undrain_all(agent: &Agent, meter: &Meter, services: &[(&Netns, u16)]) -> Result<()> {
    let undrain = |(netns, port): &(&Netns, u16)| {
        let path = format!("/v1/drains/{}:{port}", netns.inode());
        http::unix(&agent.socket(), "DELETE", &path, "").is_ok_and(|answer| answer.status == 200)
    };
    let begin = Instant::now();
    let done = thread::scope(|scope| {
        let askers: Vec<_> = services.iter().map(|one| scope.spawn(move || undrain(one))).collect();
        askers.into_iter().filter_map(|asker| asker.join().ok()).filter(|done| *done).count()
    });
    let (took, late) = (begin.elapsed(), services.len() - done);
    meter.row("500 undrains", &format!("all in {took:.1?}; {late} without an answer in time"))
}

/// Readers of event streams.
struct Clients {
    streams: Vec<UnixStream>,
    drained: HashSet<usize>,
}

impl Clients {
    fn connect(agent: &Agent, services: &[(&Netns, u16)]) -> Result<Self> {
        let mut streams = Vec::new();
        for number in 0..CLIENTS {
            let (netns, port) = services[number % services.len()];
            let mut stream = UnixStream::connect(agent.socket())?;
            let path = format!("/v1/events?services={}:{port}", netns.inode());
            write!(stream, "GET {path} HTTP/1.1\r\nHost: agent\r\n\r\n")?;
            stream.set_nonblocking(true)?;
            streams.push(stream);
        }
        Ok(Self { streams, drained: HashSet::new() })
    }

    /// Reads until so many clients know that their service is drained, or for so long.
    fn read_for(&mut self, time: Duration, enough: usize) -> Result<()> {
        let end = Instant::now() + time;
        let mut bytes = vec![0; 1 << 16];
        while self.drained.len() < enough && Instant::now() < end {
            let mut fds: Vec<_> = self
                .streams
                .iter()
                .map(|s| PollFd::from_borrowed_fd(s.as_fd(), PollFlags::IN))
                .collect();
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }))?;
            let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            for (number, stream) in self.streams.iter_mut().enumerate().filter(|(n, _)| ready[*n]) {
                let read = stream.read(&mut bytes).with_context(|| format!("client {number}"))?;
                ensure!(read > 0, "client {number} was cut off");
                if String::from_utf8_lossy(&bytes[..read]).contains("\"state\":\"drained\"") {
                    self.drained.insert(number);
                }
            }
        }
        ensure!(
            enough == usize::MAX || self.drained.len() >= enough,
            "{} of {enough} were told",
            self.drained.len()
        );
        Ok(())
    }
}

/// Drains of busy services, one after the other.
fn drain_busy(agent: &Agent, meter: &Meter, netns: &Netns, services: usize) -> Result<()> {
    let ctl = agent.ctl(netns);
    for number in 0..services.min(2) {
        let port = busy_port(number);
        let text = port.to_string();
        let drain = ["drain", "--port", &text, "--quiet", "0s", "--no-wait", "--timeout", "600s"];
        let (took, _) = meter.during(|| {
            ctl.expect(0, &drain)?;
            let path = format!("/v1/services/{}:{port}", netns.inode());
            let is_answered = || Ok(agent.http("GET", &path, "").is_ok_and(|a| a.status == 200));
            eventually(PATIENCE, "the drain is under way", is_answered)
        })?;
        meter
            .row("a drain of 100,000 connections", &format!("start and first status {took:.2?}"))?;
        let mut highest = 0.0_f64;
        let (_, cpu) = meter.during(|| {
            let end = Instant::now() + STEADY;
            eventually(2 * STEADY, "the time is over", || {
                highest = highest.max(meter.resident()?);
                Ok(Instant::now() >= end)
            })
        })?;
        let share = 100.0 * cpu.as_secs_f64() / STEADY.as_secs_f64();
        meter
            .row("the same, steady", &format!("highest {highest:.0} MiB, {share:.0} % of a CPU"))?;
        ctl.expect(0, &["undrain", "--port", &text])?;
    }
    meter.row("after that", "")
}

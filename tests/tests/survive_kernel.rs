//! What the kernel layer leaves in the kernel, with nobody there to look after it, and what it finds again.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use drainctl_agent::{
    drain::{AdmissionRequest, Cidr, Service, Spec, SpecRequest},
    kernel::{self, Admitted, Config, Kernel, Linux, PinDir, VERSION},
};
use drainctl_tests::{
    bpffs::Bpffs,
    net::{Attempt, Listening, Pair, Server, attempt},
    netns::Netns,
    wait::{LIMIT, eventually, eventually_some, throughout},
};

const PORT: u16 = 8080;
const LONG: Duration = Duration::from_secs(600);

/// A server in a namespace of its own, and a place to pin.
struct Place {
    bpffs: Bpffs,
    netns: Netns,
    server: Server,
    service: Service,
}

/// A kernel layer that is at work.
struct Running {
    linux: Arc<Linux>,
    _dir: PinDir,
}

fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, PORT).into()
}

impl Place {
    fn new() -> Result<Self> {
        let netns = Netns::new()?;
        let server = Server::start(&netns, Listening::on(Ipv4Addr::LOCALHOST, PORT))?;
        let service = Service { netns: netns.inode(), port: PORT };
        Ok(Self { bpffs: Bpffs::mount()?, netns, server, service })
    }

    fn open(&self, version: u32) -> Result<Running> {
        self.open_with(version, 16_384)
    }

    fn open_with(&self, version: u32, max_services: u32) -> Result<Running> {
        let config = Config {
            cgroup: None,
            max_flows: 65_536,
            max_services,
            probe_cgroup: None,
            client_history: 64,
            version: Some(version),
        };
        // The claim of the agent before is held by a child, too, that a test beside has started, until that executes its program.
        let dir = eventually_some(LIMIT, "the pin directory is free", || {
            match PinDir::claim(&self.bpffs.pin_dir()) {
                Err(error) if error.to_string().contains("another agent is running") => Ok(None),
                claimed => Ok(Some(claimed?)),
            }
        })?;
        let (linux, _) = kernel::open(&config, &dir)?;
        Ok(Running { linux, _dir: dir })
    }

    fn attempt(&self) -> Result<Attempt> {
        attempt(&self.netns, address(), LIMIT)
    }

    fn pairs(&self, count: usize) -> Result<Vec<Pair>> {
        self.server.pairs(&self.netns, address(), count)
    }

    fn gates(&self, version: u32) -> Result<Vec<PathBuf>> {
        let folder = self.bpffs.pin_dir().join(format!("v{version}/gates"));
        let all = self.bpffs.contents()?;
        Ok(all.into_iter().filter(|path| path.parent() == Some(&folder)).collect())
    }
}

fn prefix(text: &str) -> Vec<Cidr> {
    text.parse().into_iter().collect()
}

impl Running {
    fn guard(&self, service: Service, lists: impl FnOnce(&mut AdmissionRequest)) -> Result<()> {
        let mut request = SpecRequest::default();
        lists(&mut request.admission);
        let spec = Spec::try_from(request)?;
        Ok(self.linux.guard(service, spec.admission(), self.linux.now() + LONG)?)
    }

    fn close_gate(&self, service: Service, lease: Duration) -> Result<()> {
        Ok(self.linux.close_gate(service, self.linux.now() + lease)?)
    }
}

#[test]
fn a_gate_opens_at_the_end_of_its_lease_with_the_agent_dead() -> Result<()> {
    let place = Place::new()?;
    ensure!(place.attempt()? == Attempt::Connected);
    drop(place.server.accept()?);
    let first = place.open(VERSION)?;
    first.close_gate(place.service, Duration::from_secs(2))?;
    drop(first);
    ensure!(place.attempt()? == Attempt::Refused, "it outlives the agent");
    eventually(LIMIT, "the lease is over", || Ok(place.attempt()? == Attempt::Connected))?;
    ensure!(place.gates(VERSION)?.len() == 1, "the program is still there: it let the client in");
    Ok(())
}

#[test]
fn more_services_than_there_is_room_for_keep_no_agent_from_starting() -> Result<()> {
    let place = Place::new()?;
    let second = Server::start(&place.netns, Listening::on(Ipv4Addr::LOCALHOST, 9090))?;
    let running = place.open_with(VERSION, 1)?;
    ensure!(
        running.linux.faults()?.services_full > 0,
        "it says so, so that nobody takes it for zero"
    );
    drop(second);
    Ok(())
}

#[test]
fn rules_and_counters_are_found_again_and_what_belongs_to_no_drain_is_undone() -> Result<()> {
    let place = Place::new()?;
    let first = place.open(VERSION)?;
    let pairs = place.pairs(3)?;
    first.close_gate(place.service, LONG)?;
    ensure!(place.attempt()? == Attempt::Refused);
    let rejected = first.linux.rejected(place.service)?;
    first.linux.save_drain(place.service, b"words")?;
    drop(first);
    drop(pairs);
    let second = place.open(VERSION)?;
    let linux = &second.linux;
    ensure!(linux.rejected(place.service)? == rejected && rejected > 0);
    ensure!(linux.saved_drains()? == [(place.service, b"words".to_vec())]);
    ensure!(linux.tracked(place.service)?.flows == 0, "their end was counted meanwhile");
    ensure!(linux.tracked(place.service)?.accepted == 3);
    let other = Service { port: place.service.port + 1, ..place.service };
    second.close_gate(other, LONG)?;
    ensure!(linux.rejected(other)? == 0, "it is counted for by itself");
    ensure!(linux.rejected(place.service)? == rejected, "nothing else is counted in its place");
    ensure!(linux.release_others(&[place.service])? == [other]);
    ensure!(place.attempt()? == Attempt::Refused, "it is named");
    ensure!(linux.rejected(place.service)? > rejected, "by the new program, with the old counter");
    ensure!(linux.release_others(&[])? == [place.service]);
    ensure!(place.attempt()? == Attempt::Connected);
    ensure!(place.gates(VERSION)?.is_empty());
    Ok(())
}

#[test]
fn an_upgrade_never_opens_the_gate_and_misses_no_flow() -> Result<()> {
    let place = Place::new()?;
    let running = place.open(VERSION)?;
    let pairs = place.pairs(5)?;
    running.close_gate(place.service, LONG)?;
    running.linux.save_drain(place.service, b"words")?;
    let (stop, netns) = (AtomicBool::new(false), &place.netns);
    let running = std::thread::scope(|scope| {
        let probe = scope.spawn(|| {
            let mut refused = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                match attempt(netns, address(), LIMIT)? {
                    Attempt::Refused => refused += 1,
                    other => bail!("after {refused} refusals: {other:?}"),
                }
            }
            Ok(refused)
        });
        let done = upgrade(&place, running);
        stop.store(true, Ordering::Relaxed);
        let refused = probe.join().map_err(|_| anyhow::anyhow!("the probe panicked"))??;
        ensure!(refused > 10, "it tried {refused} times only");
        done
    })?;
    drop(pairs);
    eventually(LIMIT, "their end is counted", || {
        Ok(running.linux.tracked(place.service)?.flows == 0)
    })
}

/// To the next version, back, and on again.
fn upgrade(place: &Place, mut running: Running) -> Result<Running> {
    for version in [VERSION + 1, VERSION, VERSION + 1] {
        drop(running);
        running = place.open(version)?;
        let linux = &running.linux;
        ensure!(linux.saved_drains()? == [(place.service, b"words".to_vec())]);
        let (tracked, faults) = (linux.tracked(place.service)?, linux.faults()?);
        ensure!(tracked.flows == 5, "{tracked:?} {faults:?}");
        running.close_gate(place.service, LONG)?;
        linux.release_others(&[place.service])?;
        let dir = place.bpffs.pin_dir();
        let all = place.bpffs.contents()?;
        let folders: Vec<PathBuf> =
            all.into_iter().filter(|path| path.parent() == Some(&dir)).collect();
        ensure!(folders == [dir.join(format!("v{version}"))], "{folders:?}");
        let before = linux.rejected(place.service)?;
        eventually(LIMIT, "ours refuses", || Ok(linux.rejected(place.service)? > before))?;
    }
    Ok(running)
}

#[test]
fn a_namespace_with_the_number_of_another_inherits_nothing() -> Result<()> {
    // Whoever makes a namespace just then gets the number: another try.
    for _ in 0..10 {
        if inherits_nothing()? {
            return Ok(());
        }
    }
    bail!("no namespace got the number of another")
}

/// False if somebody else got the number.
fn inherits_nothing() -> Result<bool> {
    let place = Place::new()?;
    let first = place.open(VERSION)?;
    // Its clients are refused by a list, before the gate is closed.
    first.guard(place.service, |lists| lists.fail_health_from = prefix("127.0.0.0/8"))?;
    ensure!(place.attempt()? == Attempt::Refused);
    first.close_gate(place.service, LONG)?;
    drop(first);
    let Place { bpffs, netns, server, service } = place;
    drop((server, netns));
    // Numbers are given again, the lowest free one first.
    let (mut others, mut same) = (Vec::new(), None);
    let found = eventually(Duration::from_secs(3), "a namespace has the number", || {
        let netns = Netns::new()?;
        if netns.inode() == service.netns {
            same = Some(netns);
        } else {
            others.push(netns);
        }
        Ok(same.is_some())
    });
    let (Some(netns), Ok(())) = (same, found) else { return Ok(false) };
    drop(others);
    let server = Server::start(&netns, Listening::on(Ipv4Addr::LOCALHOST, PORT))?;
    let place = Place { bpffs, netns, server, service };
    throughout(Duration::from_millis(200), "it serves", || {
        let served = place.attempt()? == Attempt::Connected;
        drop(place.server.accept()?);
        Ok(served)
    })?;
    let second = place.open(VERSION)?;
    ensure!(place.gates(VERSION)?.is_empty(), "the gate of the dead namespace is gone");
    ensure!(second.linux.rejected(service)? == 0 && place.attempt()? == Attempt::Connected);
    second.linux.release_others(&[])?;
    // A drain with lists of its own has no others.
    second.guard(service, |lists| lists.ignore = prefix("192.0.2.0/24"))?;
    ensure!(place.attempt()? == Attempt::Connected, "by a list of the dead");
    let admitted = second.linux.admitted(service)?;
    ensure!(admitted == Admitted::default(), "{admitted:?}");
    Ok(true)
}

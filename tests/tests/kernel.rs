//! What the fake kernel of the executor's own tests claims, proven once against the real one.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use drainctl_agent::{
    drain::{Admission, AdmissionRequest, Cidr, Service},
    kernel::{
        self, Admitted, Class, Config, Event, EventKind, Kernel, KernelError, Linux, PinDir,
        Reconciled, TcpState, Watch,
    },
};
use drainctl_tests::{
    bpffs::Bpffs,
    net::{Listening, Pair, Server, connect},
    netns::Netns,
    nginx::accepts,
    wait::{LIMIT, eventually, eventually_some},
};
use tokio::sync::mpsc::UnboundedReceiver;

const PORT: u16 = 8080;

/// A kernel layer with programs of its own, and a server in a namespace of its own.
struct Fixture {
    linux: Arc<Linux>,
    _pins: (PinDir, Bpffs),
    events: UnboundedReceiver<Event>,
    netns: Netns,
    server: Server,
    service: Service,
}

impl Fixture {
    fn new() -> Result<Self> {
        // The tracker counts the whole node: other tests run beside this one.
        Self::with_max_flows(65_536)
    }

    fn with_max_flows(max_flows: u32) -> Result<Self> {
        let netns = Netns::new()?;
        let server = Server::start(&netns, Listening::on(Ipv4Addr::LOCALHOST, PORT))?;
        let config = Config {
            cgroup: None,
            probe_cgroup: None,
            max_flows,
            max_services: 65_536,
            client_history: 64,
            version: None,
        };
        let bpffs = Bpffs::mount()?;
        let pin_dir = PinDir::claim(&bpffs.pin_dir())?;
        let (linux, events) = kernel::open(&config, &pin_dir)?;
        let service = Service { netns: netns.inode(), port: PORT };
        Ok(Self { linux, _pins: (pin_dir, bpffs), events, netns, server, service })
    }

    fn connect(&self, count: usize) -> Result<Vec<Pair>> {
        self.server.pairs(&self.netns, address(), count)
    }

    fn close_gate(&self, lease: Duration) -> Result<()> {
        Ok(self.linux.close_gate(self.service, self.linux.now() + lease)?)
    }

    /// Waits for an event of this kind; others are passed over.
    fn await_event(&mut self, kind: EventKind) -> Result<Event> {
        let (events, service) = (&mut self.events, self.service);
        eventually_some(LIMIT, &format!("the event {kind:?}"), || {
            let next = std::iter::from_fn(|| events.try_recv().ok());
            Ok(next.into_iter().find(|event| event.kind == kind && event.service == service))
        })
    }
}

fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, PORT).into()
}

#[test]
fn a_gate_opens_when_its_lease_is_over_and_closes_again_when_it_is_renewed() -> Result<()> {
    let fixture = Fixture::new()?;
    let Fixture { linux, netns, service, .. } = &fixture;
    ensure!(accepts(netns, PORT)?, "it accepts to begin with");
    fixture.close_gate(Duration::from_secs(1))?;
    ensure!(!accepts(netns, PORT)?, "closed");
    ensure!(linux.rejected(*service)? == 1);
    eventually(LIMIT, "the lease is over", || accepts(netns, PORT))?;
    linux.renew_gate(*service, linux.now() + Duration::from_secs(600))?;
    ensure!(!accepts(netns, PORT)?, "renewed");
    ensure!(linux.rejected(*service)? >= 2);
    linux.open_gate(*service)?;
    ensure!(accepts(netns, PORT)?, "opened");
    linux.open_gate(*service)?; // Of an open gate it is no error.
    ensure!(linux.renew_gate(*service, linux.now()).is_err(), "an open gate has no lease");
    Ok(())
}

/// One that refuses the client of these tests, or ignores it.
fn admission(change: impl FnOnce(&mut AdmissionRequest, Vec<Cidr>)) -> Result<Admission> {
    let mut request = AdmissionRequest::default();
    change(&mut request, vec!["127.0.0.0/8".parse()?]);
    Ok(request.validate()?)
}

#[test]
fn lists_are_in_force_without_a_closed_gate_until_their_lease_is_over() -> Result<()> {
    let fixture = Fixture::new()?;
    let Fixture { linux, netns, service, .. } = &fixture;
    let refuses = admission(|lists, client| lists.fail_health_from = client)?;
    ensure!(linux.admitted(*service)? == Admitted::default());
    linux.guard(*service, &refuses, linux.now() + Duration::from_secs(1))?;
    ensure!(!accepts(netns, PORT)?, "refused at once");
    let admitted = linux.admitted(*service)?;
    ensure!(admitted.failed_health >= 1 && linux.rejected(*service)? == 0, "{admitted:?}");
    eventually(LIMIT, "the lease is over", || accepts(netns, PORT))?;
    linux.renew_gate(*service, linux.now() + Duration::from_secs(600))?;
    ensure!(!accepts(netns, PORT)?, "renewed");
    fixture.close_gate(Duration::from_secs(600))?;
    ensure!(!accepts(netns, PORT)?, "by the list, still");
    ensure!(linux.rejected(*service)? == 0 && linux.admitted(*service)? != admitted);
    linux.open_gate(*service)?;
    ensure!(accepts(netns, PORT)? && linux.admitted(*service)? == Admitted::default());
    Ok(())
}

#[test]
fn ignored_flows_change_their_class_for_tracker_and_look_together() -> Result<()> {
    let fixture = Fixture::new()?;
    let Fixture { linux, service, .. } = &fixture;
    let classes = || -> Result<Vec<Class>> {
        let look = linux.look(service.netns, Some(service.port))?;
        Ok(look.sockets.iter().map(|socket| socket.class).collect())
    };
    let mut pairs = fixture.connect(2)?;
    ensure!(linux.tracked(*service)?.flows == 2);
    let ignores = admission(|lists, client| lists.ignore = client)?;
    for _ in 0..3 {
        linux.guard(*service, &ignores, linux.now() + Duration::from_secs(600))?;
        ensure!(linux.tracked(*service)?.flows == 0);
        ensure!(classes()?.iter().all(|class| *class == Class::Ignored));
        pairs.extend(fixture.connect(1)?);
        let look = linux.look(service.netns, Some(service.port))?;
        ensure!(linux.reconcile(*service, &look)? == Reconciled::default(), "nothing to mend");
        linux.open_gate(*service)?;
        ensure!(linux.tracked(*service)?.flows == pairs.len() as i64);
        ensure!(classes()?.iter().all(|class| *class == Class::Counted));
    }
    Ok(())
}

/// The window that docs/adr/0003 closes is too narrow to be hit at will; this holds the contract.
#[test]
fn nothing_that_passed_a_gate_before_it_closed_shows_up_after_the_first_look() -> Result<()> {
    let fixture = Fixture::new()?;
    let Fixture { linux, netns, server, service, .. } = &fixture;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| while server.accept().is_ok() && !stop.load(Ordering::Relaxed) {});
        scope.spawn(|| {
            netns.run(|| {
                while !stop.load(Ordering::Relaxed) {
                    drop(TcpStream::connect(address()));
                }
                Ok(())
            })
        });
        let checked = (0..40).try_for_each(|round| close_and_look(linux, *service, round));
        stop.store(true, Ordering::Relaxed);
        connect(netns, address())?; // Wakes accept().
        checked
    })
}

fn close_and_look(linux: &Linux, service: Service, round: u32) -> Result<()> {
    let before = linux.tracked(service)?.accepted;
    eventually(LIMIT, "connections arrive", || Ok(linux.tracked(service)?.accepted > before))?;
    linux.close_gate(service, linux.now() + Duration::from_secs(600))?;
    let look = linux.look(service.netns, Some(service.port))?;
    let handshakes = look.sockets.iter().filter(|s| s.state == TcpState::SynRecv).count() as u64;
    let accepted = linux.tracked(service)?.accepted;
    let rejected = linux.rejected(service)?;
    eventually(LIMIT, "the gate refuses", || Ok(linux.rejected(service)? > rejected + 20))?;
    let later = linux.tracked(service)?.accepted - accepted;
    ensure!(later <= handshakes, "round {round}: {later} came later, {handshakes} were on the way");
    Ok(linux.open_gate(service)?)
}

#[test]
fn the_end_of_the_last_flow_is_an_event_and_so_is_every_new_one() -> Result<()> {
    let mut fixture = Fixture::new()?;
    fixture.linux.watch(fixture.service, Watch { listeners: true, flows: true, classes: false })?;
    let pairs = fixture.connect(3)?;
    let accepted = fixture.await_event(EventKind::Accepted)?;
    ensure!(accepted.at <= fixture.linux.now());
    ensure!(fixture.linux.tracked(fixture.service)?.flows == 3);
    drop(pairs);
    fixture.await_event(EventKind::Empty)?;
    ensure!(fixture.linux.tracked(fixture.service)?.flows == 0);
    let addr = Listening::on(Ipv4Addr::new(127, 0, 0, 2), PORT);
    let second = Server::start(&fixture.netns, addr)?;
    fixture.await_event(EventKind::Listening)?;
    drop(second);
    fixture.await_event(EventKind::Unlistened)?;
    fixture.linux.watch(fixture.service, Watch::default())?;
    drop(fixture.connect(1)?);
    ensure!(fixture.events.try_recv().is_err(), "nobody watches any more");
    Ok(())
}

#[test]
fn lost_flows_are_accounted_for_once_there_is_room() -> Result<()> {
    let fixture = Fixture::with_max_flows(8)?;
    let Fixture { linux, service, .. } = &fixture;
    let look = || linux.look(service.netns, Some(service.port));
    // There are eight slots, too.
    let mut pairs = fixture.connect(24)?;
    let full = linux.tracked(*service)?;
    ensure!(full.lost > 0 && full.flows + full.lost as i64 == 24, "{full:?}");
    ensure!(linux.faults()?.flows_full >= full.lost);
    linux.reconcile(*service, &look()?)?;
    ensure!(linux.tracked(*service)?.lost > 0, "still no room");
    // Some of those that found their slot taken, which is free then, and some of those that found no room at all; not
    // more than there is room for where a kernel has no slots.
    let kept: Vec<_> = pairs.drain(10..18).collect();
    drop(pairs);
    eventually(LIMIT, "eight flows are left, and known, each once", || {
        linux.reconcile(*service, &look()?)?;
        let tracked = linux.tracked(*service)?;
        Ok((tracked.flows, tracked.lost) == (8, 0))
    })?;
    drop(kept);
    eventually(LIMIT, "their end is seen", || Ok(linux.tracked(*service)?.flows == 0))
}

#[test]
fn a_namespace_that_is_gone_is_said_to_be_gone() -> Result<()> {
    let fixture = Fixture::new()?;
    let Fixture { linux, netns, server, service, .. } = fixture;
    let cookie = linux.netns_cookie(service.netns)?.context("Linux 5.14 has cookies")?;
    ensure!(linux.netns_cookie(service.netns)? == Some(cookie), "it stays the same");
    ensure!(linux.netns_cookie(linux.host_netns())? != Some(cookie), "another has another");
    linux.close_gate(service, linux.now() + Duration::from_secs(600))?;
    drop((server, netns));
    eventually(LIMIT, "the namespace is gone", || {
        Ok(matches!(linux.look(service.netns, None), Err(KernelError::NoNetns(_))))
    })?;
    ensure!(matches!(
        linux.close_gate(service, linux.now() + Duration::from_secs(600)),
        Err(KernelError::NoNetns(_))
    ));
    let ignores = admission(|lists, client| lists.ignore = client)?;
    ensure!(matches!(
        linux.guard(service, &ignores, linux.now() + Duration::from_secs(600)),
        Err(KernelError::NoNetns(_))
    ));
    Ok(linux.open_gate(service)?)
}

#[test]
fn what_this_kernel_lacks_is_said_with_the_version_that_has_it() -> Result<()> {
    let uname = rustix::system::uname();
    let release = uname.release().to_str()?;
    let numbers: Vec<u32> = release.split(['.', '-']).map_while(|word| word.parse().ok()).collect();
    let lacks = Fixture::new()?.linux.retire_lacks().telling;
    let expected = "this kernel has no bpf_loop (it came with Linux 5.17)";
    let expected = (numbers < vec![5, 17]).then_some(expected);
    ensure!(lacks.as_deref() == expected, "Linux {release}: {lacks:?}");
    Ok(())
}

//! What a drain does beyond closing a gate does not depend on the agent staying alive either: clients are treated by
//! their address, probes pass, and a new server takes over while nobody runs, and the next agent goes on with it.
//! What only a process can do, the next one does again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use drainctl_agent::kernel::VERSION;
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT, Pod},
    ctl::{Ctl, Service},
    fixture::serve,
    kubelet::Kubelet,
    kubeproxy::Mode,
    net::{Acceptor, Attempt, Pair, Server, attempt, connect},
    netns::Netns,
    wait::{LIMIT, eventually, eventually_some},
};
use rustix::process::Signal;

use Attempt::{Connected, Refused, Unanswered};

/// Where a new server listens.
const OTHER: u16 = 8081;
/// By these, the client is ignored by IPv4 and a stranger by IPv6, and the node is refused by IPv4 and let in by IPv6.
const LISTS: &[&str] =
    &["--ignore=10.244.0.2", "--allow=fd00:244:1::1", "--fail-health-from=10.244.1.1"];
const UNDRAIN: &[&str] = &["undrain", "--port", "80"];

/// A client, a pod that drains, a peer, and an agent that comes and goes.
struct World {
    agent: Agent,
    /// Of the agent.
    options: Vec<String>,
    /// In the pod that drains, on its port 80.
    old: Server,
    cluster: Cluster,
}

impl World {
    fn new() -> Result<Self> {
        Self::with(&[])
    }

    fn with(options: &[&str]) -> Result<Self> {
        let cluster = Cluster::new(2, Mode::Iptables)?;
        let old = serve(&cluster.pods[0], PORT)?;
        let options = options.iter().map(ToString::to_string).collect();
        let mut world = Self { agent: Agent::prepare()?, options, old, cluster };
        world.launch()?;
        Ok(world)
    }

    fn launch(&mut self) -> Result<()> {
        self.agent.launch(&self.options.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn pod(&self) -> &Pod {
        &self.cluster.pods[0]
    }

    fn ctl(&self) -> Ctl<'_> {
        self.agent.ctl(&self.pod().netns)
    }

    /// Begins a drain that closes the gate at once, and waits until it has.
    fn drain(&self, options: &[&str]) -> Result<()> {
        let fixed = ["drain", "--port", "80", "--quiet", "0s", "--no-wait", "--retire", "none"];
        self.ctl().expect(0, &[&fixed[..], &["--timeout", "55s"], options].concat())?;
        let closed = |service: &Service| ["rejecting", "drained"].contains(&service.state.as_str());
        self.ctl().await_service(PORT, "the gate is closed", closed).map(drop)
    }

    /// Connects to the drained port; the other end is this server's.
    fn served_by(&self, server: &Server) -> Result<Pair> {
        let client = connect(&self.cluster.client, self.pod().addr())?;
        Ok(Pair { client, server: server.accept()? })
    }

    /// Tries to connect by IPv4 (or IPv6) and insists on the outcome; what gets in is the old server's.
    fn expect(&self, from: &Netns, by_v6: bool, expected: Attempt) -> Result<()> {
        let addr = if by_v6 { self.pod().addr6() } else { self.pod().addr() };
        let got = attempt(from, addr, LIMIT)?;
        ensure!(got == expected, "{addr}: {got:?} instead of {expected:?}");
        if got == Connected {
            drop(self.old.accept()?);
        }
        Ok(())
    }

    /// What [`LISTS`] say, for each kind of client.
    fn expect_lists_in_force(&self) -> Result<()> {
        let (client, node) = (&self.cluster.client, &self.cluster.node);
        self.expect(client, false, Connected).context("ignored")?;
        self.expect(client, true, Refused).context("a stranger")?;
        self.expect(node, false, Refused).context("a health check")?;
        self.expect(node, true, Connected).context("allowed")
    }

    fn expect_open(&self) -> Result<()> {
        for from in [&self.cluster.client, &self.cluster.node] {
            self.expect(from, false, Connected)?;
            self.expect(from, true, Connected)?;
        }
        Ok(())
    }

    fn await_counts(&self, flows: u64, steered: u64) -> Result<Service> {
        let what = format!("{flows} flows and {steered} that are steered");
        self.ctl().await_service(PORT, &what, |s| (s.flows, s.steered) == (flows, steered))
    }

    fn metric(&self, name: &str) -> Result<u64> {
        let text = String::from_utf8(self.agent.http("GET", "/metrics", "")?.body)?;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("drainctl_{name} ")));
        Ok(line.with_context(|| format!("no {name} in {text}"))?.parse()?)
    }

    /// Tracker and look never had to be mended since this agent started.
    fn ensure_agreed(&self) -> Result<()> {
        for name in ["disagreements_total", "repairs_total", "flows_after_drained_total"] {
            ensure!(self.metric(name)? == 0, "{name}: {}", self.agent.log());
        }
        Ok(())
    }

    /// Checks this before the agent is killed, while nobody runs, and with the next one.
    fn with_and_without_an_agent(&mut self, check: impl Fn(&Self) -> Result<()>) -> Result<()> {
        check(self)?;
        self.agent.crash()?;
        check(self).context("while nobody runs")?;
        self.launch()?;
        check(self).context("with the next agent")
    }

    /// Uninstalls in the middle of a drain: nothing is left, and everybody gets in.
    fn ensure_nothing_is_left(&mut self) -> Result<()> {
        self.agent.crash()?;
        let output = self.agent.uninstall()?;
        ensure!(output.status.success(), "{output:?}");
        let left = self.agent.bpffs().contents()?;
        ensure!(left.is_empty(), "{left:?}");
        self.expect_open()
    }
}

#[test]
fn lists_stay_in_force() -> Result<()> {
    let mut world = World::new()?;
    let mut ignored = vec![world.served_by(&world.old)?];
    world.drain(LISTS)?;
    ignored.push(world.served_by(&world.old)?);
    world.expect_lists_in_force()?;
    let before = world.ctl().admission(PORT)?;
    world.agent.crash()?;
    ignored.push(world.served_by(&world.old)?);
    world.expect_lists_in_force()?;
    world.launch()?;
    let after = world.ctl().admission(PORT)?;
    ensure!(after.ignored >= before.ignored + 2, "the gate itself decided: {before:?} {after:?}");
    ensure!(after.allowed > before.allowed && after.failed_health > before.failed_health);
    world.expect_lists_in_force()?;
    let ctl = world.ctl();
    let service = ctl.await_state(PORT, "drained")?;
    ensure!((service.flows, service.ignored) == (0, 3), "{service:?}");
    drop(ignored.pop());
    ctl.await_service(PORT, "two are ignored", |service| service.ignored == 2)?;
    world.ensure_agreed()?;
    ctl.expect(0, UNDRAIN)?;
    world.expect_open()?;
    world.await_counts(2, 0)?;
    ensure!(world.agent.maps()?.peers()? == 0);
    world.ensure_agreed()?;
    world.drain(LISTS)?;
    world.ensure_nothing_is_left()
}

#[test]
fn health_checks_go_on_failing_while_it_settles() -> Result<()> {
    let mut world = World::new()?;
    let settle = ["--port=80", "--min-settle=40s", "--max-settle=50s", "--timeout=55s"];
    let rest = ["--retire", "none", "--no-wait", "--fail-health-from=10.244.1.1"];
    let drain = [&["drain"], &settle[..], &rest].concat();
    world.ctl().expect(0, &drain)?;
    world.with_and_without_an_agent(|world| {
        world.expect(&world.cluster.node, false, Refused)?;
        world.expect(&world.cluster.node, true, Connected)?;
        world.expect(&world.cluster.client, false, Connected)
    })?;
    let service = world.ctl().service(PORT)?;
    ensure!(service.state == "settling" && service.rejected == 0, "{service:?}");
    ensure!(world.ctl().admission(PORT)?.failed_health >= 3);
    world.ctl().expect(0, UNDRAIN)?;
    world.expect_open()?;
    ensure!(world.agent.maps()?.peers()? == 0);
    world.ctl().expect(0, &drain)?;
    world.ensure_nothing_is_left()
}

#[test]
fn known_clients_stay_known() -> Result<()> {
    let mut world = World::new()?;
    drop(world.served_by(&world.old)?);
    world.drain(&["--keep-clients", "10m"])?;
    world.with_and_without_an_agent(|world| {
        world.expect(&world.cluster.client, false, Connected)?;
        world.expect(&world.cluster.node, false, Refused)
    })?;
    ensure!(world.ctl().admission(PORT)?.kept >= 3, "let in by something else");
    world.ensure_agreed()?;
    world.ensure_nothing_is_left()
}

#[test]
fn a_handoff_goes_on() -> Result<()> {
    let mut world = World::new()?;
    let new = serve(world.pod(), OTHER)?;
    let handoff = format!("--new=handoff=port:{OTHER}");
    let held = world.served_by(&world.old)?;
    world.drain(&[&handoff])?;
    let mut pairs = vec![world.served_by(&new)?];
    let before = world.await_counts(1, 1)?.drain.context("it drains")?;
    world.agent.crash()?;
    pairs.push(world.served_by(&new).context("while nobody runs")?);
    world.launch()?;
    pairs.push(world.served_by(&new).context("with the next agent")?);
    let service = world.await_counts(1, 3)?;
    let after = service.drain.context("it drains")?;
    ensure!(after.handed_over >= before.handed_over + 2 && after.takers == 1, "{after:?}");
    ensure!(service.state == "rejecting" && service.rejected == 0);
    drop(held);
    world.ctl().await_state(PORT, "drained")?;
    world.ctl().expect(0, &["ready", "--port", "80"])?;
    world.ensure_agreed()?;
    world.ctl().expect(0, UNDRAIN)?;
    world.await_counts(3, 0)?;
    ensure!(world.agent.maps()?.targets()? == 0);
    world.served_by(&world.old)?.exchange()?;
    pairs.iter_mut().try_for_each(Pair::exchange)?;
    world.drain(&[&handoff])?;
    world.ensure_nothing_is_left()
}

#[test]
fn a_handoff_goes_on_through_an_upgrade_of_the_kernel_programs() -> Result<()> {
    let mut world = World::new()?;
    let _new = Acceptor::start(serve(world.pod(), OTHER)?);
    world.drain(&[&format!("--new=handoff=port:{OTHER}")])?;
    world.agent.stop()?;
    world.agent.set_program(env!("CARGO_BIN_EXE_agent"));
    let (stop, client) = (AtomicBool::new(false), Arc::clone(&world.cluster.client));
    let addr = world.pod().addr();
    thread::scope(|scope| {
        let probe = scope.spawn(|| {
            let mut connected = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let got = attempt(&client, addr, LIMIT)?;
                ensure!(got == Connected, "after {connected} connections: {got:?}");
                connected += 1;
            }
            Ok(connected)
        });
        let version = (VERSION + 1).to_string();
        let launched = world.agent.launch(&["--abi", &version]);
        stop.store(true, Ordering::Relaxed);
        let connected = probe.join().map_err(|_| anyhow::anyhow!("the probe panicked"))??;
        ensure!(connected > 10, "it tried {connected} times only");
        launched
    })?;
    let handed = |s: &Service| s.drain.as_ref().is_some_and(|drain| drain.handed_over > 0);
    world.ctl().await_service(PORT, "our own gate hands over", handed)?;
    world.ensure_nothing_is_left()
}

#[test]
fn dropped_attempts_are_dropped_again() -> Result<()> {
    let mut world = World::new()?;
    world.drain(&["--new", "drop"])?;
    world.agent.crash()?;
    world.expect(&world.cluster.client, false, Refused)?;
    world.launch()?;
    let short = Duration::from_millis(300);
    eventually(LIMIT, "nothing is answered", || {
        Ok(attempt(&world.cluster.client, world.pod().addr(), short)? == Unanswered)
    })?;
    let service = world.ctl().service(PORT)?;
    ensure!(service.rejected > 1 && service.flows + service.handshakes == 0, "{service:?}");
    world.ensure_nothing_is_left()
}

#[test]
fn probes_are_noted_while_nobody_runs() -> Result<()> {
    let kubelet = Kubelet::new()?;
    let mut world = World::with(&["--probe-cgroup", kubelet.cgroup()?])?;
    world.drain(&["--keep-closed"])?;
    world.agent.crash()?;
    let probe = kubelet.probe(&world.cluster.node, world.pod().addr())?;
    let probe = (probe.context("a probe was refused")?, world.old.accept()?);
    world.expect(&world.cluster.node, false, Refused).context("another of the node's")?;
    world.launch()?;
    let service = world.ctl().await_state(PORT, "drained")?;
    ensure!((service.probes, service.flows) == (1, 0), "{service:?}");
    world.ctl().expect(0, &["ready", "--port", "80"])?;
    world.ensure_agreed()?;
    drop(probe);
    world.ctl().await_service(PORT, "no probe", |service| service.probes == 0)?;
    world.ensure_nothing_is_left()
}

/// A world that forwards to its second pod, and the server there.
fn forwarding() -> Result<(World, Server)> {
    let world = World::new()?;
    let peer = serve(&world.cluster.pods[1], PORT)?;
    world.drain(&[&format!("--new=forward={}", world.cluster.pods[1].v4)])?;
    Ok((world, peer))
}

/// Both ends get a RST.
fn ensure_reset(pair: &Pair) -> Result<()> {
    for mut end in [&pair.client, &pair.server] {
        let error = std::io::Read::read(&mut end, &mut [0]).err().context("no error")?;
        ensure!(error.kind() == std::io::ErrorKind::ConnectionReset, "{error}");
    }
    Ok(())
}

#[test]
fn a_killed_agents_stragglers_are_refused_and_the_next_one_carries_again() -> Result<()> {
    let (mut world, peer) = forwarding()?;
    let mut pair = world.served_by(&peer)?;
    pair.exchange()?;
    world.agent.crash()?;
    ensure_reset(&pair)?;
    for by_v6 in [false, true] {
        world.expect(&world.cluster.client, by_v6, Refused)?;
    }
    world.launch()?;
    let carried = || Ok(world.served_by(&peer).ok());
    let mut pair = eventually_some(LIMIT, "it carries", carried)?;
    pair.exchange()?;
    world.await_counts(0, 1)?;
    ensure!(world.metric("carried_total")? == 1 && world.metric("carrying")? == 1);
    drop(pair);
    world.await_counts(0, 0)?;
    world.ensure_agreed()?;
    world.ensure_nothing_is_left()
}

#[test]
fn a_stopped_agent_carries_to_the_end_beside_the_next_one() -> Result<()> {
    let (mut world, peer) = forwarding()?;
    let mut pair = world.served_by(&peer)?;
    pair.exchange()?;
    let mut before = world.agent.hand_on()?;
    pair.exchange()?;
    world.launch()?;
    let carried = || {
        let mut pair = world.served_by(&peer)?;
        pair.exchange()?;
        Ok((world.metric("carried_total")? > 0).then_some(pair))
    };
    let mut newer = eventually_some(LIMIT, "the next one carries", carried)?;
    world.await_counts(0, 2)?;
    pair.exchange()?;
    ensure!(before.exited()?.is_none(), "it has gone although it carries one");
    drop(pair);
    ensure!(before.wait(LIMIT)?.success(), "{}", world.agent.log());
    newer.exchange()?;
    world.await_counts(0, 1)?;
    world.ensure_agreed()?;
    world.ctl().expect(0, UNDRAIN)?;
    ensure!(world.agent.maps()?.targets()? == 0);
    world.drain(&["--new=drop"])?;
    world.ensure_nothing_is_left()
}

#[test]
fn an_agent_that_is_asked_twice_to_stop_resets_what_it_carries() -> Result<()> {
    let (mut world, peer) = forwarding()?;
    let mut pair = world.served_by(&peer)?;
    pair.exchange()?;
    let mut before = world.agent.hand_on()?;
    pair.exchange()?;
    before.signal(Signal::TERM)?;
    ensure!(before.wait(LIMIT)?.success());
    ensure_reset(&pair)?;
    world.expect(&world.cluster.client, false, Refused)?;
    world.ensure_nothing_is_left()
}

//! What a drain does beyond closing a gate does not depend on the agent staying alive either: clients are treated by
//! their address, probes pass, and a new server takes over while nobody runs, and the next agent goes on with it.
//! What only a process can do, the next one does again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    cluster::PORT,
    fixture::serve,
    kubelet::Kubelet,
    net::{Attempt, Pair, attempt},
    wait::{LIMIT, eventually, eventually_some},
    world::{World, ensure_reset, forwarding},
};
use rustix::process::Signal;

use Attempt::{Connected, Refused, Unanswered};

/// Where a new server listens.
const OTHER: u16 = 8081;
/// By these, the client is ignored by IPv4 and a stranger by IPv6, and the node is refused by IPv4 and let in by IPv6.
const LISTS: &[&str] =
    &["--ignore=10.244.0.2", "--allow=fd00:244:1::1", "--fail-health-from=10.244.1.1"];
const UNDRAIN: &[&str] = &["undrain", "--port", "80"];

/// What [`LISTS`] say, for each kind of client.
fn expect_lists_in_force(world: &World) -> Result<()> {
    let (client, node) = (&world.cluster.client, &world.cluster.node);
    world.expect(client, false, Connected).context("ignored")?;
    world.expect(client, true, Refused).context("a stranger")?;
    world.expect(node, false, Refused).context("a health check")?;
    world.expect(node, true, Connected).context("allowed")
}

#[test]
fn lists_stay_in_force() -> Result<()> {
    let mut world = World::new()?;
    let mut ignored = vec![world.served_by(&world.old)?];
    world.drain(LISTS)?;
    ignored.push(world.served_by(&world.old)?);
    expect_lists_in_force(&world)?;
    let before = world.ctl().admission(PORT)?;
    world.agent.crash()?;
    ignored.push(world.served_by(&world.old)?);
    expect_lists_in_force(&world)?;
    world.launch()?;
    let after = world.ctl().admission(PORT)?;
    ensure!(after.ignored >= before.ignored + 2, "the gate itself decided: {before:?} {after:?}");
    ensure!(after.allowed > before.allowed && after.failed_health > before.failed_health);
    expect_lists_in_force(&world)?;
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
    ensure!(world.agent.metric("carried_total")? == 1 && world.agent.metric("carrying")? == 1);
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
        Ok((world.agent.metric("carried_total")? > 0).then_some(pair))
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

//! Options of a drain that meet: each does what it does alone.

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    cluster::PORT,
    fixture::serve,
    kubelet::Kubelet,
    net::{Attempt, connect},
    world::{World, forwarding},
};

use Attempt::{Connected, Refused};

/// Where a new server listens.
const OTHER: u16 = 8081;
const HANDOFF: &str = "--new=handoff=port:8081";

#[test]
fn lists_decide_before_anybody_is_carried() -> Result<()> {
    let (mut world, peer) = forwarding()?;
    world.ctl().expect(0, &["undrain", "--port", "80"])?;
    let to = format!("--new=forward={}", world.cluster.pods[1].v4);
    let lists = ["--allow=fd00:244:1::1", "--fail-health-from=10.244.1.1"];
    world.drain(&[&[to.as_str()], &lists[..]].concat())?;
    let (client, node) = (&world.cluster.client, &world.cluster.node);
    world.served_by(&peer)?.exchange().context("a stranger is carried")?;
    world.expect(node, false, Refused).context("a health check is not")?;
    world.expect(node, true, Connected).context("who is allowed is served here")?;
    let v6 = connect(client, world.pod().addr6())?;
    let _carried = (v6, peer.accept().context("a stranger by IPv6 is carried")?);
    world.await_counts(0, 1)?;
    let admission = world.ctl().admission(PORT)?;
    ensure!(admission.allowed >= 1 && admission.failed_health >= 1, "{admission:?}");
    ensure!(world.agent.metric("carried_total")? == 2);
    world.ensure_nothing_is_left()
}

#[test]
fn health_checks_fail_while_users_are_handed_over() -> Result<()> {
    let mut world = World::new()?;
    let new = serve(world.pod(), OTHER)?;
    let health = "--fail-health-from=10.244.1.1";
    let settle =
        ["--min-settle=1s", "--max-settle=20s", "--quiet=1s", "--timeout=50s", "--no-wait"];
    let drain = [&["drain", "--port=80", "--retire=none", HANDOFF, health][..], &settle].concat();
    let held = world.served_by(&world.old)?;
    world.ctl().expect(0, &drain)?;
    world.expect(&world.cluster.node, false, Refused).context("from the first moment on")?;
    world.ctl().await_state(PORT, "rejecting")?;
    world.served_by(&new)?.exchange().context("users go to the new server")?;
    world.expect(&world.cluster.node, false, Refused).context("also once the gate is closed")?;
    ensure!(world.ctl().admission(PORT)?.failed_health >= 2);
    world.await_counts(1, 0)?;
    drop(held);
    world.ctl().await_state(PORT, "drained")?;
    world.ensure_agreed()?;
    world.ensure_nothing_is_left()
}

#[test]
fn known_clients_stay_and_strangers_are_handed_over() -> Result<()> {
    let mut world = World::new()?;
    let new = serve(world.pod(), OTHER)?;
    drop(world.served_by(&world.old)?);
    world.drain(&[HANDOFF, "--keep-clients=10m"])?;
    let kept = world.served_by(&world.old).context("its session is at the old server")?;
    let stranger = connect(&world.cluster.node, world.pod().addr())?;
    let stranger = (stranger, new.accept().context("a stranger's is not")?);
    let service = world.await_counts(1, 1)?;
    let drain = service.drain.context("it drains")?;
    ensure!(drain.admission.kept >= 1 && drain.handed_over >= 1, "{drain:?}");
    drop(kept);
    world.await_counts(0, 1)?;
    drop(stranger);
    world.ensure_agreed()?;
    world.ensure_nothing_is_left()
}

#[test]
fn probes_reach_the_old_server_while_others_are_carried() -> Result<()> {
    let kubelet = Kubelet::new()?;
    let mut world = World::with(&["--probe-cgroup", kubelet.cgroup()?])?;
    let peer = serve(&world.cluster.pods[1], PORT)?;
    let held = world.served_by(&world.old)?;
    world.drain(&[&format!("--new=forward={}", world.cluster.pods[1].v4)])?;
    let probe = kubelet.probe(&world.cluster.node, world.pod().addr())?;
    let probe = (probe.context("a probe was refused")?, world.old.accept()?);
    let node = connect(&world.cluster.node, world.pod().addr())?;
    let carried = (node, peer.accept().context("another of the node's is carried")?);
    let service = world.await_counts(1, 1)?;
    ensure!(service.probes == 1, "{service:?}");
    drop(held);
    world.ctl().await_state(PORT, "drained")?;
    drop((probe, carried));
    world.ensure_agreed()?;
    world.ensure_nothing_is_left()
}

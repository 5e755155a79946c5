//! The agent is killed inside each step of what a drain does beyond closing a gate, and the next one finishes what it
//! was at, or takes it back.

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    cluster::PORT,
    fixture::serve,
    net::Attempt,
    ss::Sockets,
    wait::{LIMIT, eventually},
    world::World,
};

/// Where a new server listens.
const OTHER: u16 = 8081;
const LISTS: &[&str] = &["--ignore=10.244.0.2", "--fail-health-from=10.244.1.1"];
const HANDOFF: &[&str] = &["--new=handoff=port:8081"];
const DROP: &[&str] = &["--new=drop"];
const FORWARD: &[&str] = &["--new=forward=10.244.2.2"];
const UNDRAIN: &[&str] = &["undrain", "--port", "80"];

/// A world whose agent can be killed in the middle of a step, and is not running.
fn world() -> Result<World> {
    let mut world = World::prepare()?;
    world.agent.be_quiet();
    world.agent.set_program(env!("CARGO_BIN_EXE_agent"));
    Ok(world)
}

fn drain(options: &[&'static str]) -> Vec<&'static str> {
    let fixed = ["drain", "--port=80", "--quiet=0s", "--no-wait", "--if-unreachable=fail"];
    [&fixed[..], &["--retire=none"], options].concat()
}

/// Counts are right, whoever died before, and everything can be undone.
fn check(mut world: World) -> Result<()> {
    eventually(LIMIT, "status and ss agree on one connection", || {
        let (service, ss) =
            (world.ctl().service(PORT)?, Sockets::of(&world.pod().netns, PORT)?.flows());
        let all = service.flows + service.steered + service.ignored;
        Ok(service.state != "settling" && (all, ss) == (1, 1))
    })?;
    world.ensure_agreed()?;
    world.ctl().expect(0, UNDRAIN)?;
    world.await_counts(1, 0)?;
    world.expect_open()?;
    let maps = world.agent.maps()?;
    ensure!(maps.targets()? == 0 && maps.peers()? == 0, "something is left");
    world.ensure_agreed()?;
    world.ensure_nothing_is_left()
}

/// Dies there in the first drain, or else in its undrain.
fn killed_while_draining(place: &str, options: &[&'static str]) -> Result<()> {
    let mut world = world()?;
    let _new = serve(world.pod(), OTHER)?;
    world.agent.set_failpoint(Some(place));
    world.launch()?;
    world.agent.set_failpoint(None);
    let _held = world.served_by(&world.old)?;
    if world.ctl().run(&drain(options))?.code == Some(0) {
        world.ctl().run(UNDRAIN)?;
    }
    world.agent.await_death()?;
    world.launch()?;
    check(world)
}

/// Dies there when it takes over a drain whose gate is closed: it stays closed, and the next one goes on.
fn killed_while_starting(place: &str, options: &[&'static str], then: Attempt) -> Result<()> {
    let mut world = world()?;
    let _new = serve(world.pod(), OTHER)?;
    world.launch()?;
    let _held = world.served_by(&world.old)?;
    world.ctl().expect(0, &drain(options))?;
    world.agent.crash()?;
    world.agent.die_at(place, &[])?;
    world.expect(&world.cluster.client, false, Attempt::Refused)?;
    world.launch()?;
    let short = std::time::Duration::from_millis(300);
    eventually(LIMIT, "the next agent goes on", || {
        let got = drainctl_tests::net::attempt(&world.cluster.client, world.pod().addr(), short)?;
        Ok(got == then)
    })?;
    check(world)
}

fn each(places: &[&str], test: impl Fn(&str) -> Result<()>) -> Result<()> {
    places.iter().try_for_each(|place| test(place).with_context(|| format!("killed at {place:?}")))
}

#[test]
fn killed_while_lists_are_put_in_force() -> Result<()> {
    let places = ["guard: lists written", "guard: clients watched", "guard: in force"];
    each(&places, |place| killed_while_draining(place, LISTS))
}

#[test]
fn killed_while_a_port_is_handed_over() -> Result<()> {
    let places =
        ["steer: marked", "steer: targets in place", "hand over: targets known", "steer: ending"];
    each(&places, |place| killed_while_draining(place, HANDOFF))
}

#[test]
fn killed_while_it_begins_to_take_stragglers() -> Result<()> {
    killed_while_draining("stragglers: listening", DROP)?;
    each(&["stragglers: steered", "steer: ending"], |place| killed_while_draining(place, FORWARD))
}

#[test]
fn killed_while_it_takes_stragglers_again() -> Result<()> {
    killed_while_starting("stragglers: listening", DROP, Attempt::Unanswered)?;
    killed_while_starting("stragglers: steered", FORWARD, Attempt::Connected)
}

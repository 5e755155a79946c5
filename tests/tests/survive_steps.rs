//! The agent is killed inside each step of a drain, an undrain, a start and an upgrade, and the next one finishes
//! what it was at, or takes it back.

use anyhow::{Context, Result, ensure};
use drainctl_agent::kernel::VERSION;
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT},
    fixture::{Fixture, serve},
    net::Attempt,
    wait::{LIMIT, eventually},
};

/// One version later.
const NEXT: u32 = VERSION + 1;

const DRAIN: &[&str] =
    &["drain", "--port", "80", "--quiet", "0s", "--no-wait", "--if-unreachable", "fail"];
const UNDRAIN: &[&str] = &["undrain", "--port", "80"];

/// A pod, and an agent that can be killed in the middle of a step.
fn fixture() -> Result<Fixture> {
    let cluster = Cluster::single()?;
    let server = serve(&cluster.pods[0], PORT)?;
    let mut agent = Agent::prepare()?;
    agent.be_quiet();
    agent.set_program(env!("CARGO_BIN_EXE_agent"));
    Ok(Fixture { agent, server, cluster })
}

/// What is said is true, whoever died before; then everything can be undone.
fn check(mut fixture: Fixture, must_be_closed: Option<bool>) -> Result<()> {
    let closed = fixture.attempt()? == Attempt::Refused;
    ensure!(must_be_closed.is_none_or(|must| must == closed), "the gate is closed: {closed}");
    // A gate that was about to be closed may close in between.
    let pair = (!closed).then(|| fixture.pair()).and_then(Result::ok);
    eventually(LIMIT, "the gate is as the state says", || {
        let open = fixture.service()?.state == "serving";
        Ok(open == (fixture.attempt()? == Attempt::Connected))
    })?;
    fixture.await_agreement()?;
    fixture.ctl().expect(0, UNDRAIN)?;
    fixture.ensure_untouched()?;
    drop(pair);
    fixture.agent.stop()?;
    fixture.ensure_nothing_is_left()
}

/// Dies at this place while it drains or undrains.
fn killed_while_draining(place: &str) -> Result<()> {
    let mut fixture = fixture()?;
    fixture.agent.set_failpoint(Some(place));
    fixture.agent.launch(&[])?;
    fixture.agent.set_failpoint(None);
    let pair = fixture.pair()?;
    let accepted = fixture.ctl().run(DRAIN)?.code == Some(0);
    // Before the answer, or in the first round after it.
    if !accepted || place.starts_with("retire") {
        fixture.agent.await_death()?;
    }
    let drained = accepted && !fixture.agent.is_running()?;
    if !drained && accepted {
        fixture.ctl().run(UNDRAIN)?;
        fixture.agent.await_death()?;
    }
    ensure!(!fixture.agent.is_running()?);
    if drained {
        ensure!(fixture.attempt()? == Attempt::Refused, "it was accepted");
    }
    fixture.agent.launch(&[])?;
    drop(pair);
    check(fixture, drained.then_some(true))
}

fn each(places: &[&str], test: impl Fn(&str) -> Result<()>) -> Result<()> {
    places.iter().try_for_each(|place| test(place).with_context(|| format!("killed at {place:?}")))
}

#[test]
fn killed_inside_a_drain() -> Result<()> {
    let places = [
        "drain: to be saved",
        "drain: saved",
        "gate: rule written",
        "gate: attached",
        "gate: pinned",
        "retire: rule written",
        "retire: joined",
    ];
    each(&places, killed_while_draining)
}

#[test]
fn killed_inside_an_undrain() -> Result<()> {
    let places = [
        "gate: rule removed",
        "pins: detached",
        "drain: to be forgotten",
        "restore: revoked",
        "restore: let go",
    ];
    each(&places, killed_while_draining)
}

#[test]
fn killed_inside_a_start() -> Result<()> {
    let places = [
        "adopt: tracker replaced",
        "adopt: gate replaced",
        "adopt: flows taken in",
        "adopt: others released",
    ];
    each(&places, |place| {
        let mut fixture = fixture()?;
        fixture.agent.launch(&[])?;
        let pair = fixture.pair()?;
        fixture.ctl().expect(0, DRAIN)?;
        fixture.agent.crash()?;
        fixture.agent.die_at(place, &[])?;
        ensure!(fixture.attempt()? == Attempt::Refused);
        fixture.agent.launch(&[])?;
        drop(pair);
        check(fixture, Some(true))
    })
}

/// From one version to the next and, each time, either on or back.
fn killed_while_upgrading(place: &str, goes_on: bool) -> Result<()> {
    let next = ["--abi", &NEXT.to_string()].map(str::to_owned);
    let next: Vec<&str> = next.iter().map(String::as_str).collect();
    let mut fixture = fixture()?;
    fixture.agent.launch(&[])?;
    let pair = fixture.pair()?;
    fixture.ctl().expect(0, DRAIN)?;
    fixture.agent.crash()?;
    fixture.agent.die_at(place, &next)?;
    ensure!(fixture.attempt()? == Attempt::Refused);
    let (options, gone) = if goes_on { (&next[..], VERSION) } else { (&[][..], NEXT) };
    fixture.agent.launch(options)?;
    let gone = fixture.agent.bpffs().pin_dir().join(format!("v{gone}"));
    ensure!(!gone.exists(), "nothing is left of the other version");
    drop(pair);
    check(fixture, Some(true))
}

#[test]
fn killed_inside_an_upgrade() -> Result<()> {
    let places = [
        "adopt: tracker replaced",
        "upgrade: drains copied",
        "adopt: others released",
        "upgrade: other detached",
        "upgrade: other let go",
    ];
    for goes_on in [true, false] {
        each(&places, |place| killed_while_upgrading(place, goes_on))
            .with_context(|| format!("and then goes on: {goes_on}"))?;
    }
    Ok(())
}

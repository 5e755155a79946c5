//! Work that is no connection keeps a service from being drained.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use drainctl_tests::{
    cluster::PORT,
    ctl::{Hold, Running},
    fixture::Fixture,
    net::{self, Listening, Server},
    wait::{LIMIT, eventually, throughout},
};
use rustix::process::Signal;

const DRAIN: &[&str] = &["drain", "--port", "80", "--quiet", "0s", "--timeout", "58s"];
const HOLD: &[&str] = &["hold", "--port", "80", "--name", "batch-42"];
/// Longer than the `--ttl` of [`working`], twice.
const WHILE: Duration = Duration::from_secs(7);
/// Works until it is told to stop, and ends with a code of its own.
const WORK: &[&str] =
    &["--", "sh", "-c", "trap 'exit 7' TERM; echo begun; while :; do sleep 0.05; done"];

fn holds(fixture: &Fixture) -> Result<Vec<Hold>> {
    Ok(fixture.ctl().find(PORT)?.map_or_else(Vec::new, |service| service.holds))
}

/// Work that holds port 80, for 3 seconds if nobody renewed it.
fn working(fixture: &Fixture) -> Result<Running> {
    let mut work = fixture.ctl().start(&[HOLD, &["--ttl", "3s"], WORK].concat())?;
    eventually(LIMIT, "the work has begun", || Ok(work.stdout()?.contains("begun")))?;
    ensure!(holds(fixture)?.len() == 1, "port 80 is not held");
    Ok(work)
}

#[test]
fn a_port_is_not_drained_while_a_command_runs() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut work = working(&fixture)?;
    fixture.ctl().run(&["status"])?.says("held by: hold batch-42")?;
    let mut drain = fixture.ctl().start(DRAIN)?;
    fixture.ctl().await_state(PORT, "rejecting")?;
    throughout(WHILE, "it is renewed, and not drained", || {
        let service = fixture.service()?;
        let held = service.holds.iter().any(|hold| hold.name == "batch-42");
        Ok(service.state == "rejecting" && service.flows == 0 && held && work.is_running()?)
    })?;
    ensure!(drain.is_running()?);
    fixture.ctl().expect(3, &["ready", "--port", "80"])?;
    fixture.ctl().run(&["status"])?.says("waits for: hold batch-42")?;
    work.signal(Signal::TERM)?;
    work.wait()?.expect(7)?;
    drain.wait()?.expect(0)?.says("hold batch-42")?;
    ensure!(holds(&fixture)?.is_empty());
    fixture.ctl().expect(8, &[HOLD, &["--", "true"]].concat())?.says("is drained")?;
    fixture.ctl().expect(0, &["undrain", "--port", "80"])?;
    fixture.ensure_untouched()
}

#[test]
fn a_hold_that_is_never_released_ends_by_itself_and_not_after_the_deadline_of_the_drain()
-> Result<()> {
    let fixture = Fixture::new()?;
    let ctl = fixture.ctl();
    ctl.expect(0, &[HOLD, &["--ttl", "1m"]].concat())?.says("--release")?;
    let deadline = ["drain", "--port", "80", "--quiet", "0s", "--timeout", "1s"];
    ctl.expect(3, &deadline)?.says("waits for: hold batch-42")?;
    ctl.expect(8, &["hold", "--port", "80", "--name", "new", "--unless-draining"])?
        .says("--unless-draining")?;
    ctl.expect(0, &["hold", "--port", "80", "--name", "second-phase", "--ttl", "2s"])?;
    ctl.expect(0, &[HOLD, &["--release"]].concat())?.says("released")?;
    ctl.expect(0, &[HOLD, &["--release"]].concat())?.says("did not hold")?;
    ctl.expect(0, &["wait", "--port", "80", "--for", "drained"])?;
    ensure!(fixture.agent.log().contains("its time is over"));
    fixture.ctl().expect(0, &["undrain", "--port", "80"])?;
    fixture.ensure_untouched()
}

#[test]
fn an_agent_that_is_killed_leaves_holds_to_the_next() -> Result<()> {
    let mut fixture = Fixture::new()?;
    fixture.ctl().expect(0, &[HOLD, &["--ttl", "2m"]].concat())?;
    let mut drain = fixture.ctl().start(DRAIN)?;
    fixture.ctl().await_state(PORT, "rejecting")?;
    let before = holds(&fixture)?;
    fixture.agent.crash()?;
    fixture.agent.launch(&[])?;
    let after = holds(&fixture)?;
    ensure!(after.len() == 1 && after[0].left_ms < before[0].left_ms, "{before:?} {after:?}");
    ensure!(after[0].age_ms > before[0].age_ms, "{before:?} {after:?}");
    fixture.ctl().expect(3, &["ready", "--port", "80"])?;
    ensure!(drain.is_running()?);
    fixture.ctl().expect(0, &[HOLD, &["--release"]].concat())?;
    drain.wait()?.expect(0)?;
    fixture.ctl().expect(0, &["undrain", "--port", "80"])?;
    fixture.ensure_untouched()
}

#[test]
fn the_command_goes_on_without_an_agent_and_ends_with_its_code() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let table: [(&[&str], i32); 4] = [
        (&["true"], 0),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["no-such-command"], 127),
        (&["/etc/passwd"], 126),
    ];
    for (command, code) in table {
        fixture.ctl().expect(code, &[HOLD, &["--"], command].concat())?;
        ensure!(holds(&fixture)?.is_empty(), "{command:?} still holds");
    }
    let mut work = working(&fixture)?;
    fixture.agent.crash()?;
    eventually(LIMIT, "it is noticed", || Ok(work.stderr()?.contains("cannot be renewed")))?;
    ensure!(work.is_running()?);
    work.signal(Signal::TERM)?;
    work.wait()?.expect(7)?.says("it ends by itself")?;
    // Nothing is run that nobody knows of.
    let unreachable = ["--if-unreachable", "fail", "--", "sh", "-c", "echo it runs"];
    let outcome = fixture.ctl().expect(4, &[HOLD, &unreachable].concat())?;
    ensure!(!outcome.stdout.contains("it runs"), "{outcome}");
    let waiting = ["--if-unreachable", "wait=1m", "--", "sh", "-c", "echo it runs"];
    let mut asked = fixture.ctl().start(&[HOLD, &waiting].concat())?;
    eventually(LIMIT, "it waits", || Ok(asked.stderr()?.contains("trying again")))?;
    asked.signal(Signal::TERM)?;
    let outcome = asked.wait()?.expect(143)?.says("SIGTERM: the command was not run")?;
    ensure!(!outcome.stdout.contains("it runs"), "{outcome}");
    Ok(())
}

#[test]
fn who_may_hold_and_what_is_no_hold() -> Result<()> {
    let fixture = Fixture::new()?;
    let stranger = fixture.ctl().as_user(1234)?;
    stranger.expect(5, HOLD)?.says("may not")?;
    let bad: [&[&str]; 4] = [
        &["hold", "--port", "80", "--name", "a b"],
        &["hold", "--port", "80", "--name", "a", "--ttl", "10ms"],
        &["hold", "--port", "80", "--name", "a", "--ttl", "25h"],
        &["hold", "--port", "80", "--name", "a", "--release", "--", "true"],
    ];
    for args in bad {
        fixture.ctl().expect(2, args)?;
    }
    // A port that nobody listens on is one for as long as something holds it: for consumers of queues.
    let worker = ["drain", "--port", "7777", "--quiet", "0s"];
    fixture.ctl().expect(6, &worker)?;
    fixture.ctl().expect(0, &["hold", "--port", "7777", "--name", "queue", "--ttl", "5s"])?;
    ensure!(fixture.ctl().find(7777)?.is_some_and(|service| service.holds.len() == 1));
    fixture.ctl().expect(0, &worker)?;
    fixture.ctl().expect(0, &["undrain", "--port", "7777"])?;
    Ok(())
}

#[test]
fn connections_of_the_services_own_are_waited_for() -> Result<()> {
    let fixture = Fixture::new()?;
    let broker: SocketAddr = ([10, 244, 0, 2], 5672).into();
    let server = Server::start(&fixture.cluster.client, Listening::on(broker.ip(), broker.port()))?;
    let consumer = net::connect(&fixture.pod().netns, broker)?;
    let _accepted = server.accept()?;
    let to = broker.to_string();
    let waits = ["--wait-outbound", &to, "--wait-outbound", "10.244.0.2:1"];
    let mut drain = fixture.ctl().start(&[DRAIN, &waits].concat())?;
    fixture.ctl().await_state(PORT, "rejecting")?;
    throughout(WHILE, "it waits", || {
        let service = fixture.service()?;
        Ok(service.state == "rejecting" && service.flows == 0 && drain.is_running()?)
    })?;
    fixture.ctl().run(&["status"])?.says("waits for: 1 connection to 10.244.0.2:5672")?;
    let other = ["drain", "--port", "80", "--quiet", "0s", "--no-wait"];
    fixture.ctl().expect(8, &other)?.says("--wait-outbound")?;
    drop(consumer);
    drain.wait()?.expect(0)?;
    fixture.ctl().expect(0, &["undrain", "--port", "80"])?;
    for nobody in ["0.0.0.0:80", "10.0.0.1", "10.0.0.1:0"] {
        fixture.ctl().expect(2, &["drain", "--port", "80", "--wait-outbound", nobody])?;
    }
    fixture.ensure_untouched()
}

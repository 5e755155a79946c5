//! Nothing depends on the agent staying alive: what is in the kernel when it ends, and what the next one makes of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::PORT,
    fixture::{Fixture, serve},
    net::{self, Attempt},
    wait::{LIMIT, eventually, throughout},
};

const DRAIN: &[&str] = &["drain", "--port", "80", "--quiet", "0s"];
/// How long to watch what must not happen.
const WHILE: Duration = Duration::from_millis(1500);

/// How an agent ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Stopped,
    Killed,
}

impl End {
    fn of(self, agent: &mut Agent) -> Result<()> {
        match self {
            Self::Stopped => agent.stop(),
            Self::Killed => agent.crash(),
        }
    }
}

fn refused(fixture: &Fixture) -> Result<bool> {
    Ok(fixture.attempt()? == Attempt::Refused)
}

fn gate_and_waiters_outlive(end: End) -> Result<()> {
    let mut fixture = Fixture::new()?;
    let pair = fixture.pair()?;
    // An agent that is built for debugging takes its time to load its programs.
    let mut drain = fixture.ctl().start(&[DRAIN, &["--timeout", "58s"]].concat())?;
    let before = fixture.ctl().await_state(PORT, "rejecting")?;
    fixture.await_refused()?;
    let mut wait =
        fixture.ctl().start(&["wait", "--port", "80", "--for", "drained", "--timeout", "58s"])?;
    eventually(LIMIT, "it has found the service", || Ok(!wait.stderr()?.is_empty()))?;
    end.of(&mut fixture.agent)?;
    throughout(WHILE, "the gate stays closed without an agent", || refused(&fixture))?;
    fixture.agent.launch(&[])?;
    let after = fixture.service()?;
    ensure!(after.state == "rejecting" && after.flows == 1, "{after:?}");
    ensure!(after.rejected > before.rejected, "the counter goes on: {before:?} {after:?}");
    let (before, after) = (before.drain.context("a drain")?, after.drain.context("a drain")?);
    ensure!(after.deadline_in_ms < before.deadline_in_ms, "the deadline is the same point in time");
    for waiting in [&mut drain, &mut wait] {
        ensure!(waiting.is_running()?, "it gave up: {}", waiting.stderr()?);
    }
    ensure!(refused(&fixture)?);
    drop(pair);
    drain.wait()?.expect(0)?;
    wait.wait()?.expect(0)?;
    fixture.ctl().expect(0, &["ready", "--port", "80"])?;
    fixture.ctl().expect(0, &["undrain", "--port", "80"])?;
    fixture.ensure_untouched()
}

#[test]
fn a_stopped_agent_leaves_drains_to_the_next() -> Result<()> {
    gate_and_waiters_outlive(End::Stopped)
}

#[test]
fn a_killed_agent_leaves_drains_to_the_next() -> Result<()> {
    gate_and_waiters_outlive(End::Killed)
}

#[test]
fn connections_are_counted_while_nobody_runs() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let first = fixture.pairs(3)?;
    fixture.await_agreement()?;
    for end in [End::Killed, End::Stopped] {
        let before = fixture.accepted()?;
        end.of(&mut fixture.agent)?;
        let second = fixture.pairs(4)?;
        fixture.agent.launch(&[])?;
        ensure!(fixture.accepted()? == before + 4, "the tracker itself has counted them");
        ensure!(fixture.await_agreement()?.flows() == 7);
        end.of(&mut fixture.agent)?;
        drop(second);
        fixture.agent.launch(&[])?;
        ensure!(fixture.await_agreement()?.flows() == 3);
    }
    let log = fixture.agent.log();
    ensure!(!log.contains("disagreed"), "there was nothing to mend: {log}");
    drop(first);
    Ok(())
}

#[test]
fn an_undrain_and_a_new_drain_work_after_a_crash() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let second = serve(fixture.pod(), 8080)?;
    let ctl = ["drain", "--port", "80,8080", "--quiet", "0s"];
    fixture.ctl().expect(0, &ctl)?;
    fixture.agent.crash()?;
    fixture.agent.launch(&[])?;
    fixture.ctl().expect(0, &["undrain", "--port", "80"])?;
    fixture.await_connected()?;
    let other = (fixture.pod().v4, 8080).into();
    let client = &fixture.cluster.client;
    ensure!(net::attempt(client, other, LIMIT)? == Attempt::Refused, "only one port was undrained");
    fixture.agent.crash()?;
    fixture.agent.launch(&[])?;
    fixture.await_connected()?;
    ensure!(net::attempt(client, other, LIMIT)? == Attempt::Refused);
    fixture.ctl().expect(0, DRAIN)?;
    fixture.await_refused()?;
    fixture.ctl().expect(0, &["undrain", "--port", "80,8080"])?;
    fixture.ensure_untouched()?;
    drop(second);
    Ok(())
}

#[test]
fn two_agents_on_one_pin_directory_are_refused_and_uninstall_waits_for_the_end() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let pair = fixture.pair()?;
    fixture.ctl().expect(0, &[DRAIN, &["--no-wait"]].concat())?;
    fixture.await_refused()?;
    let mut second = Agent::prepare()?;
    second.be_quiet();
    second.set_pin_dir(fixture.agent.bpffs().pin_dir());
    let error = second.launch(&[]);
    let error = format!("{:#}", error.err().context("two agents on one pin directory")?);
    ensure!(error.contains("another agent is running on the pin directory"), "{error}");
    let output = fixture.agent.uninstall()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(text.contains("another agent is running on the pin directory"), "{text}");
    ensure!(refused(&fixture)?, "nothing was touched");

    fixture.agent.stop()?;
    ensure!(refused(&fixture)?);
    let output = fixture.agent.uninstall()?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(fixture.attempt()? == Attempt::Connected, "the gate is open when it returns");
    let left = fixture.agent.bpffs().contents()?;
    ensure!(left.is_empty(), "{left:?}");
    ensure!(fixture.agent.uninstall()?.status.success(), "nothing to do is done");
    fixture.agent.launch(&[])?;
    fixture.ensure_untouched()?;
    drop(pair);
    Ok(())
}

#[test]
fn a_map_keeps_its_size_and_the_log_says_so() -> Result<()> {
    let mut fixture = Fixture::with(&["--max-flows", "100"])?;
    fixture.agent.stop()?;
    fixture.agent.launch(&["--max-flows", "200"])?;
    let log = fixture.agent.log();
    ensure!(log.contains("the map keeps the size"), "{log}");
    fixture.ensure_untouched()
}

#[test]
fn a_pin_directory_elsewhere_is_refused_with_the_way_out() -> Result<()> {
    let mut agent = Agent::prepare()?;
    agent.be_quiet();
    agent.set_pin_dir(agent.dir().join("pins"));
    let error = agent.launch(&[]).err().context("it started")?;
    let error = format!("{error:#}");
    ensure!(error.contains("is not on a bpffs") && error.contains("mount -t bpf"), "{error}");
    ensure!(!error.contains("panicked"), "{error}");
    Ok(())
}

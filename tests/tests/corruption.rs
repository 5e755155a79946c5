//! A tracker that is wrong, spoilt on purpose: the second look finds out, and a false zero is never said.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    cluster::PORT,
    ctl::Outcome,
    fixture::Fixture,
    net::Attempt,
    wait::{LIMIT, eventually, patient, throughout},
};

const DRAIN: &[&str] = &["drain", "--port", "80", "--quiet", "0s"];

/// "Not yet" (3) and "I cannot tell" (7) are right while a connection is there; "drained" is a lie.
fn ensure_not_zero(outcome: &Outcome) -> Result<()> {
    ensure!(matches!(outcome.code, Some(3 | 7)), "{outcome}");
    Ok(())
}

/// Counted, and told in the log: never mended in silence.
fn ensure_told(fixture: &Fixture) -> Result<()> {
    let metrics = String::from_utf8(fixture.agent.http("GET", "/metrics", "")?.body)?;
    for name in ["drainctl_disagreements_total ", "drainctl_repairs_total "] {
        let counted = metrics.lines().find_map(|line| line.strip_prefix(name));
        ensure!(counted.is_some_and(|count| count != "0"), "{name}: {counted:?}");
    }
    let log = fixture.agent.log();
    ensure!(log.contains("disagreed with an independent look"), "{log}");
    Ok(())
}

#[test]
fn a_counter_set_to_zero_does_not_drain() -> Result<()> {
    let fixture = Fixture::new()?;
    let pair = fixture.pair()?;
    ensure!(fixture.await_agreement()?.flows() == 1);
    let (maps, netns) = (fixture.agent.maps()?, fixture.pod().netns.inode());
    let mut counts = fixture.counts()?.context("no counters")?;
    counts.flows = 0;
    maps.set_counts(netns, PORT, &counts)?;
    ensure_not_zero(&fixture.ctl().run(&[DRAIN, &["--timeout", "3s"]].concat())?)?;
    fixture.await_refused()?;
    ensure!(fixture.service()?.rejected > 0);
    // Repaired: the count is right again, and its end is noticed.
    ensure!(fixture.await_agreement()?.flows() == 1);
    ensure_told(&fixture)?;
    drop(pair);
    let wait = ["wait", "--port", "80", "--for", "drained", "--timeout", "20s"];
    fixture.ctl().expect(0, &wait)?;
    Ok(())
}

#[test]
fn a_forgotten_flow_does_not_drain() -> Result<()> {
    // So many slots are shown faster than the drain's deadline comes, and have room for the flows of tests beside this one.
    let fixture = Fixture::with(&["--max-flows", "16384"])?;
    let pair = fixture.pair()?;
    ensure!(fixture.await_agreement()?.flows() == 1);
    let (maps, netns) = (fixture.agent.maps()?, fixture.pod().netns.inode());
    // Long enough for what comes before its end; `ctl` would lengthen 50 to 60 s, which 5 and 6 s become, once more.
    let time = format!("{}s", patient(Duration::from_secs(7)).as_secs());
    let mut drain = fixture.ctl().start(&[DRAIN, &["--timeout", &time]].concat())?;
    fixture.ctl().await_state(PORT, "rejecting")?;
    // In the middle of the drain, everything the tracker knows is lost.
    for flow in maps.flows(netns, PORT)? {
        maps.delete_flow(&flow)?;
    }
    let mut counts = fixture.counts()?.context("no counters")?;
    counts.flows = 0;
    maps.set_counts(netns, PORT, &counts)?;
    throughout(Duration::from_secs(2), "not drained with a connection", || drain.is_running())?;
    ensure!(fixture.attempt()? == Attempt::Refused);
    ensure_not_zero(&drain.wait()?)?;
    drop(pair);
    Ok(())
}

#[test]
fn a_counter_too_high_is_repaired() -> Result<()> {
    let fixture = Fixture::new()?;
    ensure!(fixture.attempt()? == Attempt::Connected);
    ensure!(fixture.await_agreement()?.flows() == 0);
    let (maps, netns) = (fixture.agent.maps()?, fixture.pod().netns.inode());
    let mut counts = fixture.counts()?.context("no counters")?;
    counts.flows = 5;
    maps.set_counts(netns, PORT, &counts)?;
    ensure!(fixture.counts()?.is_some_and(|counts| counts.flows == 5));
    fixture.ctl().expect(0, DRAIN)?;
    ensure!(fixture.await_agreement()?.flows() == 0);
    ensure_told(&fixture)?;
    fixture.await_refused()?;
    ensure!(fixture.service()?.rejected > 0);
    Ok(())
}

#[test]
fn a_full_map_is_unknown_and_never_drained() -> Result<()> {
    let fixture = Fixture::with(&["--max-flows", "64"])?;
    ensure!(fixture.attempt()? == Attempt::Connected);
    ensure!(fixture.await_agreement()?.flows() == 0);
    ensure!(fixture.service()?.unknown.is_none());
    // There are as many slots.
    let pairs = fixture.pairs(200)?;
    let service = fixture
        .ctl()
        .await_service(PORT, "the full map is reported", |service| service.unknown.is_some())?;
    ensure!(service.unknown.is_some());
    let lost = fixture.counts()?.map(|counts| counts.lost);
    ensure!(lost.is_some_and(|lost| lost > 0));
    eventually(LIMIT, "the kernel program says so itself", || {
        Ok(fixture.agent.log().contains("no room to count a flow of port 80"))
    })?;
    fixture.ctl().expect(7, &[DRAIN, &["--timeout", "5s"]].concat())?;
    fixture.ctl().expect(7, &["ready", "--port", "80"])?;
    ensure!(
        fixture.counts()?.map(|counts| counts.lost) == lost,
        "a repair does not lose them again"
    );
    drop(pairs);
    fixture.ctl().await_state(PORT, "drained")?;
    Ok(())
}

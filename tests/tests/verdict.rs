//! The verdict: zero is said when it is proven, and never before.

use std::{
    io::{Read, Write},
    net::Shutdown,
    time::Duration,
};

use anyhow::{Result, ensure};
use drainctl_tests::{
    cluster::PORT,
    fixture::Fixture,
    net::{self, Attempt, LostAcks},
    ss::Sockets,
    wait::{LIMIT, eventually, throughout},
};

const DRAIN: &[&str] = &["drain", "--port", "80", "--quiet", "0s"];

/// Long enough for a wrong "zero" to come out.
const A_WHILE: Duration = Duration::from_millis(1500);

#[test]
fn not_while_a_handshake_is_in_progress() -> Result<()> {
    let fixture = Fixture::new()?;
    let client = &fixture.cluster.client;
    ensure!(fixture.attempt()? == Attempt::Connected);
    let lost = LostAcks::start(client, PORT)?;
    let stream = net::connect(client, fixture.pod().addr())?;
    eventually(LIMIT, "SYN_RECV", || Ok(Sockets::of(&fixture.pod().netns, PORT)?.syn_recv == 1))?;
    let ctl = fixture.ctl();
    let mut drain = ctl.start(DRAIN)?;
    ctl.await_service(PORT, "a handshake is reported", |service| {
        service.state == "rejecting" && service.handshakes == 1
    })?;
    throughout(A_WHILE, "not drained with a handshake", || drain.is_running())?;
    ctl.expect(3, &["ready", "--port", "80"])?;
    drop(lost);
    let accepted = fixture.server.accept()?;
    ctl.await_service(PORT, "it is a flow now", |service| service.flows == 1)?;
    ensure!(drain.is_running()?);
    drop((stream, accepted));
    drain.wait()?.expect(0)?;
    ctl.expect(0, &["ready", "--port", "80"])?;
    fixture.await_refused()?;
    ensure!(fixture.service()?.rejected > 0);
    Ok(())
}

#[test]
fn not_while_a_connection_waits_in_the_accept_queue() -> Result<()> {
    let fixture = Fixture::new()?;
    let waiting = net::connect(&fixture.cluster.client, fixture.pod().addr())?;
    let before = fixture.accepted()?;
    let ctl = fixture.ctl();
    let mut drain = ctl.start(DRAIN)?;
    let service = ctl.await_state(PORT, "rejecting")?;
    ensure!(service.flows == 1, "{service:?}");
    throughout(A_WHILE, "not drained with a connection queued", || drain.is_running())?;
    drop((fixture.server.accept()?, waiting));
    drain.wait()?.expect(0)?;
    ensure!(before == 1, "the tracker has counted the queued connection: {before}");
    Ok(())
}

#[test]
fn not_while_a_half_closed_request_is_executing() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut pair = fixture.pair()?;
    // The client has sent its request and says so with a FIN; the server still works on it.
    pair.client.write_all(b"request")?;
    pair.client.shutdown(Shutdown::Write)?;
    let mut request = Vec::new();
    pair.server.read_to_end(&mut request)?;
    ensure!(request == b"request");
    let ctl = fixture.ctl();
    let mut drain = ctl.start(DRAIN)?;
    let service = ctl.await_state(PORT, "rejecting")?;
    ensure!(service.flows == 1, "{service:?}");
    throughout(A_WHILE, "not drained with a request under way", || drain.is_running())?;
    pair.server.write_all(b"response")?;
    drop(pair.server);
    let mut response = Vec::new();
    pair.client.read_to_end(&mut response)?;
    ensure!(response == b"response");
    drain.wait()?.expect(0)?;
    ensure!(fixture.accepted()? == 1);
    Ok(())
}

#[test]
fn a_lingering_connection_counts_for_a_time() -> Result<()> {
    let fixture = Fixture::new()?;
    let pair = fixture.pair()?;
    let ctl = fixture.ctl();
    let drain = ctl.start(DRAIN)?;
    ctl.await_state(PORT, "rejecting")?;
    // The server has sent its FIN but may still be executing what it has read.
    pair.server.shutdown(Shutdown::Write)?;
    ctl.await_service(PORT, "lingering", |service| service.lingering == 1)?;
    ctl.expect(3, &["ready", "--port", "80"])?;
    // The client never closes; after the linger time the verdict comes all the same.
    drain.wait()?.expect(0)?;
    ensure!(Sockets::of(&fixture.pod().netns, PORT)?.fin_wait2 == 1);
    fixture.await_refused()?;
    ensure!(fixture.service()?.rejected > 0);
    drop(pair);
    Ok(())
}

#[test]
fn the_deadline_leaves_the_gate_closed() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut pair = fixture.pair()?;
    let ctl = fixture.ctl();
    ctl.expect(3, &[DRAIN, &["--timeout", "2s"]].concat())?;
    let service = ctl.await_state(PORT, "expired")?;
    ensure!(service.flows == 1, "{service:?}");
    ctl.expect(3, &["ready", "--port", "80"])?;
    fixture.await_refused()?;
    pair.exchange()?;
    drop(pair);
    ctl.expect(0, &["wait", "--port", "80", "--for", "drained", "--timeout", "20s"])?;
    ctl.expect(0, &["ready", "--port", "80"])?;
    ensure!(fixture.service()?.rejected > 0);
    Ok(())
}

#[test]
fn a_drained_port_shows_no_connection_of_ss() -> Result<()> {
    let fixture = Fixture::new()?;
    for round in 0..5 {
        let pairs = fixture.pairs(20)?;
        let ctl = fixture.ctl();
        let mut drain = ctl.start(DRAIN)?;
        ctl.await_state(PORT, "rejecting")?;
        ensure!(drain.is_running()?);
        drop(pairs);
        drain.wait()?.expect(0)?;
        let sockets = Sockets::of(&fixture.pod().netns, PORT)?;
        ensure!((sockets.flows(), sockets.syn_recv) == (0, 0), "round {round}: {sockets:?}");
        ctl.expect(0, &["undrain", "--port", "80"])?;
    }
    ensure!(fixture.accepted()? == 100);
    Ok(())
}

//! Connections that cannot be told, for a reason: each is left alone, byte for byte, and the reason is shown.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT},
    fixture::Fixture,
    held::{Held, drain},
    net::{self, Pair, Server},
    options::{ask_for_kernel_tls, ask_for_zero_copy},
    script::{talk, told, untold},
    sockmap::ForeignSockmap,
    wire::Wire,
};

const HTTP: &[&str] = &["--timeout", "50s", "--spread", "0s", "--retire", "http"];

/// The one with a barrier answers as it likes, a plain one beside it is told, and both are shown as what they are.
fn left_alone(fixture: &Fixture, mut barred: Held, reason: &str) -> Result<()> {
    let mut plain = Held::connect(fixture)?;
    let drain = drain(fixture, HTTP, [&barred, &plain])?;
    talk(&mut barred.wire, &untold())?;
    talk(&mut plain.wire, &told())?;
    talk(&mut barred.wire, &untold())?;
    let ctl = fixture.ctl();
    ctl.await_service(PORT, "the told one is counted", |service| {
        service.drain.as_ref().is_some_and(|drain| drain.retire.told_by_header == 1)
    })?;
    let retire = ctl.retire(PORT)?;
    ensure!(retire.barriers() == [(reason, 1)] && retire.lacks.is_none(), "{retire:?}");
    let flows = ctl.flows(PORT)?;
    let barriers: Vec<_> = flows.iter().filter_map(|flow| flow.barrier.as_deref()).collect();
    ensure!(barriers == [reason] && flows.len() == 2, "{flows:?}");
    drop((barred, plain));
    drain.wait()?.expect(0)?;
    Ok(())
}

#[test]
fn a_flow_in_a_sockmap_of_somebody_else_is_left_alone() -> Result<()> {
    let fixture = Fixture::new()?;
    let held = Held::connect(&fixture)?;
    let sockmap = ForeignSockmap::new()?;
    sockmap.insert(held.wire.server())?;
    left_alone(&fixture, held, "foreign")
}

#[test]
fn a_flow_with_zero_copy_sending_is_left_alone() -> Result<()> {
    let fixture = Fixture::new()?;
    let held = Held::connect(&fixture)?;
    ask_for_zero_copy(held.wire.server())?;
    left_alone(&fixture, held, "zero_copy")
}

#[test]
#[ignore = "needs TLS in the kernel: cargo xtask vm runs it"]
fn a_flow_that_is_prepared_for_tls_in_the_kernel_is_left_alone() -> Result<()> {
    let fixture = Fixture::new()?;
    let held = Held::connect(&fixture)?;
    // Until the server hands over keys, what it writes is sent as it is.
    ask_for_kernel_tls(held.wire.server())?;
    left_alone(&fixture, held, "ktls")
}

#[test]
fn multipath_tcp_is_left_alone_and_plain_tcp_beside_it_is_told() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let addr = SocketAddr::from((pod.v4, PORT));
    let server = Server::start_mptcp(&pod.netns, addr)?;
    let agent = Agent::start()?;
    let ctl = agent.ctl(&pod.netns);
    let mut multipath = Wire::new(server.mptcp_pair(&cluster.client, addr)?)?;
    let client = net::connect(&cluster.client, addr)?;
    let mut plain = Wire::new(Pair { client, server: server.accept()? })?;
    let drain = ctl.start(&[&["drain", "--port", "80", "--quiet", "0s"], HTTP].concat())?;
    ctl.await_service(PORT, "the flow of Multipath TCP is known", |service| {
        let retire = service.drain.as_ref().map(|drain| &drain.retire);
        retire.is_some_and(|retire| retire.barriers() == [("mptcp", 1)])
    })?;
    talk(&mut multipath, &untold())?;
    talk(&mut plain, &told()).context("a plain client of a Multipath TCP listener")?;
    talk(&mut multipath, &untold())?;
    ctl.await_service(PORT, "one is told", |service| {
        service.drain.as_ref().is_some_and(|drain| drain.retire.told_by_header == 1)
    })?;
    drop((multipath, plain));
    drain.wait()?.expect(0)?;
    Ok(())
}

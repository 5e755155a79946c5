//! Counts: equal to what `ss` says, whatever happens to the connections.

use std::{net::Shutdown, thread, time::Duration};

use anyhow::{Result, anyhow, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT},
    fixture::{Fixture, await_agreement, serve},
    http,
    net::{self, Attempt, Listening, Pair, Server},
    nginx::Nginx,
    ss::Sockets,
    wait::{LIMIT, eventually},
};

/// Ends a connection in one of the ways connections end.
fn end(pair: Pair, how: usize) -> Result<()> {
    let Pair { client, server } = pair;
    match how % 6 {
        0 => drop((client, server)),
        1 => drop((server, client)),
        2 => net::reset(client)?,
        3 => net::reset(server)?,
        4 => client.shutdown(Shutdown::Write)?,
        _ => server.shutdown(Shutdown::Write)?,
    }
    Ok(())
}

#[test]
fn churn_ends_with_the_counts_of_ss() -> Result<()> {
    let fixture = Fixture::new()?;
    let (server, pod) = (&fixture.server, fixture.pod());
    const THREADS: usize = 4;
    const EACH: usize = 400;
    let client = &fixture.cluster.client;
    thread::scope(|scope| {
        let churn = || {
            client.enter()?;
            for turn in 0..EACH {
                let addr = if turn % 2 == 0 { pod.addr() } else { pod.addr6() };
                // What is accepted may be another thread's connection, and the other end of each may
                // be reset at any time, even before connect() returns.
                let client = net::connect_here(addr);
                let server = server.accept()?;
                if let Ok(client) = client {
                    let _ = end(Pair { client, server }, turn);
                }
            }
            Ok(())
        };
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(churn)).collect();
        let mut ends = workers.into_iter().map(|worker| worker.join());
        ends.try_for_each(|end| end.unwrap_or_else(|_| Err(anyhow!("a worker panicked"))))
    })?;
    let held = fixture.pairs(10)?;
    let sockets = fixture.await_agreement()?;
    ensure!(sockets.flows() == 10, "{sockets:?}");
    ensure!(fixture.accepted()? >= (THREADS * EACH) as u64, "{:?}", fixture.counts()?);
    drop(held);
    ensure!(fixture.await_agreement()?.flows() == 0);
    fixture.ctl().expect(0, &["drain", "--port", "80", "--quiet", "0s"])?;
    Ok(())
}

#[test]
fn half_closed_connections_count_until_they_end() -> Result<()> {
    let fixture = Fixture::new()?;
    let pairs = fixture.pairs(4)?;
    ensure!(fixture.await_agreement()?.established == 4);
    pairs[0].client.shutdown(Shutdown::Write)?;
    pairs[1].client.shutdown(Shutdown::Write)?;
    pairs[2].server.shutdown(Shutdown::Write)?;
    eventually(LIMIT, "two in CLOSE_WAIT, one in FIN_WAIT2", || {
        let sockets = Sockets::of(&fixture.pod().netns, PORT)?;
        Ok((sockets.close_wait, sockets.fin_wait2) == (2, 1))
    })?;
    let sockets = fixture.await_agreement()?;
    ensure!(sockets.flows() == 3, "{sockets:?}");
    ensure!(fixture.counts()?.is_some_and(|counts| counts.flows == 3), "FIN_WAIT2 is no flow");
    drop(pairs);
    ensure!(fixture.await_agreement()?.flows() == 0);
    ensure!(fixture.accepted()? == 4);
    Ok(())
}

#[test]
fn resets_from_either_side_are_uncounted() -> Result<()> {
    let fixture = Fixture::new()?;
    let pairs = fixture.pairs(50)?;
    ensure!(fixture.await_agreement()?.established == 50);
    for (index, pair) in pairs.into_iter().enumerate() {
        net::reset(if index % 2 == 0 { pair.client } else { pair.server })?;
    }
    ensure!(fixture.await_agreement()?.flows() == 0);
    ensure!(fixture.accepted()? == 50);
    Ok(())
}

#[test]
fn a_full_accept_queue_is_counted() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let agent = Agent::start()?;
    let short = Listening { backlog: 2, ..Listening::on(pod.v4, PORT) };
    let server = Server::start(&pod.netns, short)?;
    let mut clients = Vec::new();
    // The kernel queues one connection more than the backlog says.
    for _ in 0..3 {
        clients.push(net::connect(&cluster.client, pod.addr())?);
    }
    let more = net::attempt(&cluster.client, pod.addr(), Duration::from_millis(300))?;
    ensure!(more == Attempt::Unanswered, "the queue is not full: {more:?}");
    let sockets = await_agreement(&agent, pod, PORT)?;
    ensure!(sockets.flows() == 3, "{sockets:?}");
    for _ in 0..3 {
        clients.push(server.accept()?);
    }
    drop(clients);
    let gone = || Ok(await_agreement(&agent, pod, PORT)?.flows() == 0);
    eventually(LIMIT, "all connections are gone", gone)?;
    Ok(())
}

#[test]
fn a_closed_listener_takes_its_accept_queue_along() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let agent = Agent::start()?;
    let server = serve(pod, PORT)?;
    let pair = server.pairs(&cluster.client, pod.addr(), 1)?;
    let waiting = net::connect(&cluster.client, pod.addr())?;
    ensure!(await_agreement(&agent, pod, PORT)?.flows() == 2);
    drop(server);
    ensure!(await_agreement(&agent, pod, PORT)?.flows() == 1, "only the accepted one is left");
    drop((pair, waiting));
    ensure!(await_agreement(&agent, pod, PORT)?.flows() == 0);
    Ok(())
}

#[test]
fn a_killed_server_leaves_zero() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let mut nginx = Nginx::start(pod)?;
    let agent = Agent::start()?;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = http::Client::connect(&cluster.client, pod.addr())?;
        client.get("/ok")?;
        clients.push(client);
    }
    ensure!(await_agreement(&agent, pod, PORT)?.flows() == 20);
    let ctl = agent.ctl(&pod.netns);
    let mut drain = ctl.start(&["drain", "--port", "80", "--quiet", "0s"])?;
    ctl.await_state(PORT, "rejecting")?;
    ensure!(drain.is_running()?);
    nginx.crash()?;
    drop(clients);
    drain.wait()?.expect(0)?;
    ensure!(await_agreement(&agent, pod, PORT)?.flows() == 0);
    Ok(())
}

#[test]
fn connections_older_than_the_agent_are_counted() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let server = serve(pod, PORT)?;
    let mut pairs = server.pairs(&cluster.client, pod.addr(), 5)?;
    pairs.extend(server.pairs(&cluster.client, pod.addr6(), 5)?);
    let agent = Agent::start()?;
    let sockets = await_agreement(&agent, pod, PORT)?;
    ensure!(sockets.flows() == 10, "{sockets:?}");
    pairs.pop();
    net::reset(pairs.remove(0).server)?;
    ensure!(await_agreement(&agent, pod, PORT)?.flows() == 8);

    let ctl = agent.ctl(&pod.netns);
    let mut drain = ctl.start(&["drain", "--port", "80", "--quiet", "0s"])?;
    let service = ctl.await_state(PORT, "rejecting")?;
    ensure!(service.flows == 8, "{service:?}");
    ensure!(net::attempt(&cluster.client, pod.addr(), LIMIT)? == Attempt::Refused);
    ensure!(drain.is_running()?);
    drop(pairs);
    drain.wait()?.expect(0)?;
    ensure!(ctl.service(PORT)?.rejected > 0);
    Ok(())
}

//! The harness itself: rules, servers, load and guards do what the other tests take for granted.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use drainctl_tests::{
    cluster::{Cluster, PORT, SERVICE},
    http,
    kubeproxy::Mode,
    load::{Load, Manner, Plan},
    net::{self, Attempt, Listening, LostAcks, Server},
    netns::Netns,
    nginx::{self, BODY, Nginx},
    rolling::{self, Method},
    ss::Sockets,
    wait::{LIMIT, eventually},
};

fn plan(at_most: u64) -> Plan {
    Plan {
        target: SERVICE.into(),
        path: "/ok",
        body: BODY,
        manner: Manner::OneRequest,
        workers: 16,
        pace: Duration::from_millis(10),
        at_most,
    }
}

fn rules_spread_requests_and_follow_endpoints(mode: Mode) -> Result<()> {
    let cluster = Cluster::new(3, mode)?;
    let servers = cluster.pods.iter().map(Nginx::start).collect::<Result<Vec<_>>>()?;
    let load = Load::start(&cluster.client, plan(3000));
    eventually(LIMIT, "all requests were sent", || Ok(load.is_finished()))?;
    let tally = load.finish()?;
    ensure!((tally.ok, tally.failed()) == (3000, 0), "{tally}");
    // nginx writes its log after it has answered.
    eventually(LIMIT, "the servers' logs are complete", || Ok(served(&servers)?.1 == 3000))?;
    let shares = served(&servers)?.0;
    ensure!(shares.iter().all(|share| *share > 700), "not spread evenly: {shares:?}");

    // An endpoint that leaves gets nothing new, and keeps its established connection.
    let mut held = http::Client::connect(&cluster.client, SERVICE.into())?;
    held.get("/ok")?;
    eventually(LIMIT, "the held request is logged", || Ok(served(&servers)?.1 == 3001))?;
    let now = served(&servers)?.0;
    let others: Vec<usize> = (0..3).filter(|pod| now[*pod] == shares[*pod]).collect();
    cluster.set_endpoints(&others)?;
    let load = Load::start(&cluster.client, plan(300));
    eventually(LIMIT, "all requests were sent", || Ok(load.is_finished()))?;
    let tally = load.finish()?;
    ensure!((tally.ok, tally.failed()) == (300, 0), "{tally}");
    held.get("/ok")?;
    eventually(LIMIT, "all is logged", || Ok(served(&servers)?.1 == 3302))?;
    let last = served(&servers)?.0;
    for pod in 0..3 {
        let held = !others.contains(&pod);
        ensure!(!held || last[pod] == now[pod] + 1, "the endpoint got more than what it held");
    }
    Ok(())
}

/// Requests by server, and all together.
fn served(servers: &[Nginx]) -> Result<(Vec<u64>, u64)> {
    let shares = servers.iter().map(Nginx::served).collect::<Result<Vec<_>>>()?;
    let sum = shares.iter().sum();
    Ok((shares, sum))
}

#[test]
fn iptables_rules_spread_requests_and_follow_endpoints() -> Result<()> {
    rules_spread_requests_and_follow_endpoints(Mode::Iptables)
}

#[test]
fn nftables_rules_spread_requests_and_follow_endpoints() -> Result<()> {
    rules_spread_requests_and_follow_endpoints(Mode::Nftables)
}

#[test]
fn plain_sigterm_fails_requests() -> Result<()> {
    let cluster = Cluster::new(3, Mode::Iptables)?;
    let mut servers = cluster.pods.iter().map(Nginx::start).collect::<Result<Vec<_>>>()?;
    let load = Load::start(&cluster.client, plan(u64::MAX));
    rolling::restart_all(&cluster, &mut servers, Method::Terminate)?;
    let tally = load.finish()?;
    ensure!(tally.refused > 0 && tally.ok > 0, "{tally}");
    Ok(())
}

#[test]
fn big_file_is_byte_exact_over_both_families() -> Result<()> {
    let cluster = Cluster::single()?;
    let _server = Nginx::start(&cluster.pods[0])?;
    for addr in [cluster.pods[0].addr(), cluster.pods[0].addr6()] {
        let answer = http::get(&cluster.client, addr, "/ready")?;
        ensure!(answer.status == 200);
    }
    ensure!(http::get(&cluster.client, cluster.pods[0].addr6(), "/big")?.body == nginx::big());
    Ok(())
}

#[test]
fn ss_sees_every_state() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let server = Server::start(&pod.netns, Listening::on(pod.v4, PORT))?;
    let mut pairs = server.pairs(&cluster.client, pod.addr(), 3)?;
    pairs.iter_mut().try_for_each(net::Pair::exchange)?;
    pairs[0].client.shutdown(std::net::Shutdown::Write)?;
    pairs[1].server.shutdown(std::net::Shutdown::Write)?;
    eventually(LIMIT, "one in each state", || {
        let sockets = Sockets::of(&pod.netns, PORT)?;
        Ok((sockets.established, sockets.close_wait, sockets.fin_wait2) == (1, 1, 1))
    })?;
    let lost = LostAcks::start(&cluster.client, PORT)?;
    let opening = net::connect(&cluster.client, pod.addr())?;
    eventually(LIMIT, "SYN_RECV", || Ok(Sockets::of(&pod.netns, PORT)?.syn_recv == 1))?;
    drop(lost);
    drop((server.accept()?, opening));
    for pair in pairs {
        net::reset(pair.client)?;
    }
    eventually(LIMIT, "none is left", || Ok(Sockets::of(&pod.netns, PORT)?.flows() == 0))?;
    drop(server);
    ensure!(net::attempt(&cluster.client, pod.addr(), LIMIT)? == Attempt::Refused);
    Ok(())
}

#[test]
fn an_accept_queue_can_be_full() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let short = Listening { backlog: 2, ..Listening::on(pod.v4, PORT) };
    let _server = Server::start(&pod.netns, short)?;
    let connect = || net::connect(&cluster.client, pod.addr());
    let _queued = (connect()?, connect()?, connect()?);
    let more = net::attempt(&cluster.client, pod.addr(), Duration::from_millis(300))?;
    ensure!(more == Attempt::Unanswered, "{more:?}");
    ensure!(Sockets::of(&pod.netns, PORT)?.established == 3);
    Ok(())
}

#[test]
fn guards_leave_nothing_behind() -> Result<()> {
    let names: BTreeSet<String> = {
        let cluster = Cluster::single()?;
        let _server = Nginx::start(&cluster.pods[0])?;
        [&cluster.client, &cluster.node, &cluster.pods[0].netns]
            .iter()
            .map(|netns| netns.name().to_owned())
            .collect()
    };
    for name in names {
        ensure!(!std::path::Path::new("/run/netns").join(&name).exists(), "{name} is still there");
    }
    Netns::host().map(drop)
}

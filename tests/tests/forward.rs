//! `--new forward`: late connections are carried to a peer, and their clients notice nothing.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT, SERVICE},
    fixture::serve,
    http,
    kubeproxy::Mode,
    load::{Load, Manner, Plan},
    net::{Attempt, Pair, Server, attempt, connect, reset},
    netns::Netns,
    nginx::{self, BODY, Nginx},
    wait::{LIMIT, eventually},
};

/// A client, a pod that is to be drained, a peer, and an agent.
struct World {
    agent: Agent,
    /// In the drained pod.
    old: Server,
    /// In the peer.
    peer: Server,
    cluster: Cluster,
}

impl World {
    fn new() -> Result<Self> {
        Self::with(&[])
    }

    fn with(options: &[&str]) -> Result<Self> {
        let cluster = Cluster::new(2, Mode::Iptables)?;
        let (old, peer) = (serve(&cluster.pods[0], PORT)?, serve(&cluster.pods[1], PORT)?);
        Ok(Self { agent: Agent::start_with(options)?, old, peer, cluster })
    }

    /// Closes the gate of the first pod.
    fn drain(&self, new: &[&str]) -> Result<()> {
        let fixed = ["drain", "--port", "80", "--quiet", "0s", "--no-wait"];
        self.ctl().expect(0, &[&fixed[..], new].concat())?;
        Ok(())
    }

    fn ctl(&self) -> drainctl_tests::ctl::Ctl<'_> {
        self.agent.ctl(&self.cluster.pods[0].netns)
    }

    fn forward(&self) -> String {
        format!("--new=forward={}", self.cluster.pods[1].v4)
    }

    fn straggler(&self) -> Result<TcpStream> {
        connect(&self.cluster.client, self.cluster.pods[0].addr())
    }

    /// A connection to the drained pod that the peer has got.
    fn carried(&self) -> Result<Pair> {
        self.carried_to(self.cluster.pods[0].addr())
    }

    fn carried_to(&self, addr: SocketAddr) -> Result<Pair> {
        let client = connect(&self.cluster.client, addr)?;
        Ok(Pair { client, server: self.peer.accept().context("the peer got nothing")? })
    }

    fn await_steered(&self, wanted: u64) -> Result<()> {
        let what = format!("{wanted} connections are steered");
        self.ctl().await_service(PORT, &what, |service| service.steered == wanted).map(drop)
    }
}

/// A client connects and is reset, perhaps before it has noticed that it was connected.
fn ensure_given_up(client: &Netns, addr: SocketAddr) -> Result<()> {
    match connect(client, addr) {
        Ok(mut client) => {
            match client.write_all(b"request") {
                Ok(()) => ensure_reset(&client),
                // It came before that, and is told once only.
                Err(error) => {
                    ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
                    Ok(())
                }
            }
        }
        Err(error) => {
            let kind = error.root_cause().downcast_ref().map(std::io::Error::kind);
            ensure!(kind == Some(ErrorKind::ConnectionReset), "{error:#}");
            Ok(())
        }
    }
}

/// A client gets a RST, sooner or later.
fn ensure_reset(mut client: &TcpStream) -> Result<()> {
    let error = client.read(&mut [0]).err().context("no error")?;
    ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
    Ok(())
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 + i / 251) as u8).collect()
}

#[test]
fn no_client_notices_that_the_load_balancer_is_late() -> Result<()> {
    let cluster = Cluster::new(2, Mode::Iptables)?;
    let servers = cluster.pods.iter().map(Nginx::start).collect::<Result<Vec<_>>>()?;
    cluster.set_endpoints(&[0])?;
    Nginx::await_answer(&cluster.client, SERVICE.into())?;
    let agent = Agent::start()?;
    let plan = |path, body, manner, workers| {
        let (target, pace, at_most) = (SERVICE.into(), Duration::from_millis(40), u64::MAX);
        Load::start(&cluster.client, Plan { target, path, body, manner, workers, pace, at_most })
    };
    let short = plan("/ok", BODY, Manner::OneRequest, 6);
    let large = plan("/large", nginx::large(), Manner::OneRequest, 1);
    eventually(LIMIT, "requests were sent", || Ok(short.sent() > 50 && large.sent() > 1))?;
    let to = format!("forward={}", cluster.pods[1].v4);
    let ctl = agent.ctl(&cluster.pods[0].netns);
    let drain = ["drain", "--port", "80", "--quiet", "0s", "--timeout", "55s", "--new", &to];
    let drain = ctl.start(&drain)?;
    ctl.await_service(PORT, "the gate is closed", |service| service.state != "serving")?;
    // Some 10 s, in which the load balancer sends everything to the drained pod.
    let enough = short.sent() + 1200;
    eventually(3 * LIMIT, "many requests were sent", || Ok(short.sent() > enough))?;
    cluster.set_endpoints(&[1])?;
    let (short, large) = (short.finish()?, large.finish()?);
    ensure!(short.failed() == 0 && large.failed() == 0, "{short}; {large}");
    ensure!(servers[1].served()? >= 1000, "the peer has served {}", servers[1].served()?);
    ensure!(agent.metric("carried_total")? >= 1000, "carried by somebody else");
    drain.wait()?.expect(0)?;
    ensure!(agent.metric("carrying")? == 0);
    Ok(())
}

#[test]
fn bytes_half_closes_and_first_words_arrive_over_both_families() -> Result<()> {
    let world = World::new()?;
    let [old, peer] = [&world.cluster.pods[0], &world.cluster.pods[1]];
    world.drain(&[&format!("--new=forward=[{}]:80", peer.v6)])?;
    for addr in [old.addr(), old.addr6()] {
        let Pair { mut client, mut server } = world.carried_to(addr)?;
        server.write_all(b"220 ready")?;
        let mut greeting = [0; 9];
        client.read_exact(&mut greeting)?;
        ensure!(&greeting == b"220 ready");
        let (there, back) = (pattern(20 << 20), pattern((15 << 20) + 1));
        let (expected, answer) = (there.clone(), back.clone());
        let serving = thread::spawn(move || -> Result<()> {
            let mut got = Vec::new();
            server.read_to_end(&mut got)?;
            ensure!(got == expected, "the peer got other bytes");
            server.write_all(&answer)?;
            Ok(())
        });
        client.write_all(&there)?;
        client.shutdown(Shutdown::Write)?;
        let mut got = Vec::new();
        client.read_to_end(&mut got)?;
        ensure!(got == back, "the client got other bytes");
        serving.join().map_err(|_| anyhow::anyhow!("the peer panicked"))??;
    }
    world.await_steered(0)?;
    ensure!(world.agent.metric("carried_total")? == 2);
    Ok(())
}

#[test]
fn a_drain_waits_for_what_is_carried_and_names_it() -> Result<()> {
    let world = World::new()?;
    let to = world.forward();
    let before = ["drain", "--port", "80", "--quiet", "0s", &to];
    let held = world.old.pairs(&world.cluster.client, world.cluster.pods[0].addr(), 1)?;
    let mut drain = world.ctl().start(&[&before[..], &["--retire", "none"]].concat())?;
    world.ctl().await_state(PORT, "rejecting")?;
    let mut pair = world.carried()?;
    pair.exchange()?;
    drop(held);
    let service = world.ctl().await_state(PORT, "drained")?;
    ensure!((service.flows, service.steered) == (0, 1), "{service:?}");
    ensure!(drain.is_running()?, "a connection is still carried");
    pair.exchange()?;
    drop(pair);
    drain.wait()?.expect(0)?.says("waiting for 1 carried connection")?;

    world.ctl().expect(0, &["undrain", "--port", "80"])?;
    let short = [&before[..], &["--timeout", "3s"]].concat();
    world.ctl().expect(0, &[&short[..], &["--no-wait"]].concat())?;
    let pair = world.carried()?;
    let drain = world.ctl().start(&short)?;
    let peer = pair.client.local_addr()?.to_string();
    drain.wait()?.expect(3)?.says("1 carried connection")?.says(&peer)?;
    Ok(())
}

#[test]
fn a_service_address_that_still_leads_to_the_drained_pod_is_asked_again() -> Result<()> {
    let cluster = Cluster::new(2, Mode::Iptables)?;
    let servers = cluster.pods.iter().map(Nginx::start).collect::<Result<Vec<_>>>()?;
    for pod in &cluster.pods {
        Nginx::await_answer(&cluster.client, pod.addr())?;
    }
    let agent = Agent::start()?;
    let ctl = agent.ctl(&cluster.pods[0].netns);
    let to = format!("forward={}", SERVICE.ip());
    ctl.expect(0, &["drain", "--port", "80", "--quiet", "0s", "--new", &to, "--no-wait"])?;
    for _ in 0..40 {
        let answer = http::get(&cluster.client, cluster.pods[0].addr(), "/ok")?;
        ensure!(answer.body == BODY);
    }
    let (carried, loops) = (agent.metric("carried_total")?, agent.metric("carried_loops_total")?);
    ensure!(carried == 40 && loops > 5, "carried {carried}, came back {loops}");
    ensure!(servers[1].served()? == 40 && servers[0].served()? == 0);
    Ok(())
}

#[test]
fn a_service_address_that_leads_to_the_drained_pod_only_is_given_up() -> Result<()> {
    let world = World::new()?;
    world.cluster.set_endpoints(&[0])?;
    world.drain(&[&format!("--new=forward={}", SERVICE.ip())])?;
    ensure_given_up(&world.cluster.client, world.cluster.pods[0].addr())?;
    let agent = &world.agent;
    ensure!(agent.metric("carried_refused_total")? == 1);
    // As often as one straggler is tried, and no more: no loop.
    let loops = agent.metric("carried_loops_total")?;
    ensure!(loops == 24, "{loops}");
    ensure!(agent.metric("carried_total")? == 1);
    world.await_steered(0)
}

#[test]
fn two_that_drain_do_not_play_ping_pong() -> Result<()> {
    let world = World::new()?;
    let [a, b] = [&world.cluster.pods[0], &world.cluster.pods[1]];
    world.drain(&[&world.forward()])?;
    let other = world.agent.ctl(&b.netns);
    let to = format!("forward={}", a.v4);
    other.expect(0, &["drain", "--port", "80", "--quiet", "0s", "--new", &to, "--no-wait"])?;
    for pod in [a, b] {
        ensure_given_up(&world.cluster.client, pod.addr())?;
    }
    ensure!(world.agent.metric("carried_total")? == 2);
    let loops = world.agent.metric("carried_loops_total")?;
    ensure!((2..=48).contains(&loops), "{loops} second hops");
    other.expect(0, &["undrain", "--port", "80"])?;
    world.carried()?.exchange()
}

#[test]
fn the_peer_is_told_who_the_client_is() -> Result<()> {
    let cluster = Cluster::new(2, Mode::Iptables)?;
    let _old = Nginx::start(&cluster.pods[0])?;
    let _peer = Nginx::start_for_proxies(&cluster.pods[1])?;
    let agent = Agent::start()?;
    let ctl = agent.ctl(&cluster.pods[0].netns);
    let to = format!("forward={}", cluster.pods[1].v4);
    let fixed = ["drain", "--port", "80", "--quiet", "0s", "--no-wait", "--new"];
    ctl.expect(2, &[&fixed[..], &["drop", "--proxy-protocol"]].concat())?;
    ctl.expect(0, &[&fixed[..], &[&to, "--proxy-protocol"]].concat())?;
    for addr in [cluster.pods[0].addr(), cluster.pods[0].addr6()] {
        let client = connect(&cluster.client, addr)?;
        let own = client.local_addr()?;
        drop(client);
        let answer = http::get(&cluster.client, addr, "/who")?;
        let told: IpAddr = String::from_utf8(answer.body)?.trim().parse()?;
        ensure!(told == own.ip(), "{told} instead of {own}");
    }
    Ok(())
}

#[test]
fn peers_that_refuse_or_are_silent_are_passed_over_and_none_at_all_is_a_reset() -> Result<()> {
    let world = World::new()?;
    let peer = world.cluster.pods[1].v4;
    let refuses = format!("--new=forward={peer}:81");
    let silent = "--new=forward=10.244.2.99";
    world.drain(&[&refuses, silent, &world.forward()])?;
    for _ in 0..3 {
        world.carried()?.exchange()?;
    }
    ensure!(world.agent.metric("carried_refused_total")? == 0);
    world.ctl().expect(0, &["undrain", "--port", "80"])?;
    world.drain(&[&refuses])?;
    ensure_given_up(&world.cluster.client, world.cluster.pods[0].addr())?;
    ensure!(world.agent.metric("carried_refused_total")? == 1);
    Ok(())
}

#[test]
fn resets_on_one_side_are_resets_on_the_other() -> Result<()> {
    let mut world = World::new()?;
    world.drain(&[&world.forward()])?;
    for answered in [false, true] {
        for by_client in [false, true] {
            let mut pair = world.carried()?;
            if answered {
                pair.exchange()?;
            }
            let Pair { client, server } = pair;
            let (one, other) = if by_client { (client, server) } else { (server, client) };
            reset(one)?;
            ensure_reset(&other)?;
        }
    }
    let mut pair = world.carried()?;
    pair.exchange()?;
    world.agent.crash()?;
    ensure_reset(&pair.client)?;
    ensure_reset(&pair.server)
}

#[test]
fn urgent_data_is_a_reset_and_no_end() -> Result<()> {
    let world = World::new()?;
    world.drain(&[&world.forward()])?;
    let mut pair = world.carried()?;
    pair.exchange()?;
    rustix::net::send(&pair.client, b"!", rustix::net::SendFlags::OOB)?;
    // Or the peer would take what came before this for all that was said.
    pair.client.write_all(b"more")?;
    pair.client.shutdown(Shutdown::Write)?;
    let error = std::io::copy(&mut pair.server, &mut std::io::sink()).err().context("an end")?;
    ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
    Ok(())
}

#[test]
fn nobody_is_lost_when_the_drain_ends_in_the_middle() -> Result<()> {
    let cluster = Cluster::new(2, Mode::Iptables)?;
    let servers = cluster.pods.iter().map(Nginx::start).collect::<Result<Vec<_>>>()?;
    cluster.set_endpoints(&[0])?;
    Nginx::await_answer(&cluster.client, SERVICE.into())?;
    let agent = Agent::start()?;
    let ctl = agent.ctl(&cluster.pods[0].netns);
    let (target, pace, at_most) = (SERVICE.into(), Duration::from_millis(10), u64::MAX);
    let (path, body, manner, workers) = ("/ok", BODY, Manner::OneRequest, 4);
    let plan = Plan { target, path, body, manner, workers, pace, at_most };
    let load = Load::start(&cluster.client, plan);
    let to = format!("forward={}", cluster.pods[1].v4);
    for _ in 0..5 {
        let enough = load.sent() + 50;
        eventually(LIMIT, "requests were sent", || Ok(load.sent() > enough))?;
        ctl.expect(0, &["drain", "--port", "80", "--quiet", "0s", "--new", &to, "--no-wait"])?;
        let enough = load.sent() + 50;
        eventually(LIMIT, "requests were sent", || Ok(load.sent() > enough))?;
        ctl.expect(0, &["undrain", "--port", "80"])?;
    }
    let tally = load.finish()?;
    ensure!(tally.failed() == 0, "{tally}");
    let served = [servers[0].served()?, servers[1].served()?];
    ensure!(served[0] > 100 && served[1] > 100, "{served:?}");
    Ok(())
}

#[test]
fn there_is_a_limit_and_no_way_in_but_by_the_gate() -> Result<()> {
    let world = World::with(&["--max-carried", "1"])?;
    world.drain(&[&world.forward()])?;
    let mut pair = world.carried()?;
    ensure_given_up(&world.cluster.client, world.cluster.pods[0].addr())?;
    ensure!(world.agent.metric("carried_over_limit_total")? == 1);
    pair.exchange()?;
    drop(pair);
    world.await_steered(0)?;
    world.carried()?.exchange()
}

#[test]
fn dropped_attempts_get_no_answer_and_get_in_once_the_drain_ends() -> Result<()> {
    let world = World::new()?;
    world.drain(&["--new", "drop"])?;
    let pod = &world.cluster.pods[0];
    for (index, addr) in [pod.addr(), pod.addr6()].into_iter().enumerate() {
        let short = Duration::from_millis(300);
        ensure!(attempt(&world.cluster.client, addr, short)? == Attempt::Unanswered);
        let service = world.ctl().service(PORT)?;
        ensure!(service.rejected > index as u64 && service.handshakes == 0, "{service:?}");
    }
    let before = world.ctl().service(PORT)?.rejected;
    thread::scope(|scope| {
        let waiting = scope.spawn(|| world.straggler());
        let seen = |service: &drainctl_tests::ctl::Service| service.rejected > before;
        world.ctl().await_service(PORT, "its first SYN was dropped", seen)?;
        world.ctl().expect(0, &["undrain", "--port", "80"])?;
        let client = waiting.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        Pair { client, server: world.old.accept()? }.exchange()
    })
}

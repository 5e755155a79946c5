//! The gate: who is refused while a port drains, and who is not.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT, SERVICE},
    fixture::{Fixture, expect_all, serve},
    http,
    kubeproxy::Mode,
    net::{Attempt, Listening, Server},
    nginx::{self, BODY, Nginx},
    wait::{LIMIT, eventually},
};

#[test]
fn new_connections_are_refused_on_every_path() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let _server = Nginx::start(pod)?;
    let agent = Agent::start()?;
    let outside = [pod.addr(), pod.addr6(), SERVICE.into()];
    let inside = [
        pod.addr(),
        pod.addr6(),
        SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, PORT)),
    ];
    expect_all(&cluster.client, &outside, Attempt::Connected)?;
    expect_all(&pod.netns, &inside, Attempt::Connected)?;

    let ctl = agent.ctl(&pod.netns);
    ctl.expect(0, &["drain", "--port", "80", "--quiet", "0s"])?;
    expect_all(&cluster.client, &outside, Attempt::Refused)?;
    expect_all(&pod.netns, &inside, Attempt::Refused)?;
    let service = ctl.service(PORT)?;
    ensure!(service.state == "drained", "{service:?}");
    let attempts = (outside.len() + inside.len()) as u64;
    ensure!(service.rejected >= attempts, "{service:?}");

    ctl.expect(0, &["undrain", "--port", "80"])?;
    expect_all(&cluster.client, &outside, Attempt::Connected)?;
    expect_all(&pod.netns, &inside, Attempt::Connected)?;
    Ok(())
}

#[test]
fn established_connections_go_on_byte_exact() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let _server = Nginx::start(pod)?;
    let agent = Agent::start()?;
    let ctl = agent.ctl(&pod.netns);
    let mut kept = http::Client::connect(&cluster.client, SERVICE.into())?;
    ensure!(kept.get("/ok")?.body == BODY);
    let mut download = http::Client::connect(&cluster.client, SERVICE.into())?;
    download.send("/big")?;
    let download = thread::spawn(move || download.receive());

    let drain = ["drain", "--port", "80", "--quiet", "0s", "--retire", "none", "--timeout", "50s"];
    let mut drain = ctl.start(&drain)?;
    ctl.await_state(PORT, "rejecting")?;
    expect_all(&cluster.client, &[SERVICE.into()], Attempt::Refused)?;
    for _ in 0..20 {
        ensure!(kept.get("/ok")?.body == BODY);
    }
    ensure!(ctl.service(PORT)?.flows == 2);
    let download = download.join().map_err(|_| anyhow::anyhow!("the download panicked"))??;
    ensure!(download.body == nginx::big(), "the download is not what nginx has");
    ensure!(kept.get("/ok")?.body == BODY);
    ensure!(drain.is_running()?, "a connection is still there");
    drop(kept);
    drain.wait()?.expect(0)?;
    ensure!(ctl.service(PORT)?.rejected > 0);
    Ok(())
}

#[test]
fn other_pods_and_other_ports_are_untouched() -> Result<()> {
    let cluster = Cluster::new(2, Mode::Iptables)?;
    let [a, b] = [&cluster.pods[0], &cluster.pods[1]];
    let _a = Nginx::start_on(Arc::clone(&a.netns), &[PORT, 8080])?;
    let _b = Nginx::start(b)?;
    let agent = Agent::start()?;
    let ctl = agent.ctl(&a.netns);
    let others =
        [SocketAddr::from((a.v4, 8080)), SocketAddr::from((a.v6, 8080)), b.addr(), b.addr6()];
    expect_all(&cluster.client, &others, Attempt::Connected)?;
    expect_all(&cluster.client, &[a.addr(), a.addr6()], Attempt::Connected)?;

    ctl.expect(0, &["drain", "--port", "80", "--quiet", "0s"])?;
    expect_all(&cluster.client, &[a.addr(), a.addr6()], Attempt::Refused)?;
    expect_all(&cluster.client, &others, Attempt::Connected)?;
    ensure!(ctl.service(PORT)?.rejected >= 2);
    let other = ctl.service(8080)?;
    ensure!((other.state.as_str(), other.rejected) == ("serving", 0), "{other:?}");
    let other = agent.ctl(&b.netns).service(PORT)?;
    ensure!((other.state.as_str(), other.rejected) == ("serving", 0), "{other:?}");
    Ok(())
}

#[test]
fn every_kind_of_listener_is_counted_and_closed() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let agent = Agent::start()?;
    let ctl = agent.ctl(&pod.netns);
    let on = |ip: std::net::IpAddr, port| Listening { v6_only: true, ..Listening::on(ip, port) };
    // Port, listener, and a client's address; on 8003 an IPv4 client comes as a v4-mapped address.
    let cases = [
        (8001, on(pod.v4.into(), 8001), SocketAddr::from((pod.v4, 8001))),
        (8002, on(pod.v6.into(), 8002), SocketAddr::from((pod.v6, 8002))),
        (8003, Listening::on(Ipv6Addr::UNSPECIFIED, 8003), SocketAddr::from((pod.v4, 8003))),
        (8004, Listening::on(Ipv6Addr::UNSPECIFIED, 8004), SocketAddr::from((pod.v6, 8004))),
    ];
    for (port, listening, addr) in cases {
        let server = Server::start(&pod.netns, listening)?;
        let mut pair = server.pairs(&cluster.client, addr, 1)?.pop().context("no connection")?;
        let port_text = port.to_string();
        let drain = ctl.start(&["drain", "--port", &port_text, "--quiet", "0s"])?;
        let service = ctl.await_state(port, "rejecting")?;
        ensure!(service.flows == 1, "{addr}: {service:?}");
        expect_all(&cluster.client, &[addr], Attempt::Refused)?;
        pair.exchange()?;
        ensure!(ctl.service(port)?.rejected > 0, "{addr}");
        drop(pair);
        drain.wait()?.expect(0).with_context(|| addr.to_string())?;
    }
    Ok(())
}

#[test]
fn two_ports_drain_together() -> Result<()> {
    let fixture = Fixture::new()?;
    let pod = fixture.pod();
    let second = serve(pod, 8080)?;
    let addr = SocketAddr::from((pod.v4, 8080));
    let held = second.pairs(&fixture.cluster.client, addr, 1)?;
    ensure!(fixture.attempt()? == Attempt::Connected);

    let ctl = fixture.ctl();
    let mut drain = ctl.start(&["drain", "--port", "80,8080", "--quiet", "0s"])?;
    ctl.await_state(PORT, "drained")?;
    ctl.await_state(8080, "rejecting")?;
    expect_all(&fixture.cluster.client, &[pod.addr(), addr], Attempt::Refused)?;
    ensure!(drain.is_running()?, "one of the two ports is not empty");
    drop(held);
    drain.wait()?.expect(0)?;
    for port in [PORT, 8080] {
        let service = ctl.service(port)?;
        ensure!(service.state == "drained" && service.rejected > 0, "{service:?}");
    }
    Ok(())
}

#[test]
fn settling_still_accepts() -> Result<()> {
    let fixture = Fixture::new()?;
    let ctl = fixture.ctl();
    let before = fixture.accepted()?;
    let drain = ctl.start(&["drain", "--port", "80", "--min-settle", "3s"])?;
    ctl.await_state(PORT, "settling")?;
    ensure!(fixture.attempt()? == Attempt::Connected);
    ensure!(fixture.accepted()? > before, "the tracker has not seen it");
    drain.wait()?.expect(0)?;
    eventually(LIMIT, "the gate is closed", || Ok(fixture.attempt()? == Attempt::Refused))?;
    ensure!(fixture.service()?.rejected > 0);
    Ok(())
}

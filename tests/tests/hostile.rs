//! Slow, stalled and malicious clients of the agent do not stop the drains of others.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT},
    fixture::serve,
    hostile::attack,
    kubeproxy::Mode,
    net::connect,
    netns::Netns,
    wait::{LIMIT, eventually},
};

#[test]
fn others_drain_while_a_pod_attacks_the_agent() -> Result<()> {
    let cluster = Cluster::new(2, Mode::Iptables)?;
    let [bad, good] = [&cluster.pods[0], &cluster.pods[1]];
    let (_bad, server) = (serve(bad, PORT)?, serve(good, PORT)?);
    let mut agent = Agent::start()?;
    agent.be_quiet();
    // A drain of the attacker's own, so that its event streams have something to tell.
    let flow = connect(&cluster.client, bad.addr())?;
    let drain = ["drain", "--port", "80", "--quiet", "0s", "--no-wait", "--timeout", "55s"];
    agent.ctl(&bad.netns).expect(0, &drain)?;
    let attack = attack(&agent, &bad.netns, &format!("{}:{PORT}", bad.netns.inode()))?;
    eventually(LIMIT, "seats are refused", || Ok(agent.log().contains("connection refused")))?;

    // Another pod: a drain that has to wait for a connection, and one that has not.
    let ctl = agent.ctl(&good.netns);
    let kept = connect(&cluster.client, good.addr())?;
    let kept = (kept, server.accept()?);
    let mut waiting = ctl.start(&["drain", "--port", "80", "--quiet", "0s", "--timeout", "50s"])?;
    ctl.await_state(PORT, "rejecting")?;
    ensure!(waiting.is_running()?);
    drop(kept);
    waiting.wait()?.expect(0)?;
    ctl.expect(0, &["ready", "--port", "80"])?;
    ctl.expect(0, &["undrain", "--port", "80"])?;
    for _ in 0..5 {
        ctl.expect(0, &["drain", "--port", "80", "--quiet", "0s"])?;
        ctl.expect(0, &["undrain", "--port", "80"])?;
    }
    // The administrator of the node.
    let host = Netns::host()?;
    agent.ctl(&host).expect(0, &["status", "--all"])?;
    let path = bad.netns.path().display().to_string();
    agent.ctl(&host).expect(0, &["undrain", "--port", "80", "--netns", &path])?;
    // The agent has kept to its limits: two descriptors for each of at most 64 connections, and its own.
    let open = std::fs::read_dir(format!("/proc/{}/fd", agent.pid()?))?.count();
    ensure!(open < 2 * 64 + 150, "{open} descriptors");
    drop((attack, flow));
    eventually(LIMIT, "all seats are given back", || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", agent.pid()?))?.count();
        Ok(open < 150)
    })?;
    agent.ctl(&bad.netns).expect(0, &["status"])?;
    Ok(())
}

#[test]
fn one_pod_cannot_take_the_room_for_the_drains_of_others() -> Result<()> {
    let cluster = Cluster::new(2, Mode::Iptables)?;
    let [bad, good] = [&cluster.pods[0], &cluster.pods[1]];
    let _server = serve(good, PORT)?;
    let ports: Vec<u16> = (1001..=1129).collect();
    let listen = |port: &u16| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port))?);
    let _listeners =
        bad.netns.run(|| ports.iter().map(listen).collect::<Result<Vec<TcpListener>>>())?;
    let mut agent = Agent::start()?;
    agent.be_quiet();
    let ctl = agent.ctl(&bad.netns);
    let drain = |code, ports: &[u16]| {
        let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        ctl.expect(code, &["drain", "--port", &ports, "--quiet", "0s", "--no-wait"])
    };
    for fitting in ports[..128].chunks(16) {
        drain(0, fitting)?;
    }
    let here = |port: u16| (Ipv4Addr::LOCALHOST, port).into();
    ensure!(connect(&bad.netns, here(ports[127])).is_err(), "its gate is closed");
    drain(8, &ports[128..])?.says("128 drains")?;
    drop(connect(&bad.netns, here(ports[128]))?);
    drain(0, &ports[..1])?; // It joins its own.
    agent.ctl(&good.netns).expect(0, &["drain", "--port", "80", "--quiet", "0s"])?;
    Ok(())
}

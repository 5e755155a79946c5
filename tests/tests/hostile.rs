//! Slow, stalled and malicious clients of the agent do not stop the drains of others.

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

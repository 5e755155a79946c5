//! A real HAProxy asks the agent what state its servers are to be in (`agent-check`).

use std::time::Duration;

use anyhow::{Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT},
    haproxy::Haproxy,
    kubeproxy::Mode,
    load::{Load, Manner, Plan},
    nginx::{BODY, Nginx},
    wait::{LIMIT, eventually, is_slow},
};

/// Where the agent answers, on the node.
const ADDR: &str = "10.244.1.1:9777";

/// What HAProxy calls a server that takes part, and has no health check.
const IN: &str = "no check";

/// HAProxy's side of it, for the server on this port; asked ten times a second.
fn check(netns: u32, port: u16, more: &str) -> String {
    let (addr, at) = ADDR.split_once(':').unwrap_or_default();
    format!(
        "weight 100 pool-max-conn 0 agent-check agent-addr {addr} agent-port {at} agent-inter 100 \
         agent-send \"port={port}&netns={netns}{more}\\n\""
    )
}

#[test]
fn haproxy_takes_a_server_out_before_its_gate_closes_and_puts_it_back() -> Result<()> {
    let cluster = Cluster::new(4, Mode::Iptables)?;
    let (place, pods) = (&cluster.pods[0], &cluster.pods[1..]);
    let mut servers = pods.iter().map(Nginx::start).collect::<Result<Vec<_>>>()?;
    for pod in pods {
        Nginx::await_answer(&cluster.client, pod.addr())?;
    }
    let mut agent = Agent::prepare()?;
    let node = format!("--net={}", cluster.node.path().display());
    agent.set_wrapper(["nsenter", &node, "--"]);
    agent.launch(&["--agent-check", ADDR])?;
    // The third is asked about in vain: a port on which nobody listens.
    let checks = [(PORT, ""), (PORT, "&weight=fall"), (9, "")];
    let haproxy = Haproxy::start_with(place, pods, |pod| {
        let (port, more) = checks[pod];
        check(pods[pod].netns.inode(), port, more)
    })?;
    let all_up = || {
        let states = (0..pods.len()).map(|pod| haproxy.state(pod)).collect::<Result<Vec<_>>>()?;
        Ok(states.iter().all(|state| (&*state.0, state.1) == (IN, 100)))
    };
    eventually(LIMIT, "all are up", all_up)?;
    let plan = Plan {
        target: haproxy.http(),
        path: "/ok",
        body: BODY,
        manner: Manner::OneRequest,
        workers: 8,
        pace: Duration::from_millis(20),
        at_most: u64::MAX,
    };
    let load = Load::start(&cluster.client, plan);

    let ctl = agent.ctl(&pods[0].netns);
    // Long enough to be seen settling.
    let min_settle = if is_slow() { "20s" } else { "2s" };
    let drain = ctl.start(&["drain", "--port", "80", "--min-settle", min_settle])?;
    ctl.await_state(PORT, "settling")?;
    eventually(LIMIT, "HAProxy drains it", || Ok(haproxy.state(0)?.0.starts_with("DRAIN")))?;
    drain.wait()?.expect(0)?;
    ensure!(ctl.service(PORT)?.rejected == 0, "it was out before the gate closed");
    servers[0].stop()?;
    let before = servers[0].served()?;
    servers[0] = Nginx::start(&pods[0])?;
    eventually(LIMIT, "all are up again", all_up)?;
    let served = || Ok(servers[0].served()? > before);
    eventually(LIMIT, "it has requests again", served)?;

    let ctl = agent.ctl(&pods[1].netns);
    let drain = ctl.start(&["drain", "--port", "80", "--min-settle", "10s"])?;
    eventually(LIMIT, "its weight falls", || {
        let (state, weight) = haproxy.state(1)?;
        Ok(state == IN && (1..100).contains(&weight))
    })?;
    eventually(LIMIT, "HAProxy drains it", || Ok(haproxy.state(1)?.0.starts_with("DRAIN")))?;
    drain.wait()?.expect(0)?;
    let log = agent.log();
    let quiet = log.matches("no new connection came for the quiet time").count();
    ensure!(quiet == 2, "both were out before their gates closed");
    ctl.expect(0, &["undrain", "--port", "80"])?;
    eventually(LIMIT, "all are up again", all_up)?;
    let tally = load.finish()?;
    ensure!(tally.failed() == 0 && tally.ok > 100, "{tally}");
    Ok(())
}

//! The ring buffer of events overflows while the agent does not read it.

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT},
    fixture::{await_agreement, serve},
    kubeproxy::Mode,
    net::{Listening, Server},
    wait::{LIMIT, eventually},
};

/// More than the ring has room for, each being two events of 32 bytes.
const LISTENERS: usize = 2_000;

#[test]
fn what_happened_while_the_ring_was_full_is_found_out() -> Result<()> {
    let cluster = Cluster::new(2, Mode::Iptables)?;
    let [noisy, quiet] = [&cluster.pods[0], &cluster.pods[1]];
    let _noisy = Server::start(&noisy.netns, Listening::on(noisy.v4, PORT))?;
    let server = serve(quiet, PORT)?;
    let agent = Agent::start()?;
    let ctl = agent.ctl(&quiet.netns);
    let kept = server.pairs(&cluster.client, quiet.addr(), 20)?;
    let drain = ["drain", "--port", "80", "--quiet", "0s", "--retire", "none", "--timeout", "50s"];
    agent.ctl(&noisy.netns).expect(0, &drain)?;
    let waiting = ctl.start(&drain)?;
    ctl.await_state(PORT, "rejecting")?;
    await_agreement(&agent, quiet, PORT)?;
    ensure!(lost(&agent)? == 0);

    agent.pause()?;
    // Sockets that begin and cease to listen are events of the one service, the last connection is one of the other.
    let noise = noisy.netns.run(|| {
        // Each at an address of its own: a process that another test is about to start may have the last one for a moment.
        let address = |n: usize| [127, 0, 1 + (n / 250) as u8, 1 + (n % 250) as u8];
        let listen = |n| Server::start_here(Listening::on(address(n), PORT)).map(drop);
        (0..LISTENERS).try_for_each(listen)
    });
    drop(kept);
    agent.resume()?;
    noise?;
    eventually(LIMIT, "the loss is noticed", || Ok(lost(&agent)? > 0))?;
    eventually(LIMIT, "every service is looked at", || {
        Ok(agent.log().contains("looking again at every service that drains"))
    })?;
    waiting.wait()?.expect(0)?;
    let sockets = await_agreement(&agent, quiet, PORT)?;
    ensure!(sockets.flows() == 0, "{sockets:?}");
    ctl.expect(0, &["ready", "--port", "80"])?;
    Ok(())
}

/// Events that found no room.
fn lost(agent: &Agent) -> Result<u64> {
    let metrics = String::from_utf8(agent.http("GET", "/metrics", "")?.body)?;
    let name = "drainctl_tracker_events_lost_total ";
    let value = metrics.lines().find_map(|line| line.strip_prefix(name));
    Ok(value.context("no such counter")?.parse()?)
}

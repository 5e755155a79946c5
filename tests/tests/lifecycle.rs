//! A drain's life: joining, conflicts, a new instance, Ctrl-C, and the end of agent, server or namespace.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT},
    fixture::{Fixture, serve},
    net::{self, Attempt},
    netns::Netns,
    nginx::Nginx,
    wait::{LIMIT, eventually, throughout},
};

const DRAIN: &[&str] = &["drain", "--port", "80", "--quiet", "0s"];

#[test]
fn undrain_in_the_middle_brings_traffic_back() -> Result<()> {
    let fixture = Fixture::new()?;
    let pair = fixture.pair()?;
    let ctl = fixture.ctl();
    let drain = ctl.start(DRAIN)?;
    ctl.await_state(PORT, "rejecting")?;
    fixture.await_refused()?;
    ensure!(fixture.service()?.rejected > 0);
    ctl.expect(0, &["undrain", "--port", "80"])?;
    fixture.ensure_untouched()?;
    drain.wait()?.expect(9)?;
    drop(pair);
    Ok(())
}

#[test]
fn a_second_drain_joins_and_another_one_conflicts() -> Result<()> {
    let fixture = Fixture::new()?;
    let pair = fixture.pair()?;
    let ctl = fixture.ctl();
    let first = ctl.start(DRAIN)?;
    ctl.await_state(PORT, "rejecting")?;
    let mut second = ctl.start(DRAIN)?;
    throughout(Duration::from_millis(500), "joined, and waits", || second.is_running())?;
    ctl.expect(8, &["drain", "--port", "80", "--quiet", "0s", "--keep-closed"])?;
    // A preStop hook joins what an operator has begun with other times.
    ctl.expect(0, &["drain", "--port", "80", "--timeout", "40s", "--no-wait"])?;
    let body = format!(
        "{{\"ports\":[80],\"netns\":{},\"quiet_ms\":0,\"keep_closed\":true}}",
        fixture.pod().netns.inode()
    );
    ensure!(fixture.agent.http("POST", "/v1/drains", &body)?.status == 409);
    let service = fixture.service()?;
    ensure!(service.state == "rejecting", "{service:?}");
    ensure!(service.drain.is_some_and(|drain| !drain.keep_closed));
    fixture.await_refused()?;
    drop(pair);
    first.wait()?.expect(0)?;
    second.wait()?.expect(0)?;
    ensure!(fixture.service()?.rejected > 0);
    Ok(())
}

#[test]
fn no_wait_returns_at_once_and_wait_takes_over() -> Result<()> {
    let fixture = Fixture::new()?;
    let pair = fixture.pair()?;
    let ctl = fixture.ctl();
    ctl.expect(0, &[DRAIN, &["--no-wait"]].concat())?;
    ctl.await_state(PORT, "rejecting")?;
    fixture.await_refused()?;
    ctl.expect(3, &["ready", "--port", "80"])?;
    let wait = ["wait", "--port", "80", "--for", "drained"];
    ctl.expect(3, &[&wait[..], &["--timeout", "1s"]].concat())?;
    let mut waiting = ctl.start(&[&wait[..], &["--timeout", "30s"]].concat())?;
    ensure!(waiting.is_running()?);
    drop(pair);
    waiting.wait()?.expect(0)?;
    ctl.expect(0, &["ready", "--port", "80"])?;
    ensure!(fixture.service()?.rejected > 0);
    ctl.expect(0, &["undrain", "--port", "80"])?;
    ctl.expect(0, &["wait", "--port", "80", "--for", "serving", "--timeout", "5s"])?;
    ctl.expect(3, &["ready", "--port", "80"])?;
    Ok(())
}

#[test]
fn a_restarted_nginx_opens_the_gate() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let mut nginx = Nginx::start(pod)?;
    Nginx::await_answer(&cluster.client, pod.addr())?;
    let agent = Agent::start()?;
    let ctl = agent.ctl(&pod.netns);
    ctl.expect(0, DRAIN)?;
    ensure!(net::attempt(&cluster.client, pod.addr(), LIMIT)? == Attempt::Refused);
    ensure!(ctl.service(PORT)?.rejected > 0);
    nginx.stop()?;
    // A drain keeps its service alive without a listener.
    ensure!(ctl.service(PORT)?.state == "drained");
    ctl.expect(0, &["ready", "--port", "80"])?;
    nginx.start_again()?;
    Nginx::await_answer(&cluster.client, pod.addr())?;
    ctl.await_state(PORT, "serving")?;
    Ok(())
}

#[test]
fn keep_closed_holds_the_gate_against_a_new_instance() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let mut nginx = Nginx::start(pod)?;
    let agent = Agent::start()?;
    let ctl = agent.ctl(&pod.netns);
    ctl.expect(0, &[DRAIN, &["--keep-closed"]].concat())?;
    nginx.stop()?;
    nginx.start_again()?;
    throughout(Duration::from_secs(2), "the gate stays closed", || {
        Ok(net::attempt(&cluster.client, pod.addr(), LIMIT)? == Attempt::Refused)
    })?;
    let service = ctl.service(PORT)?;
    ensure!(service.state == "drained" && service.rejected > 0, "{service:?}");
    ctl.expect(0, &["undrain", "--port", "80"])?;
    Nginx::await_answer(&cluster.client, pod.addr())
}

#[test]
fn a_second_listener_beside_the_first_does_not_open_the_gate() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let old = net::Server::start(&pod.netns, net::Listening::on(pod.v4, PORT))?;
    let agent = Agent::start()?;
    let ctl = agent.ctl(&pod.netns);
    let refused = || Ok(net::attempt(&cluster.client, pod.addr(), LIMIT)? == Attempt::Refused);
    ctl.expect(0, DRAIN)?;
    ensure!(refused()?);
    // The old instance still listens when another one comes, on another address.
    let new = net::Server::start(&pod.netns, net::Listening::on(Ipv4Addr::LOCALHOST, PORT))?;
    throughout(Duration::from_secs(1), "the gate stays closed", refused)?;
    ensure!(ctl.service(PORT)?.rejected > 0);
    drop(old);
    ctl.await_state(PORT, "serving")?;
    drop(new);
    Ok(())
}

#[test]
fn ctrl_c_leaves_the_drain_in_place() -> Result<()> {
    let fixture = Fixture::new()?;
    let pair = fixture.pair()?;
    let ctl = fixture.ctl();
    let drain = ctl.start(DRAIN)?;
    ctl.await_state(PORT, "rejecting")?;
    drain.interrupt()?;
    drain.wait()?.expect(130)?.says("drainctl undrain")?;
    let service = fixture.service()?;
    ensure!(service.state == "rejecting", "{service:?}");
    fixture.await_refused()?;
    ensure!(fixture.service()?.rejected > 0);
    ctl.expect(0, &["undrain", "--port", "80"])?;
    fixture.ensure_untouched()?;
    drop(pair);
    Ok(())
}

#[test]
fn a_killed_agent_is_waited_for_until_the_deadline() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let pair = fixture.pair()?;
    let drain = fixture.ctl().start(&[DRAIN, &["--timeout", "4s"]].concat())?;
    fixture.ctl().await_state(PORT, "rejecting")?;
    fixture.await_refused()?;
    ensure!(fixture.service()?.rejected > 0);
    fixture.agent.crash()?;
    drain.wait()?.expect(7)?.says("the connection broke")?;
    ensure!(fixture.attempt()? == Attempt::Refused, "nobody may open the gate");
    drop(pair);
    Ok(())
}

#[test]
fn an_agent_that_is_down_is_named_and_waited_for() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let server = serve(pod, PORT)?;
    let mut agent = Agent::prepare()?;
    let path = agent.socket().display().to_string();
    let down = [DRAIN, &["--if-unreachable", "fail"]].concat();
    agent.ctl(&pod.netns).expect(4, &down)?.says(&path)?;
    agent.ctl(&pod.netns).expect(4, &["status"])?.says(&path)?;
    let brief = [DRAIN, &["--if-unreachable", "wait=1s"]].concat();
    agent.ctl(&pod.netns).expect(4, &brief)?.says(&path)?;
    ensure!(net::attempt(&cluster.client, pod.addr(), LIMIT)? == Attempt::Connected);
    drop(server.accept()?);

    let patient = [DRAIN, &["--if-unreachable", "wait=40s"]].concat();
    let mut drain = agent.ctl(&pod.netns).start(&patient)?;
    throughout(Duration::from_millis(300), "it waits for the agent", || drain.is_running())?;
    agent.launch(&[])?;
    drain.wait()?.expect(0)?;
    ensure!(net::attempt(&cluster.client, pod.addr(), LIMIT)? == Attempt::Refused);
    ensure!(agent.ctl(&pod.netns).service(PORT)?.rejected > 0);
    Ok(())
}

#[test]
fn a_drain_goes_with_its_namespace() -> Result<()> {
    let host = Netns::host()?;
    let agent = Agent::start()?;
    let netns = Netns::new()?;
    let path = netns.path().display().to_string();
    let loopback = (Ipv4Addr::LOCALHOST, PORT).into();
    let server = net::Server::start(&netns, net::Listening::on(Ipv4Addr::LOCALHOST, PORT))?;
    ensure!(net::attempt(&netns, loopback, LIMIT)? == Attempt::Connected);
    drop(server.accept()?);
    agent.ctl(&host).expect(0, &[DRAIN, &["--netns", path.as_str()]].concat())?;
    ensure!(net::attempt(&netns, loopback, LIMIT)? == Attempt::Refused);
    ensure!(agent.ctl(&netns).service(PORT)?.rejected > 0);
    let id = format!("{}:80", netns.inode());
    let listed = || -> Result<bool> {
        let answer = agent.http("GET", "/v1/services?netns=all", "")?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(String::from_utf8(answer.body)?.contains(&id))
    };
    ensure!(listed()?);
    drop((server, netns));
    eventually(LIMIT, "the service is gone", || Ok(!listed()?))?;
    // What cannot be looked at is never said to be there, and empty.
    let answer = agent.http("GET", &format!("/v1/services/{id}"), "")?;
    let text = String::from_utf8(answer.body)?;
    ensure!(answer.status == 404 || !text.contains("\"unknown\":null"), "{text}");
    Ok(())
}

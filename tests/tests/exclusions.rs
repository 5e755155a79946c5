//! Clients that a drain treats differently from the others, by their address.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT, Pod},
    fixture::{Fixture, expect_all, serve},
    held::Held,
    http,
    kubeproxy::Mode,
    net::{self, Attempt, Pair},
    netns::Netns,
    nginx::{BODY, Nginx},
    wait::{LIMIT, eventually, throughout},
};

use Attempt::{Connected, Refused};

/// The class of flows of ignored clients, as the kernel programs know it.
const IGNORED: u16 = 1;

/// The client of the cluster, and the node as pod 1 sees it.
const CLIENT: &str = "10.244.0.2,fd00:244::/64";
const NODE: &str = "10.244.1.1,fd00:244:1::1";

const UNDRAIN: &[&str] = &["undrain", "--port", "80"];

/// Begins a drain and does not wait for its end.
fn drain(fixture: &Fixture, options: &[&str]) -> Result<()> {
    let args = [&["drain", "--port", "80", "--no-wait", "--timeout", "50s"], options].concat();
    fixture.ctl().expect(0, &args).map(drop)
}

/// One connection by IPv4 and one by IPv6.
fn both(fixture: &Fixture, from: &Netns) -> Result<Vec<Pair>> {
    let pod = fixture.pod();
    let mut pairs = fixture.server.pairs(from, pod.addr(), 1)?;
    pairs.extend(fixture.server.pairs(from, pod.addr6(), 1)?);
    Ok(pairs)
}

/// Tries to connect by IPv4 and by IPv6, and insists on the outcome.
fn expect(fixture: &Fixture, from: &Netns, expected: Attempt) -> Result<()> {
    let pod = fixture.pod();
    expect_all(from, &[pod.addr(), pod.addr6()], expected)?;
    if expected == Connected {
        drop((fixture.server.accept()?, fixture.server.accept()?));
    }
    Ok(())
}

/// Whether tracker and look never had to be mended.
fn agreed(agent: &Agent) -> Result<bool> {
    let metrics = String::from_utf8(agent.http("GET", "/metrics", "")?.body)?;
    let zero = |name: &str| metrics.lines().any(|line| line == format!("drainctl_{name}_total 0"));
    Ok(zero("disagreements") && zero("repairs") && zero("flows_after_drained"))
}

fn tracked(fixture: &Fixture, class: u16) -> Result<i64> {
    let maps = fixture.agent.maps()?;
    let counts = maps.counts_of(fixture.pod().netns.inode(), PORT, class)?;
    Ok(counts.map_or(0, |counts| counts.flows))
}

#[test]
fn ignored_clients_are_neither_counted_nor_refused() -> Result<()> {
    let fixture = Fixture::new()?;
    let (client, node, ctl) = (&fixture.cluster.client, &fixture.cluster.node, fixture.ctl());
    let before = both(&fixture, client)?;
    fixture.await_agreement()?;
    drain(&fixture, &["--quiet", "0s", "--ignore", CLIENT])?;
    let service = ctl.await_state(PORT, "drained")?;
    ensure!((service.flows, service.ignored) == (0, 2), "{service:?}");
    ensure!((tracked(&fixture, 0)?, tracked(&fixture, IGNORED)?) == (0, 2));

    let mut during = both(&fixture, client)?;
    expect(&fixture, node, Refused)?;
    ctl.expect(0, &["ready", "--port", "80"])?;
    let service = ctl.await_service(PORT, "four are ignored", |service| service.ignored == 4)?;
    ensure!(service.flows == 0 && service.state == "drained" && service.rejected >= 2);
    ensure!(tracked(&fixture, IGNORED)? == 4);
    ensure!(ctl.admission(PORT)?.ignored >= 2);
    during[0].exchange()?;
    drop(during.pop());
    ctl.await_service(PORT, "three are ignored", |service| service.ignored == 3)?;
    ensure!(agreed(&fixture.agent)?, "tracker and look disagreed");

    ctl.expect(0, UNDRAIN)?;
    ensure!(fixture.await_agreement()?.flows() == 3, "they count again");
    ensure!(tracked(&fixture, IGNORED)? == 0 && fixture.agent.maps()?.peers()? == 0);
    drop((before, during));
    ensure!(fixture.await_agreement()?.flows() == 0);
    ctl.expect(0, &["drain", "--port", "80", "--quiet", "0s"])?;
    expect(&fixture, client, Refused)?;
    ensure!(agreed(&fixture.agent)?, "tracker and look disagreed");
    Ok(())
}

#[test]
fn settling_does_not_wait_for_ignored_clients() -> Result<()> {
    let fixture = Fixture::new()?;
    let (client, ctl) = (&fixture.cluster.client, fixture.ctl());
    drain(&fixture, &["--quiet", "40s", "--max-settle", "45s", "--ignore", CLIENT])?;
    let accepted = fixture.accepted()?;
    expect(&fixture, client, Connected)?;
    ensure!(fixture.accepted()? == accepted, "an ignored connection was taken for a new one");
    expect(&fixture, &fixture.cluster.node, Connected)?;
    ensure!(fixture.accepted()? == accepted + 2, "the others count while settling");
    ensure!(ctl.admission(PORT)?.ignored >= 2);
    ctl.expect(0, UNDRAIN)?;
    expect(&fixture, client, Connected)?;
    ensure!(fixture.accepted()? == accepted + 4, "undrained while settling");
    ensure!(fixture.agent.maps()?.peers()? == 0);
    Ok(())
}

#[test]
fn ignored_connections_are_left_alone_and_allowed_ones_are_told() -> Result<()> {
    let fixture = Fixture::new()?;
    let (netns, addr) = (&fixture.pod().netns, fixture.pod().addr());
    let held = |from: &Netns| -> Result<Held> {
        let pair = fixture.server.pairs(from, addr, 1)?.pop().context("no connection")?;
        Held::new(netns, pair)
    };
    let (client, node) = (&*fixture.cluster.client, &*fixture.cluster.node);
    let (ignored, allowed) = (held(client)?, held(node)?);
    drain(&fixture, &["--quiet", "0s", "--ignore", "10.244.0.2", "--allow", NODE])?;
    let (ignored_new, allowed_new) = (held(client)?, held(node)?);
    let maps = fixture.agent.maps()?;
    for flow in [&allowed, &allowed_new] {
        let cookie = flow.wire.cookie()?;
        eventually(LIMIT, "it is followed", || Ok(maps.turns()?.contains_key(&cookie)))?;
    }
    // Several scans for flows that were missed.
    let cookies = [ignored.wire.cookie()?, ignored_new.wire.cookie()?];
    throughout(Duration::from_millis(2500), "ignored connections are not followed", || {
        let turns = maps.turns()?;
        Ok(cookies.iter().all(|cookie| !turns.contains_key(cookie)))
    })?;
    let service = fixture.service()?;
    ensure!((service.flows, service.ignored) == (2, 2), "{service:?}");
    Ok(())
}

#[test]
fn allowed_clients_are_let_in_and_waited_for() -> Result<()> {
    let fixture = Fixture::new()?;
    let (client, node, ctl) = (&fixture.cluster.client, &fixture.cluster.node, fixture.ctl());
    drain(&fixture, &["--quiet", "0s", "--allow", NODE])?;
    ctl.await_state(PORT, "drained")?;
    expect(&fixture, client, Refused)?;
    let pairs = both(&fixture, node)?;
    let service = ctl.await_state(PORT, "rejecting")?;
    ensure!((service.flows, service.ignored) == (2, 0), "{service:?}");
    ctl.expect(3, &["ready", "--port", "80"])?;
    drop(pairs);
    ctl.await_state(PORT, "drained")?;
    ensure!(ctl.admission(PORT)?.allowed >= 2);
    ensure!(agreed(&fixture.agent)?, "what is allowed is no bug");
    Ok(())
}

#[test]
fn health_checks_fail_at_once_while_users_are_served() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let _server = Nginx::start(pod)?;
    let agent = Agent::start()?;
    let ctl = agent.ctl(&pod.netns);
    let outside = [pod.addr(), pod.addr6()];
    expect_all(&cluster.node, &outside, Connected)?;
    let mut user = http::Client::connect(&cluster.client, pod.addr())?;
    ensure!(user.get("/ok")?.body == BODY);

    let options = ["--min-settle", "20s", "--max-settle", "30s", "--timeout", "50s"];
    let lists = ["--retire", "none", "--no-wait", "--fail-health-from", NODE];
    ctl.expect(0, &[&["drain", "--port", "80"], &options[..], &lists[..]].concat())?;
    expect_all(&cluster.node, &outside, Refused)?;
    expect_all(&cluster.client, &outside, Connected)?;
    ensure!(user.get("/ok")?.body == BODY);
    let service = ctl.service(PORT)?;
    ensure!(service.state == "settling" && service.rejected == 0, "{service:?}");
    ensure!(ctl.admission(PORT)?.failed_health >= 2);
    ctl.expect(0, UNDRAIN)?;
    expect_all(&cluster.node, &outside, Connected)?;

    ctl.expect(0, &[&["drain", "--port", "80", "--quiet", "0s"], &lists[..]].concat())?;
    expect_all(&cluster.node, &outside, Refused)?;
    expect_all(&cluster.client, &outside, Refused)?;
    ensure!(user.get("/ok")?.body == BODY, "established connections go on");
    let service = ctl.service(PORT)?;
    ensure!(service.rejected >= 2, "{service:?}");
    Ok(())
}

#[test]
fn the_longest_prefix_decides() -> Result<()> {
    let fixture = Fixture::new()?;
    let (client, node, pod) = (&fixture.cluster.client, &fixture.cluster.node, fixture.pod());
    // IPv4: all pods are ignored, the node is not. IPv6: all are refused, the node is allowed. A prefix of IPv6 that
    // would hold v4-mapped addresses says nothing about IPv4.
    drain(
        &fixture,
        &[
            &["--quiet", "0s", "--ignore", "10.244.0.0/16", "--allow", "fd00:244:1::1"][..],
            &["--fail-health-from", "10.244.1.1,fd00:244::/32,::/1"],
        ]
        .concat(),
    )?;
    expect_all(client, &[pod.addr()], Connected)?;
    drop(fixture.server.accept()?);
    expect_all(client, &[pod.addr6()], Refused)?;
    expect_all(node, &[pod.addr()], Refused)?;
    expect_all(node, &[pod.addr6()], Connected)?;
    drop(fixture.server.accept()?);
    let admission = fixture.ctl().admission(PORT)?;
    ensure!((admission.ignored, admission.allowed) == (1, 1), "{admission:?}");
    ensure!(admission.failed_health >= 2, "{admission:?}");
    Ok(())
}

#[test]
fn known_clients_are_kept_and_strangers_are_not() -> Result<()> {
    const KEEP: Duration = Duration::from_secs(4);
    let fixture = Fixture::new()?;
    let (client, node, ctl) = (&fixture.cluster.client, &fixture.cluster.node, fixture.ctl());
    let pairs = both(&fixture, client)?;
    drain(&fixture, &["--quiet", "0s", "--keep-clients", "4s", "--retire", "none"])?;
    expect(&fixture, client, Connected)?;
    expect(&fixture, node, Refused)?;
    // As long as a client has a connection it is one, however old that is.
    throughout(2 * KEEP, "a client with a connection may open another", || {
        thread::sleep(Duration::from_millis(500)); // not a wait for a state: the client's pace
        expect(&fixture, client, Connected)?;
        Ok(true)
    })?;
    drop(pairs);
    ctl.await_state(PORT, "drained")?;
    let before = ctl.admission(PORT)?.kept;
    expect(&fixture, client, Connected)?;
    ensure!(ctl.admission(PORT)?.kept >= before + 2, "it had one lately");
    thread::sleep(KEEP + Duration::from_millis(100)); // not a wait for a state: the client stays away for longer than it is kept
    expect(&fixture, client, Refused)?;
    ensure!(fixture.service()?.rejected >= 4);
    ensure!(agreed(&fixture.agent)?, "kept clients are no bug");
    Ok(())
}

#[test]
fn connections_that_ended_before_the_drain_are_remembered() -> Result<()> {
    let fixture = Fixture::new()?;
    let (client, node) = (&fixture.cluster.client, &fixture.cluster.node);
    // One is closed by the client, the other is reset by the server.
    let mut pairs = both(&fixture, client)?;
    net::reset(pairs.remove(1).server)?;
    drop(pairs);
    eventually(LIMIT, "both have ended", || Ok(tracked(&fixture, 0)? == 0))?;
    drain(&fixture, &["--quiet", "0s", "--keep-clients", "10m"])?;
    fixture.ctl().await_state(PORT, "drained")?;
    expect(&fixture, client, Connected)?;
    expect(&fixture, node, Refused)?;
    ensure!(fixture.ctl().admission(PORT)?.kept >= 2);
    Ok(())
}

#[test]
fn clients_that_were_there_before_the_agent_are_known() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let server = serve(pod, PORT)?;
    let held = server.pairs(&cluster.client, pod.addr(), 1)?;
    let agent = Agent::start()?;
    let ctl = agent.ctl(&pod.netns);
    let drain = ["drain", "--port", "80", "--quiet", "0s", "--no-wait", "--keep-clients", "10m"];
    ctl.expect(0, &drain)?;
    expect_all(&cluster.client, &[pod.addr()], Connected)?;
    expect_all(&cluster.client, &[pod.addr6()], Refused)?;
    drop(held);
    Ok(())
}

#[test]
fn without_a_history_clients_cannot_be_kept() -> Result<()> {
    let fixture = Fixture::with(&["--client-history", "0"])?;
    let ctl = fixture.ctl();
    let keep = ["drain", "--port", "80", "--quiet", "0s", "--keep-clients", "10m"];
    ctl.expect(2, &keep)?.says("--client-history")?;
    fixture.ensure_untouched()?;
    ctl.expect(0, &["drain", "--port", "80", "--quiet", "0s", "--ignore", CLIENT])?;
    expect(&fixture, &fixture.cluster.client, Connected)
}

#[test]
fn lists_are_of_one_service_only() -> Result<()> {
    let cluster = Cluster::new(2, Mode::Iptables)?;
    let [a, b] = [&cluster.pods[0], &cluster.pods[1]];
    let on = |pod: &Pod, port| SocketAddr::from((pod.v4, port));
    let servers = [serve(a, PORT)?, serve(a, 8080)?, serve(b, PORT)?];
    let agent = Agent::start()?;
    let drain = |pod: &Pod, options: &[&str]| {
        let args = [&["drain", "--no-wait", "--quiet", "0s", "--timeout", "50s"], options].concat();
        agent.ctl(&pod.netns).expect(0, &args).map(drop)
    };
    drain(a, &["--port", "80", "--ignore", "10.244.0.2"])?;
    drain(a, &["--port", "8080", "--ignore", "10.244.1.1"])?;
    drain(b, &["--port", "80", "--allow", "10.244.2.1"])?;
    expect_all(&cluster.client, &[on(a, PORT)], Connected)?;
    expect_all(&cluster.client, &[on(a, 8080), on(b, PORT)], Refused)?;
    expect_all(&cluster.node, &[on(a, 8080), on(b, PORT)], Connected)?;
    expect_all(&cluster.node, &[on(a, PORT)], Refused)?;
    ensure!(agent.maps()?.peers()? == 3);
    agent.ctl(&a.netns).expect(0, UNDRAIN)?;
    ensure!(agent.maps()?.peers()? == 2, "only its own list is gone");
    expect_all(&cluster.node, &[on(a, PORT), on(a, 8080)], Connected)?;
    expect_all(&cluster.client, &[on(a, 8080)], Refused)?;
    drop(servers);
    Ok(())
}

#[test]
fn a_second_drain_with_other_lists_is_a_conflict() -> Result<()> {
    let fixture = Fixture::new()?;
    let ctl = fixture.ctl();
    let lists = ["--quiet", "0s", "--retire", "none", "--ignore", "10.244.0.2,fd00::/16"];
    drain(&fixture, &lists)?;
    drain(
        &fixture,
        &["--quiet", "0s", "--retire", "none", "--ignore", "fd00::/16", "--ignore", "10.244.0.2"],
    )?;
    let other = ["drain", "--port", "80", "--quiet", "0s", "--retire", "none", "--allow", "::1"];
    ctl.expect(8, &other)?.says("--ignore is 10.244.0.2/32,fd00::/16, not empty")?;
    let keep = [&["drain", "--port", "80"], &lists[..], &["--keep-clients", "10m"]].concat();
    ctl.expect(8, &keep)?.says("--keep-clients is not set, not 10m")?;
    Ok(())
}

#[test]
fn lists_that_make_no_sense_change_nothing() -> Result<()> {
    let fixture = Fixture::new()?;
    let ctl = fixture.ctl();
    let many: Vec<String> = (0..65).map(|i| format!("10.0.{i}.0/24")).collect();
    let many = many.join(",");
    let cases: [(&[&str], &str); 11] = [
        (&["--ignore", "10.0.0.0/33"], "for example 10.0.0.0/8"),
        (&["--allow", "localhost"], "for example 10.0.0.0/8"),
        (&["--ignore", "10.1.2.3/8"], "10.0.0.0/8"),
        (&["--fail-health-from", "2001:db8::1/32"], "2001:db8::/32"),
        (&["--ignore", "10.0.0.0/8", "--allow", "10.0.0.0/8"], "--ignore and by --allow"),
        (
            &["--allow", "10.0.0.1", "--fail-health-from", "::ffff:10.0.0.1"],
            "10.0.0.1/32 is named by",
        ),
        (&["--ignore", "0.0.0.0/0"], "nothing would be waited for"),
        (&["--allow", "::/0"], "nothing would be drained"),
        (&["--fail-health-from", "::/0"], "--quiet 0s"),
        (&["--keep-clients", "1s"], "at least 2s"),
        (&["--ignore", &many], "at most 64"),
    ];
    for (options, says) in cases {
        let args = [&["drain", "--port", "80", "--quiet", "0s"], options].concat();
        ctl.expect(2, &args)?.says(says).with_context(|| format!("{options:?}"))?;
    }
    let netns = fixture.pod().netns.inode();
    for list in ["\"ignore\":[\"10.0.0.1/8\"]", "\"allow\":[\"::/0\"]", "\"keep_clients_ms\":1"] {
        let body = format!("{{\"ports\":[80],\"netns\":{netns},\"quiet_ms\":0,{list}}}");
        let answer = fixture.agent.http("POST", "/v1/drains", &body)?;
        ensure!(answer.status == 400, "{list}: {answer:?}");
    }
    ensure!(fixture.agent.maps()?.peers()? == 0);
    fixture.ensure_untouched()?;
    ensure!(net::attempt(&fixture.cluster.client, fixture.pod().addr(), LIMIT)? == Connected);
    Ok(())
}

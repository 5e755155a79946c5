//! Retiring as a part of a drain: what `--retire` names and nothing else is done, and whatever ends a drain leaves
//! all connections alone again.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    cluster::PORT,
    fixture::{Fixture, serve},
    frames::{data, headers, last_data, ping_ack, settings, settings_ack},
    held::{Held, drain},
    net::{Listening, Server},
    netns::Netns,
    process::Process,
    script::{GET, OK, Step, ask, goaway, preface, request, same, say, talk, told, untold},
    wait::{LIMIT, eventually, patient},
    wire::Sign,
};

/// Several rounds of the agent.
const WHILE: Duration = Duration::from_millis(1500);

const UNDRAIN: &[&str] = &["undrain", "--port", "80"];

fn options(retire: &str) -> [&str; 6] {
    ["--timeout", "50s", "--spread", "0s", "--retire", retire]
}

/// As an option has it.
fn words(time: Duration) -> String {
    format!("{}s", time.as_secs())
}

/// What an HTTP/2 server says so that it is known to be one, although nobody saw its first frame.
fn answers() -> Vec<Step> {
    vec![
        request(),
        say(&[same([headers(1), data(1, b"a")].concat())]),
        request(),
        say(&[same([last_data(1, b"b"), headers(3), data(3, b"a")].concat())]),
    ]
}

#[test]
fn none_and_http1_do_no_more_than_they_say() -> Result<()> {
    let fixture = Fixture::new()?;
    let ctl = fixture.ctl();
    let (mut plain, mut frames) = (Held::connect(&fixture)?, Held::connect(&fixture)?);
    talk(&mut frames.wire, &[preface(), say(&[same(settings())])])?;

    let first = drain(&fixture, &["--timeout", "50s", "--retire", "none"], [])?;
    talk(&mut plain.wire, &untold())?;
    talk(&mut frames.wire, &answers())?;
    plain.wire.stays(WHILE)?;
    let retire = ctl.retire(PORT)?;
    ensure!(retire.what.is_empty() && retire.told_by_header + retire.fin_sent == 0, "{retire:?}");
    ensure!(fixture.agent.maps()?.sockets()? == 0, "a socket is followed for nothing");
    ctl.expect(0, UNDRAIN)?;
    first.wait()?.expect(9)?;

    let second = drain(&fixture, &options("http1"), [&plain, &frames])?;
    ensure!(fixture.agent.maps()?.sockets()? == 2);
    talk(&mut plain.wire, &told())?;
    talk(&mut frames.wire, &answers())?;
    frames.wire.stays(WHILE)?;
    ctl.await_service(PORT, "HTTP/1 is told", |service| {
        service.drain.as_ref().is_some_and(|drain| drain.retire.told_by_header == 1)
    })?;
    let retire = ctl.retire(PORT)?;
    ensure!((retire.told_by_goaway, retire.fin_sent) == (0, 0), "{retire:?}");
    ensure!(ctl.flows(PORT)?.iter().any(|flow| flow.protocol == "http2"), "it is known as HTTP/2");
    drop((plain, frames));
    second.wait()?.expect(0)?;
    ensure!(ctl.retire(PORT)?.left == 2);
    Ok(())
}

#[test]
fn flows_that_come_while_it_settles_are_told_by_header_and_goaway() -> Result<()> {
    let fixture = Fixture::new()?;
    let ctl = fixture.ctl();
    // Long enough for all that comes until the last flow is there.
    let [least, most] = [10, 12].map(|seconds| words(patient(Duration::from_secs(seconds))));
    let settle = ["drain", "--port", "80", "--min-settle", &least, "--max-settle", &most];
    let drain = ctl.start(&[&settle[..], &options("http")].concat())?;
    ctl.await_state(PORT, "settling")?;
    let maps = fixture.agent.maps()?;
    let mut flows = Vec::new();
    eventually(LIMIT, "a new flow is followed", || {
        let held = Held::connect(&fixture)?;
        let cookie = held.wire.cookie()?;
        flows.push(held);
        Ok(maps.turns()?.contains_key(&cookie))
    })?;
    let (mut plain, mut frames) = (flows.pop().context("a flow")?, Held::connect(&fixture)?);
    talk(&mut plain.wire, &told())?;
    // Its first request is on its way until the answer to it ends.
    let answer = same([headers(1), last_data(1, b"a")].concat());
    let steps = [
        preface(),
        say(&[same(settings())]),
        say(&[same(settings_ack())]),
        say(&[same(ping_ack())]),
        request(),
        say(&[answer, goaway()]),
        say(&[same(ping_ack())]),
    ];
    talk(&mut frames.wire, &steps)?;
    ctl.await_service(PORT, "both are told", |service| {
        let retire = service.drain.as_ref().map(|drain| &drain.retire);
        retire.is_some_and(|retire| (retire.told_by_header, retire.told_by_goaway) == (1, 1))
    })?;
    let mut words: Vec<_> = ctl.flows(PORT)?.into_iter().filter_map(|flow| flow.retire).collect();
    words.sort();
    ensure!(words == ["told_by_goaway", "told_by_header"], "{words:?}");
    let there = flows.len() as u64 + 2;
    drop((plain, frames, flows));
    drain.wait()?.expect(0)?;
    let retire = ctl.retire(PORT)?;
    ensure!(retire.left == there && retire.fin_sent == 0, "{there} were there: {retire:?}");
    Ok(())
}

#[test]
fn an_http2_flow_is_told_by_goaway_when_its_last_stream_ends() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut held = Held::connect(&fixture)?;
    talk(&mut held.wire, &[preface(), say(&[same(settings())])])?;
    let drain = drain(&fixture, &options("http"), [&held])?;
    talk(&mut held.wire, &answers())?;
    let descriptors = held.descriptors()?;
    held.wire.stays(WHILE)?;
    talk(&mut held.wire, &[say(&[same(last_data(3, b"b")), goaway()])])?;
    held.wire.stays(WHILE)?;
    ensure!(held.descriptors()? == descriptors);
    let retire = fixture.ctl().retire(PORT)?;
    ensure!((retire.told_by_goaway, retire.fin_sent) == (1, 0), "{retire:?}");
    drop(held);
    drain.wait()?.expect(0)?;
    Ok(())
}

#[test]
fn undrain_leaves_all_flows_alone_again() -> Result<()> {
    let fixture = Fixture::new()?;
    let (mut one, mut other) = (Held::connect(&fixture)?, Held::connect(&fixture)?);
    // What is told is idle at once, and is to get no FIN before the drain is undone.
    let idle = ["--idle-after", &words(patient(Duration::from_secs(1)))];
    let drain = drain(&fixture, &[&options("http,idle")[..], &idle].concat(), [&one, &other])?;
    talk(&mut one.wire, &told())?;
    // Its answer is under way.
    talk(&mut other.wire, &[ask(GET)])?;
    ensure!(fixture.agent.maps()?.sockets()? == 2);
    fixture.ctl().expect(0, UNDRAIN)?;
    drain.wait()?.expect(9)?;
    talk(&mut other.wire, &[say(&[same(OK), same("ok")])])?;
    let maps = fixture.agent.maps()?;
    eventually(LIMIT, "nothing is followed", || {
        Ok((maps.sockets()?, maps.turns()?.len()) == (0, 0))
    })?;
    for held in [&mut one, &mut other] {
        talk(&mut held.wire, &untold())?;
        held.wire.stays(WHILE)?;
    }
    Ok(())
}

#[test]
fn flows_go_on_being_told_when_the_agent_is_killed_and_the_next_one_leaves_them_alone() -> Result<()>
{
    let mut fixture = Fixture::new()?;
    let (mut one, mut other) = (Held::connect(&fixture)?, Held::connect(&fixture)?);
    let drain = drain(&fixture, &options("http"), [&one, &other])?;
    talk(&mut one.wire, &told())?;
    fixture.agent.crash()?;
    talk(&mut other.wire, &told())?;
    fixture.agent.launch(&[])?;
    let maps = fixture.agent.maps()?;
    ensure!(maps.sockets()? == 2, "they are followed by the same map");
    let retire = fixture.ctl().await_service(PORT, "both are counted", |service| {
        service.drain.as_ref().is_some_and(|drain| drain.retire.told_by_header == 2)
    })?;
    ensure!(retire.flows == 2, "{retire:?}");
    fixture.ctl().expect(0, UNDRAIN)?;
    drain.wait()?.expect(9)?;
    eventually(LIMIT, "nothing is followed", || {
        Ok((maps.sockets()?, maps.turns()?.len()) == (0, 0))
    })?;
    for held in [&mut one, &mut other] {
        talk(&mut held.wire, &untold())?;
        held.wire.stays(WHILE)?;
    }
    Ok(())
}

#[test]
fn at_the_deadline_exactly_the_flows_of_this_service_are_reset_and_only_if_asked_for() -> Result<()>
{
    let fixture = Fixture::new()?;
    let (pod, client, ctl) = (fixture.pod(), &fixture.cluster.client, fixture.ctl());
    let second = serve(pod, 8080)?;
    let elsewhere = Netns::new()?;
    let third = Server::start(&elsewhere, Listening::on([127, 0, 0, 1], PORT))?;
    let mut flow = fixture.pair()?;
    let mut six = fixture.server.pairs(client, pod.addr6(), 1)?.pop().context("IPv6")?;
    // Bound to its interface, whatever its listener is.
    let near = pod.link_local()?;
    let mut near = fixture.server.pairs(&pod.netns, near, 1)?.pop().context("link-local")?;
    let mut others = second.pairs(client, SocketAddr::from((pod.v4, 8080)), 1)?;
    others.extend(third.pairs(&elsewhere, SocketAddr::from(([127, 0, 0, 1], PORT)), 1)?);

    let brief = ["drain", "--port", "80", "--quiet", "0s", "--timeout", "3s", "--retire", "none"];
    ctl.expect(3, &brief)?;
    flow.exchange()?;
    six.exchange()?;
    near.exchange()?;
    let retire = ctl.retire(PORT)?;
    ensure!(retire.at_deadline == "leave" && retire.aborted == 0, "{retire:?}");
    ctl.expect(0, UNDRAIN)?;

    let peers = [flow.client.local_addr()?, six.client.local_addr()?].map(|addr| addr.to_string());
    let abort = ctl.run(&[&brief[..], &["--at-deadline", "abort"]].concat())?.expect(0)?;
    let retire = ctl.retire(PORT)?;
    ensure!(retire.at_deadline == "abort" && retire.aborted == 3 && retire.left == 0, "{retire:?}");
    for peer in &peers {
        ensure!(
            retire.cut.contains(peer) && abort.stderr.contains(peer),
            "{peer}: {retire:?}, {abort}"
        );
    }
    for pair in [flow, six, near] {
        let wire = drainctl_tests::wire::Wire::new(pair);
        ensure!(wire.is_err() || wire?.sign()? == Sign::Reset, "it was not reset");
    }
    others.iter_mut().try_for_each(|pair| pair.exchange())
}

#[test]
fn processes_may_come_go_and_die_meanwhile() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut flows = (0..6).map(|_| Held::connect(&fixture)).collect::<Result<Vec<_>>>()?;
    let churn = "while :; do (exec true) & true; wait; done";
    let mut command = Command::new("sh");
    command.args(["-c", churn]);
    let child = fixture.pod().netns.run(|| command.spawn().context("start sh"))?;
    let churn = Process::new(child, "sh");
    let idle = ["--timeout", "50s", "--spread", "0s", "--retire", "idle", "--idle-after", "300ms"];
    let drain = drain(&fixture, &idle, &flows)?;
    for held in &mut flows {
        talk(&mut held.wire, &untold())?;
    }
    // These have no process in their namespace any more, so that nobody can send a FIN for it.
    for held in &mut flows[..3] {
        held.holder.signal(rustix::process::Signal::KILL)?;
        held.holder.wait(LIMIT)?;
    }
    flows[3..].iter().try_for_each(|held| held.wire.await_end())?;
    let log = fixture.agent.log();
    ensure!(!log.contains("cannot all be made to leave"), "{log}");
    let sent = fixture.ctl().retire(PORT)?.fin_sent;
    ensure!((3..=6).contains(&sent), "{sent}");
    drop((flows, churn));
    drain.wait()?.expect(0)?;
    Ok(())
}

/// No program of the kernel has a part in it: also where nobody can be told (before Linux 5.17).
#[test]
fn a_quiet_connection_gets_its_fin_on_every_kernel() -> Result<()> {
    let fixture = Fixture::new()?;
    let held = Held::connect(&fixture)?;
    let quiet = [&options("quiet")[..], &["--quiet", "0s", "--quiet-flow-after", "1s"]].concat();
    let drain = fixture.ctl().start(&[&["drain", "--port", "80"], &quiet[..]].concat())?;
    held.wire.await_end()?;
    let retire = fixture.ctl().retire(PORT)?;
    ensure!((retire.fin_sent, retire.told_by_header) == (1, 0), "{retire:?}");
    drop(held);
    drain.wait()?.expect(0)?;
    Ok(())
}

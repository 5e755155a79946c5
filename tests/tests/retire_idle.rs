//! Who gets a FIN while a port drains, and who does not: idle flows do, and nothing in which a request may be.

use std::{
    io::{Read, Write},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    cluster::PORT,
    fixture::Fixture,
    frames,
    held::{Held, descriptors, drain},
    script::{GET, OK, ask, same, say, talk, untold},
    wait::{LIMIT, eventually, patient},
    wire::Sign,
};
use rustix::time::{ClockId, clock_gettime};

/// Several times `--idle-after`, and some rounds of the agent.
const WHILE: Duration = Duration::from_millis(1500);

const IDLE: &[&str] =
    &["--timeout", "50s", "--spread", "0s", "--retire", "idle", "--idle-after", "200ms"];

#[test]
fn an_answered_flow_gets_a_fin_and_no_descriptor_is_kept() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut held = Held::connect(&fixture)?;
    let before = held.descriptors()?;
    ensure!(before.contains(&held.socket_name()?), "{before:?}");
    let drain = drain(&fixture, IDLE, [&held])?;
    talk(&mut held.wire, &untold())?;
    held.wire.await_end()?;
    let retire = fixture.ctl().retire(PORT)?;
    ensure!((retire.fin_sent, retire.fin_raced, retire.told_by_header) == (1, 0, 0), "{retire:?}");
    ensure!(held.descriptors()? == before, "the server's descriptors are other ones");
    let open = descriptors(fixture.agent.pid()?)?;
    ensure!(!open.contains(&held.socket_name()?), "the agent has kept the socket: {open:?}");
    drop(held);
    drain.wait()?.expect(0)?;
    let retire = fixture.ctl().retire(PORT)?;
    ensure!((retire.fin_sent, retire.fin_raced, retire.left) == (1, 0, 0), "{retire:?}");
    Ok(())
}

#[test]
fn no_flow_gets_a_fin_before_its_turn() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut flows = (0..10).map(|_| Held::connect(&fixture)).collect::<Result<Vec<_>>>()?;
    // All of them are to have been answered before the first one's turn.
    let time = format!("{}s", patient(Duration::from_secs(6)).as_secs());
    let spread = ["--spread", &time, "--retire", "idle", "--idle-after", "100ms"];
    let drain = drain(&fixture, &spread, &flows)?;
    let turns = fixture.agent.maps()?.turns()?;
    flows.iter_mut().try_for_each(|flow| talk(&mut flow.wire, &untold()))?;
    let mut last = 0;
    eventually(LIMIT, "all have got a FIN", || {
        let mut waiting = 0;
        for flow in &flows {
            let turn = turns.get(&flow.wire.cookie()?).copied().context("it was followed")?;
            last = last.max(turn);
            match flow.wire.sign()? {
                Sign::End => ensure!(now() >= turn, "{} ns before its turn", turn - now()),
                _ => waiting += 1,
            }
        }
        Ok(waiting == 0)
    })?;
    ensure!(turns.values().any(|turn| *turn + 1_000_000_000 < last), "all at once: {turns:?}");
    drop(flows);
    drain.wait()?.expect(0)?;
    Ok(())
}

/// Boot time in nanoseconds.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap_or_default()
}

#[test]
fn requests_in_flight_are_left_to_end() -> Result<()> {
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n";
    let early = "HTTP/1.1 103 Early Hints\r\n\r\n";
    // What happens before the pause, and what ends the request.
    let cases = [
        ("a server that thinks", vec![ask(GET)], vec![say(&[same(OK), same("ok")])]),
        (
            "and has answered before",
            [&untold()[..], &[ask(GET)]].concat(),
            vec![say(&[same(OK), same("ok")])],
        ),
        (
            "half a request",
            [&untold()[..], &[ask(&GET[..9])]].concat(),
            vec![ask(&GET[9..]), say(&[same(OK), same("ok")])],
        ),
        (
            "half a head",
            vec![ask(GET), say(&[same(&OK[..20])])],
            [&[say(&[same(&OK[20..]), same("ok")])], &untold()[..]].concat(),
        ),
        ("half a body", vec![ask(GET), say(&[same(OK), same("o")])], vec![say(&[same("k")])]),
        (
            "server-sent events",
            vec![ask(GET), say(&[same(chunks)])],
            vec![say(&[same("0\r\n\r\n")])],
        ),
        ("early hints", vec![ask(GET), say(&[same(early)])], vec![say(&[same(OK), same("ok")])]),
    ];
    let fixture = Fixture::new()?;
    let mut flows = Vec::new();
    for case in cases {
        flows.push((Held::connect(&fixture)?, case));
    }
    let drain = drain(&fixture, IDLE, flows.iter().map(|(held, _)| held))?;
    for (held, (what, before, _)) in &mut flows {
        talk(&mut held.wire, before).context(*what)?;
    }
    for (number, (held, (what, _, _))) in flows.iter().enumerate() {
        // The others have waited as long by then.
        held.wire.stays(if number == 0 { WHILE } else { Duration::ZERO }).context(*what)?;
    }
    for (held, (what, _, after)) in &mut flows {
        talk(&mut held.wire, after).context(*what)?;
    }
    // Only now they are idle. A head in two pieces is none that was seen, and another answer is needed.
    for (held, (what, _, _)) in &flows {
        held.wire.await_end().context(*what)?;
    }
    let count = flows.len() as u64;
    let retire = fixture.ctl().retire(PORT)?;
    ensure!((retire.fin_sent, retire.fin_raced) == (count, 0), "{retire:?}");
    drop(flows);
    drain.wait()?.expect(0)?;
    Ok(())
}

#[test]
fn what_may_be_in_use_stays_until_it_is_quiet_for_long() -> Result<()> {
    let websocket =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let cases = [
        ("unknown", vec![]),
        ("upgraded", vec![ask(GET), say(&[same(websocket), same([0x81, 1, b'a'])])]),
        ("tls", vec![ask("hello"), say(&[same([22, 3, 3, 0, 2, 1, 1])])]),
        ("unknown", vec![ask("EHLO"), say(&[same("250 OK\r\n")])]),
        // A server stream, as gRPC has them, that pauses.
        (
            "http2",
            vec![
                ask(frames::headers(1)),
                say(&[same([frames::settings_ack(), frames::headers(1)].concat())]),
                ask(frames::window_update(1)),
                say(&[same(frames::data(1, b"message"))]),
            ],
        ),
    ];
    let fixture = Fixture::new()?;
    let ctl = fixture.ctl();
    let mut flows = Vec::new();
    for case in cases {
        flows.push((Held::connect(&fixture)?, case));
    }
    let options = ["--spread", "0s", "--retire", "http,idle", "--idle-after", "200ms"];
    let first = drain(&fixture, &options, flows.iter().map(|(held, _)| held))?;
    for (held, (what, steps)) in &mut flows {
        talk(&mut held.wire, steps).context(*what)?;
    }
    for (number, (held, (what, _))) in flows.iter().enumerate() {
        held.wire.stays(if number == 0 { WHILE } else { Duration::ZERO }).context(*what)?;
    }
    let retire = ctl.retire(PORT)?;
    ensure!(
        retire.barriers() == [("tls", 1), ("unknown_protocol", 1), ("upgraded", 1)],
        "{retire:?}"
    );
    let mut protocols: Vec<_> = ctl.flows(PORT)?.into_iter().map(|flow| flow.protocol).collect();
    protocols.sort();
    ensure!(protocols == ["http2", "tls", "unknown", "unknown", "upgraded"], "{protocols:?}");
    ctl.expect(0, &["undrain", "--port", "80"])?;
    first.wait()?.expect(9)?;

    let options = ["--spread", "0s", "--retire", "quiet", "--quiet-flow-after", "500ms"];
    let second = drain(&fixture, &options, flows.iter().map(|(held, _)| held))?;
    for (held, (what, _)) in &flows {
        held.wire.await_end().context(*what)?;
    }
    ensure!(ctl.retire(PORT)?.fin_sent == 5);
    drop(flows);
    second.wait()?.expect(0)?;
    Ok(())
}

#[test]
fn a_request_that_crosses_the_fin_is_counted() -> Result<()> {
    let fixture = Fixture::new()?;
    let (mut raced, mut calm) = (Held::connect(&fixture)?, Held::connect(&fixture)?);
    let options = [IDLE, &["--linger", "30s"]].concat();
    let drain = drain(&fixture, &options, [&raced, &calm])?;
    for held in [&mut raced, &mut calm] {
        talk(&mut held.wire, &untold())?;
        held.wire.await_end()?;
    }
    raced.wire.client().write_all(GET.as_bytes())?;
    // The server executes it; its answer cannot be sent.
    raced.wire.server().read_exact(&mut [0; GET.len()])?;
    ensure!(raced.wire.server().write(OK.as_bytes()).is_err(), "an answer behind a FIN");
    let ctl = fixture.ctl();
    ctl.await_service(PORT, "the race is counted", |service| {
        service.drain.as_ref().is_some_and(|drain| drain.retire.fin_raced == 1)
    })?;
    let flows = ctl.flows(PORT)?;
    let raced_flows = flows.iter().filter(|flow| flow.fin_raced).count();
    ensure!(raced_flows == 1 && flows.len() == 2, "{flows:?}");
    ensure!(flows.iter().all(|flow| flow.retire.as_deref() == Some("fin_sent")), "{flows:?}");
    drop((raced, calm));
    drain.wait()?.expect(0)?;
    let retire = ctl.retire(PORT)?;
    ensure!((retire.fin_sent, retire.fin_raced) == (2, 1), "{retire:?}");
    Ok(())
}

#[test]
fn a_half_closed_flow_counts_for_as_long_as_it_may_linger() -> Result<()> {
    for (linger, counts) in [("30s", true), ("0s", false)] {
        let fixture = Fixture::new()?;
        let mut held = Held::connect(&fixture)?;
        let options = [IDLE, &["--linger", linger]].concat();
        let mut drain = drain(&fixture, &options, [&held])?;
        talk(&mut held.wire, &untold())?;
        held.wire.await_end()?;
        if counts {
            let ctl = fixture.ctl();
            ctl.await_service(PORT, "it lingers", |service| service.lingering == 1)?;
            ensure!(ctl.flows(PORT)?.iter().all(|flow| flow.activity == "lingering"));
            held.wire.stays_ended(WHILE)?;
            ensure!(drain.is_running()?, "the server may still work on a request");
            drop(held);
            drain.wait()?.expect(0)?;
        } else {
            drain.wait()?.expect(0)?;
            drop(held);
        }
    }
    Ok(())
}

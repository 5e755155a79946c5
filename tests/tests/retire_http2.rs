//! HTTP/2 flows that are told: one GOAWAY, between two frames, at a good moment; and never into anything else.

use std::time::Duration;

use crate::retiring::Retiring;
use anyhow::{Context, Result, ensure};
use drainctl_agent::kernel::{Kernel, Protocol, RetireOrder};
use drainctl_tests::{
    frames::{
        GOAWAY, bare_answer, data, frame, framed, headers, last_data, long_headers, ping, ping_ack,
        settings, settings_ack, window_update, without_goaway,
    },
    script::{GET, H2C, Step, ask, goaway, play, preface, request, same, say, told},
    wait::{LIMIT, eventually},
};

/// An order that lets a GOAWAY wait for a moment without open streams.
fn patient(retiring: &Retiring) -> RetireOrder {
    let order = retiring.at_once();
    RetireOrder { patient_until: order.start + Duration::from_secs(300), ..order }
}

/// New flows, and where exactly the GOAWAY belongs if it waits for nothing but the first answer.
fn conversations() -> Vec<(&'static str, Vec<Step>)> {
    let [block, more, end] = long_headers(1);
    let begun = [settings(), data(1, &[0; 1000])[..500].to_vec()].concat();
    vec![
        (
            "its first request is on its way",
            vec![
                preface(),
                say(&[same(settings())]),
                say(&[same(settings_ack())]),
                say(&[same(ping_ack())]),
                request(),
                say(&[same(window_update(0))]),
                say(&[same([headers(1), data(1, b"a")].concat()), goaway()]),
                say(&[same(ping_ack())]),
                say(&[same(last_data(1, b"b"))]),
            ],
        ),
        (
            "SETTINGS of the server first",
            vec![
                say(&[same(settings())]),
                preface(),
                say(&[same([settings_ack(), ping()].concat())]),
                say(&[same([ping_ack(), bare_answer(1)].concat()), goaway()]),
                say(&[same(ping())]),
            ],
        ),
        (
            "it is never answered",
            vec![
                preface(),
                say(&[same(settings())]),
                say(&[same(settings_ack())]),
                request(),
                say(&[same(ping_ack())]),
            ],
        ),
        ("a window of its first stream", {
            let open = say(&[same([settings(), window_update(1)].concat())]);
            vec![preface(), open, say(&[same(headers(1)), goaway()])]
        }),
        (
            "several frames",
            vec![
                preface(),
                say(&[same([settings(), headers(1), data(1, b"a")].concat()), goaway()]),
            ],
        ),
        (
            "a header block in three messages",
            vec![
                preface(),
                say(&[same([settings(), block.clone()].concat())]),
                say(&[same(more.clone())]),
                say(&[same(end.clone()), goaway()]),
                say(&[same(last_data(1, b"b"))]),
            ],
        ),
        (
            "a header block cut inside its frames",
            vec![
                preface(),
                say(&[same([&settings()[..], &block[..9]].concat())]),
                say(&[same([&block[9..], &more[..12]].concat())]),
                say(&[same(more[12..].to_vec())]),
                say(&[same(end), goaway()]),
            ],
        ),
        (
            "a body of zeros, in pieces",
            vec![
                preface(),
                say(&[same(begun)]),
                say(&[same([0; 9])]),
                say(&[same([0; 400])]),
                say(&[same([0; 100]), goaway()]),
                say(&[same(data(1, b"a"))]),
            ],
        ),
        (
            "a body of frames, each of its own",
            vec![
                preface(),
                say(&[same([&settings()[..], &data(1, &framed().repeat(3))[..9]].concat())]),
                say(&[same(framed())]),
                request(),
                say(&[same(framed())]),
                request(),
                say(&[same(framed()), goaway()]),
            ],
        ),
        (
            "a body of GOAWAYs",
            vec![
                preface(),
                say(&[same([&settings()[..], &data(1, &GOAWAY.repeat(2))[..9]].concat())]),
                say(&[same(GOAWAY)]),
                say(&[same(GOAWAY), goaway()]),
            ],
        ),
        (
            "long frames",
            vec![
                preface(),
                say(&[same([settings(), data(1, &[1; 16_384])].concat()), goaway()]),
                say(&[same(ping())]),
            ],
        ),
    ]
}

#[test]
fn one_goaway_comes_between_two_frames() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.tell()?;
    for (what, steps) in conversations() {
        let mut wire = retiring.connect()?;
        let expected = play(&mut wire, &steps)?;
        retiring.check(wire, &expected).context(what)?;
        let written = steps.iter().any(|step| matches!(step, Step::Say(_)));
        ensure!(written && without_goaway(&expected).is_ok(), "{what}: the test is wrong");
    }
    Ok(())
}

#[test]
fn a_goaway_waits_for_open_streams() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.order(&patient(&retiring))?;
    let answer = || say(&[same([settings(), headers(1)].concat())]);
    let cases = [
        (
            "the first request is on its way",
            vec![
                preface(),
                say(&[same(settings())]),
                say(&[same(settings_ack())]),
                say(&[same(ping_ack())]),
                request(),
                say(&[same([ping_ack(), window_update(0)].concat())]),
                say(&[same([headers(1), last_data(1, b"a")].concat()), goaway()]),
                say(&[same(ping_ack())]),
            ],
        ),
        (
            "no answer ends",
            vec![
                preface(),
                say(&[same([settings(), settings_ack()].concat())]),
                say(&[same(ping())]),
            ],
        ),
        (
            "the next answer begins where one ends",
            vec![
                preface(),
                answer(),
                say(&[same([last_data(1, b"a"), headers(3)].concat())]),
                say(&[same(last_data(3, b"b")), goaway()]),
            ],
        ),
        (
            "the first request is refused",
            vec![
                preface(),
                say(&[same(settings())]),
                say(&[same(frame(3, 0, 1, &[0, 0, 0, 7])), goaway()]),
            ],
        ),
        (
            "until it ends",
            vec![
                preface(),
                answer(),
                say(&[same(data(1, b"a"))]),
                say(&[same(last_data(1, b"b")), goaway()]),
            ],
        ),
        (
            "until both end",
            vec![
                preface(),
                answer(),
                say(&[same([headers(3), last_data(1, b"a")].concat())]),
                say(&[same(data(3, b"a"))]),
                say(&[same(frame(3, 0, 3, &[0; 4])), goaway()]),
            ],
        ),
        (
            "an answer without a body",
            vec![preface(), say(&[same([settings(), bare_answer(1)].concat()), goaway()])],
        ),
        (
            "it stays open",
            vec![preface(), answer(), say(&[same(data(1, b"a"))]), say(&[same(ping())])],
        ),
    ];
    for (what, steps) in cases {
        let mut wire = retiring.connect()?;
        let expected = play(&mut wire, &steps)?;
        let flow = retiring.check(wire, &expected).context(what)?;
        ensure!(flow.protocol == Protocol::Http2, "{what}: {flow:?}");
    }
    Ok(())
}

/// Between two answers no stream seems open, but the next request may be on its way.
#[test]
fn a_goaway_does_not_wait_for_silence_but_for_the_end_of_an_answer() -> Result<()> {
    let retiring = Retiring::new()?;
    let later = patient(&retiring);
    retiring.order(&RetireOrder { http2: false, ..later })?;
    let mut wires = Vec::new();
    for what in ["an answer ends", "patience ends"] {
        let mut wire = retiring.connect()?;
        let before = [preface(), say(&[same([settings(), bare_answer(1)].concat())])];
        let expected = play(&mut wire, &before)?;
        wires.push((what, wire, expected));
    }
    retiring.order(&later)?;
    let nothing = [
        say(&[same(ping_ack())]),
        say(&[same(window_update(0))]),
        say(&[same(window_update(3))]),
        request(),
        say(&[same([settings_ack(), ping()].concat())]),
    ];
    for (what, wire, expected) in &mut wires {
        expected.extend(play(wire, &nothing)?);
        let flow = retiring.followed(wire).context(*what)?;
        ensure!(flow.told.is_none() && flow.protocol == Protocol::Http2, "{what}: {flow:?}");
    }
    let (what, mut hurried, mut late) = wires.pop().context("two flows")?;
    let (_, mut wire, mut expected) = wires.pop().context("two flows")?;
    expected.extend(play(&mut wire, &[say(&[same(bare_answer(3)), goaway()])])?);
    retiring.check(wire, &expected).context("an answer ends")?;
    retiring.tell()?;
    late.extend(play(&mut hurried, &[say(&[goaway(), same(ping_ack())])])?);
    retiring.check(hurried, &late).context(what).map(drop)
}

#[test]
fn a_goaway_waits_until_the_order_says_so_and_no_longer() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.order(&patient(&retiring))?;
    let mut wire = retiring.connect()?;
    let mut expected = play(
        &mut wire,
        &[preface(), say(&[same([settings(), headers(1)].concat())]), say(&[same(data(1, b"a"))])],
    )?;
    ensure!(retiring.followed(&wire)?.told.is_none());
    let soon = retiring.linux.now() + Duration::from_millis(200);
    retiring.order(&RetireOrder { patient_until: soon, ..retiring.at_once() })?;
    eventually(LIMIT, "patience has an end", || Ok(retiring.linux.now() >= soon))?;
    // Before what the server says next: the end of that may be no end of a frame.
    let next = data(1, &[0; 100]);
    let steps =
        [say(&[goaway(), same(&next[..50])]), say(&[same(&next[50..])]), say(&[same(ping())])];
    expected.extend(play(&mut wire, &steps)?);
    retiring.check(wire, &expected).map(drop)
}

#[test]
fn an_upgraded_connection_is_told_as_http2() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.tell()?;
    let settings = || same([settings(), headers(1)].concat());
    let cases = [
        ("101 and SETTINGS in one write", vec![ask(GET), say(&[same(H2C), settings(), goaway()])]),
        ("in two", vec![ask(GET), say(&[same(H2C)]), say(&[settings(), goaway()])]),
        (
            "behind another response",
            [
                told().to_vec(),
                vec![
                    ask(GET),
                    say(&[same(H2C)]),
                    preface(),
                    say(&[settings(), goaway()]),
                    say(&[same(ping())]),
                ],
            ]
            .concat(),
        ),
    ];
    for (what, steps) in cases {
        let mut wire = retiring.connect()?;
        let expected = play(&mut wire, &steps)?;
        let flow = retiring.check(wire, &expected).context(what)?;
        ensure!(flow.protocol == Protocol::Http2 && flow.told.is_some(), "{what}: {flow:?}");
    }
    Ok(())
}

//! HTTP/2 flows that are told: one GOAWAY, between two frames, at a good moment; and never into anything else.

mod retiring;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drainctl_agent::kernel::{Kernel, Protocol, RetireOrder};
use drainctl_tests::{
    frames::{
        GOAWAY, bare_answer, data, frame, framed, headers, last_data, long_headers, ping, settings,
        settings_ack, without_goaway,
    },
    script::{GET, H2C, Step, ask, goaway, play, preface, request, same, say, told},
    wait::{LIMIT, eventually},
};
use retiring::Retiring;

/// An order that lets a GOAWAY wait for a moment without open streams.
fn patient(retiring: &Retiring) -> RetireOrder {
    let order = retiring.at_once();
    RetireOrder { patient_until: order.start + Duration::from_secs(300), ..order }
}

/// New flows, and where exactly the GOAWAY belongs if it waits for nothing.
fn conversations() -> Vec<(&'static str, Vec<Step>)> {
    let [block, more, end] = long_headers(1);
    let begun = [settings(), data(1, &[0; 1000])[..500].to_vec()].concat();
    vec![
        (
            "the first message",
            vec![
                preface(),
                say(&[same(settings()), goaway()]),
                say(&[same(settings_ack())]),
                say(&[same(ping())]),
            ],
        ),
        (
            "without a word of the client",
            vec![say(&[same(settings()), goaway()]), say(&[same(ping())])],
        ),
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
        ("none is open", vec![preface(), say(&[same(settings()), goaway()])]),
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

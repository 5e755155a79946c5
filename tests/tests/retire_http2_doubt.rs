//! HTTP/2 flows of which not everything is known: joined in mid-life, in pieces, or perhaps something else. Nothing
//! is ever written into the middle of a frame.

use std::{thread, time::Duration};

use crate::retiring::Retiring;
use anyhow::{Context, Result, ensure};
use drainctl_agent::kernel::{Kernel, Protocol, RetireOrder};
use drainctl_tests::{
    frames::{
        GOAWAY, PREFACE, data, frame, framed, headers, last_data, long_headers, ping, settings,
        settings_ack, without_goaway,
    },
    options::limit_not_sent,
    script::{GET, H2C, Piece, Step, ask, goaway, play, preface, request, same, say, told, untold},
    wire::{difference, noise, write_when_possible},
};
use rustix::net::sockopt;

/// A GOAWAY waits for the end of an answer.
fn patient(retiring: &Retiring) -> RetireOrder {
    let order = retiring.at_once();
    RetireOrder { patient_until: order.start + Duration::from_secs(300), ..order }
}

/// The server says everything in pieces of any length; wherever the GOAWAY is, it is between two frames.
#[test]
fn frames_in_pieces_of_any_length_stay_whole() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.tell()?;
    let [block, more, end] = long_headers(3);
    let frames = [
        settings(),
        settings_ack(),
        headers(1),
        data(1, &framed()),
        data(1, &[0; 300]),
        block,
        more,
        end,
        ping(),
        last_data(3, &GOAWAY),
        last_data(1, b"end"),
    ]
    .concat();
    let mut cuts: Vec<(String, Vec<usize>)> =
        (1..60).chain([100, 1000]).map(|size| (format!("by {size}"), vec![size])).collect();
    cuts.extend((0..300).map(|seed| {
        let sizes = noise(seed, 97).into_iter().map(|byte| usize::from(byte % 24) + 1);
        (format!("seed {seed}"), sizes.collect())
    }));
    let mut told = 0;
    for (what, sizes) in cuts {
        let mut wire = retiring.connect()?;
        wire.ask(PREFACE)?;
        let mut rest = &frames[..];
        for size in sizes.iter().cycle() {
            let (part, others) = rest.split_at(rest.len().min(*size));
            rest = others;
            wire.say(part)?;
            if rest.is_empty() {
                break;
            }
        }
        let flow = retiring.followed(&wire)?;
        let arrived = wire.close()?.arrived;
        let (others, found) = without_goaway(&arrived).with_context(|| what.clone())?;
        // Another GOAWAY is in a body, and there it stays.
        ensure!(others == frames, "{what}: something else arrived than was sent");
        ensure!(found == usize::from(flow.told.is_some()), "{what}: {found} GOAWAYs, {flow:?}");
        told += found;
        retiring.forget(&flow)?;
    }
    ensure!(told > 0, "nobody was told");
    Ok(())
}

/// The GOAWAY becomes due while the server writes without blocking into a buffer that is full most of the time.
#[test]
fn frames_into_a_full_buffer_stay_whole() -> Result<()> {
    const FRAMES: usize = 300;
    let retiring = Retiring::new()?;
    let patient_until = retiring.linux.now() + Duration::from_secs(300);
    for size in [100, 5000, 16_384] {
        retiring.order(&RetireOrder { patient_until, ..retiring.at_once() })?;
        let mut wire = retiring.connect()?;
        sockopt::set_socket_send_buffer_size(wire.server(), 16_384)?;
        sockopt::set_socket_recv_buffer_size(wire.client(), 16_384)?;
        wire.listen(|| thread::sleep(Duration::from_micros(300)))?; // not a wait for a state: a slow client
        let first = [settings(), headers(1)].concat();
        wire.say(&first)?;
        let frame = data(1, &noise(size as u64, size));
        let mut full = 0;
        for number in 0..FRAMES {
            if number == FRAMES / 3 {
                retiring.tell()?;
            }
            wire.say_by(&frame, |server| {
                full += write_when_possible(server, &frame)?;
                Ok(())
            })?;
        }
        let flow = retiring.followed(&wire)?;
        let seen = wire.close()?;
        let (others, found) =
            without_goaway(&seen.arrived).with_context(|| format!("frames of {size} bytes"))?;
        ensure!(others == seen.written, "{}", difference(&seen.written, &others));
        ensure!(found == usize::from(flow.told.is_some()), "{found} GOAWAYs, {flow:?}");
        ensure!(size < 1000 || full > 10, "the buffer was full only {full} times");
        ensure!(size > 1000 || found == 1, "nobody was told: {flow:?}");
    }
    Ok(())
}

/// The buffer has room, and yet the kernel does not take all of what a server writes at once: answers of these many
/// bytes, behind frames of an answer that goes on.
#[test]
fn frames_beyond_what_may_wait_unsent_stay_whole() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.order(&patient(&retiring))?;
    // Packets are at most half a window, and the kernel asks for room before each.
    retiring.netns.sysctl("net/ipv4/tcp_rmem", "4096 8192 16384")?;
    let (mut told, mut full) = (0, 0);
    for size in [100, 2000, 5000, 9000, 12_000, 15_000, 40_000] {
        let body = noise(size as u64, size);
        let parts = body.chunks(16_000).flat_map(|part| data(3, part));
        let answer = [headers(3), parts.collect(), last_data(3, b"end")].concat();
        for before in [0, 1, 3, 8] {
            let mut wire = retiring.connect()?;
            sockopt::set_socket_send_buffer_size(wire.server(), 1 << 20)?;
            limit_not_sent(wire.server(), 16_384)?;
            wire.say(&settings())?;
            wire.listen(|| thread::sleep(Duration::from_millis(1)))?; // not a wait for a state: a slow client
            let goes_on = vec![data(3, &noise(5, 9000)); before];
            for message in [goes_on, vec![answer.clone(); 3]].concat() {
                wire.say_by(&message, |server| {
                    full += write_when_possible(server, &message)?;
                    Ok(())
                })?;
            }
            let flow = retiring.followed(&wire)?;
            let what = || format!("{size} bytes behind {before} frames: {flow:?}");
            let seen = wire.close()?;
            let (others, found) = without_goaway(&seen.arrived).with_context(what)?;
            ensure!(others == seen.written, "{}: {}", what(), difference(&seen.written, &others));
            ensure!(found == usize::from(flow.told.is_some()), "{found} GOAWAYs, {}", what());
            told += found;
            retiring.forget(&flow)?;
        }
    }
    ensure!(told > 0 && full > 50, "{told} were told, and there was no room {full} times");
    Ok(())
}

#[test]
fn nothing_is_written_into_what_may_be_something_else() -> Result<()> {
    // Here a GOAWAY would come if these were frames without any doubt.
    let answer = || same([headers(1), last_data(1, b"a")].concat());
    let own = frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
    let record = |length: u8| [&[0x17, 3, 3, 0, length][..], &vec![7; length.into()]].concat();
    let socket = |text: &str| [&[0x82, text.len() as u8], text.as_bytes()].concat();
    let cases = [
        (
            "a GOAWAY of the server",
            vec![preface(), say(&[same([settings(), own.clone()].concat())]), say(&[answer()])],
        ),
        (
            "two bytes of a frame on their own",
            vec![
                preface(),
                say(&[same([&settings()[..], &data(1, &[0; 10])[..9]].concat())]),
                say(&[same([0; 2])]),
                say(&[same([&[0; 8], &ping()[..2]].concat())]),
                say(&[same(&ping()[2..])]),
                say(&[answer()]),
            ],
        ),
        (
            "frames without SETTINGS",
            vec![ask("a"), say(&[same(framed())]), ask("b"), say(&[same(framed())])],
        ),
        (
            "zeros",
            vec![
                ask("a"),
                say(&[same([0; 9])]),
                ask("b"),
                say(&[same([0; 18])]),
                say(&[same([0; 900])]),
                say(&[answer()]),
            ],
        ),
        (
            "TLS",
            vec![
                ask("a"),
                say(&[same(record(40))]),
                ask("b"),
                say(&[same(record(9))]),
                say(&[same(settings()), answer()]),
            ],
        ),
        (
            "WebSocket",
            vec![
                ask(GET),
                say(&[same(H2C.replace("h2c", "websocket"))]),
                say(&[same(socket("a"))]),
                ask("x"),
                say(&[same(framed())]),
                ask("x"),
                say(&[same(framed())]),
            ],
        ),
        (
            "SETTINGS too long",
            vec![
                say(&[same(frame(4, 0, 0, &[0; 7]))]),
                ask("a"),
                say(&[same(settings()), answer()]),
            ],
        ),
        (
            "half a header",
            vec![say(&[same(&settings()[..5])]), say(&[same(&settings()[5..])]), say(&[answer()])],
        ),
        (
            "SETTINGS of an ACK first",
            vec![say(&[same(settings_ack())]), ask("a"), say(&[same(settings()), answer()])],
        ),
        (
            "a frame too long",
            vec![
                say(&[same([settings(), frame(0, 0, 1, &[0; 16_385])].concat())]),
                ask("a"),
                say(&[answer()]),
            ],
        ),
    ];
    let retiring = Retiring::new()?;
    retiring.tell()?;
    for (what, steps) in cases {
        let mut wire = retiring.connect()?;
        let expected = play(&mut wire, &steps)?;
        let flow = retiring.check(wire, &expected).context(what)?;
        ensure!(flow.told.is_none(), "{what}: {flow:?}");
    }
    let mut control = retiring.connect()?;
    let expected = play(&mut control, &[say(&[same(settings())]), say(&[answer(), goaway()])])?;
    ensure!(retiring.check(control, &expected)?.told.is_some());
    Ok(())
}

/// What was said before the order, and after it.
fn joined() -> Vec<(&'static str, Vec<Piece>, Vec<Step>)> {
    let whole = data(1, &[framed(), vec![0; 2000]].concat());
    let body = data(1, &framed().repeat(2));
    vec![
        (
            "between frames",
            vec![same(headers(1))],
            vec![
                say(&[same(data(1, b"a"))]),
                request(),
                say(&[same([headers(3), data(3, b"a")].concat()), goaway()]),
                say(&[same(ping())]),
            ],
        ),
        (
            "in the middle of zeros",
            vec![same(&whole[..500])],
            vec![
                say(&[same(&whole[500..900])]),
                request(),
                say(&[same(&whole[900..])]),
                say(&[same(data(1, b"a"))]),
            ],
        ),
        (
            "in the middle of frames of a body",
            vec![same(&body[..9])],
            vec![say(&[same(framed())]), say(&[same(framed())]), say(&[same(data(1, b"a"))])],
        ),
        (
            "only bodies",
            vec![same(headers(1))],
            vec![say(&[same(data(1, b"a"))]), request(), say(&[same(data(1, b"b"))])],
        ),
    ]
}

#[test]
fn joined_flows_are_told_only_where_a_frame_ends() -> Result<()> {
    let retiring = Retiring::new()?;
    let mut wires = Vec::new();
    for (what, before, after) in joined() {
        let mut wire = retiring.connect()?;
        let before = [vec![same(settings())], before].concat();
        let expected = play(&mut wire, &[preface(), say(&before)])?;
        wires.push((what, wire, expected, after));
    }
    retiring.tell()?;
    for (what, mut wire, mut expected, after) in wires {
        expected.extend(play(&mut wire, &after)?);
        retiring.check(wire, &expected).context(what)?;
    }
    Ok(())
}

#[test]
fn http2_is_left_alone_if_only_http1_is_to_be_told() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.order(&RetireOrder { http2: false, ..retiring.at_once() })?;
    let mut wire = retiring.connect()?;
    let expected = play(&mut wire, &[preface(), say(&[same(settings())]), say(&[same(ping())])])?;
    ensure!(retiring.check(wire, &expected)?.protocol == Protocol::Http2, "it is followed");
    let mut wire = retiring.connect()?;
    let expected = play(&mut wire, &told())?;
    ensure!(retiring.check(wire, &expected)?.told.is_some());
    retiring.order(&RetireOrder { http1: false, ..retiring.at_once() })?;
    let mut wire = retiring.connect()?;
    let expected = play(&mut wire, &untold())?;
    ensure!(retiring.check(wire, &expected)?.told.is_none());
    Ok(())
}

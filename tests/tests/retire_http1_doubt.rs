//! HTTP/1 flows of which not everything is known, and flows that are not HTTP/1: what might be a body, or something
//! else, is never touched.

use crate::retiring::Retiring;
use anyhow::{Context, Result, ensure};
use drainctl_agent::kernel::Protocol;
use drainctl_tests::{
    heads::Expected,
    script::{CHUNKED, GET, LOOKALIKE, OK, ask, head, play, same, say, told},
};

const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";

/// The client sends on while the head has been sent and nothing of its body: the flow is known from its first
/// byte, so that the next bytes are known to be a body, whatever they look like.
#[test]
fn an_early_response_whose_whole_body_is_a_head_is_not_touched() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.tell()?;
    let mut wire = retiring.connect()?;
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", LOOKALIKE.len());
    let steps = [
        ask("PUT / HTTP/1.1\r\nContent-Length: 3000\r\n\r\nmore to come"),
        say(&[head(long.clone())]),
        ask("and more"),
        say(&[same(LOOKALIKE)]),
    ];
    let expected = play(&mut wire, &steps)?;
    retiring.check(wire, &expected).map(drop)
}

/// Nobody knows where a body is, of which the head was sent before: what the server writes without having read
/// anything is never taken for a head, nor is what does not end as one.
#[test]
fn joined_in_the_middle_of_a_body_nothing_is_touched_before_the_next_answer() -> Result<()> {
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 3 * LOOKALIKE.len());
    let chunk = format!("{:x}\r\n{LOOKALIKE}\r\n", LOOKALIKE.len());
    let rest = || say(&[same(LOOKALIKE)]);
    let cases = [
        ("a length", vec![ask(GET), say(&[same(long.clone())])], vec![rest(), rest(), rest()]),
        (
            "a length, cut",
            vec![ask(GET), say(&[same(long), same(&LOOKALIKE[..9])])],
            vec![say(&[same(&LOOKALIKE[9..])]), rest(), rest()],
        ),
        (
            "chunks",
            vec![ask(GET), say(&[same(CHUNKED)])],
            vec![
                say(&[same(chunk.clone())]),
                ask("more"),
                say(&[same(chunk)]),
                say(&[same("0\r\n\r\n")]),
            ],
        ),
        (
            "half a head",
            vec![ask(GET), say(&[same(&OK[..20])])],
            vec![say(&[same(&OK[20..]), same("ok")])],
        ),
    ];
    let retiring = Retiring::new()?;
    let mut flows = Vec::new();
    for (what, before, after) in cases {
        let mut wire = retiring.connect()?;
        let expected = play(&mut wire, &before)?;
        flows.push((what, wire, expected, after));
    }
    retiring.tell()?;
    for (what, mut wire, mut expected, after) in flows {
        expected.extend(play(&mut wire, &after)?);
        expected.extend(play(&mut wire, &told())?);
        let flow = retiring.check(wire, &expected).context(what)?;
        ensure!(flow.told.is_some(), "{what}: {flow:?}");
    }
    Ok(())
}

/// What an answer to HEAD promises and does not send is counted in the answer behind it, and ends where the body of
/// that one has something like a head.
#[test]
fn a_head_in_a_body_behind_an_answer_to_head_is_not_touched() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.tell()?;
    let mut wire = retiring.connect()?;
    let padding = "x".repeat(40);
    let long = |length| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    let head = long(padding.len() + LOOKALIKE.len());
    let promise = long(head.len() + padding.len());
    let body = [&padding, LOOKALIKE].concat();
    wire.ask(HEAD.as_bytes())?;
    wire.say(promise.as_bytes())?;
    let mut expected = Expected::default();
    expected.head(promise.as_bytes());
    for (head, body) in [(&head[..], &body[..]), (OK, "ok"), (OK, "ok")] {
        wire.ask(GET.as_bytes())?;
        wire.say([head, body].concat().as_bytes())?;
        expected.head(head.as_bytes());
        expected.same(body.as_bytes());
    }
    let told = expected.check(&wire.close()?.arrived)?;
    ensure!(told > 0, "our program has not run");
    Ok(())
}

#[test]
fn other_protocols_are_never_touched() -> Result<()> {
    let switch =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let frame = |text: &str| [&[0x81, text.len() as u8], text.as_bytes()].concat();
    let greeting = "220 mail.example ESMTP\r\n";
    let cases = [
        (
            "WebSocket",
            Protocol::Upgraded,
            vec![
                ask(GET),
                say(&[same(switch)]),
                say(&[same(frame("hello"))]),
                ask("abc"),
                say(&[same(LOOKALIKE)]),
            ],
        ),
        (
            "WebSocket at once",
            Protocol::Upgraded,
            vec![
                ask(GET),
                say(&[same(switch), same(frame("hello"))]),
                ask("abc"),
                say(&[same(LOOKALIKE)]),
            ],
        ),
        (
            "SMTP",
            Protocol::Unknown,
            vec![say(&[same(greeting)]), ask("EHLO"), say(&[same("250 OK\r\n")])],
        ),
        (
            "Redis",
            Protocol::Unknown,
            vec![ask("GET a"), say(&[same("$-1\r\n")]), ask("x"), say(&[same("+OK\r\n")])],
        ),
        (
            "zeros",
            Protocol::Unknown,
            vec![ask("a"), say(&[same(vec![0; 900])]), ask("b"), say(&[same([0; 9])])],
        ),
        (
            "a head that is none",
            Protocol::Unknown,
            vec![ask(GET), say(&[same("HTTP/1.1 2000 OK\r\n\r\n")])],
        ),
        (
            "a folded line",
            Protocol::Unknown,
            vec![ask(GET), say(&[same("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n")])],
        ),
        (
            "bare line feeds",
            Protocol::Unknown,
            vec![ask(GET), say(&[same("HTTP/1.1 200 OK\nA: b\n\n")])],
        ),
        (
            "HTTP/2 in words",
            Protocol::Unknown,
            vec![ask(GET), say(&[same("HTTP/2.0 200 OK\r\n\r\n")])],
        ),
        (
            "TLS",
            Protocol::Tls,
            vec![ask("hi"), say(&[same([22, 3, 3, 0, 2, 1, 1])]), ask("b"), say(&[same(OK)])],
        ),
    ];
    let retiring = Retiring::new()?;
    retiring.tell()?;
    let mut control = retiring.connect()?;
    let expected = play(&mut control, &told())?;
    ensure!(retiring.check(control, &expected)?.told.is_some());
    for (what, protocol, steps) in cases {
        let mut wire = retiring.connect()?;
        let expected = play(&mut wire, &steps)?;
        let flow = retiring.check(wire, &expected).context(what)?;
        ensure!(flow.told.is_none() && flow.protocol == protocol, "{what}: {flow:?}");
    }
    Ok(())
}

//! HTTP/1 flows that are told, however the server writes: in pieces, with every call there is, and into a full
//! buffer. Heads are told or left alone, never broken, and bodies are exact.

use std::{
    fs::File,
    io::{IoSlice, Seek, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use crate::retiring::Retiring;
use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    heads::{Expected, closing},
    options::limit_not_sent,
    script::{GET, OK, ask, head, play, same, say, told},
    wire::{Wire, noise, write_when_possible},
};
use rustix::{
    net::{SendFlags, send, sockopt},
    pipe::{SpliceFlags, pipe, splice},
};

const BIG: usize = 3_000_000;

/// Heads and bodies.
const RESPONSES: &[(&str, &str, &str)] = &[
    ("a length", OK, "ok"),
    (
        "keep-alive",
        "HTTP/1.1 200 OK\r\nConnection: X, keep-alive\r\nContent-Length: 2\r\n\r\n",
        "ok",
    ),
    ("an option", "HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\n", "ok"),
    ("an empty option", "HTTP/1.1 200 OK\r\nConnection:\r\nContent-Length: 0\r\n\r\n", ""),
    ("HTTP/1.0", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n", "ok"),
    (
        "chunks",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "2\r\nok\r\n0\r\nA: b\r\n\r\n",
    ),
    ("204", "HTTP/1.1 204 No Content\r\nServer: a\r\n\r\n", ""),
    ("304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", ""),
    (
        "a body like a head",
        "HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
    ),
];

#[test]
fn a_response_in_two_writes_is_told_or_left_alone() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.tell()?;
    let mut told = 0;
    for (what, head, body) in RESPONSES {
        let whole = [*head, *body].concat();
        for cut in 1..whole.len() {
            let mut wire = retiring.connect()?;
            wire.ask(GET.as_bytes())?;
            wire.say(&whole.as_bytes()[..cut])?;
            wire.say(&whole.as_bytes()[cut..])?;
            // And what comes behind it.
            wire.ask(GET.as_bytes())?;
            wire.say([OK, "ok"].concat().as_bytes())?;
            let mut expected = Expected::default();
            [head, body, OK, "ok"].iter().enumerate().for_each(|(number, part)| match number % 2 {
                0 => expected.head(part.as_bytes()),
                _ => expected.same(part.as_bytes()),
            });
            let changed = ends_as(&retiring, wire, &expected);
            told += changed.with_context(|| format!("{what}, cut at byte {cut}"))?;
        }
    }
    ensure!(told > 500, "only {told} were told");
    Ok(())
}

/// Closes the connection and checks what arrived; returns how many heads were told.
fn ends_as(retiring: &Retiring, wire: Wire, expected: &Expected) -> Result<usize> {
    let flow = retiring.followed(&wire)?;
    let changed = expected.check(&wire.close()?.arrived)?;
    ensure!(flow.told.is_some() == (changed > 0), "{changed} heads were changed: {flow:?}");
    ensure!(flow.sent.is_some(), "our program has not run: {flow:?}");
    retiring.forget(&flow)?;
    Ok(changed)
}

#[test]
fn a_response_byte_by_byte_is_told_or_left_alone() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.tell()?;
    for (what, head, body) in RESPONSES {
        let mut wire = retiring.connect()?;
        let mut expected = Expected::default();
        for _ in 0..2 {
            wire.ask(GET.as_bytes())?;
            for byte in [*head, *body].concat().as_bytes() {
                wire.say(&[*byte])?;
            }
            expected.head(head.as_bytes());
            expected.same(body.as_bytes());
        }
        ends_as(&retiring, wire, &expected).context(*what)?;
    }
    Ok(())
}

#[test]
fn long_heads_are_told_or_left_alone() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.tell()?;
    // One write may be more than one message if it is long; from 65,535 bytes on no head is followed.
    for (length, certain) in
        [(4000, true), (8192, true), (16_000, true), (60_000, false), (66_000, false)]
    {
        let mut wire = retiring.connect()?;
        wire.listen(|| ())?;
        let head =
            format!("HTTP/1.1 200 OK\r\nA: {}\r\nContent-Length: 2\r\n\r\n", "b".repeat(length));
        wire.ask(GET.as_bytes())?;
        let whole = [&head, "ok"].concat();
        wire.say_by(whole.as_bytes(), |server| Ok(server.write_all(whole.as_bytes())?))?;
        let mut expected = Expected::default();
        expected.head(head.as_bytes());
        expected.same(b"ok");
        let changed = ends_as(&retiring, wire, &expected).with_context(|| length.to_string())?;
        ensure!(changed == 1 || !certain, "a head of {length} bytes was not told");
    }
    Ok(())
}

#[test]
fn pipelined_answers_are_complete() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.tell()?;
    for count in [2, 50] {
        let requests = ask(GET.repeat(count));
        let one = [head(OK), same("ok")];
        let at_once = vec![requests.clone(), say(&vec![one.clone(); count].concat())];
        let each = [vec![requests.clone()], vec![say(&one); count]].concat();
        for (what, steps) in [("one write", at_once), ("a write each", each)] {
            let mut wire = retiring.connect()?;
            let expected = play(&mut wire, &steps)?;
            let flow =
                retiring.check(wire, &expected).with_context(|| format!("{count}, {what}"))?;
            ensure!(!flow.answered, "nothing is known of a client that pipelines: {flow:?}");
        }
        // In writes that keep to no boundary.
        for size in [7, 61, 100, 1000] {
            let mut wire = retiring.connect()?;
            wire.ask(GET.repeat(count).as_bytes())?;
            for part in [OK, "ok"].concat().repeat(count).as_bytes().chunks(size) {
                wire.say(part)?;
            }
            let mut expected = Expected::default();
            (0..count).for_each(|_| {
                expected.head(OK.as_bytes());
                expected.same(b"ok");
            });
            ends_as(&retiring, wire, &expected).with_context(|| format!("{count} by {size}"))?;
        }
    }
    Ok(())
}

type Call = fn(&mut TcpStream, &[u8], &[u8]) -> Result<()>;

/// Ways to write a head and a body, with the calls that real servers use.
const CALLS: &[(&str, Call)] = &[
    ("one write", |server, head, body| Ok(server.write_all(&[head, body].concat())?)),
    ("two writes", |server, head, body| {
        server.write_all(head)?;
        Ok(server.write_all(body)?)
    }),
    ("writev", |server, head, body| {
        let half = body.len() / 2;
        let slices = [head, &body[..half], &body[half..]].map(IoSlice::new);
        let written = server.write_vectored(&slices)?;
        Ok(server.write_all(&[head, body].concat()[written..])?)
    }),
    ("MSG_MORE", |server, head, body| {
        let sent = send(&server, head, SendFlags::MORE)?;
        ensure!(sent == head.len());
        Ok(server.write_all(body)?)
    }),
    ("the head in two, MSG_MORE", |server, head, body| {
        for part in [&head[..20], &head[20..]] {
            ensure!(send(&server, part, SendFlags::MORE)? == part.len());
        }
        Ok(server.write_all(body)?)
    }),
    ("TCP_CORK", |server, head, body| {
        sockopt::set_tcp_cork(&server, true)?;
        server.write_all(head)?;
        server.write_all(body)?;
        Ok(sockopt::set_tcp_cork(server, false)?)
    }),
    ("sendfile", |server, head, body| {
        server.write_all(head)?;
        send_file(server, body)
    }),
    ("sendfile behind MSG_MORE", |server, head, body| {
        ensure!(send(&server, head, SendFlags::MORE)? == head.len());
        send_file(server, body)
    }),
    ("sendfile of head and body", |server, head, body| send_file(server, &[head, body].concat())),
    ("splice", |server, head, body| {
        server.write_all(head)?;
        splice_all(server, body)
    }),
];

fn file(bytes: &[u8]) -> Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

fn send_file(server: &TcpStream, bytes: &[u8]) -> Result<()> {
    let (file, mut sent) = (file(bytes)?, 0);
    while sent < bytes.len() {
        let count = rustix::fs::sendfile(server, &file, None, bytes.len() - sent)?;
        ensure!(count > 0, "the file has ended at {sent}");
        sent += count;
    }
    Ok(())
}

fn splice_all(server: &TcpStream, bytes: &[u8]) -> Result<()> {
    let (file, (from, into), mut sent) = (file(bytes)?, pipe()?, 0);
    while sent < bytes.len() {
        let mut held = splice(&file, None, &into, None, 65_536, SpliceFlags::empty())?;
        ensure!(held > 0, "the file has ended at {sent}");
        while held > 0 {
            let count = splice(&from, None, server, None, held, SpliceFlags::MORE)?;
            (held, sent) = (held - count, sent + count);
        }
    }
    Ok(())
}

#[test]
fn bodies_are_exact_with_every_call() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.tell()?;
    let body = noise(7, BIG);
    for (what, call) in CALLS {
        for (kind, body) in [("long", &body[..]), ("short", &body[..100])] {
            let mut wire = retiring.connect()?;
            wire.listen(|| ())?;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            let head = head.as_bytes();
            let mut expected = Expected::default();
            for _ in 0..2 {
                wire.ask(GET.as_bytes())?;
                wire.say_by(&[head, body].concat(), |server| call(server, head, body))?;
                expected.head(head);
                expected.same(body);
            }
            let changed = ends_as(&retiring, wire, &expected);
            let changed = changed.with_context(|| format!("{what}, {kind}"))?;
            ensure!(changed == 2 || what.contains("in two"), "{what}, {kind}: {changed} told");
        }
    }
    Ok(())
}

#[test]
fn answers_into_a_full_buffer_are_complete() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.tell()?;
    answers_arrive(&retiring, 20_000, 50, |wire| {
        sockopt::set_socket_recv_buffer_size(wire.client(), 16_384)?;
        Ok(sockopt::set_socket_send_buffer_size(wire.server(), 16_384)?)
    })
}

/// The buffer has room, and yet the kernel does not take all of what a server writes at once.
#[test]
fn answers_beyond_what_may_wait_unsent_are_complete() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.tell()?;
    // Packets are at most half a window, and the kernel asks for room before each.
    retiring.netns.sysctl("net/ipv4/tcp_rmem", "4096 8192 16384")?;
    for (size, answers) in [(700, 700), (6000, 150), (20_000, 50), (100_000, 10)] {
        answers_arrive(&retiring, size, answers, |wire| {
            sockopt::set_socket_send_buffer_size(wire.server(), 1 << 20)?;
            limit_not_sent(wire.server(), 16_384)
        })
        .with_context(|| format!("bodies of {size} bytes"))?;
    }
    Ok(())
}

/// Answers to a slow client from a server that never waits in a write.
fn answers_arrive(
    retiring: &Retiring,
    size: usize,
    answers: usize,
    limit: impl Fn(&Wire) -> Result<()>,
) -> Result<()> {
    let body = noise(9, size);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
    let answer = [head.as_bytes(), &body].concat();
    for (what, part) in [("each", answer.len()), ("all", answer.len() * answers), ("odd", 3333)] {
        let mut wire = retiring.connect()?;
        limit(&wire)?;
        wire.listen(|| thread::sleep(Duration::from_millis(1)))?; // not a wait for a state: a slow client
        wire.ask(GET.repeat(answers).as_bytes())?;
        let all = answer.repeat(answers);
        let mut full = 0;
        wire.say_by(&all, |server| {
            for part in all.chunks(part) {
                full += write_when_possible(server, part)?;
            }
            Ok(())
        })?;
        ensure!(full > 10, "{what}: the buffer was full only {full} times");
        let mut expected = Expected::default();
        (0..answers).for_each(|_| {
            expected.head(head.as_bytes());
            expected.same(&body);
        });
        ensure!(ends_as(retiring, wire, &expected).context(what)? > 0, "{what}: nobody was told");
    }
    Ok(())
}

#[test]
fn garbage_arrives_as_it_is() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.tell()?;
    for seed in 1..=40 {
        let all = noise(seed, 40_000);
        let mut wire = retiring.connect()?;
        wire.listen(|| ())?;
        let (mut rest, mut turn) = (&all[..], 0);
        while !rest.is_empty() {
            if all[turn] & 3 == 0 {
                wire.ask(b"?")?;
            }
            let size = rest.len().min(usize::from(all[turn]) * usize::from(all[turn + 1] & 15) + 1);
            wire.say(&rest[..size])?;
            (rest, turn) = (&rest[size..], turn + 1);
        }
        let flow = retiring.check(wire, &all).with_context(|| format!("seed {seed}"))?;
        ensure!(flow.told.is_none(), "seed {seed}: {flow:?}");
    }
    // The same program, the same kind of connection: here it would have been seen.
    let mut wire = retiring.connect()?;
    let expected = play(&mut wire, &told())?;
    ensure!(expected != [OK, "ok"].concat().as_bytes() && closing(OK.as_bytes()) != OK.as_bytes());
    retiring.check(wire, &expected).map(drop)
}

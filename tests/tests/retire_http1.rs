//! HTTP/1 flows that are told: which heads say `close`, and what is never touched. Whatever the server writes
//! arrives byte for byte, except for that.

use crate::retiring::Retiring;
use anyhow::{Context, Result, ensure};
use drainctl_agent::kernel::{Protocol, ToldBy};
use drainctl_tests::{
    script::{CHUNKED, GET, LOOKALIKE, OK, Step, ask, head, play, same, say, told, untold},
    wire::Wire,
};

const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";

fn get() -> Step {
    ask(GET)
}

/// Version and fields of a response, and the same when it was told.
const HEADS: &[(&str, &str, &str)] = &[
    ("no Connection", "1.1|A: b", "1.1|Connection: close|A: b"),
    ("no field at all", "1.1", "1.1|Connection: close"),
    ("keep-alive", "1.1|Connection: keep-alive|A: b", "1.1|Connection:      close|A: b"),
    ("upper case", "1.1|CONNECTION: KEEP-ALIVE|A: b", "1.1|CONNECTION:      close|A: b"),
    ("lower case", "1.1|connection: keep-alive", "1.1|connection:      close"),
    ("no space", "1.1|Connection:Keep-Alive", "1.1|Connection:     close"),
    (
        "first of a list",
        "1.1|Connection: Keep-Alive, Upgrade",
        "1.1|Connection:      close, Upgrade",
    ),
    (
        "last of a list",
        "1.1|Connection: Upgrade, Keep-Alive",
        "1.1|Connection: Upgrade,      close",
    ),
    ("other options", "1.1|Connection: Upgrade, X", "1.1|Connection: close, Upgrade, X"),
    ("a similar option", "1.1|Connection: keep-alive-x", "1.1|Connection: close, keep-alive-x"),
    ("an empty value", "1.1|Connection: |A: b", "1.1|Connection: close|A: b"),
    ("empty, no space", "1.1|Connection:", "1.1|Connection:close"),
    (
        "two fields",
        "1.1|Connection: X|Connection: keep-alive",
        "1.1|Connection: X|Connection:      close",
    ),
    (
        "a similar name",
        "1.1|Proxy-Connection: keep-alive",
        "1.1|Connection: close|Proxy-Connection: keep-alive",
    ),
    ("its name as a value", "1.1|Vary: Connection", "1.1|Connection: close|Vary: Connection"),
    ("already", "1.1|Connection: close|A: b", "1.1|Connection: close|A: b"),
    ("already, in a list", "1.1|Connection: X, Close", "1.1|Connection: X, Close"),
    (
        "already, in the second",
        "1.1|Connection: X|Connection: close",
        "1.1|Connection: X|Connection: close",
    ),
    ("HTTP/1.0", "1.0|A: b", "1.0|A: b"),
    ("HTTP/1.0 that stays", "1.0|Connection: keep-alive", "1.0|Connection:      close"),
];

fn response(short: &str) -> String {
    let (version, fields) = short.split_once('|').unwrap_or((short, ""));
    let fields: String = fields.split_terminator('|').map(|field| format!("{field}\r\n")).collect();
    format!("HTTP/{version} 200 OK\r\n{fields}Content-Length: 2\r\n\r\n")
}

#[test]
fn heads_say_close_once_and_keep_their_other_options() -> Result<()> {
    let retiring = Retiring::new()?;
    let mut joined = Vec::new();
    for case in HEADS {
        let mut wire = retiring.connect()?;
        let before = play(&mut wire, &untold())?;
        joined.push((case, wire, before));
    }
    retiring.tell()?;
    for (case, wire, before) in joined {
        check_head(&retiring, case, wire, before).with_context(|| format!("joined: {case:?}"))?;
    }
    for case in HEADS {
        let wire = retiring.connect()?;
        check_head(&retiring, case, wire, Vec::new()).with_context(|| format!("new: {case:?}"))?;
    }
    Ok(())
}

fn check_head(
    retiring: &Retiring,
    (what, written, told): &(&str, &str, &str),
    mut wire: Wire,
    before: Vec<u8>,
) -> Result<()> {
    let mut expected = before;
    let rest = play(&mut wire, &[get(), say(&[head(response(written)), same("ok")])])?;
    expected.extend(response(told).bytes().chain(*b"ok"));
    ensure!(expected.ends_with(&rest), "two opinions in the test itself");
    let flow = retiring.check(wire, &expected)?;
    ensure!(flow.protocol == Protocol::Http1 && flow.answered, "{flow:?}");
    // HTTP/1.0 closes without a word.
    ensure!(flow.closes == (what.starts_with("already") || *what == "HTTP/1.0"), "{flow:?}");
    ensure!(flow.told.is_none_or(|told| told.by == ToldBy::Header), "{flow:?}");
    Ok(())
}

/// Conversations of new flows, each ending with a response that is told.
fn conversations() -> Vec<(&'static str, Vec<Step>)> {
    let chunk = format!("{:x}\r\n{LOOKALIKE}\r\n", LOOKALIKE.len());
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", LOOKALIKE.len());
    let upload = || ask("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\nmore to come");
    let more = || ask("and more");
    let trailers = "0\r\nConnection: keep-alive\r\nHTTP/1.1 200 OK: x\r\n\r\n";
    let promise = "HTTP/1.1 304 Not Modified\r\nContent-Length: 7000\r\n\r\n";
    vec![
        (
            "100",
            vec![
                get(),
                say(&[same("HTTP/1.1 100 Continue\r\n\r\n")]),
                say(&[head(OK), same("ok")]),
            ],
        ),
        (
            "100 before the upload",
            vec![
                upload(),
                say(&[same("HTTP/1.1 100 Continue\r\n\r\n")]),
                more(),
                say(&[head(OK), same("ok")]),
            ],
        ),
        (
            "103 and the final head at once",
            vec![
                get(),
                say(&[same("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"), head(OK), same("ok")]),
            ],
        ),
        ("a body that is a head", vec![get(), say(&[head(long.clone()), same(LOOKALIKE)])]),
        ("the same, of its own", vec![get(), say(&[head(long.clone())]), say(&[same(LOOKALIKE)])]),
        (
            "chunks that are a head",
            vec![get(), say(&[head(CHUNKED), same(chunk.clone()), same("0\r\n\r\n")])],
        ),
        (
            "the same, each of its own",
            vec![
                get(),
                say(&[head(CHUNKED)]),
                say(&[same(chunk.clone())]),
                say(&[same("0\r\n\r\n")]),
            ],
        ),
        (
            "chunk size, data and end apart",
            vec![
                get(),
                say(&[head(CHUNKED)]),
                say(&[same(format!("{:x}\r\n", LOOKALIKE.len()))]),
                say(&[same(LOOKALIKE)]),
                say(&[same("\r\n0\r\n\r\n")]),
            ],
        ),
        (
            "early response to an upload, the body in two",
            vec![
                upload(),
                say(&[head(long.clone()), same(&LOOKALIKE[..5])]),
                more(),
                say(&[same(&LOOKALIKE[5..])]),
            ],
        ),
        (
            "early response to an upload, chunks",
            vec![
                upload(),
                say(&[head(CHUNKED)]),
                more(),
                say(&[same(chunk)]),
                more(),
                say(&[same("0\r\n\r\n")]),
            ],
        ),
        (
            "early response to an upload, chunk data of its own",
            vec![
                upload(),
                say(&[head(CHUNKED), same(format!("{:x}\r\n", LOOKALIKE.len()))]),
                more(),
                say(&[same(LOOKALIKE)]),
                more(),
                say(&[same("\r\n0\r\n\r\n")]),
            ],
        ),
        ("trailers", vec![get(), say(&[head(CHUNKED), same("2\r\nok\r\n"), same(trailers)])]),
        (
            "trailers of their own",
            vec![get(), say(&[head(CHUNKED), same("2\r\nok\r\n")]), say(&[same(trailers)])],
        ),
        ("HEAD", [&[ask(HEAD), say(&[head(long.clone())])], &untold()[..], &untold()[..]].concat()),
        ("HEAD of chunks", vec![ask(HEAD), say(&[head(CHUNKED)])]),
        ("204", vec![get(), say(&[head("HTTP/1.1 204 No Content\r\n\r\n")])]),
        ("304", vec![get(), say(&[head(promise)])]),
        ("no reason", vec![get(), say(&[head("HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n")])]),
    ]
}

#[test]
fn what_is_no_final_head_is_never_touched() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.tell()?;
    for (what, mut steps) in conversations() {
        steps.extend(told());
        let mut wire = retiring.connect()?;
        let expected = play(&mut wire, &steps)?;
        retiring.check(wire, &expected).context(what)?;
    }
    Ok(())
}

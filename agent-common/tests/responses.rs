//! Response after response: tables, properties against the truth, and bodies that lie.

#[path = "reference/responses.rs"]
mod reference;

use drainctl_common::http1::{Place, Responses};
use reference::{Message, follow};

const LENGTH: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const EMPTY: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// The place behind the last message, whether it is idle there, and how many heads ended.
fn ends(mut responses: Responses, messages: &[Message<'_>]) -> (Place, bool, usize) {
    let heads = messages.iter().map(|&message| follow(&mut responses, message).len()).sum();
    (responses.place(), responses.is_idle(), heads)
}

#[test]
fn a_body_is_as_long_as_its_head_says() {
    let whole =
        |head: &[u8], body: &[u8]| ends(Responses::from_start(), &[(true, &[head, body].concat())]);
    assert_eq!(whole(EMPTY, b""), (Place::Between, true, 1));
    assert_eq!(whole(LENGTH, b""), (Place::Body, false, 1));
    assert_eq!(whole(LENGTH, b"hell"), (Place::Body, false, 1));
    assert_eq!(whole(LENGTH, b"hello"), (Place::Between, true, 1));
    assert_eq!(whole(LENGTH, b"helloH"), (Place::Head, false, 1));
    assert_eq!(whole(LENGTH, b"hello!"), (Place::Unsure, false, 1));
    assert_eq!(whole(CHUNKED, b"5;a=\"b\"\r\nhello\r\n0\r\n\r"), (Place::Body, false, 1));
    assert_eq!(whole(CHUNKED, b"5;a=\"b\"\r\nhello\r\n0\r\n\r\n"), (Place::Between, true, 1));
    assert_eq!(whole(CHUNKED, b"0\r\nA: b\r\n\r\n"), (Place::Between, true, 1));
    assert_eq!(whole(b"HTTP/1.1 200 \r\n\r\n", EMPTY), (Place::UntilClose, false, 1));
    assert_eq!(whole(b"HTTP/1.1 101 \r\n\r\n", EMPTY), (Place::Never, false, 1));
    assert_eq!(whole(b"HTTP/1.1 100 \r\n\r\n", b""), (Place::Between, false, 1));
    assert_eq!(whole(b"HTTP/1.1 100 \r\n\r\n", EMPTY), (Place::Between, true, 2));
}

#[test]
fn an_answer_to_head_is_told_by_the_next_head() {
    for head in [LENGTH, CHUNKED] {
        let next = |messages: &[Message<'_>]| {
            let all = [&[(true, head)], messages].concat();
            ends(Responses::from_start(), &all)
        };
        assert_eq!(next(&[]), (Place::Body, false, 1));
        assert_eq!(next(&[(true, EMPTY)]), (Place::Between, true, 2));
        assert_eq!(next(&[(false, EMPTY)]).2, 1, "no new request");
    }
}

//! The scanner of response heads: tables, and properties against httparse.

#[path = "reference/http1.rs"]
mod reference;

use drainctl_common::http1::{Body, Edit, HeadScanner, Progress, StatusKind, Version};
use proptest::{collection::vec, prelude::*, sample::select};
use reference::{check, edited, scan};

fn line() -> impl Strategy<Value = Vec<u8>> {
    let version = select(vec!["HTTP/1.1 ", "HTTP/1.0 "]);
    let status = prop_oneof![100_u16..600, select(vec![100, 101, 103, 200, 204, 304, 426])];
    let reason = prop_oneof![Just(Vec::new()), Just(b"OK".to_vec()), vec(text(), 0..20)];
    (version, status, reason).prop_map(|(version, status, reason)| {
        [version.as_bytes(), status.to_string().as_bytes(), b" ", &reason, b"\r\n"].concat()
    })
}

/// What a reason or a value may consist of.
fn text() -> impl Strategy<Value = u8> {
    prop_oneof![8 => 0x20_u8..0x7f, 1 => Just(b'\t'), 1 => 0x80_u8..=0xff]
}

fn any_case(words: Vec<&'static str>) -> impl Strategy<Value = Vec<u8>> {
    (select(words), any::<u32>()).prop_map(|(word, upper)| {
        let case = |(place, byte): (usize, u8)| {
            if upper >> (place % 32) & 1 == 0 { byte } else { byte.to_ascii_uppercase() }
        };
        word.bytes().enumerate().map(case).collect()
    })
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let known = vec!["connection", "content-length", "transfer-encoding"];
    let near = vec!["connections", "proxy-connection", "connectio", "keep-alive", "x", "upgrade"];
    prop_oneof![3 => any_case(known), 2 => any_case(near), 1 => "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,40}".prop_map(String::into_bytes)]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let member = any_case(vec![
        "close",
        "keep-alive",
        "upgrade",
        "chunked",
        "gzip",
        "closed",
        "",
        "te;q=\"a,b\"",
        "close close",
    ]);
    let space = || select(vec!["", " ", "\t", "  \t "]);
    let list = vec((space(), member, space()), 0..5).prop_map(|members| {
        let member = |(before, member, after): (&str, Vec<u8>, &str)| {
            [before.as_bytes(), &member, after.as_bytes()].concat()
        };
        members.into_iter().map(member).collect::<Vec<_>>().join(&b',')
    });
    let number =
        (space(), any::<u64>(), 0_u32..64, space()).prop_map(|(before, number, shift, after)| {
            format!("{before}{}{after}", number >> shift).into_bytes()
        });
    prop_oneof![3 => list, 1 => number, 1 => vec(text(), 0..30)]
}

fn head() -> impl Strategy<Value = Vec<u8>> {
    let field =
        (name(), value()).prop_map(|(name, value)| [&name[..], b":", &value, b"\r\n"].concat());
    (line(), vec(field, 0..6), vec(any::<u8>(), 0..10))
        .prop_map(|(line, fields, body)| [line, fields.concat(), b"\r\n".to_vec(), body].concat())
}

/// Heads with bytes changed, inserted or removed.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), select(b"\r\n\0 :,\tHc1".to_vec())];
    let change = (any::<prop::sample::Index>(), 0_u8..3, byte);
    (head(), vec(change, 1..4)).prop_map(|(mut head, changes)| {
        for (place, how, byte) in changes {
            let place = place.index(head.len());
            match how {
                0 => head[place] = byte,
                1 => head.insert(place, byte),
                _ if head.len() > 1 => drop(head.remove(place)),
                _ => {}
            }
        }
        head
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn valid_heads_agree_with_httparse(head in head()) {
        check(&head);
        prop_assert_ne!(scan(&head).progress(), Progress::NotAHead);
    }

    #[test]
    fn mutated_heads_agree_with_httparse(head in mutated()) {
        check(&head);
    }

    #[test]
    fn every_split_point_gives_the_same(head in mutated()) {
        let whole = scan(&head);
        for cut in 0..=head.len() {
            // The state is all that is carried over, as in a map.
            let mut carried = scan(&head[..cut]);
            check(&head[..cut]);
            for &byte in &head[cut..] {
                carried.push(byte);
            }
            prop_assert_eq!(carried, whole);
        }
    }

    #[test]
    fn bytes_that_do_not_begin_with_a_status_line_are_no_head(bytes in vec(any::<u8>(), 13..100)) {
        prop_assume!(!bytes.starts_with(b"HTTP/1."));
        prop_assert_eq!(scan(&bytes).progress(), Progress::NotAHead);
    }
}

#[test]
fn an_answer_is_given_as_soon_as_it_is_certain() {
    let cases: [(&[u8], usize, Progress, &str); 18] = [
        (b"\0\0\0\0", 1, Progress::NotAHead, "zeros"),
        (b"\r\nHTTP/1.1 200 OK", 1, Progress::NotAHead, "an empty line first"),
        (b"http/1.1 200 OK", 1, Progress::NotAHead, "the name has its case"),
        (b"HTTP/2 200 OK", 6, Progress::NotAHead, "another version"),
        (b"HTTP/1.2 200 OK", 8, Progress::NotAHead, "a minor version that is not known"),
        (b"HTTP/1.1  200 OK", 10, Progress::NotAHead, "two spaces"),
        (b"HTTP/1.1 099 x", 10, Progress::NotAHead, "no class"),
        (b"HTTP/1.1 600 x", 10, Progress::NotAHead, "no class"),
        (b"HTTP/1.1 20 OK", 12, Progress::NotAHead, "two digits"),
        (b"HTTP/1.1 200\r\n", 13, Progress::NotAHead, "the second space is not optional"),
        (b"HTTP/1.1 200 OK\n", 16, Progress::NotAHead, "a bare line feed"),
        (b"HTTP/1.1 200 O\0K", 15, Progress::NotAHead, "NUL"),
        (b"HTTP/1.1 200 O\rK", 16, Progress::NotAHead, "a bare carriage return"),
        (b"HTTP/1.1 200 \r\n x", 16, Progress::GiveUp, "folded"),
        (b"HTTP/1.1 200 \r\nA: b\n", 20, Progress::GiveUp, "a bare line feed"),
        (b"HTTP/1.1 200 \r\nA : b", 17, Progress::GiveUp, "whitespace before the colon"),
        (b"HTTP/1.1 200 \r\n\rX", 17, Progress::GiveUp, "a bare carriage return"),
        (b"HTTP/1.1 200 \r\n\r\nX", 17, Progress::End, "the shortest head"),
    ];
    for (bytes, certain, answer, what) in cases {
        let mut scanner = HeadScanner::new();
        for (place, &byte) in bytes.iter().enumerate() {
            let expected = if place + 1 < certain { Progress::More } else { answer };
            assert_eq!(scanner.push(byte), expected, "{what}: byte {place}");
        }
        check(bytes);
    }
}

#[test]
fn one_edit_makes_a_head_say_close() {
    let cases = [
        ("HTTP/1.1 200 OK\r\nA: b\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\nA: b\r\n\r\n"),
        ("HTTP/1.1 204 \r\n\r\n", "HTTP/1.1 204 \r\nConnection: close\r\n\r\n"),
        (
            "HTTP/1.1 200 \r\nconnection:Keep-Alive\r\n\r\n",
            "HTTP/1.1 200 \r\nconnection:     close\r\n\r\n",
        ),
        (
            "HTTP/1.1 200 \r\nConnection: Upgrade, keep-alive ,x\r\n\r\n",
            "HTTP/1.1 200 \r\nConnection: Upgrade,      close ,x\r\n\r\n",
        ),
        (
            "HTTP/1.1 200 \r\nConnection: te\r\n\r\n",
            "HTTP/1.1 200 \r\nConnection: close, te\r\n\r\n",
        ),
        ("HTTP/1.1 200 \r\nConnection: \r\n\r\n", "HTTP/1.1 200 \r\nConnection: close\r\n\r\n"),
        (
            "HTTP/1.1 200 \r\nConnection: x\r\nConnection: keep-alive\r\n\r\n",
            "HTTP/1.1 200 \r\nConnection: x\r\nConnection:      close\r\n\r\n",
        ),
        (
            "HTTP/1.0 200 \r\nConnection: keep-alive\r\n\r\n",
            "HTTP/1.0 200 \r\nConnection:      close\r\n\r\n",
        ),
    ];
    for (before, after) in cases {
        let edit = scan(before.as_bytes()).edit();
        assert_eq!(String::from_utf8_lossy(&edited(edit, before.as_bytes())), after);
        check(before.as_bytes());
    }
}

#[test]
fn what_closes_anyway_or_must_not_be_touched_stays() {
    let cases = [
        ("HTTP/1.1 200 \r\nConnection: CLOSE\r\n\r\n", Edit::Already),
        ("HTTP/1.1 200 \r\nConnection: keep-alive, close\r\n\r\n", Edit::Already),
        ("HTTP/1.0 200 \r\n\r\n", Edit::Already),
        ("HTTP/1.1 100 \r\n\r\n", Edit::Never),
        ("HTTP/1.1 101 \r\nConnection: upgrade\r\n\r\n", Edit::Never),
        ("HTTP/1.1 200 \r\nA: b\r\n", Edit::Never),
    ];
    for (head, edit) in cases {
        assert_eq!(scan(head.as_bytes()).edit(), edit, "{head}");
    }
}

#[test]
fn the_status_line_and_the_framing_are_reported() {
    let scanner = scan(b"HTTP/1.0 404 Not Found\r\nContent-Length: 12\r\n\r\n");
    assert_eq!((scanner.version(), scanner.status()), (Version::Http10, 404));
    assert_eq!((scanner.status_line_end(), scanner.length()), (24, 46));
    assert_eq!(scanner.body(), Body::Length(12));
    let kind = |head: &str| scan(head.as_bytes()).status_kind();
    assert_eq!(kind("HTTP/1.1 103 \r\n\r\n"), StatusKind::Interim);
    assert_eq!(kind("HTTP/1.1 101 \r\n\r\n"), StatusKind::SwitchingProtocols);
    assert_eq!(kind("HTTP/1.1 500 \r\n\r\n"), StatusKind::Final);
    let body = |fields: &str| scan(format!("HTTP/1.1 200 \r\n{fields}\r\n").as_bytes()).body();
    assert_eq!(body(""), Body::UntilClose);
    assert_eq!(body("Transfer-Encoding: gzip, Chunked\r\nContent-Length: 1\r\n"), Body::Chunked);
    assert_eq!(body("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n"), Body::UntilClose);
}

#[test]
fn a_body_that_looks_like_a_head_is_not_looked_at() {
    let head = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n";
    let bytes = [&head[..], b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"].concat();
    let scanner = scan(&bytes);
    assert_eq!(usize::from(scanner.length()), head.len());
    assert_eq!(scanner.edit(), Edit::InsertField(17));
    let mut more = scanner;
    bytes.iter().for_each(|&byte| assert_eq!(more.push(byte), Progress::End));
    assert_eq!(more, scanner, "nothing after the end changes the answer");
}

#[test]
fn a_head_as_long_as_an_offset_can_tell_is_scanned_and_a_longer_one_left() {
    let head = |length: usize| {
        let padding = "x".repeat(length - "HTTP/1.1 200 \r\nA:\r\n\r\n".len());
        format!("HTTP/1.1 200 \r\nA:{padding}\r\n\r\n").into_bytes()
    };
    assert_eq!(scan(&head(65_535)).progress(), Progress::End);
    assert_eq!(scan(&head(65_536)).progress(), Progress::GiveUp);
    for length in [65_534, 65_535, 65_536, 100_000] {
        check(&head(length));
    }
}

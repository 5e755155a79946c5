//! Response after response: tables, properties against the truth, and bodies that lie.

#[path = "reference/responses.rs"]
mod reference;
#[path = "truth/responses.rs"]
mod truth;

use drainctl_common::http1::{Followed, Place, Responses};
use proptest::{collection::vec, prelude::*, sample::Index, sample::select};
use reference::{Message, check, check_bytes, follow};
use truth::{CHUNKED, EMPTY, INTERIM, LENGTH, Sent, response};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn heads_end_where_they_do_and_nowhere_else(
        responses in vec(response(), 1..6), cuts in vec(any::<Index>(), 0..8), fresh: u64,
    ) {
        let sent = Sent::new(&responses);
        sent.holds(&[], fresh);
        sent.holds(&cuts.iter().map(|cut| cut.index(sent.bytes.len())).collect::<Vec<_>>(), fresh);
        sent.holds(&(0..sent.bytes.len()).collect::<Vec<_>>(), fresh);
    }

    #[test]
    fn a_flow_that_is_joined_or_lost_is_never_wrong(
        responses in vec(response(), 2..8), cuts in vec(any::<Index>(), 1..12), lost: Index, fresh: u64,
    ) {
        let sent = Sent::new(&responses);
        let cuts: Vec<_> = cuts.iter().map(|cut| cut.index(sent.bytes.len())).collect();
        let ends = sent.ends(&[&cuts[..], &sent.starts].concat());
        let lost = lost.index(ends.len());
        let mut responses = Responses::joined();
        let mut start = 0;
        for (count, end) in ends.into_iter().enumerate() {
            let starts = sent.starts.contains(&start);
            let fresh = starts && (fresh >> (count % 64) & 1 == 1 || sent.bodiless.contains(&start));
            let heads = sent.heads_in(start, end);
            if count == lost {
                responses.begin(fresh);
                responses.lose();
            } else {
                let known = responses.place() != Place::Unsure || (fresh && !heads.is_empty());
                let found = follow(&mut responses, (fresh, &sent.bytes[start..end]));
                prop_assert_eq!(found, if known { heads } else { Vec::new() });
                prop_assert!(!known || responses.place() != Place::Unsure);
            }
            if responses.place() != Place::Unsure {
                prop_assert_eq!((responses.place(), responses.is_idle()), sent.truth[end - 1]);
            }
            start = end;
        }
    }

    #[test]
    fn behind_an_answer_to_head_no_head_is_found_but_the_true_ones(
        promised in 1..300_usize, responses in vec(response(), 1..6), cuts in vec(any::<Index>(), 0..8),
    ) {
        let sent = Sent::new(&responses);
        let cuts: Vec<_> = cuts.iter().map(|cut| cut.index(sent.bytes.len())).collect();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {promised}\r\n\r\n");
        let mut messages: Vec<Message<'_>> = vec![(true, head.as_bytes())];
        let mut responses = Responses::from_start();
        follow(&mut responses, messages[0]);
        let (mut start, mut known) = (0, false);
        for end in sent.ends(&[&cuts[..], &sent.starts].concat()) {
            let message = (sent.starts.contains(&start), &sent.bytes[start..end]);
            let heads = sent.heads_in(start, end);
            known |= start >= promised && message.0 && !heads.is_empty();
            messages.push(message);
            let found = follow(&mut responses, message);
            prop_assert_eq!(found, if known { heads } else { Vec::new() });
            let lost = if end < promised { Place::Body } else { Place::Unsure };
            let truth = if known { sent.truth[end - 1] } else { (lost, false) };
            prop_assert_eq!((responses.place(), responses.is_idle()), truth);
            start = end;
        }
        check(true, &messages);
    }

    #[test]
    fn any_messages_agree_with_the_reference(
        responses in vec(response(), 1..5), cuts in vec(any::<Index>(), 0..8), fresh: u64, from_start: bool,
        changes in vec((any::<Index>(), prop_oneof![any::<u8>(), select(b"\r\n;0fH".to_vec())]), 0..3),
    ) {
        let mut sent = Sent::new(&responses);
        for (place, byte) in changes {
            let place = place.index(sent.bytes.len());
            sent.bytes[place] = byte;
        }
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(sent.bytes.len())).collect();
        ends.extend([&sent.starts[..], &sent.heads, &[sent.bytes.len()]].concat());
        ends.sort_unstable();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let message = |(count, (start, &end))| (fresh >> (count % 64) & 1 == 1, &sent.bytes[start..end]);
        check(from_start, &starts.zip(&ends).enumerate().map(message).collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_agree_with_the_reference(bytes in vec(any::<u8>(), 0..200)) {
        check_bytes(&bytes);
    }
}

/// The place behind the last message, whether the server is idle there, and how many heads ended.
type Behind = (Place, bool, usize);
type Case<'a, T> = (&'a [u8], T, Behind, &'a str);

fn behind(messages: &[Message<'_>]) -> Behind {
    check(true, messages);
    let mut responses = Responses::from_start();
    let heads = messages.iter().map(|&message| follow(&mut responses, message).len()).sum();
    (responses.place(), responses.is_idle(), heads)
}

#[test]
fn a_response_ends_where_its_head_says() {
    let cases: [Case<'_, &[u8]>; 29] = [
        (EMPTY, b"", (Place::Between, true, 1), "no body"),
        (b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", b"", (Place::Between, true, 1), "empty"),
        (b"HTTP/1.1 304 \r\nContent-Length: 9\r\n\r\n", b"", (Place::Between, true, 1), "no body"),
        (LENGTH, b"", (Place::Body, false, 1), "all of the body is missing"),
        (LENGTH, b"hell", (Place::Body, false, 1), "a byte is missing"),
        (LENGTH, b"hello", (Place::Between, true, 1), "complete"),
        (LENGTH, b"helloH", (Place::Head, false, 1), "another one has begun"),
        (LENGTH, b"hello!", (Place::Unsure, false, 1), "no head begins so"),
        (
            b"HTTP/1.0 200 \r\nContent-Length: 1\r\n\r\n",
            b"x",
            (Place::Between, true, 1),
            "HTTP/1.0",
        ),
        (
            b"HTTP/1.1 200 \r\nConnection: close\r\n\r\n",
            EMPTY,
            (Place::UntilClose, false, 1),
            "no length",
        ),
        (b"HTTP/1.1 200 \r\n\r\n", EMPTY, (Place::Unsure, false, 1), "perhaps it answered HEAD"),
        (
            b"HTTP/1.0 200 \r\nConnection: keep-alive\r\n\r\n",
            EMPTY,
            (Place::Unsure, false, 1),
            "or here",
        ),
        (b"HTTP/1.0 200 \r\n\r\n", EMPTY, (Place::UntilClose, false, 1), "no length"),
        (b"HTTP/1.1 101 \r\n\r\n", EMPTY, (Place::Never, false, 1), "another protocol"),
        (INTERIM, b"", (Place::Between, false, 1), "the final head follows"),
        (CHUNKED, b"5\r\nhello\r\n0\r\n\r\n", (Place::Between, true, 1), "one chunk"),
        (CHUNKED, b"0A;x=\"\n", (Place::Unsure, false, 1), "a bare line feed in an extension"),
        (CHUNKED, b"0A;x\r\n0123456789\r\n0\r\n\r", (Place::Body, false, 1), "a byte is missing"),
        (CHUNKED, b"0A;x\r\n0123456789\r\n0\r\n\r\n", (Place::Between, true, 1), "an extension"),
        (CHUNKED, b"0\r\nA: b\r\n\xff\r\n\r\n", (Place::Between, true, 1), "trailers"),
        (CHUNKED, b"0\r\nA\n", (Place::Unsure, false, 1), "a bare line feed in a trailer"),
        (CHUNKED, b"0\r\n\n", (Place::Unsure, false, 1), "a bare line feed behind the last chunk"),
        (CHUNKED, b"0\r\nA\rB", (Place::Unsure, false, 1), "a bare carriage return"),
        (CHUNKED, b"\r\n", (Place::Unsure, false, 1), "no digit"),
        (CHUNKED, b";x", (Place::Unsure, false, 1), "no digit"),
        (CHUNKED, b"5g", (Place::Unsure, false, 1), "no hexadecimal digit"),
        (CHUNKED, b"1\r\nxy", (Place::Unsure, false, 1), "more data than its size"),
        (CHUNKED, b"0ffffffffffff\r\n", (Place::Body, false, 1), "the largest chunk"),
        (CHUNKED, b"1000000000000", (Place::Unsure, false, 1), "too large a chunk"),
    ];
    for (head, body, expected, what) in cases {
        assert_eq!(behind(&[(true, &[head, body].concat())]), expected, "{what}");
    }
}

#[test]
fn the_last_byte_of_a_body_is_reported() {
    let push = |bytes: &[u8]| {
        let mut responses = Responses::from_start();
        responses.begin(true);
        bytes.iter().map(|&byte| responses.push(byte)).collect::<Vec<_>>()
    };
    for body in [&[LENGTH, b"hello"].concat(), &[CHUNKED, b"1\r\nx\r\n0\r\n\r\n"].concat()] {
        let answers = push(body);
        let (last, others) = answers.split_last().expect("not empty");
        assert_eq!(*last, Followed::ResponseEnd, "also if nothing is skipped");
        let heads = others.iter().filter(|answer| **answer == Followed::HeadEnd).count();
        let more = others.iter().filter(|answer| **answer == Followed::More).count();
        assert_eq!((heads, more), (1, others.len() - 1));
    }
    assert_eq!(push(b"HTTP/2").last(), Some(&Followed::Lost));
}

#[test]
fn a_length_may_be_as_long_as_the_scanner_follows() {
    let head = b"HTTP/1.1 200 \r\nContent-Length: 100000000000000000\r\n\r\n";
    let mut responses = Responses::from_start();
    follow(&mut responses, (true, head));
    responses.begin(false);
    let whole = 100_000_000_000_000_000_u64;
    for _ in 0..whole / u64::from(u32::MAX) {
        if responses.skip(u32::MAX) != u32::MAX {
            panic!("the body is longer");
        }
    }
    assert_eq!(u64::from(responses.skip(u32::MAX)), whole % u64::from(u32::MAX));
    assert!(responses.is_idle());
}

#[test]
fn an_answer_to_head_with_chunks_is_told_by_the_head_that_follows() {
    let some = [EMPTY, b"!"].concat();
    let cases: [Case<'_, &[Message<'_>]>; 12] = [
        (CHUNKED, &[], (Place::Body, false, 1), "alone it is not idle"),
        (CHUNKED, &[(true, EMPTY)], (Place::Between, true, 2), "the next answer"),
        (CHUNKED, &[(true, INTERIM)], (Place::Between, false, 2), "the next answer"),
        (CHUNKED, &[(true, &some)], (Place::Unsure, false, 2), "the next answer"),
        (CHUNKED, &[(false, b""), (true, EMPTY)], (Place::Between, true, 2), "nothing was sent"),
        (CHUNKED, &[(true, b""), (true, EMPTY)], (Place::Between, true, 2), "nothing was sent"),
        (CHUNKED, &[(false, EMPTY)], (Place::Unsure, false, 1), "not fresh"),
        (CHUNKED, &[(true, b"HTTP!")], (Place::Unsure, false, 1), "neither"),
        (CHUNKED, &[(true, &EMPTY[..9])], (Place::Unsure, false, 1), "cut: it is no chunk"),
        (CHUNKED, &[(true, b"0\r\n\r\n")], (Place::Between, true, 1), "a chunk"),
        (CHUNKED, &[(false, b"1"), (true, EMPTY)], (Place::Unsure, false, 1), "a chunk has begun"),
        (CHUNKED, &[(true, b"1\r\nx\r\n"), (true, EMPTY)], (Place::Unsure, false, 1), "too late"),
    ];
    for (head, next, expected, what) in cases {
        assert_eq!(behind(&[&[(true, head)], next].concat()), expected, "{what}");
    }
    let same = [CHUNKED, EMPTY].concat();
    assert_eq!(behind(&[(true, &same)]), (Place::Unsure, false, 1), "in the message of the head");
}

#[test]
fn a_promised_length_is_a_body_whatever_it_looks_like() {
    let (some, hello) = ([b"hell", EMPTY].concat(), [b"hello", EMPTY].concat());
    let cases: [Case<'_, &[Message<'_>]>; 12] = [
        (LENGTH, &[], (Place::Body, false, 1), "alone it is not idle"),
        (LENGTH, &[(false, b"hello")], (Place::Between, true, 1), "nobody asked for more"),
        (LENGTH, &[(false, b"h"), (true, b"ello")], (Place::Between, true, 1), "it had begun"),
        (LENGTH, &[(false, &hello)], (Place::Between, true, 2), "complete"),
        (LENGTH, &[(false, EMPTY)], (Place::Unsure, false, 1), "it is longer"),
        (LENGTH, &[(true, b"hello")], (Place::Unsure, false, 1), "in doubt"),
        (LENGTH, &[(true, &hello)], (Place::Unsure, false, 1), "in doubt"),
        (LENGTH, &[(true, b"h"), (false, &some)], (Place::Unsure, false, 1), "in doubt"),
        (LENGTH, &[(true, b""), (false, b"hello")], (Place::Unsure, false, 1), "in doubt"),
        (LENGTH, &[(true, EMPTY)], (Place::Unsure, false, 1), "in doubt"),
        (LENGTH, &[(true, EMPTY), (true, EMPTY)], (Place::Between, true, 2), "found again"),
        (LENGTH, &[(true, EMPTY), (false, EMPTY)], (Place::Unsure, false, 1), "not fresh"),
    ];
    for (head, next, expected, what) in cases {
        assert_eq!(behind(&[&[(true, head)], next].concat()), expected, "{what}");
    }
}

#[test]
fn a_get_behind_a_head_of_the_same_file_is_no_trap() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n";
    let mut file = [b'x'; 300];
    // Where the length that HEAD was told is used up, just as many bytes are left as the head of GET has.
    file[300 - head.len()..][..EMPTY.len()].copy_from_slice(EMPTY);
    let get = [&head[..], &file].concat();
    for cut in 1..get.len() {
        let (first, second) = get.split_at(cut);
        let messages: [Message<'_>; 4] =
            [(true, head), (true, first), (false, second), (true, EMPTY)];
        let inside = if cut < 300 { Place::Body } else { Place::Unsure };
        assert_eq!(behind(&messages[..2]), (inside, false, 1), "not idle inside the file: {cut}");
        assert_eq!(behind(&messages[..3]), (Place::Unsure, false, 1), "cut at {cut}");
        assert_eq!(behind(&messages), (Place::Between, true, 2), "found again");
    }
}

#[test]
fn no_head_is_found_inside_a_body() {
    let frames = b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x05\0\0\0\x01\x88";
    let lies = [EMPTY, LENGTH, b"hello0\r\n\r\n", frames, CHUNKED, b"0\r\n\r\n", INTERIM].concat();
    let size = lies.len();
    let head = format!("HTTP/1.1 200 \r\nContent-Length: {size}\r\n\r\n").into_bytes();
    let chunk = [format!("{size:X}\r\n").as_bytes(), &lies, b"\r\n"].concat();
    let chunks = [&chunk, &chunk, &b"0\r\nHTTP/1.1 200 OK\r\n\r\n"[..]].concat();
    for (head, body) in [(&head[..], &lies), (CHUNKED, &chunks)] {
        let whole = [head, body].concat();
        for cut in 1..whole.len() {
            let (first, second) = whole.split_at(cut);
            let in_doubt = cut == head.len() && head != CHUNKED;
            let fresh =
                if in_doubt { (Place::Unsure, false, 1) } else { (Place::Between, true, 1) };
            assert_eq!(behind(&[(true, first), (true, second)]), fresh, "cut at {cut}");
            assert_eq!(behind(&[(true, first), (false, second)]), (Place::Between, true, 1));
        }
        let bytes: Vec<Message<'_>> = whole.chunks(1).map(|byte| (true, byte)).collect();
        assert_eq!(behind(&bytes).2, 1);
    }
}

#[test]
fn a_second_answer_without_a_new_request_shows_a_client_that_pipelines() {
    let pipelines = |messages: &[Message<'_>]| {
        check(true, messages);
        let mut responses = Responses::from_start();
        messages.iter().for_each(|&message| drop(follow(&mut responses, message)));
        responses.pipelines()
    };
    let whole = [LENGTH, b"hello"].concat();
    let (two, interim) = ([EMPTY, EMPTY].concat(), [INTERIM, INTERIM, EMPTY].concat());
    assert!(!pipelines(&[(true, &whole), (true, &whole), (true, EMPTY)]));
    assert!(!pipelines(&[(true, &interim)]), "one answer");
    assert!(!pipelines(&[(true, INTERIM), (false, EMPTY)]), "one answer");
    assert!(!pipelines(&[(false, EMPTY)]), "the first answer, however it came");
    assert!(pipelines(&[(true, &two)]));
    assert!(pipelines(&[(true, EMPTY), (false, EMPTY)]));
    assert!(pipelines(&[(true, LENGTH), (false, &[b"hello", EMPTY].concat())]));
    assert!(pipelines(&[(true, &[EMPTY, &EMPTY[..1]].concat()), (true, &EMPTY[1..])]), "too late");
    assert!(pipelines(&[(true, &two), (true, EMPTY), (true, EMPTY)]), "it stays");
    assert!(!pipelines(&[(true, LENGTH), (true, &[b"hello", EMPTY].concat())]), "between them");
}

#[test]
fn offsets_of_a_head_can_be_told_in_each_message() {
    let mut responses = Responses::from_start();
    let (first, rest) = INTERIM.split_at(10);
    let (second, third) = rest.split_at(10);
    for (message, before) in [(first, 0), (second, 10), (third, 20), (EMPTY, 0)] {
        follow(&mut responses, (true, message));
        assert_eq!(responses.head_bytes_before(), before, "it stays to the end of the message");
    }
    follow(&mut responses, (true, first));
    follow(&mut responses, (true, &[rest, EMPTY].concat()));
    assert_eq!(responses.head_bytes_before(), 0, "of the second head");
}

#[test]
fn what_was_missed_is_not_guessed() {
    let after = |start: &[u8]| {
        let mut responses = Responses::from_start();
        follow(&mut responses, (true, start));
        let mut lost = responses;
        lost.begin(true);
        lost.lose();
        responses.begin(false);
        responses.begin(false);
        responses.end();
        assert_eq!(lost.place(), responses.place(), "a message without an end is lost");
        assert!(!lost.is_idle() && !responses.is_idle());
        lost.place()
    };
    for start in [EMPTY, LENGTH, CHUNKED, &EMPTY[..9], b""] {
        assert_eq!(after(start), Place::Unsure);
    }
    assert_eq!(after(b"HTTP/1.1 101 \r\n\r\n"), Place::Never);
    assert_eq!(after(b"HTTP/1.0 200 \r\n\r\n"), Place::UntilClose, "lost or not, it goes on");
}

#[test]
fn of_a_flow_joined_in_mid_life_only_a_whole_head_counts() {
    let joined = |messages: &[Message<'_>]| {
        check(false, messages);
        let mut responses = Responses::joined();
        let heads: usize = messages.iter().map(|&m| follow(&mut responses, m).len()).sum();
        (responses.place(), responses.is_idle(), heads)
    };
    let (first, rest) = EMPTY.split_at(9);
    assert_eq!(joined(&[]), (Place::Unsure, false, 0));
    assert_eq!(joined(&[(true, EMPTY)]), (Place::Between, true, 1));
    assert_eq!(joined(&[(true, INTERIM)]), (Place::Between, false, 1));
    assert_eq!(joined(&[(true, LENGTH)]), (Place::Body, false, 1));
    assert_eq!(joined(&[(false, EMPTY)]), (Place::Unsure, false, 0), "not fresh");
    assert_eq!(joined(&[(true, first), (false, rest)]), (Place::Unsure, false, 0), "cut");
    assert_eq!(joined(&[(true, &[b"x", EMPTY].concat())]), (Place::Unsure, false, 0), "too late");
}

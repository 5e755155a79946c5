//! The prover of frame boundaries: tables, properties against a plain reference, and bodies that lie.

#[path = "reference/http2.rs"]
mod reference;

use drainctl_common::http2::{
    Boundary, CLIENT_PREFACE, FRAME_LIMIT, FrameHeader, GOAWAY, StreamHint, flag, frame,
};
use proptest::{collection::vec, prelude::*, sample::Index, test_runner::TestCaseError};
use reference::{check, check_bytes, walk};

fn bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn settings() -> Vec<u8> {
    bytes(frame::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])
}

fn data(payload: &[u8]) -> Vec<u8> {
    bytes(frame::DATA, 0, 1, payload)
}

fn headers() -> Vec<u8> {
    bytes(frame::HEADERS, flag::END_HEADERS, 1, b"\x88")
}

fn is_proven(from_start: bool, messages: &[&[u8]]) -> bool {
    check(from_start, messages);
    let limit = FRAME_LIMIT;
    let mut boundary =
        if from_start { Boundary::from_start(limit) } else { Boundary::joined(limit) };
    messages.iter().map(|message| walk(&mut boundary, message)).last().unwrap_or(false)
}

/// Bodies, many of which look like frames.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let frames = vec(prop_oneof![Just(settings()), Just(headers()), Just(GOAWAY.to_vec())], 1..4);
    prop_oneof![
        vec(any::<u8>(), 0..60),
        (0_usize..60).prop_map(|length| vec![0; length]),
        frames.prop_map(|frames| frames.concat()),
        frames_of_a_block(),
    ]
}

/// A header block over several frames, as one unit: nothing may be put into it.
fn frames_of_a_block() -> impl Strategy<Value = Vec<u8>> {
    let parts = vec(vec(any::<u8>(), 0..30), 1..4);
    (parts, 1_u32..10, any::<bool>()).prop_map(|(parts, stream, end)| {
        let last = parts.len() - 1;
        let part = |(place, part): (usize, &Vec<u8>)| {
            let kind = if place == 0 { frame::HEADERS } else { frame::CONTINUATION };
            let end_stream = if place == 0 && end { flag::END_STREAM } else { 0 };
            let end_headers = if place == last { flag::END_HEADERS } else { 0 };
            bytes(kind, end_stream | end_headers, stream, part)
        };
        parts.iter().enumerate().flat_map(part).collect()
    })
}

/// What a server may send between two places where a GOAWAY fits.
fn unit() -> impl Strategy<Value = Vec<u8>> {
    let control = prop_oneof![
        Just(settings()),
        Just(bytes(frame::SETTINGS, flag::ACK, 0, &[])),
        any::<[u8; 8]>().prop_map(|opaque| bytes(frame::PING, flag::ACK, 0, &opaque)),
        (0_u32..9).prop_map(|stream| bytes(frame::WINDOW_UPDATE, 0, stream, &[0, 0, 1, 0])),
        (1_u32..9).prop_map(|stream| bytes(frame::RST_STREAM, 0, stream, &[0, 0, 0, 8])),
        (1_u32..9).prop_map(|stream| bytes(frame::PRIORITY, 0, stream, &[0, 0, 0, 0, 16])),
    ];
    let of_body = (body(), any::<bool>(), 1_u32..9)
        .prop_map(|(body, end, stream)| bytes(frame::DATA, u8::from(end), stream, &body));
    prop_oneof![2 => control, 2 => frames_of_a_block(), 3 => of_body]
}

/// How a stream of units is cut into messages: behind units, behind frame headers, or anywhere.
fn cuts() -> impl Strategy<Value = Vec<(u8, Index)>> {
    vec((0_u8..8, any::<Index>()), 0..8)
}

/// The stream, the places between its units, and its messages.
struct Sent {
    stream: Vec<u8>,
    between: Vec<usize>,
    ends: Vec<usize>,
}

impl Sent {
    fn new(units: &[Vec<u8>], cuts: &[(u8, Index)]) -> Self {
        let stream = units.concat();
        let mut between = vec![0];
        between.extend(units.iter().scan(0, |end, unit| {
            *end += unit.len();
            Some(*end)
        }));
        let mut ends = vec![stream.len()];
        for (how, index) in cuts {
            let unit = between[index.index(units.len())];
            ends.push(match how {
                0..=4 => unit,
                5 | 6 => unit + 9,
                _ => index.index(stream.len()),
            });
        }
        ends.sort_unstable();
        ends.dedup();
        ends.retain(|&end| end != 0);
        Self { stream, between, ends }
    }

    fn messages(&self) -> Vec<&[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.stream[start..end]).collect()
    }

    /// Proven only between units, and, if `complete`, at each message that ends there.
    fn holds(&self, mut boundary: Boundary, complete: bool) -> Result<(), TestCaseError> {
        for (message, end) in self.messages().into_iter().zip(&self.ends) {
            let proven = walk(&mut boundary, message);
            let between = self.between.contains(end);
            prop_assert!(between || !proven, "false proof at {}", end);
            prop_assert!(proven || !between || !complete, "no proof at {}", end);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn a_flow_followed_from_its_start_is_proven_between_units_and_nowhere_else(
        units in vec(unit(), 0..12), mut cuts in cuts(),
    ) {
        cuts.retain(|(how, _)| *how < 7); // No header is cut, so nothing is lost.
        let units = [vec![settings()], units].concat();
        let sent = Sent::new(&units, &cuts);
        check(true, &sent.messages());
        sent.holds(Boundary::from_start(FRAME_LIMIT), true)?;
    }

    #[test]
    fn a_cut_anywhere_gives_no_false_proof(
        units in vec(unit(), 1..12), cuts in cuts(), from_start: bool,
    ) {
        let units = [vec![settings()], units].concat();
        let sent = Sent::new(&units, &cuts);
        check(from_start, &sent.messages());
        let limit = FRAME_LIMIT;
        // Losing the chain inside a body that consists of frames is the one case that no rule
        // excludes, so only flows that cannot lose it are held to the truth.
        let cut_header = cuts.iter().any(|(how, _)| *how == 7);
        if !cut_header {
            sent.holds(if from_start { Boundary::from_start(limit) } else { Boundary::joined(limit) }, false)?;
        }
    }

    #[test]
    fn any_messages_agree_with_the_reference(
        messages in vec(prop_oneof![unit(), body(), vec(any::<u8>(), 0..40)], 1..8), from_start: bool,
    ) {
        check(from_start, &messages.iter().map(Vec::as_slice).collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_agree_with_the_reference(bytes in vec(any::<u8>(), 0..200)) {
        check_bytes(&bytes);
    }

    #[test]
    fn mutated_frames_agree_with_the_reference(
        units in vec(unit(), 1..8), cuts in cuts(), changes in vec((any::<Index>(), any::<u8>()), 1..4), from_start: bool,
    ) {
        let mut sent = Sent::new(&units, &cuts);
        for (place, byte) in changes {
            let place = place.index(sent.stream.len());
            sent.stream[place] = byte;
        }
        check(from_start, &sent.messages());
    }
}

#[test]
fn random_bytes_prove_nothing() {
    // A fixed generator (xorshift), so that the test cannot fail once in a blue moon.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    };
    let mut boundary = Boundary::joined(FRAME_LIMIT);
    let mut legal = 0;
    for _ in 0..100_000 {
        let message: Vec<u8> = (0..8).flat_map(|_| random()).collect();
        assert!(!walk(&mut boundary, &message));
        let header = message[..9].try_into().expect("nine bytes");
        legal += u32::from(FrameHeader::parse(header).is_legal(FRAME_LIMIT));
    }
    assert!(legal < 50, "{legal} of 100,000 headers were legal");
}

#[test]
fn zeros_prove_nothing() {
    for size in [1, 9, 17, 18, 27, 9000] {
        let zeros = vec![0; size];
        assert!(!is_proven(false, &[&zeros, &zeros, &zeros]), "{size}");
        assert!(!is_proven(true, &[&zeros, &zeros]), "{size}");
    }
}

#[test]
fn a_flow_joined_in_mid_life_needs_two_messages_and_more_than_data() {
    let (headers, data) = (headers(), data(b"hello"));
    assert!(is_proven(false, &[&headers, &data]));
    assert!(is_proven(false, &[&data, &headers]));
    assert!(!is_proven(false, &[&headers]), "one message");
    assert!(!is_proven(false, &[&[&headers[..], &data].concat()]), "one message");
    assert!(!is_proven(false, &[&data, &data, &data]), "nothing but DATA");
    assert!(!is_proven(false, &[&headers, b"garbage", &data]), "the chain broke between");
    assert!(is_proven(false, &[&headers, b"garbage", &data, &headers]));
    let (head, body) = data.split_at(9);
    assert!(!is_proven(false, &[&headers, &headers, head]), "inside a frame");
    assert!(is_proven(false, &[&headers, &headers, head, body]));
}

#[test]
fn a_body_written_on_its_own_is_not_taken_for_frames() {
    let lie = [settings(), headers()].concat();
    let frame = data(&[&lie[..], &lie, &lie, b"end"].concat());
    let (header, body) = frame.split_at(9);
    let (first, rest) = body.split_at(lie.len());
    let (second, third) = rest.split_at(lie.len());
    assert!(is_proven(false, &[first, second]), "on its own it would be believed");
    assert!(!is_proven(false, &[header, first, second]));
    assert!(!is_proven(false, &[&headers(), &headers(), header, first, second]));
    assert!(is_proven(false, &[&headers(), &headers(), header, first, second, third]));
}

#[test]
fn no_place_inside_a_header_block_is_proven() {
    let open = bytes(frame::HEADERS, 0, 1, b"\x88");
    let middle = bytes(frame::CONTINUATION, 0, 1, b"x");
    let close = bytes(frame::CONTINUATION, flag::END_HEADERS, 1, b"y");
    let start = settings();
    assert!(is_proven(true, &[&start]));
    assert!(!is_proven(true, &[&start, &open]));
    assert!(!is_proven(true, &[&start, &open, &middle]));
    assert!(is_proven(true, &[&start, &open, &middle, &close]));
    assert!(!is_proven(true, &[&start, &open, &data(b""), &close]), "nothing may come between");
    let other = bytes(frame::CONTINUATION, flag::END_HEADERS, 3, b"y");
    assert!(!is_proven(true, &[&start, &open, &other]), "of another stream");
    let push = bytes(frame::PUSH_PROMISE, 0, 1, &[0, 0, 0, 2, 0x88]);
    assert!(!is_proven(true, &[&start, &push]));
}

#[test]
fn a_flow_that_goes_away_or_does_not_begin_with_settings_is_left_alone() {
    let (start, ping) = (settings(), bytes(frame::PING, 0, 0, &[1; 8]));
    let goaway = bytes(frame::GOAWAY, 0, 0, &[0; 8]);
    assert!(!is_proven(true, &[&start, &goaway, &ping]), "ours would raise the last stream");
    assert!(!is_proven(true, &[&ping, &start, &ping]));
    assert!(!is_proven(true, &[&bytes(frame::SETTINGS, flag::ACK, 0, &[]), &start]));
    assert!(!is_proven(true, &[b"HTTP/1.1 200 OK\r\n\r\n", &start, &ping]));
    assert!(!is_proven(true, &[&start[..5], &start[5..], &start, &ping]), "could not be read");
}

#[test]
fn a_message_that_is_not_walked_to_its_end_loses_the_chain() {
    let mut boundary = Boundary::from_start(FRAME_LIMIT);
    assert!(walk(&mut boundary, &settings()));
    boundary.begin(100);
    assert!(!boundary.is_proven());
    assert!(!walk(&mut boundary, &headers()), "what is left is one message");
    assert!(walk(&mut boundary, &headers()));
}

#[test]
fn the_constants_are_what_rfc_9113_says() {
    let payload = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    assert_eq!(GOAWAY.to_vec(), bytes(frame::GOAWAY, 0, 0, &payload));
    assert!(CLIENT_PREFACE.starts_with(b"PRI * HTTP/2.0\r\n"));
    let hint = |kind, flags| FrameHeader { length: 0, kind, flags, stream: 5 }.stream_hint();
    assert_eq!(hint(frame::DATA, 0), StreamHint::Active(5));
    assert_eq!(hint(frame::HEADERS, flag::END_STREAM), StreamHint::Ended(5));
    assert_eq!(hint(frame::RST_STREAM, 0), StreamHint::Ended(5));
    assert_eq!(hint(frame::WINDOW_UPDATE, 0), StreamHint::None);
}

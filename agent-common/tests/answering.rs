//! Streams that a server is answering: a table for each rule, and a property against a plain set.

use std::collections::BTreeSet;

use drainctl_common::http2::{Answering, FrameHeader, flag, frame};
use proptest::{collection::vec, prelude::*};

const fn header(kind: u8, flags: u8, stream: u32) -> FrameHeader {
    FrameHeader { length: 4, kind, flags, stream }
}

const fn begin(stream: u32) -> FrameHeader {
    header(frame::HEADERS, flag::END_HEADERS, stream)
}

const fn data(stream: u32) -> FrameHeader {
    header(frame::DATA, 0, stream)
}

const fn end(stream: u32) -> FrameHeader {
    header(frame::DATA, flag::END_STREAM, stream)
}

const fn reset(stream: u32) -> FrameHeader {
    header(frame::RST_STREAM, 0, stream)
}

fn is_none(mut answering: Answering, frames: &[FrameHeader]) -> bool {
    frames.iter().for_each(|&header| answering.frame(header));
    answering.is_none()
}

fn frames() -> impl Strategy<Value = FrameHeader> {
    let of_stream = (0_u8..4, 1_u32..14).prop_map(|(kind, stream)| match kind {
        0 => begin(stream),
        1 => data(stream),
        2 => end(stream),
        _ => reset(stream),
    });
    let of_connection = (4_u8..9).prop_map(|kind| match kind {
        frame::PUSH_PROMISE => header(frame::PRIORITY, 0, 3),
        _ => header(kind, 0, 0),
    });
    prop_oneof![8 => of_stream, 1 => of_connection]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn up_to_eight_streams_are_a_set(frames in vec(frames(), 0..60)) {
        let mut answering = Answering::from_start();
        let mut streams = BTreeSet::new();
        let mut too_many = false;
        for header in frames {
            answering.frame(header);
            match (header.kind, header.flags) {
                (frame::HEADERS, _) | (frame::DATA, 0) => drop(streams.insert(header.stream)),
                (frame::DATA, _) | (frame::RST_STREAM, _) => drop(streams.remove(&header.stream)),
                _ => {}
            }
            too_many |= streams.len() > 8;
            prop_assert_eq!(answering.is_none(), streams.is_empty() && !too_many);
        }
    }
}

#[test]
fn a_stream_is_answered_from_its_first_frame_to_its_last() {
    let start = Answering::from_start();
    assert!(is_none(start, &[]));
    assert!(!is_none(start, &[begin(1)]));
    assert!(!is_none(start, &[begin(1), data(1), begin(3), end(1)]));
    assert!(is_none(start, &[begin(1), data(1), begin(3), end(1), reset(3)]));
    assert!(is_none(start, &[end(1), reset(3)]), "not known, and over");
    assert!(is_none(start, &[begin(1), end(1), end(1)]), "twice is once");
    let answer = header(frame::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1);
    assert!(is_none(start, &[answer]), "an answer of one frame");
    assert!(is_none(start, &[begin(1), data(1), answer]), "trailers");
}

#[test]
fn an_answer_ends_with_its_header_block() {
    let open = header(frame::HEADERS, flag::END_STREAM, 1);
    let middle = header(frame::CONTINUATION, 0, 1);
    let close = header(frame::CONTINUATION, flag::END_HEADERS, 1);
    let start = Answering::from_start();
    assert!(!is_none(start, &[open]));
    assert!(!is_none(start, &[open, middle]));
    assert!(is_none(start, &[open, middle, close]));
}

#[test]
fn what_cannot_be_followed_is_never_none_again() {
    let start = Answering::from_start();
    let eight: Vec<_> = (1..9).map(begin).collect();
    let ends: Vec<_> = (1..10).map(end).collect();
    assert!(is_none(start, &[&eight[..], &ends].concat()));
    assert!(!is_none(start, &[&eight[..], &[begin(9)], &ends].concat()), "a ninth stream");
    let promise = header(frame::PUSH_PROMISE, flag::END_HEADERS, 1);
    assert!(!is_none(start, &[begin(1), promise, end(1)]), "a promised answer");
}

#[test]
fn after_a_loss_a_stream_has_to_come_and_go() {
    let joined = Answering::joined();
    assert!(!is_none(joined, &[]));
    assert!(!is_none(joined, &[end(1)]), "its beginning was not seen");
    assert!(!is_none(joined, &[data(1), data(3), end(1)]));
    assert!(is_none(joined, &[data(1), data(3), end(1), end(3)]));
    let mut lost = Answering::from_start();
    lost.frame(begin(1));
    lost.lose();
    assert!(!is_none(lost, &[begin(3), end(3)]), "the first is not forgotten");
    assert!(is_none(lost, &[begin(3), end(3), end(1)]));
}

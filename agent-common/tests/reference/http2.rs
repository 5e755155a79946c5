//! The rules for a proven boundary once more, with all the memory that a kernel program has not: used by
//! the tests and by fuzz/.

use drainctl_common::http2::{Boundary, FRAME_LIMIT, FrameHeader, Next};

/// Walks through a message as the kernel program does.
pub(crate) fn walk(boundary: &mut Boundary, message: &[u8]) -> bool {
    let mut next = boundary.begin(message.len() as u32);
    while let Next::Header(at) = next {
        let at = at as usize;
        let header = message[at..at + 9].try_into().expect("nine bytes");
        next = boundary.frame(FrameHeader::parse(header));
    }
    boundary.is_proven()
}

/// Compares the prover with the reference after every message.
pub(crate) fn check(from_start: bool, messages: &[&[u8]]) {
    let mut boundary =
        if from_start { Boundary::from_start(FRAME_LIMIT) } else { Boundary::joined(FRAME_LIMIT) };
    for count in 1..=messages.len() {
        let proven = walk(&mut boundary, messages[count - 1]);
        assert_eq!(proven, reference(from_start, &messages[..count]), "after {count} messages");
    }
}

/// The input of the fuzzer: a byte that tells whether the flow is followed from its start, then messages,
/// each behind its length in two bytes.
pub(crate) fn check_bytes(bytes: &[u8]) {
    let Some((start, mut rest)) = bytes.split_first() else { return };
    let mut messages = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        messages.push(&after[..length]);
        rest = &after[length..];
    }
    messages.truncate(64); // The reference is quadratic.
    check(start & 1 == 1, &messages);
}

/// Whether the end of the last message is proven, computed from all the bytes.
fn reference(from_start: bool, messages: &[&[u8]]) -> bool {
    let stream = messages.concat();
    let ends = ends(messages);
    let mut settled = from_start;
    let mut run = Vec::new();
    let mut open: Option<Vec<u8>> = None;
    let mut next = 0;
    let mut first = from_start;
    while next < stream.len() {
        let message = ends.iter().position(|&end| end > next).expect("inside a message");
        let header = stream[..ends[message]].get(next..next + 9);
        let frame = header.filter(|header| is_legal(header) && may_follow(header, open.as_deref()));
        if first && !frame.is_some_and(|header| header[3] == 4 && header[4] == 0) {
            return false;
        }
        first = false;
        let Some(header) = frame else {
            settled = false;
            open = None;
            run.clear();
            next = ends[message];
            continue;
        };
        if header[3] == 7 {
            return false;
        }
        let ends_block = header[4] & 4 != 0;
        open = ([1, 5, 9].contains(&header[3]) && !ends_block).then(|| header[5..].to_vec());
        next += 9 + length(header);
        let chained = next == ends[message] && open.is_none();
        run.push((header[3], chained));
    }
    let chained = run.iter().filter(|(_, chained)| *chained).count();
    let enough = chained >= 2 && run.iter().any(|(kind, _)| *kind != 0);
    next == stream.len() && open.is_none() && !first && (settled || enough)
}

/// Where each message ends in the stream.
fn ends(messages: &[&[u8]]) -> Vec<usize> {
    let sum = |end: &mut usize, message: &&[u8]| {
        *end += message.len();
        Some(*end)
    };
    messages.iter().scan(0, sum).collect()
}

/// In an open header block CONTINUATION of the same stream, elsewhere anything else.
fn may_follow(header: &[u8], open: Option<&[u8]>) -> bool {
    let continues = header[3] == 9;
    open.map_or(!continues, |stream| continues && header[5..] == *stream)
}

fn length(header: &[u8]) -> usize {
    usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2])
}

/// RFC 9113 §6, one line a type: flags, whether it is of a stream, lengths.
fn is_legal(header: &[u8]) -> bool {
    let flags = header[4];
    let padding = usize::from(flags >> 3 & 1);
    let priority = if flags & 0x20 == 0 { 0 } else { 5 };
    let length = length(header);
    let (known, of_stream, fits) = match header[3] {
        0 => (0b1001, Some(true), length >= padding),
        1 => (0b10_1101, Some(true), length >= padding + priority),
        2 => (0, Some(true), length == 5),
        3 => (0, Some(true), length == 4),
        4 => (1, Some(false), if flags == 1 { length == 0 } else { length.is_multiple_of(6) }),
        5 => (0b1100, Some(true), length >= padding + 4),
        6 => (1, Some(false), length == 8),
        7 => (0, Some(false), length >= 8),
        8 => (0, None, length == 4),
        9 => (0b100, Some(true), true),
        _ => return false,
    };
    let is_of_stream = header[5..].iter().any(|&byte| byte != 0);
    let stream_fits = of_stream.is_none_or(|expected| expected == is_of_stream);
    flags & !known == 0 && header[5] < 0x80 && stream_fits && fits && length <= 16_384
}

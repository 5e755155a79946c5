//! HTTP/2 frames, written and read apart from the agent's own parser (RFC 9113 §4.1 and §6).

use anyhow::{Context, Result, ensure};

/// What the agent adds, byte for byte: NO_ERROR, no stream given up.
pub const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The server's first frame.
pub fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])
}

/// The answer to the client's SETTINGS.
pub fn settings_ack() -> Vec<u8> {
    frame(SETTINGS, ACK, 0, b"")
}

/// The head of an answer whose body follows.
pub fn headers(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &[0x88])
}

/// An answer without a body.
pub fn bare_answer(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88])
}

/// A header block of three frames.
pub fn long_headers(stream: u32) -> [Vec<u8>; 3] {
    [
        frame(HEADERS, 0, stream, &[0x88]),
        frame(CONTINUATION, 0, stream, &[0x40, 1, b'a', 1, b'b']),
        frame(CONTINUATION, END_HEADERS, stream, &[0x40, 1, b'c', 1, b'd']),
    ]
}

/// A part of a body.
pub fn data(stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(DATA, 0, stream, payload)
}

/// The last part of a body.
pub fn last_data(stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, payload)
}

/// A PING of the server.
pub fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"12345678")
}

/// The answer to a PING of the client.
pub fn ping_ack() -> Vec<u8> {
    frame(PING, ACK, 0, b"12345678")
}

/// Leave to send more, on a stream or on all (0).
pub fn window_update(stream: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &[0, 0, 0x40, 0])
}

/// Legal frames, to be a body.
pub fn framed() -> Vec<u8> {
    [ping(), headers(7), data(7, b"x"), settings_ack()].concat()
}

/// Takes the agent's GOAWAYs out of what a client got. Each is between two frames and in no header block; an
/// error if what arrived is no chain of frames.
pub fn without_goaway(mut rest: &[u8]) -> Result<(Vec<u8>, usize)> {
    let (mut others, mut found, mut in_block) = (Vec::new(), 0, false);
    while !rest.is_empty() {
        ensure!(rest.len() >= 9, "half a frame header at the end: {}", rest.escape_ascii());
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        let (kind, flags) = (rest[3], rest[4]);
        let frame = rest.get(..9 + length).context("half a frame at the end")?;
        ensure!(in_block == (kind == CONTINUATION), "frame {kind} inside a header block");
        in_block = (kind == HEADERS || kind == CONTINUATION) && flags & END_HEADERS == 0;
        if frame == GOAWAY {
            found += 1;
        } else {
            others.extend(frame);
        }
        rest = &rest[frame.len()..];
    }
    Ok((others, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goaways_are_found_between_frames_only() {
        let [first, second, third] = long_headers(1);
        let body = data(1, &GOAWAY);
        let good = [&settings()[..], &first, &second, &third, &GOAWAY, &body].concat();
        let sent = [&settings()[..], &first, &second, &third, &body].concat();
        assert_eq!(without_goaway(&good).expect("frames"), (sent.clone(), 1));
        assert_eq!(without_goaway(&sent).expect("frames"), (sent, 0));
        assert!(without_goaway(&[&first[..], &GOAWAY, &second, &third].concat()).is_err());
        assert!(without_goaway(&[&body[..12], &GOAWAY, &body[12..]].concat()).is_err());
    }
}

//! HTTP/2 frame headers and the proof that a place in a stream of bytes is between two frames, for the
//! retire program.
//!
//! All of it is about what a *server sends*, so that the rules can be stricter than a receiver's: flags
//! without a meaning and the reserved bit have to be zero (RFC 9113 §4.1). What is not certain is not
//! written to; a connection that nobody could tell leaves by other means.

mod answering;
mod boundary;

pub use answering::Answering;
pub use boundary::{Boundary, Next};

/// What a client sends first (RFC 9113 §3.4).
pub const CLIENT_PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length of a frame header (RFC 9113 §4.1).
pub const FRAME_HEADER: u32 = 9;

/// The longest payload unless the client allows longer ones: initial SETTINGS_MAX_FRAME_SIZE
/// (RFC 9113 §6.5.2).
pub const FRAME_LIMIT: u32 = 16_384;

/// A graceful GOAWAY: NO_ERROR, and last-stream-id 2^31-1, so that no stream is given up
/// (RFC 9113 §6.8).
pub const GOAWAY: [u8; 17] =
    [0, 0, 8, frame::GOAWAY, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// Types of frames (RFC 9113 §6).
pub mod frame {
    /// Body.
    pub const DATA: u8 = 0;
    /// Opens a header block.
    pub const HEADERS: u8 = 1;
    /// Deprecated.
    pub const PRIORITY: u8 = 2;
    /// Ends a stream at once.
    pub const RST_STREAM: u8 = 3;
    /// The first frame of either side.
    pub const SETTINGS: u8 = 4;
    /// Opens a header block.
    pub const PUSH_PROMISE: u8 = 5;
    /// Round trip.
    pub const PING: u8 = 6;
    /// No new streams.
    pub const GOAWAY: u8 = 7;
    /// Flow control.
    pub const WINDOW_UPDATE: u8 = 8;
    /// Goes on with a header block.
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames (RFC 9113 §6).
pub mod flag {
    /// DATA, HEADERS: the sender's last on this stream.
    pub const END_STREAM: u8 = 0x1;
    /// SETTINGS, PING.
    pub const ACK: u8 = 0x1;
    /// HEADERS, PUSH_PROMISE, CONTINUATION: the header block is complete.
    pub const END_HEADERS: u8 = 0x4;
    /// DATA, HEADERS, PUSH_PROMISE.
    pub const PADDED: u8 = 0x8;
    /// HEADERS.
    pub const PRIORITY: u8 = 0x20;
}

/// A frame header (RFC 9113 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Length of the payload, 24 bits.
    pub length: u32,
    /// Type, one of [`frame`] if it is known.
    pub kind: u8,
    /// A set of [`flag`]s.
    pub flags: u8,
    /// Stream identifier, with the reserved bit as it was sent.
    pub stream: u32,
}

/// What a frame tells about a stream. The sender's side alone does not give the number of open streams:
/// a request that is not yet answered has no frame, and trailers look like an answer without a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamHint {
    /// The frame is of the connection.
    None,
    /// This stream is being answered.
    Active(u32),
    /// The sender has nothing more to say on this stream: END_STREAM or RST_STREAM.
    Ended(u32),
}

impl FrameHeader {
    /// Reads a header.
    #[inline(always)]
    pub const fn parse(bytes: [u8; FRAME_HEADER as usize]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]),
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
        }
    }

    /// Whether a server may send it, with payloads up to `limit`. Random bytes are legal about once in
    /// 10,000 times, so a legal header alone is no proof of anything.
    #[inline(always)]
    pub const fn is_legal(self, limit: u32) -> bool {
        self.length <= limit
            && self.stream >> 31 == 0
            && self.flags & !self.known_flags() == 0
            && self.stream_fits()
            && self.length_fits()
    }

    /// Unused flags are sent as zero (RFC 9113 §4.1).
    #[inline(always)]
    const fn known_flags(self) -> u8 {
        match self.kind {
            frame::DATA => flag::END_STREAM | flag::PADDED,
            frame::HEADERS => flag::END_STREAM | flag::END_HEADERS | flag::PADDED | flag::PRIORITY,
            frame::SETTINGS | frame::PING => flag::ACK,
            frame::PUSH_PROMISE => flag::END_HEADERS | flag::PADDED,
            frame::CONTINUATION => flag::END_HEADERS,
            _ => 0,
        }
    }

    /// Frames are of a stream, of the connection (stream 0), or, for WINDOW_UPDATE, of either.
    #[inline(always)]
    const fn stream_fits(self) -> bool {
        match self.kind {
            frame::SETTINGS | frame::PING | frame::GOAWAY => self.stream == 0,
            frame::WINDOW_UPDATE => true,
            _ => self.stream != 0,
        }
    }

    /// Fixed and least lengths; a type that RFC 9113 does not know fits never.
    #[inline(always)]
    const fn length_fits(self) -> bool {
        let padding = (self.flags & flag::PADDED != 0) as u32;
        match self.kind {
            frame::DATA => self.length >= padding,
            frame::HEADERS => {
                let priority = if self.flags & flag::PRIORITY != 0 { 5 } else { 0 };
                self.length >= padding + priority
            }
            frame::PRIORITY => self.length == 5,
            frame::RST_STREAM | frame::WINDOW_UPDATE => self.length == 4,
            frame::SETTINGS if self.flags & flag::ACK != 0 => self.length == 0,
            frame::SETTINGS => self.length.is_multiple_of(6),
            frame::PUSH_PROMISE => self.length >= padding + 4,
            frame::PING => self.length == 8,
            frame::GOAWAY => self.length >= 8,
            frame::CONTINUATION => true,
            _ => false,
        }
    }

    /// Whether a header block goes on behind this frame, so that nothing may come between
    /// (RFC 9113 §4.3).
    #[inline(always)]
    pub const fn leaves_block_open(self) -> bool {
        matches!(self.kind, frame::HEADERS | frame::PUSH_PROMISE | frame::CONTINUATION)
            && self.flags & flag::END_HEADERS == 0
    }

    /// What it tells about its stream.
    #[inline(always)]
    pub const fn stream_hint(self) -> StreamHint {
        match self.kind {
            frame::RST_STREAM => StreamHint::Ended(self.stream),
            frame::DATA | frame::HEADERS if self.flags & flag::END_STREAM != 0 => {
                StreamHint::Ended(self.stream)
            }
            frame::DATA | frame::HEADERS => StreamHint::Active(self.stream),
            _ => StreamHint::None,
        }
    }
}

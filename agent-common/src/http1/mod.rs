//! The heads of HTTP/1.x responses, byte by byte and in constant memory, for the retire program.
//! [`HeadScanner`] reads one, and [`Responses`] finds them all.
//!
//! [`HeadScanner`] is strict where a browser is lenient: it accepts what RFC 9112 lets a server send, less
//! line folding. Everything else is left alone, since the price of an error is a response that we broke,
//! and the price of giving up is a connection that stays a little longer.
//!
//! It is meant to run inside the kernel too. It has no loop, no slice and no panic; a byte costs two table
//! loads and a few branches. The verifier has to prove one step once (some 800 instructions), and must
//! not follow every head that there could be. So keep the scanner in a map value, which may hold anything
//! as far as the verifier knows, and push each byte in a callback of `bpf_loop` (Linux 5.17). In a plain
//! loop, load and store it volatile, or the compiler moves it into registers, which the verifier does
//! follow; even so each round is proven anew, and some 500 bytes are the most that fit.

mod edit;
mod responses;
mod words;

pub use edit::Edit;
pub use responses::{Followed, Place, Responses};

use words::{CHUNKED, CLOSE, Class, KEEP_ALIVE, UPGRADE, Word, kind};
use words::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};

/// What is known after a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So far it is a head; the next byte, please.
    More,
    /// That was the last byte of a head, and all that is asked of the scanner has an answer.
    End,
    /// This is not the head of a response: the status line is not one (RFC 9112 §4).
    NotAHead,
    /// It began like a head and goes on in a way that we do not touch: folded lines, whitespace before a
    /// colon, control characters, contradictory lengths, more than 65,535 bytes.
    GiveUp,
}

/// The protocol version of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Closes after the response unless both sides say `keep-alive`.
    Http10,
    /// Persists unless a side says `close` (RFC 9112 §9.3).
    Http11,
}

/// What a status code means for what follows the head (RFC 9110 §15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusKind {
    /// 1xx but for 101: another head follows.
    Interim,
    /// 101: what follows is another protocol.
    SwitchingProtocols,
    /// 2xx to 5xx.
    Final,
}

/// Where the body of a response ends (RFC 9112 §6.3), unless it answers HEAD or CONNECT: that depends
/// on the request, which the scanner does not see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none: 1xx, 204 and 304.
    None,
    /// After this number of bytes.
    Length(u64),
    /// With the last chunk and the trailers.
    Chunked,
    /// When the server closes.
    UntilClose,
}

/// States of the scanner; from `END` on nothing changes any more.
mod state {
    pub(super) const OPENING: u8 = 0;
    pub(super) const REASON: u8 = 1;
    pub(super) const STATUS_LF: u8 = 2;
    pub(super) const FIELD: u8 = 3;
    pub(super) const NAME: u8 = 4;
    pub(super) const VALUE: u8 = 5;
    pub(super) const FIELD_LF: u8 = 6;
    pub(super) const HEAD_LF: u8 = 7;
    pub(super) const END: u8 = 8;
    pub(super) const NOT_A_HEAD: u8 = 9;
    pub(super) const GAVE_UP: u8 = 10;
}
use state::*;

/// A Content-Length that is not below this one is not followed: the sum stays far from overflow.
const LONGEST_BODY: u64 = 100_000_000_000_000_000;

/// Scans one head. Offsets count from its first byte. Every bit pattern is a valid value, without
/// padding, so that it can be kept in a map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadScanner {
    content_length: u64,
    /// Bytes seen.
    at: u16,
    status: u16,
    status_line_end: u16,
    /// Of the value of the first Connection field; 0 if there was none yet.
    connection_start: u16,
    connection_end: u16,
    /// Start of the member of a list that is being read.
    member: u16,
    /// Start of the first `keep-alive`.
    keep_alive: u16,
    /// One of [`state`].
    state: u8,
    /// Minor version.
    minor: u8,
    /// The token that is being read: a name, or a member of a list.
    word: Word,
    /// The name of the field whose value is being read, if it is one of ours.
    field: u8,
    /// Fields and options seen.
    found: u8,
    zero: [u8; 4],
}

const _: () = assert!(size_of::<HeadScanner>() == 32);

impl HeadScanner {
    /// Before the first byte.
    pub const fn new() -> Self {
        Self {
            content_length: 0,
            at: 0,
            status: 0,
            status_line_end: 0,
            connection_start: 0,
            connection_end: 0,
            member: 0,
            keep_alive: 0,
            state: OPENING,
            minor: 0,
            word: Word::NEW,
            field: 0,
            found: 0,
            zero: [0; 4],
        }
    }

    /// Takes the next byte. After an answer other than [`Progress::More`] the answer stays.
    #[inline(always)]
    pub fn push(&mut self, byte: u8) -> Progress {
        if self.state < END {
            self.state = self.next(byte);
            self.at = self.at.wrapping_add(1);
            if self.at == u16::MAX && self.state < END {
                self.state = GAVE_UP;
            }
        }
        self.progress()
    }

    /// What is known by now.
    #[inline(always)]
    pub const fn progress(&self) -> Progress {
        match self.state {
            END => Progress::End,
            NOT_A_HEAD => Progress::NotAHead,
            state if state < END => Progress::More,
            _ => Progress::GiveUp,
        }
    }

    #[inline(always)]
    fn next(&mut self, byte: u8) -> u8 {
        let class = Class::of(byte);
        match self.state {
            OPENING => self.opening(byte),
            REASON => match class.kind {
                kind::CR => STATUS_LF,
                kind::CONTROL => NOT_A_HEAD,
                _ => REASON,
            },
            STATUS_LF if byte == b'\n' => {
                self.status_line_end = self.at.wrapping_add(1);
                FIELD
            }
            STATUS_LF => NOT_A_HEAD,
            FIELD => self.field(class),
            NAME => self.name(class),
            VALUE => self.value(byte, class),
            FIELD_LF if byte == b'\n' => FIELD,
            HEAD_LF if byte == b'\n' => self.end(),
            _ => GAVE_UP,
        }
    }

    /// `HTTP/1.x SP 3DIGIT SP`. The space is there even if no reason follows (RFC 9112 §4).
    #[inline(always)]
    fn opening(&mut self, byte: u8) -> u8 {
        let digit = byte.wrapping_sub(b'0');
        let good = match self.at {
            0..=6 => byte == b"HTTP/1.?"[(self.at & 7) as usize],
            7 => {
                self.minor = digit;
                digit <= 1
            }
            9..=11 => {
                self.status = self.status.wrapping_mul(10).wrapping_add(digit as u16);
                // The first digit is the class, of which there are five.
                digit <= 9 && (self.at != 9 || (1..=5).contains(&digit))
            }
            _ => byte == b' ',
        };
        match (good, self.at) {
            (true, 12) => REASON,
            (true, _) => OPENING,
            (false, _) => NOT_A_HEAD,
        }
    }

    /// The first byte of a line: of a field, of the end, or of a folded line, which we do not touch.
    #[inline(always)]
    fn field(&mut self, class: Class) -> u8 {
        match class.kind {
            kind::CR => HEAD_LF,
            kind::TOKEN => {
                self.word = Word::NEW;
                self.word.push(class);
                NAME
            }
            _ => GAVE_UP,
        }
    }

    /// A name ends at the colon, without whitespace (RFC 9112 §5.1).
    #[inline(always)]
    fn name(&mut self, class: Class) -> u8 {
        match class.kind {
            kind::TOKEN => {
                self.word.push(class);
                NAME
            }
            kind::COLON => {
                self.field = self.word.whole() & (CONNECTION | CONTENT_LENGTH | TRANSFER_ENCODING);
                self.word = Word::NEW;
                // A second length would have to be compared with the first (RFC 9110 §8.6).
                if self.field & self.found & CONTENT_LENGTH != 0 { GAVE_UP } else { VALUE }
            }
            _ => GAVE_UP,
        }
    }

    #[inline(always)]
    fn value(&mut self, byte: u8, class: Class) -> u8 {
        let good = class.kind != kind::CONTROL
            && match self.field {
                0 => true,
                CONTENT_LENGTH => self.digits(byte, class),
                _ => {
                    self.member(class);
                    true
                }
            };
        if !good {
            GAVE_UP
        } else if class.kind == kind::CR {
            self.found |= self.field;
            FIELD_LF
        } else {
            VALUE
        }
    }

    /// A byte of Content-Length: digits, with whitespace around them.
    #[inline(always)]
    fn digits(&mut self, byte: u8, class: Class) -> bool {
        match class.kind {
            kind::SPACE => {
                self.word.space();
                true
            }
            kind::CR => !self.word.is_new(),
            _ => {
                let digit = byte.wrapping_sub(b'0');
                let good =
                    digit <= 9 && !self.word.has_ended() && self.content_length < LONGEST_BODY;
                self.content_length =
                    self.content_length.wrapping_mul(10).wrapping_add(digit as u64);
                self.word.push(class);
                good
            }
        }
    }

    /// A byte of a list (RFC 9110 §5.6.1): Connection or Transfer-Encoding.
    #[inline(always)]
    fn member(&mut self, class: Class) {
        self.extend_connection(class.kind);
        match class.kind {
            kind::TOKEN => {
                if self.word.is_new() {
                    self.member = self.at;
                }
                self.word.push(class);
            }
            kind::SPACE => self.word.space(),
            kind::COMMA | kind::CR => self.end_member(),
            _ => self.word.spoil(),
        }
    }

    /// The value of the first Connection field is from its first to its last visible byte; an empty one
    /// is where the line ends.
    #[inline(always)]
    fn extend_connection(&mut self, kind: u8) {
        if self.field != CONNECTION || self.found & CONNECTION != 0 {
            return;
        }
        let visible = kind != kind::SPACE && kind != kind::CR;
        let empty = kind == kind::CR && self.connection_start == 0;
        if self.connection_start == 0 && (visible || empty) {
            self.connection_start = self.at;
            self.connection_end = self.at;
        }
        if visible {
            self.connection_end = self.at.wrapping_add(1);
        }
    }

    #[inline(always)]
    fn end_member(&mut self) {
        if self.word.is_new() {
            return; // An empty member counts for nothing (RFC 9110 §5.6.1.2).
        }
        let word = self.word.whole();
        self.word = Word::NEW;
        if self.field == TRANSFER_ENCODING {
            // Only the last coding tells where the body ends (RFC 9112 §6.3).
            self.found = (self.found & !CHUNKED) | (word & CHUNKED);
            return;
        }
        if word & KEEP_ALIVE & !self.found != 0 {
            self.keep_alive = self.member;
        }
        self.found |= word & (CLOSE | KEEP_ALIVE | UPGRADE);
    }

    #[inline(always)]
    fn end(&self) -> u8 {
        // HTTP/1.0 has no transfer codings: the framing is faulty (RFC 9112 §6.1).
        if self.minor == 0 && self.found & TRANSFER_ENCODING != 0 { GAVE_UP } else { END }
    }
}

//! Response after response, with their bodies, so that it is always known where the next head begins.

use super::{Body, Edit, HeadScanner, Progress, StatusKind};

/// Where the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nobody knows: the flow was joined in mid-life, or lost.
    Unsure,
    /// The next byte begins a head: nothing was sent yet, or a response or an interim head has ended.
    Between,
    /// Inside a head, or in what is supposed to be one. Nothing may be done before [`Followed::HeadEnd`].
    Head,
    /// Inside a body, with the framing of its chunks and the trailers.
    Body,
    /// Inside a body that only the end of the connection ends.
    UntilClose,
    /// Behind a 101: what follows is another protocol, and nothing will be known again.
    Never,
}

/// What a byte was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// Nothing special.
    More,
    /// The last byte of a head: [`Responses::head`] has all answers. A response without a body has ended.
    HeadEnd,
    /// The last byte of a body.
    ResponseEnd,
    /// Not what had to come, or the end of what may be a body, so that the place is [`Place::Unsure`].
    Lost,
}

/// States, in the order of a response.
mod state {
    pub(super) const UNSURE: u8 = 0;
    /// Before the first head, or behind an interim one.
    pub(super) const BETWEEN: u8 = 1;
    /// Behind a final response.
    pub(super) const IDLE: u8 = 2;
    pub(super) const HEAD: u8 = 3;
    /// It may be a head; if it is none, nothing is known.
    pub(super) const SUPPOSED: u8 = 4;
    /// The next byte tells whether this is a head or a chunk.
    pub(super) const HEAD_OR_CHUNK: u8 = 5;
    pub(super) const NEVER: u8 = 6;
    pub(super) const UNTIL_CLOSE: u8 = 7;
    /// Before the first byte of a body whose length is known, then behind it.
    pub(super) const BARE_LENGTH: u8 = 8;
    pub(super) const LENGTH: u8 = 9;
    /// It may be no body, but answers that follow one to HEAD: behind it, nothing is known.
    pub(super) const DOUBTED_LENGTH: u8 = 10;
    /// The first digit of a chunk-size (RFC 9112 §7.1), of the first chunk or another; then the other digits.
    pub(super) const FIRST_SIZE: u8 = 11;
    pub(super) const SIZE: u8 = 12;
    pub(super) const DIGITS: u8 = 13;
    pub(super) const EXTENSION: u8 = 14;
    pub(super) const SIZE_LF: u8 = 15;
    pub(super) const DATA: u8 = 16;
    pub(super) const DATA_CR: u8 = 17;
    pub(super) const DATA_LF: u8 = 18;
    /// The first byte of a line behind the last chunk, then the others.
    pub(super) const TRAILERS: u8 = 19;
    pub(super) const TRAILER: u8 = 20;
    pub(super) const TRAILER_LF: u8 = 21;
    pub(super) const LAST_LF: u8 = 22;
}
use state::*;

/// A message is being followed.
const IN_MESSAGE: u8 = 1;
/// A final head has ended, and since then no message began as an answer does.
const ANSWERED: u8 = 1 << 1;
/// Something followed a response that no new request can have asked for.
const PIPELINES: u8 = 1 << 2;

/// A chunk that is not smaller is not followed: no server means it.
const LONGEST_CHUNK: u64 = 1 << 48;

/// Follows what a server sends, message by message, where a message is what the server wrote at once.
/// A message is `begin`, then `skip` and `push` until every byte was taken, then `end`.
///
/// Requests are not seen, so two things can only be supposed, and only at the beginning of a *fresh*
/// message: one before which the server read new bytes, and the client acknowledged all that was sent.
/// - A flow that was joined or lost: such a message begins with a head.
/// - A head that promised chunks, of which nothing was sent, while the message begins as a head does and a
///   chunk never does: it answered HEAD (RFC 9112 §6.3).
///
/// It counts only if that head is complete within the message; else the place is unsure.
///
/// A promised length is always followed as a body of that length, since what looks like the next head may
/// well be that body: of an answer to an upload that is still coming in, say. So after an answer to HEAD,
/// what follows is counted as its body. Where the length is used up, that may be anywhere, in a body that
/// looks like a head as well. So if a body begins with a fresh message, what is behind it is unsure, and only
/// a later fresh message with a complete head is believed again, as it is where a flow was lost. A client
/// that sends nothing but HEAD for what is large may never be told.
///
/// A head without any length says that the connection ends with its body (RFC 9112 §6.3). If it does not say
/// `close` as well, it more likely answered HEAD: what follows is unsure.
///
/// What this cannot exclude:
/// - A flow that was joined or lost, or became unsure as above, inside a body, of which a fresh message begins
///   with a complete head, because the client went on sending meanwhile.
/// - A client that pipelines behind a HEAD, so that the next answer comes without a fresh message, and has
///   a complete head in its body just where the length that was promised to HEAD is used up.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Responses {
    head: HeadScanner,
    /// Bytes of the body or of the chunk that are still to come; the chunk-size while it is read.
    left: u64,
    /// Bytes of the head that came in earlier messages.
    before: u16,
    /// One of [`state`].
    state: u8,
    flags: u8,
    zero: [u8; 4],
}

const _: () = assert!(size_of::<Responses>() == 48);

impl Responses {
    /// Of a flow whose next byte is the first that the server sends.
    pub const fn from_start() -> Self {
        Self { state: BETWEEN, ..Self::joined() }
    }

    /// Of a flow that was joined in mid-life.
    pub const fn joined() -> Self {
        Self { head: HeadScanner::new(), left: 0, before: 0, state: UNSURE, flags: 0, zero: [0; 4] }
    }

    /// Where the next byte is.
    #[inline(always)]
    pub const fn place(&self) -> Place {
        match self.state {
            BETWEEN | IDLE => Place::Between,
            HEAD..=HEAD_OR_CHUNK => Place::Head,
            NEVER => Place::Never,
            UNTIL_CLOSE => Place::UntilClose,
            BARE_LENGTH..=LAST_LF => Place::Body,
            _ => Place::Unsure,
        }
    }

    /// The head that is being read, or else the newest one.
    #[inline(always)]
    pub const fn head(&self) -> &HeadScanner {
        &self.head
    }

    /// How many bytes of [`Responses::head`] came before this message: what is at offset `n` of the head
    /// is so many bytes nearer to the head's part in this message. 0 if the head began in it.
    #[inline(always)]
    pub const fn head_bytes_before(&self) -> u16 {
        self.before
    }

    /// Whether a final response was followed to its end, and nothing of another one was sent, interim
    /// heads included. It is no proof if the client [pipelines](Responses::pipelines).
    #[inline(always)]
    pub const fn is_idle(&self) -> bool {
        self.state == IDLE
    }

    /// Whether anything ever followed a final head's response without a fresh message between: then the
    /// client sends requests before it has the answers, and the end of an answer says nothing.
    #[inline(always)]
    pub const fn pipelines(&self) -> bool {
        self.flags & PIPELINES != 0
    }

    /// A message begins. It is `fresh` if since the last one the server has read new bytes from the client
    /// and the client has acknowledged all that was sent, so that it may begin an answer.
    /// If the message before had no end, it is unknown what was missed.
    #[inline(always)]
    pub fn begin(&mut self, fresh: bool) {
        if self.flags & IN_MESSAGE != 0 {
            self.lose();
        }
        self.flags |= IN_MESSAGE;
        self.before = if self.state == HEAD { self.head.length() } else { 0 };
        if fresh {
            self.flags &= !ANSWERED;
            match self.state {
                UNSURE => self.open(SUPPOSED),
                BARE_LENGTH => self.state = DOUBTED_LENGTH,
                FIRST_SIZE => self.state = HEAD_OR_CHUNK,
                _ => {}
            }
        }
    }

    /// How many of the next `available` bytes need no look. They are taken; if it is 0, push one.
    #[inline(always)]
    pub fn skip(&mut self, available: u32) -> u32 {
        match self.state {
            BARE_LENGTH..=DOUBTED_LENGTH | DATA => self.skip_counted(available),
            UNSURE | UNTIL_CLOSE | NEVER => available,
            _ => 0,
        }
    }

    /// Takes the next byte.
    #[inline(always)]
    pub fn push(&mut self, byte: u8) -> Followed {
        match (self.state, byte) {
            (BETWEEN | IDLE, _) => self.open(HEAD),
            // No chunk begins so (RFC 9112 §7.1), and every head does.
            (HEAD_OR_CHUNK, b'H') => self.open(SUPPOSED),
            (HEAD_OR_CHUNK, _) => self.state = SIZE,
            _ => {}
        }
        match self.state {
            HEAD | SUPPOSED => match self.head.push(byte) {
                Progress::More => {}
                Progress::End => {
                    self.state = self.end_head();
                    return Followed::HeadEnd;
                }
                Progress::NotAHead | Progress::GiveUp => self.state = UNSURE,
            },
            FIRST_SIZE..=SIZE_LF | DATA_CR..=LAST_LF => self.state = self.framing(byte),
            _ => {
                self.skip(1);
            }
        }
        match self.state {
            IDLE => Followed::ResponseEnd,
            UNSURE => Followed::Lost,
            _ => Followed::More,
        }
    }

    /// The message has ended.
    #[inline(always)]
    pub fn end(&mut self) {
        match self.state {
            SUPPOSED => self.state = UNSURE,
            HEAD_OR_CHUNK => self.state = FIRST_SIZE,
            _ => {}
        }
        self.flags &= !IN_MESSAGE;
    }

    /// The rest of the message cannot be read. What lasts as long as the connection cannot be lost.
    #[inline(always)]
    pub fn lose(&mut self) {
        if !matches!(self.state, UNTIL_CLOSE | NEVER) {
            self.state = UNSURE;
        }
    }

    /// The next byte begins a head, for certain or supposedly.
    #[inline(always)]
    fn open(&mut self, state: u8) {
        self.head = HeadScanner::new();
        self.before = 0;
        self.state = state;
        if self.flags & ANSWERED != 0 {
            self.flags |= PIPELINES;
        }
    }

    /// What follows a head (RFC 9112 §6.3).
    #[inline(always)]
    fn end_head(&mut self) -> u8 {
        match self.head.status_kind() {
            StatusKind::Interim => return BETWEEN,
            StatusKind::SwitchingProtocols => return NEVER,
            StatusKind::Final => self.flags |= ANSWERED,
        }
        match self.head.body() {
            Body::None | Body::Length(0) => IDLE,
            Body::UntilClose if matches!(self.head.edit(), Edit::Already) => UNTIL_CLOSE,
            Body::UntilClose => UNSURE,
            Body::Length(length) => {
                self.left = length;
                BARE_LENGTH
            }
            Body::Chunked => {
                self.left = 0;
                FIRST_SIZE
            }
        }
    }

    #[inline(always)]
    fn skip_counted(&mut self, available: u32) -> u32 {
        let taken = if self.left < available as u64 { self.left as u32 } else { available };
        self.left -= taken as u64;
        self.state = match (self.state, self.left) {
            (DATA, 0) => DATA_CR,
            (DOUBTED_LENGTH, 0) => UNSURE,
            (_, 0) => IDLE,
            (BARE_LENGTH, _) if taken != 0 => LENGTH,
            (state, _) => state,
        };
        taken
    }

    /// What is around the data of chunks (RFC 9112 §7.1), with CRLF for every end of a line.
    #[inline(always)]
    fn framing(&mut self, byte: u8) -> u8 {
        match (self.state, byte) {
            (FIRST_SIZE | SIZE | DIGITS, b'0'..=b'9') => self.digit(byte - b'0'),
            (FIRST_SIZE | SIZE | DIGITS, b'a'..=b'f') => self.digit(byte - b'a' + 10),
            (FIRST_SIZE | SIZE | DIGITS, b'A'..=b'F') => self.digit(byte - b'A' + 10),
            (DIGITS | EXTENSION, b'\r') => SIZE_LF,
            (DIGITS, b';' | b' ' | b'\t') => EXTENSION,
            (SIZE_LF, b'\n') if self.left == 0 => TRAILERS,
            (SIZE_LF, b'\n') => DATA,
            (DATA_CR, b'\r') => DATA_LF,
            (DATA_LF, b'\n') => SIZE,
            (TRAILERS, b'\r') => LAST_LF,
            (TRAILER, b'\r') => TRAILER_LF,
            (TRAILER_LF, b'\n') => TRAILERS,
            (LAST_LF, b'\n') => IDLE,
            // A bare line feed ends a line for some receivers, and for others it does not.
            (EXTENSION, other) if other != b'\n' => EXTENSION,
            (TRAILERS | TRAILER, other) if other != b'\n' => TRAILER,
            _ => UNSURE,
        }
    }

    /// A digit of a chunk-size. The sum is 0 before the first one: the data before was counted down.
    #[inline(always)]
    fn digit(&mut self, digit: u8) -> u8 {
        self.left = self.left.wrapping_mul(16).wrapping_add(digit as u64);
        if self.left < LONGEST_CHUNK { DIGITS } else { UNSURE }
    }
}

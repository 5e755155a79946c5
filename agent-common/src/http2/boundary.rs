//! The proof that the end of a message is the end of a frame, and of a header block.

use super::{FRAME_HEADER, FrameHeader, frame};

/// What to do next with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read the frame header at this offset of the message, and pass it to [`Boundary::frame`].
    Header(u32),
    /// The message has no more headers to read; [`Boundary::is_proven`] knows.
    Done,
}

/// The first frame has to be SETTINGS: the flow is followed from its first byte.
const FIRST: u8 = 1;
/// SETTINGS was the first frame, and the chain has not been lost since.
const SETTLED: u8 = 1 << 1;
/// A message is being walked through.
const WALKING: u8 = 1 << 2;
/// The chain has a frame that is not DATA.
const NOT_ONLY_DATA: u8 = 1 << 3;
/// A frame header was read in this message.
const READ: u8 = 1 << 4;
/// The message in hand ended with a frame.
const AT_END: u8 = 1 << 5;
/// The server said GOAWAY itself. Ours would raise its last-stream-id, which is forbidden
/// (RFC 9113 §6.8).
const GOES_AWAY: u8 = 1 << 6;
/// It did not begin with SETTINGS: this is not HTTP/2.
const NEVER: u8 = 1 << 7;

/// Messages that have to end with a frame if the flow was joined in mid-life.
const ENOUGH: u8 = 2;

/// Follows the frames that a server sends, message by message, where a message is what the server wrote
/// at once.
///
/// A flow that is followed from its first byte has to begin with SETTINGS (RFC 9113 §3.4), and from then on
/// every boundary is known. Of a flow that was joined later it is only supposed that a message begins
/// with a frame. That becomes proof when the frames of two messages were all legal and ended with
/// their messages, and one of them was not DATA. A frame that is longer than its message is followed
/// into the next ones, so a body that is written on its own is never taken for frames.
///
/// What the proof cannot exclude: a flow joined in the middle of a frame whose remaining body was made
/// to look like frames by someone who also knows how the server will split it into messages.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// The longest legal payload.
    limit: u32,
    /// Size of the message in hand.
    size: u32,
    /// Its bytes from the next frame header on.
    left: u32,
    /// Bytes of the coming messages that belong to a frame that has begun.
    skip: u32,
    /// The stream whose header block is open, or 0.
    block: u32,
    /// Messages that ended with a frame; stays at [`ENOUGH`].
    messages: u8,
    flags: u8,
    /// 1 if the chain was lost since [`Boundary::take_lost`].
    lost: u8,
    zero: u8,
}

const _: () = assert!(size_of::<Boundary>() == 24);

impl Boundary {
    /// Of a flow whose next message is the first that the server sends as HTTP/2: with prior knowledge
    /// its very first one, else the first behind the 101 of an upgrade.
    pub const fn from_start(limit: u32) -> Self {
        Self { flags: FIRST, ..Self::joined(limit) }
    }

    /// Of a flow that was joined in mid-life.
    pub const fn joined(limit: u32) -> Self {
        Self { limit, size: 0, left: 0, skip: 0, block: 0, messages: 0, flags: 0, lost: 0, zero: 0 }
    }

    /// A message of `size` bytes begins. If the one before was not walked to its end, the chain is lost.
    #[inline(always)]
    pub fn begin(&mut self, size: u32) -> Next {
        if self.flags & WALKING != 0 {
            self.lose();
        }
        self.flags &= !(READ | AT_END);
        self.flags |= WALKING;
        let skipped = if self.skip < size { self.skip } else { size };
        self.skip -= skipped;
        self.size = size;
        self.left = size - skipped;
        self.seek()
    }

    /// The frame header at the offset that was asked for.
    #[inline(always)]
    pub fn frame(&mut self, header: FrameHeader) -> Next {
        if self.flags & WALKING == 0 || self.left < FRAME_HEADER {
            return Next::Done; // Nobody asked.
        }
        if self.flags & FIRST != 0 {
            let settings = header.kind == frame::SETTINGS && header.flags == 0;
            let legal = settings && header.is_legal(self.limit);
            self.flags |= if legal { SETTLED } else { NEVER };
            self.flags &= !FIRST;
        }
        if !header.is_legal(self.limit) || !self.block_allows(header) {
            return self.lose();
        }
        self.block = if header.leaves_block_open() { header.stream } else { 0 };
        self.flags |= READ;
        if header.kind != frame::DATA {
            self.flags |= NOT_ONLY_DATA;
        }
        if header.kind == frame::GOAWAY {
            self.flags |= GOES_AWAY;
        }
        self.left -= FRAME_HEADER;
        let taken = if header.length < self.left { header.length } else { self.left };
        self.left -= taken;
        self.skip = header.length - taken;
        self.seek()
    }

    /// Whether the end of the message in hand is a place for a GOAWAY.
    #[inline(always)]
    pub const fn is_proven(&self) -> bool {
        let known = self.flags & SETTLED != 0
            || (self.messages >= ENOUGH && self.flags & NOT_ONLY_DATA != 0);
        known && self.flags & (AT_END | GOES_AWAY | NEVER) == AT_END
    }

    /// Whether the chain goes back to the server's first frame, and so is no supposition.
    #[inline(always)]
    pub const fn is_settled(&self) -> bool {
        self.flags & SETTLED != 0
    }

    /// Whether the chain was lost since this was last asked: frames may have gone by unseen.
    #[inline(always)]
    pub fn take_lost(&mut self) -> bool {
        core::mem::take(&mut self.lost) != 0
    }

    /// Where the next header is, if the message has one.
    #[inline(always)]
    fn seek(&mut self) -> Next {
        if self.left >= FRAME_HEADER {
            return Next::Header(self.size - self.left);
        }
        if self.left != 0 {
            return self.lose(); // A part of a header: the rest comes in another message.
        }
        self.flags &= !WALKING;
        if self.skip == 0 && self.block == 0 {
            self.flags |= AT_END;
            // A message that is all body says nothing about frames.
            if self.flags & READ != 0 && self.messages < ENOUGH {
                self.messages += 1;
            }
        }
        Next::Done
    }

    /// Inside a header block only its own CONTINUATION may come, and nowhere else (RFC 9113 §6.10).
    #[inline(always)]
    const fn block_allows(&self, header: FrameHeader) -> bool {
        if self.block == 0 {
            header.kind != frame::CONTINUATION
        } else {
            header.kind == frame::CONTINUATION && header.stream == self.block
        }
    }

    /// What was supposed is wrong, or cannot be followed: begin again with the next message.
    #[inline(always)]
    pub fn lose(&mut self) -> Next {
        self.flags &= FIRST | GOES_AWAY | NEVER;
        if self.flags & FIRST != 0 {
            self.flags = NEVER; // The first frame could not be read.
        }
        self.skip = 0;
        self.block = 0;
        self.messages = 0;
        self.left = 0;
        self.lost = 1;
        Next::Done
    }
}

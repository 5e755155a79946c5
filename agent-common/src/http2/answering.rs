//! Which streams a server is answering, as far as its own frames tell.

use super::{FrameHeader, StreamHint, frame};

/// A stream found no room: it will never be known again that there is none.
const OVERFLOW: u8 = 1;
/// Something was missed, and since then no stream has come and gone.
const UNSURE: u8 = 1 << 1;
/// A header block goes on in the next frame, perhaps the last of a stream that has ended.
const IN_BLOCK: u8 = 1 << 2;
/// The server promised an answer of which no frame need have come (RFC 9113 §6.6).
const PROMISED: u8 = 1 << 3;

/// Remembers up to eight streams of which the server has sent something, but not the end.
///
/// It errs to the side of an answer that is under way:
/// - A ninth stream, or a promised one, is never forgotten.
/// - A stream that the client resets has no last frame of the server, so it stays.
/// - [`Answering::lose`] forgets no stream, since its end may come yet. From then on there may be others, so
///   it is unsure until the end of a stream that was seen to be answered leaves none.
///
/// What it cannot see: a request that is not answered yet, and an answer that began in what was missed and
/// is silent while others come and go. A frame counts as soon as its header was read; whether its
/// payload has been sent, [`Boundary`](super::Boundary) knows.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answering {
    /// Stream identifiers, or 0.
    streams: [u32; 8],
    flags: u8,
    zero: [u8; 3],
}

const _: () = assert!(size_of::<Answering>() == 36);

impl Answering {
    /// Of a flow whose next frame is the first that the server sends.
    pub const fn from_start() -> Self {
        Self { streams: [0; 8], flags: 0, zero: [0; 3] }
    }

    /// Of a flow that was joined in mid-life.
    pub const fn joined() -> Self {
        Self { flags: UNSURE, ..Self::from_start() }
    }

    /// The server sends a frame.
    #[inline(always)]
    pub fn frame(&mut self, header: FrameHeader) {
        self.flags &= !IN_BLOCK;
        if header.leaves_block_open() {
            self.flags |= IN_BLOCK;
        }
        if header.kind == frame::PUSH_PROMISE {
            self.flags |= PROMISED;
        }
        match header.stream_hint() {
            StreamHint::None => {}
            StreamHint::Active(stream) => {
                if !self.replace(stream, stream) && !self.replace(0, stream) {
                    self.flags |= OVERFLOW;
                }
            }
            StreamHint::Ended(stream) => {
                if self.replace(stream, 0) && self.is_empty() {
                    self.flags &= !UNSURE;
                }
            }
        }
    }

    /// Whether no stream is being answered, as far as was seen.
    #[inline(always)]
    pub const fn is_none(&self) -> bool {
        self.flags == 0 && self.is_empty()
    }

    /// Frames were missed.
    #[inline(always)]
    pub fn lose(&mut self) {
        self.flags |= UNSURE;
    }

    #[inline(always)]
    const fn is_empty(&self) -> bool {
        let [a, b, c, d, e, f, g, h] = self.streams;
        a | b | c | d | e | f | g | h == 0
    }

    /// Changes the first slot that is `old`, and tells whether there was one.
    #[inline(always)]
    fn replace(&mut self, old: u32, new: u32) -> bool {
        let [a, b, c, d, e, f, g, h] = &mut self.streams;
        replace(a, old, new)
            || replace(b, old, new)
            || replace(c, old, new)
            || replace(d, old, new)
            || replace(e, old, new)
            || replace(f, old, new)
            || replace(g, old, new)
            || replace(h, old, new)
    }
}

#[inline(always)]
fn replace(slot: &mut u32, old: u32, new: u32) -> bool {
    let same = *slot == old;
    if same {
        *slot = new;
    }
    same
}

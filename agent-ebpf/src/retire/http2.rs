//! HTTP/2: frame after frame, and in due time a GOAWAY where one frame has ended and the next not begun.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use drainctl_common::{
    http2::{FRAME_HEADER, FrameHeader, GOAWAY, Next, StreamHint},
    retire::{Followed, Rule, moment, protocol, told},
};

use crate::{message::Message, tell::Sending};

/// Length of what we send.
const SIZE: u32 = GOAWAY.len() as u32;

/// Most frames of a message that are followed.
const FRAMES: u32 = 4096;

/// A walk through a message, on the stack of the program.
struct Walk {
    message: Message,
    flow: *mut Followed,
    /// Where the frames begin in the message.
    base: u32,
    /// Where the next header is.
    header: u32,
    done: bool,
    /// A header was read, and the chain is as it was.
    headers: bool,
    /// The answer on a stream has ended.
    ended: bool,
}

/// Follows one message, from `base` on.
#[inline(always)]
pub(crate) fn follow(sending: &Sending, base: u32) {
    let flow = sending.flow;
    // SAFETY: `flow` points to a live map value, and we are its only writer; the walk outlives the loop.
    unsafe {
        if (*flow).told & told::GOAWAY != 0 {
            return;
        }
        let tells = sending.tells(Rule::HTTP2);
        // A moment without open streams is at the end of a message, not before the next one.
        let before = hurries(sending) || (*flow).flags & Followed::NO_APPEND != 0;
        let here = tells && base == 0 && before && is_proven(flow) && sending.fits(SIZE);
        if here && sending.message.insert(0, &GOAWAY).is_ok() {
            sending.told(told::GOAWAY);
            return;
        }
        let mut walk = Walk {
            message: sending.message,
            flow,
            base,
            header: 0,
            done: false,
            headers: false,
            ended: false,
        };
        match (*flow).boundary.begin(sending.size - base) {
            Next::Header(at) => walk.header = at,
            Next::Done => walk.done = true,
        }
        note_loss(flow);
        if !walk.done {
            bpf_loop(FRAMES, frame as *mut c_void, (&raw mut walk).cast(), 0);
        }
        if sending.is(moment::ASKED) && walk.headers {
            (*flow).flags |= Followed::ASKED;
        }
        if !walk.done || !is_proven(flow) {
            return;
        }
        (*flow).protocol = protocol::HTTP2;
        let good_moment = hurries(sending) || (walk.ended && (*flow).answering.is_none());
        if !tells || !good_moment || !sending.fits(sending.size + SIZE) {
            return;
        }
        if sending.message.insert(sending.size, &GOAWAY).is_ok() {
            sending.told(told::GOAWAY);
        } else {
            (*flow).flags |= Followed::NO_APPEND;
        }
    }
}

/// Whether a GOAWAY may come at any boundary now. Not before the first answer on a new connection: its client has
/// just sent a request.
#[inline(always)]
fn hurries(sending: &Sending) -> bool {
    // SAFETY: `flow` points to a live map value.
    let flags = unsafe { (*sending.flow).flags };
    sending.is(moment::HURRY)
        && (flags & Followed::FROM_START == 0 || flags & Followed::ANSWERS != 0)
}

/// Whether the end of the newest message is a place for a GOAWAY.
#[inline(always)]
unsafe fn is_proven(flow: *mut Followed) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let boundary = &(*flow).boundary;
        // A supposition needs more: what the server sends without being asked may be a body that looks like
        // frames.
        let certain = boundary.is_settled() || (*flow).flags & Followed::ASKED != 0;
        certain && boundary.is_proven()
    }
}

/// Forgets what followed from a chain of frames that was lost. Returns whether it was.
#[inline(always)]
unsafe fn note_loss(flow: *mut Followed) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let lost = (*flow).boundary.take_lost();
        if lost {
            (*flow).answering.lose();
            (*flow).flags &= !Followed::ASKED;
        }
        lost
    }
}

/// One frame. Returns 1 at the end.
unsafe extern "C" fn frame(_index: u64, walk: *mut Walk) -> i64 {
    // SAFETY: the walk is on the stack of the program that loops.
    unsafe {
        let at = (*walk).base + (*walk).header;
        if (*walk).message.pull(at, at + FRAME_HEADER).is_err() {
            return 1;
        }
        let Some(bytes) = (*walk).message.bytes(0) else { return 1 };
        let header = FrameHeader::parse(bytes);
        let flow = (*walk).flow;
        let next = (*flow).boundary.frame(header);
        (*flow).answering.frame(header);
        match header.stream_hint() {
            StreamHint::None => {}
            StreamHint::Active(_) => (*flow).flags |= Followed::ANSWERS,
            StreamHint::Ended(_) => {
                (*flow).flags |= Followed::ANSWERS;
                (*walk).ended = true;
            }
        }
        (*walk).headers = !note_loss(flow);
        match next {
            Next::Header(at) => {
                (*walk).header = at;
                0
            }
            Next::Done => {
                (*walk).done = true;
                1
            }
        }
    }
}

//! HTTP/2: frame after frame, and in due time a GOAWAY where one frame has ended and the next not begun.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use drainctl_common::{
    http2::{FRAME_HEADER, FrameHeader, GOAWAY, Next},
    retire::{Followed, protocol, told},
};

use crate::{
    maps::OFFERED,
    message::Message,
    tell::{HTTP2, Sending},
};

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
        let tells = sending.tells(HTTP2);
        // A moment without open streams is at the end of a message, not before the next one.
        let before = sending.hurry || (*flow).flags & Followed::NO_APPEND != 0;
        if tells && base == 0 && before && (*flow).boundary.is_proven() {
            if sending.message.insert(0, &GOAWAY).is_ok() {
                sending.told(told::GOAWAY);
            }
            return; // If it could not be written, the chain is lost, and found again.
        }
        let mut walk = Walk { message: sending.message, flow, base, header: 0, done: false };
        match (*flow).boundary.begin(sending.size - base) {
            Next::Header(at) => walk.header = at,
            Next::Done => walk.done = true,
        }
        if (*flow).boundary.take_lost() {
            (*flow).answering.lose();
        }
        if !walk.done {
            bpf_loop(FRAMES, frame as *mut c_void, (&raw mut walk).cast(), 0);
        }
        if !walk.done || !(*flow).boundary.is_proven() {
            return;
        }
        (*flow).protocol = protocol::HTTP2;
        if !tells || !(sending.hurry || (*flow).answering.is_none()) {
            return;
        }
        if sending.message.insert(sending.size, &GOAWAY).is_ok() {
            sending.told(told::GOAWAY);
        } else {
            (*flow).flags |= Followed::NO_APPEND;
        }
    }
}

/// Whether this is not of the server: the GOAWAY that the agent is about to send.
#[inline(always)]
pub(crate) fn is_offer(sending: &Sending, cookie: u64) -> bool {
    const SIZE: u32 = GOAWAY.len() as u32;
    if sending.size != SIZE || OFFERED.get_ptr(cookie).is_none() {
        return false;
    }
    if sending.message.pull(0, SIZE).is_err() {
        return false;
    }
    sending.message.bytes(0) == Some(GOAWAY)
}

/// Whether it may be sent here and now.
#[inline(always)]
pub(crate) fn accept(sending: &Sending) -> bool {
    // SAFETY: `flow` points to a live map value, and we are its only writer.
    unsafe {
        let flow = sending.flow;
        let good = sending.tells(HTTP2)
            && (*flow).told == 0
            && (*flow).boundary.is_proven()
            && (sending.hurry || (*flow).answering.is_none());
        if good {
            sending.told(told::GOAWAY);
        }
        good
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
        if (*flow).boundary.take_lost() {
            (*flow).answering.lose();
        }
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

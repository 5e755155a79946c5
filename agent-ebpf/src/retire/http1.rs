//! HTTP/1: every byte that is not known to be body is followed, and a head in due time says `close`.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use drainctl_common::{
    http1::{Edit, Followed as Byte, Place, Responses, StatusKind},
    retire::{Followed, Rule, moment, protocol, told},
};

use crate::{
    message::{Message, WINDOW},
    tell::{Sending, room},
};

/// Most windows of a message, and as many gaps between them; what is left then is not followed.
const WINDOWS: u32 = 4096;

/// A walk through a message. It is on the stack of the program, where the loops' callbacks find it.
struct Walk {
    message: Message,
    flow: *mut Followed,
    /// The next byte of the message.
    at: u32,
    size: u32,
    /// The window's next byte, counted from its start, and its end.
    index: u32,
    end: u32,
    /// The last byte ended a head.
    head_end: bool,
    received: u64,
    /// Heads are to say `close`.
    tell: bool,
    /// One has.
    has_told: bool,
    closes: bool,
    /// A head said 101, and the next byte is of another protocol.
    upgraded: bool,
    upgraded_at: u32,
}

/// Follows one message. Returns where another protocol begins in it, if it does (101).
#[inline(always)]
pub(crate) fn follow(sending: &Sending) -> Option<u32> {
    let flow = sending.flow;
    let mut walk = Walk {
        message: sending.message,
        flow,
        at: 0,
        size: sending.size,
        index: 0,
        end: 0,
        head_end: false,
        received: sending.received,
        tell: sending.tells(Rule::HTTP1),
        has_told: false,
        closes: false,
        upgraded: false,
        upgraded_at: 0,
    };
    // SAFETY: `flow` points to a live map value, and we are its only writer; the walk outlives the loop.
    unsafe {
        (*flow).responses.begin(sending.is(moment::FRESH));
        bpf_loop(WINDOWS, window as *mut c_void, (&raw mut walk).cast(), 0);
        if walk.at < walk.size {
            (*flow).responses.lose();
        } else {
            (*flow).responses.end();
        }
        if walk.has_told {
            sending.told(told::HEADER);
        }
        if walk.closes {
            (*flow).flags |= Followed::CLOSES;
        }
        walk.upgraded.then_some(walk.upgraded_at)
    }
}

/// One window, or one gap that needs no look. Returns 1 at the end.
unsafe extern "C" fn window(_index: u64, walk: *mut Walk) -> i64 {
    // SAFETY: the walk is on the stack of the program that loops.
    unsafe {
        let responses: *mut Responses = &raw mut (*(*walk).flow).responses;
        let (at, size) = ((*walk).at, (*walk).size);
        if at >= size {
            return 1;
        }
        let skipped = (*responses).skip(size - at);
        if skipped != 0 {
            (*walk).at = at + skipped;
            return 0;
        }
        let length = if size - at < WINDOW { size - at } else { WINDOW };
        if (*walk).message.pull(at, at + length).is_err() {
            return 1;
        }
        (*walk).index = 0;
        (*walk).end = length;
        (*walk).head_end = false;
        bpf_loop(WINDOW, step as *mut c_void, walk.cast(), 0);
        (*walk).at = at + (*walk).index;
        if (*walk).index == 0 {
            return 1; // The window could not be read.
        }
        if (*walk).head_end {
            head_end(walk);
        }
        0
    }
}

/// One byte. Returns 1 where the window ends, or the next bytes need no look.
unsafe extern "C" fn step(index: u64, walk: *mut Walk) -> i64 {
    // The loop's own count, since the verifier follows no number through memory that it can lose here.
    let index = index as u32;
    // SAFETY: as above.
    unsafe {
        if index >= (*walk).end {
            return 1;
        }
        let Some(byte) = (*walk).message.byte(index) else { return 1 };
        (*walk).index = index + 1;
        let responses: *mut Responses = &raw mut (*(*walk).flow).responses;
        match (*responses).push(byte) {
            Byte::More => 0,
            Byte::HeadEnd => {
                (*walk).head_end = true;
                1
            }
            Byte::ResponseEnd | Byte::Lost => 1,
        }
    }
}

/// A head has ended just before `at`.
#[inline(always)]
unsafe fn head_end(walk: *mut Walk) {
    // SAFETY: as above.
    unsafe {
        let flow = (*walk).flow;
        (*flow).protocol = protocol::HTTP1;
        if (*flow).responses.place() == Place::Never {
            (*walk).upgraded = true;
            (*walk).upgraded_at = (*walk).at;
            return;
        }
        let head = (*flow).responses.head();
        if head.status_kind() == StatusKind::Final {
            (*flow).received = (*walk).received;
        }
        let edit = head.edit();
        if edit == Edit::Already {
            (*walk).closes = true;
            return;
        }
        if !(*walk).tell {
            return;
        }
        // Offsets count from the first byte of the head, of which a part may have been sent before.
        let length = u32::from(head.length());
        let before = u32::from((*flow).responses.head_bytes_before());
        let start = (*walk).at + before;
        let place = |offset: u16| {
            let offset = u32::from(offset);
            let fits = offset >= before && offset <= length && start >= length;
            if fits { Some(start - length + offset - before) } else { None }
        };
        let (message, room) = ((*walk).message, room(flow));
        let added = match edit {
            Edit::InsertField(offset) => {
                // The end of the head will do where the status line has been sent already.
                place(offset)
                    .or_else(|| place(head.length().wrapping_sub(2)))
                    .and_then(|at| insert(message, at, &Edit::FIELD, room))
            }
            Edit::InsertOption(offset) => {
                place(offset).and_then(|at| insert(message, at, &Edit::OPTION, room))
            }
            Edit::InsertOnlyOption(offset) => {
                place(offset).and_then(|at| insert(message, at, &Edit::ONLY_OPTION, room))
            }
            Edit::Overwrite(offset) => {
                place(offset).and_then(|at| message.overwrite(at, &Edit::IN_PLACE).ok().map(|()| 0))
            }
            Edit::Never | Edit::Already => None,
        };
        if let Some(added) = added {
            (*walk).at += added;
            (*walk).size += added;
            (*walk).has_told = true;
        }
    }
}

/// How many bytes were added.
#[inline(always)]
fn insert<const N: usize>(message: Message, at: u32, bytes: &[u8; N], room: u32) -> Option<u32> {
    if at + N as u32 > room {
        return None;
    }
    // In one piece up to there: some kernels make a wrong cut in any piece but the first
    // (`bpf_msg_push_data`, before "rsge.offset += start - offset").
    if at != 0 && message.pull(0, at).is_err() {
        return None;
    }
    message.insert(at, bytes).ok().map(|()| N as u32)
}

//! Following what a server sends, and telling its clients.

use aya_ebpf::{helpers::generated::bpf_skc_to_tcp_sock, macros::sk_msg, programs::SkMsgContext};
use drainctl_common::{
    http1::Place,
    http2::{Answering, Boundary, FRAME_LIMIT},
    retire::{Followed, moment, protocol},
};

use crate::{
    http1, http2,
    join::now,
    maps::{FOLLOWED, RETIRING},
    message::Message,
    sock::TcpSock,
};

/// Verdict of `sk_msg` (`enum sk_action`).
const SK_PASS: u32 = 1;

/// TLS records: ChangeCipherSpec to application data (RFC 8446 §5.1), of any version.
const TLS_TYPES: core::ops::RangeInclusive<u8> = 0x14..=0x17;
const TLS_MAJOR: u8 = 3;

/// Runs for everything that a followed server writes, before it is sent, under the socket's lock. It never
/// returns SK_DROP: the verdict would stay, and nothing could be sent any more (`tcp_bpf_send_verdict`).
#[sk_msg]
fn tell(ctx: SkMsgContext) -> u32 {
    if let Some(sending) = prepare(Message(ctx.msg)) {
        sending.note();
        follow(&sending);
        sending.finish();
    }
    SK_PASS
}

/// What there is to know about a message.
pub(crate) struct Sending {
    pub(crate) message: Message,
    pub(crate) flow: *mut Followed,
    pub(crate) size: u32,
    read_seq: u32,
    /// What was taken from the server before, as [`Followed::sent_in_all`].
    sent: u64,
    /// Payload bytes that have come from the client.
    pub(crate) received: u64,
    pub(crate) what: u32,
    pub(crate) now: u64,
}

/// What there is to know of a message, if its flow is followed.
#[inline(always)]
fn prepare(message: Message) -> Option<Sending> {
    // SAFETY: the helper returns null for a socket that is not TCP.
    let sock = unsafe { TcpSock::new(bpf_skc_to_tcp_sock(message.sk()).cast()) }?;
    let flow = FOLLOWED.get_ptr_mut(sock.cookie())?;
    // SAFETY: `flow` points to a live map value, and we are the only writer; rules are replaced as a whole.
    let rule = unsafe { RETIRING.get((*flow).service) }?;
    let now = now();
    let size = message.size();
    if size == 0 {
        return None;
    }
    let read_seq = sock.copied_seq();
    // SAFETY: `flow` points to a live map value, and we are the only writer.
    unsafe {
        let mut moment = 0;
        if read_seq != (*flow).read_seq {
            moment |= moment::ASKED;
            if sock.is_acknowledged() {
                moment |= moment::FRESH;
            }
        }
        // An order that is over may be renewed: until then flows are followed, and not told.
        if now >= (*flow).turn_ns && now < rule.until_ns {
            moment |= moment::DUE;
        }
        if now >= rule.patient_until_ns {
            moment |= moment::HURRY;
        }
        // In memory, since the verifier would follow each of these ways to the end.
        (&raw mut (*flow).moment).write_volatile(moment);
        (&raw mut (*flow).room).write_volatile(sock.room());
    }
    Some(Sending {
        message,
        flow,
        size,
        read_seq,
        sent: sock.sent(),
        received: sock.bytes_received(),
        what: rule.what,
        now,
    })
}

/// Whom a message is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Route {
    Nobody,
    Http1,
    Http2,
}

#[inline(always)]
fn follow(sending: &Sending) {
    // SAFETY: `flow` points to a live map value.
    let route = match unsafe { (*sending.flow).protocol } {
        protocol::HTTP1 => Route::Http1,
        protocol::HTTP2 | protocol::UPGRADED => Route::Http2,
        protocol::TLS => Route::Nobody,
        _ => recognise(sending),
    };
    match route {
        Route::Nobody => {}
        Route::Http1 => follow_http1(sending),
        Route::Http2 => http2::follow(sending, 0),
    }
}

/// The first messages: what does the server speak?
#[inline(always)]
fn recognise(sending: &Sending) -> Route {
    let flow = sending.flow;
    let start = if sending.size < 8 { sending.size } else { 8 };
    if sending.message.pull(0, start).is_err() {
        // SAFETY: `flow` points to a live map value, and we are the only writer.
        unsafe {
            (*flow).responses.lose();
            (*flow).boundary.lose();
        }
        return Route::Nobody;
    }
    let first = sending.message.bytes::<3>(0);
    // SAFETY: `flow` points to a live map value, and we are the only writer.
    unsafe {
        let from_start = (*flow).flags & Followed::FROM_START != 0;
        let no_http1 = (*flow).flags & Followed::NO_HTTP1 != 0;
        // Once a head has begun, it goes on, whatever it looks like.
        if (*flow).responses.place() == Place::Head {
            return Route::Http1;
        }
        match first {
            Some([kind, TLS_MAJOR, 0..=4]) if TLS_TYPES.contains(&kind) => {
                (*flow).protocol = protocol::TLS;
                Route::Nobody
            }
            Some([b'H', b'T', b'T']) if !no_http1 => {
                // No frame begins so: whatever was supposed of them is wrong.
                (*flow).boundary = Boundary::joined(FRAME_LIMIT);
                Route::Http1
            }
            // Too short to tell; it may be the beginning of a head if nothing came before.
            None if from_start && !no_http1 => Route::Http1,
            _ => {
                if from_start {
                    (*flow).flags |= Followed::NO_HTTP1;
                }
                (*flow).responses.lose();
                Route::Http2
            }
        }
    }
}

#[inline(always)]
fn follow_http1(sending: &Sending) {
    let Some(at) = http1::follow(sending) else { return };
    // Behind a 101 there may be HTTP/2 (h2c), which has to begin with SETTINGS.
    // SAFETY: `flow` points to a live map value, and we are the only writer.
    unsafe {
        (*sending.flow).protocol = protocol::UPGRADED;
        (*sending.flow).boundary = Boundary::from_start(FRAME_LIMIT);
        (*sending.flow).answering = Answering::from_start();
    }
    if at < sending.size {
        http2::follow(sending, at);
    }
}

impl Sending {
    /// The server has sent something.
    #[inline(always)]
    fn note(&self) {
        // SAFETY: `flow` points to a live map value, and we are the only writer.
        unsafe {
            (*self.flow).read_seq = self.read_seq;
            (*self.flow).sent_ns = self.now;
            // A server that does not wait (`O_NONBLOCK`) had less taken from it than it was seen to write, and writes
            // the rest again: what was followed is ahead of what was sent.
            if (*self.flow).sent_in_all != self.sent {
                (*self.flow).responses.lose();
                (*self.flow).boundary.lose();
                // The kernel does not ask us about that rest, so it may have been the answer to what was read.
                (*self.flow).moment &= !(moment::ASKED | moment::FRESH);
            }
        }
    }

    /// The message goes its way.
    #[inline(always)]
    fn finish(&self) {
        // SAFETY: as above.
        unsafe {
            (*self.flow).sent_in_all = self.sent.wrapping_add(u64::from(self.message.size()));
        }
    }

    /// Whether this is so, one of [`moment`].
    #[inline(always)]
    pub(crate) fn is(&self, what: u8) -> bool {
        // SAFETY: `flow` points to a live map value.
        unsafe { (&raw const (*self.flow).moment).read_volatile() & what != 0 }
    }

    /// Whether flows are told this way, one of the bits of [`Rule::what`](drainctl_common::retire::Rule::what).
    #[inline(always)]
    pub(crate) fn tells(&self, what: u32) -> bool {
        self.is(moment::DUE) && self.what & what != 0
    }

    /// Whether `end` bytes of the message, ours among them, are surely sent at once. If a server that does not
    /// wait (`O_NONBLOCK`) fills its buffer before the end of what we added, the kernel tells it that so
    /// many fewer of *its* bytes were sent (`tcp_bpf_send_verdict`), and it sends them twice.
    #[inline(always)]
    pub(crate) fn fits(&self, end: u32) -> bool {
        end <= room(self.flow)
    }

    /// The flow has been told.
    #[inline(always)]
    pub(crate) fn told(&self, how: u8) {
        // SAFETY: `flow` points to a live map value, and we are the only writer.
        unsafe {
            if (*self.flow).told == 0 {
                (*self.flow).told_ns = self.now;
            }
            (*self.flow).told |= how;
        }
    }
}

/// See [`Sending::fits`].
#[inline(always)]
pub(crate) fn room(flow: *mut Followed) -> u32 {
    // SAFETY: `flow` points to a live map value.
    u32::from(unsafe { (&raw const (*flow).room).read_volatile() })
}

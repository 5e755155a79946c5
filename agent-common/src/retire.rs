//! Maps of the retire programs, which make the flows of a draining service leave by themselves.

use crate::{
    ServiceKey,
    http1::Responses,
    http2::{Answering, Boundary},
};

/// Value of the `RETIRING` map, keyed by [`ServiceKey`]; its presence makes the flows of the service told.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Boot time in nanoseconds from which on nobody is told, even if nobody removes the rule.
    pub until_ns: u64,
    /// Boot time in nanoseconds at which the turns begin.
    pub start_ns: u64,
    /// Over how many nanoseconds the turns are spread.
    pub spread_ns: u64,
    /// Until this boot time in nanoseconds, a GOAWAY waits for a moment without open streams.
    pub patient_until_ns: u64,
    /// What is told, a set of [`Rule`] bits.
    pub what: u32,
    /// Always zero.
    pub zero: u32,
}

impl Rule {
    /// HTTP/1: `Connection: close`.
    pub const HTTP1: u32 = 1;
    /// HTTP/2: GOAWAY.
    pub const HTTP2: u32 = 2;
    /// Those too that another listener accepts in the service's place: the agent, which carries them.
    pub const CARRIED: u32 = 1 << 2;
}

/// One flow of a retiring service; value of the `FOLLOWED` map, keyed by socket cookie. Written by the
/// kernel under the socket's lock only.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed {
    /// Whose it is.
    pub service: ServiceKey,
    /// Boot time in nanoseconds from which on it may be told.
    pub turn_ns: u64,
    /// Boot time in nanoseconds when it was told; 0 if it was not.
    pub told_ns: u64,
    /// Boot time in nanoseconds when the server last sent something; 0 if it has not since we look.
    pub sent_ns: u64,
    /// Payload bytes that had come from the client (`tcpi_bytes_received`) when the newest HTTP/1 response began, or
    /// when the flow was joined.
    pub received: u64,
    /// Payload bytes of the server that its client will have acknowledged (`tcpi_bytes_acked`) once all it has been seen
    /// to write has arrived. If it is not what was really taken from it, some was written in vain and comes again.
    pub sent_in_all: u64,
    /// Payload bytes that had come when it ended, and one more if the client closed its side; 0 before.
    pub received_in_all: u64,
    /// Sequence number up to which the server had read then (`copied_seq`).
    pub read_seq: u32,
    /// One of [`protocol`].
    pub protocol: u8,
    /// One of [`barrier`].
    pub barrier: u8,
    /// A set of [`told`] bits.
    pub told: u8,
    /// A set of [`Followed`] bits.
    pub flags: u8,
    /// What the server sends as HTTP/1.
    pub responses: Responses,
    /// What the server sends as HTTP/2.
    pub boundary: Boundary,
    /// Streams that the server is answering.
    pub answering: Answering,
    /// How many bytes of the message in hand the kernel surely takes at once.
    pub room: u16,
    /// What is so of the message in hand, a set of [`moment`] bits.
    pub moment: u8,
    /// Always zero.
    pub zero: u8,
}

impl Followed {
    /// It is followed from the first byte that the server sent.
    pub const FROM_START: u8 = 1;
    /// The server has said itself that it closes.
    pub const CLOSES: u8 = 1 << 1;
    /// It did not begin with HTTP/1, and never will be.
    pub const NO_HTTP1: u8 = 1 << 4;
    /// Since the chain of HTTP/2 frames was found, the server has read something and then sent frames. Of a flow that
    /// was joined in mid-life this is asked for too: else it might be a body that looks like frames.
    pub const ASKED: u8 = 1 << 3;
    /// The server has begun to answer a request over HTTP/2.
    pub const ANSWERS: u8 = 1 << 5;
    /// This kernel does not let us write at the end of a message (before 6.13): a GOAWAY goes before the next.
    pub const NO_APPEND: u8 = 1 << 2;
}

/// What a flow speaks, as far as the server's bytes tell.
pub mod protocol {
    /// Nothing has been recognised yet.
    pub const UNKNOWN: u8 = 0;
    /// HTTP/1.
    pub const HTTP1: u8 = 1;
    /// HTTP/2.
    pub const HTTP2: u8 = 2;
    /// TLS: what is inside cannot be read.
    pub const TLS: u8 = 3;
    /// Upgraded by 101, a WebSocket for example.
    pub const UPGRADED: u8 = 4;
}

/// Why a flow cannot be told.
pub mod barrier {
    /// It can.
    pub const NONE: u8 = 0;
    /// It is in a sockmap of somebody else (Cilium, Istio ambient), and is left alone.
    pub const FOREIGN: u8 = 1;
    /// It has an upper-layer protocol in the kernel (kTLS).
    pub const ULP: u8 = 2;
    /// It is a Multipath TCP connection, or has left ESTABLISHED.
    pub const UNSUPPORTED: u8 = 3;
    /// It asked for zero-copy notifications (`SO_ZEROCOPY`), which would change.
    pub const ZEROCOPY: u8 = 4;
    /// There was no room for it.
    pub const NO_ROOM: u8 = 5;
    /// The kernel refused for another reason.
    pub const REFUSED: u8 = 6;
}

/// What is so at the moment in which a message is sent.
pub mod moment {
    /// The server has read new bytes since its last message.
    pub const ASKED: u8 = 1;
    /// So it has, and all that it sent before is acknowledged.
    pub const FRESH: u8 = 1 << 1;
    /// It is the flow's turn.
    pub const DUE: u8 = 1 << 2;
    /// A GOAWAY need not wait for a moment without open streams any more.
    pub const HURRY: u8 = 1 << 3;
}

/// How a flow was told.
pub mod told {
    /// By `Connection: close`.
    pub const HEADER: u8 = 1;
    /// By GOAWAY.
    pub const GOAWAY: u8 = 2;
}

const _: () = assert!(size_of::<Rule>() == 40 && size_of::<Followed>() == 176);

//! What the kernel layer does and tells about flows that are to leave: plain data.

use std::{fmt, net::SocketAddr, time::Duration};

use crate::drain::Boot;

/// How the flows of a service are told to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetireOrder {
    /// HTTP/1 responses say `Connection: close`.
    pub http1: bool,
    /// HTTP/2 connections get a GOAWAY.
    pub http2: bool,
    /// Those too that the agent carries to a peer: the service's clients, who are to leave as well.
    pub carried: bool,
    /// When the turns begin.
    pub start: Boot,
    /// Over how long the turns are spread; 0: all at once.
    pub spread: Duration,
    /// Until then, a GOAWAY waits for a moment without open streams.
    pub patient_until: Boot,
    /// From then on nobody is told, even if nobody restores the flows.
    pub until: Boot,
}

/// One flow of a service that retires, as the kernel programs follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed {
    /// Socket cookie.
    pub cookie: u64,
    /// What it speaks, as far as the server's bytes tell.
    pub protocol: Protocol,
    /// Why it cannot be told; `None` if it can.
    pub barrier: Option<Barrier>,
    /// How and when it was told.
    pub told: Option<Told>,
    /// Whether the server has said itself that it closes.
    pub closes: bool,
    /// Whether the last HTTP/1 response was seen to its end, nothing of another was sent since, and the
    /// client does not pipeline. With no byte from the client since that response began, it is idle.
    pub answered: bool,
    /// From when on it may be told, or get a FIN.
    pub turn: Boot,
    /// When the server last sent something; `None` if it has not since the flow is followed.
    pub sent: Option<Boot>,
    /// Payload bytes that had come from the client when the newest HTTP/1 response began, or when the flow was
    /// joined (`tcpi_bytes_received`).
    pub received: u64,
    /// Payload bytes that the client will have acknowledged once all the server was seen to write has arrived
    /// (`tcpi_bytes_acked`). As long as it is not so, the server may have some to write again.
    pub sent_in_all: u64,
    /// If it has ended: payload bytes that came from the client in all, and one more if the client closed its side.
    pub received_in_all: Option<u64>,
}

/// What a flow speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Nothing has been recognised yet.
    Unknown,
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// TLS, or something that looks like it.
    Tls,
    /// Upgraded by a 101, such as a WebSocket: never idle.
    Upgraded,
}

/// Why a flow cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Barrier {
    /// It is in somebody else's sockmap (Cilium, Istio ambient), and left alone.
    Foreign,
    /// It has an upper-layer protocol in the kernel (kTLS).
    Ulp,
    /// It is a Multipath TCP connection.
    Mptcp,
    /// It uses zero-copy sending (`SO_ZEROCOPY`).
    ZeroCopy,
    /// There was no room to follow it.
    NoRoom,
    /// The kernel refused for another reason.
    Refused,
}

/// How and when a flow was told to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// How.
    pub by: ToldBy,
    /// When.
    pub at: Boot,
}

/// How a flow was told to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToldBy {
    /// `Connection: close`.
    Header,
    /// An HTTP/2 GOAWAY.
    Goaway,
}

/// A flow that is to get a FIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finish {
    /// Socket cookie.
    pub cookie: u64,
    /// Inode number of the socket.
    pub inode: u32,
    /// Payload bytes received when it was judged: if there are more by now, it is left alone.
    pub received: u64,
}

/// A flow that is to be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Socket cookie: the kernel resets exactly this socket or none.
    pub cookie: u64,
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub peer: SocketAddr,
    /// Index of the interface that it is bound to; 0 if to none.
    pub interface: u32,
}

/// Which ways of retiring this kernel lacks, each with the reason in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetireLacks {
    /// Why nobody can be told (by header or GOAWAY).
    pub telling: Option<String>,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::Upgraded => "upgraded",
        })
    }
}

//! What an independent look at the sockets of a namespace shows: plain data.

use std::{net::SocketAddr, time::Duration};

/// What a look at one service found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Sockets in LISTEN.
    pub listeners: Vec<Listener>,
    /// All others.
    pub sockets: Vec<Socket>,
}

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Socket cookie: never reused while the machine runs.
    pub cookie: u64,
    /// Address and port it is bound to.
    pub local: SocketAddr,
    /// User id that owns it, in the initial user namespace.
    pub uid: u32,
    /// Inode number of the socket, as in `/proc/PID/fd`.
    pub inode: u32,
    /// Connections waiting to be accepted.
    pub backlog: u32,
}

/// A connection, or a handshake in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Socket cookie. A request socket (SYN_RECV) has one of its own.
    pub cookie: u64,
    /// TCP state.
    pub state: TcpState,
    /// What it means to the drain of its service.
    pub class: Class,
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub peer: SocketAddr,
    /// Index of the interface that it is bound to, as connections to link-local addresses are; 0 if to none.
    pub interface: u32,
    /// Inode number of the socket, as in `/proc/PID/fd`; 0 if no process holds it, which is so in the accept
    /// queue and after `close(2)`.
    pub inode: u32,
    /// Bytes received and not read by the process.
    pub unread: u32,
    /// Bytes written by the process and not acknowledged by the peer.
    pub unacked: u32,
    /// `tcp_info`, where the kernel gave one.
    pub info: Option<SocketInfo>,
}

/// What a flow means to a drain of its service; as in `drainctl_common::class`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Class {
    /// It must be gone before the service is drained.
    #[default]
    Counted,
    /// `--ignore` names its client.
    Ignored,
    /// The kubelet opened it.
    Probe,
    /// The gate gave it to another listener.
    Steered,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Counted, Self::Ignored, Self::Probe, Self::Steered];
}

/// The part of `struct tcp_info` that tells busy from quiet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketInfo {
    /// Payload bytes received (`tcpi_bytes_received`).
    pub bytes_received: u64,
    /// Payload bytes acknowledged by the peer (`tcpi_bytes_acked`).
    pub bytes_acked: u64,
    /// Bytes not yet sent (`tcpi_notsent_bytes`).
    pub not_sent: u32,
    /// Since data was last sent (`tcpi_last_data_sent`).
    pub since_sent: Duration,
    /// Since data was last received (`tcpi_last_data_recv`).
    pub since_received: Duration,
    /// Smoothed round-trip time (`tcpi_rtt`).
    pub rtt: Duration,
}

/// TCP states that a look reports (`include/net/tcp_states.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the kernel's names say it")]
pub enum TcpState {
    Established,
    SynRecv,
    FinWait1,
    FinWait2,
    CloseWait,
    LastAck,
    Closing,
}

impl Socket {
    /// Whether a process holds it.
    pub fn is_held(&self) -> bool {
        self.inode != 0
    }
}

impl TcpState {
    /// Whether a connection in this state is a flow: from ESTABLISHED until our last byte and FIN are acked.
    pub fn is_flow(self) -> bool {
        !matches!(self, Self::SynRecv | Self::FinWait2)
    }
}

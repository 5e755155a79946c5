//! How connections are made to leave, as it goes over the socket.

use serde::{Deserialize, Serialize};

pub use crate::drain::{AtDeadline, RetireKind};
use crate::{
    drain::{RetireReport, Untellable},
    kernel::{Barrier, Protocol, ToldBy},
};

/// What has become of the connections of a drain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetireStatus {
    /// What is retired; empty: connections leave when they want to.
    pub what: Vec<RetireKind>,
    /// What happens at the deadline to connections that remain.
    pub at_deadline: AtDeadline,
    /// Told by `Connection: close`, since the drain began.
    pub told_by_header: u64,
    /// Told by GOAWAY, since the drain began.
    pub told_by_goaway: u64,
    /// Given a FIN, since the drain began.
    pub fin_sent: u64,
    /// Of those, the ones on which bytes came from the client after the FIN: a request may have been executed
    /// whose answer could not be sent.
    pub fin_raced: u64,
    /// Ended without a FIN or reset of ours, since the drain began.
    pub left: u64,
    /// Reset at the deadline, since the drain began.
    pub aborted: u64,
    /// Peers whose connections were reset, `ADDRESS:PORT`; the first 100.
    pub cut: Vec<String>,
    /// Connections there are now that cannot be told, by the reason.
    pub untellable: UntellableFlows,
    /// Why nobody can be told on this machine; null if they can, or if it was not asked for.
    pub lacks: Option<String>,
}

/// Connections that cannot be told by header or GOAWAY, by the reason; see [`FlowBarrier`].
#[expect(missing_docs, reason = "documented at FlowBarrier")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UntellableFlows {
    pub tls: u64,
    pub ktls: u64,
    pub mptcp: u64,
    pub zero_copy: u64,
    pub foreign: u64,
    pub upgraded: u64,
    pub unknown_protocol: u64,
    pub refused: u64,
}

/// Why a connection cannot be told to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowBarrier {
    /// TLS ends in the server itself.
    Tls,
    /// TLS ends in the kernel (kTLS).
    Ktls,
    /// Multipath TCP.
    Mptcp,
    /// Zero-copy sending (`SO_ZEROCOPY`).
    ZeroCopy,
    /// In somebody else's sockmap.
    Foreign,
    /// Upgraded to another protocol, such as WebSocket.
    Upgraded,
    /// The server has sent something since the drain began, and it is neither HTTP nor TLS.
    UnknownProtocol,
    /// The kernel refused to follow it, or had no room.
    Refused,
}

/// What a connection speaks, as far as the server's bytes tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowProtocol {
    /// Nothing has been recognised, or the service is not draining and nobody looks.
    #[default]
    Unknown,
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// TLS.
    Tls,
    /// Upgraded by a 101, such as a WebSocket.
    Upgraded,
}

/// The last thing that was done to make a connection leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowRetired {
    /// A response said `Connection: close`.
    ToldByHeader,
    /// A GOAWAY was sent.
    ToldByGoaway,
    /// A FIN was sent.
    FinSent,
}

impl RetireStatus {
    /// Connections told by header or GOAWAY, since the drain began.
    pub fn told(&self) -> u64 {
        self.told_by_header + self.told_by_goaway
    }
}

impl UntellableFlows {
    /// Each reason with its number, also where it is 0.
    pub fn by_reason(&self) -> [(FlowBarrier, u64); 8] {
        let Self { tls, ktls, mptcp, zero_copy, foreign, upgraded, unknown_protocol, refused } =
            *self;
        [
            (FlowBarrier::Tls, tls),
            (FlowBarrier::Ktls, ktls),
            (FlowBarrier::Mptcp, mptcp),
            (FlowBarrier::ZeroCopy, zero_copy),
            (FlowBarrier::Foreign, foreign),
            (FlowBarrier::Upgraded, upgraded),
            (FlowBarrier::UnknownProtocol, unknown_protocol),
            (FlowBarrier::Refused, refused),
        ]
    }
}

impl FlowBarrier {
    /// As in JSON and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Ktls => "ktls",
            Self::Mptcp => "mptcp",
            Self::ZeroCopy => "zero_copy",
            Self::Foreign => "foreign",
            Self::Upgraded => "upgraded",
            Self::UnknownProtocol => "unknown_protocol",
            Self::Refused => "refused",
        }
    }
}

impl From<&Untellable> for UntellableFlows {
    fn from(flows: &Untellable) -> Self {
        let Untellable {
            tls,
            ktls,
            mptcp,
            zero_copy,
            foreign,
            upgraded,
            unknown_protocol,
            refused,
        } = *flows;
        Self { tls, ktls, mptcp, zero_copy, foreign, upgraded, unknown_protocol, refused }
    }
}

/// Without `what` and `at_deadline`, which were asked for and are no result.
impl From<&RetireReport> for RetireStatus {
    fn from(report: &RetireReport) -> Self {
        let peer = |addr: &std::net::SocketAddr| super::canonical(*addr).to_string();
        Self {
            told_by_header: report.told_by_header,
            told_by_goaway: report.told_by_goaway,
            fin_sent: report.fin_sent,
            fin_raced: report.fin_raced,
            left: report.left,
            aborted: report.aborted,
            cut: report.cut.iter().map(peer).collect(),
            untellable: (&report.untellable).into(),
            lacks: report.lacks.clone(),
            ..Self::default()
        }
    }
}

impl From<Protocol> for FlowProtocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Unknown => Self::Unknown,
            Protocol::Http1 => Self::Http1,
            Protocol::Http2 => Self::Http2,
            Protocol::Tls => Self::Tls,
            Protocol::Upgraded => Self::Upgraded,
        }
    }
}

impl From<Barrier> for FlowBarrier {
    fn from(barrier: Barrier) -> Self {
        match barrier {
            Barrier::Foreign => Self::Foreign,
            Barrier::Ulp => Self::Ktls,
            Barrier::Mptcp => Self::Mptcp,
            Barrier::ZeroCopy => Self::ZeroCopy,
            Barrier::NoRoom | Barrier::Refused => Self::Refused,
        }
    }
}

impl From<ToldBy> for FlowRetired {
    fn from(by: ToldBy) -> Self {
        match by {
            ToldBy::Header => Self::ToldByHeader,
            ToldBy::Goaway => Self::ToldByGoaway,
        }
    }
}

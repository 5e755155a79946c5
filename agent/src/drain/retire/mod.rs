//! How the flows of a draining service are made to leave by themselves: what was asked for, and what
//! became of each.

mod finish;
mod ledger;
#[cfg(test)]
mod ledger_tests;
mod options;

pub use ledger::{Retirement, Round, remaining};
pub use options::{
    AtDeadline, IDLE_AFTER, LINGER, Retire, RetireError, RetireKind, RetireRequest, RetireSet,
};

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::kernel::{Barrier, Protocol, ToldBy};

/// What has become of the flows of a drain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetireReport {
    /// Told by `Connection: close`, since the drain began.
    pub told_by_header: u64,
    /// Told by GOAWAY, since the drain began.
    pub told_by_goaway: u64,
    /// Given a FIN, since the drain began.
    pub fin_sent: u64,
    /// Of those, flows on which bytes came from the client after the FIN: a request may have been executed whose
    /// answer could not be sent.
    pub fin_raced: u64,
    /// Ended without a FIN or reset of ours, since the drain began.
    pub left: u64,
    /// Reset at the deadline, since the drain began.
    pub aborted: u64,
    /// Whom they belonged to, the first [`RetireReport::MOST_CUT`].
    pub cut: Vec<SocketAddr>,
    /// Flows there are now that cannot be told.
    pub untellable: Untellable,
    /// Why nobody can be told on this machine, and nobody be proven to be idle, in words; `None` if they can, or
    /// if neither was asked for.
    pub lacks: Option<String>,
}

impl RetireReport {
    /// Most peers that are kept of those that were reset.
    pub const MOST_CUT: usize = 100;
}

/// Flows that cannot be told by header or GOAWAY, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Untellable {
    /// TLS ends in the server itself.
    pub tls: u64,
    /// TLS ends in the kernel (kTLS).
    pub ktls: u64,
    /// Multipath TCP.
    pub mptcp: u64,
    /// Zero-copy sending.
    pub zero_copy: u64,
    /// In somebody else's sockmap.
    pub foreign: u64,
    /// Upgraded to another protocol, such as WebSocket.
    pub upgraded: u64,
    /// The server has sent something since the drain began, and it is neither HTTP nor TLS.
    pub unknown_protocol: u64,
    /// The kernel refused to follow it, or had no room.
    pub refused: u64,
}

/// How one flow is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// What it speaks.
    pub protocol: Protocol,
    /// How it was told.
    pub told: Option<ToldBy>,
    /// Whether it got a FIN.
    pub fin_sent: bool,
    /// Whether bytes came from the client after that.
    pub fin_raced: bool,
    /// Whether it is proven to be idle.
    pub idle: bool,
    /// Why it cannot be told.
    pub barrier: Option<Barrier>,
}

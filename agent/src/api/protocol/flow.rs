//! Connections, as they go over the socket.

use serde::{Deserialize, Serialize};

use super::{FlowBarrier, FlowClass, FlowProtocol, FlowRetired, PodRef};

/// The connections of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowList {
    /// The pod that the service belongs to; null where it is not known.
    #[serde(default)]
    pub pod: Option<PodRef>,
    /// Handshakes first, then by age, oldest first.
    pub flows: Vec<FlowStatus>,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowStatus {
    /// `ADDRESS:PORT` of the peer.
    pub peer: String,
    /// `ADDRESS:PORT` on our side.
    pub local: String,
    /// TCP state as `ss` names it, for example `ESTAB` or `CLOSE-WAIT`.
    pub tcp_state: String,
    /// Since it was established; null if it is older than the agent.
    pub age_ms: Option<u64>,
    /// Payload bytes received.
    pub bytes_in: u64,
    /// Payload bytes acknowledged by the peer.
    pub bytes_out: u64,
    /// What it means to a drain.
    pub class: FlowClass,
    /// What it is doing.
    pub activity: Activity,
    /// Why it is thought so, in words.
    pub why: String,
    /// What it speaks; known only while the service is draining.
    pub protocol: FlowProtocol,
    /// The last thing that was done to make it leave; null if nothing was.
    pub retire: Option<FlowRetired>,
    /// Whether bytes came from the client after our FIN.
    pub fin_raced: bool,
    /// Why it cannot be told to leave; null if it can or was, or if nobody looks.
    pub barrier: Option<FlowBarrier>,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Data is on its way, or was a moment ago.
    Busy,
    /// Proven: an HTTP/1 connection whose last response was seen to end, and no byte since.
    Idle,
    /// Nothing unsent, unacked or unread, and no bytes for a while: it may well be a request in flight.
    Quiet,
    /// The handshake is not finished.
    Handshake,
    /// Closed on our side, still open on the peer's.
    Lingering,
}

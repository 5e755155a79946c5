//! The course of a drain, as it goes over the socket.

use serde::{Deserialize, Serialize};

use super::StateName;

/// A state that a draining service came into. Oldest first; of more than eight, the first and the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entered {
    /// Which.
    pub state: StateName,
    /// How long ago.
    pub ago_ms: u64,
}

/// How a drain ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedStatus {
    /// Why, in words.
    pub reason: String,
    /// Whether the deadline passed while the gate had to stay open.
    pub at_deadline: bool,
    /// How long ago.
    pub ago_ms: u64,
}

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

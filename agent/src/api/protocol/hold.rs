//! Work that keeps a service from being drained: holds, and connections of its own.

use serde::{Deserialize, Serialize};

use super::{NetnsRef, PodName, ServiceStatus};
pub use crate::drain::HoldName;

/// Asks for a hold, or for more time for the one of this name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldRequest {
    /// The port, 1 to 65535.
    pub port: u16,
    /// Network namespace; left out: the caller's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<NetnsRef>,
    /// The pod in whose network namespace the port is; not together with `netns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// A container in whose network namespace the port is: its id, or how it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Its name, among those of the service.
    pub name: HoldName,
    /// When it ends by itself, in milliseconds from now: 1 s to 24 h; left out: 5 min.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Refuse it if the service is draining, and it is not there yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unless_draining: bool,
}

/// The service is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldAccepted {
    /// The service as it is now.
    pub service: ServiceStatus,
    /// Whether the hold was there already, and has more time now.
    pub renewed: bool,
}

/// A hold was ended, or there was none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// The service as it is now.
    pub service: ServiceStatus,
    /// False: there was none of this name (any more), and nothing was done.
    pub was_held: bool,
}

/// Something that holds a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldStatus {
    /// Its name.
    pub name: HoldName,
    /// Since it was set.
    pub age_ms: u64,
    /// Until it ends by itself, unless it is renewed.
    pub left_ms: u64,
    /// User id of whoever set it, in the initial user namespace.
    pub uid: u32,
}

/// Connections of a service's own that its drain waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboundStatus {
    /// `ADDRESS:PORT` that they lead to.
    pub to: String,
    /// How many there are, as of the newest look; null before the first one.
    pub connections: Option<u64>,
}

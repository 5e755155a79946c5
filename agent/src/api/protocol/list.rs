//! What is in a network namespace, or in all of them.

use serde::{Deserialize, Serialize};

use super::{PodName, ServiceStatus};

/// All services the caller asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceList {
    /// Sorted by namespace and port.
    pub services: Vec<ServiceStatus>,
    /// Pods there that ask for a preStop hook over HTTP and have none.
    #[serde(default)]
    pub hooks_missing: Vec<HookMissing>,
}

/// A pod that asks for a preStop hook over HTTP and has none: when it is stopped, nothing will drain it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookMissing {
    /// The pod.
    pub pod: PodName,
    /// Why it has none, in words.
    pub why: String,
}

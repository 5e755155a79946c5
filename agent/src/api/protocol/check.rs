//! Whether a service answers.

use serde::{Deserialize, Serialize};

use super::{NetnsRef, PodName};

/// Asks whether a service answers, in whichever state it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    /// TCP port, 1 to 65535.
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
    /// What to ask for by HTTP/1.1, query included; left out: that the server accepts is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The header Host; left out: `localhost` and the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Whether to ask over TLS. The server's certificate is not verified.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
    /// Statuses that are as wanted, 100 to 599; empty: 200 to 399.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expect: Vec<u16>,
    /// How long the server may take, 1 to 5000; left out: 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// How a service answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// `NETNS:PORT`.
    pub service: String,
    /// Whether a socket listens on the port.
    pub listening: bool,
    /// Whether it has accepted, and answered as wanted.
    pub healthy: bool,
    /// The status of its answer; null if there was none.
    pub status: Option<u16>,
    /// Why it is not healthy; null if it is.
    pub why: Option<String>,
}

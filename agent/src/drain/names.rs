//! Names that states, options and reasons have for everybody: in JSON, in tables and in logs.

use serde::{Deserialize, Serialize};

/// States of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    /// No drain.
    Serving,
    /// Draining, still accepting.
    Settling,
    /// The gate is closed, flows remain.
    Rejecting,
    /// The gate is closed and zero is proven.
    Drained,
    /// The gate is closed, and the deadline passed with flows remaining.
    Expired,
}

impl StateName {
    /// As in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Settling => "settling",
            Self::Rejecting => "rejecting",
            Self::Drained => "drained",
            Self::Expired => "expired",
        }
    }
}

/// Why settling ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SettledBy {
    /// No new connection came for the quiet time.
    Quiet,
    /// max-settle was reached while connections still arrived.
    MaxSettle,
    /// The drain asked for `quiet` 0.
    AtOnce,
}

//! Names that states, options and reasons have for everybody: in JSON, in tables and in logs.

use std::{fmt, str::FromStr};

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

/// What happens to new connections once the gate is closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewConnections {
    /// The kernel answers the SYN with a RST: connect() fails at once.
    #[default]
    Reject,
    /// The kernel gives them to the listening sockets of the process that takes over, on the same machine.
    Handoff(Handoff),
}

/// Who takes over the connections of a port: another process in the same network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handoff {
    /// The process with this id, and its descendants.
    Pid(u32),
    /// Whoever listens on this port, which is another one.
    Port(u16),
}

impl NewConnections {
    /// Who takes them over, if anybody does.
    pub fn handoff(&self) -> Option<Handoff> {
        match self {
            Self::Reject => None,
            Self::Handoff(to) => Some(*to),
        }
    }
}

/// As on the command line.
impl fmt::Display for NewConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reject => f.write_str("reject"),
            Self::Handoff(Handoff::Pid(pid)) => write!(f, "handoff=pid:{pid}"),
            Self::Handoff(Handoff::Port(port)) => write!(f, "handoff=port:{port}"),
        }
    }
}

impl FromStr for NewConnections {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || {
            "either reject, or handoff=pid:N or handoff=port:N, for example handoff=port:8081"
                .to_owned()
        };
        if text == "reject" {
            return Ok(Self::Reject);
        }
        let to = text.strip_prefix("handoff=").ok_or_else(usage)?;
        let (kind, number) = to.split_once(':').ok_or_else(usage)?;
        let to = match kind {
            "pid" => number
                .parse()
                .ok()
                .filter(|pid| i32::try_from(*pid).is_ok_and(|pid| pid > 0))
                .map(Handoff::Pid),
            "port" => number.parse().ok().filter(|port| *port > 0).map(Handoff::Port),
            _ => None,
        };
        to.map(Self::Handoff).ok_or_else(usage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_new_connections_in_words() {
        for text in ["reject", "handoff=pid:4711", "handoff=port:8081"] {
            assert_eq!(text.parse::<NewConnections>().unwrap().to_string(), text);
        }
        let bad = [
            "",
            "drop",
            "handoff",
            "handoff=",
            "handoff=8081",
            "handoff=port:",
            "handoff=port:0",
            "handoff=port:70000",
            "handoff=pid:0",
            "handoff=pid:-1",
            "handoff=pid:4294967295",
            "handoff=unit:web",
        ];
        for text in bad {
            assert!(text.parse::<NewConnections>().is_err(), "{text:?}");
        }
    }
}

//! Parsers of option values. Each error says what would be right, with an example.

use std::{collections::BTreeSet, net::SocketAddr, str::FromStr, time::Duration};

/// Longest duration that makes sense on the command line: 30 days.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// A TCP port, 1 to 65535.
pub(super) fn port(text: &str) -> Result<u16, String> {
    match text.trim().parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err("a TCP port is a number from 1 to 65535, for example 8080".into()),
    }
}

/// A process id, from 1.
pub(super) fn pid(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(pid) if pid > 0 && i32::try_from(pid).is_ok() => Ok(pid),
        _ => Err("a process id is a number from 1, for example 4711".into()),
    }
}

/// An address with a port.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let wrong = "an address and a port, for example 10.0.0.9:5672 or [fd00::9]:5432; names are not resolved";
    text.parse().map_err(|_| wrong.to_owned())
}

/// A duration with its unit, whole milliseconds, 0 to 30 days.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let value = humantime::parse_duration(text).map_err(|_| {
        "a duration is a number with its unit, for example 500ms, 25s or 1m30s".to_owned()
    })?;
    if !value.subsec_nanos().is_multiple_of(1_000_000) {
        return Err("drainctl counts in milliseconds; the shortest duration is 1ms, or 0s".into());
    }
    if value > LONGEST {
        return Err("the longest duration is 30days".into());
    }
    Ok(value)
}

/// The ports without repetition, in the order given.
pub(super) fn distinct(ports: &[u16]) -> Vec<u16> {
    let mut seen = BTreeSet::new();
    ports.iter().copied().filter(|port| seen.insert(*port)).collect()
}

/// When `drain` gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timeout {
    /// When the agent thinks best.
    Auto,
    /// After so long.
    After(Duration),
}

impl Timeout {
    /// What to ask the agent for; `None` leaves it to the agent.
    pub(super) fn asked(self) -> Option<Duration> {
        match self {
            Self::Auto => None,
            Self::After(timeout) => Some(timeout),
        }
    }
}

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        duration(text).map(Self::After)
    }
}

/// What `drain` does while the agent cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IfUnreachable {
    /// Try again for so long.
    Wait(Duration),
    /// Fail at once.
    Fail,
}

impl FromStr for IfUnreachable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "fail" {
            return Ok(Self::Fail);
        }
        let Some(wait) = text.strip_prefix("wait=") else {
            return Err("either wait=DURATION, for example wait=5s, or fail".into());
        };
        duration(wait).map(Self::Wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        for (text, good) in [
            ("1", true),
            ("65535", true),
            ("0", false),
            ("70000", false),
            ("-1", false),
            ("http", false),
        ] {
            assert_eq!(port(text).is_ok(), good, "port {text}");
        }
    }

    #[test]
    fn durations() {
        let table = [
            ("1s", Some(1000)),
            ("500ms", Some(500)),
            ("1m30s", Some(90_000)),
            ("0s", Some(0)),
            ("25", None),
            ("", None),
            ("-1s", None),
            ("100us", None),
            ("1000years", None),
        ];
        for (text, ms) in table {
            assert_eq!(duration(text).ok(), ms.map(Duration::from_millis), "duration {text:?}");
        }
        assert!(duration("25").unwrap_err().contains("for example"));
    }

    #[test]
    fn timeouts() {
        assert_eq!("auto".parse::<Timeout>().map(Timeout::asked), Ok(None));
        let seconds = "25s".parse::<Timeout>().map(Timeout::asked);
        assert_eq!(seconds, Ok(Some(Duration::from_secs(25))));
        assert!("Auto".parse::<Timeout>().unwrap_err().contains("for example"));
    }

    #[test]
    fn unreachable() {
        assert_eq!("fail".parse(), Ok(IfUnreachable::Fail));
        assert_eq!("wait=50ms".parse(), Ok(IfUnreachable::Wait(Duration::from_millis(50))));
        for text in ["wait", "wait=", "wait=5", "ignore", ""] {
            assert!(text.parse::<IfUnreachable>().is_err(), "{text:?}");
        }
    }
}

//! What a drain is asked to do, validated: raw options become one [`Spec`] before any work is done.

use std::{net::SocketAddr, time::Duration};

use humantime::format_duration;
use serde::{Deserialize, Serialize};

use super::{
    Admission, AdmissionError, AdmissionRequest, Handoff, NewConnections,
    grace::timeout_within,
    new::ForwardError,
    outbound::{self, OutboundError},
    retire::{Retire, RetireError, RetireRequest},
};

/// By how much the lease exceeds the timeout at least.
pub const LEASE_MARGIN: Duration = Duration::from_secs(60);
/// Longest `--quiet`, `--min-settle`, `--max-settle` and `--timeout`.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Longest `--lease`.
pub const LONGEST_LEASE: Duration = Duration::from_secs(48 * 3600);

const QUIET: Duration = Duration::from_secs(1);
const MIN_SETTLE: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(25);
const LEASE: Duration = Duration::from_secs(600);

/// The options of a drain as a person or a program gave them: anything may be left out, nothing is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecRequest {
    /// How long no new connection must have come before the gate closes; 0 closes it at once. Default 1 s, or 0 for a
    /// handoff that gives no settle time.
    pub quiet: Option<Duration>,
    /// Shortest settling time, counted from the drain's start. Default 3 s.
    pub min_settle: Option<Duration>,
    /// Longest settling time. Default 60 % of the timeout, but at least `min_settle`.
    pub max_settle: Option<Duration>,
    /// When to give up waiting for zero. Default 25 s, or what `grace` leaves.
    pub timeout: Option<Duration>,
    /// How long the containers of the server's pod have to stop, if it is in a pod.
    pub grace: Option<Duration>,
    /// How long the drain lives without anyone renewing it. Default 10 min, but at least the timeout and 60 s.
    pub lease: Option<Duration>,
    /// Keep the gate closed when a new instance listens on the port.
    pub keep_closed: bool,
    /// Close the gate also if Kubernetes goes on sending connections.
    pub close_anyway: bool,
    /// What happens to new connections once the gate is closed.
    pub new: NewConnections,
    /// Which clients are treated differently from the others.
    pub admission: AdmissionRequest,
    /// What happens to the connections that are there.
    pub retire: RetireRequest,
    /// Where connections of the service's own lead that are waited for too.
    pub wait_outbound: Vec<SocketAddr>,
}

/// What a drain is to do. Its values fit together: 0 < timeout, min-settle ≤ max-settle < timeout, and
/// timeout + 60 s ≤ lease.
///
/// Its serialized form is read by agents of other versions (see [`Standing`](super::Standing)): an option that
/// is added has `#[serde(default)]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    quiet: Duration,
    min_settle: Duration,
    max_settle: Duration,
    timeout: Duration,
    lease: Duration,
    keep_closed: bool,
    #[serde(default)]
    close_anyway: bool,
    new: NewConnections,
    #[serde(default)]
    admission: Admission,
    retire: Retire,
    #[serde(default)]
    wait_outbound: Vec<SocketAddr>,
}

/// Why options make no drain. The text is for people and names the options as the command line does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// There would be no time to drain.
    #[error("--timeout must be longer than 0s; for a drain nobody waits for, use --no-wait")]
    ZeroTimeout,
    /// There would be no time to drain, and for the server to stop.
    #[error(
        "the pod has {} left to stop, of which its server keeps at least 5s: too little for a drain. Raise \
         terminationGracePeriodSeconds, or give --timeout", format_duration(*.0)
    )]
    GraceTooShort(Duration),
    /// 0 is no process and no port.
    #[error("--new handoff needs a process id or a TCP port from 1 on")]
    HandoffToNobody,
    /// A duration is out of range.
    #[error("{option} {} is too long: at most {} is possible", format_duration(*.value), format_duration(*.limit))]
    TooLong {
        /// The option.
        option: &'static str,
        /// What was asked for.
        value: Duration,
        /// What is possible.
        limit: Duration,
    },
    /// The shortest settling time is longer than the longest.
    #[error(
        "--min-settle {} is longer than --max-settle {}: lower --min-settle or raise --max-settle",
        format_duration(*.min), format_duration(*.max)
    )]
    MinOverMax {
        /// `--min-settle`.
        min: Duration,
        /// `--max-settle`.
        max: Duration,
    },
    /// Nothing can be carried to these peers.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// Connections to these addresses cannot be waited for.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// The options about connections that are there already contradict each other.
    #[error(transparent)]
    Retire(#[from] RetireError),
    /// The options about clients by their address make no sense.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// Settling would use up the whole timeout.
    #[error(
        "{option} {} must be shorter than --timeout {}: lower {option} or raise --timeout",
        format_duration(*.value), format_duration(*.timeout)
    )]
    SettleOverTimeout {
        /// `--min-settle` or `--max-settle`, whichever was to blame.
        option: &'static str,
        /// Its value.
        value: Duration,
        /// `--timeout`.
        timeout: Duration,
    },
    /// Traffic could come back before the drain gives up.
    #[error(
        "--lease {} must exceed --timeout {} by at least 60s: raise --lease to {} or lower --timeout",
        format_duration(*.lease), format_duration(*.timeout), format_duration(*.timeout + LEASE_MARGIN)
    )]
    LeaseTooShort {
        /// `--lease`.
        lease: Duration,
        /// `--timeout`.
        timeout: Duration,
    },
}

impl SpecError {
    /// Whether it may be none with another timeout.
    pub fn is_about_the_timeout(&self) -> bool {
        matches!(
            self,
            Self::SettleOverTimeout { .. }
                | Self::LeaseTooShort { .. }
                | Self::Retire(RetireError::SpreadOverTimeout { .. })
        )
    }
}

impl TryFrom<SpecRequest> for Spec {
    type Error = SpecError;

    fn try_from(request: SpecRequest) -> Result<Self, SpecError> {
        check_ranges(&request)?;
        request.new.check()?;
        let quiet = request.quiet.unwrap_or_else(|| default_quiet(&request));
        let timeout = timeout(&request)?;
        let (min_settle, max_settle) = settle_times(&request, quiet, timeout)?;
        let least = timeout + LEASE_MARGIN;
        let lease = request.lease.unwrap_or(LEASE.max(least));
        if lease < least {
            return Err(SpecError::LeaseTooShort { lease, timeout });
        }
        let retire = request.retire.validate(min_settle, timeout)?;
        let admission = request.admission.validate()?;
        let wait_outbound = outbound::validate(&request.wait_outbound)?;
        let SpecRequest { keep_closed, close_anyway, new, .. } = request;
        Ok(Self {
            quiet,
            min_settle,
            max_settle,
            timeout,
            lease,
            keep_closed,
            close_anyway,
            new: new.normalized(),
            admission,
            retire,
            wait_outbound,
        })
    }
}

fn timeout(request: &SpecRequest) -> Result<Duration, SpecError> {
    match (request.timeout, request.grace) {
        (Some(timeout), _) => Ok(timeout),
        (None, Some(grace)) => {
            let timeout = timeout_within(grace).ok_or(SpecError::GraceTooShort(grace))?;
            Ok(timeout.min(LONGEST))
        }
        (None, None) => Ok(TIMEOUT),
    }
}

/// Nobody is refused by a handoff, so there is nobody to wait for, unless that is asked for.
fn default_quiet(request: &SpecRequest) -> Duration {
    let settles = request.min_settle.is_some() || request.max_settle.is_some();
    if request.new.handoff().is_some() && !settles { Duration::ZERO } else { QUIET }
}

fn check_ranges(request: &SpecRequest) -> Result<(), SpecError> {
    if request.timeout == Some(Duration::ZERO) {
        return Err(SpecError::ZeroTimeout);
    }
    if let Some(Handoff::Pid(0) | Handoff::Successor(0) | Handoff::Port(0)) = request.new.handoff()
    {
        return Err(SpecError::HandoffToNobody);
    }
    let options = [
        ("--idle-after", request.retire.idle_after, LONGEST),
        ("--quiet-flow-after", request.retire.quiet_flow_after, LONGEST),
        ("--linger", request.retire.linger, LONGEST),
        ("--spread", request.retire.spread, LONGEST),
        ("--quiet", request.quiet, LONGEST),
        ("--min-settle", request.min_settle, LONGEST),
        ("--max-settle", request.max_settle, LONGEST),
        ("--timeout", request.timeout, LONGEST),
        ("--keep-clients", request.admission.keep_clients, LONGEST),
        ("--lease", request.lease, LONGEST_LEASE),
    ];
    for (option, value, limit) in options {
        if let Some(value) = value.filter(|value| *value > limit) {
            return Err(SpecError::TooLong { option, value, limit });
        }
    }
    Ok(())
}

/// Shortest and longest settling time; both zero if the gate closes at once.
fn settle_times(
    request: &SpecRequest,
    quiet: Duration,
    timeout: Duration,
) -> Result<(Duration, Duration), SpecError> {
    if quiet.is_zero() {
        return Ok((Duration::ZERO, Duration::ZERO));
    }
    // Nobody has chosen a timeout that a pod makes short.
    let follows = request.timeout.is_none();
    let default = if follows { MIN_SETTLE.min(timeout * 3 / 5) } else { MIN_SETTLE };
    let min = request.min_settle.unwrap_or(default);
    if min >= timeout {
        return Err(SpecError::SettleOverTimeout { option: "--min-settle", value: min, timeout });
    }
    let max = request.max_settle.unwrap_or_else(|| (timeout * 3 / 5).max(min));
    if max >= timeout {
        return Err(SpecError::SettleOverTimeout { option: "--max-settle", value: max, timeout });
    }
    if min > max {
        return Err(SpecError::MinOverMax { min, max });
    }
    Ok((min, max))
}

impl Spec {
    /// How long no new connection must have come before the gate closes.
    pub fn quiet(&self) -> Duration {
        self.quiet
    }

    /// Whether the gate closes at once, without settling (`quiet` 0).
    pub fn at_once(&self) -> bool {
        self.quiet.is_zero()
    }

    /// Shortest settling time, counted from the drain's start; 0 if the gate closes at once.
    pub fn min_settle(&self) -> Duration {
        self.min_settle
    }

    /// Longest settling time, counted from the drain's start; 0 if the gate closes at once.
    pub fn max_settle(&self) -> Duration {
        self.max_settle
    }

    /// When to give up waiting for zero, counted from the drain's start or the newest join.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How long the drain lives without anyone renewing it.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Whether a new instance that listens on the port leaves the gate closed.
    pub fn keep_closed(&self) -> bool {
        self.keep_closed
    }

    /// Whether the gate closes also if Kubernetes goes on sending connections.
    pub fn close_anyway(&self) -> bool {
        self.close_anyway
    }

    /// What happens to new connections once the gate is closed.
    pub fn new_connections(&self) -> &NewConnections {
        &self.new
    }

    /// Which clients are treated differently from the others.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// What happens to the connections that are there.
    pub fn retire(&self) -> &Retire {
        &self.retire
    }

    /// Where connections of the service's own lead that are waited for too.
    pub fn wait_outbound(&self) -> &[SocketAddr] {
        &self.wait_outbound
    }

    /// In which options a second request (`other`) contradicts this drain, in words; `None` if it may join.
    /// How long to settle no longer matters once the gate is `closed`; how long to wait, and how long a flow
    /// may idle or linger, is nothing to contradict, see [`Spec::joined_by`]. What is done to the flows that
    /// are there is.
    pub fn contradiction(&self, other: &Self, closed: bool) -> Option<String> {
        let settling = [
            ("--quiet", self.quiet, other.quiet),
            ("--min-settle", self.min_settle, other.min_settle),
        ];
        let mut differences: Vec<String> = settling
            .into_iter()
            .filter(|(_, ours, theirs)| !closed && ours != theirs)
            .map(|(option, ours, theirs)| {
                format!("{option} is {}, not {}", format_duration(ours), format_duration(theirs))
            })
            .collect();
        if self.keep_closed != other.keep_closed {
            let is = if self.keep_closed { "is set" } else { "is not set" };
            differences.push(format!("--keep-closed {is}"));
        }
        if self.new != other.new {
            differences.push(format!("--new is {}, not {}", self.new, other.new));
        }
        if self.wait_outbound != other.wait_outbound {
            differences.push("--wait-outbound names other addresses".into());
        }
        differences.extend(self.admission.contradictions(&other.admission));
        differences.extend(self.retire.contradictions(&other.retire));
        (!differences.is_empty()).then(|| differences.join(", "))
    }

    /// The drain that two who ask for the same share: it waits and lives as long as the longer of both, and
    /// settles no longer than the shorter, and closes the gate if either wants that; its flows may idle and linger for the longer of both, and their turns
    /// stay as they are.
    #[must_use]
    pub fn joined_by(self, other: &Self) -> Self {
        Self {
            max_settle: self.max_settle.min(other.max_settle).max(self.min_settle),
            timeout: self.timeout.max(other.timeout),
            lease: self.lease.max(other.lease),
            close_anyway: self.close_anyway || other.close_anyway,
            retire: self.retire.joined_by(&other.retire),
            ..self
        }
    }
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;

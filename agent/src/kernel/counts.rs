//! What the kernel programs have counted: plain data.

use std::{net::IpAddr, path::PathBuf};

use crate::drain::Boot;

/// Connection attempts that the client's address decided, looked up in the kernel: a SYN that is sent again counts
/// again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Let in by `--ignore`.
    pub ignored: u64,
    /// Let in by `--allow`.
    pub allowed: u64,
    /// Refused by `--fail-health-from`.
    pub failed_health: u64,
    /// Let in by a closed gate through `--keep-clients`.
    pub kept: u64,
}

/// The tracker's view of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracked {
    /// Whether it knows the service at all: its map may have had no room.
    pub known: bool,
    /// Flows of [`Class::Counted`](super::Class::Counted) now. Negative only if the counter was corrupted.
    pub flows: i64,
    /// Connections ever accepted.
    pub accepted: u64,
    /// Connections that found the tracker's map full and are not in `flows`. Not zero: the counts are not
    /// to be trusted. [`Kernel::reconcile`](super::Kernel::reconcile) brings it back to zero once all of them
    /// are taken in or gone.
    pub lost: u64,
    /// When the newest connection came.
    pub last_new: Option<Boot>,
    /// Where the newest connection came from.
    pub last_peer: Option<IpAddr>,
}

/// What [`Kernel::reconcile`](super::Kernel::reconcile) had to mend. All zero: tracker and look agreed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Flows the tracker did not know.
    pub added: u64,
    /// Flows the tracker held that were gone.
    pub removed: u64,
    /// Flows that the tracker counted in another class than the look.
    pub moved: u64,
    /// By how much the flow counter was wrong beyond that.
    pub corrected: i64,
}

/// What became of connection attempts that were to be steered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steered {
    /// Connection attempts that another listener has got (looked up in the kernel: SYN retransmissions count too).
    pub attempts: u64,
    /// Listening sockets that take them now.
    pub targets: u64,
}

/// Counters of the kernel programs, since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Connections accepted while the map of flows was full.
    pub flows_full: u64,
    /// Connections accepted while the map of services was full: no service's count can be trusted.
    pub services_full: u64,
    /// Events that found the ring buffer full.
    pub events_lost: u64,
    /// Connections whose network namespace could not be read.
    pub no_netns: u64,
}

/// The kubelet's connections, which are told from others where they are opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeCounts {
    /// The cgroup whose connections they are; `None`: there is no kubelet, and every connection counts.
    pub cgroup: Option<PathBuf>,
    /// Connections that were opened in it, since the agent started.
    pub opened: u64,
    /// Of those, the ones that closed gates let pass.
    pub passed: u64,
}

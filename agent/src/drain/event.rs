//! What goes into a [`Machine`](super::Machine) and what comes out of it: plain data.

use serde::{Deserialize, Serialize};

use super::{Boot, Endpoint, Spec, verdict::Judgement};
use crate::kernel::{RetireOrder, Watch};

/// Something that happened to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The drain begins.
    Start,
    /// A second drain that does not contradict the first: deadline and lease begin anew.
    Join(Box<Spec>),
    /// The lease begins anew.
    Renew,
    /// Somebody ends the drain; with the reason, in words.
    Undrain(String),
    /// The point asked for by [`Action::WakeAt`] has come. One that comes too early is no harm.
    Timer,
    /// Answer to [`Action::ReadArrivals`].
    Arrivals(Arrivals),
    /// [`Action::Guard`] is done.
    Guarded {
        /// Until when clients are treated by their address.
        lease_until: Boot,
    },
    /// [`Action::Announce`] is done: the registries know, or those that do not may be left behind.
    Announced,
    /// [`Action::Announce`] failed, with the reason, and the drain is not to go on without it.
    NotAnnounced(String),
    /// [`Action::Retract`] is done.
    Retracted,
    /// [`Action::CloseGate`] is done.
    GateClosed {
        /// Until when the kernel keeps it closed.
        lease_until: Boot,
    },
    /// [`Action::RenewGate`] is done.
    GateRenewed {
        /// Until when the kernel keeps it closed.
        lease_until: Boot,
    },
    /// [`Action::RenewGate`] failed; the gate has its old lease.
    RenewFailed,
    /// [`Action::OpenGate`] is done.
    GateOpened,
    /// [`Action::Guard`], [`Action::CloseGate`] or [`Action::OpenGate`] failed, with the reason: the gate is as it
    /// was.
    GateFailed(String),
    /// Something worth a look: the tracker counts zero, a listener came or went, or somebody asks.
    Hint,
    /// The tracker saw a connection being accepted.
    Accepted {
        /// When.
        at: Boot,
    },
    /// Answer to [`Action::Verify`].
    Judged(Judgement),
    /// [`Action::Retire`] is done, whatever came of it.
    Retired,
    /// [`Action::Abort`] is done.
    Aborted,
    /// [`Action::Abort`] failed, with the reason.
    AbortFailed(String),
    /// Every listener of the drain's start is closed, and another listens on the port.
    NewInstance,
    /// Something holds the service, until then if nothing happens; `None`: nothing does (any more).
    Held(Option<Boot>),
    /// What Kubernetes does about the server, as it is now.
    Endpoint(Endpoint),
    /// The network namespace is gone, or its number belongs to another one now.
    NetnsGone,
}

impl Event {
    /// Its name, for errors.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Join(_) => "join",
            Self::Renew => "renew",
            Self::Undrain(_) => "undrain",
            Self::Timer => "timer",
            Self::Arrivals(_) => "arrivals",
            Self::Guarded { .. } => "guarded",
            Self::Announced => "announced",
            Self::NotAnnounced(_) => "not announced",
            Self::Retracted => "retracted",
            Self::GateClosed { .. } => "gate closed",
            Self::GateRenewed { .. } => "gate renewed",
            Self::RenewFailed => "renewing failed",
            Self::GateOpened => "gate opened",
            Self::GateFailed(_) => "gate failed",
            Self::Hint => "hint",
            Self::Accepted { .. } => "accepted",
            Self::Judged(_) => "judged",
            Self::Retired => "retired",
            Self::Aborted => "aborted",
            Self::AbortFailed(_) => "abort failed",
            Self::NewInstance => "new instance",
            Self::Held(_) => "held",
            Self::Endpoint(_) => "endpoint",
            Self::NetnsGone => "namespace gone",
        }
    }
}

/// When the newest connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// None ever.
    Never,
    /// At this time.
    Last(Boot),
    /// It cannot be told: taken for "just now", so that only `max-settle` ends the settling.
    Unknown,
}

/// Something to be done, in the order given. Results come back as an [`Event`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Treat clients by their address from now on, until the lease is over: [`Event::Guarded`] or
    /// [`Event::GateFailed`]. [`Action::OpenGate`] ends it.
    Guard {
        /// Until when.
        lease_until: Boot,
    },
    /// Tell the registries that the server leaves, as far as that is possible by then: [`Event::Announced`] or
    /// [`Event::NotAnnounced`].
    Announce {
        /// When to give up what is not told yet.
        until: Boot,
    },
    /// Tell them that it is back, for as long as it takes: [`Event::Retracted`].
    Retract,
    /// Refuse new connections until the lease is over: [`Event::GateClosed`] or [`Event::GateFailed`].
    CloseGate {
        /// Until when.
        lease_until: Boot,
    },
    /// Move the lease: [`Event::GateRenewed`] or [`Event::RenewFailed`].
    RenewGate {
        /// Until when.
        lease_until: Boot,
    },
    /// Let new connections in: [`Event::GateOpened`] or [`Event::GateFailed`].
    OpenGate,
    /// Clean up after a namespace that is gone, as far as that is possible. No answer.
    Forget,
    /// Have these kernel events reported from now on. No answer.
    Watch(Watch),
    /// Ask the tracker when the newest connection came: [`Event::Arrivals`].
    ReadArrivals,
    /// Look, and judge what was seen: [`Event::NewInstance`] and [`Event::NetnsGone`] where they apply, and
    /// [`Event::Judged`].
    Verify,
    /// One round: have the flows followed and told, and give a FIN to those whose turn it is. [`Event::Retired`].
    /// It may wait for the gate, and the gate never for it.
    Retire(RetireOrder),
    /// The drain is over: leave the flows alone again. No answer: if it fails, the flows are told until
    /// [`RetireOrder::until`].
    Restore,
    /// Reset all flows that remain, unless [`Machine::wants_abort`](super::Machine::wants_abort) has changed by
    /// then: [`Event::Aborted`] or [`Event::AbortFailed`].
    Abort,
    /// Send [`Event::Timer`] then; replaces the time asked for before.
    WakeAt(Boot),
    /// Connections still arrived when `max-settle` was reached: log where they came from.
    LogSources,
    /// A flow appeared in a drained service: count it, log an error.
    FlowAfterDrained,
    /// The machine went from one phase to another.
    Transition {
        /// From.
        from: Phase,
        /// To.
        to: Phase,
        /// Why, in words.
        reason: String,
    },
    /// The drain is over: tell whoever waits for it why.
    Ended(Ending),
}

/// How a drain ended that did not go on until its service was replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Why, in words.
    pub reason: String,
    /// Whether it is because the deadline passed while it had to leave the gate open.
    pub at_deadline: bool,
}

/// Where a drain stands: the five states that users see, and four in which something is done before they change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No drain, or none any more.
    Serving,
    /// The drain is about to begin: clients are yet to be treated by their address. Settling, to the outside.
    Guarding,
    /// Registries are being told that the server leaves. Settling, to the outside.
    Announcing,
    /// Draining, still accepting.
    Settling,
    /// The gate is being closed: settling, to the outside.
    Closing,
    /// The gate is closed, flows remain.
    Rejecting,
    /// The gate is closed and zero is proven.
    Drained,
    /// The gate is closed, and the deadline passed with flows remaining.
    Expired,
    /// The drain is over, but the gate is not yet known to be open: rejecting, to the outside.
    Opening,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Serving,
        Self::Guarding,
        Self::Announcing,
        Self::Settling,
        Self::Closing,
        Self::Rejecting,
        Self::Drained,
        Self::Expired,
        Self::Opening,
    ];

    /// Whether a drain is on, which is not about to be over.
    pub(super) fn is_under_way(self) -> bool {
        !matches!(self, Self::Serving | Self::Opening)
    }

    /// Whether the kernel may have been asked to renew the lease of its gate, or of its lists.
    pub(super) fn may_have_a_lease(self) -> bool {
        self.is_under_way() && self != Self::Guarding
    }

    /// Its name, for logs and errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Guarding => "guarding",
            Self::Announcing => "announcing",
            Self::Settling => "settling",
            Self::Closing => "closing",
            Self::Rejecting => "rejecting",
            Self::Drained => "drained",
            Self::Expired => "expired",
            Self::Opening => "opening",
        }
    }
}

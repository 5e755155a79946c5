//! The pure core: what a drain is, which states it goes through, and what is proof of zero. No I/O, no
//! clock and no async; everything that happens comes in as an event with its time, and everything to be
//! done goes out as an action. Of the kernel it knows plain data only ([`Look`](crate::kernel::Look),
//! [`Tracked`](crate::kernel::Tracked)).

mod admission;
mod endpoint;
mod event;
mod grace;
mod hold;
mod instance;
mod machine;
mod names;
mod new;
mod outbound;
mod retire;
mod spec;
mod time;
mod verdict;

#[cfg(test)]
mod machine_tests;

use std::fmt;

pub use admission::{Admission, AdmissionError, AdmissionRequest, Cidr, CidrError, List};
pub use endpoint::Endpoint;
pub use event::{Action, Arrivals, Ending, Event, Phase};
pub use grace::{LEAST_GRACE, timeout_within};
pub use hold::{
    HOLD_TTL, Hold, HoldError, HoldName, Holds, LONGEST_TTL, MOST_HOLDS, SHORTEST_TTL, check_ttl,
};
pub use instance::{is_new_instance, listeners};
pub use machine::{BACKUP, IllegalEvent, Machine, RETIRE_STEP, SOON, Standing};
pub use names::{SettledBy, StateName};
pub use new::{Forward, ForwardError, Handoff, MAX_TARGETS, NewConnections, NoPeer, Peer};
pub use outbound::{MOST_OUTBOUND, OutboundError};
pub use retire::{
    AtDeadline, IDLE_AFTER, LINGER, Leaving, Retire, RetireError, RetireKind, RetireReport,
    RetireRequest, RetireSet, Retirement, Round, Untellable, remaining,
};
pub use spec::{LEASE_MARGIN, LONGEST, LONGEST_LEASE, Spec, SpecError, SpecRequest};
pub use time::Boot;
pub use verdict::{
    Counts, Exempt, Judgement, Lingerers, Opinion, Verdict, compare, full_map, judge,
};

/// A service: one TCP port in one network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// TCP port, 1 to 65535.
    pub port: u16,
}

/// `4026531840:8080`, the service's id in the HTTP interface.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.netns, self.port)
    }
}

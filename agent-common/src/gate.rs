//! Maps of the gate, the `sk_lookup` program that refuses new connections of a draining service.
//!
//! The program cannot learn the network namespace it runs in (`sk_lookup` has no such helper), so
//! each loaded instance carries a slot number in read-only data, and rules are keyed by slot.

/// Key of the `RULES` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuleKey {
    /// The gate instance, as in its `GATE_SLOT` global.
    pub slot: u32,
    /// Local TCP port in host byte order.
    pub port: u16,
    /// Always zero.
    pub zero: u16,
}

impl RuleKey {
    /// The key of `port` behind gate instance `slot`.
    #[inline(always)]
    pub const fn new(slot: u32, port: u16) -> Self {
        Self { slot, port, zero: 0 }
    }
}

/// Value of the `RULES` map: what the gate does with connection attempts to the port. No rule: nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Boot time (`CLOCK_BOOTTIME`, nanoseconds) at which the gate lets connections in again even
    /// if nobody removes the rule.
    pub lease_until_ns: u64,
    /// A client that had a flow so many nanoseconds ago, or later, passes a closed gate; 0: none does.
    pub keep_clients_ns: u64,
    /// Inode number of the network namespace, which the program cannot learn.
    pub netns: u32,
    /// [`Rule::CLOSED`], [`Rule::LISTS`].
    pub flags: u32,
    /// How many listening sockets of the `TARGETS` map, from index 0 on, take the connections that a closed
    /// gate does not let pass; 0: they are refused.
    pub targets: u32,
    /// Where in the array `GATE_COUNTS` the [`Counts`] of the rule are: no two rules have the same.
    pub counts: u32,
    /// The tick (`jiffies_64`) in which the gate last found that the lease is not over; the agent writes 0, or what it
    /// has read. A tick is read by one instruction, and a clock by many, so the gate looks at it once a tick: a lease may last
    /// one longer, which is 10 ms at most.
    pub lease_seen: u64,
}

impl Rule {
    /// The gate is closed. Else it only refuses clients that a list says are to be refused.
    pub const CLOSED: u32 = 1;
    /// Some clients are treated by their address: see the `PEERS` map.
    pub const LISTS: u32 = 2;
    /// Nobody but the targets serves the port any more: a closed gate gives them every connection.
    pub const TAKEN_OVER: u32 = 4;

    /// Whether no new connection reaches the service's own listeners any more: each is given to a target, or refused.
    /// Lists and kept clients let some pass.
    pub const fn gives_all_away(&self) -> bool {
        let to_all = self.flags & Self::LISTS == 0 && self.keep_clients_ns == 0;
        let is_closed = self.flags & Self::CLOSED != 0 && self.targets > 0;
        is_closed && (to_all || self.flags & Self::TAKEN_OVER != 0)
    }
}

/// What the gate did with connection attempts under a rule; value of the `GATE_COUNTS` array, which the kernel reads
/// without hashing. Counted in the kernel by atomic adds. Lookups, not clients: a SYN that is sent again counts again.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Refused because the gate is closed.
    pub rejected: u64,
    /// Given to one of the targets.
    pub steered: u64,
    /// Let in by [`IGNORE`](crate::peers::verdict::IGNORE).
    pub ignored: u64,
    /// Let in by [`ALLOW`](crate::peers::verdict::ALLOW).
    pub allowed: u64,
    /// Refused by [`REFUSE`](crate::peers::verdict::REFUSE).
    pub refused: u64,
    /// Let in by a closed gate because the client had a flow lately.
    pub kept: u64,
}

/// How many rules there can be, each with its counters.
pub const MAX_RULES: u32 = 16_384;

/// Key of the `TARGETS` map: the listening sockets that take the connections of a closed port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SteerKey {
    /// The gate instance, as in [`RuleKey::slot`].
    pub slot: u32,
    /// Local TCP port that clients connect to, in host byte order; the socket may listen on another.
    pub port: u16,
    /// From 0; see [`Rule::targets`].
    pub index: u16,
}

impl SteerKey {
    /// The key of target `index` of the rule with this key.
    #[inline(always)]
    pub const fn new(rule: RuleKey, index: u16) -> Self {
        Self { slot: rule.slot, port: rule.port, index }
    }
}

const _: () = assert!(size_of::<RuleKey>() == 8 && size_of::<Rule>() == 40);
const _: () = assert!(size_of::<SteerKey>() == 8 && size_of::<Counts>() == 48);

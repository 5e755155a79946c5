//! Maps of the gate, the `sk_lookup` program that refuses new connections of a draining service.
//!
//! The program cannot learn the network namespace it runs in (`sk_lookup` has no such helper), so
//! each loaded instance carries a slot number in read-only data, and rules are keyed by slot.

/// Key of the `RULES` and `REJECTED` maps.
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

/// Value of the `RULES` map; its presence closes the gate for the port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Boot time (`CLOCK_BOOTTIME`, nanoseconds) at which the gate lets connections in again even
    /// if nobody removes the rule.
    pub lease_until_ns: u64,
}

const _: () = assert!(size_of::<RuleKey>() == 8 && size_of::<Rule>() == 8);

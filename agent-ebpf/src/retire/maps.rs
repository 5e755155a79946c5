//! The maps.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{HashMap, SockHash},
};
use drainctl_common::{
    ServiceKey,
    retire::{Followed, Rule},
    track::Flow,
};

/// The tracker's map of flows that are in no slot, which only the tracker changes.
#[map]
pub(crate) static FLOWS: HashMap<u64, Flow> = HashMap::with_max_entries(262_144, 0);

/// Services whose flows are told, written by the agent. Not preallocated: a rule that is replaced is then left to those
/// who read it.
#[map]
pub(crate) static RETIRING: HashMap<ServiceKey, Rule> =
    HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// Flows that are followed, by socket cookie; the agent removes those that have ended. Sized by the agent
/// (`--max-flows`).
#[map]
pub(crate) static FOLLOWED: HashMap<u64, Followed> =
    HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// Their sockets, by cookie: what they send goes through `tell`. Sized like `FOLLOWED`.
#[map]
pub(crate) static SOCKETS: SockHash<u64> = SockHash::with_max_entries(262_144, 0);

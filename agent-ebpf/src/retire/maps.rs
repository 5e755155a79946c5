//! The maps.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{HashMap, SockHash},
};
use drainctl_common::{
    ServiceKey,
    retire::{Followed, Rule},
};

/// Services whose flows are told, written by the agent.
#[map]
pub(crate) static RETIRING: HashMap<ServiceKey, Rule> = HashMap::with_max_entries(16_384, 0);

/// Flows that are followed, by socket cookie; the agent removes those that have ended. Sized by the agent
/// (`--max-flows`).
#[map]
pub(crate) static FOLLOWED: HashMap<u64, Followed> =
    HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// Their sockets, by cookie: what they send goes through `tell`. Sized like `FOLLOWED`.
#[map]
pub(crate) static SOCKETS: SockHash<u64> = SockHash::with_max_entries(262_144, 0);

//! What the kubelet has opened: maps that the tracker and all gates share (the agent pins them by name).

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap},
};
use drainctl_common::probe::{ProbeKey, count::COUNT};

use crate::counter;

/// Connections of the kubelet that are open, or being opened, with the boot time at which that began. A kubelet
/// has a few at a time; should there ever be too many, the oldest are forgotten, and count.
#[map]
pub(crate) static PROBES: LruHashMap<ProbeKey, u64> = LruHashMap::with_max_entries(4096, 0);

/// Counters of `drainctl_common::probe::count`.
#[map]
static PROBE_COUNTS: Array<u64> = Array::with_max_entries(COUNT, 0);

/// Whether the kubelet opened this connection.
#[inline(always)]
pub(crate) fn is_probe(key: &ProbeKey) -> bool {
    PROBES.get_ptr(key).is_some()
}

/// Adds one to a counter of `count`.
#[inline(always)]
pub(crate) fn count(index: u32) {
    if let Some(counter) = PROBE_COUNTS.get_ptr_mut(index) {
        counter::add(counter, 1);
    }
}

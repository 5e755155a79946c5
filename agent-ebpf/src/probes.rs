//! What the kubelet has opened: maps that the tracker and all gates share (the agent pins them by name).

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap},
};
use drainctl_common::probe::{PORTS, ProbeKey, count::COUNT, port_index};

use crate::counter;

/// Connections of the kubelet that are open, or being opened, with the boot time at which that began. A kubelet
/// has a few at a time; should there ever be too many, the oldest are forgotten, and count.
#[map]
pub(crate) static PROBES: LruHashMap<ProbeKey, u64> = LruHashMap::with_max_entries(4096, 0);

/// How many entries of `PROBES` have a client's port of the same [`port_index`]. Only the probe program changes it,
/// with the entries, and it is never too small: most connections need no lookup of 40 bytes to be told from probes.
/// It may be too large, since of entries that make room, or are removed by the agent, nobody subtracts.
#[map]
pub(crate) static PROBE_PORTS: Array<u64> = Array::with_max_entries(PORTS, 0);

/// How many entries of `PROBES` are checks of the agent's own, which alone writes both: before the first one is there, and
/// after the last one is gone.
#[map]
static CHECKS: Array<u64> = Array::with_max_entries(1, 0);

/// Counters of `drainctl_common::probe::count`.
#[map]
static PROBE_COUNTS: Array<u64> = Array::with_max_entries(COUNT, 0);

/// Whether the kubelet may have opened a connection from this port, host byte order, or the agent a check.
#[inline(always)]
pub(crate) fn may_be_from(client_port: u16) -> bool {
    is_any(PROBE_PORTS.get_ptr(port_index(client_port))) || is_any(CHECKS.get_ptr(0))
}

#[inline(always)]
fn is_any(number: Option<*const u64>) -> bool {
    // SAFETY: the pointer is to a live map value; eight bytes are read at once.
    number.is_some_and(|number| unsafe { number.read_volatile() } != 0)
}

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

//! What a new flow means to the drain of its service.

use aya_ebpf::programs::SockOpsContext;
use drainctl_common::{
    ServiceKey, class,
    peers::verdict,
    track::{ServiceCounts, watch},
};

use crate::{clients, marks, peers, probe};

/// The [`class`] of a connection that is being accepted. Without a drain all of them count: the drain's first
/// look sorts them.
#[inline(always)]
pub(crate) fn of(ctx: &SockOpsContext, service: &ServiceKey, counts: *mut ServiceCounts) -> u16 {
    if is_steered(ctx, counts) {
        return class::STEERED;
    }
    // Services that do not drain, and drains without lists, must not pay for a lookup.
    // SAFETY: `counts` points to a live map value.
    let watch = unsafe { (&raw const (*counts).watch).read_volatile() };
    if watch & watch::CLASSES != 0 && probe::is_probe(ctx, service.netns) {
        return class::PROBE;
    }
    if watch & watch::LISTS != 0 && peers::verdict(clients::client(ctx, service)) == verdict::IGNORE
    {
        return class::IGNORED;
    }
    class::COUNTED
}

/// Whether another listener than those of the service has accepted it.
#[inline(always)]
fn is_steered(ctx: &SockOpsContext, counts: *mut ServiceCounts) -> bool {
    // SAFETY: `counts` points to a live map value.
    let steer = unsafe { (&raw const (*counts).steer).read_volatile() };
    steer != 0 && marks::of(ctx) == Some(steer)
}

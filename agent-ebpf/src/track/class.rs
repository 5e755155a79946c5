//! What a new flow means to the drain of its service.

use aya_ebpf::programs::SockOpsContext;
use drainctl_common::{
    ServiceKey, class,
    peers::verdict,
    track::{ServiceCounts, watch},
};

use crate::{clients, peers};

/// The [`class`] of a connection that is being accepted.
#[inline(always)]
pub(crate) fn of(ctx: &SockOpsContext, service: &ServiceKey, counts: *mut ServiceCounts) -> u16 {
    // Services that do not drain, and drains without lists, must not pay for a lookup.
    // SAFETY: `counts` points to a live map value.
    if unsafe { (&raw const (*counts).watch).read_volatile() } & watch::LISTS != 0
        && peers::verdict(clients::client(ctx, service)) == verdict::IGNORE
    {
        return class::IGNORED;
    }
    class::COUNTED
}

//! What a new flow means to the drain of its service.

use aya_ebpf::programs::SockOpsContext;
use drainctl_common::{ServiceKey, class, track::ServiceCounts};

use crate::marks;

/// The [`class`] of a connection that is being accepted.
#[inline(always)]
pub(crate) fn of(ctx: &SockOpsContext, _service: &ServiceKey, counts: *mut ServiceCounts) -> u16 {
    if is_steered(ctx, counts) { class::STEERED } else { class::COUNTED }
}

/// Whether another listener than those of the service has accepted it.
#[inline(always)]
fn is_steered(ctx: &SockOpsContext, counts: *mut ServiceCounts) -> bool {
    // SAFETY: `counts` points to a live map value.
    let steer = unsafe { (&raw const (*counts).steer).read_volatile() };
    steer != 0 && marks::of(ctx) == Some(steer)
}

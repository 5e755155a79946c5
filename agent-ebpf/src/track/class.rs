//! What a new flow means to the drain of its service.

use aya_ebpf::programs::SockOpsContext;
use drainctl_common::{ServiceKey, class, track::ServiceCounts};

/// The [`class`] of a connection that is being accepted.
#[inline(always)]
pub(crate) fn of(_ctx: &SockOpsContext, _service: &ServiceKey, _counts: *mut ServiceCounts) -> u16 {
    class::COUNTED
}

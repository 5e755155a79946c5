//! Changing a service's counters from user space.

use aya_ebpf::{macros::classifier, programs::TcContext};
use drainctl_common::track::Repair;

use crate::flows;

/// Carries out one [`Repair`], which the agent passes as the packet of `BPF_PROG_TEST_RUN`; never attached
/// to anything. A program rather than a write from user space, because counters may change meanwhile:
/// only an atomic add in the kernel keeps them right. Returns 1 if the named flow was removed or moved.
#[classifier]
fn repair(ctx: TcContext) -> i32 {
    carry_out::<true>(&ctx)
}

/// The same without slots: see [`placed`](crate::placed).
#[classifier]
fn repair_old(ctx: TcContext) -> i32 {
    carry_out::<false>(&ctx)
}

#[inline(always)]
fn carry_out<const SLOTS: bool>(ctx: &TcContext) -> i32 {
    let Ok(order) = ctx.load::<Repair>(0) else { return -1 };
    let changed = match (order.cookie, order.remove) {
        (0, _) => false,
        (cookie, 0) => flows::move_to::<SLOTS>(cookie, order.service.class),
        (cookie, _) => flows::uncount::<SLOTS>(cookie).is_some(),
    };
    if let Some(counts) = flows::counts(&order.service) {
        // SAFETY: `counts` points to a live map value.
        unsafe {
            if order.flows != 0 {
                flows::add(&raw mut (*counts).flows, order.flows);
            }
            if order.watch != Repair::KEEP {
                (&raw mut (*counts).watch).write_volatile(order.watch);
            }
            if order.steer != Repair::KEEP {
                (&raw mut (*counts).steer).write_volatile(order.steer);
            }
        }
    }
    i32::from(changed)
}

//! Flows in slots. Compare-and-exchange came with Linux 5.12, and older kernels refuse programs that have it: theirs keep
//! all flows in the hash map.

use drainctl_common::track::{Flow, Slot};

use crate::{flows::Counted, slots};

/// Puts a flow into its slot, unless another flow is there (`None`).
#[inline(always)]
pub(crate) fn put(cookie: u64, flow: &Flow) -> Option<Counted> {
    let slot = slots::of(cookie)?;
    let owner = Slot::owner(cookie, flow.service.class);
    // SAFETY: `slot` points to a live map value.
    let place = unsafe { &raw mut (*slot).owner };
    match exchange(place, 0, owner | Slot::BUSY) {
        0 => {
            // SAFETY: while it is busy, it is ours alone.
            unsafe { (*slot).flow = Flow { service: flow.service.of_class(0), ..*flow } };
            exchange(place, owner | Slot::BUSY, owner);
            Some(Counted::New)
        }
        was if Slot::class(was, cookie).is_some() => Some(Counted::Known),
        _ => None,
    }
}

/// A flow that is in its slot.
#[inline(always)]
pub(crate) fn get(cookie: u64) -> Option<Flow> {
    let (class, slot) = (slots::class(cookie)?, slots::of(cookie)?);
    // SAFETY: `slot` points to a live map value. If the flow ends meanwhile, the copy is nonsense, but the caller cannot
    // change its owner, and drops it.
    let flow = unsafe { (*slot).flow };
    Some(Flow { service: flow.service.of_class(class), ..flow })
}

/// Takes a flow out of its slot, and returns it; `None` if it is not there, or somebody else was faster.
#[inline(always)]
pub(crate) fn take(cookie: u64) -> Option<Flow> {
    // The agent may move it to another class between the two; it moves one flow at a time.
    let take = || get(cookie).filter(|flow| set(cookie, flow.service.class, 0));
    take().or_else(take)
}

/// Puts a flow that is in its slot into another class; false if it is not there, or is not of that class any more.
#[inline(always)]
pub(crate) fn reclass(cookie: u64, from: u16, to: u16) -> bool {
    set(cookie, from, Slot::owner(cookie, to))
}

/// Replaces the owner of the slot, if that is the flow with this cookie, of this class.
#[inline(always)]
fn set(cookie: u64, class: u16, new: u64) -> bool {
    slots::of(cookie).is_some_and(|slot| {
        let owner = Slot::owner(cookie, class);
        // SAFETY: `slot` points to a live map value.
        exchange(unsafe { &raw mut (*slot).owner }, owner, new) == owner
    })
}

/// Puts `new` in the place of `old` if that is there, with a full barrier; returns what was there. Before Linux 5.12, no program
/// that has it can be loaded.
#[inline(always)]
fn exchange(place: *mut u64, old: u64, new: u64) -> u64 {
    // SAFETY: callers pass a pointer into a map value, aligned to eight bytes, which the verifier checked.
    unsafe {
        #[cfg(target_arch = "bpf")]
        {
            use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg};
            atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(place, old, new).0
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            if *place == old { core::mem::replace(&mut *place, new) } else { *place }
        }
    }
}

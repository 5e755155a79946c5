//! The array that most flows are in, for all programs that read it.

use aya_ebpf::{Global, bindings::BPF_F_MMAPABLE, macros::map, maps::Array};
use drainctl_common::track::Slot;

/// See [`Slot`]. Sized by the agent: a power of two, and no more than `--max-flows`.
#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(Slot::MOST, BPF_F_MMAPABLE);

/// How many there are, less one.
#[unsafe(no_mangle)]
static SLOT_MASK: Global<u32> = Global::new(0);

/// Where the flow with this cookie is, if nobody else is there.
#[inline(always)]
pub(crate) fn of(cookie: u64) -> Option<*mut Slot> {
    SLOTS.get_ptr_mut(cookie as u32 & SLOT_MASK.load())
}

/// The class of the flow with this cookie, if it is in its slot.
#[inline(always)]
pub(crate) fn class(cookie: u64) -> Option<u16> {
    let slot = of(cookie)?;
    // SAFETY: `slot` points to a live map value; eight bytes are read at once.
    Slot::class(unsafe { (&raw const (*slot).owner).read_volatile() }, cookie)
}

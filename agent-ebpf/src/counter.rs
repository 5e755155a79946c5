//! Counters that two CPUs may change at once.

/// Adds to a counter in a map value. `lock *(u64 *) +=` is the one atomic instruction that every BPF
/// kernel has; LLVM makes it only of this intrinsic, since `AtomicU64` does not exist on the target.
#[inline(always)]
pub(crate) fn add(counter: *mut u64, delta: u64) {
    // SAFETY: callers pass a pointer into a map value, aligned to eight bytes, which the verifier checked.
    unsafe {
        #[cfg(target_arch = "bpf")]
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::Relaxed }>(
            counter, delta,
        );
        #[cfg(not(target_arch = "bpf"))]
        {
            *counter = (*counter).wrapping_add(delta);
        }
    }
}

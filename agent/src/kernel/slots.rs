//! The array that most flows are in, in memory that we share with the kernel.

use std::{
    io,
    os::fd::AsFd as _,
    ptr::{NonNull, null_mut},
    sync::atomic::{AtomicU64, Ordering, fence},
};

use aya::maps::{Map, MapData, MapError};
use drainctl_common::track::{Flow, Slot};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Its name.
pub(super) const SLOTS: &str = "SLOTS";

/// The slots, for reading.
pub(super) struct Slots {
    first: NonNull<Slot>,
    /// A power of two.
    count: usize,
    /// Tools find out who uses a map by descriptors, not by memory.
    _map: MapData,
}

// SAFETY: the memory belongs to the process, and may be read by any of its threads.
unsafe impl Send for Slots {}

impl Slots {
    /// Maps the array (`BPF_F_MMAPABLE`, Linux 5.5).
    pub(super) fn new(map: Map) -> Result<Self, MapError> {
        let Map::Array(data) = map else {
            return Err(MapError::InvalidName { name: SLOTS.into() });
        };
        let count = data.info()?.max_entries() as usize;
        let length = count * size_of::<Slot>();
        // SAFETY: new memory, wherever the kernel has room for it.
        let memory = unsafe {
            mmap(null_mut(), length, ProtFlags::READ, MapFlags::SHARED, data.fd().as_fd(), 0)
        };
        let memory = memory.map_err(|error| MapError::IoError(error.into()))?;
        let first = NonNull::new(memory.cast());
        let first = first.ok_or_else(|| MapError::IoError(io::ErrorKind::OutOfMemory.into()))?;
        Ok(Self { first, count, _map: data })
    }

    /// The flow with this cookie, if it is in its slot.
    pub(super) fn get(&self, cookie: u64) -> Option<Flow> {
        let (owner, flow) = self.read(cookie as usize & (self.count - 1))?;
        (owner == cookie).then_some(flow)
    }

    /// Calls `each` for every flow that is in a slot. Those that come or go meanwhile may be left out.
    pub(super) fn for_each(&self, mut each: impl FnMut(u64, Flow)) {
        (0..self.count)
            .filter_map(|index| self.read(index))
            .for_each(|(cookie, flow)| each(cookie, flow));
    }

    /// What is in a slot, unless it changes meanwhile.
    fn read(&self, index: usize) -> Option<(u64, Flow)> {
        // SAFETY: there are `count` slots, which callers keep to, and any bytes are a valid one. The kernel changes them
        // meanwhile: what is read belongs together if the owner is the same before and after.
        unsafe {
            let place = self.first.add(index).as_ptr();
            let owner = AtomicU64::from_ptr(&raw mut (*place).owner);
            let before = owner.load(Ordering::Acquire);
            let flow = (&raw const (*place).flow).read_volatile();
            fence(Ordering::Acquire);
            let slot = Slot { owner: owner.load(Ordering::Relaxed), flow };
            slot.get().filter(|_| slot.owner == before)
        }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: the memory is ours, and nobody else has a pointer to it. It can only fail for memory that is not.
        let _ = unsafe { munmap(self.first.as_ptr().cast(), self.count * size_of::<Slot>()) };
    }
}

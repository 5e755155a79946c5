//! Walking whole maps: many entries a system call where the kernel can (Linux 5.6), else one by one.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
};

use super::KernelError;

/// `BPF_MAP_LOOKUP_BATCH` in enum bpf_cmd.
const LOOKUP_BATCH: libc::c_int = 24;
/// `ENOTSUPP`, which the kernel has for itself.
const ENOTSUPP: i32 = 524;
/// Entries that are asked for at once, to begin with. A bucket that holds more doubles it.
const AT_ONCE: usize = 1024;

/// A hash map that is walked as a whole, too.
pub(super) struct Walkable<K: Pod, V: Pod> {
    pub(super) map: HashMap<MapData, K, V>,
    fd: OwnedFd,
}

/// `union bpf_attr`, the member `batch`.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

const _: () = assert!(size_of::<Batch>() == 56);

impl<K: Pod, V: Pod> Walkable<K, V> {
    /// The same map, with a descriptor of it.
    pub(super) fn new(map: Map) -> Result<Self, MapError> {
        let Map::HashMap(data) = &map else {
            return Err(MapError::InvalidMapType { map_type: 0 });
        };
        let fd = data.fd().as_fd().try_clone_to_owned();
        let fd = fd.map_err(MapError::IoError)?;
        Ok(Self { map: HashMap::try_from(map)?, fd })
    }

    /// Calls `each` for every entry. Those that come or go meanwhile may be left out; where the kernel cannot read
    /// many at a time, some may come twice.
    pub(super) fn for_each(
        &self,
        name: &'static str,
        mut each: impl FnMut(K, V),
    ) -> Result<(), KernelError> {
        let (mut position, mut room) = (None, AT_ONCE);
        let mut entries = Entries::new(room);
        loop {
            match self.batch(&mut position, &mut entries) {
                Ok(()) => entries.hand_over(&mut each),
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                    entries.hand_over(&mut each); // These were the last.
                    return Ok(());
                }
                Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => {
                    room *= 2;
                    entries = Entries::new(room);
                }
                Err(e) if position.is_none() && is_unknown(&e) => {
                    return self.one_by_one(name, each);
                }
                Err(e) => return Err(KernelError::op("walk map", name, e)),
            }
        }
    }

    /// Reads the entries behind `position`, and moves it.
    fn batch(&self, position: &mut Option<u32>, entries: &mut Entries<K, V>) -> io::Result<()> {
        let (before, mut after) = (position.unwrap_or(0), 0_u32);
        let mut batch = Batch {
            in_batch: position.map_or(0, |_| &raw const before as u64),
            out_batch: &raw mut after as u64,
            keys: entries.keys.as_mut_ptr() as u64,
            values: entries.values.as_mut_ptr() as u64,
            count: entries.keys.capacity().min(entries.values.capacity()) as u32,
            map_fd: self.fd.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attribute is a live `repr(C)` struct with the layout of the command's union member. The
        // kernel writes at most `count` keys and values, for which there is room, and one u32 to `out_batch`.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut batch, size_of::<Batch>())
        };
        let outcome = if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        let is_last = |e: &io::Error| e.raw_os_error() == Some(libc::ENOENT);
        if outcome.is_ok() || outcome.as_ref().is_err_and(is_last) {
            // SAFETY: the kernel has written so many of each, and any bytes are a valid K or V (`Pod`).
            unsafe {
                entries.keys.set_len(batch.count as usize);
                entries.values.set_len(batch.count as usize);
            }
            *position = Some(after);
        }
        outcome
    }

    fn one_by_one(
        &self,
        name: &'static str,
        mut each: impl FnMut(K, V),
    ) -> Result<(), KernelError> {
        for entry in self.map.iter() {
            match entry {
                Ok((key, value)) => each(key, value),
                Err(MapError::KeyNotFound) => {} // It was removed while we walked.
                Err(e) => return Err(KernelError::op("walk map", name, e)),
            }
        }
        Ok(())
    }
}

/// Room for entries.
struct Entries<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K, V> Entries<K, V> {
    fn new(room: usize) -> Self {
        Self { keys: Vec::with_capacity(room), values: Vec::with_capacity(room) }
    }

    fn hand_over(&mut self, each: &mut impl FnMut(K, V)) {
        self.keys.drain(..).zip(self.values.drain(..)).for_each(|(key, value)| each(key, value));
    }
}

/// Whether the kernel does not know the command, or not for such maps.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | ENOTSUPP))
}

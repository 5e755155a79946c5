//! Loads the program that marks the connections which carry stragglers, for as long as some drain forwards.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak},
};

use aya::{
    EbpfLoader,
    maps::{HashMap, MapData},
    programs::{CgroupAttachMode, SockOps},
};

use super::{
    KernelError,
    linux::lock,
    loaded::{map, program},
    objects::HOP,
};

/// Where the program is, if it is needed.
pub(super) struct Hops {
    cgroup: PathBuf,
    loaded: Mutex<Weak<Hop>>,
}

/// The program at work. It is detached when nobody wants to mark any more: every connection of the node would
/// pay for it.
pub(super) struct Hop {
    tokens: Mutex<HashMap<MapData, u64, u64>>,
    /// Detaches when it is dropped.
    _ebpf: aya::Ebpf,
}

/// One socket whose SYNs are marked, until this is dropped.
pub(super) struct Mark {
    hop: Arc<Hop>,
    cookie: u64,
}

impl Hops {
    /// Will mark connections of this cgroup and all below.
    pub(super) fn new(cgroup: PathBuf) -> Self {
        Self { cgroup, loaded: Mutex::default() }
    }

    /// The program, attached for as long as somebody keeps what this returns.
    ///
    /// # Errors
    /// The kernel cannot write TCP options (Linux 5.10), or the program cannot be attached.
    pub(super) fn load(&self) -> Result<Arc<Hop>, KernelError> {
        let mut loaded = lock(&self.loaded);
        if let Some(hop) = loaded.upgrade() {
            return Ok(hop);
        }
        let hop = Arc::new(Hop::load(&self.cgroup)?);
        *loaded = Arc::downgrade(&hop);
        Ok(hop)
    }
}

impl Hop {
    fn load(cgroup: &Path) -> Result<Self, KernelError> {
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .load(HOP.bytes()?)
            .map_err(|e| KernelError::op("load", "the hop mark (Linux 5.10)", e))?;
        let tokens = map(&mut ebpf, "HOPS", HashMap::try_from)?;
        let dir = File::open(cgroup).map_err(|e| KernelError::op("open", cgroup.display(), e))?;
        let hop: &mut SockOps = program(&mut ebpf, "hop")?;
        hop.load().map_err(|e| KernelError::op("load program", "hop (Linux 5.10)", e))?;
        // Single is what a bpf_link wants; programs of others stay attached beside it.
        hop.attach(dir, CgroupAttachMode::Single)
            .map_err(|e| KernelError::op("attach the hop mark to cgroup", cgroup.display(), e))?;
        Ok(Self { tokens: Mutex::new(tokens), _ebpf: ebpf })
    }

    /// Has the SYNs of the socket with this cookie marked from now on.
    pub(super) fn mark(self: &Arc<Self>, cookie: u64, token: u64) -> Result<Mark, KernelError> {
        lock(&self.tokens)
            .insert(cookie, token, 0)
            .map_err(|e| KernelError::op("write map", "HOPS", e))?;
        Ok(Mark { hop: Arc::clone(self), cookie })
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // A cookie is never used again, so an entry that stays does no harm but take up room.
        let _ = lock(&self.hop.tokens).remove(&self.cookie);
    }
}

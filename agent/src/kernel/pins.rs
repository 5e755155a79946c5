//! Where maps are pinned that several objects share.

use std::{
    ffi::CStr,
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
    sync::Arc,
};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::KernelError;

/// A bpffs of our own that is mounted nowhere; it vanishes with the agent.
#[derive(Clone)]
pub(super) struct Pins(Arc<OwnedFd>);

impl Pins {
    /// Makes it.
    pub(super) fn new() -> Result<Self, KernelError> {
        const BPF: &CStr = c"bpf";
        let fail = |e| KernelError::op("mount", "a private bpffs", e);
        let fs = fsopen(BPF, FsOpenFlags::FSOPEN_CLOEXEC).map_err(fail)?;
        fsconfig_create(&fs).map_err(fail)?;
        let mount = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
        mount.map(|mount| Self(Arc::new(mount))).map_err(fail)
    }

    /// Where the object called `name` is pinned.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }
}

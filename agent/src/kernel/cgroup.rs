//! Finding cgroup v2.

use std::path::PathBuf;

use super::KernelError;

/// Where cgroup v2 is mounted: its root is what sees every socket of the node.
pub(super) fn root() -> Result<PathBuf, KernelError> {
    let mounts = procfs::mounts().map_err(|e| KernelError::op("read", "/proc/mounts", e))?;
    let found = mounts.into_iter().find(|m| m.fs_vfstype == "cgroup2").map(|m| m.fs_file.into());
    found.ok_or_else(|| {
        KernelError::op(
            "find",
            "cgroup v2",
            "it is mounted nowhere; mount it, or name it with --cgroup",
        )
    })
}

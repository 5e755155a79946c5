//! Cgroups of version 2.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::statfs;

use super::KernelError;

/// `CGROUP2_SUPER_MAGIC` (`include/uapi/linux/magic.h`).
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Where they are mounted: the root is what sees every socket of the node.
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

/// The inode number of a cgroup that is not the root at `root`.
pub(super) fn inode(folder: &Path, root: &Path) -> io::Result<u64> {
    let inode = fs::metadata(folder)?.ino();
    if statfs(folder)?.f_type as u64 != CGROUP2_MAGIC {
        return Err(io::Error::other("it is no cgroup of version 2"));
    }
    if fs::metadata(root)?.ino() == inode {
        return Err(io::Error::other("it is the root, which every process belongs to"));
    }
    Ok(inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cgroup_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let root = Path::new("/");
        assert!(inode(dir.path(), root).unwrap_err().to_string().contains("no cgroup"));
        let missing = inode(&dir.path().join("missing"), root).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}

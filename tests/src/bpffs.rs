//! A bpffs of its own for each agent, so that several keep their kernel objects side by side.

use std::{
    ffi::CStr,
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// A bpffs that is mounted nowhere: it vanishes with everything in it when this is dropped, or with this process.
/// Other processes reach it through ours.
#[derive(Debug)]
pub struct Bpffs(OwnedFd);

impl Bpffs {
    /// Makes it.
    pub fn mount() -> Result<Self> {
        const BPF: &CStr = c"bpf";
        let fs = fsopen(BPF, FsOpenFlags::FSOPEN_CLOEXEC).context("open a bpffs")?;
        fsconfig_create(&fs).context("make a bpffs")?;
        let mount = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
        mount.map(Self).context("mount a bpffs")
    }

    /// A pin directory in it.
    pub fn pin_dir(&self) -> PathBuf {
        self.root().join("pins")
    }

    /// Everything that is pinned in it, folders included; what the kernel itself shows there is left out.
    pub fn contents(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        walk(&self.root(), &mut found)?;
        found.retain(|path| path.extension().is_none_or(|extension| extension != "debug"));
        Ok(found)
    }

    fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd()))
    }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), found)?;
        }
        found.push(entry.path());
    }
    Ok(())
}

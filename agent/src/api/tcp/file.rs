//! Files that may be replaced while the agent runs, as Kubernetes does with those of a secret.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, time::SystemTime};

/// Tells the contents of a file from those before, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    length: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    /// None if there is no such file.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self { inode: meta.ino(), length: meta.len(), modified: meta.modified().ok() })
    }
}

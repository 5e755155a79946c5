//! `cargo xtask build`: the kernel programs, then the two binaries with these programs inside.

mod cross;
pub(crate) mod ebpf;
pub(crate) mod elf;
mod host;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{setup, shell::Shell, workspace::Workspace};

/// Options of `cargo xtask build`.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// Build the binaries unoptimized and with symbols; the kernel programs stay optimized.
    #[arg(long)]
    pub(crate) debug: bool,
}

/// Builds everything; returns the folder with the binaries.
///
/// # Errors
/// A compiler failed, or no toolchain for the kernel programs was found.
pub(crate) fn run(shell: &Shell, workspace: &Workspace, options: &Options) -> Result<PathBuf> {
    let toolchain = setup::toolchain(workspace)?;
    let objects = ebpf::build(shell, workspace, &toolchain)?;
    host::build(shell, workspace, &objects, options.debug)
}

/// A processor that images are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Processor {
    /// As container images name it.
    pub(crate) name: &'static str,
    /// As Rust names it with a libc that can be linked statically.
    target: &'static str,
    /// The C compiler that makes programs for it where it is another one than this machine's.
    cross: &'static str,
    /// As ELF files have it.
    machine: u16,
}

/// x86-64
pub(crate) const AMD64: Processor = Processor {
    name: "amd64",
    target: "x86_64-unknown-linux-gnu",
    cross: "x86_64-linux-gnu-gcc",
    machine: 62,
};

/// AArch64
pub(crate) const ARM64: Processor = Processor {
    name: "arm64",
    target: "aarch64-unknown-linux-gnu",
    cross: "aarch64-linux-gnu-gcc",
    machine: 183,
};

/// This machine's.
pub(crate) const HOST: Processor = if cfg!(target_arch = "aarch64") { ARM64 } else { AMD64 };

/// Builds everything for another processor than this machine's, or for this one; the kernel programs are the same for
/// all. Returns the folder with the binaries.
///
/// # Errors
/// As [`run`]; or there is no toolchain for that processor.
pub(crate) fn run_for(
    shell: &Shell,
    workspace: &Workspace,
    options: &Options,
    processor: Processor,
) -> Result<PathBuf> {
    if processor == HOST {
        return run(shell, workspace, options);
    }
    let toolchain = setup::toolchain(workspace)?;
    let objects = ebpf::build(shell, workspace, &toolchain)?;
    host::build_for(shell, workspace, &objects, options.debug, processor)
}

/// Puts a copy of `from` at `to` unless it is there already, so that time stamps change only with the
/// content. The copy replaces a file in one step: a running program keeps the old one.
fn publish(from: &Path, to: &Path) -> Result<()> {
    let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let place = || format!("write {}", to.display());
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(place)?;
    }
    let fresh = to.with_extension("new");
    fs::copy(from, &fresh).with_context(place)?;
    fs::rename(&fresh, to).with_context(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_did_not_change_is_left_alone() {
        let folder = std::env::temp_dir().join(format!("xtask-publish-{}", std::process::id()));
        let (from, to) = (folder.join("from"), folder.join("sub/to"));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(&from, "one").expect("a file");
        publish(&from, &to).expect("the first copy");
        let first = fs::metadata(&to).and_then(|meta| meta.modified()).expect("a time");
        fs::write(&from, "one").expect("a file");
        publish(&from, &to).expect("nothing to do");
        assert_eq!(fs::metadata(&to).and_then(|meta| meta.modified()).expect("a time"), first);
        fs::write(&from, "two").expect("a file");
        publish(&from, &to).expect("the second copy");
        assert_eq!(fs::read_to_string(&to).expect("a file"), "two");
        fs::remove_dir_all(&folder).expect("the folder goes");
    }
}

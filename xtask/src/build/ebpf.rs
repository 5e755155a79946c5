//! The kernel programs: objects for the BPF target, made by a compiler of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{elf, publish};
use crate::{
    shell::{Shell, forget_toolchain, path_with},
    toolchain::{Toolchain, bpf_target},
    workspace::Workspace,
};

/// The binaries of agent-ebpf: what agent/build.rs takes in, and what the benchmarks compare it with.
const PROGRAMS: [&str; 5] = ["track", "gate", "retire", "hop", "empty"];

/// Types of functions, which callbacks (`bpf_loop`) need; and memset as plain stores: as a loop, the verifier
/// would follow each of its rounds.
const LINKER_FLAGS: &str = "-C link-arg=--btf -C link-arg=--disable-expand-memcpy-in-order";

/// The profile in the workspace's Cargo.toml.
const PROFILE: &str = "ebpf";

/// Builds the programs; returns the folder with the objects.
///
/// # Errors
/// The compiler failed, or made something else than objects for the kernel.
pub(super) fn build(
    shell: &Shell,
    workspace: &Workspace,
    toolchain: &Toolchain,
) -> Result<PathBuf> {
    let (major, minor) = toolchain.version.release;
    let llvm = toolchain.version.llvm;
    shell.stage(format_args!(
        "kernel programs ({} {major}.{minor}, LLVM {llvm}): {}",
        toolchain.name,
        PROGRAMS.join(", ")
    ));
    let target = workspace.target.join("ebpf");
    shell.run(cargo(workspace, toolchain, &target)?.args(shell.cargo_flag()))?;
    let built = target.join(bpf_target()).join(PROFILE);
    let objects = objects(workspace);
    for program in PROGRAMS {
        let object = built.join(program);
        check(&object).with_context(|| format!("{} cannot be used", object.display()))?;
        publish(&object, &objects.join(program))?;
    }
    Ok(objects)
}

/// Where the objects are put.
pub(crate) fn objects(workspace: &Workspace) -> PathBuf {
    workspace.target.join("ebpf/objects")
}

fn cargo(workspace: &Workspace, toolchain: &Toolchain, target: &Path) -> Result<Command> {
    // rustc finds the linker by its name.
    let linkers = toolchain.linker.parent().context("the linker is in no folder")?;
    let mut command = Command::new(&toolchain.cargo);
    forget_toolchain(&mut command);
    command
        .current_dir(&workspace.root)
        .args(["build", "--package", "drainctl-ebpf", "--profile", PROFILE])
        .args(["--target", bpf_target(), "-Z", "build-std=core", "--target-dir"])
        .arg(target)
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", LINKER_FLAGS)
        .env("PATH", path_with(linkers)?);
    Ok(command)
}

fn check(object: &Path) -> Result<()> {
    ensure!(elf::Header::read(&fs::read(object)?)?.is_bpf(), "it is not for the kernel");
    Ok(())
}

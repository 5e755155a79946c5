//! The two binaries that users get: static, so that they run in any image.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{Processor, cross::Cross, elf, publish};
use crate::{
    shell::{Shell, host_cargo},
    toolchain::Version,
    workspace::Workspace,
};

const BINARIES: [&str; 2] = ["drain-agent", "drainctl"];

/// Builds both with the objects inside; returns the folder they are put in.
///
/// # Errors
/// The compiler failed, or a binary is not static.
pub(super) fn build(
    shell: &Shell,
    workspace: &Workspace,
    objects: &Path,
    debug: bool,
) -> Result<PathBuf> {
    let host = Version::of(&rustc())?.host;
    let command = host_cargo(&workspace.root);
    let command = arguments(command, &workspace.target, objects, &host, debug, "");
    let built = workspace.target.join(&host);
    make(shell, workspace, command, (&host, &built), debug, &workspace.dist())
}

/// The same for another processor.
///
/// # Errors
/// There is no toolchain for it; else as [`build`].
pub(super) fn build_for(
    shell: &Shell,
    workspace: &Workspace,
    objects: &Path,
    debug: bool,
    processor: Processor,
) -> Result<PathBuf> {
    let Processor { target, .. } = processor;
    let cross = Cross::find(shell, workspace, processor)?;
    let command = cross.cargo(workspace, processor)?;
    // Another compiler's files are not to be mixed with the host's.
    let built = workspace.target.join("cross");
    let command = arguments(command, &built, objects, target, debug, &cross.flags());
    let dist = workspace.target.join(format!("dist-{}", processor.name));
    let built = built.join(target);
    let dist = make(shell, workspace, command, (target, &built), debug, &dist)?;
    for binary in BINARIES {
        let machine = elf::Header::read(&fs::read(dist.join(binary))?)?.machine();
        ensure!(machine == processor.machine, "{binary} is not for {}", processor.name);
        let path = dist.join(binary).display().to_string();
        let says = cross.try_out(shell, processor, &[&path, "--version"])?;
        shell.detail(format_args!("run under an emulator: {says}"));
    }
    Ok(dist)
}

fn make(
    shell: &Shell,
    workspace: &Workspace,
    mut cargo: Command,
    (target, built): (&str, &Path),
    debug: bool,
    dist: &Path,
) -> Result<PathBuf> {
    shell.stage(format_args!("static binaries for {target}: {}", BINARIES.join(", ")));
    shell.run(cargo.args(shell.cargo_flag()))?;
    let built = built.join(if debug { "debug" } else { "release" });
    for name in BINARIES {
        let binary = dist.join(name);
        publish(&built.join(name), &binary)?;
        let size = check(&binary).with_context(|| format!("{} is no use", binary.display()))?;
        shell.detail(format_args!("{} ({size}, static)", workspace.display(&binary)));
    }
    Ok(dist.to_owned())
}

/// An explicit target keeps the flags away from build scripts and procedural macros, which cannot be
/// static.
fn arguments(
    mut command: Command,
    built: &Path,
    objects: &Path,
    target: &str,
    debug: bool,
    flags: &str,
) -> Command {
    command
        .args(["build", "--package", "drainctl-agent", "--bins", "--target", target])
        .args((!debug).then_some("--release"))
        .arg("--target-dir")
        .arg(built)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", format!("-C target-feature=+crt-static{flags}"))
        .env("DRAINCTL_EBPF_DIR", objects);
    command
}

/// The compiler that the host's cargo uses.
fn rustc() -> PathBuf {
    std::env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from)
}

fn check(binary: &Path) -> Result<String> {
    let file = fs::read(binary)?;
    ensure!(
        elf::Header::read(&file)?.is_static(),
        "it needs a dynamic loader; this target's Rust may lack a static libc"
    );
    Ok(size(file.len()))
}

fn size(bytes: usize) -> String {
    const MIB: usize = 1 << 20;
    let tenths = bytes.saturating_mul(10) / MIB;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(0), "0.0 MiB");
        assert_eq!(size(3 << 19), "1.5 MiB");
        assert_eq!(size(12 << 20), "12.0 MiB");
    }
}

//! bpf-linker, built for the LLVM of the compiler, in a folder of our own.

use std::{path::Path, process::Command};

use anyhow::Result;

use super::plan::llvm_packages;
use crate::{
    shell::{CommandLine, host_cargo, path_with},
    toolchain::{LINKER_VERSION, private_root},
    workspace::Workspace,
};

/// The command that builds and installs it.
///
/// # Errors
/// The folder it goes to cannot be on PATH.
pub(super) fn install(workspace: &Workspace, llvm: u32) -> Result<Command> {
    let root = private_root(workspace, llvm);
    let mut command = host_cargo(&workspace.root);
    configure(&mut command, &root, llvm);
    // On PATH, so that cargo does not advise to put it there.
    command.env("PATH", path_with(&root.join("bin"))?);
    // Flags and targets meant for the workspace must not reach the linker's own build.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"] {
        command.env_remove(name);
    }
    Ok(command)
}

/// The same for a person's shell.
pub(super) fn commands(workspace: &Workspace, llvm: u32) -> Vec<String> {
    let mut command = Command::new("cargo");
    configure(&mut command, &private_root(workspace, llvm), llvm);
    vec![CommandLine(&command).to_string()]
}

/// The same where the compiler is not installed yet: the shell then asks it which LLVM it has.
pub(super) fn commands_for_unknown(workspace: &Workspace) -> Vec<String> {
    // No LLVM will ever have this number.
    const UNKNOWN: u32 = u32::MAX;
    let fill = |line: String| line.replace(&UNKNOWN.to_string(), "${LLVM}");
    let packages = llvm_packages(UNKNOWN).join(" ");
    let mut lines = vec![
        r"LLVM=$(/usr/bin/rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')".to_owned(),
    ];
    lines.push(fill(format!("apt-get install -y --no-install-recommends --no-remove {packages}")));
    lines.extend(commands(workspace, UNKNOWN).into_iter().map(fill));
    lines
}

fn configure(command: &mut Command, root: &Path, llvm: u32) {
    command
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"])
        .arg(root)
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> Workspace {
        Workspace { root: "/src".into(), target: "/src/target".into() }
    }

    #[test]
    fn the_linker_is_built_for_one_llvm_in_a_folder_of_its_own() {
        let [line] = &commands(&workspace(), 22)[..] else { panic!("one command") };
        assert!(
            line.starts_with("LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker "),
            "{line}"
        );
        assert!(line.contains("--features llvm-22 --root "), "{line}");
        assert!(line.ends_with("llvm-22"), "{line}");
    }

    #[test]
    fn where_llvm_is_unknown_the_shell_asks_the_compiler() {
        let lines = commands_for_unknown(&workspace()).join("\n");
        assert!(lines.contains("llvm-${LLVM}-dev libpolly-${LLVM}-dev"), "{lines}");
        assert!(lines.contains("LLVM_PREFIX=/usr/lib/llvm-${LLVM} "), "{lines}");
        assert!(!lines.contains(&u32::MAX.to_string()), "{lines}");
    }
}

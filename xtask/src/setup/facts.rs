//! What this machine has: asked of the machine, and never changed here.

use std::{path::Path, process::Command};

use super::{
    has_subcommand,
    plan::{CNI, Scope, VENV, llvm_packages, tools},
};
use crate::{
    peers,
    shell::{ask, find_program, is_root},
    toolchain::{Compiler, Toolchain, rustup_nightly, system},
    workspace::Workspace,
};

/// All that the plan depends on.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Whether we are root.
    pub(super) root: bool,
    /// Whether Debian's package manager is here.
    pub(super) apt: bool,
    /// Whether rustup is here.
    pub(super) rustup: bool,
    /// Whether a C compiler is here: rustc links with it.
    pub(super) has_cc: bool,
    /// rustup's nightly.
    pub(super) nightly: Option<Compiler>,
    /// The distribution's compiler.
    pub(super) system: Option<Compiler>,
    /// Those installed of the packages that bpf-linker is built with.
    pub(super) packages: Vec<String>,
    /// Programs missing for tests, demo and benchmarks.
    pub(super) missing_tools: Vec<&'static str>,
    /// Components missing in the toolchain that runs us.
    pub(super) missing_components: Vec<&'static str>,
}

impl Facts {
    /// Looks around.
    pub(super) fn gather(workspace: &Workspace, scope: Scope) -> Self {
        let nightly = rustup_nightly(workspace);
        // The second toolchain is only of interest where the first is not complete.
        let complete = nightly.as_ref().and_then(Compiler::complete).is_some();
        let system = if complete { None } else { system(workspace) };
        let packages = system.as_ref().map(|rust| installed(&llvm_packages(rust.version.llvm)));
        let components = [("fmt", "rustfmt"), ("clippy", "clippy")];
        let components = components.into_iter().filter(|_| scope >= Scope::Everything);
        Self {
            root: is_root(),
            apt: find_program("apt-get").is_some() && find_program("dpkg-query").is_some(),
            rustup: find_program("rustup").is_some(),
            has_cc: find_program("cc").is_some(),
            nightly,
            system,
            packages: packages.unwrap_or_default(),
            missing_tools: tools(scope).filter(|tool| !is_here(tool)).collect(),
            missing_components: components
                .filter(|(command, _)| !has_subcommand(workspace, command))
                .map(|(_, component)| component)
                .collect(),
        }
    }

    /// The toolchain for the kernel programs: rustup's nightly if it has everything, else the system's.
    pub(super) fn toolchain(&self) -> Option<Toolchain> {
        [&self.nightly, &self.system].into_iter().flatten().find_map(Compiler::complete)
    }
}

fn is_here(tool: &str) -> bool {
    match tool {
        VENV => peers::has_venv(),
        CNI => Path::new(CNI).is_file(),
        program => find_program(program).is_some(),
    }
}

/// Those of these Debian packages that are installed.
fn installed(names: &[String]) -> Vec<String> {
    let is_installed = |name: &&String| {
        ask(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Abbrev}"]).arg(name))
            .is_some_and(|status| status.starts_with("ii"))
    };
    names.iter().filter(is_installed).cloned().collect()
}

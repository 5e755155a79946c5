//! `cargo xtask demo` and `cargo xtask bench`: programs of the tests crate, run with what was just built.

use anyhow::Result;
use clap::Args;

use crate::{
    build,
    setup::{self, Scope},
    shell::{Shell, host_cargo, require_root},
    test::with_binaries,
    workspace::Workspace,
};

/// Options of `cargo xtask demo`.
#[derive(Args)]
pub(crate) struct DemoOptions {
    /// Passed on to the demo.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct BenchOptions {
    /// Rows to measure, and flags for the benchmark; all rows if none is named.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Shows a rolling restart.
///
/// # Errors
/// Setup or build failed, or a request of the demo did.
pub(crate) fn demo(shell: &Shell, workspace: &Workspace, options: &DemoOptions) -> Result<()> {
    require_root("the demo", "demo")?;
    setup::peers(shell, workspace, Scope::Demo)?;
    launch(shell, workspace, "demo", &options.args)
}

/// Measures.
///
/// # Errors
/// Setup or build failed, or a bar was missed.
pub(crate) fn bench(shell: &Shell, workspace: &Workspace, options: &BenchOptions) -> Result<()> {
    require_root("benchmarks", "bench")?;
    setup::peers(shell, workspace, Scope::Everything)?;
    launch(shell, workspace, "bench", &options.args)
}

fn launch(shell: &Shell, workspace: &Workspace, name: &str, args: &[String]) -> Result<()> {
    let dist = build::run(shell, workspace, &build::Options::default())?;
    let mut cargo = host_cargo(&workspace.root);
    let package = ["--release", "--package", "drainctl-tests", "--bin", name];
    shell.stage(format_args!("{name}: building"));
    cargo.arg("build").args(shell.cargo_flag()).args(package);
    with_binaries(&mut cargo, workspace, &dist);
    shell.run(&mut cargo)?;
    shell.stage(name);
    let mut program = host_cargo(&workspace.root);
    program.args(["run", "--quiet"]).args(package).arg("--").args(args);
    with_binaries(&mut program, workspace, &dist);
    shell.run_runner(&mut program)
}

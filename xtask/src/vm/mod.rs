//! `cargo xtask vm`: the tests on other kernels, in virtual machines that see this machine's files.
//!
//! Debian's kernels are booted by QEMU without hardware virtualization, so nothing that is measured in
//! them says anything about speed.

mod image;
mod kernels;
mod machine;
mod packages;
mod page;
mod record;
pub(crate) mod stats;
mod suite;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;

use self::{
    kernels::{KERNELS, Kernel},
    machine::Machine,
    record::Record,
    suite::Suite,
    table::Table,
};
use crate::{
    build, kube,
    setup::{self, Scope},
    shell::{Shell, require_root},
    toolchain::cache,
    workspace::Workspace,
};

/// Options of `cargo xtask vm`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask vm --kernel 6.1 -- test\n  cargo xtask vm --all -- test gate count\n  \
                  cargo xtask vm --kernel 5.10 -- target/dist/drainctl doctor"
)]
pub(crate) struct Options {
    /// Which kernel: 5.10, 6.1, 6.12, 6.18, or newest (of Debian's backports).
    #[arg(long = "kernel", value_name = "VERSION", value_parser = kernels::parse, required_unless_present = "all")]
    kernels: Vec<&'static Kernel>,
    /// Every kernel, one after the other.
    #[arg(long, conflicts_with = "kernels")]
    all: bool,
    /// Keeps what came of each test beside this page (docs/kernels.md: in docs/kernels), and makes the page anew of it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Takes the binaries of the last build as they are.
    #[arg(long)]
    no_build: bool,
    /// `test` and the names of integration tests (files of tests/tests, or FILE::TEST; none: all of them), or any command.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND",
        default_value = "test"
    )]
    command: Vec<String>,
}

/// Boots each kernel and runs the command in it.
///
/// # Errors
/// A test failed, did not run, or was skipped without being on the list of what a kernel lacks; or a machine
/// did not boot.
pub(crate) fn run(shell: &Shell, workspace: &Workspace, options: &Options) -> Result<()> {
    require_root("virtual machines that share this machine's files", "vm")?;
    setup::peers(shell, workspace, Scope::Machines)?;
    let kernels: Vec<&'static Kernel> =
        if options.all { KERNELS.iter().collect() } else { options.kernels.clone() };
    match options.command.split_first() {
        Some((word, names)) if word == "test" => {
            if !options.no_build {
                build::run(shell, workspace, &build::Options::default())?;
            }
            test(shell, workspace, &kernels, names, options.out.as_deref())
        }
        _ => kernels
            .iter()
            .try_for_each(|kernel| command(shell, workspace, kernel, &options.command)),
    }
}

/// Runs integration tests in each kernel, and prints what came of them.
fn test(
    shell: &Shell,
    workspace: &Workspace,
    kernels: &[&'static Kernel],
    names: &[String],
    page: Option<&Path>,
) -> Result<()> {
    let suite = Suite::build(shell, workspace, names)?;
    if suite.has(PROXIED) {
        kube::proxy(shell, workspace)?;
    }
    let mut table = Table::default();
    for kernel in kernels {
        let machine = machine(shell, workspace, kernel)?;
        shell.stage(format_args!("Linux {}: tests", machine.release()));
        let lines = machine.run(&suite.script(workspace, kernel, ""))?;
        let rows = suite.results(kernel, &lines);
        if let Some(page) = page {
            Record::keep(page, kernel, machine.release(), &suite, &rows)?;
            page::write(page)?;
        }
        table.add(kernel, &machine, rows);
    }
    print!("{table}");
    let broken = table.broken();
    ensure!(broken == 0, "{broken} tests failed or did not run");
    Ok(())
}

/// The tests that run kube-proxy itself.
const PROXIED: &str = "rolling";

/// The oldest kernel that has everything but conveniences.
const OLD: &str = "6.1";

/// A few tests on one old kernel, and what the programs cost there.
///
/// # Errors
/// As [`run`], or the programs have grown.
pub(crate) fn smoke(shell: &Shell, workspace: &Workspace) -> Result<()> {
    setup::peers(shell, workspace, Scope::Machines)?;
    let kernel = kernels::parse(OLD).map_err(anyhow::Error::msg)?;
    let suite = Suite::smoke(shell, workspace)?;
    let machine = machine(shell, workspace, kernel)?;
    shell.stage(format_args!("Linux {}: a few tests", machine.release()));
    let script = suite.script(workspace, kernel, &stats::command(workspace));
    let output = machine.run(&script)?;
    let mut table = Table::default();
    table.add(kernel, &machine, suite.results(kernel, &output));
    print!("{table}");
    let broken = table.broken();
    ensure!(broken == 0, "{broken} tests failed or did not run");
    stats::check(workspace, kernel, &machine, &output)
}

fn command(
    shell: &Shell,
    workspace: &Workspace,
    kernel: &'static Kernel,
    words: &[String],
) -> Result<()> {
    let machine = machine(shell, workspace, kernel)?;
    shell.stage(format_args!("Linux {}", machine.release()));
    let words: Vec<String> = words.iter().map(|word| machine::quoted(word)).collect();
    let script = format!("cd {}\n{}", machine::quoted_path(&workspace.root), words.join(" "));
    let lines = machine.run(&script)?;
    ensure!(lines.passed, "the command failed in Linux {}", machine.release());
    Ok(())
}

fn machine(shell: &Shell, workspace: &Workspace, kernel: &'static Kernel) -> Result<Machine> {
    let files = packages::fetch(shell, &cache(workspace).join("kernels"), kernel)?;
    let image = image::make(&files)?;
    Machine::new(image)
}

//! `cargo xtask`: everything a developer of drainctl runs, each subcommand in a file of its own.

mod build;
mod debs;
mod image;
mod kube;
mod launch;
mod manifests;
mod peers;
mod registries;
mod setup;
mod shell;
mod test;
mod tidy;
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgAction, Parser, Subcommand};

use crate::{
    shell::{Failed, Level, Shell},
    workspace::Workspace,
};

/// Builds, tests and shows drainctl.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
    /// Print every command before it is run.
    #[arg(short, long, global = true, action = ArgAction::SetTrue)]
    verbose: bool,
    /// Print nothing but warnings, errors and results.
    #[arg(short, long, global = true, conflicts_with = "verbose", action = ArgAction::SetTrue)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Task {
    /// Installs what building and testing need and this machine lacks; safe to repeat.
    Setup(setup::Options),
    /// Builds the kernel programs and puts static drain-agent and drainctl into target/dist.
    Build(build::Options),
    /// Sets up, builds and runs every test; or one kind of tests.
    Test(test::Options),
    /// Shows a rolling restart of real servers under load, without a failed request.
    Demo(launch::DemoOptions),
    /// Runs the benchmarks and prints each beside its bar.
    Bench(launch::BenchOptions),
    /// Runs the tests, or a command, on other kernels.
    Vm(vm::Options),
    /// Looks at what the kernel programs cost.
    Bpf(vm::stats::Options),
    /// Writes the agent's container image, and the list of what is in it, to target/image.
    Image(image::Options),
    /// Checks the house rules that no compiler knows.
    Tidy,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn run(cli: &Cli) -> Result<()> {
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => Level::Quiet,
        (_, true) => Level::Verbose,
        _ => Level::Normal,
    };
    let shell = Shell::new(level);
    let workspace = Workspace::find()?;
    match &cli.task {
        Task::Setup(options) => setup::run(&shell, &workspace, options),
        Task::Build(options) => build::run(&shell, &workspace, options).map(drop),
        Task::Test(options) => test::run(&shell, &workspace, options),
        Task::Demo(options) => launch::demo(&shell, &workspace, options),
        Task::Bench(options) => launch::bench(&shell, &workspace, options),
        Task::Vm(options) => vm::run(&shell, &workspace, options),
        Task::Bpf(options) => vm::stats::run(&shell, &workspace, options),
        Task::Image(options) => image::run(&shell, &workspace, options).map(drop),
        Task::Tidy => tidy::run(&shell, &workspace),
    }
}

/// Prints the error, unless its own runner has said everything, and keeps the exit code of the command
/// that failed.
fn report(error: &anyhow::Error) -> ExitCode {
    let failed = error.downcast_ref::<Failed>();
    if !failed.is_some_and(|failed| failed.told) {
        eprintln!("error: {error:#}");
    }
    ExitCode::from(failed.map_or(1, |failed| failed.code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_task_that_is_not_built_is_refused() {
        assert!(Cli::try_parse_from(["xtask", "tidy"]).is_ok());
        assert!(Cli::try_parse_from(["xtask", "vm", "--kernel", "6.1"]).is_ok());
        assert!(Cli::try_parse_from(["xtask", "vm", "--kernel", "4.19"]).is_err());
        assert!(Cli::try_parse_from(["xtask", "image", "--arch", "riscv64"]).is_err());
        assert!(Cli::try_parse_from(["xtask", "release"]).is_err());
    }
}

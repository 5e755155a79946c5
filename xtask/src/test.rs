//! `cargo xtask test`: what needs no kernel first, then the real kernel.
//!
//! The test runners have the last word: nothing is printed after their summaries.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};

use crate::{
    build, kube, manifests, peers, registries,
    setup::{self, Scope},
    shell::{Shell, host_cargo, require_root},
    tidy, vm,
    workspace::Workspace,
};

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    kind: Option<Kind>,
}

#[derive(Subcommand)]
enum Kind {
    /// Format, lints, house rules and all tests that need neither root nor a kernel.
    Unit {
        /// Passed on to the tests: names to filter by, or flags of the test runner.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// The tests on the real kernel, as root, with the binaries of target/dist.
    Integration {
        /// Passed on to the tests: names to filter by, or flags of the test runner.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// What is in deploy/: valid for Kubernetes, Helm and Prometheus, and the same for all of them.
    Manifests,
    /// The agent is killed at random moments under load, again and again, as root.
    Chaos {
        /// `--rounds N` (200), `--seed S`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Rolling updates in a real cluster of one node, with every kind of preStop hook, as root.
    Kube {
        /// `--proxy MODE`, `--rolls N`, `--hook NAME`: see `--help` after `--`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Real registries (Consul, Eureka, Nacos) whose instances are drained while consumers call them, as root.
    Registries {
        /// `consul`, `eureka`, `actuator`, `nacos`: only those.
        names: Vec<String>,
    },
    /// A few tests on one old kernel, and whether the kernel programs cost more there than they did, as root.
    Smoke {
        /// Takes the binaries of the last build as they are.
        #[arg(long)]
        no_build: bool,
    },
    /// The agent's page in a browser, as root; the picture of it goes to target/.
    Page {
        /// Make the picture of the page in this folder anew, for example docs.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Real servers and clients of other projects in pairs, while the server is drained, as root.
    Peers {
        /// Pairs, as `protocol/server/client` with `*` for any, or one of the three names; flags too.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// Whether errors carry a backtrace: that of a failed test says where it was started, and pushes the agent's log out of
/// sight where only the end of an output is kept. That of a panic is left alone.
const BACKTRACES: &str = "RUST_LIB_BACKTRACE";

/// How many tests libtest runs at a time.
const THREADS: &str = "RUST_TEST_THREADS";

/// The crates that are tested without a kernel.
const UNIT: [&str; 6] = ["-p", "drainctl-agent", "-p", "drainctl-common", "-p", "xtask"];
/// Those of them that are libraries, and so have examples in their documentation.
const LIBRARIES: [&str; 4] = ["-p", "drainctl-agent", "-p", "drainctl-common"];

/// Runs the tests; stops at the first kind that fails.
///
/// # Errors
/// A test failed, or what it needs is missing: a test that did not run never counts as passed.
pub(crate) fn run(shell: &Shell, workspace: &Workspace, options: &Options) -> Result<()> {
    match &options.kind {
        Some(Kind::Unit { args }) => unit(shell, workspace, args),
        Some(Kind::Integration { args }) => {
            require_root("integration tests", "test integration")?;
            integration(shell, workspace, args)
        }
        Some(Kind::Manifests) => {
            setup::everything(shell, workspace)?;
            manifests::check(shell, workspace)
        }
        Some(Kind::Chaos { args }) => {
            require_root("killing agents", "test chaos")?;
            chaos(shell, workspace, args)
        }
        Some(Kind::Kube { args }) => {
            require_root("clusters", "test kube")?;
            cluster(shell, workspace, args)
        }
        Some(Kind::Registries { names }) => {
            require_root("registries in namespaces", "test registries")?;
            with_registries(shell, workspace, names)
        }
        Some(Kind::Smoke { no_build }) => {
            require_root("virtual machines that share this machine's files", "test smoke")?;
            if !no_build {
                build::run(shell, workspace, &build::Options::default())?;
            }
            vm::smoke(shell, workspace)
        }
        Some(Kind::Page { out }) => {
            require_root("an agent and its page", "test page")?;
            page(shell, workspace, out.as_deref())
        }
        Some(Kind::Peers { args }) => {
            require_root("drains of real servers", "test peers")?;
            pairs(shell, workspace, args)
        }
        None => {
            require_root("the integration tests", "test")
                .context("not everything can be tested here (`cargo xtask test unit` can)")?;
            setup::everything(shell, workspace)?;
            manifests::check(shell, workspace)?;
            unit(shell, workspace, &[])?;
            build::run(shell, workspace, &build::Options::default())?;
            vm::smoke(shell, workspace)?;
            // Last, so that their summaries are what is read.
            integration(shell, workspace, &[])
        }
    }
}

fn unit(shell: &Shell, workspace: &Workspace, args: &[String]) -> Result<()> {
    let cargo = || host_cargo(&workspace.root);
    let quiet = shell.cargo_flag();
    shell.stage("format");
    shell.run(cargo().args(["fmt", "--all", "--", "--check"]))?;
    tidy::run(shell, workspace)?;
    shell.stage("lints");
    let clippy = ["clippy", "--workspace", "--all-targets"];
    shell.run(cargo().args(clippy).args(quiet).args(["--", "-D", "warnings"]))?;
    shell.stage("unit tests");
    shell.run_runner(cargo().args(["test", "--doc"]).args(LIBRARIES).args(quiet))?;
    let tests = ["test", "--lib", "--bins", "--tests"];
    shell.run_runner(cargo().args(tests).args(UNIT).args(quiet).arg("--").args(args))
}

/// Environment of the programs of the tests crate, and of cargo when it builds them: it is built anew when that changes.
pub(crate) fn with_binaries(command: &mut Command, workspace: &Workspace, dist: &Path) {
    command
        .env("DRAINCTL_DIST", dist)
        // Some tests use the kernel layer as a library.
        .env("DRAINCTL_EBPF_DIR", build::ebpf::objects(workspace))
        .env("DRAINCTL_PEERS", peers::folder(workspace));
    if env::var_os(BACKTRACES).is_none() {
        command.env(BACKTRACES, "0");
    }
}

fn pairs(shell: &Shell, workspace: &Workspace, args: &[String]) -> Result<()> {
    setup::peers(shell, workspace, Scope::Peers)?;
    let dist = build::run(shell, workspace, &build::Options::default())?;
    let package = ["--package", "drainctl-tests"];
    shell.stage("peers: building");
    let mut bins = host_cargo(&workspace.root);
    // All of them, since some are peers themselves.
    bins.arg("build").args(shell.cargo_flag()).args(package).arg("--bins");
    with_binaries(&mut bins, workspace, &dist);
    shell.run(&mut bins)?;
    shell.stage("peers");
    let mut program = host_cargo(&workspace.root);
    program.args(["run", "--quiet"]).args(package).args(["--bin", "peers", "--"]).args(args);
    with_binaries(&mut program, workspace, &dist);
    shell.run_runner(&mut program)
}

fn cluster(shell: &Shell, workspace: &Workspace, args: &[String]) -> Result<()> {
    kube::prepare(shell, workspace)?;
    shell.stage("a cluster");
    let mut program = host_cargo(&workspace.root);
    let package = ["--package", "drainctl-tests", "--bin", "kube", "--"];
    program.args(["run", "--quiet"]).args(package).args(args);
    with_binaries(&mut program, workspace, &workspace.dist());
    shell.run_runner(program.env("DRAINCTL_KUBE", kube::folder(workspace)))
}

fn with_registries(shell: &Shell, workspace: &Workspace, names: &[String]) -> Result<()> {
    registries::prepare(shell, workspace)?;
    let dist = build::run(shell, workspace, &build::Options::default())?;
    shell.stage("registries");
    let mut program = host_cargo(&workspace.root);
    let package = ["--package", "drainctl-tests", "--bin", "registries", "--"];
    program.args(["run", "--quiet"]).args(package).args(names);
    with_binaries(&mut program, workspace, &dist);
    shell.run_runner(program.env("DRAINCTL_REGISTRIES", registries::folder(workspace)))
}

fn chaos(shell: &Shell, workspace: &Workspace, args: &[String]) -> Result<()> {
    let dist = build::run(shell, workspace, &build::Options::default())?;
    shell.stage("chaos");
    let mut program = host_cargo(&workspace.root);
    let package = ["--package", "drainctl-tests", "--bin", "chaos", "--"];
    program.args(["run", "--quiet"]).args(package).args(args);
    with_binaries(&mut program, workspace, &dist);
    shell.run_runner(&mut program)
}

fn page(shell: &Shell, workspace: &Workspace, out: Option<&Path>) -> Result<()> {
    setup::peers(shell, workspace, Scope::Everything)?;
    let dist = build::run(shell, workspace, &build::Options::default())?;
    shell.stage("the page");
    let mut tests = host_cargo(&workspace.root);
    tests
        .args(["test", "--package", "drainctl-tests", "--test", "integration"])
        .args(shell.cargo_flag());
    tests.args(["--", "page::"]);
    with_binaries(&mut tests, workspace, &dist);
    if let Some(out) = out {
        let out = out.canonicalize().with_context(|| format!("no folder {}", out.display()))?;
        tests.env("DRAINCTL_PICTURES", out);
    }
    shell.run_runner(&mut tests)
}

fn integration(shell: &Shell, workspace: &Workspace, args: &[String]) -> Result<()> {
    setup::peers(shell, workspace, Scope::Everything)?;
    let dist = build::run(shell, workspace, &build::Options::default())?;
    shell.stage("integration tests");
    let mut tests = host_cargo(&workspace.root);
    tests
        .args(["test", "--package", "drainctl-tests", "--lib", "--bins", "--tests"])
        .args(shell.cargo_flag())
        .arg("--")
        .args(args);
    with_binaries(&mut tests, workspace, &dist);
    if env::var_os(THREADS).is_none() {
        // Most of the time of most of them is waiting.
        let processors = thread::available_parallelism().map_or(1, usize::from);
        tests.env(THREADS, (processors + 2).to_string());
    }
    shell.run_runner(&mut tests)
}

//! `cargo xtask setup`: finds out what is missing, says so, and installs it.

mod apt;
mod facts;
mod linker;
mod plan;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    peers,
    shell::{Shell, host_cargo},
    toolchain::Toolchain,
    workspace::Workspace,
};
use facts::Facts;
use plan::Action;

pub(crate) use plan::Scope;

/// Options of `cargo xtask setup`.
#[derive(Args)]
pub(crate) struct Options {
    /// Install nothing: print the commands that would, and fail if there are any.
    #[arg(long)]
    check: bool,
    /// Only what building needs, without what tests, demo and benchmarks run.
    #[arg(long, conflicts_with = "peers")]
    build_only: bool,
    /// Also the servers and clients that only `cargo xtask test peers` runs.
    #[arg(long)]
    peers: bool,
}

/// Installs what is missing.
///
/// # Errors
/// Something is missing that cannot, or may not, be installed; the error says what to do.
pub(crate) fn run(shell: &Shell, workspace: &Workspace, options: &Options) -> Result<()> {
    let scope = match options {
        Options { build_only: true, .. } => Scope::Build,
        Options { peers: true, .. } => Scope::Peers,
        _ => Scope::Everything,
    };
    if options.check {
        check(workspace, scope, "")?;
    } else if ensure(shell, workspace, scope)? {
        return peers::prepare(shell, workspace, scope);
    } else {
        peers::prepare(shell, workspace, scope)?;
    }
    shell.stage("setup: nothing is missing");
    Ok(())
}

/// Installs what tests and benchmarks need.
///
/// # Errors
/// As [`run`].
pub(crate) fn everything(shell: &Shell, workspace: &Workspace) -> Result<()> {
    ensure(shell, workspace, Scope::Everything).map(drop)
}

/// Installs what demo and tests with servers and clients of other projects need, and prepares those; for
/// `Scope::Demo` and `Scope::Everything` only those that `cargo xtask demo` and `cargo xtask test` run.
///
/// # Errors
/// As [`run`].
pub(crate) fn peers(shell: &Shell, workspace: &Workspace, scope: Scope) -> Result<()> {
    ensure(shell, workspace, scope)?;
    peers::prepare(shell, workspace, scope)
}

/// The toolchain for the kernel programs; installs nothing.
///
/// # Errors
/// There is none.
pub(crate) fn toolchain(workspace: &Workspace) -> Result<Toolchain> {
    Facts::gather(workspace, Scope::Build)
        .toolchain()
        .context("nothing here can build the kernel programs; run `cargo xtask setup` first")
}

/// Installs in rounds, since some needs are only known when others are met: which LLVM it has to be, for
/// one, only the installed compiler tells. True if anything had to be done.
fn ensure(shell: &Shell, workspace: &Workspace, scope: Scope) -> Result<bool> {
    const ROUNDS: usize = 4;
    for round in 0..ROUNDS {
        let facts = Facts::gather(workspace, scope);
        let actions = plan::plan(&facts, scope)?;
        if actions.is_empty() {
            return Ok(round > 0);
        }
        if !facts.root && actions.iter().any(Action::needs_root) {
            return check(workspace, scope, "installing packages takes root; ").map(|()| false);
        }
        shell.stage(format_args!("setup installs {} missing here:", things(actions.len())));
        actions.iter().for_each(|action| shell.detail(action));
        for action in actions.iter().take_while(|action| action.is_known()) {
            execute(shell, workspace, action)?;
        }
    }
    let left = plan::plan(&Facts::gather(workspace, scope), scope)?;
    match left.as_slice() {
        [] => Ok(true),
        [action, ..] => bail!(
            "everything was installed without an error, and this is still missing: {action}; \
             `cargo xtask setup --verbose` shows each command"
        ),
    }
}

/// Succeeds if nothing is missing; else fails with the commands that would install it.
fn check(workspace: &Workspace, scope: Scope, why: &str) -> Result<()> {
    let actions = plan::plan(&Facts::gather(workspace, scope), scope)?;
    if actions.is_empty() {
        return Ok(());
    }
    let mut text =
        format!("{why}{} missing, which these commands install:\n", things(actions.len()));
    for action in &actions {
        text.push_str(&format!("\n# {action}\n"));
        for line in commands(workspace, action) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    bail!("{}", text.trim_end());
}

fn execute(shell: &Shell, workspace: &Workspace, action: &Action) -> Result<()> {
    match action {
        Action::Packages(names) => apt::install(shell, names),
        Action::Components(names) => {
            let mut rustup = std::process::Command::new("rustup");
            shell.run(rustup.args(["component", "add"]).args(names).current_dir(&workspace.root))
        }
        Action::Linker { llvm: Some(llvm) } => shell.run(&mut linker::install(workspace, *llvm)?),
        Action::Linker { llvm: None } => Ok(()),
    }
    .with_context(|| format!("cannot install {action}"))
}

/// The same as [`execute`], for a person's shell.
fn commands(workspace: &Workspace, action: &Action) -> Vec<String> {
    match action {
        Action::Packages(names) => apt::commands(names),
        Action::Components(names) => vec![format!("rustup component add {}", names.join(" "))],
        Action::Linker { llvm: Some(llvm) } => linker::commands(workspace, *llvm),
        Action::Linker { llvm: None } => linker::commands_for_unknown(workspace),
    }
}

fn things(number: usize) -> String {
    if number == 1 { "one thing".to_owned() } else { format!("{number} things") }
}

/// Whether cargo's subcommand `name` works in the toolchain that runs us.
fn has_subcommand(workspace: &Workspace, name: &str) -> bool {
    crate::shell::ask(host_cargo(&workspace.root).args([name, "--version"])).is_some()
}

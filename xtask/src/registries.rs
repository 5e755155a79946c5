//! Registries for `cargo xtask test registries`: Consul, built from its Go module, and Eureka with applications of
//! Spring Cloud, and Nacos, fetched by Maven. All of it is in `target/registries`, and made again only when its inputs have changed.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    peers::{Stamp, java, texts},
    setup::{self, Scope},
    shell::{Shell, ask},
    workspace::Workspace,
};

/// Consul's module, whose main package it is too.
const CONSUL: &str = "github.com/hashicorp/consul";

/// Where it all is.
pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("registries")
}

/// Fetches and builds what is missing or old.
///
/// # Errors
/// A package manager or a compiler failed.
pub(crate) fn prepare(shell: &Shell, workspace: &Workspace) -> Result<()> {
    setup::peers(shell, workspace, Scope::Peers)?;
    consul(shell, workspace)?;
    maven(shell, workspace, "java", "Eureka, and applications that register with it")?;
    maven(shell, workspace, "nacos", "Nacos, and an application that registers with it")
}

fn consul(shell: &Shell, workspace: &Workspace) -> Result<()> {
    let source = workspace.root.join("tests/registries/consul");
    let bin = folder(workspace).join("bin");
    let version = ask(Command::new("go").arg("version"));
    let version = version.context("there is no go: run `cargo xtask setup`")?;
    let stamp = Stamp::new(&bin, format!("{version}\n{}", texts(&source)?));
    if stamp.is_current() {
        return Ok(());
    }
    shell.stage("Consul (the first time it takes some minutes)");
    fs::create_dir_all(&bin)?;
    let mut go = Command::new("go");
    go.args(["build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o"]);
    shell
        .run(go.arg(bin.join("consul")).arg(CONSUL).current_dir(source).env("CGO_ENABLED", "0"))?;
    stamp.write()
}

fn maven(shell: &Shell, workspace: &Workspace, name: &str, what: &str) -> Result<()> {
    let source = workspace.root.join("tests/registries").join(name);
    java::compile(shell, what, &source, &folder(workspace).join(name))
}

//! What a real cluster in a test is made of: Kubernetes' own programs, built from its Go modules, and container images
//! that come from no registry. All of it is in `target/kube`, and made again only when its inputs have changed.

mod images;
mod programs;

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    image,
    setup::{self, Scope},
    shell::Shell,
    workspace::Workspace,
};

/// Where it all is.
pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("kube")
}

/// Fetches and builds what is missing or old.
///
/// # Errors
/// A package manager or a compiler failed.
pub(crate) fn prepare(shell: &Shell, workspace: &Workspace) -> Result<()> {
    setup::peers(shell, workspace, Scope::Kube)?;
    programs::prepare(shell, workspace)?;
    programs::helm(shell, workspace)?;
    let agent = image::run(shell, workspace, &image::Options::default())?;
    images::prepare(shell, workspace, &agent)
}

/// Builds kube-proxy alone, for tests that need no more of a cluster.
///
/// # Errors
/// Go is missing, or cannot build it.
pub(crate) fn proxy(shell: &Shell, workspace: &Workspace) -> Result<()> {
    programs::proxy(shell, workspace)
}

/// Where [`proxy`] puts it.
pub(crate) fn proxy_program(workspace: &Workspace) -> PathBuf {
    folder(workspace).join("alone/kube-proxy")
}

/// The sources, in `tests/kube`.
fn source(workspace: &Workspace) -> PathBuf {
    workspace.root.join("tests/kube")
}

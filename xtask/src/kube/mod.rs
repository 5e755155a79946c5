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

/// The sources, in `tests/kube`.
fn source(workspace: &Workspace) -> PathBuf {
    workspace.root.join("tests/kube")
}

//! Python's peers: a virtual environment with the packages of `requirements.txt`.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::{Stamp, folder, source};
use crate::{
    shell::{Shell, ask},
    workspace::Workspace,
};

/// Whether environments can be made.
pub(crate) fn has_venv() -> bool {
    ask(Command::new(interpreter()).args(["-c", "import venv, ensurepip"])).is_some()
}

/// The distribution's Python if there is one: that is what setup can complete.
fn interpreter() -> &'static str {
    const DISTRIBUTION: &str = "/usr/bin/python3";
    if Path::new(DISTRIBUTION).exists() { DISTRIBUTION } else { "python3" }
}

/// Makes the peers' environment.
pub(super) fn prepare(shell: &Shell, workspace: &Workspace) -> Result<()> {
    let requirements = source(workspace).join("python/requirements.txt");
    let stage = "Python packages for servers and clients";
    environment(shell, stage, &requirements, &folder(workspace).join("python"))
}

/// Makes the environment that holds the agent to docs/openapi.yaml.
pub(super) fn prepare_openapi(shell: &Shell, workspace: &Workspace) -> Result<()> {
    let requirements = workspace.root.join("tests/openapi/requirements.txt");
    let stage = "Python packages for checking the API's description";
    environment(shell, stage, &requirements, &folder(workspace).join("openapi"))
}

/// Makes an environment in `folder` with the packages of a file, unless it is there.
///
/// # Errors
/// There is no Python, or pip failed.
pub(crate) fn environment(
    shell: &Shell,
    stage: &str,
    requirements: &Path,
    folder: &Path,
) -> Result<()> {
    let mut inputs = ask(Command::new(interpreter()).arg("--version"))
        .context("there is no python3: run `cargo xtask setup`")?;
    inputs.push('\n');
    inputs += &fs::read_to_string(requirements)
        .with_context(|| format!("read {}", requirements.display()))?;
    let stamp = Stamp::new(folder, inputs);
    if stamp.is_current() {
        return Ok(());
    }
    shell.stage(stage);
    shell.run(Command::new(interpreter()).args(["-m", "venv", "--clear"]).arg(folder))?;
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    shell.run(pip.arg("--only-binary=:all:").arg("--requirement").arg(requirements))?;
    stamp.write()
}

//! Go's peers: programs, built from the modules that `go.sum` pins.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};

use super::{Stamp, folder, source, texts};
use crate::{
    shell::{Shell, ask},
    workspace::Workspace,
};

/// Builds them.
pub(super) fn prepare(shell: &Shell, workspace: &Workspace) -> Result<()> {
    let source = source(workspace).join("go");
    let folder = folder(workspace).join("go");
    let mut inputs = ask(Command::new("go").arg("version"))
        .context("there is no go: run `cargo xtask setup`")?;
    inputs.push('\n');
    inputs += &texts(&source)?;
    let stamp = Stamp::new(&folder, inputs);
    if stamp.is_current() {
        return Ok(());
    }
    shell.stage("Go programs among the tests' servers and clients");
    fs::create_dir_all(&folder)?;
    let mut go = Command::new("go");
    go.args(["build", "-mod=readonly", "-buildvcs=false", "-o"]).arg(&folder).arg("./...");
    shell.run(go.current_dir(source).env("CGO_ENABLED", "0"))?;
    stamp.write()
}

//! Go's peers: programs, built from the modules that `go.sum` pins.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::{Stamp, folder, source};
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
    for (path, text) in texts(&source)? {
        inputs += &format!("{path}\n{text}");
    }
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

/// Every file below `folder`, by its path.
fn texts(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let list = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    for entry in list {
        let path = entry?.path();
        if path.is_dir() {
            found.append(&mut texts(&path)?);
        } else {
            found.insert(path.display().to_string(), fs::read_to_string(&path)?);
        }
    }
    Ok(found)
}

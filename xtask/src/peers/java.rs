//! Java's peers: classes, compiled by Maven, and the libraries that `pom.xml` pins.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::{Stamp, folder, source, texts};
use crate::{
    shell::{Shell, ask},
    workspace::Workspace,
};

/// Builds them.
pub(super) fn prepare(shell: &Shell, workspace: &Workspace) -> Result<()> {
    let what = "Java programs among the tests' servers and clients";
    compile(shell, what, &source(workspace).join("java"), &folder(workspace).join("java"))
}

/// Has Maven compile the project in `source`, and put it and the libraries that its `pom.xml` pins into `folder`; nothing if
/// that is there and current.
///
/// # Errors
/// Java is missing, or Maven failed.
pub(crate) fn compile(shell: &Shell, what: &str, source: &Path, folder: &Path) -> Result<()> {
    let version = ask(Command::new("javac").arg("--version"));
    let version = version.context("there is no javac: run `cargo xtask setup --peers`")?;
    let stamp = Stamp::new(folder, format!("{version}\n{}", texts(source)?));
    if stamp.is_current() {
        return Ok(());
    }
    shell.stage(what);
    fs::create_dir_all(folder)?;
    let mut maven = Command::new("mvn");
    maven.args(["--quiet", "--batch-mode", "--file"]).arg(source.join("pom.xml"));
    shell.run(maven.arg(format!("-Dfolder={}", folder.display())).arg("compile"))?;
    stamp.write()
}

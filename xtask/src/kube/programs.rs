//! Kubernetes' programs, as its own release builds them: static, stripped, and they know their version.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::{folder, source};
use crate::{
    peers::{Stamp, texts},
    shell::{Shell, ask},
    workspace::Workspace,
};

const MODULE: &str = "k8s.io/kubernetes";

const PROGRAMS: [&str; 6] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];

const HELM: &str = "helm.sh/helm/v3/cmd/helm";

/// Builds Helm, of the module that renders charts with Helm's code.
pub(super) fn helm(shell: &Shell, workspace: &Workspace) -> Result<()> {
    let source = source(workspace).join("render");
    let bin = folder(workspace).join("bin");
    let stamps = folder(workspace).join("helm");
    fs::create_dir_all(&stamps)?;
    let inputs = ask(Command::new("go").arg("version")).unwrap_or_default() + &texts(&source)?;
    let stamp = Stamp::new(&stamps, inputs);
    if stamp.is_current() && bin.join("helm").is_file() {
        return Ok(());
    }
    shell.stage("Helm");
    let mut go = Command::new("go");
    go.args(["build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o"]);
    shell.run(go.arg(&bin).arg(HELM).current_dir(source).env("CGO_ENABLED", "0"))?;
    stamp.write()
}

/// Builds them, and the few small programs of our own beside them.
pub(super) fn prepare(shell: &Shell, workspace: &Workspace) -> Result<()> {
    let packages: Vec<String> = PROGRAMS.iter().map(|name| command(name)).collect();
    let packages = [packages, vec!["./...".to_owned()]].concat();
    make(shell, workspace, &folder(workspace).join("bin"), &packages, "a quarter of an hour")
}

/// Builds kube-proxy alone.
pub(super) fn proxy(shell: &Shell, workspace: &Workspace) -> Result<()> {
    let folder = folder(workspace).join("alone");
    make(shell, workspace, &folder, &[command("kube-proxy")], "some minutes")
}

/// The package of one of Kubernetes' programs.
fn command(name: &str) -> String {
    format!("{MODULE}/cmd/{name}")
}

/// Puts what these packages make into a folder, unless they are there already.
fn make(
    shell: &Shell,
    workspace: &Workspace,
    bin: &Path,
    packages: &[String],
    time: &str,
) -> Result<()> {
    let source = source(workspace).join("go");
    let mut inputs = ask(Command::new("go").arg("version"))
        .context("there is no go: run `cargo xtask setup`")?;
    inputs.push('\n');
    inputs += &texts(&source)?;
    let stamp = Stamp::new(bin, inputs);
    if stamp.is_current() {
        return Ok(());
    }
    let version = ask(Command::new("go")
        .args(["list", "-m", "-f", "{{.Version}}", MODULE])
        .current_dir(&source))
    .context("Go does not find the modules of Kubernetes")?;
    let names = packages.join(", ");
    shell.stage(format_args!("Kubernetes {version}: {names} (the first time it takes {time})"));
    fs::create_dir_all(bin)?;
    let mut go = Command::new("go");
    go.args(["build", "-mod=readonly", "-buildvcs=false", "-trimpath"]);
    go.arg(format!("-ldflags=-s -w -X k8s.io/component-base/version.gitVersion={version}"));
    // With a slash, one package too is put into the folder under its name.
    go.arg("-o").arg(bin.join("")).args(packages);
    shell.run(go.current_dir(source).env("CGO_ENABLED", "0"))?;
    stamp.write()
}

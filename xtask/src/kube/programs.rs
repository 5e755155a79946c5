//! Kubernetes' programs, as its own release builds them: static, stripped, and they know their version.

use std::{fs, process::Command};

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
    let source = source(workspace).join("go");
    let bin = folder(workspace).join("bin");
    let mut inputs = ask(Command::new("go").arg("version"))
        .context("there is no go: run `cargo xtask setup`")?;
    inputs.push('\n');
    inputs += &texts(&source)?;
    let stamp = Stamp::new(&bin, inputs);
    if stamp.is_current() {
        return Ok(());
    }
    let version = ask(Command::new("go")
        .args(["list", "-m", "-f", "{{.Version}}", MODULE])
        .current_dir(&source))
    .context("Go does not find the modules of Kubernetes")?;
    shell.stage(format_args!(
        "Kubernetes {version}: {} (the first time it takes a quarter of an hour)",
        PROGRAMS.join(", ")
    ));
    fs::create_dir_all(&bin)?;
    let mut go = Command::new("go");
    go.args(["build", "-mod=readonly", "-buildvcs=false", "-trimpath"]);
    go.arg(format!("-ldflags=-s -w -X k8s.io/component-base/version.gitVersion={version}"));
    go.arg("-o").arg(&bin).args(PROGRAMS.map(|name| format!("{MODULE}/cmd/{name}"))).arg("./...");
    shell.run(go.current_dir(source).env("CGO_ENABLED", "0"))?;
    stamp.write()
}

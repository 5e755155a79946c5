//! `cargo xtask test manifests`: what is in deploy/, looked at by those who made the formats: Helm's and kubectl's own
//! code renders it, Kubernetes' published schemas validate it, and promtool reads the rules.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    peers::{self, Stamp, texts},
    shell::{Shell, ask},
    workspace::Workspace,
};

/// The oldest Kubernetes that is looked after somewhere, and the newest with schemas.
const VERSIONS: [&str; 2] = ["1.28", "1.34"];

/// Values of the chart, beside its defaults, that make other objects.
const VALUES: [&[&str]; 5] = [
    &[],
    &["kubernetesApi=false", "criSocket=/run/containerd/containerd.sock"],
    &["listen.secret=over-tcp"],
    &[
        "extraArgs[0]=--agent-check=0.0.0.0:9444",
        "extraPorts[0].name=agent-check",
        "extraPorts[0].containerPort=9444",
        "extraPorts[0].hostPort=9444",
        "extraVolumes[0].name=registries",
        "extraVolumes[0].secret.secretName=registries",
        "extraVolumeMounts[0].name=registries",
        "extraVolumeMounts[0].mountPath=/etc/registries",
    ],
    &["podLabels.team=a", "extraArgs[0]=--max-flows=1000", "imagePullSecrets[0].name=registry"],
];

/// Checks everything.
///
/// # Errors
/// Something is not valid, or the chart makes other objects than the kustomization.
pub(crate) fn check(shell: &Shell, workspace: &Workspace) -> Result<()> {
    let tools = Tools::prepare(shell, workspace)?;
    shell.stage("manifests");
    let deploy = workspace.root.join("deploy");
    let plain = tools.render("kustomization", &["kustomization"], &deploy, &[])?;
    tools.validate(shell, &plain)?;
    for (index, values) in VALUES.iter().enumerate() {
        let name = format!("chart-{index}");
        let chart = tools.render(&name, &["chart"], &deploy.join("helm/drainctl"), values)?;
        tools.validate(shell, &chart)?;
        if values.is_empty() {
            let same = workspace.root.join("tests/kube/same_objects.py");
            shell.run(Command::new(tools.python()).arg(same).args([&plain, &chart]))?;
        }
    }
    let rules = deploy.join("prometheus/rules.yaml");
    shell.run(Command::new("promtool").args(["check", "rules"]).arg(rules))
}

/// What renders and validates, in `target/kube`.
struct Tools {
    folder: PathBuf,
}

impl Tools {
    fn prepare(shell: &Shell, workspace: &Workspace) -> Result<Self> {
        let tools = Self { folder: workspace.target.join("kube/manifests") };
        fs::create_dir_all(&tools.folder)?;
        let source = workspace.root.join("tests/kube");
        let stage = "Python packages for validating manifests";
        let requirements = source.join("requirements.txt");
        peers::environment(shell, stage, &requirements, &tools.folder.join("python"))?;
        let source = source.join("render");
        let mut inputs = ask(Command::new("go").arg("version"))
            .context("there is no go: run `cargo xtask setup`")?;
        inputs += &texts(&source)?;
        let stamp = Stamp::new(&tools.folder, inputs);
        if !stamp.is_current() {
            shell.stage("Helm's and kubectl's code for rendering manifests");
            let mut go = Command::new("go");
            go.args(["build", "-mod=readonly", "-buildvcs=false", "-o"]).arg(tools.renderer());
            shell.run(go.current_dir(source).env("CGO_ENABLED", "0"))?;
            stamp.write()?;
        }
        Ok(tools)
    }

    fn renderer(&self) -> PathBuf {
        self.folder.join("render")
    }

    fn python(&self) -> PathBuf {
        self.folder.join("python/bin/python")
    }

    /// Renders a chart or a kustomization to a file.
    fn render(&self, name: &str, kind: &[&str], from: &Path, more: &[&str]) -> Result<PathBuf> {
        let output = Command::new(self.renderer()).args(kind).arg(from).args(more).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{}: {errors}", from.display());
        let file = self.folder.join(format!("{name}.yaml"));
        fs::write(&file, output.stdout)?;
        Ok(file)
    }

    fn validate(&self, shell: &Shell, file: &Path) -> Result<()> {
        VERSIONS.iter().try_for_each(|version| {
            let mut command = Command::new(self.folder.join("python/bin/kubernetes-validate"));
            command.args(["--strict", "--quiet", "-k", version]);
            shell.run(command.arg(file))
        })
    }
}

//! `cargo xtask image`: the agent's container image, from scratch and without a daemon: the two static programs, and
//! the list of what they were made of.

pub(crate) mod oci;
mod sbom;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::json;

use self::oci::{Image, Layer};
use crate::{
    build::{self, Processor},
    shell::{Shell, ask},
    workspace::Workspace,
};

/// What the manifests in deploy/ call it, without a tag.
pub(crate) const NAME: &str = "ghcr.io/drainctl/drainctl";

/// Where the list of components is in the image.
const SBOM: &str = "usr/share/doc/drainctl/sbom.cdx.json";

/// Options of `cargo xtask image`.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// For which processors; several make an image for all of them [default: this machine's].
    #[arg(long = "arch", value_name = "ARCH", value_enum)]
    pub(crate) architectures: Vec<Arch>,
    /// Of unoptimized programs with symbols: for trying things out.
    #[arg(long)]
    pub(crate) debug: bool,
}

/// A processor architecture, as container images name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    /// x86-64
    Amd64,
    /// AArch64
    Arm64,
}

impl Arch {
    fn processor(self) -> Processor {
        match self {
            Self::Amd64 => build::AMD64,
            Self::Arm64 => build::ARM64,
        }
    }
}

/// Builds the programs and writes the image; returns it as one file, for `ctr images import` and its like.
///
/// # Errors
/// The build failed, or what was written cannot be read back.
pub(crate) fn run(shell: &Shell, workspace: &Workspace, options: &Options) -> Result<PathBuf> {
    let mut processors: Vec<Processor> = Vec::new();
    for processor in options.architectures.iter().map(|arch| arch.processor()) {
        if !processors.contains(&processor) {
            processors.push(processor);
        }
    }
    if processors.is_empty() {
        processors.push(build::HOST);
    }
    let folder = workspace.target.join("image");
    fs::create_dir_all(&folder)?;
    let sbom = sbom::of_agent(workspace)?;
    fs::write(folder.join("drainctl.cdx.json"), &sbom)?;
    let images = processors.iter().map(|processor| {
        let options = build::Options { debug: options.debug };
        let dist = build::run_for(shell, workspace, &options, *processor)?;
        image(workspace, *processor, &dist, &sbom)
    });
    let images = images.collect::<Result<Vec<_>>>()?;
    shell.stage("image");
    let layout = folder.join("oci");
    let name = format!("{NAME}:{}", version(workspace)?);
    let digest = oci::write(&layout, &name, images)?;
    let files = oci::verify(&layout).context("read the image back")?;
    for file in ["bin/drain-agent", "bin/drainctl", SBOM] {
        let found = files.iter().filter(|found| *found == file).count();
        ensure!(found == processors.len(), "{file} is {found} times in the image");
    }
    let archive = folder.join("drainctl.tar");
    oci::archive(&layout, &archive)?;
    shell.detail(format_args!("{name}@{digest}"));
    shell.detail(workspace.display(&layout));
    Ok(archive)
}

fn image(workspace: &Workspace, processor: Processor, dist: &Path, sbom: &[u8]) -> Result<Image> {
    let mut layer = Layer::new();
    layer.folder("bin", 0o755)?;
    for program in ["drain-agent", "drainctl"] {
        layer.program(&format!("bin/{program}"), &dist.join(program))?;
    }
    for folder in ["usr", "usr/share", "usr/share/doc", "usr/share/doc/drainctl"] {
        layer.folder(folder, 0o755)?;
    }
    layer.file(SBOM, 0o644, sbom)?;
    let revision =
        ask(Command::new("git").args(["rev-parse", "HEAD"]).current_dir(&workspace.root));
    let label = |name: &str| format!("org.opencontainers.image.{name}");
    let labels = json!({
        label("title"): "drainctl",
        label("description"): "Drains connections of TCP servers, from the kernel",
        label("version"): version(workspace)?,
        label("revision"): revision.unwrap_or_default(),
        label("source"): env!("CARGO_PKG_REPOSITORY"),
        label("licenses"): env!("CARGO_PKG_LICENSE"),
    });
    Ok(Image {
        architecture: processor.name,
        layer,
        entrypoint: vec!["/bin/drain-agent".into()],
        // So that `kubectl exec … -- drainctl status` works.
        env: vec!["PATH=/bin".into()],
        labels,
    })
}

/// The version of all our crates, which is the image's tag.
fn version(workspace: &Workspace) -> Result<String> {
    let manifest = fs::read_to_string(workspace.root.join("Cargo.toml"))?;
    let line = manifest.lines().find_map(|line| line.strip_prefix("version = "));
    Ok(line.context("Cargo.toml has no version")?.trim_matches('"').to_owned())
}

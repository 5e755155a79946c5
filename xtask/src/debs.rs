//! Debian's packages, taken apart in a folder of ours: nothing is installed.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::shell::ask;

/// Downloads these packages with that apt-get, and unpacks them below `root`.
///
/// # Errors
/// A package cannot be downloaded, or is broken.
pub(crate) fn unpack(mut apt: Command, packages: &[String], root: &Path) -> Result<()> {
    let debs = root.join("debs");
    let _ = fs::remove_dir_all(&debs); // What was begun, and not completed.
    fs::create_dir_all(&debs).with_context(|| format!("make {}", debs.display()))?;
    // apt's own user may not write here.
    apt.args(["-q", "-o", "APT::Sandbox::User=root", "download"]).args(packages);
    let done = ask(apt.current_dir(&debs));
    ensure!(done.is_some(), "cannot download {}", packages.join(", "));
    for deb in fs::read_dir(&debs).context("list what was downloaded")?.flatten() {
        let done = ask(Command::new("dpkg-deb").arg("--extract").arg(deb.path()).arg(root));
        ensure!(done.is_some(), "cannot unpack {}", deb.path().display());
    }
    fs::remove_dir_all(&debs).context("remove the packages")
}

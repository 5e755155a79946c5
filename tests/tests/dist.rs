//! What is shipped: two static binaries that need nothing of the image they run in.

use anyhow::{Context, Result, ensure};
use drainctl_tests::{cmd, dist::Dist};

#[test]
fn both_programs_run_in_an_empty_root() -> Result<()> {
    let dist = Dist::from_env()?;
    for program in [dist.drainctl(), dist.agent()] {
        let root = tempfile::tempdir()?;
        let name = program.file_name().and_then(|name| name.to_str()).context("a name")?;
        cmd::copy_program(&program, &root.path().join(name))?;
        let root = root.path().to_str().context("a path")?;
        let version = cmd::run("chroot", &[root, &format!("/{name}"), "--version"])?;
        ensure!(version.starts_with(&format!("{name} ")), "{version}");
    }
    Ok(())
}

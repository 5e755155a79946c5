//! `--bin-dir`: the command line for pods.

use anyhow::{Context, Result, ensure};
use drainctl_tests::{agent::Agent, cmd};

#[test]
fn the_command_line_is_installed_and_a_folder_it_cannot_be_run_from_is_said() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bin = dir.path().join("bin");
    let path = bin.to_str().context("path")?.to_owned();
    let agent = Agent::start_with(&["--bin-dir", &path])?;
    let version = cmd::run(&format!("{path}/drainctl"), &["--version"])?;
    ensure!(version.starts_with("drainctl "), "{version}");
    ensure!(!agent.log().contains("noexec"), "{}", agent.log());
    drop(agent);

    cmd::run("mount", &["-t", "tmpfs", "-o", "noexec", "tmpfs", &path])?;
    let started = Agent::start_with(&["--bin-dir", &path]);
    let unmounted = cmd::run("umount", &[&path]);
    let agent = started?;
    unmounted?;
    ensure!(agent.log().contains("it is mounted noexec"), "{}", agent.log());
    Ok(())
}

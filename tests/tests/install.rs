//! `--bin-dir`, the command line for pods; and the manual pages.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{agent::Agent, cmd, dist::Dist};

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

/// The long options that a text names.
fn options(text: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let words = text.split(|c| !is_word(c)).filter(|word| word.starts_with("--"));
    words.filter(|word| word.len() > 2).map(str::to_owned).collect()
}

#[test]
fn every_option_is_in_a_manual_page() -> Result<()> {
    let (dist, dir) = (Dist::from_env()?, tempfile::tempdir()?);
    let text = |path: std::path::PathBuf| path.into_os_string().into_string();
    let program = |path| text(path).map_err(|path| anyhow::anyhow!("{path:?} is not UTF-8"));
    let (agent, drainctl) = (program(dist.agent())?, program(dist.drainctl())?);
    cmd::run(&drainctl, &["man", dir.path().to_str().context("a path")?])?;
    let pages = [
        (&agent, None, "drain-agent.8"),
        (&drainctl, Some("rollout"), "drainctl-rollout.1"),
        (&drainctl, Some("run"), "drainctl-run.1"),
    ];
    for (program, verb, name) in pages {
        let words: Vec<&str> = verb.into_iter().chain(["--help"]).collect();
        let asked = options(&cmd::run(program, &words)?);
        // Without what roff(7) says of fonts and dashes.
        let mut page = fs::read_to_string(dir.path().join(name))?.replace("\\-", "-");
        for font in ["\\fB", "\\fI", "\\fR"] {
            page = page.replace(font, " ");
        }
        let missing: Vec<_> = asked.difference(&options(&page)).cloned().collect();
        ensure!(asked.len() > 15 && missing.is_empty(), "{name} has no word of {missing:?}");
        ensure!(page.contains("Exit codes:"), "{name} does not name exit codes");
    }
    Ok(())
}

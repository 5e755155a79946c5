//! Running other programs to their end.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};

/// Runs a program and returns what it printed; an error with its messages if it failed.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    run_with_input(program, args, "")
}

/// The same, with `input` on its standard input.
pub fn run_with_input(program: &str, args: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args);
    let output = output(&mut command, input)?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}: {stderr}{stdout}{input}", args.join(" "), output.status);
    }
    Ok(stdout)
}

/// Copies a program that is to be run, by a process of its own: what another thread starts meanwhile would have a copy that
/// is made here open for writing, and it could not be run (ETXTBSY).
pub fn copy_program(from: &Path, to: &Path) -> Result<()> {
    let path = |path: &Path| path.to_str().context("a path of letters").map(str::to_owned);
    run("cp", &[&path(from)?, &path(to)?]).map(drop)
}

/// Runs a command with `input` on its standard input and collects what it prints, whatever its status.
pub fn output(command: &mut Command, input: &str) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {name}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that has seen enough may close its input early: its status tells.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().with_context(|| format!("wait for {name}"))
}

//! Clients of the agent's socket that mean harm.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{agent::Agent, netns::Netns, process::Process};

/// What they do: a program, so that the kernel says of them that they live in their namespace.
const PROGRAM: &str = include_str!("hostile.py");

/// Has root attack the agent with 2,000 connections from inside a namespace, until this is dropped. `service` is the
/// id of one that is draining there.
pub fn attack(agent: &Agent, netns: &Netns, service: &str) -> Result<Process> {
    let mut command = Command::new("python3");
    command.args(["-c", PROGRAM]).arg(agent.socket()).arg(service);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = netns.run(|| command.spawn().context("start python3"))?;
    let output = child.stdout.take().context("python3 has an output")?;
    let process = Process::new(child, "hostile clients");
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    ensure!(line == "attacking\n", "they say {line:?}");
    Ok(process)
}

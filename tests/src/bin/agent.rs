//! A `drain-agent` that a test can have killed in the middle of a step (`DRAINCTL_FAILPOINT`), or be of another
//! version (`--abi`).

use std::{io, path::PathBuf};

use anyhow::Result;
use clap::Parser;
use drainctl_agent::{
    daemon::{self, Options},
    pods::{ClusterOptions, Mode},
    registries,
};

#[derive(Parser)]
struct Flags {
    #[arg(long)]
    socket: PathBuf,
    #[arg(long)]
    pin_dir: PathBuf,
    #[arg(long)]
    abi: Option<u32>,
    #[arg(long)]
    registries: Option<PathBuf>,
}

fn main() -> Result<()> {
    let Flags { socket, pin_dir, abi, registries } = Flags::parse();
    let registries = registries.map(|path| registries::read(&path)).transpose()?;
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).init();
    Ok(daemon::run(&Options {
        socket,
        tcp: None,
        agent_check: None,
        pin_dir,
        cgroup: None,
        max_flows: 65_536,
        max_services: 16_384,
        probe_cgroup: None,
        client_history: 65_536,
        max_carried: 10_000,
        cluster: ClusterOptions { mode: Mode::Off, ..ClusterOptions::default() },
        cri_socket: None,
        pod_logs: "/nonexistent".into(),
        registries: registries.unwrap_or_default(),
        version: abi,
    })?)
}

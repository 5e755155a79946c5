//! The daemon `drain-agent`: flags in, exit code out ([`drainctl_agent::flags`] has both);
//! [`drainctl_agent::daemon`] does the work.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser as _;
use drainctl_agent::{
    daemon::{self, Options},
    flags::{Flags, LogFormat},
    registries,
};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match run(Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drain-agent: {error:#}");
            // What was asked for makes no sense.
            if error.is::<registries::FileError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn run(flags: Flags) -> anyhow::Result<()> {
    start_log(&flags.log, flags.log_format)?;
    if flags.uninstall {
        if let Some(dir) = &flags.bin_dir {
            daemon::remove_program(dir)?;
        }
        return Ok(daemon::uninstall(&flags.pin_dir)?);
    }
    if let Some(dir) = &flags.bin_dir {
        daemon::install_program(dir)?;
    }
    let registries = match &flags.registries {
        Some(path) => registries::read(path)?,
        None => Vec::new(),
    };
    Ok(daemon::run(&Options { registries, ..flags.into() })?)
}

fn start_log(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).context("cannot read the log filter")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // A file or a journal is for grep, not for colours.
        .with_ansi(io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    started.map_err(anyhow::Error::from_boxed).context("cannot start the log")
}

//! Arguments of the verbs that change nothing.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{Ports, TargetArgs, value};

/// Arguments of `status` and `watch`.
#[derive(Debug, Args)]
pub(in crate::cli) struct StatusArgs {
    /// Only these TCP ports, 1 to 65535; several as 80,443 or by repeating the option [default: all]
    #[arg(long = "port", value_name = "PORT", value_delimiter = ',', value_parser = value::port)]
    pub(in crate::cli) ports: Vec<u16>,
    /// Every network namespace of the node; for node admins (root of the host)
    #[arg(long, conflicts_with = "target")]
    pub(in crate::cli) all: bool,
    #[command(flatten)]
    pub(in crate::cli) target: TargetArgs,
}

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub(in crate::cli) struct WaitArgs {
    #[command(flatten)]
    pub(in crate::cli) ports: Ports,
    /// The state to wait for; all ports must be in it
    #[arg(long = "for", value_enum)]
    pub(in crate::cli) until: Until,
    /// Give up after this long and exit 3
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = value::duration)]
    pub(in crate::cli) timeout: Duration,
    #[command(flatten)]
    pub(in crate::cli) target: TargetArgs,
}

/// What `wait` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Until {
    /// The ports are closed and proven empty
    Drained,
    /// The ports are not draining
    Serving,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(in crate::cli) struct DoctorArgs {
    #[command(flatten)]
    pub(in crate::cli) target: TargetArgs,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(in crate::cli) struct CompletionsArgs {
    /// Which shell
    pub(in crate::cli) shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ManArgs {
    /// Where to; it must be there
    #[arg(value_name = "DIR")]
    pub(in crate::cli) dir: PathBuf,
}

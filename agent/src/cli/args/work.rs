//! Arguments of the verbs that run a command.

use std::{ffi::OsString, time::Duration};

use clap::Args;

use super::{DrainArgs, TargetArgs, value};
use crate::{cli::value::IfUnreachable, drain::HoldName};

/// Arguments of `hold`.
#[derive(Debug, Args)]
pub(in crate::cli) struct HoldArgs {
    /// The TCP port, 1 to 65535
    #[arg(long, value_name = "PORT", value_parser = value::port)]
    pub(in crate::cli) port: u16,
    /// The hold's name, of 1 to 64 letters, digits and . _ - :; of one port, each names one hold
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) name: HoldName,
    /// When the hold ends if nobody renews it, 1s to 24h; drainctl renews it while the command runs
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = value::duration)]
    pub(in crate::cli) ttl: Duration,
    /// Exit 8, and run nothing, if the port is draining and not held by this name yet: for work that is new
    #[arg(long)]
    pub(in crate::cli) unless_draining: bool,
    /// End the hold
    #[arg(long, conflicts_with_all = ["ttl", "unless_draining", "command"])]
    pub(in crate::cli) release: bool,
    /// What to do if the agent cannot be reached: try for a while, or exit 4 at once
    #[arg(long, value_name = "wait=DURATION|fail", default_value = "wait=5s")]
    pub(in crate::cli) if_unreachable: IfUnreachable,
    #[command(flatten)]
    pub(in crate::cli) target: TargetArgs,
    /// The command to run while the port is held
    #[arg(last = true, value_name = "COMMAND")]
    pub(in crate::cli) command: Vec<OsString>,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(in crate::cli) struct RunArgs {
    #[command(flatten)]
    pub(in crate::cli) drain: DrainArgs,
    /// At SIGHUP: how long the new version may take until it listens; then it is stopped, and the old one goes on
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = value::duration)]
    pub(in crate::cli) ready_timeout: Duration,
    /// The server and its arguments; it must stay in the foreground
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(in crate::cli) command: Vec<OsString>,
}

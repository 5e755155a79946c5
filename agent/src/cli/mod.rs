//! The command line: `drainctl`. One verb a file; each turns its arguments into requests to the agent, waits
//! if it has to, and ends with one of the documented exit codes ([`Exit`]).

mod access;
mod admission;
mod agent;
mod args;
mod child;
mod client;
mod doctor;
mod drain;
mod exit;
#[cfg(test)]
mod fake;
mod flows;
mod follow;
mod hold;
mod hook;
mod leaving;
mod manual;
mod new;
mod progress;
mod ready;
mod rollout;
mod run;
mod services;
mod status;
mod target;
#[cfg(test)]
mod tests;
mod text;
mod undrain;
mod validity;
mod value;
mod wait;
mod waiting;
mod watch;
mod watched;

use std::ffi::OsString;

use clap::Parser;
use serde_json::json;

pub use agent::Dial;
pub(crate) use agent::Stream;
pub use exit::Exit;
pub use hook::{Mistake, drain_for_hook};
pub(crate) use new::addresses;
pub use text::Streams;

use agent::{AgentAddress, Way};
use args::{Cli, Verb};
use client::Client;
use exit::Failure;

/// Runs `drainctl` with these arguments (the first is the program's name). Blocks until it is done; failures
/// are told on `streams.err`, never panicked.
pub fn run(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    streams: &mut Streams,
) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return explain(&error, streams),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(&cli, streams, interrupted())),
        Err(error) => {
            Err(Failure::new(Exit::Internal, format!("cannot start the async runtime: {error}")))
        }
    };
    result.unwrap_or_else(|failure| {
        tell(&failure, cli.common.json, streams);
        failure.exit
    })
}

/// Runs one verb. `interrupt` becomes ready when the user gives up; only `drain` asks.
async fn dispatch(
    cli: &Cli,
    streams: &mut Streams<'_>,
    interrupt: impl Future<Output = ()>,
) -> Result<Exit, Failure> {
    let json = cli.common.json;
    let common = &cli.common;
    if let (AgentAddress::Url(_), Some(target)) = (&common.agent, cli.verb.target()) {
        target::check_from_afar(target)?;
    }
    // Not all of them ask an agent.
    let client = || Ok::<_, Failure>(Client::new(Way::new(&common.agent, &common.access)?));
    match &cli.verb {
        Verb::Drain(args) => drain::run(args, &client()?, streams, json, interrupt).await,
        Verb::Hold(args) => hold::run(args, &client()?, streams, json).await,
        Verb::Run(args) => run::run(args, &client()?, streams, json).await,
        Verb::Undrain(args) => undrain::run(args, &client()?, streams, json).await,
        Verb::Status(args) => status::run(args, &client()?, streams, json).await,
        Verb::Watch(args) => watch::run(args, &client()?, json).await,
        Verb::Flows(args) => flows::run(args, &client()?, streams, json).await,
        Verb::Ready(args) => ready::run(args, &client()?, streams, json).await,
        Verb::Wait(args) => wait::run(args, &client()?, streams, json).await,
        Verb::Rollout(args) => rollout::run(args, common, streams).await,
        Verb::Doctor(args) => doctor::run(args, &client()?, streams, json).await,
        Verb::Completions(args) => Ok(manual::completions(args, streams)),
        Verb::Man(args) => manual::pages(args, streams, json),
    }
}

/// Ready at Ctrl-C; never, where that cannot be watched (the signal then ends the process as usual).
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Help and version go to stdout with 0, mistakes to stderr with 2.
fn explain(error: &clap::Error, streams: &mut Streams) -> Exit {
    let text = error.render().to_string();
    if error.use_stderr() {
        streams.raw(&text);
        Exit::Usage
    } else {
        streams.say(text.trim_end());
        Exit::Done
    }
}

/// Tells a failure on stderr.
fn tell(failure: &Failure, as_json: bool, streams: &mut Streams) {
    if as_json {
        let error = json!({ "code": failure.exit.name(), "message": failure.message });
        streams.note(&json!({ "error": error, "exit": failure.exit.code() }).to_string());
    } else {
        streams.note(&format!("drainctl: {failure}"));
    }
}

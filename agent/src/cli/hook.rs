//! `drainctl drain` without a process: what a preStop hook over HTTP asks the agent for, done by the same code that
//! does it for a hook that runs the program, and by the same options.

use clap::Parser;

use super::{
    agent::{Dial, Way},
    args::{Cli, Verb},
    client::Client,
    drain,
    exit::Exit,
    text::Streams,
};

/// The options make no drain; why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Mistake(String);

/// Drains with these options of `drainctl drain`, in the namespace that the agent has for who dials, and waits for
/// the end. Returns how it went, and in what words.
///
/// # Errors
/// They are no such options. Nothing was done.
pub async fn drain_for_hook(options: &[String], dial: Dial) -> Result<(Exit, String), Mistake> {
    let words = ["drainctl", "drain"].into_iter().map(str::to_owned);
    let cli = Cli::try_parse_from(words.chain(options.iter().cloned()));
    let cli = cli.map_err(|error| Mistake(error.render().to_string()))?;
    let Verb::Drain(args) = cli.verb else { return Err(Mistake("not a drain".into())) };
    let client = Client::new(Way::within(dial));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut streams = Streams { out: &mut out, err: &mut err, live: false };
    let result = drain::run(&args, &client, &mut streams, false, std::future::pending()).await;
    let exit = match result {
        Ok(exit) => exit,
        Err(failure) => {
            streams.note(&format!("drainctl: {failure}"));
            failure.exit
        }
    };
    out.extend(err);
    Ok((exit, String::from_utf8_lossy(&out).into_owned()))
}

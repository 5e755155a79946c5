//! `drainctl wait`: blocks until ports are in a state, without changing anything.

use serde::Serialize;
use tokio::time::Instant;

use super::{
    args::{Until, WaitArgs},
    client::Client,
    exit::{Exit, Failure},
    follow::follow,
    progress::Progress,
    services,
    target::Target,
    text::{self, Streams},
    watched::{Goal, Verdict, Watched},
};
use crate::api::protocol::ServiceStatus;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    /// `reached`, `timeout`, `unknown` or `ended`.
    outcome: &'static str,
    /// The exit code.
    exit: u8,
    /// As last heard of, in the order asked for.
    services: Vec<&'a ServiceStatus>,
    /// Since drainctl first asked.
    seconds: f64,
    /// Why, where the outcome is `unknown` or `ended`; else null.
    reason: Option<&'a str>,
}

/// Runs the verb.
///
/// # Errors
/// A port is not there (6), or as the agent says.
pub(super) async fn run(
    args: &WaitArgs,
    client: &Client,
    streams: &mut Streams<'_>,
    json: bool,
) -> Result<Exit, Failure> {
    let target = Target::find(&args.target)?;
    let began = Instant::now();
    let mut found = Vec::new();
    for port in args.ports.distinct() {
        found.push(services::find(client, &target, port).await?);
    }
    let goal = Goal::Wait(args.until, began + args.timeout);
    let mut watched = Watched::new(goal, found, Instant::now());
    let verdict = {
        let mut progress = Progress::new(streams, json);
        watched.services().for_each(|service| progress.changed(service));
        follow(client, &mut watched, &mut progress).await?
    };
    let seconds = began.elapsed().as_secs_f64();
    let (outcome, exit, reason) = match &verdict {
        Verdict::Reached => ("reached", Exit::Done, None),
        Verdict::Remaining => ("timeout", Exit::Deadline, None),
        Verdict::Unknown(why) => ("unknown", Exit::Unverifiable, Some(&**why)),
        Verdict::GaveUp(why) => ("gave_up", Exit::Deadline, Some(&**why)),
        Verdict::Ended(why) => ("ended", Exit::Ended, Some(&**why)),
    };
    if json {
        let services = watched.services().collect();
        streams.say_json(&Outcome { outcome, exit: exit.code(), services, seconds, reason });
    } else {
        tell(&verdict, args, seconds, streams);
    }
    Ok(exit)
}

fn tell(verdict: &Verdict, args: &WaitArgs, seconds: f64, streams: &mut Streams<'_>) {
    let ports = text::ports(&args.ports.distinct());
    let state = match args.until {
        Until::Drained => "drained",
        Until::Serving => "serving",
    };
    match verdict {
        Verdict::Reached => streams.say(&format!("{state}: {ports}, after {seconds:.1}s")),
        Verdict::Remaining => {
            streams.note(&format!("drainctl: {ports} not {state} within {seconds:.1}s"));
        }
        Verdict::Unknown(why) => {
            streams
                .note(&format!("drainctl: it cannot be known whether {ports} is {state}: {why}"));
        }
        Verdict::GaveUp(why) | Verdict::Ended(why) => {
            streams.note(&format!("drainctl: the drain ended before it was drained: {why}"));
        }
    }
}

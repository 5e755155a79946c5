//! `drainctl hold`: keeps a port from being drained, while a command runs or for a time.

use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    args::HoldArgs,
    child::{Children, Happened, comes_from_the_terminal, exit_code_of, name},
    client::{Client, ClientError},
    exit::{Exit, Failure},
    follow::Backoff,
    services,
    target::Target,
    text::{self, Streams},
    value::IfUnreachable,
};
use crate::{
    api::protocol::{HoldAccepted, HoldName, HoldRequest, Released, ServiceStatus},
    drain::check_ttl,
};

/// How often at least a renewal that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// For how long releasing is tried once the command has ended, or is not to be run any more.
const RELEASE_WITHIN: Duration = Duration::from_secs(2);

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Outcome {
    /// `held`, `renewed`, `released` or `not_held`.
    outcome: &'static str,
    /// The service as it is now.
    service: ServiceStatus,
}

/// Runs the verb.
///
/// # Errors
/// The port is not held, and no command was run.
pub(super) async fn run(
    args: &HoldArgs,
    client: &Client,
    streams: &mut Streams<'_>,
    json: bool,
) -> Result<Exit, Failure> {
    let target = Target::find(&args.target)?;
    if args.release {
        return release(args, &target, client, streams, json).await;
    }
    check_ttl(args.ttl)
        .map_err(|error| Failure::new(Exit::Usage, format!("{error}; nothing was changed")))?;
    let request = target.fill_hold(HoldRequest {
        port: args.port,
        netns: None,
        pod: None,
        container: None,
        name: args.name.clone(),
        ttl_ms: Some(args.ttl.as_millis() as u64),
        unless_draining: args.unless_draining,
    });
    if args.command.is_empty() {
        let held = set(args, client, &request, streams).await?;
        return Ok(is_held(args, &target, client, held, streams, json));
    }
    // Before anything is held: no signal may end us with a hold that nobody releases.
    let mut children = Children::new()?;
    let held = tokio::select! {
        held = set(args, client, &request, streams) => held?,
        signal = told_to_end(&mut children) => {
            // It may have been set by now.
            let released = async {
                let service = services::find(client, &target, args.port).await?;
                Ok::<_, Failure>(release_soon(client, &path(&service.id, &args.name)).await?)
            };
            let _ = timeout(RELEASE_WITHIN, released).await;
            let message = format!("{}: the command was not run", name(signal));
            return Err(Failure::new(Exit::Command(exit_code_of(signal)), message));
        }
    };
    run_held(args, client, request, &held.service.id, children, streams).await
}

/// Waits for a signal that is to end us, while there is no command yet that it could be for.
async fn told_to_end(children: &mut Children) -> Signal {
    loop {
        if let Happened::Told(signal @ (Signal::TERM | Signal::INT | Signal::HUP | Signal::QUIT)) =
            children.next().await
        {
            return signal;
        }
    }
}

fn is_held(
    args: &HoldArgs,
    target: &Target,
    client: &Client,
    held: HoldAccepted,
    streams: &mut Streams<'_>,
    json: bool,
) -> Exit {
    let outcome = if held.renewed { "renewed" } else { "held" };
    if json {
        streams.say_json(&Outcome { outcome, service: held.service });
        return Exit::Done;
    }
    let HoldArgs { port, name, ttl, .. } = args;
    let ttl = text::duration(ttl.as_millis() as u64);
    streams.say(&format!(
        "{outcome}: port {port} is not drained before {name} is released, or {ttl} have passed"
    ));
    streams.say(&format!(
        "to end it: drainctl hold --port {port} --name {name} --release{}{}",
        target.options(),
        client.options()
    ));
    Exit::Done
}

async fn release(
    args: &HoldArgs,
    target: &Target,
    client: &Client,
    streams: &mut Streams<'_>,
    json: bool,
) -> Result<Exit, Failure> {
    let HoldArgs { port, name, .. } = args;
    let service = services::find(client, target, *port).await?;
    let Released { service, was_held } = client.delete(&path(&service.id, name)).await?;
    let outcome = if was_held { "released" } else { "not_held" };
    match (json, was_held) {
        (true, _) => streams.say_json(&Outcome { outcome, service }),
        (false, true) => streams.say(&format!("released: {name} holds port {port} no more")),
        (false, false) => streams
            .say(&format!("note: {name} did not hold port {port} (any more); nothing was changed")),
    }
    Ok(Exit::Done)
}

fn path(id: &str, name: &HoldName) -> String {
    format!("/v1/holds/{id}/{name}")
}

/// Asks for the hold, again and again if the agent cannot be reached and the arguments want that.
async fn set(
    args: &HoldArgs,
    client: &Client,
    request: &HoldRequest,
    streams: &mut Streams<'_>,
) -> Result<HoldAccepted, Failure> {
    let wait = match args.if_unreachable {
        IfUnreachable::Wait(wait) => wait,
        IfUnreachable::Fail => Duration::ZERO,
    };
    let limit = Instant::now() + wait;
    let (mut backoff, mut told) = (Backoff::new(), false);
    loop {
        match client.post("/v1/holds", request).await {
            Err(ClientError::Unreachable { why, .. }) if Instant::now() < limit => {
                if !std::mem::replace(&mut told, true) {
                    let agent = client.address();
                    let wait = text::duration(wait.as_millis() as u64);
                    streams.note(&format!(
                        "drainctl: cannot reach the agent at {agent} ({why}); trying again for {wait}"
                    ));
                }
            }
            result => return result.map_err(Failure::from),
        }
        backoff.pause(limit).await;
    }
}

/// Runs the command, and releases the hold when it has ended.
async fn run_held(
    args: &HoldArgs,
    client: &Client,
    request: HoldRequest,
    id: &str,
    mut children: Children,
    streams: &mut Streams<'_>,
) -> Result<Exit, Failure> {
    let code = match children.spawn(&args.command) {
        Ok(child) => Ok(attend(args, client, request, &mut children, child, streams).await),
        Err(failure) => Err(failure),
    };
    let path = path(id, &args.name);
    if let Err(why) = release_soon(client, &path).await {
        streams.note(&format!(
            "drainctl: {} could not be released ({why}); it ends by itself, at most {} from now",
            args.name,
            text::duration(args.ttl.as_millis() as u64)
        ));
    }
    code.map(Exit::Command)
}

/// Passes signals on to the command until it has ended, and renews the hold meanwhile.
async fn attend(
    args: &HoldArgs,
    client: &Client,
    request: HoldRequest,
    children: &mut Children,
    child: Pid,
    streams: &mut Streams<'_>,
) -> u8 {
    let (notes, mut noted) = mpsc::unbounded_channel();
    let renewing = tokio::spawn(renew(client.clone(), request, args.ttl, notes));
    let code = loop {
        tokio::select! {
            Some(note) = noted.recv() => streams.note(&format!("drainctl: {note}")),
            happened = children.next() => match happened {
                Happened::Ended(ended, code) if ended == child => break code,
                Happened::Ended(..) => {}
                Happened::Told(signal) if comes_from_the_terminal(signal) => {}
                Happened::Told(signal) => children.tell(child, signal),
            },
        }
    };
    renewing.abort();
    code
}

/// Renews the hold until it is aborted. What happens to it is noted once.
async fn renew(
    client: Client,
    request: HoldRequest,
    ttl: Duration,
    notes: mpsc::UnboundedSender<String>,
) {
    // Work that has begun goes on, however long the agent was away.
    let request = HoldRequest { unless_draining: false, ..request };
    let mut trouble = false;
    loop {
        sleep(if trouble { TRY_AGAIN.min(ttl / 3) } else { ttl / 3 }).await;
        let renewed: Result<HoldAccepted, ClientError> = client.post("/v1/holds", &request).await;
        let note = match (renewed, trouble) {
            (Ok(_), true) => Some(format!("{} is renewed again", request.name)),
            (Err(why), false) => Some(format!(
                "{} cannot be renewed: {why}; the command goes on, and the hold ends at its --ttl",
                request.name
            )),
            (Ok(_), false) => None,
            (Err(_), true) => continue,
        };
        trouble = note.is_some() && !trouble;
        // Nobody reads it once the command has ended.
        note.into_iter().for_each(|note| drop(notes.send(note)));
    }
}

/// Releases the hold. One that is over already, with all else of its service, is no failure.
async fn release_soon(client: &Client, path: &str) -> Result<(), ClientError> {
    let limit = Instant::now() + RELEASE_WITHIN;
    let mut backoff = Backoff::new();
    loop {
        match client.delete::<Released>(path).await {
            Err(ClientError::Unreachable { .. }) if Instant::now() < limit => {}
            Err(ClientError::Refused { exit: Exit::NoSuchService, .. }) => return Ok(()),
            result => return result.map(drop),
        }
        backoff.pause(limit).await;
    }
}

//! `drainctl drain`: takes ports out of service and waits for the proof.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use super::{
    args::{self, DrainArgs},
    client::{Client, ClientError},
    exit::{Exit, Failure},
    flows,
    follow::{Backoff, follow},
    leaving, new,
    progress::Progress,
    target::Target,
    text::{self, Streams},
    undrain,
    value::{self, IfUnreachable, Timeout},
    waiting,
    watched::{self, Goal, Verdict, Watched},
};
use crate::{
    api::protocol::{
        AtDeadline, DrainAccepted, DrainRequest, MAX_PORTS, NewConnections, ServiceStatus,
        StateName,
    },
    drain::{RetireSet, Spec},
};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    /// `started` (only with `--no-wait`), `drained`, `expired`, `unknown` or `ended`.
    outcome: &'static str,
    /// The exit code.
    exit: u8,
    /// Every service of the drain, as last heard of.
    services: Vec<&'a ServiceStatus>,
    /// Since drainctl first asked.
    seconds: f64,
    /// Why, where the outcome is `unknown` or `ended`; else null.
    reason: Option<&'a str>,
    /// Whether a drain that was already there was joined.
    joined: bool,
}

/// Runs the verb. When `interrupt` becomes ready the drain is left in place, and the failure says how to end it.
///
/// # Errors
/// No drain was accepted, or the agent broke the protocol, or `interrupt` became ready.
pub(super) async fn run(
    args: &DrainArgs,
    client: &Client,
    streams: &mut Streams<'_>,
    json: bool,
    interrupt: impl Future<Output = ()>,
) -> Result<Exit, Failure> {
    let (request, target) = checked(args).await?;
    let accepted = AtomicBool::new(false);
    let done = tokio::select! {
        done = drain(args, &request, &target, client, streams, json, &accepted) => Some(done),
        () = interrupt => None,
    };
    done.unwrap_or_else(|| {
        Err(interrupted(&request, &target, client, accepted.load(Ordering::Relaxed)))
    })
}

/// Refuses options that contradict each other.
///
/// # Errors
/// They do (exit code 2).
pub(super) fn check_options(args: &DrainArgs, target: &Target) -> Result<(), Failure> {
    check(&request(args, NewConnections::Reject, target)?)
}

/// What these arguments mean, as far as that can be told without the agent.
///
/// # Errors
/// They contradict each other, or there is no such target.
pub(super) async fn checked(args: &DrainArgs) -> Result<(DrainRequest, Target), Failure> {
    let target = Target::find(&args.target)?;
    let new = new::connections(&args.new, args.proxy_protocol).await?;
    let request = request(args, new, &target)?;
    check(&request)?;
    Ok((request, target))
}

/// As [`run`], for somebody who looks after the drain: `accepted` tells when the agent has accepted it.
///
/// # Errors
/// No drain was accepted, or the agent broke the protocol.
pub(super) async fn attended(
    args: &DrainArgs,
    client: &Client,
    streams: &mut Streams<'_>,
    json: bool,
    accepted: &AtomicBool,
) -> Result<Exit, Failure> {
    let (request, target) = checked(args).await?;
    drain(args, &request, &target, client, streams, json, accepted).await
}

/// The request that these arguments mean.
fn request(
    args: &DrainArgs,
    new: NewConnections,
    target: &Target,
) -> Result<DrainRequest, Failure> {
    let ports = value::distinct(&args.ports);
    if ports.len() > MAX_PORTS {
        return Err(usage(format!(
            "one drain takes at most {MAX_PORTS} ports, not {}",
            ports.len()
        )));
    }
    let (admission, retire) = (&args.admission, &args.retire);
    let ms = |value: Option<Duration>| value.map(|value| value.as_millis() as u64);
    Ok(target.fill(DrainRequest {
        ports,
        netns: None,
        pod: None,
        container: None,
        quiet_ms: ms(args.quiet),
        min_settle_ms: ms(args.min_settle),
        max_settle_ms: ms(args.max_settle),
        timeout_ms: ms(args.timeout.and_then(Timeout::asked)),
        lease_ms: ms(args.lease),
        keep_closed: args.keep_closed,
        close_anyway: args.close_anyway,
        new,
        ignore: admission.ignore.clone(),
        allow: admission.allow.clone(),
        fail_health_from: admission.fail_health_from.clone(),
        keep_clients_ms: ms(admission.keep_clients),
        retire: retire.retire.map(RetireSet::kinds),
        idle_after_ms: ms(retire.idle_after),
        quiet_flow_after_ms: ms(retire.quiet_flow_after),
        linger_ms: ms(retire.linger),
        spread_ms: ms(retire.spread),
        at_deadline: retire.at_deadline.map(|at_deadline| match at_deadline {
            args::AtDeadline::Leave => AtDeadline::Leave,
            args::AtDeadline::Abort => AtDeadline::Abort,
        }),
        wait_outbound: args.wait_outbound.clone(),
    }))
}

/// Refuses options that contradict each other before anything is sent, by the agent's own rules; it checks
/// again. How long the timeout is that was left out only the agent knows.
fn check(request: &DrainRequest) -> Result<(), Failure> {
    match Spec::try_from(request) {
        Err(error) if request.timeout_ms.is_none() && error.is_about_the_timeout() => Ok(()),
        checked => checked.map(drop).map_err(|error| usage(error.to_string())),
    }
}

fn usage(message: String) -> Failure {
    Failure::new(Exit::Usage, format!("{message}; nothing was changed"))
}

/// Starts the drain and, unless told otherwise, waits for its end.
async fn drain(
    args: &DrainArgs,
    request: &DrainRequest,
    target: &Target,
    client: &Client,
    streams: &mut Streams<'_>,
    json: bool,
    accepted: &AtomicBool,
) -> Result<Exit, Failure> {
    let began = Instant::now();
    let mut progress = Progress::new(streams, json);
    let started = start(args, client, request, &mut progress).await?;
    accepted.store(true, Ordering::Relaxed);
    let joined = started.joined;
    started.notes.iter().for_each(|note| progress.note(note));
    if args.no_wait {
        drop(progress);
        return Ok(under_way(&started, target, client, streams, json));
    }
    let mut watched = Watched::new(Goal::Drain, started.services, Instant::now());
    watched.services().for_each(|service| progress.changed(service));
    let verdict = follow(client, &mut watched, &mut progress).await?;
    drop(progress);
    let seconds = began.elapsed().as_secs_f64();
    let (outcome, exit, reason) = words(&verdict);
    if json {
        let services = watched.services().collect();
        let exit = exit.code();
        streams.say_json(&Outcome { outcome, exit, services, seconds, reason, joined });
    } else {
        tell(&verdict, &watched, seconds, streams);
        if verdict == Verdict::Remaining {
            flows::remaining(client, watched.services(), streams).await;
        }
    }
    Ok(exit)
}

/// The outcome's name in JSON, the exit code, and the reason if there is one.
fn words(verdict: &Verdict) -> (&'static str, Exit, Option<&str>) {
    match verdict {
        Verdict::Reached => ("drained", Exit::Done, None),
        Verdict::Remaining => ("expired", Exit::Deadline, None),
        Verdict::Unknown(why) => ("unknown", Exit::Unverifiable, Some(why)),
        Verdict::GaveUp(why) => ("gave_up", Exit::Deadline, Some(why)),
        Verdict::Ended(why) => ("ended", Exit::Ended, Some(why)),
    }
}

/// Asks the agent, again and again if it cannot be reached and the arguments want that. Asking twice is
/// harmless: the second request joins the drain of the first.
async fn start(
    args: &DrainArgs,
    client: &Client,
    request: &DrainRequest,
    progress: &mut Progress<'_, '_>,
) -> Result<DrainAccepted, Failure> {
    let wait = match args.if_unreachable {
        IfUnreachable::Wait(wait) => wait,
        IfUnreachable::Fail => Duration::ZERO,
    };
    let limit = Instant::now() + wait;
    let mut backoff = Backoff::new();
    let mut told = false;
    loop {
        match client.post("/v1/drains", request).await {
            Err(ClientError::Unreachable { why, .. }) if Instant::now() < limit => {
                if !std::mem::replace(&mut told, true) {
                    progress.note(&format!(
                        "cannot reach the agent at {} ({why}); trying again for {}",
                        client.address(),
                        text::duration(wait.as_millis() as u64)
                    ));
                }
            }
            result => return result.map_err(Failure::from),
        }
        backoff.pause(limit).await;
    }
}

/// What `--no-wait` prints.
fn under_way(
    started: &DrainAccepted,
    target: &Target,
    client: &Client,
    streams: &mut Streams<'_>,
    json: bool,
) -> Exit {
    if json {
        streams.say_json(&Outcome {
            outcome: "started",
            exit: Exit::Done.code(),
            services: started.services.iter().collect(),
            seconds: 0.0,
            reason: None,
            joined: started.joined,
        });
        return Exit::Done;
    }
    let ports: Vec<u16> = started.services.iter().map(|service| service.port).collect();
    let joined = if started.joined { " (joined a drain that was already there)" } else { "" };
    streams.say(&format!("draining: {}{joined}; nothing is proven yet", text::ports(&ports)));
    streams.say(&format!("to end it: {}", undrain::line(&ports, target, client)));
    Exit::Done
}

/// The verdict in a line: a success on stdout, everything else on stderr.
fn tell(verdict: &Verdict, watched: &Watched, seconds: f64, streams: &mut Streams<'_>) {
    let ports: Vec<u16> = watched.services().map(|service| service.port).collect();
    let ports = text::ports(&ports);
    let rejected = watched.services().map(|service| service.rejected).sum();
    let refused = text::count(rejected, "connection attempt");
    let (_, cut) = leaving::told_and_cut(watched.services());
    match verdict {
        Verdict::Reached => {
            let verb = if watched.services().count() == 1 { "is" } else { "are" };
            let cut = match cut {
                0 => String::new(),
                some => format!("; cut {} at the deadline", text::count(some, "connection")),
            };
            streams.say(&format!(
                "drained: {ports} {verb} proven empty after {seconds:.1}s \
                 (refused {refused} while draining{cut})"
            ));
        }
        Verdict::Remaining => streams.note(&format!(
            "drainctl: deadline passed after {seconds:.1}s: {}; new connections are still refused",
            what_remains(watched)
        )),
        Verdict::Unknown(why) => streams.note(&format!(
            "drainctl: it cannot be verified that {ports} is empty: {why}; \
             connections may remain, do not take it for drained"
        )),
        Verdict::GaveUp(why) => streams.note(&format!(
            "drainctl: not drained: {why}. To refuse connections all the same: --close-anyway; to have them \
             served by another pod: --new forward=ADDR"
        )),
        Verdict::Ended(why) => streams.note(&format!(
            "drainctl: the drain ended before it was drained: {why}; connections may remain"
        )),
    }
    if let Some(cut) = leaving::cut(watched.services()) {
        streams.note(&format!("drainctl: {cut}"));
    }
    for remark in watched.services().flat_map(leaving::remarks) {
        streams.note(&format!("drainctl: {remark}"));
    }
}

fn what_remains(watched: &Watched) -> String {
    let remaining = watched.services().filter(|service| remains(service));
    let each = remaining.map(|service| {
        let mut parts = vec![text::count(service.flows, "flow")];
        if let some @ 1.. = watched::carried(service) {
            parts.push(text::count(some, "carried connection"));
        }
        if service.handshakes > 0 {
            parts.push(text::count(service.handshakes, "handshake"));
        }
        if service.lingering > 0 {
            parts.push(format!("{} lingering", service.lingering));
        }
        let still = format!("port {} still has {}", service.port, parts.join(", "));
        waiting::summary(service).map_or(still.clone(), |summary| format!("{still}, and {summary}"))
    });
    each.collect::<Vec<_>>().join("; ")
}

/// Whether something is left of the service that its drain waits for.
pub(super) fn remains(service: &ServiceStatus) -> bool {
    service.state != StateName::Drained || watched::carried(service) > 0
}

fn interrupted(
    request: &DrainRequest,
    target: &Target,
    client: &Client,
    accepted: bool,
) -> Failure {
    let what = if accepted {
        "interrupted; the drain stays in place until its lease is over. To let traffic in again now, run:"
    } else {
        "interrupted before the agent answered. If the drain began all the same, this ends it:"
    };
    let line = undrain::line(&request.ports, target, client);
    Failure::new(Exit::Interrupted, format!("{what}\n    {line}"))
}

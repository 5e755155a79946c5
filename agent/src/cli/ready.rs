//! `drainctl ready`: is it safe to stop the server, now?

use hyper::StatusCode;
use serde::Serialize;

use super::{
    args::PortArgs,
    client::Client,
    exit::{Exit, Failure},
    target::Target,
    text::{self, Streams},
};
use crate::api::protocol::{ServiceStatus, StateName};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Outcome {
    /// Whether all are drained, proven just now.
    ready: bool,
    /// The exit code.
    exit: u8,
    /// In the order asked for.
    services: Vec<ServiceStatus>,
}

/// Runs the verb: 0 only if every port is drained; else 7 if a count cannot be verified, else 3.
///
/// # Errors
/// A port is not there (6), or as the agent says.
pub(super) async fn run(
    args: &PortArgs,
    client: &Client,
    streams: &mut Streams<'_>,
    json: bool,
) -> Result<Exit, Failure> {
    let target = Target::find(&args.target)?;
    let mut services = Vec::new();
    let mut exit = Exit::Done;
    for port in args.ports.distinct() {
        let (this, service) = ask(client, &target, port).await?;
        exit = worse(exit, this);
        if !json {
            streams.say(&sentence(&service, this));
        }
        services.push(service);
    }
    if json {
        streams.say_json(&Outcome { ready: exit == Exit::Done, exit: exit.code(), services });
    }
    Ok(exit)
}

/// Whether one port is drained, proven now, and what else is known of it.
///
/// # Errors
/// It is not there (6), or as the agent says.
pub(super) async fn ask(
    client: &Client,
    target: &Target,
    port: u16,
) -> Result<(Exit, ServiceStatus), Failure> {
    let mark = if target.query().is_some() { "?" } else { "" };
    let path = format!("/drained/{port}{mark}{}", target.query().unwrap_or_default());
    let (status, body) = client.get_raw(&path).await?;
    match (status, client.parse::<ServiceStatus>(&body)) {
        (StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE, Ok(service)) => {
            Ok((judge(status, &service), service))
        }
        // A success whose body is no service is no proof.
        (StatusCode::OK, Err(error)) => Err(error.into()),
        _ => Err(client.refusal(status, &body).into()),
    }
}

/// The agent's status and the service's state must both say drained.
fn judge(status: StatusCode, service: &ServiceStatus) -> Exit {
    if service.unknown.is_some() {
        Exit::Unverifiable
    } else if status == StatusCode::OK && service.state == StateName::Drained {
        Exit::Done
    } else {
        Exit::Deadline
    }
}

fn worse(one: Exit, other: Exit) -> Exit {
    match (one, other) {
        (Exit::Unverifiable, _) | (_, Exit::Unverifiable) => Exit::Unverifiable,
        (Exit::Done, other) => other,
        (one, _) => one,
    }
}

fn sentence(service: &ServiceStatus, exit: Exit) -> String {
    let port = service.port;
    if let Some(why) = &service.unknown {
        return format!("unknown: the count of port {port} cannot be verified: {why}");
    }
    match (exit, service.state) {
        (Exit::Done, _) => format!("ready: port {port} is drained, proven now"),
        (_, StateName::Serving) => format!("not ready: port {port} is not draining"),
        (_, state) => format!(
            "not ready: port {port} is {}, with {}, {} and {} lingering",
            state.as_str(),
            text::count(service.flows, "flow"),
            text::count(service.handshakes, "handshake"),
            service.lingering
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fake::service;

    #[test]
    fn only_a_proof_is_ready() {
        let ok = StatusCode::OK;
        let not_yet = StatusCode::SERVICE_UNAVAILABLE;
        let mut unknown = service(80, StateName::Drained);
        unknown.unknown = Some("no second look".into());
        let table = [
            ("proven", ok, service(80, StateName::Drained), Exit::Done),
            (
                "state drained, proof failed",
                not_yet,
                service(80, StateName::Drained),
                Exit::Deadline,
            ),
            ("status and state disagree", ok, service(80, StateName::Rejecting), Exit::Deadline),
            ("serving", not_yet, service(80, StateName::Serving), Exit::Deadline),
            ("unknown", ok, unknown, Exit::Unverifiable),
        ];
        for (what, status, service, exit) in table {
            assert_eq!(judge(status, &service), exit, "{what}");
        }
    }

    #[test]
    fn the_worst_of_several_ports_counts() {
        assert_eq!(worse(Exit::Done, Exit::Done), Exit::Done);
        assert_eq!(worse(Exit::Done, Exit::Deadline), Exit::Deadline);
        assert_eq!(worse(Exit::Deadline, Exit::Done), Exit::Deadline);
        assert_eq!(worse(Exit::Unverifiable, Exit::Deadline), Exit::Unverifiable);
    }
}

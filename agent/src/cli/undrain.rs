//! `drainctl undrain`: ends drains, so that traffic comes in again.

use serde::Serialize;

use super::{
    args::PortArgs,
    client::Client,
    exit::{Exit, Failure},
    services,
    target::Target,
    text::Streams,
};
use crate::api::protocol::Undrained;

/// What `--json` prints.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    /// One for each port that was found.
    services: Vec<Undrained>,
}

/// Runs the verb. A port that fails does not keep the others closed: all are tried, and the first failure
/// is the result.
///
/// # Errors
/// The first port that could not be undrained.
pub(super) async fn run(
    args: &PortArgs,
    client: &Client,
    streams: &mut Streams<'_>,
    json: bool,
) -> Result<Exit, Failure> {
    let target = Target::find(&args.target)?;
    let mut done = Outcome::default();
    let mut first_failure = None;
    for port in args.ports.distinct() {
        match undrain(client, &target, port).await {
            Ok(undrained) => done.services.push(undrained),
            Err(failure) if first_failure.is_none() => first_failure = Some(failure),
            Err(failure) if json => drop(failure),
            Err(failure) => streams.note(&format!("drainctl: {failure}")),
        }
    }
    if json {
        streams.say_json(&done);
    } else {
        done.services.iter().for_each(|undrained| streams.say(&sentence(undrained)));
    }
    first_failure.map_or(Ok(Exit::Done), Err)
}

/// Ends the drain of one port.
///
/// # Errors
/// It is not there (6), or as the agent says.
pub(super) async fn undrain(
    client: &Client,
    target: &Target,
    port: u16,
) -> Result<Undrained, Failure> {
    let service = services::find(client, target, port).await?;
    Ok(client.delete(&format!("/v1/drains/{}", service.id)).await?)
}

fn sentence(undrained: &Undrained) -> String {
    let port = undrained.service.port;
    if undrained.was_draining {
        format!("undrained: port {port} lets new connections in again")
    } else {
        format!("note: port {port} was not draining; nothing was changed")
    }
}

/// The command that ends a drain of these ports, ready to be pasted into a shell.
pub(super) fn line(ports: &[u16], target: &Target, client: &Client) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let (ports, target, agent) = (ports.join(","), target.options(), client.options());
    format!("drainctl undrain --port {ports}{target}{agent}")
}

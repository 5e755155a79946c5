//! `drainctl flows`: the connections of a service, what each is doing, and how it was made to leave.

use serde::Serialize;

use super::{
    args::PortArgs,
    client::{Client, ClientError},
    drain,
    exit::{Exit, Failure},
    leaving, services,
    target::Target,
    text::{self, Streams, Table},
    watched::carried,
};
use crate::api::protocol::{Activity, FlowClass, FlowList, FlowStatus, PodRef, ServiceStatus};

/// Most connections that are listed at the end of a drain that expired.
const MOST_LISTED: usize = 10;

/// The connections of one service, as `--json` prints them.
#[derive(Debug, Serialize)]
struct Flows {
    /// `NETNS:PORT`.
    id: String,
    /// TCP port.
    port: u16,
    /// The pod that it belongs to; null where it is not known.
    pod: Option<PodRef>,
    /// As the agent lists them.
    flows: Vec<FlowStatus>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Outcome {
    /// In the order asked for.
    services: Vec<Flows>,
}

/// Runs the verb.
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
    for port in args.ports.distinct() {
        let service = services::find(client, &target, port).await?;
        let flows = fetch(client, &service).await?;
        services.push(Flows { id: service.id, port, pod: service.pod, flows });
    }
    if json {
        streams.say_json(&Outcome { services });
        return Ok(Exit::Done);
    }
    let several = services.len() > 1;
    for service in services {
        match (service.flows.is_empty(), several) {
            (true, _) => streams.say(&format!("port {}: no connection", service.port)),
            (false, true) => {
                streams.say(&format!("port {}:\n{}", service.port, table(&service.flows)));
            }
            (false, false) => streams.say(&table(&service.flows)),
        }
    }
    Ok(Exit::Done)
}

/// Lists on stderr what keeps these services from being drained: at most ten connections in all.
pub(super) async fn remaining<'a>(
    client: &Client,
    services: impl Iterator<Item = &'a ServiceStatus>,
    streams: &mut Streams<'_>,
) {
    let mut flows = Vec::new();
    for service in services.filter(|service| drain::remains(service)) {
        // The drain waits for these too.
        let carries = carried(service) > 0;
        match fetch(client, service).await {
            Ok(more) => flows.extend(more.into_iter().filter(|flow| {
                flow.class == FlowClass::Counted || carries && flow.class == FlowClass::Steered
            })),
            Err(error) => streams.note(&format!("drainctl: cannot list its connections: {error}")),
        }
    }
    let hidden = flows.len().saturating_sub(MOST_LISTED);
    flows.truncate(MOST_LISTED);
    if !flows.is_empty() {
        streams.note(&table(&flows));
    }
    if hidden > 0 {
        streams.note(&format!("and {hidden} more (see drainctl flows)"));
    }
}

pub(super) async fn fetch(
    client: &Client,
    service: &ServiceStatus,
) -> Result<Vec<FlowStatus>, ClientError> {
    let list: FlowList = client.get(&format!("/v1/services/{}/flows", service.id)).await?;
    Ok(list.flows)
}

pub(super) fn table(flows: &[FlowStatus]) -> String {
    let mut table =
        Table::new(&["PEER", "LOCAL", "AGE", "IN", "OUT", "TCP", "ACTIVITY", "RETIRE", "WHY"]);
    for flow in flows {
        table.row(vec![
            flow.peer.clone(),
            flow.local.clone(),
            flow.age_ms.map_or("-".into(), text::duration),
            text::bytes(flow.bytes_in),
            text::bytes(flow.bytes_out),
            flow.tcp_state.clone(),
            activity(flow.activity).to_owned(),
            leaving::cell(flow),
            flow.why.clone(),
        ]);
    }
    table.render()
}

fn activity(activity: Activity) -> &'static str {
    match activity {
        Activity::Busy => "busy",
        Activity::Idle => "idle",
        Activity::Quiet => "quiet",
        Activity::Handshake => "handshake",
        Activity::Lingering => "lingering",
    }
}

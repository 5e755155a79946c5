//! `drainctl status`: the services of a network namespace.

use super::{
    admission,
    args::StatusArgs,
    client::Client,
    exit::{Exit, Failure},
    leaving, services,
    target::Target,
    text::{self, Streams, Table},
    waiting,
};
use crate::api::protocol::{HookMissing, ServiceList, ServiceStatus};

/// Runs the verb.
///
/// # Errors
/// A port that was asked for is not there (6), or as the agent says.
pub(super) async fn run(
    args: &StatusArgs,
    client: &Client,
    streams: &mut Streams<'_>,
    json: bool,
) -> Result<Exit, Failure> {
    let target = Target::find(&args.target)?;
    let mut list = if args.all {
        client.get("/v1/services?netns=all").await?
    } else {
        services::list(client, &target, None).await?
    };
    if let Some(missing) = keep_only(&mut list, &args.ports) {
        return Err(services::nothing(&target, missing));
    }
    if json {
        streams.say_json(&list);
    } else if list.services.is_empty() {
        streams.say(&format!("no listening TCP port{}", hooks(&list.hooks_missing)));
    } else {
        streams.say(&(table(&list.services) + &hooks(&list.hooks_missing)));
    }
    Ok(Exit::Done)
}

/// Drops services of other ports; returns the first port that no service has.
fn keep_only(list: &mut ServiceList, ports: &[u16]) -> Option<u16> {
    if ports.is_empty() {
        return None;
    }
    list.services.retain(|service| ports.contains(&service.port));
    ports.iter().copied().find(|port| !list.services.iter().any(|s| s.port == *port))
}

fn table(services: &[ServiceStatus]) -> String {
    let many = services.iter().any(|service| service.netns != services[0].netns);
    let pods = services.iter().any(|service| service.pod.is_some());
    let mut head = vec![
        "PORT",
        "STATE",
        "FLOWS",
        "HANDSHAKES",
        "LINGERING",
        "REFUSED",
        "LAST-NEW",
        "DEADLINE",
    ];
    if many {
        head.insert(0, "NETNS");
    }
    if pods {
        head.push("POD");
    }
    let mut table = Table::new(&head);
    for service in services {
        table.row(row(service, many, pods));
    }
    let mut lines = table.render();
    for service in services {
        if let Some(summary) = leaving::summary(service) {
            lines += &format!("\nport {}: {summary}", service.port);
        }
        if let Some(summary) = waiting::summary(service) {
            lines += &format!("\nport {}: {summary}", service.port);
        }
        if let Some(summary) = admission::summary(service) {
            lines += &format!("\nport {}: {summary}", service.port);
        }
        if let Some(handed_over) = leaving::handed_over(service) {
            lines += &format!("\nport {}: {handed_over}", service.port);
        }
        for line in waiting::registries(service) {
            lines += &format!("\nport {}: {line}", service.port);
        }
        if let Some(why) = &service.unknown {
            lines += &format!("\nport {}: the count cannot be verified: {why}", service.port);
        }
    }
    lines
}

/// A line for each hook that is missing.
fn hooks(missing: &[HookMissing]) -> String {
    let line =
        |HookMissing { pod, why }: &HookMissing| format!("\npod {pod}: no preStop hook: {why}");
    missing.iter().map(line).collect()
}

fn row(service: &ServiceStatus, with_netns: bool, with_pod: bool) -> Vec<String> {
    let mut row = vec![
        service.port.to_string(),
        service.state.as_str().to_owned(),
        service.flows.to_string(),
        service.handshakes.to_string(),
        service.lingering.to_string(),
        service.rejected.to_string(),
        service.last_new_age_ms.map_or("-".into(), |ms| text::duration(ms) + " ago"),
        deadline(service),
    ];
    if with_netns {
        row.insert(0, service.netns.to_string());
    }
    if with_pod {
        row.push(service.pod.as_ref().map_or("-".into(), ToString::to_string));
    }
    row
}

fn deadline(service: &ServiceStatus) -> String {
    match &service.drain {
        None => "-".into(),
        Some(drain) if drain.deadline_in_ms == 0 => "passed".into(),
        Some(drain) => format!("in {}", text::duration(drain.deadline_in_ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::protocol::{RetireKind, StateName},
        cli::fake::service,
    };

    #[test]
    fn a_table_people_can_read() {
        let mut draining = service(8080, StateName::Rejecting);
        draining.flows = 3;
        draining.unknown = Some("the map of flows is full".into());
        let retire = &mut draining.drain.as_mut().unwrap().retire;
        (retire.what, retire.left) = (vec![RetireKind::Idle], 30);
        let text = table(&[service(80, StateName::Serving), draining]);
        let lines: Vec<&str> = text.lines().collect();
        let head = "PORT  STATE      FLOWS  HANDSHAKES  LINGERING  REFUSED  LAST-NEW  DEADLINE";
        assert_eq!(lines[0], head);
        assert!(lines[2].ends_with("in 25.0s"), "{text}");
        assert_eq!(lines[3], "port 8080: 0 told, 0 FIN, 30 gone by themselves, 0 aborted");
        assert_eq!(lines[4], "port 8080: the count cannot be verified: the map of flows is full");
    }

    #[test]
    fn hooks_that_are_missing_have_lines_of_their_own() {
        let pod = "default/web-0".parse().unwrap();
        let missing = [HookMissing { pod, why: "the port is taken".into() }];
        assert_eq!(hooks(&missing), "\npod default/web-0: no preStop hook: the port is taken");
        assert_eq!(hooks(&[]), "");
    }

    #[test]
    fn a_port_that_is_not_there_is_found_missing() {
        let services = vec![service(80, StateName::Serving)];
        let mut list = ServiceList { services, hooks_missing: Vec::new() };
        assert_eq!(keep_only(&mut list, &[80]), None);
        assert_eq!(keep_only(&mut list, &[80, 443]), Some(443));
        assert_eq!(list.services.len(), 1);
    }
}

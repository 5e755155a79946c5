//! What a drain waits for that is no connection of its service, in words for people.

use super::text;
use crate::{
    api::protocol::{
        HoldStatus, OutboundStatus, RegistryFailure, RegistryStatus, ServiceStatus, StateName,
    },
    registries::Told,
};

/// Everything that holds the service, as `hold batch-42 (2m05s left)` or `3 connections to 10.0.0.9:5672`; empty if
/// nothing does.
pub(super) fn reasons(service: &ServiceStatus) -> Vec<String> {
    let hold = |HoldStatus { name, left_ms, .. }: &HoldStatus| {
        format!("hold {name} ({} left)", text::duration(*left_ms))
    };
    let outbound = service.drain.iter().flat_map(|drain| &drain.wait_outbound);
    let outbound = outbound.filter_map(|OutboundStatus { to, connections }| match connections {
        Some(0) => None,
        Some(some) => Some(format!("{} to {to}", text::count(*some, "connection"))),
        None => Some(format!("connections to {to}")),
    });
    service.holds.iter().map(hold).chain(outbound).collect()
}

/// The same in a line; `None` if there is nothing.
pub(super) fn summary(service: &ServiceStatus) -> Option<String> {
    let reasons = reasons(service);
    let verb = match service.state {
        StateName::Serving => "held by",
        _ => "waits for",
    };
    (!reasons.is_empty()).then(|| format!("{verb}: {}", reasons.join(", ")))
}

/// A line for each registry that knows of its drain, or should.
pub(super) fn registries(service: &ServiceStatus) -> impl Iterator<Item = String> {
    let line = |RegistryStatus { name, told, failure }: &RegistryStatus| match failure {
        Some(RegistryFailure { event: Told::Drain, why }) => {
            Some(format!("registry {name:?} cannot be told that it leaves: {why}"))
        }
        Some(RegistryFailure { event: Told::Undrain, why }) => Some(format!(
            "registry {name:?} cannot be told that it is back, and goes on believing that it is gone: {why}"
        )),
        None => told.then(|| format!("registry {name:?} knows that it leaves")),
    };
    service.registries.iter().filter_map(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fake::service;

    #[test]
    fn everything_that_holds_a_service_is_named() {
        let mut held = service(8080, StateName::Rejecting);
        assert_eq!(summary(&held), None);
        for (name, left_ms) in [("batch-42", 125_000), ("b", 900)] {
            let name = name.parse().unwrap();
            held.holds.push(HoldStatus { name, age_ms: 1, left_ms, uid: 0 });
        }
        for (to, connections) in [("10.0.0.9:5672", Some(3)), ("10.0.0.9:1", Some(0))] {
            let outbound = OutboundStatus { to: to.into(), connections };
            held.drain.as_mut().unwrap().wait_outbound.push(outbound);
        }
        let line = "waits for: hold batch-42 (2m05s left), hold b (900ms left), 3 connections to 10.0.0.9:5672";
        assert_eq!(summary(&held).as_deref(), Some(line));
        held.state = StateName::Serving;
        assert!(summary(&held).is_some_and(|line| line.starts_with("held by: ")));
    }
}

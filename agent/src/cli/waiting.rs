//! What a drain waits for that is no connection of its service, in words for people.

use super::text;
use crate::api::protocol::{HoldStatus, ServiceStatus, StateName};

/// Everything that holds the service, each with its time left, as `hold batch-42 (2m05s left)`; empty if nothing does.
pub(super) fn reasons(service: &ServiceStatus) -> Vec<String> {
    let hold = |HoldStatus { name, left_ms, .. }: &HoldStatus| {
        format!("hold {name} ({} left)", text::duration(*left_ms))
    };
    service.holds.iter().map(hold).collect()
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
        let line = "waits for: hold batch-42 (2m05s left), hold b (900ms left)";
        assert_eq!(summary(&held).as_deref(), Some(line));
        held.state = StateName::Serving;
        assert!(summary(&held).is_some_and(|line| line.starts_with("held by: ")));
    }
}

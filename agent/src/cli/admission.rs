//! Clients that a drain treats by their address, in words for people.

use crate::api::protocol::{AdmissionStatus, ServiceStatus};

/// What came of the lists of a draining service, in a line; `None` if it has none.
pub(super) fn summary(service: &ServiceStatus) -> Option<String> {
    let admission = &service.drain.as_ref()?.admission;
    let AdmissionStatus { ignored, allowed, failed_health, kept, .. } = *admission;
    let mut parts = Vec::new();
    if !admission.ignore.is_empty() {
        let open = service.ignored;
        parts.push(format!("{ignored} connection attempts ignored ({open} connections now)"));
    }
    if !admission.allow.is_empty() {
        parts.push(format!("{allowed} allowed"));
    }
    if !admission.fail_health_from.is_empty() {
        parts.push(format!("{failed_health} health checks failed"));
    }
    if admission.keep_clients_ms.is_some() {
        parts.push(format!("{kept} from kept clients"));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::protocol::StateName, cli::fake::service};

    #[test]
    fn only_what_was_asked_for() {
        let mut draining = service(80, StateName::Rejecting);
        assert_eq!(summary(&draining), None);
        assert_eq!(summary(&service(80, StateName::Serving)), None);
        let prefix = || vec!["10.0.0.0/8".parse().unwrap()];
        draining.ignored = 2;
        let admission = &mut draining.drain.as_mut().unwrap().admission;
        *admission = AdmissionStatus {
            ignore: prefix(),
            keep_clients_ms: Some(600_000),
            ignored: 7,
            allowed: 0,
            kept: 3,
            ..AdmissionStatus::default()
        };
        let line = "7 connection attempts ignored (2 connections now), 3 from kept clients";
        assert_eq!(summary(&draining).as_deref(), Some(line));
        let admission = &mut draining.drain.as_mut().unwrap().admission;
        *admission = AdmissionStatus {
            allow: prefix(),
            fail_health_from: prefix(),
            allowed: 1,
            failed_health: 9,
            ..AdmissionStatus::default()
        };
        let line = "1 allowed, 9 health checks failed";
        assert_eq!(summary(&draining).as_deref(), Some(line));
    }
}

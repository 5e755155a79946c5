//! From a request to the options of a drain.

use std::time::Duration;

use super::DrainRequest;
use crate::drain::{AdmissionRequest, RetireRequest, Spec, SpecError, SpecRequest};

impl From<&DrainRequest> for RetireRequest {
    fn from(request: &DrainRequest) -> Self {
        Self {
            set: request.retire.as_ref().map(|kinds| kinds.iter().copied().collect()),
            idle_after: request.idle_after_ms.map(Duration::from_millis),
            quiet_flow_after: request.quiet_flow_after_ms.map(Duration::from_millis),
            linger: request.linger_ms.map(Duration::from_millis),
            spread: request.spread_ms.map(Duration::from_millis),
            at_deadline: request.at_deadline.unwrap_or_default(),
        }
    }
}

impl From<&DrainRequest> for SpecRequest {
    fn from(request: &DrainRequest) -> Self {
        Self {
            quiet: request.quiet_ms.map(Duration::from_millis),
            min_settle: request.min_settle_ms.map(Duration::from_millis),
            max_settle: request.max_settle_ms.map(Duration::from_millis),
            timeout: request.timeout_ms.map(Duration::from_millis),
            lease: request.lease_ms.map(Duration::from_millis),
            grace: None,
            keep_closed: request.keep_closed,
            close_anyway: request.close_anyway,
            new: request.new.clone(),
            admission: AdmissionRequest {
                ignore: request.ignore.clone(),
                allow: request.allow.clone(),
                fail_health_from: request.fail_health_from.clone(),
                keep_clients: request.keep_clients_ms.map(Duration::from_millis),
            },
            retire: request.into(),
            wait_outbound: request.wait_outbound.clone(),
        }
    }
}

impl TryFrom<&DrainRequest> for Spec {
    type Error = SpecError;

    fn try_from(request: &DrainRequest) -> Result<Self, SpecError> {
        Self::try_from(SpecRequest::from(request))
    }
}

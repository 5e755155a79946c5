//! The command line against a scripted agent: every outcome, its exit code and its words.

mod ctrl_c;
mod drain;
mod refusals;
mod verbs;

use super::fake::{Answer, Fake, service};
use crate::api::protocol::{ServiceStatus, StateName, StreamEvent};

const POST: &str = "POST /v1/drains";
const EVENTS: &str = "GET /v1/events?services=4026531840:8080";
const FIND: &str = "GET /v1/services?port=8080";
const DRAIN: [&str; 3] = ["drain", "--port", "8080"];

/// An agent that accepts a drain of port 8080, and whose event streams are these.
fn draining(streams: Vec<Answer>) -> Fake {
    let accepted = Answer::accepted(vec![service(8080, StateName::Settling)]);
    Fake::start(vec![(POST, vec![accepted]), (EVENTS, streams)])
}

fn ended(reason: &str) -> StreamEvent {
    StreamEvent::Ended {
        service: service(8080, StateName::Serving),
        reason: reason.into(),
        at_deadline: false,
    }
}

fn unknown(mut service: ServiceStatus) -> ServiceStatus {
    service.unknown = Some("the map of flows is full".into());
    service
}

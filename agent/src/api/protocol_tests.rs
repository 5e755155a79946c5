//! The JSON itself: what is written down here, clients of other versions rely on.

use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde_json::json;

use super::*;

/// `value` is written as `written`, and read back as itself.
fn both_ways<T: Serialize + DeserializeOwned + PartialEq + Debug>(
    value: &T,
    written: &serde_json::Value,
) {
    assert_eq!(&serde_json::to_value(value).unwrap(), written);
    assert_eq!(&serde_json::from_value::<T>(written.clone()).unwrap(), value);
}

fn status() -> ServiceStatus {
    ServiceStatus {
        id: "7:80".into(),
        netns: 7,
        port: 80,
        state: StateName::Rejecting,
        flows: 3,
        handshakes: 1,
        lingering: 2,
        ignored: 0,
        rejected: 9,
        last_new_age_ms: None,
        pod: None,
        unknown: None,
        drain: Some(DrainStatus {
            age_ms: 1,
            deadline_in_ms: 2,
            lease_in_ms: 3,
            keep_closed: false,
            settled_by: Some(SettledBy::MaxSettle),
        }),
    }
}

fn status_json() -> serde_json::Value {
    json!({
        "id": "7:80", "netns": 7, "port": 80, "state": "rejecting", "flows": 3, "handshakes": 1,
        "lingering": 2, "ignored": 0, "rejected": 9, "last_new_age_ms": null, "pod": null,
        "unknown": null,
        "drain": {
            "age_ms": 1, "deadline_in_ms": 2, "lease_in_ms": 3, "keep_closed": false,
            "settled_by": "max_settle",
        },
    })
}

#[test]
fn requests() {
    let short: DrainRequest = serde_json::from_value(json!({"ports": [80]})).unwrap();
    assert_eq!(short, DrainRequest { ports: vec![80], ..DrainRequest::default() });
    let host = Some(NetnsRef::Named(NetnsName::Host));
    let full = DrainRequest {
        netns: host,
        quiet_ms: Some(0),
        lease_ms: Some(600_000),
        keep_closed: true,
        ..short
    };
    let written = json!({
        "ports": [80], "netns": "host", "quiet_ms": 0, "lease_ms": 600_000, "keep_closed": true,
        "new": "reject",
    });
    both_ways(&full, &written);
    both_ways(&NetnsRef::Inode(4_026_531_840), &json!(4_026_531_840_u32));
}

#[test]
fn an_option_that_is_not_there_is_refused() {
    for unknown in [json!({"ports": [80], "retire": "http"}), json!({"ports": [80], "new": "drop"})]
    {
        assert!(serde_json::from_value::<DrainRequest>(unknown).is_err());
    }
}

#[test]
fn answers() {
    both_ways(&ServiceList { services: vec![status()] }, &json!({"services": [status_json()]}));
    let accepted = DrainAccepted { services: vec![status()], joined: true };
    both_ways(&accepted, &json!({"services": [status_json()], "joined": true}));
    let told = StreamEvent::Status { service: status() };
    both_ways(&told, &json!({"type": "status", "service": status_json()}));
    let ended = StreamEvent::Ended { service: status(), reason: "undrained".into() };
    both_ways(&ended, &json!({"type": "ended", "service": status_json(), "reason": "undrained"}));
    let error = ErrorDetail { code: ErrorCode::NoSuchService, message: "none".into() };
    let written = json!({"error": {"code": "no_such_service", "message": "none"}});
    both_ways(&ErrorBody { error }, &written);
}

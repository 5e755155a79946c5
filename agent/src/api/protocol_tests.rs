//! The JSON itself: what is written down here, clients of other versions rely on.

use std::{fmt::Debug, time::Duration};

use serde::de::DeserializeOwned;
use serde_json::json;

use super::*;
use crate::drain::Spec;

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
        probes: 0,
        steered: 0,
        rejected: 9,
        accepted: 40,
        last_new_age_ms: None,
        pod: None,
        unknown: None,
        holds: vec![HoldStatus {
            name: "batch-42".parse().unwrap(),
            age_ms: 7,
            left_ms: 8,
            uid: 1000,
        }],
        registries: vec![],
        ended: None,
        drain: Some(DrainStatus {
            age_ms: 1,
            history: vec![Entered { state: StateName::Settling, ago_ms: 1 }],
            deadline_in_ms: 2,
            lease_in_ms: 3,
            keep_closed: false,
            new: NewConnections::Handoff(Handoff::Port(8081)),
            handed_over: 12,
            takers: 2,
            settled_by: Some(SettledBy::MaxSettle),
            admission: AdmissionStatus {
                ignore: vec!["10.0.0.0/8".parse().unwrap()],
                keep_clients_ms: Some(600_000),
                ignored: 4,
                kept: 2,
                ..AdmissionStatus::default()
            },
            retire: RetireStatus {
                what: vec![RetireKind::Http1, RetireKind::Quiet],
                at_deadline: AtDeadline::Abort,
                told_by_header: 9,
                told_by_goaway: 3,
                fin_sent: 4,
                fin_raced: 1,
                left: 30,
                aborted: 1,
                cut: vec!["10.0.0.7:40112".into()],
                untellable: UntellableFlows { tls: 2, zero_copy: 1, ..UntellableFlows::default() },
                lacks: None,
            },
            wait_outbound: vec![OutboundStatus {
                to: "10.0.0.9:5672".into(),
                connections: Some(3),
            }],
        }),
    }
}

fn status_json() -> serde_json::Value {
    let admission = json!({
        "ignore": ["10.0.0.0/8"], "allow": [], "fail_health_from": [], "keep_clients_ms": 600_000,
        "ignored": 4, "allowed": 0, "failed_health": 0, "kept": 2,
    });
    let retire = json!({
        "what": ["http1", "quiet"], "at_deadline": "abort", "told_by_header": 9,
        "told_by_goaway": 3, "fin_sent": 4, "fin_raced": 1, "left": 30, "aborted": 1,
        "cut": ["10.0.0.7:40112"], "lacks": null,
        "untellable": {
            "tls": 2, "ktls": 0, "mptcp": 0, "zero_copy": 1, "foreign": 0, "upgraded": 0,
            "unknown_protocol": 0, "refused": 0,
        },
    });
    let drain = json!({
        "age_ms": 1, "history": [{"state": "settling", "ago_ms": 1}],
        "deadline_in_ms": 2, "lease_in_ms": 3, "keep_closed": false,
        "new": {"handoff": {"port": 8081}}, "handed_over": 12, "takers": 2,
        "settled_by": "max_settle", "admission": admission, "retire": retire,
        "wait_outbound": [{"to": "10.0.0.9:5672", "connections": 3}],
    });
    json!({
        "id": "7:80", "netns": 7, "port": 80, "state": "rejecting", "flows": 3, "handshakes": 1,
        "lingering": 2, "ignored": 0, "probes": 0, "steered": 0, "rejected": 9, "accepted": 40, "last_new_age_ms": null, "pod": null,
        "unknown": null,
        "holds": [{"name": "batch-42", "age_ms": 7, "left_ms": 8, "uid": 1000}],
        "registries": [],
        "ended": null,
        "drain": drain,
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
        ignore: vec!["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()],
        allow: vec!["192.0.2.7".parse().unwrap()],
        fail_health_from: vec!["2001:db8::/32".parse().unwrap()],
        keep_clients_ms: Some(600_000),
        new: NewConnections::Handoff(Handoff::Pid(7)),
        retire: Some(vec![RetireKind::Http, RetireKind::Quiet]),
        idle_after_ms: None,
        quiet_flow_after_ms: Some(5000),
        linger_ms: Some(0),
        spread_ms: Some(1000),
        at_deadline: Some(AtDeadline::Abort),
        wait_outbound: vec!["10.0.0.9:5672".parse().unwrap()],
        ..short
    };
    let written = json!({
        "ports": [80], "netns": "host", "quiet_ms": 0, "lease_ms": 600_000, "keep_closed": true,
        "new": {"handoff": {"pid": 7}}, "ignore": ["10.0.0.0/8", "::1/128"], "allow": ["192.0.2.7/32"],
        "fail_health_from": ["2001:db8::/32"], "keep_clients_ms": 600_000,
        "retire": ["http", "quiet"], "quiet_flow_after_ms": 5000, "linger_ms": 0,
        "spread_ms": 1000, "at_deadline": "abort", "wait_outbound": ["10.0.0.9:5672"],
    });
    both_ways(&full, &written);
    both_ways(&NetnsRef::Inode(4_026_531_840), &json!(4_026_531_840_u32));
}

#[test]
fn an_option_that_is_not_there_is_refused() {
    for unknown in [
        json!({"ports": [80], "retire": "http"}),
        json!({"ports": [80], "retire": ["http2"]}),
        json!({"ports": [80], "at_deadline": "reset"}),
        json!({"ports": [80], "new": "forget"}),
        json!({"ports": [80], "ignore": "10.0.0.0/8"}),
        json!({"ports": [80], "ignore": ["10.0.0.1/8"]}),
        json!({"ports": [80], "deny": []}),
    ] {
        assert!(serde_json::from_value::<DrainRequest>(unknown).is_err());
    }
}

#[test]
fn what_is_to_leave_is_the_cores_to_understand() {
    let spec = |more: serde_json::Value| {
        let mut request = json!({"ports": [80]});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let request: DrainRequest = serde_json::from_value(request).unwrap();
        Spec::try_from(&request).map(|spec| *spec.retire()).map_err(|error| error.to_string())
    };
    let left_out = spec(json!({})).unwrap();
    assert_eq!(left_out.set.to_string(), "http,idle");
    assert_eq!(spec(json!({"retire": []})).unwrap().set.to_string(), "none");
    assert_eq!(spec(json!({"retire": ["idle", "http1"]})).unwrap().set.to_string(), "http1,idle");
    let all = json!({
        "retire": ["idle", "quiet"], "idle_after_ms": 1, "quiet_flow_after_ms": 2, "linger_ms": 3,
        "spread_ms": 4, "at_deadline": "abort",
    });
    let all = spec(all).unwrap();
    let ms = Duration::from_millis;
    assert_eq!((all.idle_after, all.quiet_flow_after), (ms(1), Some(ms(2))));
    assert_eq!((all.linger, all.spread, all.at_deadline), (ms(3), ms(4), AtDeadline::Abort));
    let error = spec(json!({"retire": ["quiet"]})).unwrap_err();
    assert!(error.contains("needs --quiet-flow-after"), "{error}");
}

#[test]
fn flows() {
    let flow = FlowStatus {
        peer: "10.0.0.7:1".into(),
        local: "10.0.0.8:80".into(),
        tcp_state: "ESTAB".into(),
        age_ms: None,
        bytes_in: 1,
        bytes_out: 2,
        class: FlowClass::Ignored,
        activity: Activity::Idle,
        why: "answered".into(),
        protocol: FlowProtocol::Http1,
        retire: Some(FlowRetired::FinSent),
        fin_raced: true,
        barrier: None,
    };
    let written = json!({
        "peer": "10.0.0.7:1", "local": "10.0.0.8:80", "tcp_state": "ESTAB", "age_ms": null,
        "bytes_in": 1, "bytes_out": 2, "class": "ignored", "activity": "idle", "why": "answered", "protocol": "http1",
        "retire": "fin_sent", "fin_raced": true, "barrier": null,
    });
    both_ways(&flow, &written);
    for (barrier, _) in UntellableFlows::default().by_reason() {
        both_ways(&barrier, &json!(barrier.as_str()));
        let counter = serde_json::to_value(UntellableFlows::default()).unwrap();
        assert_eq!(counter[barrier.as_str()], 0, "one name for a reason and its counter");
    }
}

#[test]
fn answers() {
    let hooks_missing =
        vec![HookMissing { pod: "default/web-0".parse().unwrap(), why: "taken".into() }];
    let missing = json!([{"pod": "default/web-0", "why": "taken"}]);
    both_ways(
        &ServiceList { services: vec![status()], hooks_missing },
        &json!({"services": [status_json()], "hooks_missing": missing}),
    );
    let accepted = DrainAccepted {
        services: vec![status()],
        joined: true,
        timeout_ms: 51_000,
        timeout_from: TimeoutFrom::Api,
        notes: vec!["so it is".into()],
    };
    let written = json!({
        "services": [status_json()], "joined": true, "timeout_ms": 51_000, "timeout_from": "api",
        "notes": ["so it is"],
    });
    both_ways(&accepted, &written);
    let pod = ["default", "web-0", "7"].map(String::from);
    let [namespace, name, uid] = pod;
    let pod = json!({"namespace": namespace, "name": name, "uid": uid});
    both_ways(&PodRef { namespace, name, uid }, &pod);
    let told = StreamEvent::Status { service: status() };
    both_ways(&told, &json!({"type": "status", "service": status_json()}));
    let ended =
        StreamEvent::Ended { service: status(), reason: "undrained".into(), at_deadline: false };
    let written = json!({
        "type": "ended", "service": status_json(), "reason": "undrained", "at_deadline": false,
    });
    both_ways(&ended, &written);
    let error = ErrorDetail { code: ErrorCode::NoSuchService, message: "none".into() };
    let written = json!({"error": {"code": "no_such_service", "message": "none"}});
    both_ways(&ErrorBody { error }, &written);
}

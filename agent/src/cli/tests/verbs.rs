//! The other verbs, help and usage.

use hyper::StatusCode;

use super::*;
use crate::{
    api::protocol::{
        Activity, ErrorCode, FlowBarrier, FlowList, FlowStatus, ServiceList, Undrained,
    },
    cli::{
        Exit,
        fake::{drainctl, flow, status},
    },
};
use StateName::{Drained, Rejecting, Serving};

#[test]
fn undrain() {
    let listed = |state| {
        Answer::ok(&ServiceList { services: vec![service(8080, state)], hooks_missing: Vec::new() })
    };
    let undrained =
        |was_draining| Answer::ok(&Undrained { service: service(8080, Serving), was_draining });
    let delete = "DELETE /v1/drains/4026531840:8080";
    for (was, words) in
        [(true, "lets new connections in again"), (false, "note: port 8080 was not")]
    {
        let fake =
            Fake::start(vec![(FIND, vec![listed(Rejecting)]), (delete, vec![undrained(was)])]);
        let ran = fake.drainctl(&["undrain", "--port", "8080"]);
        assert_eq!(ran.exit, Exit::Done, "{ran:?}");
        assert!(ran.out.contains(words), "{ran:?}");
        let json = fake.drainctl(&["undrain", "--port", "8080", "--json"]).json();
        assert_eq!(json["services"][0]["was_draining"], was);
    }
}

#[test]
fn undrain_tries_every_port() {
    let listed = Answer::ok(&ServiceList {
        services: vec![service(8080, Rejecting)],
        hooks_missing: Vec::new(),
    });
    let lifted = Answer::ok(&Undrained { service: service(8080, Serving), was_draining: true });
    let fake = Fake::start(vec![
        ("GET /v1/services?port=1", vec![Answer::ok(&ServiceList::default())]),
        (FIND, vec![listed]),
        ("DELETE /v1/drains/4026531840:8080", vec![lifted]),
    ]);
    let ran = fake.drainctl(&["undrain", "--port", "1,8080"]);
    assert_eq!(ran.exit, Exit::NoSuchService, "{ran:?}");
    assert!(ran.err.contains("port 1 "), "{ran:?}");
    assert!(ran.out.contains("undrained: port 8080"), "{ran:?}");
}

#[test]
fn status_lists_and_finds() {
    let list = ServiceList {
        services: vec![service(80, Serving), service(8080, Rejecting)],
        hooks_missing: Vec::new(),
    };
    let fake = Fake::start(vec![
        ("GET /v1/services", vec![Answer::ok(&list)]),
        ("GET /v1/services?netns=all", vec![Answer::ok(&list)]),
        ("GET /v1/services?netns=host", vec![Answer::ok(&ServiceList::default())]),
    ]);
    let ran = fake.drainctl(&["status"]);
    assert_eq!((ran.exit, ran.out.lines().count()), (Exit::Done, 3), "{ran:?}");
    assert_eq!(fake.drainctl(&["status", "--all"]).exit, Exit::Done);
    let none = fake.drainctl(&["status", "--host"]);
    assert_eq!((none.exit, &*none.out), (Exit::Done, "no listening TCP port\n"));
    assert_eq!(fake.drainctl(&["status", "--port", "8080"]).out.lines().count(), 2);
    assert_eq!(fake.drainctl(&["status", "--port", "81"]).exit, Exit::NoSuchService);
    let json = fake.drainctl(&["status", "--json"]).json();
    assert_eq!(json, serde_json::to_value(&list).unwrap());
}

#[test]
fn flows_of_a_namespace_by_path() {
    let inode =
        std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/net").unwrap());
    let find = format!("GET /v1/services?netns={inode}&port=8080");
    let list = ServiceList { services: vec![service(8080, Serving)], hooks_missing: Vec::new() };
    let flow = FlowStatus {
        activity: Activity::Idle,
        why: "answered 3s ago, and no byte since".into(),
        barrier: Some(FlowBarrier::Tls),
        ..flow()
    };
    let fake = Fake::start(vec![
        (&find, vec![Answer::ok(&list)]),
        (
            "GET /v1/services/4026531840:8080/flows",
            vec![Answer::ok(&FlowList { pod: None, flows: vec![flow] })],
        ),
    ]);
    let ran = fake.drainctl(&["flows", "--port", "8080", "--netns", "/proc/self/ns/net"]);
    assert_eq!(ran.exit, Exit::Done, "{ran:?}");
    assert!(ran.out.contains("idle") && ran.out.contains("answered 3s ago"), "{ran:?}");
    assert!(ran.out.contains("RETIRE") && ran.out.contains("cannot: TLS"), "{ran:?}");
}

#[test]
fn ready_codes() {
    let ok = StatusCode::OK;
    let busy = StatusCode::SERVICE_UNAVAILABLE;
    let body = |status, service: ServiceStatus| {
        Answer::Body(status, serde_json::to_string(&service).unwrap())
    };
    let error = |status, code| Answer::error(status, code, "no");
    let table = [
        (body(ok, service(8080, Drained)), Exit::Done),
        (body(busy, service(8080, Rejecting)), Exit::Deadline),
        (body(busy, service(8080, Serving)), Exit::Deadline),
        (body(busy, unknown(service(8080, Rejecting))), Exit::Unverifiable),
        (error(busy, ErrorCode::Unverifiable), Exit::Unverifiable),
        (error(StatusCode::NOT_FOUND, ErrorCode::NoSuchService), Exit::NoSuchService),
        (error(StatusCode::FORBIDDEN, ErrorCode::NotPermitted), Exit::NotPermitted),
        (Answer::Body(ok, "ok".into()), Exit::Internal),
    ];
    for (answer, exit) in table {
        let fake = Fake::start(vec![("GET /drained/8080?netns=host", vec![answer])]);
        let ran = fake.drainctl(&["ready", "--port", "8080", "--host"]);
        assert_eq!(ran.exit, exit, "{ran:?}");
        assert_eq!((ran.out + &ran.err).lines().count(), 1, "one line says why");
    }
}

#[test]
fn wait_codes() {
    let rejecting = || service(8080, Rejecting);
    let serving = || service(8080, Serving);
    let drained = || service(8080, Drained);
    // Those that end by an event have long enough; those that time out need no event to arrive before.
    let (long, short) = ("20s", "100ms");
    let table = [
        ("drained", rejecting(), long, vec![status(drained())], Exit::Done),
        ("drained", rejecting(), short, vec![status(rejecting())], Exit::Deadline),
        ("drained", unknown(rejecting()), short, vec![], Exit::Unverifiable),
        ("drained", rejecting(), long, vec![ended("undrained")], Exit::Ended),
        ("drained", serving(), short, vec![status(serving())], Exit::Deadline),
        ("serving", rejecting(), long, vec![status(serving())], Exit::Done),
        ("serving", rejecting(), long, vec![ended("new instance")], Exit::Done),
        ("serving", serving(), long, vec![], Exit::Done),
        ("serving", drained(), short, vec![status(drained())], Exit::Deadline),
    ];
    for (until, before, timeout, events, exit) in table {
        let state = before.state;
        let list = Answer::ok(&ServiceList { services: vec![before], hooks_missing: Vec::new() });
        let fake =
            Fake::start(vec![(FIND, vec![list]), (EVENTS, vec![Answer::Events(events, true)])]);
        let ran = fake.drainctl(&["wait", "--port", "8080", "--for", until, "--timeout", timeout]);
        assert_eq!(ran.exit, exit, "{until} from {state:?}: {ran:?}");
    }
    let fake = Fake::start(vec![(FIND, vec![Answer::ok(&ServiceList::default())])]);
    let ran = fake.drainctl(&["wait", "--port", "8080", "--for", "drained"]);
    assert_eq!(ran.exit, Exit::NoSuchService);
}

#[test]
fn usage_help_and_version() {
    let nowhere = std::path::Path::new("/nonexistent/a.sock");
    let help = drainctl(nowhere, &["--help"]);
    assert_eq!((help.exit, &*help.err), (Exit::Done, ""));
    assert!(help.out.contains("Exit codes:"), "{}", help.out);
    assert_eq!(drainctl(nowhere, &["--version"]).exit, Exit::Done);
    for verb in ["drain", "undrain", "status", "flows", "ready", "wait", "doctor"] {
        let help = drainctl(nowhere, &[verb, "--help"]);
        assert_eq!(help.exit, Exit::Done, "{verb}");
        assert!(help.out.contains("130"), "{verb} --help lists the exit codes");
    }
    let bad = drainctl(nowhere, &["drain", "--port", "70000"]);
    assert_eq!((bad.exit, &*bad.out), (Exit::Usage, ""));
    assert!(bad.err.contains("from 1 to 65535"), "{}", bad.err);
}

//! What is refused, by the agent or before it is asked.

use hyper::StatusCode;

use super::*;
use crate::{
    api::protocol::ErrorCode,
    cli::{
        Exit,
        fake::{drainctl, status},
    },
};
use StateName::Drained;

#[test]
fn what_the_agent_refuses_has_its_code_and_its_words() {
    let table = [
        (StatusCode::BAD_REQUEST, ErrorCode::Usage, Exit::Usage),
        (StatusCode::FORBIDDEN, ErrorCode::NotPermitted, Exit::NotPermitted),
        (StatusCode::NOT_FOUND, ErrorCode::NoSuchService, Exit::NoSuchService),
        (StatusCode::CONFLICT, ErrorCode::Conflict, Exit::Conflict),
        (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unverifiable, Exit::Unverifiable),
        (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, Exit::Internal),
    ];
    for (status, code, exit) in table {
        let fake = Fake::start(vec![(POST, vec![Answer::error(status, code, "because")])]);
        let ran = fake.drainctl(&DRAIN);
        assert_eq!((ran.exit, &*ran.err), (exit, "drainctl: because\n"), "{code:?}");
        let json = fake.drainctl(&["drain", "--port", "8080", "--json"]);
        let error: serde_json::Value = serde_json::from_str(&json.err).unwrap();
        assert_eq!(error["exit"], exit.code());
        assert_eq!(error["error"]["message"], "because");
        assert_eq!(json.out, "");
    }
}

#[test]
fn an_answer_that_is_none_is_an_internal_error() {
    let fake = Fake::start(vec![(POST, vec![Answer::Body(StatusCode::OK, "<html>".into())])]);
    let ran = fake.drainctl(&DRAIN);
    assert_eq!(ran.exit, Exit::Internal, "{ran:?}");
    assert!(ran.err.contains("same version"), "{ran:?}");
}

#[test]
fn unreachable_is_4_and_names_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let table: [&[&str]; 4] = [
        &["drain", "--port", "8080", "--if-unreachable", "wait=50ms"],
        &["drain", "--port", "8080", "--if-unreachable", "fail"],
        &["status"],
        &["undrain", "--port", "8080"],
    ];
    for args in table {
        let ran = drainctl(&socket, args);
        assert_eq!(ran.exit, Exit::Unreachable, "{args:?}: {ran:?}");
        assert!(ran.err.contains(&*socket.to_string_lossy()), "{ran:?}");
        assert!(ran.err.contains("is drain-agent running"), "{ran:?}");
    }
}

#[test]
fn contradictions_are_refused_before_anything_is_sent() {
    let table: [&[&str]; 11] = [
        &["--retire", "quiet"],
        &["--quiet-flow-after", "5s"],
        &["--retire", "http", "--idle-after", "5s"],
        &["--retire", "none", "--spread", "1s"],
        &["--timeout", "25s", "--spread", "25s"],
        &["--min-settle", "10s", "--max-settle", "5s"],
        &["--timeout", "25s", "--max-settle", "25s"],
        &["--timeout", "25s", "--max-settle", "30s"],
        &["--timeout", "2s"],
        &["--timeout", "25s", "--lease", "60s"],
        &["--timeout", "5m", "--lease", "5m59s"],
    ];
    let fake = draining(vec![]);
    for options in table {
        let ran = fake.drainctl(&[&DRAIN[..], options].concat());
        assert_eq!(ran.exit, Exit::Usage, "{options:?}: {ran:?}");
        assert!(ran.err.contains("nothing was changed"), "{ran:?}");
    }
    assert_eq!(fake.requests(), [""; 0]);
    let ports = (1..=65).map(|port: u16| port.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(fake.drainctl(&["drain", "--port", &ports]).exit, Exit::Usage);
    // The permitted form: --quiet 0s ignores both settling times.
    let fake = draining(vec![Answer::Events(vec![status(service(8080, Drained))], true)]);
    let ran = fake.drainctl(&[&DRAIN[..], &["--quiet", "0s", "--timeout", "2s"]].concat());
    assert_eq!(ran.exit, Exit::Done, "{ran:?}");
}

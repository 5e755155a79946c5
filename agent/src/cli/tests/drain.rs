//! `drain`: how it ends.

use hyper::StatusCode;
use serde_json::json;

use super::*;
use crate::{
    api::protocol::{AtDeadline, EndedStatus, ErrorCode, FlowClass, FlowList, FlowStatus},
    cli::{
        Exit,
        fake::{flow, status, with_deadline},
    },
};
use StateName::{Drained, Expired, Rejecting, Serving, Settling};

#[test]
fn drained_is_0() {
    let mut last = service(8080, Drained);
    last.rejected = 12;
    let events = [service(8080, Settling), service(8080, Rejecting), last].map(status);
    let fake = draining(vec![Answer::Events(events.to_vec(), true)]);
    let ran = fake.drainctl(&DRAIN);
    assert_eq!(ran.exit, Exit::Done, "{ran:?}");
    assert!(ran.out.starts_with("drained: port 8080 is proven empty after "), "{ran:?}");
    assert!(ran.out.contains("(refused 12 connection attempts while draining)"), "{ran:?}");
    let states: Vec<_> = ran.err.lines().map(|line| line.split(';').next().unwrap()).collect();
    let expected =
        ["settling", "rejecting", "drained"].map(|s| format!("drainctl: port 8080: {s}"));
    assert_eq!(states, expected, "a line for each change of state");
    assert_eq!(fake.body(POST)["ports"], json!([8080]));
}

#[test]
fn what_was_not_said_is_not_sent_and_what_was_said_is() {
    let fake = draining(vec![Answer::Events(vec![status(service(8080, Drained))], true)]);
    fake.drainctl(&DRAIN);
    let sent = fake.body(POST);
    assert_eq!(sent, json!({ "ports": [8080], "keep_closed": false, "new": "reject" }));
    let fake = draining(vec![Answer::Events(vec![status(service(8080, Drained))], true)]);
    let options = [
        "drain",
        "--port",
        "8080,8080",
        "--quiet",
        "500ms",
        "--min-settle",
        "1s",
        "--max-settle",
        "2s",
        "--timeout",
        "10s",
        "--lease",
        "70s",
        "--keep-closed",
        "--host",
        "--retire",
        "http1,idle,quiet",
        "--idle-after",
        "2s",
        "--quiet-flow-after",
        "3s",
        "--linger",
        "4s",
        "--spread",
        "0s",
        "--at-deadline",
        "abort",
        "--ignore",
        "10.0.0.0/8,::1",
        "--ignore",
        "192.0.2.1",
        "--allow",
        "127.0.0.0/8",
        "--fail-health-from",
        "::ffff:10.1.0.0/112",
        "--keep-clients",
        "10m",
    ];
    fake.drainctl(&options);
    let all = json!({
        "ports": [8080], "netns": "host", "quiet_ms": 500, "min_settle_ms": 1000,
        "max_settle_ms": 2000, "timeout_ms": 10_000, "lease_ms": 70_000, "keep_closed": true,
        "new": "reject", "retire": ["http1", "idle", "quiet"], "idle_after_ms": 2000,
        "quiet_flow_after_ms": 3000, "linger_ms": 4000, "spread_ms": 0, "at_deadline": "abort",
        "ignore": ["10.0.0.0/8", "::1/128", "192.0.2.1/32"], "allow": ["127.0.0.0/8"],
        "fail_health_from": ["10.1.0.0/16"], "keep_clients_ms": 600_000,
    });
    assert_eq!(fake.body(POST), all);
    let fake = draining(vec![Answer::Events(vec![status(service(8080, Drained))], true)]);
    fake.drainctl(&["drain", "--port", "8080", "--retire", "none", "--at-deadline", "leave"]);
    let sent = fake.body(POST);
    assert_eq!((&sent["retire"], &sent["at_deadline"]), (&json!([]), &json!("leave")));
}

#[test]
fn expired_is_3_and_lists_what_remains() {
    let flow = |n: u16| FlowStatus { peer: format!("10.0.0.{n}:40000"), ..flow() };
    let mut expired = with_deadline(8080, Expired, 0);
    expired.flows = 12;
    let mut flows = FlowList { pod: None, flows: (1..=12).map(flow).collect() };
    let ignored = FlowStatus { class: FlowClass::Ignored, ..flow(0) };
    flows.flows.insert(0, ignored); // It is not what is waited for.
    let fake = Fake::start(vec![
        (POST, vec![Answer::accepted(vec![service(8080, Settling)])]),
        (EVENTS, vec![Answer::Events(vec![status(expired)], true)]),
        ("GET /v1/services/4026531840:8080/flows", vec![Answer::ok(&flows)]),
    ]);
    let ran = fake.drainctl(&DRAIN);
    assert_eq!(ran.exit, Exit::Deadline, "{ran:?}");
    assert_eq!(ran.out, "");
    assert!(ran.err.contains("port 8080 still has 12 flows"), "{ran:?}");
    assert_eq!(ran.err.matches("10.0.0.").count(), 10, "at most ten lines: {ran:?}");
    assert!(ran.err.contains("and 2 more"), "{ran:?}");
    assert!(ran.err.contains("1m01s"), "how long: {ran:?}");
}

/// A drain that resets what remains at its deadline, which has passed.
fn aborting(state: StateName, aborted: u16) -> ServiceStatus {
    let mut service = with_deadline(8080, state, 0);
    let retire = &mut service.drain.as_mut().unwrap().retire;
    retire.at_deadline = AtDeadline::Abort;
    retire.aborted = aborted.into();
    retire.cut = (1..=aborted).map(|n| format!("10.0.0.{n}:40000")).collect();
    service
}

#[test]
fn drained_after_an_abort_is_0_and_says_who_was_cut() {
    let abort = [&DRAIN[..], &["--at-deadline", "abort"]].concat();
    let events = [aborting(Rejecting, 0), aborting(Rejecting, 12), aborting(Drained, 12)];
    let fake = draining(vec![Answer::Events(events.map(status).to_vec(), true)]);
    let ran = fake.drainctl(&abort);
    assert_eq!(ran.exit, Exit::Done, "{ran:?}");
    assert!(ran.out.contains("while draining; cut 12 connections at the deadline)"), "{ran:?}");
    let cut = "drainctl: cut at the deadline: 10.0.0.1:40000, 10.0.0.2:40000, ";
    assert!(ran.err.contains(cut) && ran.err.contains(" and 2 more"), "{ran:?}");
    let json = fake.drainctl(&[&abort[..], &["--json"]].concat()).json();
    assert_eq!((&json["outcome"], &json["exit"]), (&json!("drained"), &json!(0)));
    let retire = &json["services"][0]["drain"]["retire"];
    assert_eq!((&retire["aborted"], &retire["cut"][11]), (&json!(12), &json!("10.0.0.12:40000")));
}

#[test]
fn an_abort_that_leaves_something_is_3() {
    let mut expired = aborting(Expired, 1);
    expired.flows = 2;
    let fake = draining(vec![Answer::Events(vec![status(expired)], true)]);
    let ran = fake.drainctl(&DRAIN);
    assert_eq!((ran.exit, &*ran.out), (Exit::Deadline, ""), "{ran:?}");
    assert!(ran.err.contains("port 8080 still has 2 flows"), "{ran:?}");
    assert!(ran.err.contains("cut at the deadline: 10.0.0.1:40000\n"), "{ran:?}");
}

#[test]
fn unknown_is_7_never_0() {
    for state in [Expired, Drained] {
        let last = status(unknown(with_deadline(8080, state, 0)));
        let ran = draining(vec![Answer::Events(vec![last], true)]).drainctl(&DRAIN);
        assert_eq!(ran.exit, Exit::Unverifiable, "{state:?}: {ran:?}");
        assert!(ran.err.contains("the map of flows is full"), "{ran:?}");
        assert_eq!(ran.out, "", "{state:?}");
    }
}

#[test]
fn ended_is_9_with_the_reason() {
    let before = status(service(8080, Serving));
    for events in [vec![ended("undrained by uid 0")], vec![before, ended("undrained by uid 0")]] {
        let ran = draining(vec![Answer::Events(events, true)]).drainctl(&DRAIN);
        assert_eq!(ran.exit, Exit::Ended, "{ran:?}");
        assert!(ran.err.contains("undrained by uid 0"), "{ran:?}");
    }
}

#[test]
fn a_connection_that_is_lost_and_comes_back_changes_nothing() {
    let fake = draining(vec![
        Answer::Events(vec![status(service(8080, Rejecting))], false),
        Answer::error(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, "starting"),
        Answer::Events(vec![status(service(8080, Drained))], true),
    ]);
    let ran = fake.drainctl(&DRAIN);
    assert_eq!(ran.exit, Exit::Done, "{ran:?}");
    assert_eq!(ran.err.matches("lost the agent").count(), 1, "told once: {ran:?}");
}

#[test]
fn serving_after_a_reconnect_is_9() {
    let back = [
        Answer::Events(vec![status(service(8080, Serving))], true),
        Answer::error(StatusCode::NOT_FOUND, ErrorCode::NoSuchService, "nothing there"),
    ];
    for back in back {
        let lost = Answer::Events(vec![status(service(8080, Rejecting))], false);
        let ran = draining(vec![lost, back]).drainctl(&DRAIN);
        assert_eq!(ran.exit, Exit::Ended, "{ran:?}");
    }
}

#[test]
fn lost_until_the_deadline_is_7() {
    let near = with_deadline(8080, Rejecting, 100);
    let fake = Fake::start(vec![
        (POST, vec![Answer::accepted(vec![near.clone()])]),
        (EVENTS, vec![Answer::Events(vec![status(near)], false), Answer::Die]),
    ]);
    let ran = fake.drainctl(&DRAIN);
    assert_eq!(ran.exit, Exit::Unverifiable, "{ran:?}");
    assert!(ran.err.contains("was lost"), "{ran:?}");
}

#[test]
fn no_wait_returns_at_once_and_says_how_to_end_it() {
    let fake = Fake::start(vec![(POST, vec![Answer::accepted(vec![service(8080, Settling)])])]);
    let ran = fake.drainctl(&["drain", "--port", "8080", "--no-wait", "--host"]);
    assert_eq!(ran.exit, Exit::Done, "{ran:?}");
    assert!(ran.out.contains("nothing is proven yet"), "{ran:?}");
    assert!(ran.out.contains("drainctl undrain --port 8080 --host --agent "), "{ran:?}");
    assert_eq!(fake.requests(), [POST], "it does not follow");
    let json = fake.drainctl(&["drain", "--port", "8080", "--no-wait", "--json"]).json();
    assert_eq!((&json["outcome"], &json["exit"]), (&"started".into(), &0.into()));
}

#[test]
fn json_is_one_object_and_stderr_is_silent() {
    let table = [
        (vec![status(service(8080, Drained))], "drained", 0),
        (vec![status(with_deadline(8080, Expired, 0))], "expired", 3),
        (vec![status(unknown(with_deadline(8080, Expired, 0)))], "unknown", 7),
        (vec![ended("lease over")], "ended", 9),
    ];
    for (events, outcome, exit) in table {
        let ran = draining(vec![Answer::Events(events, true)])
            .drainctl(&["--json", "drain", "--port", "8080"]);
        let json = ran.json();
        assert_eq!((&json["outcome"], &json["exit"]), (&outcome.into(), &exit.into()));
        assert_eq!(ran.exit.code(), exit);
        assert_eq!(json["services"][0]["port"], 8080);
        assert!(json["seconds"].is_number());
        assert_eq!(ran.err, "", "{outcome}");
    }
}

/// It ended before the event stream was there.
#[test]
fn a_drain_that_ended_before_it_could_be_followed_has_its_reason() {
    let over = |port| {
        let ended = EndedStatus { reason: "no registry".into(), at_deadline: false, ago_ms: 3 };
        ServiceStatus { ended: Some(ended), ..service(port, Serving) }
    };
    for accepted in [service(8080, Settling), over(8080)] {
        let ran = Fake::start(vec![
            (POST, vec![Answer::accepted(vec![accepted])]),
            (EVENTS, vec![Answer::Events(vec![status(over(8080))], false)]),
        ])
        .drainctl(&["drain", "--port", "8080"]);
        assert_eq!(ran.exit, Exit::Ended, "{ran:?}");
        assert!(ran.err.contains("port 8080: no registry"), "{ran:?}");
    }
}

#[test]
fn several_ports_are_one_drain() {
    let events = "GET /v1/events?services=4026531840:80,4026531840:443";
    let fake = Fake::start(vec![
        (POST, vec![Answer::accepted(vec![service(80, Settling), service(443, Settling)])]),
        (
            events,
            vec![
                Answer::Events(vec![status(service(80, Drained))], false),
                Answer::Events(vec![status(service(443, Drained))], true),
            ],
        ),
    ]);
    let ran = fake.drainctl(&["drain", "--port", "80", "--port", "443"]);
    assert_eq!(ran.exit, Exit::Done, "{ran:?}");
    assert!(ran.out.contains("ports 80, 443 are proven empty"), "{ran:?}");
}

//! What a waiting command concludes, event by event.

use super::*;
use crate::{api::protocol::Forward, cli::fake::service};
use StateName::{Drained, Expired, Rejecting, Serving, Settling};

fn unknown(mut status: ServiceStatus) -> ServiceStatus {
    status.unknown = Some("map full".into());
    status
}

#[test]
fn verdicts_of_a_drain() {
    let table = [
        ("settling goes on", vec![service(1, Settling)], None),
        ("rejecting goes on", vec![service(1, Rejecting)], None),
        ("drained", vec![service(1, Drained)], Some(Verdict::Reached)),
        ("expired", vec![service(1, Expired)], Some(Verdict::Remaining)),
        ("one of two", vec![service(1, Drained), service(2, Rejecting)], None),
        ("expired waits for the other", vec![service(1, Expired), service(2, Rejecting)], None),
        ("mixed", vec![service(1, Expired), service(2, Drained)], Some(Verdict::Remaining)),
        ("serving waits for its reason", vec![service(1, Serving)], None),
        (
            "expired and unknown",
            vec![unknown(service(1, Expired))],
            Some(Verdict::Unknown("port 1: map full".into())),
        ),
        (
            "drained and unknown is not zero",
            vec![unknown(service(1, Drained))],
            Some(Verdict::Unknown("port 1: map full".into())),
        ),
        ("unknown goes on until the deadline", vec![unknown(service(1, Rejecting))], None),
    ];
    for (what, services, verdict) in table {
        let now = Instant::now();
        let watched = Watched::new(Goal::Drain, services, now);
        assert_eq!(watched.verdict(now), verdict, "{what}");
    }
}

#[test]
fn an_end_is_told_with_its_reason() {
    let now = Instant::now();
    let mut watched = Watched::new(Goal::Drain, vec![service(1, Rejecting)], now);
    assert!(watched.apply(StreamEvent::Status { service: service(1, Serving) }, now).is_some());
    assert_eq!(watched.verdict(now), None);
    assert_eq!(watched.patience(now), now + REASON_GRACE);
    assert_eq!(watched.overdue(), Verdict::Ended("port 1 is serving again".into()));
    let (service, reason) = (service(1, Serving), "undrained".into());
    let ended = StreamEvent::Ended { service, reason, at_deadline: false };
    watched.apply(ended, now);
    assert_eq!(watched.verdict(now), Some(Verdict::Ended("port 1: undrained".into())));
}

#[test]
fn an_agent_that_says_nothing_by_the_deadline_is_unknown() {
    let now = Instant::now();
    let watched = Watched::new(Goal::Drain, vec![service(1, Rejecting)], now);
    assert_eq!(watched.patience(now), now + Duration::from_secs(25) + VERDICT_GRACE);
    assert!(matches!(watched.overdue(), Verdict::Unknown(_)));
}

#[test]
fn an_agent_that_resets_connections_at_the_deadline_gets_the_time_for_it() {
    let now = Instant::now();
    let mut aborting = service(1, Rejecting);
    let drain = aborting.drain.as_mut().unwrap();
    (drain.retire.at_deadline, drain.deadline_in_ms) = (AtDeadline::Abort, 0);
    let mut watched = Watched::new(Goal::Drain, vec![aborting.clone()], now);
    assert_eq!(watched.verdict(now), None, "rejecting at the deadline is no verdict");
    assert_eq!(watched.patience(now), now + ABORT_GRACE);
    let later = now + Duration::from_secs(1);
    watched.apply(StreamEvent::Status { service: aborting.clone() }, later);
    assert_eq!(watched.patience(later), later + ABORT_GRACE, "it is still at it");
    aborting.state = Drained;
    watched.apply(StreamEvent::Status { service: aborting }, later);
    assert_eq!(watched.verdict(now), Some(Verdict::Reached));
}

#[test]
fn a_drain_waits_for_what_is_carried_too() {
    let now = Instant::now();
    let mut carrying = service(1, Drained);
    let to = vec!["10.0.0.2".parse().unwrap()];
    let forward = Forward { to, proxy_protocol: false };
    carrying.drain.as_mut().unwrap().new = NewConnections::Forward(forward);
    carrying.steered = 2;
    let mut watched = Watched::new(Goal::Drain, vec![carrying.clone()], now);
    assert_eq!(watched.verdict(now), None);
    assert_eq!(watched.patience(now), now + Duration::from_secs(25), "the drain's deadline");
    assert_eq!(watched.overdue(), Verdict::Remaining);
    let goal = Goal::Wait(Until::Drained, now);
    let waited = Watched::new(goal, vec![carrying.clone()], now);
    assert_eq!(waited.verdict(now), Some(Verdict::Reached), "the state alone was waited for");
    carrying.steered = 0;
    watched.apply(StreamEvent::Status { service: carrying.clone() }, now);
    assert_eq!((watched.verdict(now), watched.patience(now)), (None, now + CARRY_QUIET));
    let later = now + CARRY_QUIET;
    assert_eq!(watched.verdict(later), Some(Verdict::Reached));
    carrying.drain.as_mut().unwrap().handed_over += 1;
    watched.apply(StreamEvent::Status { service: carrying }, later);
    assert_eq!(watched.verdict(later), None, "one more came, and has ended already");
    assert_eq!(watched.verdict(later + CARRY_QUIET), Some(Verdict::Reached));
    let mut handed = service(1, Drained);
    handed.steered = 2;
    let watched = Watched::new(Goal::Drain, vec![handed], now);
    assert_eq!(watched.verdict(now), Some(Verdict::Reached), "they are somebody else's");
}

#[test]
fn waiting_for_a_drain_that_has_not_begun() {
    let now = Instant::now();
    let goal = Goal::Wait(Until::Drained, now + Duration::from_secs(1));
    let mut watched = Watched::new(goal, vec![service(1, Serving)], now);
    assert_eq!(watched.verdict(now), None);
    assert_eq!(watched.overdue(), Verdict::Remaining);
    watched.apply(StreamEvent::Status { service: service(1, Expired) }, now);
    assert_eq!(watched.verdict(now), None, "an expired drain may still come to zero");
    watched.apply(StreamEvent::Status { service: service(1, Drained) }, now);
    assert_eq!(watched.verdict(now), Some(Verdict::Reached));
}

#[test]
fn waiting_for_traffic() {
    let now = Instant::now();
    let goal = Goal::Wait(Until::Serving, now + Duration::from_secs(1));
    let mut watched = Watched::new(goal, vec![service(1, Drained)], now);
    assert_eq!(watched.verdict(now), None);
    watched.apply(StreamEvent::Status { service: service(1, Serving) }, now);
    assert_eq!(watched.verdict(now), Some(Verdict::Reached));
}

#[test]
fn the_deadline_moves_with_the_drain() {
    let now = Instant::now();
    let mut watched = Watched::new(Goal::Drain, vec![service(1, Settling)], now);
    assert_eq!(watched.deadline(now), now + Duration::from_secs(25));
    let mut renewed = service(1, Rejecting);
    renewed.drain.as_mut().unwrap().deadline_in_ms = 60_000;
    watched.apply(StreamEvent::Status { service: renewed }, now);
    assert_eq!(watched.deadline(now), now + Duration::from_secs(60));
    let other = StreamEvent::Status { service: service(2, Serving) };
    assert!(watched.apply(other, now).is_none(), "somebody else's service");
}

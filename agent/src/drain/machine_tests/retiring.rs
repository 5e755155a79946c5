//! Rounds, the reset at the deadline, and restoring.

use super::*;
use crate::{
    drain::{AtDeadline, Forward, NewConnections, RetireRequest},
    kernel::RetireOrder,
};

/// Options that name `words`.
fn retiring(words: &str, at_deadline: AtDeadline) -> Spec {
    let set = Some(words.parse().expect("a set"));
    spec(|options| options.retire = RetireRequest { set, at_deadline, ..RetireRequest::default() })
}

fn aborting() -> Spec {
    retiring("http,idle", AtDeadline::Abort)
}

fn order(actions: &[Action]) -> Option<RetireOrder> {
    actions.iter().find_map(|action| match action {
        Action::Retire(order) => Some(*order),
        _ => None,
    })
}

fn step(machine: &mut Machine, event: Event, ms: u64) -> String {
    summary(&machine.step(event, t(ms)).expect("legal"))
}

#[test]
fn an_order_says_what_when_and_until_when() {
    let mut machine = Machine::new(retiring("http1,idle", AtDeadline::Leave));
    let first = order(&machine.step(Event::Start, t(0)).expect("legal"));
    let expected = RetireOrder {
        http1: true,
        http2: false,
        carried: false,
        start: t(0),
        spread: Duration::from_secs(3),
        patient_until: t(12_500),
        until: t(600_000),
    };
    assert_eq!(first, Some(expected));
    machine.step(Event::Renew, t(50)).expect("legal");
    machine.step(Event::Retired, t(100)).expect("legal");
    let next = order(&machine.step(Event::Timer, t(350)).expect("legal"));
    assert_eq!(next, Some(RetireOrder { until: t(600_050), ..expected }), "with the lease renewed");
}

#[test]
fn the_next_round_begins_a_while_after_the_last_has_ended() {
    for phase in [Phase::Settling, Phase::Rejecting, Phase::Expired] {
        let mut machine = machine_in(phase);
        let now = if phase == Phase::Expired { 25_001 } else { 4000 };
        machine.step(Event::Hint, t(now)).expect("legal");
        assert!(!step(&mut machine, Event::Timer, now).contains("retire"), "one is under way");
        // How long a round may take, when the next one begins, and when that one ends.
        let mut now = now;
        for (ended, pause) in [(0, 1000), (0, 250), (100, 250), (700, 700), (5000, 1000)] {
            now += ended;
            machine.step(Event::Hint, t(now)).expect("legal");
            let actions = machine.step(Event::Retired, t(now)).expect("legal");
            assert!(wake(&actions) <= t(now + pause), "{}: {ended}", phase.name());
            let actions = machine.step(Event::Timer, t(now + pause - 1)).expect("legal");
            assert!(order(&actions).is_none(), "{}: {ended}", phase.name());
            now += pause;
            assert!(step(&mut machine, Event::Timer, now).contains("retire"), "{}", phase.name());
        }
    }
}

#[test]
fn where_there_are_no_rounds() {
    let mut machine = Machine::new(retiring("none", AtDeadline::Leave));
    assert_eq!(step(&mut machine, Event::Start, 0), "watch");
    assert_eq!(step(&mut machine, Event::Undrain("?".into()), 1), "unwatch ended", "nor restored");

    let mut machine = machine_with(retiring("none", AtDeadline::Abort), Phase::Rejecting);
    machine.step(Event::Retired, t(4000)).expect("rounds that count what leaves");
    assert_eq!(step(&mut machine, Event::Undrain("?".into()), 4100), "open", "nobody was told");

    let mut machine = machine_in(Phase::Drained);
    machine.step(Event::Retired, t(3500)).expect("legal");
    let actions = machine.step(Event::Timer, t(3900)).expect("legal");
    assert_eq!((summary(&actions).as_str(), wake(&actions)), ("", t(4003)), "nobody is left");
    machine.step(judged(flows(1), t(4000)), t(4000)).expect("legal");
    assert_eq!(step(&mut machine, Event::Timer, 4501), "retire", "somebody came");
}

#[test]
fn connections_that_are_carried_are_made_to_leave_even_after_zero() {
    let to = "10.0.0.2".parse().expect("a peer");
    let forward = Forward { to: vec![to], proxy_protocol: false };
    let spec = spec(|options| options.new = NewConnections::Forward(forward.clone()));
    let mut machine = machine_with(spec, Phase::Drained);
    machine.step(Event::Retired, t(3500)).expect("legal");
    let actions = machine.step(Event::Timer, t(4501)).expect("legal");
    assert!(order(&actions).is_some_and(|order| order.carried), "{actions:?}");
}

#[test]
fn the_first_round_of_a_drain_at_once_comes_after_the_gate() {
    let mut machine = Machine::new(spec(|options| options.quiet = Some(Duration::ZERO)));
    assert_eq!(step(&mut machine, Event::Start, 0), "close");
    let closed = Event::GateClosed { lease_until: t(600_000) };
    assert_eq!(step(&mut machine, closed, 1), "watch verify retire");
    let mut machine = Machine::new(spec(|options| options.quiet = Some(Duration::ZERO)));
    machine.step(Event::Start, t(0)).expect("legal");
    assert_eq!(step(&mut machine, Event::GateFailed("?".into()), 1), "unwatch ended");
}

#[test]
fn flows_are_restored_once_however_the_drain_ends() {
    let phases =
        [Phase::Settling, Phase::Closing, Phase::Rejecting, Phase::Drained, Phase::Expired];
    for phase in phases {
        for event in [Event::Undrain("?".into()), Event::NewInstance, Event::NetnsGone] {
            let mut machine = machine_in(phase);
            let now = if phase == Phase::Expired { 25_001 } else { 3600 };
            let mut actions = step(&mut machine, event, now);
            if machine.phase() == Phase::Opening {
                actions += &step(&mut machine, Event::GateFailed("?".into()), now);
                actions += &step(&mut machine, Event::GateOpened, now + 1);
            }
            assert_eq!(actions.matches("restore").count(), 1, "{}: {actions}", phase.name());
        }
    }
}

#[test]
fn what_the_deadline_comes_to() {
    let zero = || Verdict::Empty;
    let unknown = || Verdict::Unknown("?".into());
    let done = || Event::Aborted;
    let failed = || Event::AbortFailed("not supported".into());
    #[rustfmt::skip]
    let table = [
        ("all were reset", done(), Some((zero(), 25_100)), Phase::Drained, ""),
        ("one came through all the same", done(), Some((flows(1), 25_100)), Phase::Expired, "after flows were reset a look found 1 flows"),
        ("nobody can tell", done(), Some((unknown(), 25_100)), Phase::Expired, "cannot be verified: ?"),
        ("a look from before proves nothing", done(), Some((zero(), 25_099)), Phase::Rejecting, ""),
        ("not judged yet", done(), None, Phase::Rejecting, ""),
        ("they cannot be reset", failed(), None, Phase::Expired, "flows could not be reset: not supported"),
    ];
    for (description, answer, verdict, expected, reason) in table {
        let mut machine = machine_with(aborting(), Phase::Rejecting);
        machine.step(Event::Hint, t(24_990)).expect("legal");
        let actions = machine.step(Event::Timer, t(25_000)).expect("legal");
        assert_eq!(summary(&actions), "abort", "{description}");
        assert_eq!(wake(&actions), t(25_990), "{description}: no timer but the recheck");
        assert_eq!(step(&mut machine, Event::Timer, 25_010), "", "{description}: once");
        assert!(machine.wants_abort(), "{description}");
        let mut actions = machine.step(answer, t(25_100)).expect("legal");
        assert_eq!(summary(&actions), "verify", "{description}");
        if let Some((verdict, at)) = verdict {
            actions = machine.step(judged(verdict, t(at)), t(25_110)).expect("legal");
        }
        assert_eq!(machine.phase(), expected, "{description}");
        assert!(format!("{actions:?}").contains(reason), "{description}: {actions:?}");
        assert!(!machine.wants_abort(), "{description}");
        assert!(wake(&actions) > t(25_100), "{description}: it does not spin");
    }
}

#[test]
fn who_joins_puts_a_reset_off() {
    let mut machine = machine_with(aborting(), Phase::Rejecting);
    machine.step(Event::Timer, t(25_000)).expect("legal");
    machine.step(Event::Join(Box::new(aborting())), t(25_001)).expect("legal");
    assert!(!machine.wants_abort(), "one that has not begun must not");
    machine.step(Event::Aborted, t(25_002)).expect("one that had");
    machine.step(judged(flows(1), t(25_003)), t(25_003)).expect("legal");
    assert_eq!((machine.phase(), machine.deadline()), (Phase::Rejecting, t(50_001)));
    machine.step(Event::Hint, t(49_990)).expect("legal");
    assert_eq!(step(&mut machine, Event::Timer, 50_001), "abort", "at its own deadline");
    machine.step(Event::Undrain("?".into()), t(50_002)).expect("legal");
    assert!(!machine.wants_abort(), "nor after the end");
}

#[test]
fn a_flow_that_leaves_by_itself_meanwhile_makes_it_drained() {
    let mut machine = machine_with(aborting(), Phase::Rejecting);
    machine.step(Event::Timer, t(25_000)).expect("legal");
    machine.step(judged(Verdict::Empty, t(25_001)), t(25_001)).expect("legal");
    assert_eq!((machine.phase(), machine.wants_abort()), (Phase::Drained, false));
    machine.step(judged(flows(1), t(26_000)), t(26_000)).expect("legal");
    assert_eq!(machine.phase(), Phase::Expired, "it waits for no answer");
}

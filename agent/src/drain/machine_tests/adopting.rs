//! Going on with the drain of another process, from every phase.

use super::{
    super::{Standing, retire::AtDeadline},
    flows, judged, machine_in, machine_with, spec, summary, t, wake,
};
use crate::drain::{Arrivals, Event, Machine, Phase, SettledBy, Verdict};

/// As another process finds it.
fn saved(machine: &Machine) -> Standing {
    let text = serde_json::to_vec(&machine.standing().expect("a drain is under way")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn every_phase_goes_on() {
    use Phase::*;
    assert!(machine_in(Serving).standing().is_none(), "there is nothing to go on with");
    #[rustfmt::skip]
    let table = [
        // description, phase, when, then, what is done at once, what the first timer does
        ("settling goes on", Settling, 2000, Settling, "watch", "arrivals verify retire"),
        ("nobody knows whether the gate closed", Closing, 3000, Closing, "close", ""),
        ("the gate is closed", Rejecting, 4000, Rejecting, "watch", "retire verify"),
        ("the deadline passed meanwhile", Rejecting, 26_000, Rejecting, "watch", "verify retire"),
        ("zero is to be proven again", Drained, 4000, Rejecting, "watch", "retire verify"),
        ("so it is after the deadline", Drained, 26_000, Expired, "watch", "retire verify"),
        ("connections remain", Expired, 26_000, Expired, "watch", "retire verify"),
        ("the gate was being opened", Opening, 4000, Opening, "open restore", ""),
    ];
    for (description, phase, ms, then, at_once, by_timer) in table {
        let before = machine_in(phase);
        let (mut machine, actions) = Machine::adopt(saved(&before), t(ms));
        assert_eq!((machine.phase(), summary(&actions).as_str()), (then, at_once), "{description}");
        assert_eq!(machine.started(), before.started(), "{description}");
        assert_eq!(machine.deadline(), before.deadline(), "{description}");
        assert_eq!(machine.lease_until(), before.lease_until(), "{description}");
        assert_eq!(machine.spec(), before.spec(), "{description}");
        assert!(by_timer.is_empty() || wake(&actions) <= t(ms), "{description}: at once");
        let actions = machine.step(Event::Timer, t(ms)).expect("legal");
        assert_eq!(summary(&actions), by_timer, "{description}");
    }
}

#[test]
fn the_history_goes_on() {
    use crate::drain::StateName::{Drained, Rejecting, Settling};
    let before = machine_in(Phase::Drained);
    let so_far = [(Settling, t(0)), (Rejecting, t(3001)), (Drained, t(3003))];
    assert_eq!(before.history(), so_far);
    let (mut machine, _) = Machine::adopt(saved(&before), t(4000));
    assert_eq!(machine.history(), [&so_far[..], &[(Rejecting, t(4000))]].concat());
    for ms in (5000..25_000).step_by(1000) {
        machine.step(judged(Verdict::Empty, t(ms)), t(ms)).expect("legal");
        machine.step(Event::Accepted { at: t(ms + 1) }, t(ms + 1)).expect("legal");
    }
    assert_eq!(machine.history().len(), 8, "what is saved has little room");
    assert_eq!((machine.history()[0].1, machine.history()[7].1), (t(0), t(24_001)));
}

#[test]
fn settling_does_not_end_early_if_nobody_knows_any_more_who_came() {
    let (mut machine, _) = Machine::adopt(saved(&machine_in(Phase::Settling)), t(2900));
    for (ms, phase) in [(3000, Phase::Settling), (3899, Phase::Settling), (3900, Phase::Closing)] {
        machine.step(Event::Arrivals(Arrivals::Never), t(ms)).expect("legal");
        assert_eq!(machine.phase(), phase, "after {ms} ms");
    }
}

#[test]
fn the_lease_may_have_ended_meanwhile() {
    for (phase, then, actions) in [
        (Phase::Settling, Phase::Serving, "restore unwatch ended"),
        (Phase::Rejecting, Phase::Opening, "open restore"),
        (Phase::Drained, Phase::Opening, "open restore"),
        (Phase::Expired, Phase::Opening, "open restore"),
    ] {
        let (mut machine, _) = Machine::adopt(saved(&machine_in(phase)), t(700_000));
        let done = machine.step(Event::Timer, t(700_000)).expect("legal");
        assert_eq!((machine.phase(), summary(&done).as_str()), (then, actions), "{phase:?}");
    }
}

#[test]
fn a_look_of_before_proves_nothing_and_one_of_now_does() {
    let (mut machine, _) = Machine::adopt(saved(&machine_in(Phase::Rejecting)), t(5000));
    machine.step(judged(Verdict::Empty, t(4999)), t(5001)).expect("legal");
    assert_eq!(machine.phase(), Phase::Rejecting);
    machine.step(judged(Verdict::Empty, t(5001)), t(5002)).expect("legal");
    assert_eq!(machine.phase(), Phase::Drained);
    assert_eq!(machine.settled_by(), Some(SettledBy::Quiet));
}

#[test]
fn flows_are_reset_once_more_only_if_nobody_saw_that_they_were() {
    let aborting = spec(|options| options.retire.at_deadline = AtDeadline::Abort);
    let mut machine = machine_with(aborting, Phase::Rejecting);
    machine.step(Event::Timer, t(25_000)).expect("legal");
    let (mut again, _) = Machine::adopt(saved(&machine), t(26_000));
    let actions = again.step(Event::Timer, t(26_000)).expect("legal");
    assert!(summary(&actions).contains("abort"), "nobody knows how far it got");
    machine.step(Event::Aborted, t(25_010)).expect("legal");
    let (mut judging, _) = Machine::adopt(saved(&machine), t(26_000));
    let actions = judging.step(Event::Timer, t(26_000)).expect("legal");
    assert!(!summary(&actions).contains("abort"), "it was done");
    judging.step(judged(flows(1), t(26_001)), t(26_002)).expect("legal");
    assert_eq!(judging.phase(), Phase::Expired);
}

#[test]
fn why_a_drain_ends_is_not_forgotten() {
    let (mut machine, _) = Machine::adopt(saved(&machine_in(Phase::Opening)), t(4000));
    let actions = machine.step(Event::GateOpened, t(4001)).expect("legal");
    assert!(format!("{actions:?}").contains("Ended(Ending { reason: \"undrained\""), "{actions:?}");
}

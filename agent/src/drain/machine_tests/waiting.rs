//! Services that something holds.

use super::*;

#[test]
fn zero_means_nothing_while_something_holds_the_service() {
    let mut machine = machine_in(Phase::Rejecting);
    machine.step(Event::Held(Some(t(10_000))), t(4000)).expect("legal");
    machine.step(judged(Verdict::Empty, t(4001)), t(4002)).expect("legal");
    assert_eq!(machine.phase(), Phase::Rejecting);
    machine.step(judged(Verdict::Empty, t(9000)), t(9999)).expect("legal");
    assert_eq!(machine.phase(), Phase::Rejecting);
    machine.step(judged(Verdict::Empty, t(9999)), t(10_000)).expect("legal");
    assert_eq!(machine.phase(), Phase::Drained, "its time is over, whether anybody said so or not");
}

#[test]
fn it_is_held_from_before_its_first_moment() {
    let mut machine = Machine::new(spec(|options| options.quiet = Some(Duration::ZERO)));
    machine.step(Event::Held(Some(t(10_000))), t(0)).expect("legal");
    machine.step(Event::Start, t(0)).expect("legal");
    machine.step(Event::GateClosed { lease_until: t(600_000) }, t(1)).expect("legal");
    machine.step(judged(Verdict::Empty, t(2)), t(3)).expect("legal");
    assert_eq!(machine.phase(), Phase::Rejecting);
}

#[test]
fn what_remains_after_a_reset_may_be_work() {
    let abort = spec(|options| options.retire.at_deadline = crate::drain::AtDeadline::Abort);
    let mut machine = machine_with(abort, Phase::Rejecting);
    machine.step(Event::Held(Some(t(60_000))), t(4000)).expect("legal");
    machine.step(Event::Timer, t(25_000)).expect("legal");
    machine.step(Event::Aborted, t(25_001)).expect("legal");
    machine.step(judged(Verdict::Empty, t(25_002)), t(25_003)).expect("legal");
    assert_eq!(machine.phase(), Phase::Expired);
}

//! Clients that are treated by their address.

use super::*;

fn in_phase(phase: Phase) -> Machine {
    machine_with(guarded_spec(), phase)
}

#[test]
fn a_gate_that_closes_at_once_waits_for_the_lists() {
    let at_once = spec(|options| {
        options.quiet = Some(Duration::ZERO);
        options.admission.fail_health_from = vec!["::1".parse().expect("a prefix")];
    });
    let mut machine = Machine::new(at_once);
    let actions = machine.step(Event::Start, t(0)).expect("legal");
    assert_eq!((machine.phase(), summary(&actions).as_str()), (Phase::Guarding, "guard"));
    assert_eq!(machine.state(), StateName::Settling);
    let lease_until = t(600_000);
    let actions = machine.step(Event::Guarded { lease_until }, t(1)).expect("legal");
    assert_eq!((machine.phase(), summary(&actions).as_str()), (Phase::Closing, "close"));
}

#[test]
fn whatever_ends_the_drain_takes_the_lists_out_of_force() {
    for (phase, event) in [
        (Phase::Guarding, Event::Undrain("undrained".into())),
        (Phase::Settling, Event::Undrain("undrained".into())),
        (Phase::Settling, Event::NewInstance),
        (Phase::Closing, Event::GateFailed("no memory".into())),
        (Phase::Drained, Event::Undrain("undrained".into())),
    ] {
        let mut machine = in_phase(phase);
        let actions = machine.step(event, t(4000)).expect("legal");
        assert_eq!(machine.phase(), Phase::Opening, "{}", phase.name());
        assert!(summary(&actions).starts_with("open"), "{}", phase.name());
    }
    let mut machine = in_phase(Phase::Settling);
    machine.step(Event::Timer, t(600_001)).expect("legal");
    assert_eq!(machine.phase(), Phase::Opening, "the lease is over");
}

#[test]
fn the_lease_of_the_lists_is_renewed_while_settling() {
    let mut machine = in_phase(Phase::Settling);
    let actions = machine.step(Event::Renew, t(1000)).expect("legal");
    assert_eq!(summary(&actions), "renew");
    let mut machine = in_phase(Phase::Guarding);
    machine.step(Event::Renew, t(500)).expect("legal");
    let guarded = Event::Guarded { lease_until: t(600_000) };
    let actions = machine.step(guarded, t(501)).expect("legal");
    assert_eq!(
        summary(&actions),
        "watch retire renew",
        "it was asked for while it was not in force"
    );
}

#[test]
fn who_is_let_in_after_zero_is_no_bug() {
    let accepted = Event::Accepted { at: t(3500) };
    for event in [accepted, judged(flows(1), t(3500))] {
        let mut machine = in_phase(Phase::Drained);
        let actions = machine.step(event.clone(), t(4000)).expect("legal");
        assert_eq!(machine.phase(), Phase::Rejecting);
        assert!(!summary(&actions).contains("flow!"), "{}", event.name());
        let ignores = spec(|o| o.admission.ignore = vec!["::1".parse().expect("a prefix")]);
        let mut machine = machine_with(ignores, Phase::Drained);
        let actions = machine.step(event, t(4000)).expect("legal");
        assert!(summary(&actions).contains("flow!"), "nobody may come but those that do not count");
    }
}

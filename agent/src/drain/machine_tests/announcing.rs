//! Registries: told before the gate closes, and told again once it is open.

use std::time::Duration;

use super::{
    machine_in, spec, summary, t,
    table::{Row, Table},
    wake,
};
use crate::drain::{Action, Arrivals, Event, Machine, Phase, SettledBy};

/// Rows of the table of every event in every phase.
pub(super) fn rows(e: &Table) -> Vec<Row> {
    use Phase::*;
    #[rustfmt::skip]
    let mut rows: Vec<Row> = vec![
        ("it has begun already", Announcing, e.start(), None),
        ("a second drain joins", Announcing, e.join(), Some((Announcing, ""))),
        ("the lease is renewed; no gate has it yet", Announcing, e.renew(), Some((Announcing, ""))),
        ("undrain: the gate was never closed, but registries may have been told", Announcing, e.undrain(), Some((Serving, "retract unwatch ended"))),
        ("registries take their time", Announcing, e.timer(), Some((Announcing, ""))),
        ("nobody has asked yet", Announcing, e.arrivals(), None),
        ("the lists are in force already, or there are none", Announcing, e.guarded(), None),
        ("nobody closes it yet", Announcing, e.closed(), None),
        ("the lists have the new lease", Announcing, e.renewed(), Some((Announcing, ""))),
        ("the old lease stays for now", Announcing, e.renew_failed(), Some((Announcing, ""))),
        ("nobody opens it", Announcing, e.opened(), None),
        ("nobody moves it", Announcing, e.failed(), None),
        ("nobody counts yet", Announcing, e.hint(), Some((Announcing, ""))),
        ("connections are welcome", Announcing, e.accepted(), Some((Announcing, ""))),
        ("nobody counts yet", Announcing, e.judged(), Some((Announcing, ""))),
        ("nobody has looked yet", Announcing, e.instance(), None),
        ("the namespace dies, and nobody comes back", Announcing, e.gone(), Some((Serving, "forget unwatch ended"))),
        ("no round has begun", Announcing, e.retired(), None),
        ("no deadline has passed", Announcing, e.aborted(), None),
        ("no deadline has passed", Announcing, e.abort_failed(), None),
        ("its pod is about to go", Announcing, e.endpoint(), Some((Announcing, ""))),
        ("the registries know", Announcing, e.announced(), Some((Settling, "watch retire"))),
        ("a registry does not, and that is to end the drain", Announcing, e.not_announced(), Some((Serving, "retract unwatch ended"))),
        ("nothing is taken back yet", Announcing, e.retracted(), None),
        ("somebody waits", Announcing, e.held(), Some((Announcing, ""))),
        ("the registries know that it is back", Serving, e.retracted(), Some((Serving, ""))),
        ("an answer asked for before", Opening, e.announced(), Some((Opening, ""))),
        ("an answer asked for before", Opening, e.not_announced(), Some((Opening, ""))),
        ("nothing is taken back yet", Opening, e.retracted(), None),
    ];
    rows.push(("nobody is told", Serving, e.announced(), None));
    rows.push(("nobody is told", Serving, e.not_announced(), None));
    for phase in [Guarding, Settling, Closing, Rejecting, Drained, Expired] {
        rows.push(("nobody is told now", phase, e.announced(), None));
        rows.push(("nobody is told now", phase, e.not_announced(), None));
        rows.push(("nothing is taken back yet", phase, e.retracted(), None));
    }
    rows
}

fn step(machine: &mut Machine, event: Event, ms: u64) -> Vec<Action> {
    machine.step(event, t(ms)).expect("legal")
}

#[test]
fn registries_have_three_fifths_of_the_timeout() {
    let mut machine = Machine::new(spec(|_| ())).announcing(true);
    let actions = step(&mut machine, Event::Start, 0);
    assert!(actions.contains(&Action::Announce { until: t(15_000) }), "{actions:?}");
}

#[test]
fn consumers_have_the_settling_time_however_long_registries_took() {
    for (took, quiet_at, at_last) in [(500, 3500, 15_000), (14_000, 17_000, 17_000)] {
        let mut machine = machine_in(Phase::Announcing);
        step(&mut machine, Event::Announced, took);
        step(&mut machine, Event::Hint, quiet_at - 1);
        step(&mut machine, Event::Arrivals(Arrivals::Never), quiet_at - 1);
        assert_eq!(machine.phase(), Phase::Settling, "registries took {took} ms");
        let mut late = machine.clone();
        step(&mut machine, Event::Arrivals(Arrivals::Never), quiet_at);
        assert_eq!(machine.phase(), Phase::Closing, "registries took {took} ms");
        step(&mut late, Event::Arrivals(Arrivals::Last(t(at_last))), at_last);
        step(&mut late, Event::GateClosed { lease_until: t(600_000) }, at_last);
        assert_eq!(late.settled_by(), Some(SettledBy::MaxSettle), "registries took {took} ms");
    }
}

#[test]
fn with_quiet_0_the_gate_closes_once_registries_know() {
    let at_once = spec(|options| options.quiet = Some(Duration::ZERO));
    let mut machine = Machine::new(at_once).announcing(true);
    let actions = step(&mut machine, Event::Start, 0);
    assert_eq!(summary(&actions), "announce");
    let until = Action::Announce { until: t(7000) };
    assert!(actions.contains(&until), "sooner than drainctl gives up: {actions:?}");
    assert_eq!(summary(&step(&mut machine, Event::Announced, 900)), "close");
}

#[test]
fn lists_are_in_force_while_registries_are_told() {
    let mut machine = Machine::new(super::guarded_spec()).announcing(true);
    assert_eq!(summary(&step(&mut machine, Event::Start, 0)), "guard");
    let guarded = Event::Guarded { lease_until: t(600_000) };
    assert_eq!(summary(&step(&mut machine, guarded, 1)), "announce");
    assert_eq!(summary(&step(&mut machine, Event::Renew, 5000)), "renew");
    let failed = Event::NotAnnounced("consul does not answer".into());
    assert_eq!(summary(&step(&mut machine, failed, 6000)), "open", "they are lifted first");
    assert_eq!(summary(&step(&mut machine, Event::GateOpened, 6001)), "retract unwatch ended");
}

#[test]
fn what_was_told_is_taken_back_once_the_gate_is_open() {
    let mut machine = machine_in(Phase::Announcing);
    step(&mut machine, Event::Announced, 100);
    step(&mut machine, Event::Arrivals(Arrivals::Never), 3100);
    step(&mut machine, Event::GateClosed { lease_until: t(600_000) }, 3101);
    assert_eq!(summary(&step(&mut machine, Event::NewInstance, 4000)), "open restore");
    assert_eq!(summary(&step(&mut machine, Event::GateOpened, 4001)), "retract unwatch ended");
    assert!(machine.standing().is_some(), "the next agent has to take it back");
    let mut next = Machine::new(spec(|_| ())).inheriting(&machine);
    step(&mut machine, Event::Retracted, 4100);
    assert!(machine.standing().is_none(), "all is done");
    step(&mut next, Event::Start, 4050);
    let actions = step(&mut next, Event::Undrain("undrained".into()), 4060);
    assert_eq!(summary(&actions), "restore retract unwatch ended", "the next drain ends it too");
}

#[test]
fn the_lease_ends_a_drain_that_never_gets_past_its_registries() {
    let mut machine = machine_in(Phase::Announcing);
    assert_eq!(wake(&step(&mut machine, Event::Timer, 10_000)), t(11_000));
    let actions = step(&mut machine, Event::Timer, 600_000);
    assert_eq!(summary(&actions), "retract unwatch ended");
}

#[test]
fn another_agent_goes_on() {
    let adopt = |machine: &Machine, ms| Machine::adopt(machine.standing().unwrap(), t(ms));
    let (announcing, actions) = adopt(&machine_in(Phase::Announcing), 20_000);
    assert_eq!(announcing.phase(), Phase::Announcing);
    assert!(actions.contains(&Action::Announce { until: t(35_000) }), "{actions:?}");
    let mut over = machine_in(Phase::Announcing);
    step(&mut over, Event::Undrain("undrained".into()), 100);
    let (_, actions) = adopt(&over, 200);
    assert_eq!(actions, [Action::Retract]);
}

//! The machine by table: every pair of phase and event, then the rules about time.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Action, Arrivals, Boot, Counts, Event, Judgement, Machine, Phase, Spec, SpecRequest, Verdict,
};
use crate::{
    api::protocol::{SettledBy, StateName},
    kernel::Watch,
};

/// Milliseconds after the drain's start.
fn t(ms: u64) -> Boot {
    Boot::from_nanos(1_000_000_000_000) + Duration::from_millis(ms)
}

fn spec(change: impl FnOnce(&mut SpecRequest)) -> Spec {
    let mut request = SpecRequest::default();
    change(&mut request);
    Spec::try_from(request).expect("tests use valid options")
}

fn judged(verdict: Verdict, at: Boot) -> Event {
    Event::Judged(Judgement { verdict, at, silent: false })
}

fn flows(flows: u64) -> Verdict {
    Verdict::NotEmpty(Counts { flows, ..Counts::default() })
}

/// A drain with the default options that is in `phase` since at most four seconds after its start
/// (expired: since its deadline).
fn machine_in(phase: Phase) -> Machine {
    machine_with(spec(|_| ()), phase)
}

fn machine_with(spec: Spec, phase: Phase) -> Machine {
    let lease_until = t(600_000);
    let mut steps = match phase {
        Phase::Serving => vec![],
        Phase::Settling => vec![(Event::Start, 0)],
        Phase::Closing => vec![(Event::Start, 0), (Event::Arrivals(Arrivals::Never), 3000)],
        _ => vec![
            (Event::Start, 0),
            (Event::Arrivals(Arrivals::Never), 3000),
            (Event::GateClosed { lease_until }, 3001),
        ],
    };
    match phase {
        Phase::Drained => steps.push((judged(Verdict::Empty, t(3002)), 3003)),
        Phase::Expired => steps.push((Event::Timer, 25_000)),
        Phase::Opening => steps.push((Event::Undrain("undrained".into()), 3500)),
        _ => {}
    }
    let mut machine = Machine::new(spec);
    for (event, ms) in steps {
        machine.step(event, t(ms)).expect("legal");
    }
    assert_eq!(machine.phase(), phase);
    machine
}

/// The actions in short; transitions and wake-ups are checked apart.
fn summary(actions: &[Action]) -> String {
    let short = |action: &Action| match action {
        Action::CloseGate { .. } => Some("close"),
        Action::RenewGate { .. } => Some("renew"),
        Action::OpenGate => Some("open"),
        Action::Forget => Some("forget"),
        Action::Watch(Watch { listeners: false, flows: false }) => Some("unwatch"),
        Action::Watch(_) => Some("watch"),
        Action::ReadArrivals => Some("arrivals"),
        Action::Verify => Some("verify"),
        Action::LogSources => Some("sources"),
        Action::FlowAfterDrained => Some("flow!"),
        Action::Ended(_) => Some("ended"),
        Action::WakeAt(_) | Action::Transition { .. } => None,
    };
    actions.iter().filter_map(short).collect::<Vec<_>>().join(" ")
}

/// A step must say where it went, and when to be woken unless the drain is over.
fn check_frame(description: &str, before: Phase, after: Phase, actions: &[Action]) {
    let mut at = before;
    for action in actions {
        if let Action::Transition { from, to, .. } = action {
            assert_eq!(*from, at, "{description}: transitions follow each other");
            at = *to;
        }
    }
    assert_eq!(at, after, "{description}: transitions end where the machine is");
    let wakes = actions.iter().filter(|action| matches!(action, Action::WakeAt(_))).count();
    assert_eq!(wakes, usize::from(after != Phase::Serving), "{description}: wake-ups");
}

/// Why, phase, event, and then phase and actions; `None` if the event is illegal.
type Row = (&'static str, Phase, Event, Option<(Phase, &'static str)>);

#[test]
fn every_event_in_every_phase() {
    use Phase::*;
    let e = Table;
    #[rustfmt::skip]
    let table: Vec<Row> = vec![
        ("a drain begins", Serving, e.start(), Some((Settling, "watch"))),
        ("nothing to join", Serving, e.join(), None),
        ("nothing to renew", Serving, e.renew(), None),
        ("nothing to end", Serving, e.undrain(), None),
        ("no time was asked for", Serving, e.timer(), None),
        ("nobody asked for arrivals", Serving, e.arrivals(), None),
        ("nobody closed the gate", Serving, e.closed(), None),
        ("nobody renewed it", Serving, e.renewed(), None),
        ("nobody tried to renew it", Serving, e.renew_failed(), None),
        ("nobody opened it", Serving, e.opened(), None),
        ("nobody moved it", Serving, e.failed(), None),
        ("nobody waits for hints", Serving, e.hint(), None),
        ("nobody waits for flows", Serving, e.accepted(), None),
        ("nobody asked for a verdict", Serving, e.judged(), None),
        ("nobody compares listeners", Serving, e.instance(), None),
        ("no drain to lose", Serving, e.gone(), None),

        ("it has begun already", Settling, e.start(), None),
        ("a second drain joins", Settling, e.join(), Some((Settling, ""))),
        ("the lease is renewed; no gate has it yet", Settling, e.renew(), Some((Settling, ""))),
        ("undrain: the gate was never closed", Settling, e.undrain(), Some((Serving, "unwatch ended"))),
        ("time to see whether it is settled, and to look", Settling, e.timer(), Some((Settling, "arrivals verify"))),
        ("settled: no connection ever came", Settling, e.arrivals(), Some((Closing, "close"))),
        ("the gate is not being closed", Settling, e.closed(), None),
        ("the gate has no lease", Settling, e.renewed(), None),
        ("the gate has no lease to renew", Settling, e.renew_failed(), None),
        ("the gate is not being opened", Settling, e.opened(), None),
        ("the gate is not being moved", Settling, e.failed(), None),
        ("a listener came or went", Settling, e.hint(), Some((Settling, "verify"))),
        ("connections are welcome", Settling, e.accepted(), Some((Settling, ""))),
        ("zero means nothing while the gate is open", Settling, e.judged(), Some((Settling, ""))),
        ("restarted before the gate closed", Settling, e.instance(), Some((Serving, "unwatch ended"))),
        ("the namespace dies", Settling, e.gone(), Some((Serving, "forget unwatch ended"))),

        ("it has begun already", Closing, e.start(), None),
        ("a second drain joins", Closing, e.join(), Some((Closing, ""))),
        ("the lease is renewed, and confirmed once it is closed", Closing, e.renew(), Some((Closing, ""))),
        ("undrain: the gate may close any moment, so open it", Closing, e.undrain(), Some((Opening, "open"))),
        ("the kernel takes its time", Closing, e.timer(), Some((Closing, ""))),
        ("an answer asked for before", Closing, e.arrivals(), Some((Closing, ""))),
        ("the gate is closed", Closing, e.closed(), Some((Rejecting, "watch verify"))),
        ("the gate is not closed yet", Closing, e.renewed(), None),
        ("nor renewed", Closing, e.renew_failed(), None),
        ("nobody opens it", Closing, e.opened(), None),
        ("the gate cannot be closed", Closing, e.failed(), Some((Serving, "unwatch ended"))),
        ("there will be a look anyway", Closing, e.hint(), Some((Closing, ""))),
        ("the gate is still open", Closing, e.accepted(), Some((Closing, ""))),
        ("zero means nothing while the gate is open", Closing, e.judged(), Some((Closing, ""))),
        ("restarted at the last moment", Closing, e.instance(), Some((Opening, "open"))),
        ("the namespace dies", Closing, e.gone(), Some((Serving, "forget unwatch ended"))),

        ("it has begun already", Rejecting, e.start(), None),
        ("a second drain joins", Rejecting, e.join(), Some((Rejecting, "renew verify"))),
        ("the lease is renewed", Rejecting, e.renew(), Some((Rejecting, "renew"))),
        ("undrain", Rejecting, e.undrain(), Some((Opening, "open"))),
        ("the backup look is due", Rejecting, e.timer(), Some((Rejecting, "verify"))),
        ("an answer asked for before", Rejecting, e.arrivals(), Some((Rejecting, ""))),
        ("it is closed already", Rejecting, e.closed(), None),
        ("the kernel has the new lease", Rejecting, e.renewed(), Some((Rejecting, ""))),
        ("the old lease stays for now", Rejecting, e.renew_failed(), Some((Rejecting, ""))),
        ("nobody opens it", Rejecting, e.opened(), None),
        ("nobody moves it", Rejecting, e.failed(), None),
        ("the tracker counts zero", Rejecting, e.hint(), Some((Rejecting, "verify"))),
        ("a handshake from before was finished", Rejecting, e.accepted(), Some((Rejecting, "verify"))),
        ("zero is proven", Rejecting, e.judged(), Some((Drained, ""))),
        ("flows are left", Rejecting, e.flows(), Some((Rejecting, ""))),
        ("it cannot be told", Rejecting, e.unknown(), Some((Rejecting, ""))),
        ("the look began before the gate was closed", Rejecting, e.old_zero(), Some((Rejecting, "verify"))),
        ("restarted", Rejecting, e.instance(), Some((Opening, "open"))),
        ("the namespace dies", Rejecting, e.gone(), Some((Serving, "forget unwatch ended"))),

        ("it has begun already", Drained, e.start(), None),
        ("a second drain joins, and has it proven again", Drained, e.join(), Some((Drained, "renew verify"))),
        ("the lease is renewed", Drained, e.renew(), Some((Drained, "renew"))),
        ("undrain", Drained, e.undrain(), Some((Opening, "open"))),
        ("the backup look is due", Drained, e.timer(), Some((Drained, "verify"))),
        ("an answer asked for before", Drained, e.arrivals(), Some((Drained, ""))),
        ("it is closed already", Drained, e.closed(), None),
        ("the kernel has the new lease", Drained, e.renewed(), Some((Drained, ""))),
        ("the old lease stays for now", Drained, e.renew_failed(), Some((Drained, ""))),
        ("nobody opens it", Drained, e.opened(), None),
        ("nobody moves it", Drained, e.failed(), None),
        ("somebody asks", Drained, e.hint(), Some((Drained, "verify"))),
        ("a flow came through the closed gate", Drained, e.accepted(), Some((Rejecting, "flow! verify"))),
        ("old news: the proof is newer", Drained, e.old_accepted(), Some((Drained, "verify"))),
        ("still zero", Drained, e.judged(), Some((Drained, ""))),
        ("a look finds a flow", Drained, e.flows(), Some((Rejecting, "flow!"))),
        ("a look finds a handshake", Drained, e.handshake(), Some((Rejecting, ""))),
        ("it cannot be told any more", Drained, e.unknown(), Some((Rejecting, ""))),
        ("the look began before the gate was closed", Drained, e.old_zero(), Some((Drained, "verify"))),
        ("restarted", Drained, e.instance(), Some((Opening, "open"))),
        ("the namespace dies", Drained, e.gone(), Some((Serving, "forget unwatch ended"))),

        ("it has begun already", Expired, e.start(), None),
        ("a second drain joins, with a new deadline", Expired, e.join(), Some((Rejecting, "renew verify"))),
        ("the lease is renewed", Expired, e.renew(), Some((Expired, "renew"))),
        ("undrain", Expired, e.undrain(), Some((Opening, "open"))),
        ("the backup look is due", Expired, e.timer(), Some((Expired, "verify"))),
        ("an answer asked for before", Expired, e.arrivals(), Some((Expired, ""))),
        ("it is closed already", Expired, e.closed(), None),
        ("the kernel has the new lease", Expired, e.renewed(), Some((Expired, ""))),
        ("the old lease stays for now", Expired, e.renew_failed(), Some((Expired, ""))),
        ("nobody opens it", Expired, e.opened(), None),
        ("nobody moves it", Expired, e.failed(), None),
        ("the tracker counts zero", Expired, e.hint(), Some((Expired, "verify"))),
        ("a handshake from before was finished", Expired, e.accepted(), Some((Expired, "verify"))),
        ("zero is proven, late", Expired, e.judged(), Some((Drained, ""))),
        ("flows are left", Expired, e.flows(), Some((Expired, ""))),
        ("it cannot be told", Expired, e.unknown(), Some((Expired, ""))),
        ("restarted", Expired, e.instance(), Some((Opening, "open"))),
        ("the namespace dies", Expired, e.gone(), Some((Serving, "forget unwatch ended"))),

        ("the old drain is not over yet", Opening, e.start(), None),
        ("what is over cannot be joined", Opening, e.join(), None),
        ("what is over is not renewed", Opening, e.renew(), Some((Opening, ""))),
        ("it is under way", Opening, e.undrain(), Some((Opening, ""))),
        ("the kernel takes its time", Opening, e.timer(), Some((Opening, ""))),
        ("an answer asked for before", Opening, e.arrivals(), Some((Opening, ""))),
        ("closed, and opened next", Opening, e.closed(), Some((Opening, ""))),
        ("renewed, and opened next", Opening, e.renewed(), Some((Opening, ""))),
        ("not renewed, and opened next", Opening, e.renew_failed(), Some((Opening, ""))),
        ("the gate is open", Opening, e.opened(), Some((Serving, "unwatch ended"))),
        ("the gate cannot be opened: later", Opening, e.failed(), Some((Opening, ""))),
        ("nobody counts any more", Opening, e.hint(), Some((Opening, ""))),
        ("connections are welcome", Opening, e.accepted(), Some((Opening, ""))),
        ("nobody counts any more", Opening, e.judged(), Some((Opening, ""))),
        ("it opens anyway", Opening, e.instance(), Some((Opening, ""))),
        ("the namespace dies", Opening, e.gone(), Some((Serving, "forget unwatch ended"))),
    ];
    let mut covered = BTreeSet::new();
    for (description, phase, event, expected) in table {
        let description = format!("{} + {}: {description}", phase.name(), event.name());
        covered.insert((phase, event.name()));
        let mut machine = machine_in(phase);
        let now = if phase == Expired { t(26_100) } else { t(4100) };
        match (machine.step(event, now), expected) {
            (Ok(actions), Some((to, actions_in_short))) => {
                assert_eq!(machine.phase(), to, "{description}");
                assert_eq!(summary(&actions), actions_in_short, "{description}");
                check_frame(&description, phase, to, &actions);
            }
            (Err(illegal), None) => {
                assert_eq!(illegal.phase, phase, "{description}");
                assert_eq!(machine.phase(), phase, "{description}: nothing has changed");
            }
            (got, expected) => panic!("{description}: {got:?} instead of {expected:?}"),
        }
    }
    assert_eq!(covered.len(), Phase::ALL.len() * 16, "every pair is in the table");
}

/// Events of the table; those with a time come after whatever `machine_in` did.
struct Table;

#[rustfmt::skip]
impl Table {
    fn start(&self) -> Event { Event::Start }
    fn join(&self) -> Event { Event::Join }
    fn renew(&self) -> Event { Event::Renew }
    fn undrain(&self) -> Event { Event::Undrain("undrained".into()) }
    fn timer(&self) -> Event { Event::Timer }
    fn arrivals(&self) -> Event { Event::Arrivals(Arrivals::Never) }
    fn closed(&self) -> Event { Event::GateClosed { lease_until: t(600_000) } }
    fn renewed(&self) -> Event { Event::GateRenewed { lease_until: t(600_000) } }
    fn renew_failed(&self) -> Event { Event::RenewFailed }
    fn opened(&self) -> Event { Event::GateOpened }
    fn failed(&self) -> Event { Event::GateFailed("no memory".into()) }
    fn hint(&self) -> Event { Event::Hint }
    fn accepted(&self) -> Event { Event::Accepted { at: t(4000) } }
    fn old_accepted(&self) -> Event { Event::Accepted { at: t(3002) } }
    fn judged(&self) -> Event { judged(Verdict::Empty, t(4000)) }
    fn old_zero(&self) -> Event { judged(Verdict::Empty, t(3000)) }
    fn flows(&self) -> Event { judged(flows(1), t(4000)) }
    fn handshake(&self) -> Event { judged(Verdict::NotEmpty(Counts { handshakes: 1, ..Counts::default() }), t(4000)) }
    fn unknown(&self) -> Event { judged(Verdict::Unknown("no look".into()), t(4000)) }
    fn instance(&self) -> Event { Event::NewInstance }
    fn gone(&self) -> Event { Event::NetnsGone }
}

/// When the step asks to be woken.
fn wake(actions: &[Action]) -> Boot {
    let mut wakes = actions.iter().filter_map(|action| match action {
        Action::WakeAt(at) => Some(*at),
        _ => None,
    });
    wakes.next_back().expect("a drain under way has a wake-up")
}

#[test]
fn when_settling_is_over() {
    use Arrivals::{Last, Never, Unknown};
    let by = |settled_by, sources| Ok((settled_by, sources));
    #[rustfmt::skip]
    let table = [
        // description, at, arrivals, settled by (and sources logged) or when to ask again
        ("before min-settle, however quiet", 2999, Never, Err(3009)),
        ("min-settle alone, if none ever came", 3000, Never, by(SettledBy::Quiet, false)),
        ("the last one came before the drain", 3000, Last(Boot::from_nanos(5)), by(SettledBy::Quiet, false)),
        ("the last one came too lately", 3000, Last(t(2500)), Err(3500)),
        ("exactly the quiet time", 3500, Last(t(2500)), by(SettledBy::Quiet, false)),
        ("one that came after the timer was read; the backup look is due first", 3000, Last(t(3001)), Err(4000)),
        ("never quiet, before max-settle", 14_500, Last(t(14_400)), Err(15_000)),
        ("never quiet until max-settle", 15_000, Last(t(14_900)), by(SettledBy::MaxSettle, true)),
        ("unknown is not quiet", 3000, Unknown, Err(4000)),
        ("unknown until max-settle", 15_000, Unknown, by(SettledBy::MaxSettle, true)),
    ];
    for (description, ms, arrivals, expected) in table {
        let mut machine = machine_in(Phase::Settling);
        // Keeps the backup look out of the way of the wake-up.
        machine.step(Event::Hint, t(ms)).expect("legal");
        let actions = machine.step(Event::Arrivals(arrivals), t(ms)).expect("legal");
        match expected {
            Ok((settled_by, sources)) => {
                assert_eq!(machine.phase(), Phase::Closing, "{description}");
                assert_eq!(actions.contains(&Action::LogSources), sources, "{description}");
                assert_eq!(machine.settled_by(), None, "{description}: not closed yet");
                machine.step(Event::GateClosed { lease_until: t(600_000) }, t(ms)).expect("legal");
                assert_eq!(machine.settled_by(), Some(settled_by), "{description}");
            }
            Err(again) => {
                assert_eq!(machine.phase(), Phase::Settling, "{description}");
                assert_eq!(wake(&actions), t(again), "{description}");
            }
        }
    }
}

#[test]
fn quiet_0_closes_at_once() {
    let mut machine = Machine::new(spec(|options| options.quiet = Some(Duration::ZERO)));
    let actions = machine.step(Event::Start, t(0)).expect("legal");
    assert!(actions.contains(&Action::CloseGate { lease_until: t(600_000) }), "{actions:?}");
    assert_eq!((machine.phase(), machine.state()), (Phase::Closing, StateName::Settling));
    machine.step(Event::GateClosed { lease_until: t(600_000) }, t(1)).expect("legal");
    assert_eq!(machine.settled_by(), Some(SettledBy::AtOnce));
}

#[test]
fn keep_closed_ignores_new_instances() {
    let keep = spec(|options| options.keep_closed = true);
    for phase in [Phase::Settling, Phase::Closing, Phase::Rejecting, Phase::Drained, Phase::Expired]
    {
        let mut machine = machine_with(keep, phase);
        let now = if phase == Phase::Expired { t(25_001) } else { t(3600) };
        let actions = machine.step(Event::NewInstance, now).expect("legal");
        assert_eq!((machine.phase(), summary(&actions).as_str()), (phase, ""));
    }
}

#[test]
fn when_to_look_again() {
    let counts =
        |flows, handshakes| Verdict::NotEmpty(Counts { flows, handshakes, ..Counts::default() });
    let unknown = || Verdict::Unknown("?".into());
    #[rustfmt::skip]
    let table = [
        ("flows end with an event", counts(1, 0), false, 1000),
        ("handshakes end without one", counts(0, 1), true, 20),
        ("something may end silently beside flows", counts(1, 1), true, 200),
        ("what cannot be told for long", unknown(), false, 1000),
        ("what can soon be told", unknown(), true, 20),
        ("zero", Verdict::Empty, false, 1000),
    ];
    for (description, verdict, silent, pause) in table {
        let mut machine = machine_in(Phase::Rejecting);
        let judged = Event::Judged(Judgement { verdict, at: t(4000), silent });
        let actions = machine.step(judged, t(4000)).expect("legal");
        assert_eq!(wake(&actions), t(4000 + pause), "{description}");
    }
    let mut machine = machine_in(Phase::Rejecting);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let judged = Event::Judged(Judgement { verdict: unknown(), at: t(4000), silent: true });
        pauses
            .push(wake(&machine.step(judged, t(4000)).expect("legal")).since(t(4000)).as_millis());
    }
    assert_eq!(pauses, [20, 40, 80, 160, 320, 640, 1000, 1000], "patience grows");
}

#[test]
fn the_deadline_and_the_lease() {
    let mut machine = machine_in(Phase::Rejecting);
    let actions = machine.step(Event::Timer, t(24_999)).expect("legal");
    assert_eq!((machine.phase(), wake(&actions)), (Phase::Rejecting, t(25_000)));
    machine.step(judged(Verdict::Unknown("no look".into()), t(24_999)), t(24_999)).expect("legal");
    machine.step(Event::Timer, t(25_000)).expect("legal");
    assert_eq!((machine.phase(), machine.unknown()), (Phase::Expired, Some("no look")));
    machine.step(judged(Verdict::Empty, t(30_000)), t(30_000)).expect("legal");
    machine.step(judged(flows(1), t(31_000)), t(31_000)).expect("legal");
    assert_eq!(machine.phase(), Phase::Expired, "drained falls back to where it came from");

    machine.step(Event::Renew, t(500_000)).expect("legal");
    assert_eq!(machine.lease_until(), t(1_100_000));
    assert!(machine.lease_is_over(t(600_000)), "not before the kernel has confirmed it");
    machine.step(Event::GateRenewed { lease_until: t(1_100_000) }, t(500_001)).expect("legal");
    assert!(!machine.lease_is_over(t(600_000)));
    let actions = machine.step(judged(Verdict::Empty, t(1_100_000)), t(1_100_000)).expect("legal");
    assert_eq!((machine.phase(), summary(&actions).as_str()), (Phase::Opening, "open"));
    let actions = machine.step(Event::GateOpened, t(1_100_001)).expect("legal");
    assert!(actions.contains(&Action::Ended("the lease is over".into())), "{actions:?}");
}

#[test]
fn a_lease_renewed_while_the_gate_closes_reaches_the_kernel() {
    let mut machine = machine_in(Phase::Closing);
    machine.step(Event::Renew, t(3100)).expect("legal");
    let actions =
        machine.step(Event::GateClosed { lease_until: t(600_000) }, t(3200)).expect("legal");
    assert!(actions.contains(&Action::RenewGate { lease_until: t(603_100) }), "{actions:?}");
    machine.step(Event::RenewFailed, t(3300)).expect("legal");
    let actions = machine.step(Event::Timer, t(4300)).expect("legal");
    assert!(
        actions.contains(&Action::RenewGate { lease_until: t(603_100) }),
        "tried again: {actions:?}"
    );
}

#[test]
fn a_gate_that_cannot_be_opened_is_tried_again() {
    let mut machine = machine_in(Phase::Opening);
    assert_eq!(machine.state(), StateName::Rejecting, "never drained, not yet serving");
    let actions = machine.step(Event::GateFailed("?".into()), t(4000)).expect("legal");
    assert_eq!(wake(&actions), t(4200));
    assert_eq!(summary(&machine.step(Event::Timer, t(4199)).expect("legal")), "");
    assert_eq!(summary(&machine.step(Event::Timer, t(4200)).expect("legal")), "open");
    assert_eq!(summary(&machine.step(Event::Timer, t(4201)).expect("legal")), "", "one at a time");
    machine.step(Event::GateFailed("?".into()), t(4300)).expect("legal");
    let again = machine.step(Event::Undrain("again".into()), t(4301)).expect("legal");
    assert_eq!(summary(&again), "open", "somebody insists");
}

#[test]
fn an_illegal_event_names_phase_and_event() {
    let error = machine_in(Phase::Serving).step(Event::Renew, t(0)).expect_err("illegal");
    assert_eq!(error.to_string(), "a drain that is serving cannot take the event \"renew\"");
}

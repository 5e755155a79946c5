//! The machine: in `table` every pair of phase and event, here the rules about time.

mod adopting;
mod announcing;
mod endpoint;
mod guarding;
mod retiring;
mod table;
mod waiting;

use std::time::Duration;

use super::{
    Action, Arrivals, Boot, Counts, Ending, Event, Judgement, Machine, Phase, SettledBy, Spec,
    SpecRequest, StateName, Verdict,
};
use crate::kernel::Watch;

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
    match phase {
        Phase::Guarding => machine_with(guarded_spec(), phase),
        Phase::Announcing => {
            let mut machine = Machine::new(spec(|_| ())).announcing(true);
            machine.step(Event::Start, t(0)).expect("legal");
            machine
        }
        _ => machine_with(spec(|_| ()), phase),
    }
}

fn guarded_spec() -> Spec {
    spec(|options| options.admission.allow = vec!["10.0.0.0/8".parse().expect("a prefix")])
}

fn machine_with(spec: Spec, phase: Phase) -> Machine {
    let lease_until = t(600_000);
    let mut steps = vec![];
    if phase != Phase::Serving {
        steps.push((Event::Start, 0));
    }
    if !matches!(phase, Phase::Serving | Phase::Guarding) && !spec.admission().is_empty() {
        steps.push((Event::Guarded { lease_until }, 0));
    }
    if !matches!(phase, Phase::Serving | Phase::Guarding | Phase::Settling) {
        steps.push((Event::Arrivals(Arrivals::Never), 3000));
        if phase != Phase::Closing {
            steps.push((Event::GateClosed { lease_until }, 3001));
        }
    }
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
        Action::Guard { .. } => Some("guard"),
        Action::Announce { .. } => Some("announce"),
        Action::Retract => Some("retract"),
        Action::CloseGate { .. } => Some("close"),
        Action::RenewGate { .. } => Some("renew"),
        Action::OpenGate => Some("open"),
        Action::Forget => Some("forget"),
        Action::Watch(Watch { listeners: false, flows: false, .. }) => Some("unwatch"),
        Action::Watch(_) => Some("watch"),
        Action::ReadArrivals => Some("arrivals"),
        Action::Verify => Some("verify"),
        Action::LogSources => Some("sources"),
        Action::Retire(_) => Some("retire"),
        Action::Restore => Some("restore"),
        Action::Abort => Some("abort"),
        Action::FlowAfterDrained => Some("flow!"),
        Action::Ended(_) => Some("ended"),
        Action::WakeAt(_) | Action::Transition { .. } => None,
    };
    actions.iter().filter_map(short).collect::<Vec<_>>().join(" ")
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
        let mut machine = machine_with(keep.clone(), phase);
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
    assert_eq!((machine.phase(), summary(&actions).as_str()), (Phase::Opening, "open restore"));
    let actions = machine.step(Event::GateOpened, t(1_100_001)).expect("legal");
    let over = Ending { reason: "the lease is over".into(), at_deadline: false };
    assert!(actions.contains(&Action::Ended(over)), "{actions:?}");
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

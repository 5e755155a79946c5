//! Every pair of phase and event.

use std::collections::BTreeSet;

use super::{announcing, flows, judged, machine_in, summary, t};
use crate::drain::{Action, Arrivals, Counts, Endpoint, Event, Phase, Verdict};

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
pub(super) type Row = (&'static str, Phase, Event, Option<(Phase, &'static str)>);

#[test]
fn every_event_in_every_phase() {
    use Phase::*;
    let e = Table;
    #[rustfmt::skip]
    let table: Vec<Row> = vec![
        ("a drain begins", Serving, e.start(), Some((Settling, "watch retire"))),
        ("nothing to join", Serving, e.join(), None),
        ("nothing to renew", Serving, e.renew(), None),
        ("nothing to end", Serving, e.undrain(), None),
        ("no time was asked for", Serving, e.timer(), None),
        ("nobody asked for arrivals", Serving, e.arrivals(), None),
        ("the lists are in force already, or there are none", Serving, e.guarded(), None),
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
        ("nothing is retired", Serving, e.retired(), None),
        ("nothing is reset", Serving, e.aborted(), None),
        ("nor was to be", Serving, e.abort_failed(), None),
        ("no drain is the pod's business", Serving, e.endpoint(), None),
        ("the drain that comes next is held", Serving, e.held(), Some((Serving, ""))),

        ("it has begun already", Guarding, e.start(), None),
        ("a second drain joins", Guarding, e.join(), Some((Guarding, ""))),
        ("the lease is renewed, and confirmed once it has begun", Guarding, e.renew(), Some((Guarding, ""))),
        ("undrain: the lists may be in force any moment, so take them out", Guarding, e.undrain(), Some((Opening, "open"))),
        ("the kernel takes its time", Guarding, e.timer(), Some((Guarding, ""))),
        ("nobody has asked yet", Guarding, e.arrivals(), None),
        ("the lists are in force", Guarding, e.guarded(), Some((Settling, "watch retire"))),
        ("nobody closes it yet", Guarding, e.closed(), None),
        ("nobody renews it yet", Guarding, e.renewed(), None),
        ("nobody renews it yet", Guarding, e.renew_failed(), None),
        ("nobody opens it", Guarding, e.opened(), None),
        ("the lists cannot be put in force: some may be, so take them out", Guarding, e.failed(), Some((Opening, "open"))),
        ("old news of the drain before", Guarding, e.hint(), Some((Guarding, ""))),
        ("old news of the drain before", Guarding, e.accepted(), Some((Guarding, ""))),
        ("old news of the drain before", Guarding, e.judged(), Some((Guarding, ""))),
        ("nobody has looked yet", Guarding, e.instance(), None),
        ("the namespace dies", Guarding, e.gone(), Some((Serving, "forget unwatch ended"))),
        ("no round has begun", Guarding, e.retired(), None),
        ("no deadline has passed", Guarding, e.aborted(), None),
        ("no deadline has passed", Guarding, e.abort_failed(), None),
        ("its pod is about to go", Guarding, e.endpoint(), Some((Guarding, ""))),
        ("it will have to wait", Guarding, e.held(), Some((Guarding, ""))),

        ("it has begun already", Settling, e.start(), None),
        ("a second drain joins", Settling, e.join(), Some((Settling, ""))),
        ("the lease is renewed; no gate has it yet", Settling, e.renew(), Some((Settling, ""))),
        ("undrain: the gate was never closed", Settling, e.undrain(), Some((Serving, "restore unwatch ended"))),
        ("time to see whether it is settled, and to look", Settling, e.timer(), Some((Settling, "arrivals verify"))),
        ("settled: no connection ever came", Settling, e.arrivals(), Some((Closing, "close"))),
        ("the lists are in force already, or there are none", Settling, e.guarded(), None),
        ("the gate is not being closed", Settling, e.closed(), None),
        ("the gate has no lease", Settling, e.renewed(), Some((Settling, ""))),
        ("the gate has no lease to renew", Settling, e.renew_failed(), Some((Settling, ""))),
        ("the gate is not being opened", Settling, e.opened(), None),
        ("the gate is not being moved", Settling, e.failed(), None),
        ("a listener came or went", Settling, e.hint(), Some((Settling, "verify"))),
        ("connections are welcome", Settling, e.accepted(), Some((Settling, ""))),
        ("zero means nothing while the gate is open", Settling, e.judged(), Some((Settling, ""))),
        ("restarted before the gate closed", Settling, e.instance(), Some((Serving, "restore unwatch ended"))),
        ("the namespace dies", Settling, e.gone(), Some((Serving, "forget restore unwatch ended"))),
        ("a round is done, the next comes later", Settling, e.retired(), Some((Settling, ""))),
        ("no deadline has passed", Settling, e.aborted(), None),
        ("no deadline has passed", Settling, e.abort_failed(), None),
        ("its pod is about to go: the next look at arrivals heeds it", Settling, e.endpoint(), Some((Settling, ""))),
        ("it will have to wait", Settling, e.held(), Some((Settling, ""))),

        ("it has begun already", Closing, e.start(), None),
        ("a second drain joins", Closing, e.join(), Some((Closing, ""))),
        ("the lease is renewed, and confirmed once it is closed", Closing, e.renew(), Some((Closing, ""))),
        ("undrain: the gate may close any moment, so open it", Closing, e.undrain(), Some((Opening, "open restore"))),
        ("the kernel takes its time", Closing, e.timer(), Some((Closing, ""))),
        ("an answer asked for before", Closing, e.arrivals(), Some((Closing, ""))),
        ("the lists are in force already, or there are none", Closing, e.guarded(), None),
        ("the gate is closed", Closing, e.closed(), Some((Rejecting, "watch verify"))),
        ("the gate is not closed yet", Closing, e.renewed(), Some((Closing, ""))),
        ("nor renewed", Closing, e.renew_failed(), Some((Closing, ""))),
        ("nobody opens it", Closing, e.opened(), None),
        ("the gate cannot be closed", Closing, e.failed(), Some((Serving, "restore unwatch ended"))),
        ("there will be a look anyway", Closing, e.hint(), Some((Closing, ""))),
        ("the gate is still open", Closing, e.accepted(), Some((Closing, ""))),
        ("zero means nothing while the gate is open", Closing, e.judged(), Some((Closing, ""))),
        ("restarted at the last moment", Closing, e.instance(), Some((Opening, "open restore"))),
        ("the namespace dies", Closing, e.gone(), Some((Serving, "forget restore unwatch ended"))),
        ("a round is done, the next waits for the gate", Closing, e.retired(), Some((Closing, ""))),
        ("no deadline has passed", Closing, e.aborted(), None),
        ("no deadline has passed", Closing, e.abort_failed(), None),
        ("its pod is about to go, as is the gate", Closing, e.endpoint(), Some((Closing, ""))),
        ("it will have to wait", Closing, e.held(), Some((Closing, ""))),

        ("it has begun already", Rejecting, e.start(), None),
        ("a second drain joins", Rejecting, e.join(), Some((Rejecting, "renew verify"))),
        ("the lease is renewed", Rejecting, e.renew(), Some((Rejecting, "renew"))),
        ("undrain", Rejecting, e.undrain(), Some((Opening, "open restore"))),
        ("the backup look is due", Rejecting, e.timer(), Some((Rejecting, "verify"))),
        ("an answer asked for before", Rejecting, e.arrivals(), Some((Rejecting, ""))),
        ("the lists are in force already, or there are none", Rejecting, e.guarded(), None),
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
        ("restarted", Rejecting, e.instance(), Some((Opening, "open restore"))),
        ("the namespace dies", Rejecting, e.gone(), Some((Serving, "forget restore unwatch ended"))),
        ("a round is done, the next comes later", Rejecting, e.retired(), Some((Rejecting, ""))),
        ("an answer from before somebody joined", Rejecting, e.aborted(), Some((Rejecting, "verify"))),
        ("an answer from before somebody joined", Rejecting, e.abort_failed(), Some((Rejecting, "verify"))),
        ("the gate is closed", Rejecting, e.endpoint(), Some((Rejecting, ""))),
        ("it has to wait", Rejecting, e.held(), Some((Rejecting, ""))),
        ("nothing holds it any more: is it empty?", Rejecting, e.released(), Some((Rejecting, "verify"))),

        ("it has begun already", Drained, e.start(), None),
        ("a second drain joins, and has it proven again", Drained, e.join(), Some((Drained, "renew verify"))),
        ("the lease is renewed", Drained, e.renew(), Some((Drained, "renew"))),
        ("undrain", Drained, e.undrain(), Some((Opening, "open restore"))),
        ("the backup look is due", Drained, e.timer(), Some((Drained, "verify"))),
        ("an answer asked for before", Drained, e.arrivals(), Some((Drained, ""))),
        ("the lists are in force already, or there are none", Drained, e.guarded(), None),
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
        ("restarted", Drained, e.instance(), Some((Opening, "open restore"))),
        ("the namespace dies", Drained, e.gone(), Some((Serving, "forget restore unwatch ended"))),
        ("the last round is done", Drained, e.retired(), Some((Drained, ""))),
        ("the last flow ended by itself meanwhile", Drained, e.aborted(), Some((Drained, "verify"))),
        ("so the reset was not needed", Drained, e.abort_failed(), Some((Drained, "verify"))),
        ("the gate is closed", Drained, e.endpoint(), Some((Drained, ""))),
        ("it comes too late, but zero is not said any more", Drained, e.held(), Some((Rejecting, ""))),

        ("it has begun already", Expired, e.start(), None),
        ("a second drain joins, with a new deadline", Expired, e.join(), Some((Rejecting, "renew verify"))),
        ("the lease is renewed", Expired, e.renew(), Some((Expired, "renew"))),
        ("undrain", Expired, e.undrain(), Some((Opening, "open restore"))),
        ("the backup look is due", Expired, e.timer(), Some((Expired, "verify"))),
        ("an answer asked for before", Expired, e.arrivals(), Some((Expired, ""))),
        ("the lists are in force already, or there are none", Expired, e.guarded(), None),
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
        ("restarted", Expired, e.instance(), Some((Opening, "open restore"))),
        ("the namespace dies", Expired, e.gone(), Some((Serving, "forget restore unwatch ended"))),
        ("a round is done, the next comes later", Expired, e.retired(), Some((Expired, ""))),
        ("a flow came back from drained meanwhile", Expired, e.aborted(), Some((Expired, "verify"))),
        ("a flow came back from drained meanwhile", Expired, e.abort_failed(), Some((Expired, "verify"))),
        ("the gate is closed", Expired, e.endpoint(), Some((Expired, ""))),
        ("it has to wait", Expired, e.held(), Some((Expired, ""))),
        ("nothing holds it any more: is it empty?", Expired, e.released(), Some((Expired, "verify"))),

        ("the old drain is not over yet", Opening, e.start(), None),
        ("what is over cannot be joined", Opening, e.join(), None),
        ("what is over is not renewed", Opening, e.renew(), Some((Opening, ""))),
        ("it is under way", Opening, e.undrain(), Some((Opening, ""))),
        ("the kernel takes its time", Opening, e.timer(), Some((Opening, ""))),
        ("an answer asked for before", Opening, e.arrivals(), Some((Opening, ""))),
        ("in force, and out of force next", Opening, e.guarded(), Some((Opening, ""))),
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
        ("a round is done, the last", Opening, e.retired(), Some((Opening, ""))),
        ("undrained while flows were reset", Opening, e.aborted(), Some((Opening, ""))),
        ("undrained while flows were to be reset", Opening, e.abort_failed(), Some((Opening, ""))),
        ("the gate opens", Opening, e.endpoint(), Some((Opening, ""))),
        ("nobody waits any more", Opening, e.held(), Some((Opening, ""))),
    ];
    let mut covered = BTreeSet::new();
    for (description, phase, event, expected) in table.into_iter().chain(announcing::rows(&e)) {
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
    assert_eq!(covered.len(), Phase::ALL.len() * 25, "every pair is in the table");
}

/// Events of the table; those with a time come after whatever `machine_in` did.
pub(super) struct Table;

#[rustfmt::skip]
impl Table {
    pub(super) fn start(&self) -> Event { Event::Start }
    pub(super) fn join(&self) -> Event { Event::Join(Box::new(super::spec(|_| ()))) }
    pub(super) fn renew(&self) -> Event { Event::Renew }
    pub(super) fn undrain(&self) -> Event { Event::Undrain("undrained".into()) }
    pub(super) fn timer(&self) -> Event { Event::Timer }
    pub(super) fn arrivals(&self) -> Event { Event::Arrivals(Arrivals::Never) }
    pub(super) fn guarded(&self) -> Event { Event::Guarded { lease_until: t(600_000) } }
    pub(super) fn closed(&self) -> Event { Event::GateClosed { lease_until: t(600_000) } }
    pub(super) fn renewed(&self) -> Event { Event::GateRenewed { lease_until: t(600_000) } }
    pub(super) fn renew_failed(&self) -> Event { Event::RenewFailed }
    pub(super) fn opened(&self) -> Event { Event::GateOpened }
    pub(super) fn failed(&self) -> Event { Event::GateFailed("no memory".into()) }
    pub(super) fn hint(&self) -> Event { Event::Hint }
    pub(super) fn accepted(&self) -> Event { Event::Accepted { at: t(4000) } }
    pub(super) fn old_accepted(&self) -> Event { Event::Accepted { at: t(3002) } }
    pub(super) fn judged(&self) -> Event { judged(Verdict::Empty, t(4000)) }
    pub(super) fn old_zero(&self) -> Event { judged(Verdict::Empty, t(3000)) }
    pub(super) fn flows(&self) -> Event { judged(flows(1), t(4000)) }
    pub(super) fn handshake(&self) -> Event { judged(Verdict::NotEmpty(Counts { handshakes: 1, ..Counts::default() }), t(4000)) }
    pub(super) fn unknown(&self) -> Event { judged(Verdict::Unknown("no look".into()), t(4000)) }
    pub(super) fn instance(&self) -> Event { Event::NewInstance }
    pub(super) fn gone(&self) -> Event { Event::NetnsGone }
    pub(super) fn retired(&self) -> Event { Event::Retired }
    pub(super) fn aborted(&self) -> Event { Event::Aborted }
    pub(super) fn held(&self) -> Event { Event::Held(Some(t(600_000))) }
    pub(super) fn released(&self) -> Event { Event::Held(None) }
    pub(super) fn endpoint(&self) -> Event { Event::Endpoint(Endpoint::Leaving) }
    pub(super) fn announced(&self) -> Event { Event::Announced }
    pub(super) fn not_announced(&self) -> Event { Event::NotAnnounced("consul does not answer".into()) }
    pub(super) fn retracted(&self) -> Event { Event::Retracted }
    pub(super) fn abort_failed(&self) -> Event { Event::AbortFailed("not supported".into()) }
}

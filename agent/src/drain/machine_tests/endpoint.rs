//! Pods that stay: Kubernetes goes on sending them connections.

use super::*;
use crate::drain::{Endpoint, Forward, Handoff, NewConnections};

const ALONE: Endpoint = Endpoint::Staying { alone: true };
const STAYING: Endpoint = Endpoint::Staying { alone: false };

/// A drain that is settling, with its endpoint known.
fn settling(endpoint: Endpoint, change: impl FnOnce(&mut SpecRequest)) -> Machine {
    let mut machine = machine_with(spec(change), Phase::Settling);
    machine.step(Event::Endpoint(endpoint), t(1)).expect("legal");
    machine
}

/// What comes of asking for arrivals at this time, when the newest came `ago` ms before.
fn arrived(machine: &mut Machine, at: u64, ago: u64) -> Vec<Action> {
    machine.step(Event::Timer, t(at)).expect("legal");
    let newest = Arrivals::Last(t(at - ago));
    machine.step(Event::Arrivals(newest), t(at)).expect("legal")
}

#[test]
fn when_the_gate_closes() {
    let forward = Forward { to: vec!["10.0.0.2".parse().expect("a peer")], proxy_protocol: false };
    let forward = NewConnections::Forward(forward);
    let handoff = NewConnections::Handoff(Handoff::Port(81));
    let reject = NewConnections::Reject;
    #[rustfmt::skip]
    let table = [
        // Description, endpoint, --close-anyway, --new, ms since the start, newest connection ms ago; closes?
        ("outside of Kubernetes, at max-settle", Endpoint::Unknown, false, &reject, 15_000, 0, true),
        ("being deleted, at max-settle", Endpoint::Leaving, false, &reject, 15_000, 0, true),
        ("it stays, at max-settle", STAYING, false, &reject, 15_000, 0, false),
        ("it stays, long after max-settle", STAYING, false, &reject, 24_999, 0, false),
        ("it stays, and it was quiet in time", STAYING, false, &reject, 4_000, 1_000, true),
        ("it stays, and became quiet after max-settle", STAYING, false, &reject, 20_000, 1_000, true),
        ("it stays, and is to close anyway", STAYING, true, &reject, 15_000, 0, true),
        ("it stays, and connections are carried on", STAYING, false, &forward, 15_000, 0, true),
        ("it is alone, and quiet", ALONE, false, &reject, 20_000, 9_000, false),
        ("it is alone, and is to close anyway", ALONE, true, &reject, 4_000, 1_000, true),
        ("it is alone, and connections are carried on", ALONE, false, &forward, 4_000, 1_000, true),
        ("it is alone, and a new server takes over", ALONE, false, &handoff, 4_000, 1_000, true),
    ];
    for (description, endpoint, close_anyway, new, at, ago, closes) in table {
        let mut machine = settling(endpoint, |options| {
            options.quiet = Some(Duration::from_secs(1));
            options.close_anyway = close_anyway;
            options.new = new.clone();
        });
        arrived(&mut machine, at, ago);
        let phase = if closes { Phase::Closing } else { Phase::Settling };
        assert_eq!(machine.phase(), phase, "{description}");
    }
}

#[test]
fn at_the_deadline_it_serves_again_and_says_why() {
    for (endpoint, why) in [(ALONE, "the only ready endpoint"), (STAYING, "still arrive")] {
        let mut machine = settling(endpoint, |_| ());
        let at_max = arrived(&mut machine, 15_000, 0);
        assert!(at_max.contains(&Action::LogSources), "{at_max:?}");
        assert!(!arrived(&mut machine, 15_200, 0).contains(&Action::LogSources), "once");
        let before = arrived(&mut machine, 24_990, 0);
        assert_eq!((machine.phase(), wake(&before)), (Phase::Settling, t(25_000)));
        let actions = arrived(&mut machine, 25_000, 0);
        assert_eq!(machine.phase(), Phase::Serving);
        let Some(Action::Ended(ending)) = actions.iter().find(|a| matches!(a, Action::Ended(_)))
        else {
            panic!("{actions:?}")
        };
        assert!(ending.at_deadline && ending.reason.contains(why), "{ending:?}");
    }
}

#[test]
fn a_guarded_drain_gives_up_too() {
    let mut machine = machine_with(guarded_spec(), Phase::Settling);
    machine.step(Event::Endpoint(ALONE), t(1)).expect("legal");
    arrived(&mut machine, 25_000, 0);
    assert_eq!(machine.phase(), Phase::Opening, "the lists are taken out of force first");
    let actions = machine.step(Event::GateOpened, t(25_001)).expect("legal");
    let gave_up = |action: &Action| matches!(action, Action::Ended(ending) if ending.at_deadline);
    assert!(actions.iter().any(gave_up), "{actions:?}");
}

#[test]
fn what_changes_meanwhile_counts() {
    let mut machine = settling(ALONE, |_| ());
    arrived(&mut machine, 20_000, 0);
    machine.step(Event::Endpoint(Endpoint::Leaving), t(20_001)).expect("legal");
    arrived(&mut machine, 20_100, 0);
    assert_eq!(machine.phase(), Phase::Closing, "the pod is deleted now");

    let mut machine = settling(ALONE, |_| ());
    let close_anyway = spec(|options| options.close_anyway = true);
    machine.step(Event::Join(Box::new(close_anyway)), t(16_000)).expect("legal");
    arrived(&mut machine, 16_100, 0);
    assert_eq!(machine.phase(), Phase::Closing, "somebody joined who insists");

    let machine = settling(ALONE, |_| ());
    let standing = machine.standing().expect("it drains");
    let (mut next, _) = Machine::adopt(standing, t(16_000));
    arrived(&mut next, 16_100, 0);
    assert_eq!(next.phase(), Phase::Settling, "the next agent knows it before it has asked");
}

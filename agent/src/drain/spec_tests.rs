use super::*;
use crate::drain::Forward;

const fn s(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

fn none() -> SpecRequest {
    SpecRequest::default()
}

#[test]
fn defaults_fit_together() {
    #[rustfmt::skip]
    let table = [
        // description, request, (quiet, min, max, timeout, lease) in seconds
        ("all left out", none(), (1, 3, 15, 25, 600)),
        ("max-settle follows the timeout", SpecRequest { timeout: s(100), ..none() }, (1, 3, 60, 100, 600)),
        ("max-settle is at least min-settle", SpecRequest { timeout: s(4), ..none() }, (1, 3, 3, 4, 600)),
        ("the lease follows a long timeout", SpecRequest { timeout: s(3600), ..none() }, (1, 3, 2160, 3600, 3660)),
        ("a handoff waits for nobody", SpecRequest { new: NewConnections::Handoff(Handoff::Port(81)), ..none() }, (0, 0, 0, 25, 600)),
        ("unless it is to", SpecRequest { new: NewConnections::Handoff(Handoff::Pid(7)), max_settle: s(9), ..none() }, (1, 3, 9, 25, 600)),
        ("quiet 0 ignores settle times", SpecRequest { quiet: s(0), min_settle: s(50), max_settle: s(40), ..none() }, (0, 0, 0, 25, 600)),
        ("quiet 0 allows a tiny timeout", SpecRequest { quiet: s(0), timeout: s(1), ..none() }, (0, 0, 0, 1, 600)),
        ("the lease may exceed by exactly 60 s", SpecRequest { lease: s(85), ..none() }, (1, 3, 15, 25, 85)),
        ("a pod's grace period", SpecRequest { grace: s(60), ..none() }, (1, 3, 30, 51, 600)),
        ("a timeout is not changed by it", SpecRequest { grace: s(1), timeout: s(25), ..none() }, (1, 3, 15, 25, 600)),
        ("a short one settles shortly", SpecRequest { grace: s(10), ..none() }, (1, 3, 3, 5, 600)),
        ("a long one has a lease", SpecRequest { grace: s(3600), ..none() }, (1, 3, 1836, 3060, 3120)),
        ("one of weeks has an end", SpecRequest { grace: s(9_000_000), ..none() }, (1, 3, 51840, 86400, 86460)),
        ("the longest timeout has a lease", SpecRequest { timeout: s(86400), ..none() }, (1, 3, 51840, 86400, 86460)),
    ];
    for (description, request, expected) in table {
        let spec = Spec::try_from(request).expect(description);
        let got = (spec.quiet, spec.min_settle, spec.max_settle, spec.timeout, spec.lease);
        let got =
            (got.0.as_secs(), got.1.as_secs(), got.2.as_secs(), got.3.as_secs(), got.4.as_secs());
        assert_eq!(got, expected, "{description}");
    }
}

#[test]
fn collisions_say_what_to_do() {
    #[rustfmt::skip]
    let table = [
        ("no timeout", SpecRequest { timeout: s(0), ..none() }, "--timeout must be longer than 0s; for a drain nobody waits for, use --no-wait"),
        ("no time before the pod is killed", SpecRequest { grace: s(5), ..none() }, "the pod has 5s left to stop, of which its server keeps at least 5s: too little for a drain. Raise terminationGracePeriodSeconds, or give --timeout"),
        ("min over max", SpecRequest { min_settle: s(9), max_settle: s(8), ..none() }, "--min-settle 9s is longer than --max-settle 8s: lower --min-settle or raise --max-settle"),
        ("max equals timeout", SpecRequest { max_settle: s(25), ..none() }, "--max-settle 25s must be shorter than --timeout 25s: lower --max-settle or raise --timeout"),
        ("the default of min-settle is to blame", SpecRequest { timeout: s(2), ..none() }, "--min-settle 3s must be shorter than --timeout 2s: lower --min-settle or raise --timeout"),
        ("short lease", SpecRequest { lease: s(84), ..none() }, "--lease 1m 24s must exceed --timeout 25s by at least 60s: raise --lease to 1m 25s or lower --timeout"),
        ("too long a timeout", SpecRequest { timeout: s(86_401), ..none() }, "--timeout 1day 1s is too long: at most 1day is possible"),
        ("too long a lease", SpecRequest { lease: s(172_801), ..none() }, "--lease 2days 1s is too long: at most 2days is possible"),
    ];
    for (description, request, expected) in table {
        let error = Spec::try_from(request).expect_err(description).to_string();
        assert_eq!(error, expected, "{description}");
    }
}

#[test]
fn no_number_overflows() {
    for option in 0..5 {
        let mut request = none();
        let endless = Some(Duration::from_millis(u64::MAX));
        match option {
            0 => request.quiet = endless,
            1 => request.min_settle = endless,
            2 => request.max_settle = endless,
            3 => request.timeout = endless,
            _ => request.lease = endless,
        }
        let error = Spec::try_from(request).expect_err("too long");
        assert!(matches!(error, SpecError::TooLong { .. }), "{error}");
    }
}

#[test]
fn a_contradiction_names_the_options() {
    let spec = |request| Spec::try_from(request).expect("valid");
    let ours = spec(none());
    assert_eq!(ours.contradiction(&ours, false), None);
    let other = spec(SpecRequest { quiet: s(2), keep_closed: true, ..none() });
    assert_eq!(
        ours.contradiction(&other, false).as_deref(),
        Some("--quiet is 1s, not 2s, --keep-closed is not set")
    );
    assert_eq!(
        ours.contradiction(&other, true).as_deref(),
        Some("--keep-closed is not set"),
        "settling is over"
    );
    let defaults_said = spec(SpecRequest { min_settle: s(3), timeout: s(25), ..none() });
    assert_eq!(ours.contradiction(&defaults_said, false), None, "a default is its value");
}

#[test]
fn peers_in_another_order_or_named_twice_are_no_contradiction() {
    let forward = |to: &[&str]| {
        let to = to.iter().map(|peer| peer.parse().expect("an address")).collect();
        let new = NewConnections::Forward(Forward { to, proxy_protocol: false });
        Spec::try_from(SpecRequest { new, ..none() }).expect("valid")
    };
    let ours = forward(&["10.0.0.2", "10.0.0.3:81"]);
    assert_eq!(ours.contradiction(&forward(&["10.0.0.3:81", "10.0.0.2", "10.0.0.2"]), true), None);
    assert!(ours.contradiction(&forward(&["10.0.0.3", "10.0.0.2"]), true).is_some());
}

#[test]
fn who_joins_with_other_times_shares_the_longer_wait_and_the_shorter_settling() {
    let spec = |request| Spec::try_from(request).expect("valid");
    let (short, long) = (spec(none()), spec(SpecRequest { timeout: s(900), ..none() }));
    assert_eq!(short.contradiction(&long, false), None);
    for joined in [short.clone().joined_by(&long), long.clone().joined_by(&short)] {
        assert_eq!(joined.timeout(), long.timeout());
        assert_eq!(joined.lease(), long.lease());
        assert_eq!(joined.max_settle(), short.max_settle());
        assert_eq!(joined.min_settle(), short.min_settle());
    }
}

use std::net::IpAddr;

use super::*;

#[test]
fn peers_are_addresses_of_their_own_family() {
    let words = |bytes: [u8; 16]| {
        let word = |i: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|b| bytes[4 * i + b]));
        [0, 1, 2, 3].map(word)
    };
    for text in ["192.0.2.7", "2001:db8::5", "::1"] {
        let peer: IpAddr = text.parse().unwrap();
        let mapped = match peer {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        assert_eq!(address(words(mapped.octets())), peer);
    }
}

#[test]
fn a_service_that_had_no_connection_has_no_newest_one() {
    assert_eq!(tracked(None, 0), Tracked::default());
    let known = tracked(Some(&ServiceCounts::default()), 0);
    assert_eq!(known, Tracked { known: true, ..Tracked::default() });
    let seen = ServiceCounts { last_new_ns: 5, ..ServiceCounts::default() };
    let seen = tracked(Some(&seen), 0);
    assert_eq!(seen.last_new, Some(Boot::from_nanos(5)));
    assert!(seen.last_peer.is_some());
}

#[test]
fn lost_flows_that_were_forgiven_do_not_count() {
    for (lost, forgiven, left) in [(0, 0, 0), (5, 0, 5), (5, 5, 0), (7, 5, 2)] {
        let counts = ServiceCounts { lost, flows: -2, accepted: 9, ..ServiceCounts::default() };
        let tracked = tracked(Some(&counts), forgiven);
        assert_eq!((tracked.lost, tracked.flows, tracked.accepted), (left, -2, 9));
    }
}

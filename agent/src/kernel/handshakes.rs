//! Whose a handshake is that a look shows: a request socket has no mark, and does not know its listener.
//!
//! Once a closed gate gives every connection to other listeners, only handshakes that were in progress at that moment
//! are the old listener's. Those of the first look after it are remembered; what comes later is not among them.

use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
};

use super::{Class, Look, TcpState, linux::lock};
use crate::drain::{Boot, Service};

/// Services whose gate gives every new connection to others now.
#[derive(Default)]
pub(super) struct Handshakes(Mutex<State>);

#[derive(Default)]
struct State {
    newest: u64,
    given_away: HashMap<Service, GivenAway>,
}

/// Since its gate has closed.
struct GivenAway {
    /// Of this closing; no other has it.
    number: u64,
    /// From then on the gate lets everybody pass.
    lease_until: Boot,
    /// Request sockets (cookies, which are never reused) that may be the old listener's: those of the first look.
    old: Option<HashSet<u64>>,
}

/// Services whose gate gave everything away before a look began, each with the number of that closing.
pub(super) struct Before(Vec<(Service, u64)>);

impl Handshakes {
    /// The gate of the service gives every new connection to others until `lease_until`, from now on or already. If
    /// it is from now on, `closed` is called before anybody can learn of it.
    pub(super) fn give_away(&self, service: Service, lease_until: Boot, closed: impl FnOnce()) {
        let mut state = lock(&self.0);
        if let Some(known) = state.given_away.get_mut(&service) {
            known.lease_until = lease_until;
            return;
        }
        closed();
        state.newest += 1;
        let number = state.newest;
        state.given_away.insert(service, GivenAway { number, lease_until, old: None });
    }

    /// The gate of the service lets some pass, or all.
    pub(super) fn keep(&self, service: Service) {
        lock(&self.0).given_away.remove(&service);
    }

    /// What a look at this namespace that begins now may go by.
    pub(super) fn before(&self, netns: u32) -> Before {
        let state = lock(&self.0);
        let here = state.given_away.iter().filter(|(service, _)| service.netns == netns);
        Before(here.map(|(service, given)| (*service, given.number)).collect())
    }

    /// Sorts the handshakes of a look at these ports that is over `now`; without ports it was about all of them. Where
    /// the gate did not give everything away all the time, every handshake counts.
    pub(super) fn sort_out(&self, before: &Before, ports: &[u16], now: Boot, look: &mut Look) {
        let mut state = lock(&self.0);
        for (service, number) in &before.0 {
            let was_asked = ports.is_empty() || ports.contains(&service.port);
            let Some(given) = state.given_away.get_mut(service).filter(|_| was_asked) else {
                continue;
            };
            if given.number != *number {
                continue;
            }
            if now >= given.lease_until {
                given.old = None;
                continue;
            }
            let handshakes = look.sockets.iter_mut().filter(|socket| {
                socket.state == TcpState::SynRecv && socket.local.port() == service.port
            });
            match &given.old {
                Some(old) => handshakes
                    .filter(|handshake| !old.contains(&handshake.cookie))
                    .for_each(|handshake| handshake.class = Class::Steered),
                None => given.old = Some(handshakes.map(|handshake| handshake.cookie).collect()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Socket;

    const WEB: Service = Service { netns: 1, port: 80 };

    fn socket(cookie: u64, port: u16, state: TcpState) -> Socket {
        Socket {
            cookie,
            state,
            class: Class::Counted,
            local: ([10, 0, 0, 1], port).into(),
            peer: ([10, 0, 0, 2], 40000).into(),
            inode: 0,
            unread: 0,
            unacked: 0,
            interface: 0,
            info: None,
        }
    }

    const LEASE: Boot = Boot::from_nanos(100);
    const NOW: Boot = Boot::from_nanos(50);

    fn look(cookies: &[u64]) -> Look {
        let sockets = cookies.iter().map(|cookie| socket(*cookie, 80, TcpState::SynRecv)).collect();
        Look { sockets, ..Look::default() }
    }

    /// Which of these handshakes count.
    fn counted(
        handshakes: &Handshakes,
        before: &Before,
        ports: &[u16],
        cookies: &[u64],
    ) -> Vec<u64> {
        let mut look = look(cookies);
        handshakes.sort_out(before, ports, NOW, &mut look);
        let counted = look.sockets.iter().filter(|socket| socket.class == Class::Counted);
        counted.map(|socket| socket.cookie).collect()
    }

    /// The same in a look that begins now.
    fn counted_now(handshakes: &Handshakes, cookies: &[u64]) -> Vec<u64> {
        counted(handshakes, &handshakes.before(1), &[80], cookies)
    }

    #[test]
    fn only_handshakes_from_before_are_the_old_listeners() {
        let handshakes = Handshakes::default();
        assert_eq!(counted_now(&handshakes, &[1, 2]), [1, 2], "nothing is given away");
        handshakes.give_away(WEB, LEASE, || ());
        assert_eq!(counted_now(&handshakes, &[2, 3]), [2, 3], "in progress by then");
        assert_eq!(counted_now(&handshakes, &[2, 3, 4]), [2, 3], "4 came later");
        assert_eq!(counted(&handshakes, &handshakes.before(1), &[], &[3, 5]), [3], "of all ports");
        assert_eq!(counted(&handshakes, &handshakes.before(2), &[80], &[5]), [5], "elsewhere");
    }

    #[test]
    fn a_look_at_other_ports_says_nothing_of_this_one() {
        let handshakes = Handshakes::default();
        handshakes.give_away(WEB, LEASE, || ());
        let before = handshakes.before(1);
        assert!(counted(&handshakes, &before, &[81], &[]).is_empty());
        assert_eq!(counted_now(&handshakes, &[1]), [1], "this is the first look at it");
        let sockets = vec![socket(7, 81, TcpState::SynRecv), socket(8, 80, TcpState::Established)];
        let mut look = Look { sockets, ..Look::default() };
        handshakes.sort_out(&before, &[], NOW, &mut look);
        let counts = look.sockets.iter().all(|socket| socket.class == Class::Counted);
        assert!(counts, "another port's handshake, and a flow: {look:?}");
    }

    #[test]
    fn a_gate_that_was_open_in_between_begins_anew() {
        let handshakes = Handshakes::default();
        handshakes.give_away(WEB, LEASE, || ());
        assert_eq!(counted_now(&handshakes, &[1]), [1]);
        let slow = handshakes.before(1);
        handshakes.keep(WEB);
        assert_eq!(counted(&handshakes, &slow, &[80], &[1, 2]), [1, 2], "it opened meanwhile");
        // Nobody looks before it closes again.
        handshakes.give_away(WEB, LEASE, || ());
        assert_eq!(counted(&handshakes, &slow, &[80], &[2, 3]), [2, 3], "a look from before that");
        assert_eq!(counted_now(&handshakes, &[2, 3]), [2, 3], "2 and 3 are the old listener's");
        assert_eq!(counted_now(&handshakes, &[3, 4]), [3]);
    }

    #[test]
    fn behind_a_lease_that_is_over_every_handshake_counts() {
        let handshakes = Handshakes::default();
        handshakes.give_away(WEB, NOW, || ());
        for cookies in [[1, 2], [2, 3]] {
            assert_eq!(counted_now(&handshakes, &cookies), cookies);
        }
        handshakes.give_away(WEB, LEASE, || panic!("it is closed already"));
        assert_eq!(
            counted_now(&handshakes, &[3]),
            [3],
            "it has been renewed: the first look since"
        );
        assert_eq!(counted_now(&handshakes, &[3, 4]), [3]);
    }
}

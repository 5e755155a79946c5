//! Whose a handshake is that a look shows: a request socket has no mark, and does not know its listener.
//!
//! Once a closed gate gives every connection to other listeners, only handshakes that were in progress at that moment
//! are the old listener's. Those of the first look after it are remembered; what comes later is not among them.

use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
};

use super::{Class, Look, TcpState, linux::lock};
use crate::drain::Service;

/// Request sockets (cookies, which are never reused) that may be the old listener's, of each service whose gate gives
/// every connection away.
#[derive(Default)]
pub(super) struct Handshakes(Mutex<HashMap<Service, HashSet<u64>>>);

impl Handshakes {
    /// Sorts the handshakes of a look at these ports of the namespace; without ports it is about all of them.
    /// `given_away` names the services there whose gate gave every connection to others since before the look began.
    /// Of all others every handshake counts.
    pub(super) fn sort_out(
        &self,
        netns: u32,
        ports: &[u16],
        given_away: &[Service],
        look: &mut Look,
    ) {
        let mut known = lock(&self.0);
        known.retain(|service, _| service.netns != netns || given_away.contains(service));
        for &service in given_away {
            if !ports.is_empty() && !ports.contains(&service.port) {
                continue;
            }
            let handshakes = look.sockets.iter_mut().filter(|socket| {
                socket.state == TcpState::SynRecv && socket.local.port() == service.port
            });
            match known.get(&service) {
                Some(old) => handshakes
                    .filter(|handshake| !old.contains(&handshake.cookie))
                    .for_each(|handshake| handshake.class = Class::Steered),
                None => {
                    known.insert(service, handshakes.map(|handshake| handshake.cookie).collect());
                }
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
            info: None,
        }
    }

    /// Which of these handshakes count.
    fn counted(
        handshakes: &Handshakes,
        ports: &[u16],
        given_away: &[Service],
        cookies: &[u64],
    ) -> Vec<u64> {
        let sockets = cookies.iter().map(|cookie| socket(*cookie, 80, TcpState::SynRecv)).collect();
        let mut look = Look { sockets, ..Look::default() };
        handshakes.sort_out(1, ports, given_away, &mut look);
        let counted = look.sockets.iter().filter(|socket| socket.class == Class::Counted);
        counted.map(|socket| socket.cookie).collect()
    }

    #[test]
    fn only_handshakes_from_before_are_the_old_listeners() {
        let handshakes = Handshakes::default();
        assert_eq!(counted(&handshakes, &[80], &[], &[1, 2]), [1, 2], "nothing is given away");
        assert_eq!(counted(&handshakes, &[80], &[WEB], &[2, 3]), [2, 3], "in progress by then");
        assert_eq!(counted(&handshakes, &[80], &[WEB], &[2, 3, 4]), [2, 3], "4 came later");
        assert_eq!(counted(&handshakes, &[], &[WEB], &[3, 5]), [3]);
    }

    #[test]
    fn a_look_at_other_ports_says_nothing_of_this_one() {
        let handshakes = Handshakes::default();
        assert!(counted(&handshakes, &[81], &[WEB], &[]).is_empty());
        assert_eq!(counted(&handshakes, &[80], &[WEB], &[1]), [1], "this is the first look at it");
        let mut look = Look {
            sockets: vec![socket(7, 81, TcpState::SynRecv), socket(8, 80, TcpState::Established)],
            ..Look::default()
        };
        handshakes.sort_out(1, &[], &[WEB], &mut look);
        let counts = look.sockets.iter().all(|socket| socket.class == Class::Counted);
        assert!(counts, "another port's handshake, and a flow: {look:?}");
    }

    #[test]
    fn a_gate_that_was_open_in_between_begins_anew() {
        let handshakes = Handshakes::default();
        assert_eq!(counted(&handshakes, &[80], &[WEB], &[1]), [1]);
        assert_eq!(counted(&handshakes, &[80], &[WEB], &[1, 2]), [1]);
        let mut elsewhere = Look::default();
        handshakes.sort_out(2, &[], &[], &mut elsewhere);
        assert!(
            counted(&handshakes, &[80], &[WEB], &[2]).is_empty(),
            "another namespace is no matter"
        );
        assert_eq!(counted(&handshakes, &[80], &[], &[2, 3]), [2, 3], "it is open");
        assert_eq!(counted(&handshakes, &[80], &[WEB], &[3]), [3], "and closed again");
    }
}

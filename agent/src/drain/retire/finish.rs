//! Which flows get a FIN, and which are offered a GOAWAY.
//!
//! *Idle* is only what is proven, and only HTTP/1 can be: its last response was seen to its end, all of it has
//! arrived, and no byte came from the client since. An HTTP/2 flow is never idle, told or not: what the server
//! sends does not show requests that it has not begun to answer, so nothing proves that no stream is open.
//! Such a flow, like one inside TLS or upgraded to a WebSocket, gets a FIN only if `--retire` names `quiet`,
//! and then because nothing moved for a while, which proves nothing.
//!
//! What it can get at rest is a GOAWAY: the kernel programs put one into what the server sends, but a server that
//! says nothing between the flow's turn and the deadline would never send it.

use std::time::Duration;

use super::Retire;
use crate::{
    drain::Boot,
    kernel::{Finish, Followed, Protocol, Socket, SocketInfo, TcpState},
};

/// What a drain says about its flows at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    pub(super) retire: &'a Retire,
    /// When the drain began.
    pub(super) started: Boot,
    pub(super) now: Boot,
}

/// What is to be done with a flow now.
pub(super) enum Step {
    /// It gets a FIN.
    Finish(Finish),
    /// It is offered a GOAWAY.
    Goaway(Finish),
}

impl Rules<'_> {
    /// What is to be done now with this flow, which has got no FIN yet.
    pub(super) fn step(
        &self,
        socket: &Socket,
        followed: Option<&Followed>,
        judged: Finish,
    ) -> Option<Step> {
        if self.finishes(socket, followed) {
            return Some(Step::Finish(judged));
        }
        let offered = followed.is_some_and(|followed| self.offers_goaway(socket, followed));
        offered.then_some(Step::Goaway(judged))
    }

    fn offers_goaway(&self, socket: &Socket, followed: &Followed) -> bool {
        let untold = followed.told.is_none() && followed.barrier.is_none();
        let due = self.retire.set.http2 && self.now >= followed.turn;
        followed.protocol == Protocol::Http2 && untold && due && at_rest(socket).is_some()
    }

    /// Whether this flow, which has not got one yet, is to get a FIN now.
    fn finishes(&self, socket: &Socket, followed: Option<&Followed>) -> bool {
        let Retire { set, spread, idle_after, .. } = *self.retire;
        let turn = followed
            .map_or_else(|| turn(socket.cookie, self.started, spread), |followed| followed.turn);
        let Some(info) = at_rest(socket).filter(|_| set.finishes() && self.now >= turn) else {
            return false;
        };
        match followed {
            Some(followed) if is_idle(socket, followed) => {
                let idle = set.idle && self.idle_for(followed, info) >= idle_after;
                idle || self.is_quiet(info)
            }
            // The server closes it itself, once it has sent the rest.
            Some(followed) if followed.closes => false,
            _ => self.is_quiet(info),
        }
    }

    /// Since the server wrote its last byte, or TCP sent it, whichever was later.
    fn idle_for(&self, followed: &Followed, info: &SocketInfo) -> Duration {
        let written = followed.sent.map_or(Duration::ZERO, |sent| self.now.since(sent));
        written.min(info.since_sent)
    }

    fn is_quiet(&self, info: &SocketInfo) -> bool {
        let quiet_for = info.since_sent.min(info.since_received);
        self.retire
            .quiet_flow_after
            .is_some_and(|after| self.retire.set.quiet && quiet_for >= after)
    }
}

/// Whether the flow is proven to be idle.
pub(super) fn is_idle(socket: &Socket, followed: &Followed) -> bool {
    let answered = followed.answered && followed.protocol == Protocol::Http1;
    answered && at_rest(socket).is_some_and(|info| info.bytes_received == followed.received)
}

/// What TCP tells of a served connection on which nothing is under way in either direction; `None` of any other.
fn at_rest(socket: &Socket) -> Option<&SocketInfo> {
    let served = socket.state == TcpState::Established && socket.is_held();
    let nothing_queued = socket.unread == 0 && socket.unacked == 0;
    socket.info.as_ref().filter(|info| served && nothing_queued && info.not_sent == 0)
}

/// The turn of a flow that the kernel programs do not follow. They spread theirs by a hash of their own.
fn turn(cookie: u64, start: Boot, spread: Duration) -> Boot {
    // The finalizer of splitmix64: neighbouring cookies get turns far apart.
    let mut hash = cookie.wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    let share = (spread.as_nanos() * u128::from(hash)) >> u64::BITS;
    start + Duration::from_nanos(u64::try_from(share).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        drain::RetireRequest,
        kernel::{Told, ToldBy},
    };

    #[test]
    fn turns_are_spread_evenly_from_the_start() {
        let (start, spread) = (Boot::from_nanos(5_000_000_000), Duration::from_secs(3));
        let mut thirds = [0; 3];
        for cookie in 0..3000 {
            let after = turn(cookie, start, spread).since(start);
            assert!(after < spread, "cookie {cookie}: {after:?}");
            thirds[after.as_secs() as usize] += 1;
        }
        assert!(thirds.iter().all(|third| (900..1100).contains(third)), "{thirds:?}");
        assert_eq!(turn(7, start, spread), turn(7, start, spread));
        assert_eq!(turn(7, start, Duration::ZERO), start, "all at once");
    }

    #[test]
    fn a_silent_http2_flow_is_offered_a_goaway_in_its_turn_once_and_only_at_rest() {
        let now = Boot::from_nanos(60_000_000_000);
        let retire = RetireRequest::default()
            .validate(Duration::ZERO, Duration::from_secs(25))
            .expect("valid");
        let without = Retire { set: "http1,idle".parse().expect("a set"), ..retire };
        let at = (core::net::Ipv4Addr::LOCALHOST, 80).into();
        let socket = Socket {
            cookie: 1,
            state: TcpState::Established,
            local: at,
            peer: at,
            inode: 7,
            unread: 0,
            unacked: 0,
            info: Some(SocketInfo::default()),
        };
        let http2 = Followed {
            cookie: 1,
            protocol: Protocol::Http2,
            barrier: None,
            told: None,
            closes: false,
            answered: false,
            turn: now,
            sent: Some(now),
            received: 0,
            received_in_all: None,
        };
        let told = Some(Told { by: ToldBy::Goaway, at: now });
        let later = now + Duration::from_millis(1);
        let busy = Socket { unread: 9, ..socket.clone() };
        #[rustfmt::skip]
        let table = [
            ("silent and due", &retire, &socket, http2, true),
            ("not its turn", &retire, &socket, Followed { turn: later, ..http2 }, false),
            ("told already", &retire, &socket, Followed { told, ..http2 }, false),
            ("something unread", &retire, &busy, http2, false),
            ("HTTP/2 is left alone", &without, &socket, http2, false),
            ("not HTTP/2", &retire, &socket, Followed { protocol: Protocol::Upgraded, ..http2 }, false),
        ];
        for (description, retire, socket, followed, offered) in table {
            let rules = Rules { retire, started: now, now };
            let judged = Finish { cookie: 1, inode: 7, received: 0 };
            let step = rules.step(socket, Some(&followed), judged);
            assert_eq!(
                matches!(step, Some(Step::Goaway(flow)) if flow == judged),
                offered,
                "{description}"
            );
            assert!(!matches!(step, Some(Step::Finish(_))), "{description}: never a FIN");
        }
    }
}

//! Which flows get a FIN.
//!
//! *Idle* is only what is proven, and only HTTP/1 can be: its last response was seen to its end, all of it has
//! arrived, and no byte came from the client since. An HTTP/2 flow is never idle, told or not: what the server
//! sends does not show requests that it has not begun to answer, so nothing proves that no stream is open.
//! Such a flow, like one inside TLS or upgraded to a WebSocket, gets a FIN only if `--retire` names `quiet`,
//! and then because nothing moved for a while, which proves nothing.

use std::time::Duration;

use super::Retire;
use crate::{
    drain::Boot,
    kernel::{Followed, Protocol, Socket, SocketInfo, TcpState},
};

/// What a drain says about its flows at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    pub(super) retire: &'a Retire,
    /// When the drain began.
    pub(super) started: Boot,
    pub(super) now: Boot,
}

impl Rules<'_> {
    /// Whether this flow, which has not got one yet, is to get a FIN now.
    pub(super) fn finishes(&self, socket: &Socket, followed: Option<&Followed>) -> bool {
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
    let all_there = |info: &SocketInfo| {
        info.bytes_received == followed.received && info.bytes_acked == followed.sent_in_all
    };
    answered && at_rest(socket).is_some_and(all_there)
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
}

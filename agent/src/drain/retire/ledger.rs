//! What is known of each flow of a drain, from round to round.

use std::collections::HashMap;

use super::{
    Leaving, Retire, RetireReport, Untellable,
    finish::{Rules, is_idle},
};
use crate::{
    drain::Boot,
    kernel::{Abort, Barrier, Class, Finish, Followed, Look, Protocol, Socket, TcpState, ToldBy},
};

/// What is known of each flow of a drain, and what became of those that are gone.
#[derive(Clone, Debug, Default)]
pub struct Retirement {
    flows: HashMap<u64, Flow>,
    report: RetireReport,
    rounds: u64,
    /// Flows that were told until then are in the report already.
    told_until: Boot,
}

/// What a round asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Flows that are to get a FIN; those that got one go to [`Retirement::finished`].
    pub finish: Vec<Finish>,
    /// Cookies of flows that have ended and need not be followed any more.
    pub gone: Vec<u64>,
}

/// What is known of one flow.
#[derive(Clone, Copy, Debug)]
struct Flow {
    leaving: Leaving,
    /// Payload bytes that had come from the client: by the newest look, or when it got its FIN.
    received: u64,
    /// The newest round whose look showed it.
    seen_in: u64,
    aborted: bool,
    /// Whether its end was counted.
    ended: bool,
}

impl Retirement {
    /// Goes on from what had become of the flows at `at`, with a memory of none of them.
    pub fn resume(report: RetireReport, at: Boot) -> Self {
        Self { report, told_until: at, ..Self::default() }
    }

    /// Takes in what is there, counts what has happened, and says what is to be done. A flow counts from the
    /// first round that knows of it on.
    ///
    /// `look` is of the flows that are to leave. `followed` must have been read *before* the look was taken: a flow that is in it and not in the look
    /// has ended then. The other way round it could as well have been accepted in between.
    pub fn round(
        &mut self,
        retire: &Retire,
        started: Boot,
        followed: &[Followed],
        look: &Look,
        now: Boot,
    ) -> Round {
        self.rounds += 1;
        self.report.untellable = Untellable::default();
        let followed: HashMap<u64, &Followed> =
            followed.iter().map(|followed| (followed.cookie, followed)).collect();
        for followed in followed.values() {
            self.note(followed);
        }
        let rules = Rules { retire, started, now };
        let to_finish = |socket: &Socket| {
            let followed = followed.get(&socket.cookie).copied();
            self.see(socket, followed, &rules)
        };
        let finish = look.sockets.iter().filter_map(to_finish).collect();
        Round { finish, gone: self.count_gone(&followed) }
    }

    /// These flows of the newest round's [`Round::finish`] got their FIN.
    pub fn finished(&mut self, cookies: &[u64]) {
        for cookie in cookies {
            let Some(flow) = self.flows.get_mut(cookie) else { continue };
            if !std::mem::replace(&mut flow.leaving.fin_sent, true) {
                self.report.fin_sent += 1;
            }
        }
    }

    /// These flows were reset.
    pub fn aborted(&mut self, flows: &[Abort]) {
        for flow in flows {
            self.flows.entry(flow.cookie).or_insert_with(Flow::new).aborted = true;
            self.report.aborted += 1;
            if self.report.cut.len() < RetireReport::MOST_CUT {
                self.report.cut.push(flow.peer);
            }
        }
    }

    /// What has become of the flows, as of the newest round. What the kernel lacks is not known here.
    pub fn report(&self) -> RetireReport {
        self.report.clone()
    }

    /// How each flow of the newest round's look is on its way out, by socket cookie.
    pub fn leaving(&self) -> HashMap<u64, Leaving> {
        let there = self.flows.iter().filter(|(_, flow)| flow.seen_in == self.rounds);
        there.map(|(cookie, flow)| (*cookie, flow.leaving)).collect()
    }

    /// What the kernel programs tell of a flow, which may have ended.
    fn note(&mut self, followed: &Followed) {
        let flow = self.flows.entry(followed.cookie).or_insert_with(Flow::new);
        let raced = flow.leaving.fin_sent && flow.is_raced_by(followed);
        let leaving = &mut flow.leaving;
        if raced && !std::mem::replace(&mut leaving.fin_raced, true) {
            self.report.fin_raced += 1;
        }
        (leaving.protocol, leaving.barrier) = (followed.protocol, followed.barrier);
        if let (None, Some(told)) = (leaving.told, followed.told) {
            leaving.told = Some(told.by);
            match told.by {
                _ if told.at <= self.told_until => {}
                ToldBy::Header => self.report.told_by_header += 1,
                ToldBy::Goaway => self.report.told_by_goaway += 1,
            }
        }
    }

    /// What the look tells of a socket, and whether it is to get a FIN.
    fn see(
        &mut self,
        socket: &Socket,
        followed: Option<&Followed>,
        rules: &Rules<'_>,
    ) -> Option<Finish> {
        // A FIN_WAIT2 connection of which nothing is known was half-closed before the drain began.
        if socket.state.is_flow() {
            self.flows.entry(socket.cookie).or_insert_with(Flow::new);
            if let Some(followed) = followed {
                self.report.untellable.add(followed);
            }
        }
        let flow = self.flows.get_mut(&socket.cookie)?;
        flow.seen_in = self.rounds;
        flow.leaving.idle = followed.is_some_and(|followed| is_idle(socket, followed));
        if flow.leaving.fin_sent {
            if !flow.leaving.fin_raced && flow.is_raced(socket) {
                flow.leaving.fin_raced = true;
                self.report.fin_raced += 1;
            }
            return None;
        }
        flow.received = socket.info.map_or(0, |info| info.bytes_received);
        let finish = Finish { cookie: socket.cookie, inode: socket.inode, received: flow.received };
        rules.finishes(socket, followed).then_some(finish)
    }

    /// Counts the flows that the look did not show any more. Each is remembered for a round longer, and until
    /// it is not followed any more, so that it is not counted twice: a dump of a table that changes meanwhile
    /// may miss one that is there.
    fn count_gone(&mut self, followed: &HashMap<u64, &Followed>) -> Vec<u64> {
        let (rounds, report) = (self.rounds, &mut self.report);
        let mut gone = Vec::new();
        self.flows.retain(|cookie, flow| {
            if flow.seen_in == rounds {
                return true;
            }
            let news = !std::mem::replace(&mut flow.ended, true);
            if news && !flow.leaving.fin_sent && !flow.aborted {
                report.left += 1;
            }
            let is_followed = followed.contains_key(cookie);
            // What came after a FIN may have been noted since `followed` was read: once more, then.
            if is_followed && (!news || !flow.leaving.fin_sent) {
                gone.push(*cookie);
            }
            news || is_followed
        });
        gone
    }
}

impl Flow {
    fn new() -> Self {
        let leaving = Leaving {
            protocol: Protocol::Unknown,
            told: None,
            fin_sent: false,
            fin_raced: false,
            idle: false,
            barrier: None,
        };
        Self { leaving, received: 0, seen_in: 0, aborted: false, ended: false }
    }

    /// Whether bytes had come from the client after our FIN when the flow ended. The client's own FIN counts as one
    /// (`tcp_rcv_nxt_update`), and no request is so short.
    fn is_raced_by(&self, followed: &Followed) -> bool {
        followed.received_in_all.is_some_and(|all| all > self.received + 1)
    }

    /// Whether bytes came from the client after our FIN.
    fn is_raced(&self, socket: &Socket) -> bool {
        // `tcpi_bytes_received` counts a FIN too (tcp_rcv_nxt_update); in CLOSING the client's has come.
        let fin = u64::from(socket.state == TcpState::Closing);
        socket.info.is_some_and(|info| info.bytes_received > self.received + fin)
    }
}

impl Untellable {
    fn add(&mut self, followed: &Followed) {
        let reason = match (followed.barrier, followed.protocol) {
            (Some(Barrier::Ulp), _) => &mut self.ktls,
            (Some(Barrier::Mptcp), _) => &mut self.mptcp,
            (Some(Barrier::ZeroCopy), _) => &mut self.zero_copy,
            (Some(Barrier::Foreign), _) => &mut self.foreign,
            (Some(Barrier::NoRoom | Barrier::Refused), _) => &mut self.refused,
            (None, Protocol::Tls) => &mut self.tls,
            (None, Protocol::Upgraded) => &mut self.upgraded,
            (None, Protocol::Unknown) if followed.sent.is_some() => &mut self.unknown_protocol,
            (None, Protocol::Unknown | Protocol::Http1 | Protocol::Http2) => return,
        };
        *reason += 1;
    }
}

/// What is to be reset when the deadline passes: every flow, and half-closed connections whose request may still
/// be executing.
pub fn remaining(look: &Look) -> Vec<Abort> {
    let remains = |socket: &&Socket| {
        socket.state.is_flow() || socket.state == TcpState::FinWait2 && socket.is_held()
    };
    let abort = |s: &Socket| {
        let Socket { cookie, local, peer, interface, .. } = *s;
        Abort { cookie, local, peer, interface }
    };
    let counted = look.sockets.iter().filter(|socket| socket.class == Class::Counted);
    counted.filter(remains).map(abort).collect()
}

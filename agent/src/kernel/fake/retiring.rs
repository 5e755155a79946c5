//! The fake kernel's flows that are to leave: what clients and servers do on them, what the retire programs see
//! of it, and what becomes of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use super::{FakeKernel, model::Model};
use crate::{
    drain::{Boot, Service},
    kernel::{
        Abort, Barrier, Class, Finish, Followed, Protocol, RetireOrder, Socket, SocketInfo,
        TcpState, Told, ToldBy,
    },
};

#[derive(Default)]
pub(super) struct Retiring {
    orders: HashMap<Service, RetireOrder>,
    /// Those that ended stay until they are unfollowed.
    followed: BTreeMap<u64, (Service, Followed)>,
    talks: HashMap<u64, Talk>,
    pub(super) lacks: Option<String>,
    fins: Vec<Fin>,
    aborted: Vec<(Boot, Service, u64)>,
    /// Flows shown since a test asked for it.
    shown: BTreeSet<u64>,
}

/// What client and server really do on a connection.
#[derive(Clone, Copy)]
struct Talk {
    protocol: Protocol,
    /// Whether something is under way, or may be.
    busy: bool,
    /// When bytes last moved.
    moved: Boot,
}

/// A FIN that was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fin {
    pub(crate) cookie: u64,
    /// Whether a request may have been under way.
    pub(crate) busy: bool,
    /// For how long no byte had moved.
    pub(crate) quiet_for: Duration,
}

/// What tests do.
impl FakeKernel {
    /// From now on nobody can be followed or told, for this reason.
    pub(crate) fn set_retire_lacks(&self, reason: &str) {
        self.model().retiring.lacks = Some(reason.into());
    }

    /// The client sends a request of one byte.
    pub(crate) fn request(&self, cookie: u64) {
        self.transfer(cookie, |talk, info| {
            (talk.busy, info.bytes_received) = (true, info.bytes_received + 1)
        });
    }

    /// The server answers everything that was asked, or says something by itself; HTTP/1 says `close` if the
    /// flow's turn has come, HTTP/2 a GOAWAY.
    pub(crate) fn respond(&self, cookie: u64, protocol: Protocol) {
        let is_http1 = protocol == Protocol::Http1;
        self.transfer(cookie, |talk, info| {
            (talk.protocol, talk.busy, info.bytes_acked) =
                (protocol, !is_http1, info.bytes_acked + 1);
        });
        let mut model = self.model();
        let (now, Model { retiring, sockets, .. }) = model.split();
        let Some((service, followed)) = retiring.followed.get_mut(&cookie) else { return };
        let Some((_, Socket { info: Some(info), .. })) = sockets.get(&cookie) else { return };
        (followed.protocol, followed.answered) = (protocol, is_http1);
        (followed.sent, followed.received) = (Some(now), info.bytes_received);
        followed.sent_in_all = info.bytes_acked;
        let order = retiring.orders.get(service).filter(|order| now < order.until);
        let by = match protocol {
            Protocol::Http1 => order.filter(|order| order.http1).map(|_| ToldBy::Header),
            Protocol::Http2 => order.filter(|order| order.http2).map(|_| ToldBy::Goaway),
            _ => None,
        };
        if let Some(by) = by.filter(|_| followed.told.is_none() && now >= followed.turn) {
            followed.told = Some(Told { by, at: now });
        }
    }

    fn transfer(&self, cookie: u64, change: impl FnOnce(&mut Talk, &mut SocketInfo)) {
        let mut model = self.model();
        let (now, Model { retiring, sockets, .. }) = model.split();
        let Some(talk) = retiring.talks.get_mut(&cookie) else { return };
        let Some((_, socket)) = sockets.get_mut(&cookie) else { return };
        talk.moved = now;
        change(talk, socket.info.get_or_insert_default());
    }

    /// A followed flow gets a barrier.
    pub(crate) fn set_barrier(&self, cookie: u64, barrier: Barrier) {
        if let Some((_, followed)) = self.model().retiring.followed.get_mut(&cookie) {
            followed.barrier = Some(barrier);
        }
    }

    /// The order that the service retires by.
    pub(crate) fn order(&self, service: Service) -> Option<RetireOrder> {
        self.model().retiring.orders.get(&service).copied()
    }

    /// Whether the flow was told to leave.
    pub(crate) fn is_told(&self, cookie: u64) -> bool {
        let model = self.model();
        model.retiring.followed.get(&cookie).is_some_and(|(_, flow)| flow.told.is_some())
    }

    /// How many flows are followed, those that ended included.
    pub(crate) fn following(&self) -> usize {
        self.model().retiring.followed.len()
    }

    /// All FINs sent so far.
    pub(crate) fn fins(&self) -> Vec<Fin> {
        self.model().retiring.fins.clone()
    }

    /// All connections reset so far, and when.
    pub(crate) fn resets(&self) -> Vec<(Boot, Service, u64)> {
        self.model().retiring.aborted.clone()
    }

    /// Cookies of the flows that `look` and `followed` have shown since the last call.
    pub(crate) fn take_shown(&self) -> BTreeSet<u64> {
        std::mem::take(&mut self.model().retiring.shown)
    }
}

impl Model {
    fn split(&mut self) -> (Boot, &mut Self) {
        (self.now, self)
    }

    /// A connection or handshake is there.
    pub(super) fn begin_talk(&mut self, cookie: u64) {
        let talk = Talk { protocol: Protocol::Unknown, busy: true, moved: self.now };
        self.retiring.talks.insert(cookie, talk);
    }

    /// What TCP tells of the socket now.
    pub(super) fn shown(&self, socket: &Socket) -> Socket {
        let quiet_for = self.quiet_for(socket.cookie);
        let told = |info| SocketInfo { since_sent: quiet_for, since_received: quiet_for, ..info };
        Socket { info: socket.info.map(told), ..socket.clone() }
    }

    /// Remembers which flows were shown.
    pub(super) fn show(&mut self, cookies: impl IntoIterator<Item = u64>) {
        self.retiring.shown.extend(cookies);
    }

    fn quiet_for(&self, cookie: u64) -> Duration {
        self.retiring.talks.get(&cookie).map_or(Duration::ZERO, |talk| self.now.since(talk.moved))
    }

    pub(super) fn retire(&mut self, service: Service, order: RetireOrder) {
        self.retiring.orders.insert(service, order);
        let flows: Vec<u64> = self
            .sockets
            .values()
            .filter(|(of, socket)| *of == service && socket.state == TcpState::Established)
            .filter(|(of, socket)| !self.is_ignored(*of, socket.peer.ip()))
            .filter(|(_, socket)| match socket.class {
                Class::Counted => true,
                Class::Steered => order.carried,
                Class::Ignored | Class::Probe => false,
            })
            .map(|(_, socket)| socket.cookie)
            .collect();
        for cookie in flows {
            self.follow(service, cookie);
        }
    }

    /// A flow of a service that retires is followed, from its first byte on if it is new.
    pub(super) fn follow(&mut self, service: Service, cookie: u64) {
        let order = self.retiring.orders.get(&service).filter(|order| self.now < order.until);
        let Some(order) = order.filter(|_| self.retiring.lacks.is_none()) else { return };
        let turn = order.start + order.spread * (cookie % 8) as u32 / 8;
        let followed = Followed {
            cookie,
            protocol: Protocol::Unknown,
            barrier: None,
            told: None,
            closes: false,
            answered: false,
            turn,
            sent: None,
            received: 0,
            sent_in_all: 0,
            received_in_all: None,
        };
        self.retiring.followed.entry(cookie).or_insert((service, followed));
    }

    pub(super) fn followed(&mut self, service: Service) -> Vec<Followed> {
        let all = self.retiring.followed.values().filter(|(of, _)| *of == service);
        let all: Vec<Followed> = all.map(|(_, followed)| *followed).collect();
        self.show(all.iter().map(|followed| followed.cookie));
        all
    }

    pub(super) fn unfollow(&mut self, cookies: &[u64]) {
        for cookie in cookies {
            self.retiring.followed.remove(cookie);
        }
    }

    pub(super) fn restore(&mut self, service: Service) {
        self.retiring.orders.remove(&service);
        self.retiring.followed.retain(|_, (of, _)| *of != service);
    }

    /// Restores every service but these.
    pub(super) fn release_others(&mut self, drains: &[Service]) {
        self.retiring.orders.retain(|service, _| drains.contains(service));
        self.retiring.followed.retain(|_, (of, _)| drains.contains(of));
    }

    /// Whether this very flow is to get its FIN, nothing having come since it was judged; notes that it did.
    pub(super) fn finish(&mut self, netns: u32, flow: &Finish) -> bool {
        let Some((service, socket)) = self.sockets.get(&flow.cookie) else { return false };
        let received = socket.info.map_or(0, |info| info.bytes_received);
        let same = service.netns == netns && socket.inode == flow.inode && socket.is_held();
        if !same || socket.state != TcpState::Established || received != flow.received {
            return false;
        }
        let busy = self.retiring.talks.get(&flow.cookie).is_none_or(|talk| talk.busy);
        let quiet_for = self.quiet_for(flow.cookie);
        self.retiring.fins.push(Fin { cookie: flow.cookie, busy, quiet_for });
        true
    }

    /// Whether this very flow is to be reset; notes that it was.
    pub(super) fn abort(&mut self, netns: u32, flow: &Abort) -> bool {
        let Some((service, _)) = self.sockets.get(&flow.cookie) else { return false };
        let found = service.netns == netns;
        if found {
            self.retiring.aborted.push((self.now, *service, flow.cookie));
        }
        found
    }
}

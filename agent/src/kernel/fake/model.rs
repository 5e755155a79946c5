//! The state of the fake kernel: namespaces, sockets and what the tracker has counted of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use super::{
    failing::{Hook, Op},
    gates::{Gate, Guard},
    retiring::Retiring,
};
use crate::{
    drain::{Boot, Service},
    kernel::{
        Class, Faults, KernelError, Listener, Look, Reconciled, Socket, SocketInfo, TcpState,
        Tracked, Watch,
    },
};

#[derive(Default)]
pub(super) struct Model {
    pub(super) now: Boot,
    pub(super) last_cookie: u64,
    /// Cookie of each namespace.
    pub(super) netns: BTreeMap<u32, u64>,
    pub(super) listeners: HashMap<Service, Vec<Listener>>,
    pub(super) sockets: BTreeMap<u64, (Service, Socket)>,
    pub(super) tracker: HashMap<Service, Tracker>,
    pub(super) watches: HashMap<Service, Watch>,
    pub(super) gates: HashMap<Service, Gate>,
    /// How many sockets take the connections of a service, once its gate is closed.
    pub(super) steering: HashMap<Service, usize>,
    /// Services that are given to sockets of the agent.
    pub(super) steered_to_agent: BTreeSet<Service>,
    pub(super) guards: HashMap<Service, Guard>,
    /// When each client last had a flow.
    pub(super) clients: HashMap<(Service, IpAddr), Boot>,
    pub(super) forgetful: bool,
    pub(super) drains: BTreeMap<Service, Vec<u8>>,
    pub(super) outbound: BTreeMap<(u32, SocketAddr), u64>,
    pub(super) holds: BTreeMap<Service, Vec<u8>>,
    pub(super) faults: Faults,
    pub(super) calls: HashMap<Op, u64>,
    /// Calls that fail, counted from 1: from, and how many.
    pub(super) failing: HashMap<Op, (u64, u64)>,
    pub(super) hooks: HashMap<Op, Vec<Hook>>,
    pub(super) tracker_full: bool,
    pub(super) tracker_blind: bool,
    pub(super) events_lost: bool,
    pub(super) look_misses: u32,
    pub(super) retiring: Retiring,
}

#[derive(Default)]
pub(super) struct Tracker {
    /// Cookie → when it was established.
    pub(super) flows: HashMap<u64, Boot>,
    /// By how much the counter is wrong.
    pub(super) drift: i64,
    pub(super) accepted: u64,
    pub(super) lost: u64,
    pub(super) last_new: Option<Boot>,
    pub(super) last_peer: Option<IpAddr>,
}

impl Tracker {
    pub(super) fn counts(&self) -> Tracked {
        Tracked {
            known: true,
            flows: self.flows.len() as i64 + self.drift,
            accepted: self.accepted,
            lost: self.lost,
            last_new: self.last_new,
            last_peer: self.last_peer,
        }
    }
}

impl Model {
    pub(super) fn cookie(&mut self) -> u64 {
        self.last_cookie += 1;
        self.last_cookie
    }

    pub(super) fn add_socket(&mut self, service: Service, state: TcpState, client: IpAddr) -> u64 {
        let cookie = self.cookie();
        let socket = Socket {
            cookie,
            state,
            class: Class::Counted,
            local: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), service.port),
            peer: SocketAddr::new(client, 40000),
            inode: if state == TcpState::SynRecv { 0 } else { cookie as u32 },
            unread: 0,
            unacked: 0,
            interface: 0,
            info: Some(SocketInfo::default()),
        };
        self.begin_talk(cookie);
        self.sockets.insert(cookie, (service, socket));
        cookie
    }

    pub(super) fn netns_exists(&self, netns: u32) -> Result<(), KernelError> {
        if self.netns.contains_key(&netns) { Ok(()) } else { Err(KernelError::NoNetns(netns)) }
    }

    pub(super) fn look(&self, netns: u32, port: Option<u16>) -> Look {
        let wanted = |of: &Service| of.netns == netns && port.is_none_or(|port| of.port == port);
        let listeners = self.listeners.iter().filter(|(of, _)| wanted(of));
        let sockets = self.sockets.values().filter(|(of, _)| wanted(of));
        Look {
            listeners: listeners.flat_map(|(_, listeners)| listeners.clone()).collect(),
            sockets: sockets.map(|(of, socket)| self.sorted(*of, self.shown(socket))).collect(),
        }
    }

    fn sorted(&self, service: Service, socket: Socket) -> Socket {
        let ignored = self.is_ignored(service, socket.peer.ip());
        let class = if ignored { Class::Ignored } else { socket.class };
        Socket { class, ..socket }
    }

    pub(super) fn reconcile(&mut self, service: Service, look: &Look) -> Reconciled {
        let now = self.now;
        let tracker = self.tracker.entry(service).or_default();
        let mut done = Reconciled { corrected: -tracker.drift, ..Reconciled::default() };
        tracker.drift = 0;
        let before = tracker.flows.len();
        let is_flow =
            |cookie: &u64| self.sockets.get(cookie).is_some_and(|(_, s)| s.state.is_flow());
        tracker.flows.retain(|cookie, _| is_flow(cookie));
        done.removed = (before - tracker.flows.len()) as u64;
        let counts = |socket: &&Socket| is_flow(&socket.cookie) && socket.class == Class::Counted;
        for seen in look.sockets.iter().filter(counts) {
            if tracker.flows.insert(seen.cookie, now).is_none() {
                done.added += 1;
            }
        }
        if !self.tracker_full {
            tracker.lost = 0;
        }
        done
    }
}

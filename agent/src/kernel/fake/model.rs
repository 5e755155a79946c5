//! The state of the fake kernel, and what the operations make of it.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use super::{FakeKernel, Hook, Op, retiring::Retiring};
use crate::{
    drain::{Boot, Service},
    kernel::{
        Abort, Class, Faults, Finish, Followed, Kernel, KernelError, Listener, Look, Reconciled,
        RetireLacks, RetireOrder, Socket, SocketInfo, TcpState, Tracked, Watch,
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
    pub(super) drains: BTreeMap<Service, Vec<u8>>,
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
            flows: self.flows.len() as i64 + self.drift,
            accepted: self.accepted,
            lost: self.lost,
            last_new: self.last_new,
            last_peer: self.last_peer,
        }
    }
}

pub(super) struct Gate {
    pub(super) lease_until: Boot,
    pub(super) rejected: u64,
}

impl Model {
    pub(super) fn cookie(&mut self) -> u64 {
        self.last_cookie += 1;
        self.last_cookie
    }

    pub(super) fn gate_is_closed(&self, service: Service) -> bool {
        self.gates.get(&service).is_some_and(|gate| self.now < gate.lease_until)
    }

    pub(super) fn add_socket(&mut self, service: Service, state: TcpState) -> u64 {
        let cookie = self.cookie();
        let socket = Socket {
            cookie,
            state,
            class: Class::Counted,
            local: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), service.port),
            peer: SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), 40000),
            inode: if state == TcpState::SynRecv { 0 } else { cookie as u32 },
            unread: 0,
            unacked: 0,
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
            sockets: sockets.map(|(_, socket)| self.shown(socket)).collect(),
        }
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
        for seen in look.sockets.iter().filter(|socket| is_flow(&socket.cookie)) {
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

impl Kernel for FakeKernel {
    fn now(&self) -> Boot {
        self.model().now
    }

    fn host_netns(&self) -> u32 {
        1
    }

    fn namespaces(&self) -> Result<Vec<u32>, KernelError> {
        Ok(self.enter(Op::Namespaces)?.netns.keys().copied().collect())
    }

    fn netns_cookie(&self, netns: u32) -> Result<Option<u64>, KernelError> {
        let model = self.enter(Op::NetnsCookie)?;
        model.netns_exists(netns)?;
        Ok(model.netns.get(&netns).copied())
    }

    fn look(&self, netns: u32, port: Option<u16>) -> Result<Look, KernelError> {
        let mut model = self.enter(Op::Look)?;
        model.netns_exists(netns)?;
        let mut look = model.look(netns, port);
        if model.look_misses > 0 {
            model.look_misses -= 1;
            if let Some(missed) = look.sockets.iter().position(|socket| socket.state.is_flow()) {
                look.sockets.remove(missed);
            }
        }
        let flows = look.sockets.iter().filter(|socket| socket.state.is_flow());
        model.show(flows.map(|socket| socket.cookie));
        Ok(look)
    }

    fn tracked(&self, service: Service) -> Result<Tracked, KernelError> {
        let model = self.enter(Op::Tracked)?;
        Ok(model.tracker.get(&service).map(Tracker::counts).unwrap_or_default())
    }

    fn established_at(&self, cookies: &[u64]) -> Result<Vec<Option<Boot>>, KernelError> {
        let model = self.enter(Op::EstablishedAt)?;
        let at = |cookie| model.tracker.values().find_map(|tracker| tracker.flows.get(cookie));
        Ok(cookies.iter().map(|cookie| at(cookie).copied()).collect())
    }

    fn reconcile(&self, service: Service, look: &Look) -> Result<Reconciled, KernelError> {
        Ok(self.enter(Op::Reconcile)?.reconcile(service, look))
    }

    fn watch(&self, service: Service, watch: Watch) -> Result<(), KernelError> {
        self.enter(Op::Watch)?.watches.insert(service, watch);
        Ok(())
    }

    fn close_gate(&self, service: Service, lease_until: Boot) -> Result<(), KernelError> {
        let mut model = self.enter(Op::CloseGate)?;
        model.netns_exists(service.netns)?;
        let rejected = model.gates.get(&service).map_or(0, |gate| gate.rejected);
        model.gates.insert(service, Gate { lease_until, rejected });
        Ok(())
    }

    fn renew_gate(&self, service: Service, lease_until: Boot) -> Result<(), KernelError> {
        let mut model = self.enter(Op::RenewGate)?;
        match model.gates.get_mut(&service) {
            Some(gate) => gate.lease_until = lease_until,
            None => return Err(KernelError::op("renew", "gate", "it is not closed")),
        }
        Ok(())
    }

    fn open_gate(&self, service: Service) -> Result<(), KernelError> {
        self.enter(Op::OpenGate)?.gates.remove(&service);
        Ok(())
    }

    fn rejected(&self, service: Service) -> Result<u64, KernelError> {
        Ok(self.enter(Op::Rejected)?.gates.get(&service).map_or(0, |gate| gate.rejected))
    }

    fn retire(&self, service: Service, order: &RetireOrder) -> Result<(), KernelError> {
        let mut model = self.enter(Op::Retire)?;
        model.netns_exists(service.netns)?;
        model.retire(service, *order);
        Ok(())
    }

    fn followed(&self, service: Service) -> Result<Vec<Followed>, KernelError> {
        Ok(self.enter(Op::Followed)?.followed(service))
    }

    fn unfollow(&self, cookies: &[u64]) -> Result<(), KernelError> {
        self.enter(Op::Unfollow)?.unfollow(cookies);
        Ok(())
    }

    fn restore(&self, service: Service) -> Result<(), KernelError> {
        self.enter(Op::Restore)?.restore(service);
        Ok(())
    }

    fn finish(&self, netns: u32, flows: &[Finish]) -> Result<Vec<u64>, KernelError> {
        let mut model = self.enter(Op::Finish)?;
        model.netns_exists(netns)?;
        let cookies = flows.iter().filter(|flow| model.finish(netns, flow)).map(|flow| flow.cookie);
        let cookies: Vec<u64> = cookies.collect();
        for cookie in &cookies {
            self.move_to(&mut model, *cookie, TcpState::FinWait2, true);
        }
        Ok(cookies)
    }

    fn abort(&self, netns: u32, flows: &[Abort]) -> Result<Vec<u64>, KernelError> {
        let mut model = self.enter(Op::Abort)?;
        model.netns_exists(netns)?;
        let cookies = flows.iter().filter(|flow| model.abort(netns, flow)).map(|flow| flow.cookie);
        let cookies: Vec<u64> = cookies.collect();
        for cookie in &cookies {
            self.remove(&mut model, *cookie);
        }
        Ok(cookies)
    }

    fn saved_drains(&self) -> Result<Vec<(Service, Vec<u8>)>, KernelError> {
        Ok(self.enter(Op::SavedDrains)?.drains.clone().into_iter().collect())
    }

    fn save_drain(&self, service: Service, drain: &[u8]) -> Result<(), KernelError> {
        self.enter(Op::SaveDrain)?.drains.insert(service, drain.to_vec());
        Ok(())
    }

    fn forget_drain(&self, service: Service) -> Result<(), KernelError> {
        self.enter(Op::ForgetDrain)?.drains.remove(&service);
        Ok(())
    }

    fn release_others(&self, drains: &[Service]) -> Result<Vec<Service>, KernelError> {
        let mut model = self.enter(Op::ReleaseOthers)?;
        let left: Vec<Service> = model.gates.keys().copied().collect();
        let left: Vec<Service> = left.into_iter().filter(|of| !drains.contains(of)).collect();
        let closed = left.iter().copied().filter(|of| model.gate_is_closed(*of)).collect();
        for service in left {
            model.gates.remove(&service);
        }
        model.watches.retain(|service, _| drains.contains(service));
        model.release_others(drains);
        Ok(closed)
    }

    fn retire_lacks(&self) -> RetireLacks {
        RetireLacks { telling: self.model().retiring.lacks.clone() }
    }

    fn faults(&self) -> Result<Faults, KernelError> {
        Ok(self.enter(Op::Faults)?.faults)
    }
}

//! The state of the fake kernel, and what the operations make of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    os::fd::BorrowedFd,
};

use super::{FakeKernel, Hook, Op, retiring::Retiring};
use crate::{
    drain::{Admission, Boot, Handoff, List, Service},
    kernel::{
        Abort, Admitted, Class, Faults, Finish, Followed, HandoffError, Kernel, KernelError,
        Listener, Listening, Look, Outgoing, OwnListener, ProbeCounts, Reconciled, RetireLacks,
        RetireOrder, Socket, SocketInfo, Steered, TcpState, Tracked, Watch, reset_at_close,
        straggling::listen_here,
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
    /// Handshakes with one of those.
    pub(super) steered: BTreeSet<u64>,
    pub(super) guards: HashMap<Service, Guard>,
    /// When each client last had a flow.
    pub(super) clients: HashMap<(Service, IpAddr), Boot>,
    pub(super) forgetful: bool,
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

pub(super) struct Guard {
    admission: Admission,
    lease_until: Boot,
    admitted: Admitted,
}

impl Model {
    pub(super) fn cookie(&mut self) -> u64 {
        self.last_cookie += 1;
        self.last_cookie
    }

    pub(super) fn gate_is_closed(&self, service: Service) -> bool {
        self.gates.get(&service).is_some_and(|gate| self.now < gate.lease_until)
    }

    /// Whether a connection attempt gets through lists and gate; counts it.
    pub(super) fn admits(&mut self, service: Service, client: IpAddr) -> bool {
        let (now, closed) = (self.now, self.gate_is_closed(service));
        let last = self.clients.get(&(service, client)).copied();
        if let Some(guard) = self.guards.get_mut(&service).filter(|guard| now < guard.lease_until) {
            let by_list = match guard.admission.list_of(client) {
                Some(List::Ignore) => Some((&mut guard.admitted.ignored, true)),
                Some(List::Allow) => Some((&mut guard.admitted.allowed, true)),
                Some(List::FailHealthFrom) => Some((&mut guard.admitted.failed_health, false)),
                None => None,
            };
            let keep = guard.admission.keep_clients().filter(|_| closed).zip(last);
            let is_kept = keep.is_some_and(|(keep, last)| now.since(last) <= keep);
            let kept = is_kept.then_some((&mut guard.admitted.kept, true));
            if let Some((counter, admits)) = by_list.or(kept) {
                *counter += 1;
                return admits;
            }
        }
        let steers = self.steers(service);
        if let Some(gate) = self.gates.get_mut(&service).filter(|_| closed && !steers) {
            gate.rejected += 1;
        }
        !closed
    }

    /// Whether a closed gate gives connections to other listeners.
    pub(super) fn steers(&self, service: Service) -> bool {
        self.steering.get(&service).is_some_and(|targets| *targets > 0)
            && self.gate_is_closed(service)
    }

    /// Whether a list refuses the client whatever the gate does.
    pub(super) fn is_refused(&self, service: Service, client: IpAddr) -> bool {
        let guard = self.guards.get(&service);
        guard.and_then(|guard| guard.admission.list_of(client)) == Some(List::FailHealthFrom)
    }

    pub(super) fn is_ignored(&self, service: Service, client: IpAddr) -> bool {
        let guard = self.guards.get(&service);
        guard.and_then(|guard| guard.admission.list_of(client)) == Some(List::Ignore)
    }

    /// Counts what is there by the lists in force.
    fn sort(&mut self, service: Service) {
        let now = self.now;
        let ours = self.sockets.iter().filter(|(_, (of, _))| *of == service);
        let flows = ours.filter(|(_, (_, socket))| socket.state.is_flow());
        let flows: Vec<_> =
            flows.map(|(cookie, (_, socket))| (*cookie, socket.peer.ip())).collect();
        for (cookie, client) in flows {
            let ignored = self.is_ignored(service, client);
            let tracker = self.tracker.entry(service).or_default();
            if ignored {
                tracker.flows.remove(&cookie);
            } else {
                tracker.flows.entry(cookie).or_insert(now);
                self.clients.insert((service, client), now);
            }
        }
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
            info: Some(SocketInfo::default()),
        };
        self.begin_talk(cookie);
        self.sockets.insert(cookie, (service, socket));
        cookie
    }

    /// A connection that another listener accepts: the tracker does not count it.
    pub(super) fn add_steered(&mut self, service: Service, client: IpAddr) -> u64 {
        let cookie = self.add_socket(service, TcpState::Established, client);
        if let Some((_, socket)) = self.sockets.get_mut(&cookie) {
            socket.class = Class::Steered;
        }
        cookie
    }

    pub(super) fn count_steered(&self, service: Service) -> usize {
        let ours = self.sockets.values().filter(|(of, _)| *of == service);
        ours.filter(|(_, socket)| socket.class == Class::Steered).count()
    }

    /// Any process listens on the port of its number.
    fn takers(&self, service: Service, to: Handoff) -> Result<BTreeSet<u64>, KernelError> {
        let port = match to {
            Handoff::Port(port) => port,
            Handoff::Pid(pid) => pid as u16,
        };
        let listeners = self.listeners.get(&Service { port, ..service });
        let cookies: BTreeSet<u64> = listeners.into_iter().flatten().map(|l| l.cookie).collect();
        if cookies.is_empty() {
            let who = format!("{to:?}");
            return Err(HandoffError::NoListener { who, netns: service.netns }.into());
        }
        Ok(cookies)
    }

    /// What was steered counts from now on.
    fn end_steering(&mut self, service: Service) {
        if self.steering.remove(&service).is_none() {
            return;
        }
        let now = self.now;
        let tracker = self.tracker.entry(service).or_default();
        let steered = self.sockets.values_mut().filter(|(of, _)| *of == service);
        for (_, socket) in steered.filter(|(_, socket)| socket.class == Class::Steered) {
            socket.class = Class::Counted;
            if socket.state.is_flow() {
                tracker.flows.insert(socket.cookie, now);
            }
        }
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
        let counted = look.sockets.iter().filter(|socket| socket.class == Class::Counted);
        let flows = counted.filter(|socket| socket.state.is_flow());
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

    fn steer(&self, service: Service, targets: &[BorrowedFd<'_>]) -> Result<(), KernelError> {
        let mut model = self.enter(Op::Steer)?;
        model.netns_exists(service.netns)?;
        model.steering.insert(service, targets.len());
        Ok(())
    }

    fn steered(&self, service: Service) -> Result<Steered, KernelError> {
        let model = self.enter(Op::Steered)?;
        let targets = model.steering.get(&service).copied().unwrap_or_default() as u64;
        Ok(Steered { attempts: model.count_steered(service) as u64, targets })
    }

    fn guard(
        &self,
        service: Service,
        admission: &Admission,
        lease_until: Boot,
    ) -> Result<(), KernelError> {
        let mut model = self.enter(Op::Guard)?;
        model.netns_exists(service.netns)?;
        let admitted = Admitted::default();
        let guard = Guard { admission: admission.clone(), lease_until, admitted };
        model.guards.insert(service, guard);
        model.sort(service);
        Ok(())
    }

    fn takers(&self, service: Service, to: Handoff) -> Result<BTreeSet<u64>, KernelError> {
        let model = self.enter(Op::Takers)?;
        model.takers(service, to)
    }

    fn hand_over(&self, service: Service, to: Handoff) -> Result<BTreeSet<u64>, KernelError> {
        let mut model = self.enter(Op::HandOver)?;
        let takers = model.takers(service, to)?;
        model.steering.insert(service, takers.len());
        Ok(takers)
    }

    fn close_gate(&self, service: Service, lease_until: Boot) -> Result<(), KernelError> {
        let mut model = self.enter(Op::CloseGate)?;
        model.netns_exists(service.netns)?;
        let rejected = model.gates.get(&service).map_or(0, |gate| gate.rejected);
        model.gates.insert(service, Gate { lease_until, rejected });
        if let Some(guard) = model.guards.get_mut(&service) {
            guard.lease_until = lease_until;
        }
        Ok(())
    }

    fn renew_gate(&self, service: Service, lease_until: Boot) -> Result<(), KernelError> {
        let model = &mut *self.enter(Op::RenewGate)?;
        let gate = model.gates.get_mut(&service).map(|gate| &mut gate.lease_until);
        let guard = model.guards.get_mut(&service).map(|guard| &mut guard.lease_until);
        if gate.is_none() && guard.is_none() {
            return Err(KernelError::op("renew", "gate", "it is not closed"));
        }
        gate.into_iter().chain(guard).for_each(|lease| *lease = lease_until);
        Ok(())
    }

    fn open_gate(&self, service: Service) -> Result<(), KernelError> {
        let mut model = self.enter(Op::OpenGate)?;
        model.gates.remove(&service);
        model.end_steering(service);
        if model.guards.remove(&service).is_some() {
            model.sort(service);
        }
        Ok(())
    }

    fn rejected(&self, service: Service) -> Result<u64, KernelError> {
        Ok(self.enter(Op::Rejected)?.gates.get(&service).map_or(0, |gate| gate.rejected))
    }

    fn admitted(&self, service: Service) -> Result<Admitted, KernelError> {
        let model = self.enter(Op::Admitted)?;
        Ok(model.guards.get(&service).map(|guard| guard.admitted).unwrap_or_default())
    }

    fn remembers_clients(&self) -> bool {
        !self.model().forgetful
    }

    fn open_listener(&self, netns: u32, how: Listening) -> Result<OwnListener, KernelError> {
        self.enter(Op::OpenListener)?.netns_exists(netns)?;
        let socket = listen_here(how).map_err(|e| KernelError::op("listen in", netns, e))?;
        Ok(OwnListener { socket, with: Box::new(()) })
    }

    fn open_connection(
        &self,
        _netns: u32,
        target: SocketAddr,
        _token: u64,
    ) -> Result<Outgoing, KernelError> {
        let fail = |e: std::io::Error| KernelError::op("connect to", target, e);
        let socket = TcpStream::connect(target).map_err(fail)?;
        socket.set_nonblocking(true).map_err(fail)?;
        reset_at_close(&socket, true);
        Ok(Outgoing { socket: socket.into(), mark: Box::new(()) })
    }

    fn own_addresses(&self, netns: u32, addrs: &[IpAddr]) -> Result<Vec<IpAddr>, KernelError> {
        self.enter(Op::OwnAddresses)?.netns_exists(netns)?;
        Ok(addrs.iter().copied().filter(IpAddr::is_loopback).collect())
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

    fn probes(&self) -> Result<ProbeCounts, KernelError> {
        Ok(ProbeCounts::default())
    }

    fn faults(&self) -> Result<Faults, KernelError> {
        Ok(self.enter(Op::Faults)?.faults)
    }
}

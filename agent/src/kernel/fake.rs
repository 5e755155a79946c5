//! A kernel for tests: a small model of namespaces, sockets, the tracker and the gate, which can fail at
//! any operation on demand, and lets a test do something in the middle of one. What it claims about the
//! real kernel is proven against it by the integration tests.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use super::{
    Event, EventKind, Faults, Kernel, KernelError, Listener, Look, Reconciled, Socket, TcpState,
    Tracked, Watch,
};
use crate::drain::{Boot, Counts, Service};

/// Operations of [`Kernel`] that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "they are named like the methods")]
pub enum Op {
    Namespaces,
    NetnsCookie,
    Look,
    Tracked,
    EstablishedAt,
    Reconcile,
    Watch,
    CloseGate,
    RenewGate,
    OpenGate,
    Rejected,
    Faults,
}

impl Op {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Namespaces,
        Self::NetnsCookie,
        Self::Look,
        Self::Tracked,
        Self::EstablishedAt,
        Self::Reconcile,
        Self::Watch,
        Self::CloseGate,
        Self::RenewGate,
        Self::OpenGate,
        Self::Rejected,
        Self::Faults,
    ];
}

/// What a test does in the middle of an operation.
type Hook = Box<dyn FnOnce(&FakeKernel) + Send>;

/// See the module.
pub struct FakeKernel {
    model: Mutex<Model>,
    events: mpsc::UnboundedSender<Event>,
    /// With tokio's (virtual) clock; without it, time moves by [`FakeKernel::advance`] only.
    tokio_start: Option<Instant>,
}

#[derive(Default)]
struct Model {
    now: Boot,
    last_cookie: u64,
    /// Cookie of each namespace.
    netns: BTreeMap<u32, u64>,
    listeners: HashMap<Service, Vec<Listener>>,
    sockets: BTreeMap<u64, (Service, Socket)>,
    tracker: HashMap<Service, Tracker>,
    watches: HashMap<Service, Watch>,
    gates: HashMap<Service, Gate>,
    faults: Faults,
    calls: HashMap<Op, u64>,
    /// Calls that fail, counted from 1: from, and how many.
    failing: HashMap<Op, (u64, u64)>,
    hooks: HashMap<Op, Vec<Hook>>,
    tracker_full: bool,
    tracker_blind: bool,
    events_lost: bool,
}

#[derive(Default)]
struct Tracker {
    /// Cookie → whether it is in FIN_WAIT2, and when it was established.
    flows: HashMap<u64, (bool, Boot)>,
    /// By how much the counter is wrong.
    drift: i64,
    accepted: u64,
    lost: u64,
    last_new: Option<Boot>,
    last_peer: Option<IpAddr>,
}

impl Tracker {
    fn counts(&self) -> Tracked {
        let lingering = self.flows.values().filter(|(lingering, _)| *lingering).count() as i64;
        Tracked {
            flows: self.flows.len() as i64 - lingering + self.drift,
            lingering,
            accepted: self.accepted,
            lost: self.lost,
            last_new: self.last_new,
            last_peer: self.last_peer,
        }
    }
}

struct Gate {
    lease_until: Boot,
    rejected: u64,
}

/// Why a connection attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// What tests do.
impl FakeKernel {
    /// A kernel whose time is tokio's.
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Event>) {
        Self::with_clock(Some(Instant::now()))
    }

    /// A kernel whose time moves by [`FakeKernel::advance`] only.
    pub fn with_manual_clock() -> (Arc<Self>, mpsc::UnboundedReceiver<Event>) {
        Self::with_clock(None)
    }

    fn with_clock(tokio_start: Option<Instant>) -> (Arc<Self>, mpsc::UnboundedReceiver<Event>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let model = Model { now: Boot::from_nanos(1_000_000_000_000), ..Model::default() };
        (Arc::new(Self { model: Mutex::new(model), events, tokio_start }), receiver)
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        let mut model = self.model.lock().expect("no test panics while it holds the model");
        if let Some(start) = self.tokio_start {
            model.now = Boot::from_nanos(1_000_000_000_000) + start.elapsed();
        }
        model
    }

    /// Moves a manual clock.
    pub fn advance(&self, by: Duration) {
        let mut model = self.model();
        model.now = model.now + by;
    }

    /// Makes a network namespace (again: with another cookie).
    pub fn add_netns(&self, netns: u32) {
        let mut model = self.model();
        let cookie = model.cookie();
        model.netns.insert(netns, cookie);
    }

    /// The namespace dies, and everything in it.
    pub fn kill_netns(&self, netns: u32) {
        let mut model = self.model();
        model.netns.remove(&netns);
        model.listeners.retain(|service, _| service.netns != netns);
        model.sockets.retain(|_, (service, _)| service.netns != netns);
        model.tracker.retain(|service, _| service.netns != netns);
        model.watches.retain(|service, _| service.netns != netns);
        model.gates.retain(|service, _| service.netns != netns);
    }

    /// A server starts to listen; the socket's cookie.
    pub fn listen(&self, service: Service) -> u64 {
        let mut model = self.model();
        let cookie = model.cookie();
        let local = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), service.port);
        let listener = Listener { cookie, local, uid: 0, inode: cookie as u32, backlog: 0 };
        model.listeners.entry(service).or_default().push(listener);
        self.report(&model, service, EventKind::Listening);
        cookie
    }

    /// All listeners of the service are closed.
    pub fn unlisten(&self, service: Service) {
        let mut model = self.model();
        if model.listeners.remove(&service).is_some() {
            self.report(&model, service, EventKind::Unlistened);
        }
    }

    /// A client connects; the accepted socket's cookie.
    ///
    /// # Errors
    /// Nothing listens, or the gate refused it.
    pub fn connect(&self, service: Service) -> Result<u64, Refused> {
        let handshake = self.syn(service)?;
        Ok(self.establish(handshake).expect("the handshake was begun just now"))
    }

    /// A client begins a handshake; the request socket's cookie.
    ///
    /// # Errors
    /// Nothing listens, or the gate refused it.
    pub fn syn(&self, service: Service) -> Result<u64, Refused> {
        let mut model = self.model();
        if model.gate_is_closed(service) {
            if let Some(gate) = model.gates.get_mut(&service) {
                gate.rejected += 1;
            }
            return Err(Refused);
        }
        if model.listeners.get(&service).is_none_or(Vec::is_empty) {
            return Err(Refused);
        }
        Ok(model.add_socket(service, TcpState::SynRecv))
    }

    /// The handshake is finished: the flow's cookie; `None` if the handshake is gone.
    pub fn establish(&self, handshake: u64) -> Option<u64> {
        let mut model = self.model();
        let (service, _) = model.sockets.remove(&handshake)?;
        Some(self.accept(&mut model, service))
    }

    /// A connection that another sk_lookup program let through a closed gate.
    pub fn intrude(&self, service: Service) -> u64 {
        self.accept(&mut self.model(), service)
    }

    fn accept(&self, model: &mut Model, service: Service) -> u64 {
        let cookie = model.add_socket(service, TcpState::Established);
        let (now, full, blind) = (model.now, model.tracker_full, model.tracker_blind);
        if blind {
            return cookie;
        }
        let tracker = model.tracker.entry(service).or_default();
        tracker.accepted += 1;
        tracker.last_new = Some(now);
        tracker.last_peer = Some(Ipv4Addr::new(192, 0, 2, 1).into());
        if full {
            tracker.lost += 1;
            model.faults.flows_full += 1;
        } else {
            tracker.flows.insert(cookie, (false, now));
        }
        self.report(model, service, EventKind::Accepted);
        cookie
    }

    /// A connection moves to another TCP state.
    pub fn set_state(&self, cookie: u64, state: TcpState, held: bool) {
        let mut model = self.model();
        let Some((service, socket)) = model.sockets.get_mut(&cookie) else { return };
        (socket.state, socket.held) = (state, held);
        let service = *service;
        if let Some(flow) = model.tracker.get_mut(&service).and_then(|t| t.flows.get_mut(&cookie)) {
            flow.0 = state == TcpState::FinWait2;
        }
    }

    /// A connection or handshake is over.
    pub fn close(&self, cookie: u64) {
        let mut model = self.model();
        let Some((service, _)) = model.sockets.remove(&cookie) else { return };
        let Some(tracker) = model.tracker.get_mut(&service) else { return };
        if tracker.flows.remove(&cookie).is_some() {
            let counts = tracker.counts();
            if counts.flows + counts.lingering == 0 {
                self.report(&model, service, EventKind::Empty);
            }
        }
    }

    fn report(&self, model: &Model, service: Service, kind: EventKind) {
        let watch = model.watches.get(&service).copied().unwrap_or_default();
        let watched = match kind {
            EventKind::Empty | EventKind::Accepted => watch.flows,
            EventKind::Listening | EventKind::Unlistened => watch.listeners,
        };
        if watched && !model.events_lost {
            // Nobody may be listening to events in a test.
            let _ = self.events.send(Event { service, kind, at: model.now });
        }
    }

    /// Calls number `from` (counted from 1, from now on) to `from + times - 1` of `op` fail.
    pub fn fail(&self, op: Op, from: u64, times: u64) {
        let mut model = self.model();
        let so_far = model.calls.get(&op).copied().unwrap_or(0);
        model.failing.insert(op, (so_far + from, times));
    }

    /// From now on, `op` works again.
    pub fn mend(&self, op: Op) {
        self.model().failing.remove(&op);
    }

    /// Runs `hook` at the beginning of the next call of `op` that has no hook yet.
    pub fn hook(&self, op: Op, hook: impl FnOnce(&Self) + Send + 'static) {
        self.model().hooks.entry(op).or_default().push(Box::new(hook));
    }

    /// How often `op` was called.
    pub fn calls(&self, op: Op) -> u64 {
        self.model().calls.get(&op).copied().unwrap_or(0)
    }

    /// From now on, connections find the tracker's map full.
    pub fn set_tracker_full(&self, full: bool) {
        self.model().tracker_full = full;
    }

    /// From now on, connections escape the tracker without a trace (another program took its callback).
    pub fn set_tracker_blind(&self, blind: bool) {
        self.model().tracker_blind = blind;
    }

    /// From now on, no event arrives.
    pub fn set_events_lost(&self, lost: bool) {
        self.model().events_lost = lost;
    }

    /// A new service would find the map of services full.
    pub fn set_services_full(&self) {
        self.model().faults.services_full += 1;
    }

    /// Makes the tracker's counter wrong.
    pub fn corrupt(&self, service: Service, by: i64) {
        self.model().tracker.entry(service).or_default().drift += by;
    }

    /// Whether new connections are refused now.
    pub fn gate_is_closed(&self, service: Service) -> bool {
        self.model().gate_is_closed(service)
    }

    /// What is really there (FIN_WAIT2 is left out: it depends on time).
    pub fn truth(&self, service: Service) -> Counts {
        let model = self.model();
        let look = model.look(service.netns, Some(service.port));
        Counts::of(&look, 0)
    }

    /// Cookies of all connections and handshakes.
    pub fn sockets(&self, service: Service) -> Vec<(u64, TcpState)> {
        let model = self.model();
        let ours = model.sockets.iter().filter(|(_, (of, _))| *of == service);
        ours.map(|(cookie, (_, socket))| (*cookie, socket.state)).collect()
    }

    /// Every operation begins with this: hooks first, then the failure asked for.
    fn enter(&self, op: Op) -> Result<MutexGuard<'_, Model>, KernelError> {
        let hook = {
            let mut model = self.model();
            *model.calls.entry(op).or_default() += 1;
            model.hooks.get_mut(&op).filter(|hooks| !hooks.is_empty()).map(|hooks| hooks.remove(0))
        };
        if let Some(hook) = hook {
            hook(self);
        }
        let model = self.model();
        let call = model.calls.get(&op).copied().unwrap_or(0);
        if model
            .failing
            .get(&op)
            .is_some_and(|(from, times)| call >= *from && call - *from < *times)
        {
            return Err(KernelError::op("fail", format!("{op:?}, call {call}"), "as asked for"));
        }
        Ok(model)
    }
}

impl Model {
    fn cookie(&mut self) -> u64 {
        self.last_cookie += 1;
        self.last_cookie
    }

    fn gate_is_closed(&self, service: Service) -> bool {
        self.gates.get(&service).is_some_and(|gate| self.now < gate.lease_until)
    }

    fn add_socket(&mut self, service: Service, state: TcpState) -> u64 {
        let cookie = self.cookie();
        let socket = Socket {
            cookie,
            state,
            local: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), service.port),
            peer: SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), 40000),
            held: state != TcpState::SynRecv,
            unread: 0,
            unacked: 0,
            info: None,
        };
        self.sockets.insert(cookie, (service, socket));
        cookie
    }

    fn netns_exists(&self, netns: u32) -> Result<(), KernelError> {
        if self.netns.contains_key(&netns) { Ok(()) } else { Err(KernelError::NoNetns(netns)) }
    }

    fn look(&self, netns: u32, port: Option<u16>) -> Look {
        let wanted = |of: &Service| of.netns == netns && port.is_none_or(|port| of.port == port);
        let listeners = self.listeners.iter().filter(|(of, _)| wanted(of));
        let sockets = self.sockets.values().filter(|(of, _)| wanted(of));
        Look {
            listeners: listeners.flat_map(|(_, listeners)| listeners.clone()).collect(),
            sockets: sockets.map(|(_, socket)| socket.clone()).collect(),
        }
    }

    fn reconcile(&mut self, service: Service, look: &Look) -> Reconciled {
        let now = self.now;
        let tracker = self.tracker.entry(service).or_default();
        let mut done = Reconciled { corrected: -tracker.drift, ..Reconciled::default() };
        tracker.drift = 0;
        let before = tracker.flows.len();
        tracker.flows.retain(|cookie, _| self.sockets.contains_key(cookie));
        done.removed = (before - tracker.flows.len()) as u64;
        for seen in look.sockets.iter().filter(|socket| socket.state != TcpState::SynRecv) {
            let Some((_, socket)) = self.sockets.get(&seen.cookie) else { continue };
            let lingering = socket.state == TcpState::FinWait2;
            if tracker.flows.insert(seen.cookie, (lingering, now)).is_none() {
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
        let model = self.enter(Op::Look)?;
        model.netns_exists(netns)?;
        Ok(model.look(netns, port))
    }

    fn tracked(&self, service: Service) -> Result<Tracked, KernelError> {
        let model = self.enter(Op::Tracked)?;
        Ok(model.tracker.get(&service).map(Tracker::counts).unwrap_or_default())
    }

    fn established_at(&self, cookies: &[u64]) -> Result<Vec<Option<Boot>>, KernelError> {
        let model = self.enter(Op::EstablishedAt)?;
        let at = |cookie| model.tracker.values().find_map(|tracker| tracker.flows.get(cookie));
        Ok(cookies.iter().map(|cookie| at(cookie).map(|(_, at)| *at)).collect())
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
        model.gates.insert(service, Gate { lease_until, rejected: 0 });
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

    fn faults(&self) -> Result<Faults, KernelError> {
        Ok(self.enter(Op::Faults)?.faults)
    }
}

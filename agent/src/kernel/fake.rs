//! A kernel for tests: a small model of namespaces, sockets, the tracker and the gate, which can fail at
//! any operation on demand, and lets a test do something in the middle of one. What it claims about the
//! real kernel is proven against it by the integration tests.

mod failing;
mod gates;
mod model;
mod operations;
mod retiring;
mod steering;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

pub(crate) use self::failing::Op;
use self::model::Model;
use super::{Class, Event, EventKind, Listener, TcpState};
use crate::drain::{Boot, Counts, Service};

/// See the module.
pub(crate) struct FakeKernel {
    model: Mutex<Model>,
    events: Mutex<mpsc::UnboundedSender<Event>>,
    /// With tokio's (virtual) clock; without it, time moves by [`FakeKernel::advance`] only.
    tokio_start: Option<Instant>,
}

/// Where clients come from unless a test says otherwise.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Of a namespace that has no cookie.
const NO_COOKIE: u64 = 0;

/// Why a connection attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// What tests do.
impl FakeKernel {
    /// A kernel whose time is tokio's.
    pub(crate) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Event>) {
        Self::with_clock(Some(Instant::now()))
    }

    /// A kernel whose time moves by [`FakeKernel::advance`] only.
    pub(crate) fn with_manual_clock() -> (Arc<Self>, mpsc::UnboundedReceiver<Event>) {
        Self::with_clock(None)
    }

    fn with_clock(tokio_start: Option<Instant>) -> (Arc<Self>, mpsc::UnboundedReceiver<Event>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let model = Model { now: Boot::from_nanos(1_000_000_000_000), ..Model::default() };
        let events = Mutex::new(events);
        (Arc::new(Self { model: Mutex::new(model), events, tokio_start }), receiver)
    }

    /// Events for another agent from now on. The listeners of the one before are gone with it.
    pub(crate) fn reopen(&self) -> mpsc::UnboundedReceiver<Event> {
        let (events, receiver) = mpsc::unbounded_channel();
        *self.events.lock().expect("nobody panics with it") = events;
        self.model().close_own_listeners();
        receiver
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        let mut model = self.model.lock().expect("no test panics while it holds the model");
        if let Some(start) = self.tokio_start {
            model.now = Boot::from_nanos(1_000_000_000_000) + start.elapsed();
        }
        model
    }

    /// Moves a manual clock.
    pub(crate) fn advance(&self, by: Duration) {
        let mut model = self.model();
        model.now = model.now + by;
    }

    /// Makes a network namespace (again: with another cookie).
    pub(crate) fn add_netns(&self, netns: u32) {
        let mut model = self.model();
        let cookie = model.cookie();
        model.netns.insert(netns, cookie);
    }

    /// From now on it has no cookie, as with kernels that know none.
    pub(crate) fn take_cookie(&self, netns: u32) {
        self.model().netns.insert(netns, NO_COOKIE);
    }

    /// The namespace dies, and everything in it.
    pub(crate) fn kill_netns(&self, netns: u32) {
        let mut model = self.model();
        model.netns.remove(&netns);
        model.listeners.retain(|service, _| service.netns != netns);
        model.sockets.retain(|_, (service, _)| service.netns != netns);
        model.tracker.retain(|service, _| service.netns != netns);
        model.watches.retain(|service, _| service.netns != netns);
        model.gates.retain(|service, _| service.netns != netns);
        model.steering.retain(|service, _| service.netns != netns);
        model.guards.retain(|service, _| service.netns != netns);
    }

    /// A server starts to listen; the socket's cookie.
    pub(crate) fn listen(&self, service: Service) -> u64 {
        let mut model = self.model();
        let cookie = model.cookie();
        let local = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), service.port);
        let listener = Listener { cookie, local, uid: 0, inode: cookie as u32, backlog: 0 };
        model.listeners.entry(service).or_default().push(listener);
        self.report(&model, service, EventKind::Listening);
        cookie
    }

    /// All listeners of the service are closed.
    pub(crate) fn unlisten(&self, service: Service) {
        let mut model = self.model();
        if model.listeners.remove(&service).is_some() {
            self.report(&model, service, EventKind::Unlistened);
        }
    }

    /// A client connects; the accepted socket's cookie.
    ///
    /// # Errors
    /// Nothing listens, or the gate refused it.
    pub(crate) fn connect(&self, service: Service) -> Result<u64, Refused> {
        self.connect_from(service, CLIENT)
    }

    /// The same from this address.
    pub(crate) fn connect_from(&self, service: Service, client: IpAddr) -> Result<u64, Refused> {
        let handshake = self.syn_from(service, client)?;
        Ok(self.establish(handshake).expect("the handshake was begun just now"))
    }

    /// A client begins a handshake; the request socket's cookie.
    ///
    /// # Errors
    /// Nothing listens, or the gate refused it.
    pub(crate) fn syn(&self, service: Service) -> Result<u64, Refused> {
        self.syn_from(service, CLIENT)
    }

    fn syn_from(&self, service: Service, client: IpAddr) -> Result<u64, Refused> {
        let mut model = self.model();
        if !model.admits(service, client) {
            let refused = model.is_refused(service, client);
            if model.steers(service) && !refused {
                return Ok(model.add_steered(service, TcpState::SynRecv, client));
            }
            return Err(Refused);
        }
        if model.listeners.get(&service).is_none_or(Vec::is_empty) {
            return Err(Refused);
        }
        Ok(model.add_socket(service, TcpState::SynRecv, client))
    }

    /// The handshake is finished: the flow's cookie; `None` if the handshake is gone.
    pub(crate) fn establish(&self, handshake: u64) -> Option<u64> {
        let mut model = self.model();
        let (service, socket) = model.sockets.remove(&handshake)?;
        if socket.class == Class::Steered {
            return Some(model.add_steered(service, TcpState::Established, socket.peer.ip()));
        }
        Some(self.accept(&mut model, service, socket.peer.ip()))
    }

    /// A connection that another sk_lookup program let through a closed gate.
    pub(crate) fn intrude(&self, service: Service) -> u64 {
        self.accept(&mut self.model(), service, CLIENT)
    }

    fn accept(&self, model: &mut Model, service: Service, client: IpAddr) -> u64 {
        let cookie = model.add_socket(service, TcpState::Established, client);
        if model.is_ignored(service, client) {
            return cookie;
        }
        model.follow(service, cookie);
        let (now, full, blind) = (model.now, model.tracker_full, model.tracker_blind);
        model.clients.insert((service, client), now);
        if blind {
            return cookie;
        }
        let tracker = model.tracker.entry(service).or_default();
        tracker.accepted += 1;
        tracker.last_new = Some(now);
        tracker.last_peer = Some(client);
        if full {
            tracker.lost += 1;
            model.faults.flows_full += 1;
        } else {
            tracker.flows.insert(cookie, now);
        }
        self.report(model, service, EventKind::Accepted);
        cookie
    }

    /// A connection moves to another TCP state.
    pub(crate) fn set_state(&self, cookie: u64, state: TcpState, held: bool) {
        self.move_to(&mut self.model(), cookie, state, held);
    }

    fn move_to(&self, model: &mut Model, cookie: u64, state: TcpState, held: bool) {
        let Some((service, socket)) = model.sockets.get_mut(&cookie) else { return };
        (socket.state, socket.inode) = (state, if held { cookie as u32 } else { 0 });
        let service = *service;
        if !state.is_flow() {
            self.uncount(model, service, cookie);
        }
    }

    /// A connection or handshake is over.
    pub(crate) fn close(&self, cookie: u64) {
        self.remove(&mut self.model(), cookie);
    }

    fn remove(&self, model: &mut Model, cookie: u64) {
        let Some((service, socket)) = model.sockets.remove(&cookie) else { return };
        let now = model.now;
        model.clients.insert((service, socket.peer.ip()), now);
        self.uncount(model, service, cookie);
        let was_steered = socket.class == Class::Steered && socket.state.is_flow();
        if was_steered && model.count_steered(service) == 0 {
            self.report(model, service, EventKind::Unsteered);
        }
    }

    /// The tracker sees that a flow is none any more.
    fn uncount(&self, model: &mut Model, service: Service, cookie: u64) {
        let Some(tracker) = model.tracker.get_mut(&service) else { return };
        if tracker.flows.remove(&cookie).is_some() && tracker.counts().flows <= 0 {
            self.report(model, service, EventKind::Empty);
        }
    }

    fn report(&self, model: &Model, service: Service, kind: EventKind) {
        let watch = model.watches.get(&service).copied().unwrap_or_default();
        let watched = match kind {
            EventKind::Empty | EventKind::Accepted => watch.flows,
            EventKind::Listening | EventKind::Unlistened => watch.listeners,
            EventKind::Unsteered => true,
            EventKind::Lost => watch.listeners || watch.flows,
        };
        if watched && !model.events_lost {
            // Nobody may be listening to events in a test.
            let events = self.events.lock().expect("nobody panics with it");
            let _ = events.send(Event { service, kind, at: model.now });
        }
    }

    /// From now on, connections find the tracker's map full.
    pub(crate) fn set_tracker_full(&self, full: bool) {
        self.model().tracker_full = full;
    }

    /// From now on, connections escape the tracker without a trace (another program took its callback).
    pub(crate) fn set_tracker_blind(&self, blind: bool) {
        self.model().tracker_blind = blind;
    }

    /// From now on, no event arrives.
    pub(crate) fn set_events_lost(&self, lost: bool) {
        self.model().events_lost = lost;
    }

    /// The next `looks` looks miss a flow, as a dump may if a socket moves while it goes through the tables.
    pub(crate) fn set_look_misses(&self, looks: u32) {
        self.model().look_misses = looks;
    }

    /// A new service would find the map of services full.
    pub(crate) fn set_services_full(&self) {
        self.model().faults.services_full += 1;
    }

    /// From now on, so many connections of the namespace lead there.
    pub(crate) fn set_outbound(&self, netns: u32, to: SocketAddr, connections: u64) {
        self.model().outbound.insert((netns, to), connections);
    }

    /// Makes the tracker's counter wrong.
    pub(crate) fn corrupt(&self, service: Service, by: i64) {
        self.model().tracker.entry(service).or_default().drift += by;
    }

    /// Clients are not remembered.
    pub(crate) fn set_forgetful(&self) {
        self.model().forgetful = true;
    }

    /// Whether another agent would find a drain of this service.
    pub(crate) fn is_saved(&self, service: Service) -> bool {
        self.model().drains.contains_key(&service)
    }

    /// Changes what another agent would find.
    pub(crate) fn spoil(&self, service: Service, change: impl FnOnce(&mut Vec<u8>)) {
        change(self.model().drains.entry(service).or_default());
    }

    /// What is really there (FIN_WAIT2 is left out: it depends on time).
    pub(crate) fn truth(&self, service: Service) -> Counts {
        let model = self.model();
        let look = model.look(service.netns, Some(service.port));
        Counts::of(&look, 0)
    }

    /// Cookies of all connections and handshakes.
    pub(crate) fn sockets(&self, service: Service) -> Vec<(u64, TcpState)> {
        let model = self.model();
        let ours = model.sockets.iter().filter(|(_, (of, _))| *of == service);
        ours.map(|(cookie, (_, socket))| (*cookie, socket.state)).collect()
    }

    /// Whether a drain waits for this connection.
    pub(crate) fn is_counted(&self, cookie: u64) -> bool {
        let model = self.model();
        let socket = model.sockets.get(&cookie);
        socket.is_some_and(|(of, socket)| {
            socket.class == Class::Counted && !model.is_ignored(*of, socket.peer.ip())
        })
    }
}

//! A node with no kernel and no executor behind the HTTP interface, and a client to ask it.

mod kernel;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::broadcast;

pub(super) use self::kernel::FakeKernel;
use super::{
    App, Drains,
    auth::{Caller, INITIAL_PIDNS, INITIAL_USERNS},
    peer::{Identify, Unidentified},
    protocol::StateName,
};
use crate::{
    carry::CarryCounts,
    drain::{
        Boot, Ending, Exempt, Hold, HoldName, Leaving, RetireReport, Service, Spec, SpecRequest,
    },
    executor::{DrainError, DrainView, HoldRequest, Owner, Stand, Status, Totals, Update},
    kernel::{Admitted, Class, Protocol, Socket, Steered, TcpState},
    pods::Pods,
    registries::RegistryCounts,
};

pub(super) const HOST: u32 = 4_026_531_840;
pub(super) const POD: u32 = 4_026_532_100;
pub(super) const OTHER_POD: u32 = 4_026_532_200;
/// Listened on in [`POD`] by uid 1000.
pub(super) const WEB: Service = Service { netns: POD, port: 8080 };
/// Listened on in [`POD`] by root.
pub(super) const ROOTS: Service = Service { netns: POD, port: 22 };
/// Listened on in [`OTHER_POD`] by uid 1000.
pub(super) const FOREIGN: Service = Service { netns: OTHER_POD, port: 8080 };

pub(super) const NOW: Boot = Boot::from_nanos(1_000_000_000_000);

/// Uid 1000 in [`POD`], without capabilities.
pub(super) fn app_user() -> Caller {
    Caller {
        pid: 4242,
        uid: 1000,
        netns: POD,
        userns: INITIAL_USERNS,
        pidns: 1,
        net_admin: false,
        netns_owners: vec![INITIAL_USERNS],
        cgroup: None,
    }
}

pub(super) fn node_admin() -> Caller {
    Caller { uid: 0, netns: HOST, pidns: INITIAL_PIDNS, ..app_user() }
}

/// A caller who is always the same.
pub(super) struct Known(pub(super) Caller);

impl Identify for Known {
    fn caller(&self) -> Result<Caller, Unidentified> {
        Ok(self.0.clone())
    }

    fn seat(&self) -> (u32, u32) {
        (self.0.uid, self.0.netns)
    }
}

/// A caller who cannot be told.
pub(super) struct Invisible;

impl Identify for Invisible {
    fn caller(&self) -> Result<Caller, Unidentified> {
        Err(Unidentified::Invisible)
    }

    fn seat(&self) -> (u32, u32) {
        (0, 0)
    }
}

/// What the fake executor was asked to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Drain(Vec<Service>),
    Undrain(Service),
    Renew(Service),
    Hold(Service, HoldName, Duration),
    Release(Service, HoldName),
}

/// An executor that does as the test says. Clones are the same one.
#[derive(Clone)]
pub(super) struct FakeDrains {
    services: Arc<Mutex<BTreeMap<Service, Status>>>,
    leaving: Arc<Mutex<HashMap<u64, Leaving>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    updates: broadcast::Sender<Update>,
    looks_take: Arc<Mutex<Duration>>,
}

/// A connection from port `cookie` of 10.0.0.2 that the server has accepted.
pub(super) fn connection(cookie: u16) -> Socket {
    Socket {
        cookie: cookie.into(),
        state: TcpState::Established,
        class: Class::Counted,
        local: ([10, 0, 0, 1], WEB.port).into(),
        peer: ([10, 0, 0, 2], cookie).into(),
        inode: 7,
        unread: 0,
        unacked: 0,
        interface: 0,
        info: None,
    }
}

/// A connection to which nothing has happened yet.
pub(super) fn leaving(protocol: Protocol) -> Leaving {
    Leaving { protocol, told: None, fin_sent: false, fin_raced: false, idle: false, barrier: None }
}

/// A service with one listener that serves.
pub(super) fn serving(service: Service) -> Status {
    Status {
        service,
        state: StateName::Serving,
        flows: 0,
        handshakes: 0,
        lingering: 0,
        exempt: Exempt::default(),
        rejected: 0,
        admitted: Admitted::default(),
        steered: Steered::default(),
        accepted: 0,
        last_new: None,
        listeners: 1,
        unknown: None,
        holds: Vec::new(),
        registries: Vec::new(),
        ended: None,
        drain: None,
    }
}

/// Draining, with a lease of nine seconds, started by [`app_user`].
pub(super) fn draining(service: Service, state: StateName, flows: u64) -> Status {
    let seconds = Duration::from_secs;
    let spec = Spec::try_from(SpecRequest::default()).expect("the defaults fit");
    let drain = DrainView {
        started: NOW,
        history: vec![(state, NOW)],
        deadline: NOW + seconds(5),
        lease_until: NOW + seconds(9),
        keep_closed: false,
        new: spec.new_connections().clone(),
        min_settle: spec.min_settle(),
        settled_by: None,
        admission: spec.admission().clone(),
        retire: *spec.retire(),
        report: RetireReport::default(),
        wait_outbound: Vec::new(),
        owner: Owner { uid: 1000, netns: POD },
    };
    Status { state, flows, drain: Some(drain), ..serving(service) }
}

impl FakeDrains {
    pub(super) fn new() -> Self {
        let services = [WEB, ROOTS, FOREIGN].map(|service| (service, serving(service)));
        Self {
            services: Arc::new(Mutex::new(services.into())),
            leaving: Arc::default(),
            asked: Arc::default(),
            updates: broadcast::Sender::new(4),
            looks_take: Arc::default(),
        }
    }

    /// Makes this the service's status, and says so.
    pub(super) fn set(&self, status: Status) {
        let service = status.service;
        self.set_unsaid(status);
        self.say(service, None);
    }

    pub(super) fn set_unsaid(&self, status: Status) {
        self.services.lock().unwrap().insert(status.service, status);
    }

    /// Makes this the way on which the connection with this socket cookie is.
    pub(super) fn set_leaving(&self, cookie: u64, leaving: Leaving) {
        self.leaving.lock().unwrap().insert(cookie, leaving);
    }

    pub(super) fn say(&self, service: Service, ended: Option<&str>) {
        let ending = |reason: &str| Ending { reason: reason.into(), at_deadline: false };
        let _ = self.updates.send(Update { service, ended: ended.map(ending), status: None });
    }

    /// Says how the service was just seen.
    pub(super) fn say_with(&self, status: Status) {
        let update =
            Update { service: status.service, ended: None, status: Some(Arc::new(status)) };
        let _ = self.updates.send(update);
    }

    /// Makes each look of the executor so slow.
    pub(super) fn looks_take(&self, time: Duration) {
        *self.looks_take.lock().unwrap() = time;
    }

    /// How many streams follow the updates.
    pub(super) fn followers(&self) -> usize {
        self.updates.receiver_count()
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(super) fn app(&self) -> Arc<App<Self>> {
        self.app_with(FakeKernel { sockets: Vec::new(), blind: false })
    }

    pub(super) fn app_with(&self, kernel: FakeKernel) -> Arc<App<Self>> {
        Arc::new(App::new(self.clone(), Arc::new(kernel), Pods::nowhere(HOST)))
    }

    fn ask(&self, asked: Asked) {
        self.asked.lock().unwrap().push(asked);
    }

    fn get(&self, service: Service) -> Status {
        let nothing = Status { listeners: 0, ..serving(service) };
        self.services.lock().unwrap().get(&service).cloned().unwrap_or(nothing)
    }
}

impl Drains for FakeDrains {
    async fn drain(&self, of: Vec<Service>, spec: Spec, _: Owner) -> Result<bool, DrainError> {
        self.ask(Asked::Drain(of.clone()));
        for service in of {
            if self.get(service).drain.is_some() {
                let difference = "timeout 25s, not 30s".into();
                return Err(DrainError::Conflict { service, difference });
            }
            if self.get(service).listeners == 0 {
                return Err(DrainError::NoSuchService(service));
            }
            let mut status = draining(service, StateName::Settling, 2);
            status.drain.iter_mut().for_each(|drain| drain.retire = *spec.retire());
            self.set(status);
        }
        Ok(false)
    }
    async fn undrain(&self, service: Service) -> Result<bool, DrainError> {
        self.ask(Asked::Undrain(service));
        let was_draining = self.get(service).drain.is_some();
        if was_draining {
            self.set(serving(service));
        }
        Ok(was_draining)
    }
    async fn status(&self, services: Vec<Service>) -> Result<Vec<Status>, DrainError> {
        let time = *self.looks_take.lock().unwrap();
        tokio::time::sleep(time).await;
        Ok(services.into_iter().map(|service| self.get(service)).collect())
    }
    async fn stand(&self, service: Service) -> Result<Option<Stand>, DrainError> {
        let Status { state, drain, .. } = self.get(service);
        Ok(drain.map(|drain| (state, drain)))
    }
    async fn prove(&self, service: Service) -> Result<Status, DrainError> {
        Ok(self.get(service))
    }
    async fn leaving(&self, service: Service) -> Result<HashMap<u64, Leaving>, DrainError> {
        let drains = self.get(service).drain.is_some();
        Ok(if drains { self.leaving.lock().unwrap().clone() } else { HashMap::new() })
    }
    async fn hold(&self, request: HoldRequest) -> Result<bool, DrainError> {
        let HoldRequest { service, name, ttl, owner, .. } = request;
        self.ask(Asked::Hold(service, name.clone(), ttl));
        let mut status = self.get(service);
        if status.state == StateName::Drained {
            return Err(DrainError::HoldTooLate(service));
        }
        let renewed = status.holds.iter().any(|(known, _)| *known == name);
        status.holds.push((name, Hold { since: NOW, until: NOW + ttl, owner }));
        self.set(status);
        Ok(renewed)
    }
    async fn release(&self, service: Service, name: HoldName) -> Result<bool, DrainError> {
        self.ask(Asked::Release(service, name.clone()));
        let mut status = self.get(service);
        let before = status.holds.len();
        status.holds.retain(|(known, _)| *known != name);
        let released = status.holds.len() < before;
        self.set(status);
        Ok(released)
    }
    async fn held(&self) -> Result<Vec<Service>, DrainError> {
        let services = self.services.lock().unwrap();
        Ok(services.values().filter(|each| !each.holds.is_empty()).map(|e| e.service).collect())
    }
    async fn draining(&self) -> Result<Vec<Service>, DrainError> {
        let services = self.services.lock().unwrap();
        Ok(services.values().filter(|each| each.drain.is_some()).map(|each| each.service).collect())
    }
    async fn renew(&self, service: Service) {
        self.ask(Asked::Renew(service));
    }
    fn subscribe(&self) -> broadcast::Receiver<Update> {
        self.updates.subscribe()
    }
    fn totals(&self) -> Totals {
        Totals { drains: 7, ..Totals::default() }
    }

    fn registries(&self) -> RegistryCounts {
        RegistryCounts { back_failed: 3, ..RegistryCounts::default() }
    }

    fn carried(&self) -> CarryCounts {
        CarryCounts { now: 2, total: 5, ..CarryCounts::default() }
    }
}

//! How a request for a drain is accepted: all of its services are checked first, and only then does any of
//! them begin; with `quiet` 0 all of their gates close, or none stays closed.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::oneshot;

use super::{
    DrainError, Owner,
    entry::Entry,
    explain,
    ops::Op,
    record::has_room,
    straggling,
    task::{Internal, Task},
};
use crate::{
    drain::{Event, Lingerers, Phase, Service, Spec, listeners},
    kernel::{Kernel, KernelError, TcpState},
};

/// Most drains at once in one network namespace, and most prefixes in the lists of these. All drains of the node share
/// maps of the kernel: as many pods as a node usually has, 110, leave room for the node itself.
const MOST_DRAINS: usize = 128;
const MOST_PREFIXES: usize = 512;
/// In the host's namespace it may be so many times as many.
const HOST: usize = 8;

/// A request for a drain.
pub(super) struct Request {
    services: Vec<Service>,
    spec: Spec,
    owner: Owner,
    reply: oneshot::Sender<Result<bool, DrainError>>,
}

impl Request {
    pub(super) fn new(
        services: Vec<Service>,
        spec: Spec,
        owner: Owner,
        reply: oneshot::Sender<Result<bool, DrainError>>,
    ) -> Self {
        let mut seen = BTreeSet::new();
        let services = services.into_iter().filter(|service| seen.insert(*service)).collect();
        Self { services, spec, owner, reply }
    }
}

/// A request whose services were checked against the kernel.
pub(super) struct Checked {
    request: Request,
    checks: Result<Vec<Check>, DrainError>,
}

/// What is there before a drain begins.
struct Check {
    service: Service,
    netns_cookie: Option<u64>,
    /// Whether it has a listener, a connection or a handshake.
    exists: bool,
    /// `None`: the look was saved, and the first verification tells.
    listeners: Option<BTreeSet<u64>>,
    lingerers: Lingerers,
}

/// A request whose gates are on their way to be closed, or on their way back.
pub(super) struct Waiting {
    pub(super) services: Vec<Service>,
    pub(super) started: Vec<Service>,
    joined: bool,
    pub(super) failure: Option<DrainError>,
    /// Whether the gates are to be closed when it is answered.
    at_once: bool,
    reply: oneshot::Sender<Result<bool, DrainError>>,
}

impl Task {
    /// Checks the services on a blocking thread.
    pub(super) fn drain(&mut self, request: Request) {
        let (kernel, done) = (Arc::clone(&self.kernel), self.done.clone());
        let at_once = request.spec.at_once();
        let work = move || {
            let check = |service: &Service| check(&*kernel, *service, &request.spec, request.owner);
            let checks = request.services.iter().map(check).collect();
            // Nobody is there to take it once the agent has stopped.
            let _ = done.send(Internal::Checked(Checked { request, checks }));
        };
        if at_once { self.threads.spawn(work) } else { self.threads.spawn_looking(work) }
    }

    /// Begins the drain, or says why not.
    pub(super) fn checked(&mut self, checked: Checked) {
        let Checked { request, checks } = checked;
        let checks = match checks {
            Ok(checks) => checks,
            Err(error) => return request.refuse(error),
        };
        for check in &checks {
            self.bring_up_to_date(check);
        }
        if checks.iter().any(|check| self.phase(check.service) == Phase::Opening) {
            return self.park(request);
        }
        match self.objection(&request, &checks) {
            Some(error) => request.refuse(error),
            None => self.begin(request, checks),
        }
    }

    /// Ends a drain whose lease is over or whose namespace is another one now, before anybody joins it.
    fn bring_up_to_date(&mut self, check: &Check) {
        let now = self.now();
        self.forget_holds_of_another(check.service, check.netns_cookie);
        let Some(entry) = self.entries.get(&check.service).filter(|entry| entry.is_draining())
        else {
            return;
        };
        if entry.netns_cookie != check.netns_cookie {
            self.step(check.service, Event::NetnsGone);
        } else if entry.machine.lease_is_over(now) {
            self.step(check.service, Event::Timer);
        }
    }

    /// Lets a request wait for a gate that is being opened; if that fails, the request does too.
    fn park(&mut self, request: Request) {
        let failed = request.services.iter().find_map(|service| {
            let entry = self.entries.get(service)?;
            entry.open_failed.clone().map(|reason| (*service, reason))
        });
        match failed {
            Some((service, reason)) => {
                let error = KernelError::op("open the gate of", service, reason);
                request.refuse(error.into());
            }
            None => self.parked.push(request),
        }
    }

    /// Takes up again the requests whose services have moved on.
    pub(super) fn resume_parked(&mut self) {
        let opening = |service: &Service| {
            self.entries.get(service).is_some_and(|entry| {
                entry.machine.phase() == Phase::Opening && entry.open_failed.is_none()
            })
        };
        let (parked, ready): (Vec<_>, Vec<_>) = std::mem::take(&mut self.parked)
            .into_iter()
            .partition(|request| request.services.iter().any(opening));
        self.parked = parked;
        for request in ready {
            self.drain(request);
        }
    }

    fn objection(&self, request: &Request, checks: &[Check]) -> Option<DrainError> {
        if request.spec.admission().keep_clients().is_some() && !self.kernel.remembers_clients() {
            return Some(DrainError::NoClientHistory);
        }
        let listeners = |check: &Check| check.listeners.as_ref().map_or(0, BTreeSet::len);
        let announces = checks.iter().any(|check| self.registries.may_concern(check.service));
        let most = checks.iter().map(listeners).max().unwrap_or_default();
        if !has_room(&request.spec, most, announces) {
            return Some(DrainError::NoRoom);
        }
        let now = self.now();
        let missing = |check: &&Check| {
            let is_known = self.is_draining(check.service) || self.held.is_held(check.service, now);
            !check.exists && !is_known
        };
        if let Some(check) = checks.iter().find(missing) {
            return Some(DrainError::NoSuchService(check.service));
        }
        self.contradiction(request).or_else(|| self.too_many(request))
    }

    fn contradiction(&self, request: &Request) -> Option<DrainError> {
        request.services.iter().find_map(|service| {
            let entry = self.entries.get(service).filter(|entry| entry.is_draining())?;
            let closed = entry.machine.settled_by().is_some();
            let difference = entry.machine.spec().contradiction(&request.spec, closed)?;
            Some(DrainError::Conflict { service: *service, difference })
        })
    }

    /// Whether there is no room for the drains that this request would begin. All of its services are in one namespace.
    fn too_many(&self, request: &Request) -> Option<DrainError> {
        let netns = request.services.first()?.netns;
        let new = request.services.iter().filter(|service| !self.is_draining(**service)).count();
        let there = self.entries.values().filter(|each| each.service.netns == netns);
        let there: Vec<usize> = there
            .filter(|entry| entry.is_draining())
            .map(|entry| entry.machine.spec().admission().lists().count())
            .collect();
        let prefixes = new * request.spec.admission().lists().count();
        let times = if netns == self.kernel.host_netns() { HOST } else { 1 };
        let most = if new > 0 && there.len() + new > MOST_DRAINS * times {
            (MOST_DRAINS * times, "drains")
        } else if prefixes > 0 && there.iter().sum::<usize>() + prefixes > MOST_PREFIXES * times {
            (MOST_PREFIXES * times, "prefixes in lists of clients")
        } else {
            return None;
        };
        Some(DrainError::TooMany { netns, most: most.0, what: most.1 })
    }

    fn begin(&mut self, request: Request, checks: Vec<Check>) {
        let Request { services, spec, owner, reply } = request;
        let mut started = Vec::new();
        let (group, at_once) = (self.epochs + 1, spec.at_once());
        let joined = services.iter().any(|service| self.is_draining(*service));
        for check in checks {
            let service = check.service;
            if self.is_draining(service) {
                self.join(service, spec.clone());
            } else {
                self.start(check, spec.clone(), owner, group);
                started.push(service);
            }
        }
        self.count(|totals| totals.drains += started.len() as u64);
        self.waiting.push(Waiting { services, started, joined, failure: None, at_once, reply });
    }

    fn join(&mut self, service: Service, spec: Spec) {
        self.step(service, Event::Join(Box::new(spec)));
        if let Some(entry) = self.entries.get(&service) {
            let linger = entry.machine.spec().retire().linger;
            let mut lingerers = entry.lingerers.lock().unwrap_or_else(PoisonError::into_inner);
            lingerers.set_linger(linger);
        }
    }

    fn start(&mut self, check: Check, spec: Spec, owner: Owner, group: u64) {
        self.epochs += 1;
        let service = check.service;
        self.ended.remove(&service);
        let mut entry = Entry::new(service, spec, owner, self.epochs);
        entry.netns_cookie = check.netns_cookie;
        entry.listeners = check.listeners;
        entry.lingerers = Arc::new(Mutex::new(check.lingerers));
        entry.group = group;
        entry.machine = entry.machine.announcing(self.registries.may_concern(service));
        let entry = match self.entries.remove(&service) {
            Some(old) => entry.succeed(old),
            None => entry,
        };
        self.entries.insert(service, entry);
        self.hand_over(service);
        self.step(service, Event::Start);
        self.held_until(service);
    }

    /// The gate of `service` could not be closed, or its clients not be treated by their address: the requests that
    /// wait for it undo what they began.
    pub(super) fn not_begun(&mut self, service: Service, op: Op, error: &KernelError) {
        let (tried, failed) = match op {
            Op::Guard(_) => ("put the lists in force for", "the lists of clients"),
            _ => ("close the gate of", "the gate"),
        };
        let mut undo = Vec::new();
        for waiting in &mut self.waiting {
            if waiting.failure.is_none() && waiting.services.contains(&service) {
                let error = match error {
                    KernelError::NoNetns(netns) => KernelError::NoNetns(*netns),
                    KernelError::Handoff(error) => KernelError::Handoff(error.clone()),
                    other => KernelError::op(tried, service, explain(other)),
                };
                waiting.failure = Some(error.into());
                undo.extend(waiting.started.iter().copied().filter(|other| *other != service));
            }
        }
        for other in undo {
            if self.is_draining(other) {
                let reason = format!("{failed} of {service} could not be set");
                self.step(other, Event::Undrain(reason));
            }
        }
    }

    /// Answers the requests whose gates have all closed, or are all open again after a failure.
    pub(super) fn answer_waiting(&mut self) {
        let all = std::mem::take(&mut self.waiting);
        let under_way = |waiting: &Waiting| match waiting.failure {
            None => {
                let begins = |phase| match phase {
                    Phase::Guarding | Phase::Closing => true,
                    Phase::Announcing => waiting.at_once,
                    _ => false,
                };
                waiting.services.iter().any(|service| begins(self.phase(*service)))
            }
            Some(_) => waiting.started.iter().any(|service| {
                self.entries.get(service).is_some_and(|entry| {
                    entry.machine.phase() == Phase::Opening && entry.open_failed.is_none()
                })
            }),
        };
        let (waiting, ready): (Vec<_>, Vec<_>) = all.into_iter().partition(under_way);
        self.waiting = waiting;
        for Waiting { joined, failure, reply, .. } in ready {
            // Whoever asked may have gone away.
            let _ = reply.send(match failure {
                None => Ok(joined),
                Some(error) => Err(error),
            });
        }
    }
}

impl Request {
    fn refuse(self, error: DrainError) {
        // Whoever asked may have gone away.
        let _ = self.reply.send(Err(error));
    }
}

/// Whether there is anything to drain. A gate that is to close at once does not wait for a look where the
/// tracker knows already.
fn check(
    kernel: &dyn Kernel,
    service: Service,
    spec: &Spec,
    owner: Owner,
) -> Result<Check, DrainError> {
    let netns_cookie = kernel.netns_cookie(service.netns)?;
    straggling::check(kernel, service, spec.new_connections(), owner)?;
    if let Some(to) = spec.new_connections().handoff() {
        kernel.takers(service, to)?; // Or the request is refused.
    }
    let mut lingerers = Lingerers::new(spec.retire().linger);
    if spec.at_once() && kernel.tracked(service)?.flows > 0 {
        return Ok(Check { service, netns_cookie, exists: true, listeners: None, lingerers });
    }
    let look = kernel.look(service.netns, Some(service.port))?;
    lingerers.observe(&look, kernel.now());
    // Other sockets of the port may be connections that were made from it, which make no service.
    let exists = !look.listeners.is_empty()
        || look.sockets.iter().any(|socket| socket.state == TcpState::SynRecv)
        || kernel.tracked(service)?.flows > 0;
    let listeners = Some(listeners(&look));
    Ok(Check { service, netns_cookie, exists, listeners, lingerers })
}

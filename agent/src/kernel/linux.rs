//! The real kernel behind the [`Kernel`] trait.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use drainctl_common::track::Flow;
use rustix::time::{ClockId, clock_gettime};

use super::{
    Abort, Class, Faults, Finish, Followed, Kernel, KernelError, Look, Reconciled, RetireLacks,
    RetireOrder, Tracked, Watch, destroy, diag, finish,
    gate::Gates,
    netns::Namespaces,
    pins::Pins,
    records::{self, Drains},
    retire::Retiring,
    settle::Unsettled,
    sys,
    tracker::{Tracker, number, tracked},
};
use crate::drain::{Boot, Service};

/// A service without a connection for so long is forgotten too; its next connection makes it known again.
const UNUSED: Duration = Duration::from_secs(600);

/// What the kernel layer is to use.
#[derive(Clone, Debug)]
pub struct Config {
    /// Root of the cgroup v2 hierarchy; found in `/proc/mounts` if left out.
    pub cgroup: Option<PathBuf>,
    /// Most flows counted at a time, on the whole node.
    pub max_flows: u32,
    /// Most services counted at a time, on the whole node.
    pub max_services: u32,
    /// Version of the kernel programs to go by; `None`: the one they have. Only tests of upgrades say another.
    pub version: Option<u32>,
}

/// A running kernel with our programs in it, which stay there when this is dropped.
pub struct Linux {
    pub(super) namespaces: Namespaces,
    pub(super) host: u32,
    pub(super) tracker: Mutex<Tracker>,
    pub(super) gates: Arc<Mutex<Gates>>,
    /// With a lock that nobody holds for long.
    pub(super) drains: Mutex<Drains>,
    pub(super) retiring: Retiring,
    /// See [`Linux::let_gate_settle`].
    pub(super) unsettled: Unsettled,
    /// Lost flows that were accounted for by a later reconciliation.
    pub(super) forgiven: Mutex<HashMap<Service, u64>>,
    /// Services that found no room in the tracker's map at the start.
    pub(super) unknown: AtomicU64,
    /// What agents of other versions have left.
    pub(super) others: Mutex<Vec<Pins>>,
}

impl Linux {
    pub(super) fn sweep(&self) {
        let Ok(alive) = self.namespaces.all() else { return };
        let alive = alive.into_iter().collect();
        lock(&self.gates).forget_dead(&alive);
        let before = self.now() - UNUSED;
        // The tracker stays locked until both agree: `forgiven` of a service that has been forgotten would hide
        // what is lost later.
        let mut tracker = self.tracker();
        let forgotten = tracker.forget(&alive, before);
        tracing::debug!(services = forgotten.len(), "forgot unused services");
        lock(&self.forgiven).retain(|service, _| !forgotten.contains(service));
    }

    /// Takes in what the tracker misses of a look, and what was lost for want of room.
    fn take_in(&self, service: Service, look: &Look) -> Result<u64, KernelError> {
        let misses = {
            let tracker = self.tracker();
            tracker.counts(service)?.lost > 0 || !holds_all(&tracker, look)?
        };
        if !misses {
            return Ok(0);
        }
        self.namespaces.inside(service.netns, || {
            let mut tracker = self.tracker();
            tracker.know(service)?;
            tracker.adopt()
        })
    }

    /// Drops the flows that a look taken after this snapshot of the tracker does not show.
    fn drop_gone(&self, service: Service) -> Result<u64, KernelError> {
        let held = self.tracker().flows_of(service)?;
        if held.is_empty() {
            return Ok(0);
        }
        let there: HashSet<u64> = flows(&self.look(service.netns, Some(service.port))?).collect();
        let mut removed = 0;
        for (cookie, _) in held.iter().filter(|(cookie, _)| !there.contains(cookie)) {
            removed += u64::from(self.tracker().remove(service, *cookie)?);
        }
        Ok(removed)
    }

    /// Corrects counters that differ from the flows held. Only if nothing changed while they were counted:
    /// else a flow that comes or goes would be taken for an error.
    fn correct(&self, service: Service) -> Result<i64, KernelError> {
        let mut tracker = self.tracker();
        let all = |tracker: &Tracker| {
            let counts = Class::ALL.map(|class| tracker.counts_of(service, class));
            counts.into_iter().collect::<Result<Vec<_>, _>>()
        };
        let before = all(&tracker)?;
        let held = tracker.flows_of(service)?;
        let after = all(&tracker)?;
        if before != after {
            return Ok(0);
        }
        let mut total = 0;
        for (class, counts) in Class::ALL.into_iter().zip(after) {
            let number = number(class);
            let held = held.iter().filter(|(_, flow)| flow.service.class == number).count();
            let wrong = held as i64 - counts.flows;
            if wrong != 0 {
                tracker.know(service)?;
                tracker.correct(service, class, wrong)?;
                total += wrong;
            }
        }
        Ok(total)
    }

    /// Has the tracker count the flows of a look in the classes that the look says.
    fn sort(&self, service: Service, look: &Look) -> Result<u64, KernelError> {
        let mut moved = 0;
        for socket in look.sockets.iter().filter(|socket| socket.state.is_flow()) {
            let mut tracker = self.tracker();
            let is = tracker.flow(socket.cookie)?.map(|flow| flow.service.class);
            if is.is_some_and(|is| is != number(socket.class)) {
                moved += u64::from(tracker.move_to(service, socket.cookie, socket.class)?);
            }
        }
        Ok(moved)
    }

    /// Accounts for lost flows, if the tracker now holds everything that a look shows.
    fn forgive(&self, service: Service) -> Result<(), KernelError> {
        let lost = self.tracker().counts(service)?.lost;
        if lost == 0 {
            return Ok(());
        }
        let look = self.look(service.netns, Some(service.port))?;
        let tracker = self.tracker();
        if holds_all(&tracker, &look)? && tracker.counts(service)?.lost == lost {
            lock(&self.forgiven).insert(service, lost);
        }
        Ok(())
    }

    /// A SYN that passed a gate just before it closed may not have its request socket yet, and a look would
    /// miss it. The first look after a gate has closed waits until all such SYNs are through.
    fn let_gate_settle(&self, netns: u32) {
        self.unsettled.settle(netns, sys::settle);
    }

    /// Loads a spare gate in the background, if one was used. Nothing here may fail its caller: the gate is
    /// closed already.
    fn refill_spares(&self) {
        let gates = Arc::clone(&self.gates);
        let load = move || {
            let Some(order) = lock(&gates).order_spare() else { return Ok(()) };
            order.load().map(|spare| lock(&gates).add_spare(spare))
        };
        let spawned = std::thread::Builder::new().name("spare-gate".into()).spawn(move || {
            if let Err(e) = load() {
                tracing::warn!(error = %e, "cannot load a spare gate; a later drain loads its own");
            }
        });
        if let Err(e) = spawned {
            tracing::warn!(error = %e, "no thread to load a spare gate; a later drain loads its own");
        }
    }

    pub(super) fn tracker(&self) -> MutexGuard<'_, Tracker> {
        lock(&self.tracker)
    }
}

impl Kernel for Linux {
    fn now(&self) -> Boot {
        let t = clock_gettime(ClockId::Boottime);
        // Neither is negative for this clock.
        Boot::from_nanos(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
    }

    fn host_netns(&self) -> u32 {
        self.host
    }

    fn namespaces(&self) -> Result<Vec<u32>, KernelError> {
        self.namespaces.all()
    }

    fn netns_cookie(&self, netns: u32) -> Result<Option<u64>, KernelError> {
        self.namespaces.cookie(netns)
    }

    fn look(&self, netns: u32, port: Option<u16>) -> Result<Look, KernelError> {
        self.let_gate_settle(netns);
        self.namespaces.inside(netns, || diag::look(port))
    }

    fn tracked(&self, service: Service) -> Result<Tracked, KernelError> {
        let counts = self.tracker().counts(service)?;
        let forgiven = lock(&self.forgiven).get(&service).copied().unwrap_or(0);
        Ok(tracked(&counts, forgiven))
    }

    fn established_at(&self, cookies: &[u64]) -> Result<Vec<Option<Boot>>, KernelError> {
        let tracker = self.tracker();
        cookies
            .iter()
            .map(|&cookie| {
                let flow = tracker.flow(cookie)?.filter(|f| f.flags & Flow::ADOPTED == 0);
                Ok(flow.map(|f| Boot::from_nanos(f.since_ns)))
            })
            .collect()
    }

    fn reconcile(&self, service: Service, look: &Look) -> Result<Reconciled, KernelError> {
        let removed = self.drop_gone(service)?; // First, since it makes room.
        let added = self.take_in(service, look)?;
        let moved = self.sort(service, look)?;
        let corrected = self.correct(service)?;
        self.forgive(service)?;
        Ok(Reconciled { added, removed, moved, corrected })
    }

    fn saved_drains(&self) -> Result<Vec<(Service, Vec<u8>)>, KernelError> {
        records::all(&lock(&self.drains))
    }

    fn save_drain(&self, service: Service, drain: &[u8]) -> Result<(), KernelError> {
        records::save(&mut lock(&self.drains), service, drain)
    }

    fn forget_drain(&self, service: Service) -> Result<(), KernelError> {
        records::forget(&mut lock(&self.drains), service)
    }

    fn release_others(&self, drains: &[Service]) -> Result<Vec<Service>, KernelError> {
        self.release(drains)
    }

    fn watch(&self, service: Service, watch: Watch) -> Result<(), KernelError> {
        self.tracker().watch(service, watch)
    }

    fn close_gate(&self, service: Service, lease_until: Boot) -> Result<(), KernelError> {
        let netns = self.namespaces.open(service.netns)?;
        let cookie = self.namespaces.cookie(service.netns)?;
        lock(&self.gates).close(service, lease_until, &netns, cookie)?;
        self.unsettled.closed(service.netns);
        self.refill_spares();
        Ok(())
    }

    fn renew_gate(&self, service: Service, lease_until: Boot) -> Result<(), KernelError> {
        lock(&self.gates).renew(service, lease_until)
    }

    fn open_gate(&self, service: Service) -> Result<(), KernelError> {
        lock(&self.gates).open(service)
    }

    fn rejected(&self, service: Service) -> Result<u64, KernelError> {
        lock(&self.gates).rejected(service)
    }

    fn retire(&self, service: Service, order: &RetireOrder) -> Result<(), KernelError> {
        self.retiring.retire(service, order, &self.namespaces, &self.tracker)
    }

    fn followed(&self, service: Service) -> Result<Vec<Followed>, KernelError> {
        self.retiring.followed(service)
    }

    fn unfollow(&self, cookies: &[u64]) -> Result<(), KernelError> {
        self.retiring.unfollow(cookies)
    }

    fn restore(&self, service: Service) -> Result<(), KernelError> {
        self.retiring.restore(service, &self.tracker)
    }

    fn finish(&self, netns: u32, flows: &[Finish]) -> Result<Vec<u64>, KernelError> {
        finish::finish(&self.namespaces, netns, flows)
    }

    fn abort(&self, netns: u32, flows: &[Abort]) -> Result<Vec<u64>, KernelError> {
        self.namespaces.inside(netns, || destroy::destroy(flows))
    }

    fn retire_lacks(&self) -> RetireLacks {
        self.retiring.lacks()
    }

    fn faults(&self) -> Result<Faults, KernelError> {
        let faults = self.tracker().faults()?;
        let services_full = faults.services_full + self.unknown.load(Ordering::Relaxed);
        Ok(Faults { services_full, ..faults })
    }
}

/// Whether the tracker holds every flow of a look.
fn holds_all(tracker: &Tracker, look: &Look) -> Result<bool, KernelError> {
    for cookie in flows(look) {
        if tracker.flow(cookie)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Cookies of all flows of a look.
fn flows(look: &Look) -> impl Iterator<Item = u64> + '_ {
    look.sockets.iter().filter(|s| s.state.is_flow()).map(|s| s.cookie)
}

/// A panic in another thread does not make kernel state unusable.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The real kernel behind the [`Kernel`] trait.

use std::{
    any::Any,
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    os::fd::{BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use drainctl_common::{gate::Counts, track::Flow};
use rustix::time::{ClockId, clock_gettime};

use super::{
    Abort, Admitted, Check, CheckNote, Faults, Finish, Followed, Kernel, KernelError, Look,
    OwnListener, ProbeCounts, Reconciled, RetireLacks, RetireOrder, Steered, Tracked, Watch,
    checks, destroy, diag, finish,
    gate::{self, Gates},
    handshakes::Handshakes,
    hop::Hops,
    looks::Looks,
    marks::Marks,
    netns::Namespaces,
    outbound,
    peers::Peers,
    pins::Pins,
    probes::{self, Probes},
    records::{self, Records},
    retire::Retiring,
    settle::Unsettled,
    steer,
    straggling::{
        Listening, Outgoing, connect_here, is_own_here, listen_here, reset_at_close, socket_for,
    },
    sys::{self, AsUser},
    tracker::{Tracker, tracked},
};
use crate::drain::{Admission, Boot, Handoff, Service};

/// What the kernel layer is to use.
#[derive(Clone, Debug)]
pub struct Config {
    /// Root of the cgroup v2 hierarchy; found in `/proc/mounts` if left out.
    pub cgroup: Option<PathBuf>,
    /// The kubelet's cgroup; found from its process if left out.
    pub probe_cgroup: Option<PathBuf>,
    /// Most flows counted at a time, on the whole node.
    pub max_flows: u32,
    /// Most services counted at a time, on the whole node.
    pub max_services: u32,
    /// Most clients remembered, on the whole node; 0: none, and no drain can keep clients.
    pub client_history: u32,
    /// Version of the kernel programs to go by; `None`: the one they have. Only tests of upgrades say another.
    pub version: Option<u32>,
}

/// A running kernel with our programs in it, which stay there when this is dropped.
pub struct Linux {
    pub(super) namespaces: Namespaces,
    pub(super) host: u32,
    pub(super) tracker: Mutex<Tracker>,
    pub(super) probes: Arc<Mutex<Probes>>,
    pub(super) gates: Arc<Mutex<Gates>>,
    /// With a lock that nobody holds for long.
    pub(super) drains: Mutex<Records>,
    pub(super) holds: Mutex<Records>,
    pub(super) retiring: Retiring,
    pub(super) hops: Hops,
    pub(super) marks: Marks,
    pub(super) looks: Looks,
    pub(super) handshakes: Arc<Handshakes>,
    /// See [`Linux::let_gate_settle`].
    pub(super) unsettled: Arc<Unsettled>,
    /// Lost flows that were accounted for by a later reconciliation.
    pub(super) forgiven: Mutex<HashMap<Service, u64>>,
    pub(super) peers: Peers,
    /// Services that found no room in the tracker's map at the start.
    pub(super) unknown: AtomicU64,
    /// What agents of other versions have left.
    pub(super) others: Mutex<Vec<Pins>>,
    /// Whether what is pinned is ours to see to; locked while that is done.
    pub(super) on_duty: Mutex<bool>,
    /// Its end is that of the housekeeping.
    pub(super) _housekeeping: mpsc::Sender<()>,
}

impl Linux {
    /// A SYN that passed a gate just before it closed may not have its request socket yet, and a look would
    /// miss it. The first look after a gate has closed waits until all such SYNs are through.
    fn let_gate_settle(&self, netns: u32) {
        self.unsettled.settle(netns, sys::settle);
    }

    /// A look at these ports of the namespace, or at all; handshakes and flows of other listeners are told apart.
    fn dump(&self, netns: u32, ports: &[u16]) -> Result<Look, KernelError> {
        let before = self.handshakes.before(netns);
        // Only now: all of those have closed before.
        self.let_gate_settle(netns);
        let port = if let [port] = ports { Some(*port) } else { None };
        let marks = self.marks.asked(netns, port);
        let mut look = self.namespaces.inside(netns, || diag::look(ports, marks.as_ref()))?;
        self.handshakes.sort_out(&before, ports, self.now(), &mut look);
        Ok(look)
    }

    pub(super) fn steering(&self) -> steer::Parts<'_> {
        let Self { namespaces, gates, tracker, marks, .. } = self;
        steer::Parts { namespaces, gates, tracker, marks }
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
        let mut look = match port {
            Some(port) => self.looks.look(netns, port, |ports| self.dump(netns, ports))?,
            None => self.dump(netns, &[])?,
        };
        probes::mark(&self.probes, &self.tracker, netns, &mut look)?;
        self.peers.sort_out(netns, &mut look);
        self.peers.note_clients(netns, port, &look, self.now());
        Ok(look)
    }

    fn listens(&self, service: Service) -> Result<bool, KernelError> {
        self.namespaces.inside(service.netns, || diag::listens(service.port))
    }

    fn outbound(&self, netns: u32, to: &[SocketAddr]) -> Result<Vec<u64>, KernelError> {
        self.namespaces.inside(netns, || outbound::count(to))
    }

    fn tracked(&self, service: Service) -> Result<Tracked, KernelError> {
        let counts = self.tracker().known(service)?;
        let forgiven = lock(&self.forgiven).get(&service).copied().unwrap_or(0);
        Ok(tracked(counts.as_ref(), forgiven))
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
        self.mend(service, look)
    }

    fn saved_drains(&self) -> Result<Vec<(Service, Vec<u8>)>, KernelError> {
        records::all(&lock(&self.drains), "DRAINS")
    }

    fn save_drain(&self, service: Service, drain: &[u8]) -> Result<(), KernelError> {
        records::save(&mut lock(&self.drains), service, drain)
    }

    fn forget_drain(&self, service: Service) -> Result<(), KernelError> {
        records::forget(&mut lock(&self.drains), service)
    }

    fn saved_holds(&self) -> Result<Vec<(Service, Vec<u8>)>, KernelError> {
        records::all(&lock(&self.holds), "HOLDS")
    }

    fn save_holds(&self, service: Service, holds: Option<&[u8]>) -> Result<(), KernelError> {
        let mut map = lock(&self.holds);
        match holds {
            Some(holds) => records::write(&mut map, "HOLDS", service, holds),
            None => records::remove(&mut map, "HOLDS", service),
        }
    }

    fn release_others(&self, drains: &[Service]) -> Result<Vec<Service>, KernelError> {
        self.release(drains)
    }

    fn watch(&self, service: Service, watch: Watch) -> Result<(), KernelError> {
        self.tracker().watch(service, watch)
    }

    fn steer(&self, service: Service, targets: &[BorrowedFd<'_>]) -> Result<(), KernelError> {
        self.steering().steer(service, targets, self.now())?;
        gate::refill(&self.gates);
        Ok(())
    }

    fn steered(&self, service: Service) -> Result<Steered, KernelError> {
        let gates = lock(&self.gates);
        Ok(Steered { attempts: gates.counts(service)?.steered, targets: gates.targets(service)? })
    }

    fn guard(
        &self,
        service: Service,
        admission: &Admission,
        lease_until: Boot,
    ) -> Result<(), KernelError> {
        self.begin_guard(service, admission, lease_until)
    }

    fn takers(&self, service: Service, to: Handoff) -> Result<BTreeSet<u64>, KernelError> {
        self.steering().takers(service, to)
    }

    fn hand_over(&self, service: Service, to: Handoff) -> Result<BTreeSet<u64>, KernelError> {
        let taken = self.steering().hand_over(service, to, self.now())?;
        gate::refill(&self.gates);
        Ok(taken)
    }

    fn close_gate(&self, service: Service, lease_until: Boot) -> Result<(), KernelError> {
        let netns = self.namespaces.open(service.netns)?;
        let cookie = self.namespaces.cookie(service.netns)?;
        lock(&self.gates).close(service, lease_until, &netns, cookie)?;
        self.unsettled.closed(service.netns);
        gate::refill(&self.gates);
        Ok(())
    }

    fn renew_gate(&self, service: Service, lease_until: Boot) -> Result<(), KernelError> {
        lock(&self.gates).renew(service, lease_until)
    }

    fn open_gate(&self, service: Service) -> Result<(), KernelError> {
        lock(&self.gates).open(service)?;
        self.steering().end(service)?;
        self.end_guard(service)
    }

    fn rejected(&self, service: Service) -> Result<u64, KernelError> {
        lock(&self.gates).counts(service).map(|counts| counts.rejected)
    }

    fn admitted(&self, service: Service) -> Result<Admitted, KernelError> {
        let Counts { ignored, allowed, refused, kept, .. } = lock(&self.gates).counts(service)?;
        Ok(Admitted { ignored, allowed, failed_health: refused, kept })
    }

    fn remembers_clients(&self) -> bool {
        self.peers.remembers_clients()
    }

    fn open_listener(&self, netns: u32, how: Listening) -> Result<OwnListener, KernelError> {
        let listen = || listen_here(how).map_err(|e| KernelError::op("listen in", netns, e));
        let with: Box<dyn Any + Send + Sync> = match how {
            // For as long as there is such a listener, connections will have to be marked.
            Listening::Accepting => Box::new(self.hops.load()?),
            Listening::Silent | Listening::Port(_) => Box::new(()),
        };
        Ok(OwnListener { socket: self.namespaces.inside(netns, listen)?, with })
    }

    fn open_socket(&self, netns: u32, target: SocketAddr) -> Result<OwnedFd, KernelError> {
        self.namespaces.inside(netns, || {
            let fail = |e: rustix::io::Errno| KernelError::op("open a socket for", target, e);
            let socket = socket_for(target).map_err(fail)?;
            // A registry is to see the end of a request, not a reset.
            reset_at_close(&socket, false);
            Ok(socket)
        })
    }

    fn open_connection(
        &self,
        netns: u32,
        target: SocketAddr,
        token: u64,
        uid: u32,
    ) -> Result<Outgoing, KernelError> {
        let hop = self.hops.load()?;
        self.namespaces.inside(netns, || {
            // Its sockets are that user's.
            let _user = AsUser::begin(uid)?;
            connect_here(target, &hop, token)
        })
    }

    fn can_act_as(&self, uid: u32) -> Result<(), KernelError> {
        AsUser::begin(uid).map(drop)
    }

    fn own_addresses(&self, netns: u32, addrs: &[IpAddr]) -> Result<Vec<IpAddr>, KernelError> {
        let own = || Ok(addrs.iter().copied().filter(|addr| is_own_here(*addr)).collect());
        self.namespaces.inside(netns, own)
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

    fn rest(&self) {
        *lock(&self.on_duty) = false;
    }

    fn retire_lacks(&self) -> RetireLacks {
        self.retiring.lacks()
    }

    fn faults(&self) -> Result<Faults, KernelError> {
        let faults = self.tracker().faults()?;
        let services_full = faults.services_full + self.unknown.load(Ordering::Relaxed);
        Ok(Faults { services_full, ..faults })
    }

    fn probes(&self) -> Result<ProbeCounts, KernelError> {
        lock(&self.probes).counts()
    }

    fn is_kubelets(
        &self,
        netns: u32,
        client: SocketAddr,
        server: SocketAddr,
    ) -> Result<bool, KernelError> {
        lock(&self.probes).has(client, server, netns)
    }

    fn open_check(&self, service: Service, at: IpAddr) -> Result<Check, KernelError> {
        self.namespaces.inside(service.netns, || checks::open_here(&self.probes, service, at))
    }

    fn close_check(&self, note: CheckNote) {
        checks::close(&self.namespaces, note);
    }
}

/// A panic in another thread does not make kernel state unusable.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

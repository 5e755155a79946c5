//! From what an earlier agent left in the kernel, or from nothing, to a kernel layer that works; and back to
//! nothing.
//!
//! Objects of our own version are taken over. An agent of another version, which left others, is succeeded: ours
//! are loaded and attached beside, its drains are read, and when their gates are closed by our programs too, its
//! objects are removed ([`Linux::release`]). Until then nobody is served, so that nothing can have changed if we
//! are interrupted: the next agent, of either version, finds both and does the same, and each step is the same
//! when it is repeated.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use aya::maps::{HashMap, Map, ProgramArray, SockHash};
use drainctl_common::{ServiceKey, retire};
use tokio::sync::mpsc;

use super::{
    Event, Kernel as _, KernelError, Watch, cgroup, diag, events,
    gate::Gates,
    handshakes::Handshakes,
    hop::Hops,
    housekeeping,
    linux::{Config, Linux, lock},
    looks::Looks,
    losses::Losses,
    marks::Marks,
    netns::{self, Namespaces},
    offsets::Offsets,
    peers::Peers,
    pins::{PinDir, Pins, VERSION},
    probes::Probes,
    records,
    retire::Retiring,
    settle::Unsettled,
    sys,
    tracker::{self, Sizes, Tracker},
};
use crate::{drain::Service, failpoint};

/// Loads and attaches everything, in the place of what an earlier agent left, and takes in the connections that
/// are there already.
///
/// # Errors
/// The kernel, the permissions or this binary lack something. What was loaded until then stays, and does
/// nothing but count.
pub fn open(
    config: &Config,
    dir: &PinDir,
) -> Result<(Arc<Linux>, mpsc::UnboundedReceiver<Event>), KernelError> {
    let cgroup = match &config.cgroup {
        Some(path) => path.clone(),
        None => cgroup::root()?,
    };
    let version = config.version.unwrap_or(VERSION);
    let (pins, others) = (dir.of_version(version)?, dir.other_versions(version)?);
    let Config { max_flows, max_services, client_history, .. } = *config;
    let sizes = Sizes { max_flows, max_services, client_history };
    let offsets = Offsets::read()?;
    // The sockets that are marked stay so, whoever's programs ask for the mark.
    others.iter().try_for_each(|other| pins.take_over(tracker::MARKS, other))?;
    let mut tracker = Tracker::start(&cgroup, &pins, sizes, &offsets)?;
    failpoint::pass("adopt: tracker replaced");
    tell_sizes(&pins, sizes)?;
    let (mut drains, mut holds) = tracker.take_records()?;
    records::inherit(&mut drains, "DRAINS", &others)?;
    records::inherit(&mut holds, "HOLDS", &others)?;
    let mut marked = tracker.take_marked()?;
    records::inherit(&mut marked, "MARKED", &others)?;
    failpoint::pass("upgrade: drains copied");
    let (ring, logger) = (tracker.take_events()?, tracker.take_logger()?);
    let probes =
        Probes::start(config.probe_cgroup.clone(), cgroup.clone(), pins.clone(), &mut tracker)?;
    let marks = Marks::new(tracker.take_marks()?, marked)?;
    // Before any flow is taken in: programs of another version have not told ours.
    marks.services().iter().try_for_each(|(service, mark)| tracker.steer(*service, *mark))?;
    let peers = Peers::new(tracker.take_peers()?, client_history);
    let retiring = Retiring::start(&pins, sizes, &offsets, tracker.take_next()?);
    let namespaces = Namespaces::default();
    let (handshakes, unsettled) = (Arc::<Handshakes>::default(), Arc::<Unsettled>::default());
    let (known, closed) = (Arc::clone(&handshakes), Arc::clone(&unsettled));
    let gates = Gates::load(pins, known, closed, |pin| match namespaces.cookie(pin.netns) {
        Ok(cookie) => Ok(cookie == pin.cookie),
        Err(KernelError::NoNetns(_)) => Ok(false),
        Err(e) => Err(e),
    })?;
    let (housekeeping, until) = std::sync::mpsc::channel();
    let linux = Arc::new(Linux {
        host: netns::host()?,
        namespaces,
        tracker: Mutex::new(tracker),
        probes: Arc::new(Mutex::new(probes)),
        hops: Hops::new(cgroup),
        marks,
        peers,
        gates: Arc::new(Mutex::new(gates)),
        drains: Mutex::new(drains),
        holds: Mutex::new(holds),
        looks: Looks::default(),
        handshakes,
        retiring,
        unsettled,
        forgiven: Mutex::default(),
        others: Mutex::new(others),
        on_duty: Mutex::new(true),
        _housekeeping: housekeeping,
        unknown: AtomicU64::new(0),
    });
    linux.adopt_all()?;
    linux.sweep(&mut None);
    failpoint::pass("adopt: flows taken in");
    let (to, from) = mpsc::unbounded_channel();
    let (watcher, mut losses) = (Arc::downgrade(&linux), Losses::default());
    let lost = move || {
        watcher.upgrade().map_or_else(Vec::new, |linux| losses.news(&linux.tracker(), linux.now()))
    };
    events::forward(ring, logger, to, lost)?;
    housekeeping::start(&linux, until)?;
    Ok((linux, from))
}

/// Removes every object of every version: gates open, flows are left alone, and nothing counts any more.
///
/// # Errors
/// Something could not be removed; called again it goes on.
pub fn uninstall(dir: PinDir) -> Result<(), KernelError> {
    dismantle(&dir.versions()?)?;
    let path = dir.path().to_owned();
    // Not one more step with the lock given up: who waits for it would find the directory gone.
    std::fs::remove_dir(&path).map_err(|e| KernelError::op("remove folder", path.display(), e))
}

/// Has the flows let go that these versions tell to leave, and removes everything of them.
fn dismantle(versions: &[Pins]) -> Result<(), KernelError> {
    for pins in versions {
        pins.detach()?;
        revoke(pins)?;
    }
    failpoint::pass("upgrade: other detached");
    // Programs that still run may write to what is removed now.
    sys::settle();
    for pins in versions {
        let_go(pins)?;
        failpoint::pass("upgrade: other let go");
        pins.remove()?;
    }
    Ok(())
}

/// Nobody is told any more, and nobody joins.
fn revoke(pins: &Pins) -> Result<(), KernelError> {
    if let Some(map) = pins.map("NEXT")?
        && let Ok(mut next) = ProgramArray::try_from(map)
    {
        for index in 0..drainctl_common::track::next::COUNT {
            let _ = next.clear_index(&index); // There may be none.
        }
    }
    // Of another version it may be another map; its flows are let go all the same.
    if let Some(map) = pins.map("RETIRING")?
        && let Ok(mut rules) = HashMap::<_, ServiceKey, retire::Rule>::try_from(map)
    {
        let keys: Vec<_> = rules.keys().filter_map(Result::ok).collect();
        for key in keys {
            let _ = rules.remove(&key); // Somebody was faster.
        }
    }
    Ok(())
}

/// All sockets leave the sockhash: else its program would go on with them as long as they live.
fn let_go(pins: &Pins) -> Result<(), KernelError> {
    let fail = |e| KernelError::op("empty map", "SOCKETS", e);
    let Some(map @ Map::SockHash(_)) = pins.map("SOCKETS")? else { return Ok(()) };
    let mut sockets: SockHash<_, u64> = map.try_into().map_err(fail)?;
    let cookies: Vec<u64> = sockets.keys().filter_map(Result::ok).collect();
    for cookie in cookies {
        let _ = sockets.remove(&cookie); // It has ended.
    }
    Ok(())
}

/// A map that an earlier agent made has its size for good.
fn tell_sizes(pins: &Pins, sizes: Sizes) -> Result<(), KernelError> {
    for (map, option, wanted) in [
        ("FLOWS", "--max-flows", sizes.max_flows),
        ("SERVICES", "--max-services", sizes.max_services),
    ] {
        let is = pins.max_entries(map)?;
        if is != wanted {
            tracing::warn!(
                map,
                option,
                wanted,
                is,
                "the map keeps the size that an earlier agent gave it; drain-agent --uninstall gives it up, \
                 and opens all gates"
            );
        }
    }
    Ok(())
}

impl Linux {
    /// Takes in the flows of every service that listens now.
    fn adopt_all(&self) -> Result<(), KernelError> {
        let (mut services, mut flows) = (0, 0);
        for netns in self.namespaces.all()? {
            match self.adopt_netns(netns) {
                Ok((s, f)) => (services, flows) = (services + s, flows + f),
                Err(KernelError::NoNetns(_)) => {} // Gone since.
                Err(e) => return Err(e),
            }
        }
        let unknown = self.unknown.load(Ordering::Relaxed);
        if unknown > 0 {
            tracing::warn!(
                unknown,
                "the map of services is full: services without a connection count as unknown; raise --max-services, after \
                 drain-agent --uninstall, which gives up the map and opens all gates"
            );
        }
        tracing::info!(services, flows, "took in the connections that were there");
        Ok(())
    }

    fn adopt_netns(&self, netns: u32) -> Result<(usize, u64), KernelError> {
        self.namespaces.inside(netns, || {
            let ports: HashSet<u16> =
                diag::look(&[], None)?.listeners.iter().map(|l| l.local.port()).collect();
            let mut tracker = self.tracker();
            for &port in &ports {
                if !tracker.know_if_room(Service { netns, port })? {
                    self.unknown.fetch_add(1, Ordering::Relaxed);
                }
            }
            let flows = if ports.is_empty() { 0 } else { tracker.adopt()? };
            Ok((ports.len(), flows))
        })
    }

    /// See [`super::Kernel::release_others`].
    pub(super) fn release(&self, drains: &[Service]) -> Result<Vec<Service>, KernelError> {
        let ours: BTreeSet<&Service> = drains.iter().collect();
        let mut opened = Vec::new();
        let ruled = lock(&self.gates).services();
        for (service, closed_until) in ruled.into_iter().filter(|(s, _)| !ours.contains(s)) {
            lock(&self.gates).open(service)?;
            self.steering().end(service)?;
            opened.extend(closed_until.filter(|until| *until > self.now()).map(|_| service));
        }
        let retiring = self.retiring.services()?;
        for service in retiring.iter().filter(|service| !ours.contains(service)) {
            self.retiring.restore(*service, &self.tracker)?;
        }
        if retiring.is_empty() {
            self.retiring.rest()?;
        }
        let watched = self.tracker().watched();
        for service in watched.into_iter().filter(|service| !ours.contains(service)) {
            self.tracker().join_new(service, false)?;
            self.tracker().watch_clients(service, false, false)?;
            self.watch(service, Watch::default())?;
        }
        let marked = self.marks.services();
        for service in marked.into_keys().filter(|service| !ours.contains(service)) {
            self.steering().end(service)?;
        }
        self.peers.keep_only(&ours)?;
        failpoint::pass("adopt: others released");
        // Ours are all at work by now.
        dismantle(&lock(&self.others))?;
        lock(&self.others).clear();
        Ok(opened)
    }
}

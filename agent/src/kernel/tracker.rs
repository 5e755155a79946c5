//! The tracker's programs and maps, from the agent's side.

mod forgetting;
mod loading;
mod watching;

use std::{
    fs::File,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, ProgramArray, RingBuf, lpm_trie::LpmTrie},
    programs::{
        CgroupAttachMode, SchedClassifier, SockOps, TestRun as _, TestRunOptions, links::FdLink,
    },
};
use drainctl_common::{
    ServiceKey, class,
    peers::{Peer, PeerKey},
    probe::ProbeKey,
    track::{Flow, Repair, ServiceCounts, Slot, fault},
};

use self::loading::Variant;
use super::{
    Class, Faults, KernelError, Tracked,
    loaded::{address, begin_scan, exists, finish_scan, is_full, lookup, map, program},
    marks::Marked,
    offsets::Offsets,
    pins::{Pins, detach, keep, replace},
    records::Records,
    slots::{SLOTS, Slots},
    walk::Walkable,
};
use crate::drain::{Boot, Service};

/// The map of flows that are in no slot, which the retire programs read too.
pub(super) const FLOWS: &str = "FLOWS";

/// The marks of sockets.
pub(super) const MARKS: &str = "MARKS";
/// `BPF_NOEXIST` (`include/uapi/linux/bpf.h`).
const NOEXIST: u64 = 1;
/// Maps that the gates share with the tracker.
pub(super) const PROBES: &str = "PROBES";
pub(super) const PROBE_PORTS: &str = "PROBE_PORTS";
pub(super) const CHECKS: &str = "CHECKS";
pub(super) const PROBE_COUNTS: &str = "PROBE_COUNTS";

/// What the probe program notes.
pub(super) struct ProbeMaps {
    /// What the kubelet has open, and checks of ours.
    pub(super) open: HashMap<MapData, ProbeKey, u64>,
    /// How many of them are checks.
    pub(super) checks: Array<MapData, u64>,
    /// Counters of `drainctl_common::probe::count`.
    pub(super) counts: Array<MapData, u64>,
}

/// The loaded and attached tracker.
pub(super) struct Tracker {
    ebpf: Ebpf,
    /// What this kernel can run.
    variant: &'static Variant,
    slots: Slots,
    flows: Walkable<u64, Flow>,
    services: HashMap<MapData, ServiceKey, ServiceCounts>,
    faults: Array<MapData, u64>,
    /// What is reported of which service, as it was set last: a set of [`watch`] bits.
    watches: std::collections::HashMap<Service, u32>,
    /// Whether there may be flows whose end it is not told of.
    may_miss_ends: bool,
}

/// See [`Tracker::take_peers`].
pub(super) type PeerMaps = (LpmTrie<MapData, PeerKey, Peer>, HashMap<MapData, PeerKey, u64>);

/// How large the tracker's maps are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) max_flows: u32,
    pub(super) max_services: u32,
    pub(super) client_history: u32,
}

impl Sizes {
    /// How many slots there are: as many as an earlier agent has made, if one has.
    pub(super) fn slots(self, pins: &Pins) -> Result<u32, KernelError> {
        if pins.path(SLOTS).exists() {
            return pins.max_entries(SLOTS);
        }
        Ok(1 << self.max_flows.min(Slot::MOST).ilog2())
    }
}

impl Tracker {
    /// Loads the programs and has the counting one run at the root of cgroup v2, in the place of that of an
    /// earlier agent if there is one.
    pub(super) fn start(
        cgroup: &Path,
        pins: &Pins,
        sizes: Sizes,
        offsets: &Offsets,
    ) -> Result<Self, KernelError> {
        let mut ebpf = loading::load(pins, sizes, offsets)?;
        let variant = loading::load_programs(&mut ebpf)?;
        let mut tracker = Self {
            variant,
            slots: map(&mut ebpf, SLOTS, Slots::new)?,
            flows: map(&mut ebpf, FLOWS, Walkable::new)?,
            services: map(&mut ebpf, "SERVICES", HashMap::try_from)?,
            faults: map(&mut ebpf, "FAULTS", Array::try_from)?,
            watches: std::collections::HashMap::new(),
            may_miss_ends: true,
            ebpf,
        };
        tracker.read_watches()?;
        tracker.attach(variant.track, "track", cgroup, pins)?;
        Ok(tracker)
    }

    /// The maps of the probe program, once.
    pub(super) fn take_probes(&mut self) -> Result<ProbeMaps, KernelError> {
        Ok(ProbeMaps {
            open: map(&mut self.ebpf, PROBES, HashMap::try_from)?,
            checks: map(&mut self.ebpf, CHECKS, Array::try_from)?,
            counts: map(&mut self.ebpf, PROBE_COUNTS, Array::try_from)?,
        })
    }

    /// Has a program run for the sockets of a cgroup, in the place of that of an earlier agent if there is one by this link
    /// name, and at no other cgroup any more. It goes on when we are gone.
    pub(super) fn attach(
        &mut self,
        name: &'static str,
        link: &str,
        cgroup: &Path,
        pins: &Pins,
    ) -> Result<(), KernelError> {
        let fail = |e| KernelError::op("attach to cgroup", cgroup.display(), e);
        let dir = File::open(cgroup).map_err(|e| KernelError::op("open", cgroup.display(), e))?;
        let inode = dir.metadata().map_err(|e| KernelError::op("open", cgroup.display(), e))?.ino();
        let (before, ours) = (pins.links(link)?, pins.link(link, inode));
        let program: &mut SockOps = program(&mut self.ebpf, name)?;
        let fd = program.fd().map_err(|e| fail(Box::new(e)))?;
        if !before.contains(&ours) || !replace(&ours, fd.as_fd())? {
            detach(&ours)?; // Nothing, or a link whose cgroup is gone.
            // Single is what a bpf_link wants; programs of others stay attached beside it.
            let link = program.attach(dir, CgroupAttachMode::Single);
            let link = link.and_then(|id| program.take_link(id)).map_err(|e| fail(Box::new(e)))?;
            let link = FdLink::try_from(link)
                .map_err(|e| KernelError::op("attach to", "a cgroup (Linux 5.7)", e))?;
            keep(link, &ours)?;
        }
        // One at another cgroup goes after ours has come, so that no flow is missed.
        before.iter().filter(|path| **path != ours).try_for_each(|path| detach(path))
    }

    /// The ring buffer of events, once.
    pub(super) fn take_events(&mut self) -> Result<RingBuf<MapData>, KernelError> {
        map(&mut self.ebpf, "EVENTS", RingBuf::try_from)
    }

    /// How drains treat clients by their address, and when each client last had a flow: `PEERS` and `CLIENTS`, once.
    pub(super) fn take_peers(&mut self) -> Result<PeerMaps, KernelError> {
        let peers = map(&mut self.ebpf, "PEERS", LpmTrie::try_from)?;
        Ok((peers, map(&mut self.ebpf, "CLIENTS", HashMap::try_from)?))
    }

    /// Drains and holds, as the next agent finds them, once.
    pub(super) fn take_records(&mut self) -> Result<(Records, Records), KernelError> {
        let drains = map(&mut self.ebpf, "DRAINS", HashMap::try_from)?;
        Ok((drains, map(&mut self.ebpf, "HOLDS", HashMap::try_from)?))
    }

    /// Where programs are to be put with which the tracker goes on, once.
    pub(super) fn take_next(&mut self) -> Result<ProgramArray<MapData>, KernelError> {
        map(&mut self.ebpf, "NEXT", ProgramArray::try_from)
    }

    /// Marks of sockets, once.
    pub(super) fn take_marks(&mut self) -> Result<MapData, KernelError> {
        map(&mut self.ebpf, MARKS, |map| match map {
            Map::SkStorage(data) => Ok(data),
            _ => Err(MapError::InvalidName { name: MARKS.into() }),
        })
    }

    /// The mark of each service that has one, once.
    pub(super) fn take_marked(&mut self) -> Result<Marked, KernelError> {
        map(&mut self.ebpf, "MARKED", HashMap::try_from)
    }

    /// Reader of what the programs log, once.
    pub(super) fn take_logger(
        &mut self,
    ) -> Result<aya_log::EbpfLogger<&'static dyn log::Log>, KernelError> {
        aya_log::EbpfLogger::init(&mut self.ebpf)
            .map_err(|e| KernelError::op("open", "the log of the kernel programs", e))
    }

    /// The counters of a service; zero for one it never saw.
    pub(super) fn counts(&self, service: Service) -> Result<ServiceCounts, KernelError> {
        self.counts_of(service, Class::Counted)
    }

    /// The counters of one class of its flows.
    pub(super) fn counts_of(
        &self,
        service: Service,
        class: Class,
    ) -> Result<ServiceCounts, KernelError> {
        lookup(&self.services, &key_of(service, class), "SERVICES").map(Option::unwrap_or_default)
    }

    /// The counters of a service, if it knows it.
    pub(super) fn known(&self, service: Service) -> Result<Option<ServiceCounts>, KernelError> {
        lookup(&self.services, &key(service), "SERVICES")
    }

    /// Makes an entry for a service, so that [`Self::adopt`] takes in its flows.
    pub(super) fn know(&mut self, service: Service) -> Result<(), KernelError> {
        if self.know_key(service, key(service))? {
            return Ok(());
        }
        Err(KernelError::op("add to map SERVICES", service, "it is full"))
    }

    /// The same; false if there is no room.
    pub(super) fn know_if_room(&mut self, service: Service) -> Result<bool, KernelError> {
        self.know_key(service, key(service))
    }

    fn know_key(&mut self, service: Service, key: ServiceKey) -> Result<bool, KernelError> {
        match self.services.insert(key, ServiceCounts::default(), NOEXIST) {
            Err(e) if is_full(&e) => Ok(false),
            Err(e) if !exists(&e) => Err(KernelError::op("add to map SERVICES", service, e)),
            _ => Ok(true),
        }
    }

    /// Takes in the flows of all known services in the network namespace of this thread; returns how many
    /// were new.
    pub(super) fn adopt(&mut self) -> Result<u64, KernelError> {
        self.may_miss_ends = true;
        let scan = begin_scan(&mut self.ebpf, self.variant.adopt)?;
        finish_scan(scan, self.variant.adopt)
    }

    /// The flow with this cookie.
    pub(super) fn flow(&self, cookie: u64) -> Result<Option<Flow>, KernelError> {
        match self.slots.get(cookie) {
            Some(flow) => Ok(Some(flow)),
            None => lookup(&self.flows.map, &cookie, FLOWS),
        }
    }

    /// All flows of a service, of whatever class, by cookie. Walks both maps as a whole.
    pub(super) fn flows_of(&self, service: Service) -> Result<Vec<(u64, Flow)>, KernelError> {
        let mut flows = std::collections::HashMap::new();
        self.for_each_flow(|cookie, flow| {
            if flow.service.of_class(class::COUNTED) == key(service) {
                flows.insert(cookie, flow);
            }
        })?;
        Ok(flows.into_iter().collect())
    }

    /// Calls `each` for every flow, and twice for one that comes into another place meanwhile. Walks both maps as a whole.
    pub(super) fn for_each_flow(&self, mut each: impl FnMut(u64, Flow)) -> Result<(), KernelError> {
        self.slots.for_each(&mut each);
        self.flows.for_each(FLOWS, each)
    }

    /// Uncounts a flow; false if it was uncounted by itself meanwhile.
    pub(super) fn remove(&mut self, service: Service, cookie: u64) -> Result<bool, KernelError> {
        let order = Repair { cookie, remove: 1, ..Repair::new(key(service)) };
        self.repair(service, &order)
    }

    /// Counts a flow in this class of the service from now on; false if it was, or has ended.
    pub(super) fn move_to(
        &mut self,
        service: Service,
        cookie: u64,
        class: Class,
    ) -> Result<bool, KernelError> {
        let order = Repair { cookie, ..Repair::new(key_of(service, class)) };
        self.repair(service, &order)
    }

    /// Adds to a counter of a service.
    pub(super) fn correct(
        &mut self,
        service: Service,
        class: Class,
        flows: i64,
    ) -> Result<(), KernelError> {
        let order = Repair { flows, ..Repair::new(key_of(service, class)) };
        self.repair(service, &order).map(drop)
    }

    /// Whether the named flow was removed.
    fn repair(&mut self, service: Service, order: &Repair) -> Result<bool, KernelError> {
        let fail = |e: Box<dyn std::error::Error + Send + Sync>| {
            KernelError::op("change the counters of", service, e)
        };
        let program: &mut SchedClassifier = program(&mut self.ebpf, self.variant.repair)?;
        let options = TestRunOptions { data_in: Some(order.as_bytes()), ..TestRunOptions::new() };
        let run = program.test_run(options).map_err(|e| fail(e.into()))?;
        match run.return_value {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(fail(format!("the program returned {other}: nothing was changed").into())),
        }
    }

    /// See [`super::Kernel::faults`].
    pub(super) fn faults(&self) -> Result<Faults, KernelError> {
        let get = |index| {
            self.faults.get(&index, 0).map_err(|e| KernelError::op("read map FAULTS at", index, e))
        };
        Ok(Faults {
            flows_full: get(fault::FLOWS_FULL)?,
            services_full: get(fault::SERVICES_FULL)?,
            events_lost: get(fault::EVENTS_LOST)?,
            no_netns: get(fault::NO_NETNS)?,
        })
    }
}

/// The key of a service in the maps.
pub(super) fn key(service: Service) -> ServiceKey {
    ServiceKey::new(service.netns, service.port)
}

/// The key of one class of its flows.
fn key_of(service: Service, class: Class) -> ServiceKey {
    key(service).of_class(number(class))
}

/// How the kernel programs know a class.
pub(super) fn number(class: Class) -> u16 {
    match class {
        Class::Counted => class::COUNTED,
        Class::Ignored => class::IGNORED,
        Class::Probe => class::PROBE,
        Class::Steered => class::STEERED,
    }
}

/// The counters as the rest of the agent sees them; `forgiven` of the lost flows are accounted for.
pub(super) fn tracked(counts: Option<&ServiceCounts>, forgiven: u64) -> Tracked {
    let Some(counts) = counts else { return Tracked::default() };
    let seen = counts.last_new_ns != 0;
    Tracked {
        known: true,
        flows: counts.flows,
        accepted: counts.accepted,
        lost: counts.lost.saturating_sub(forgiven),
        last_new: seen.then(|| Boot::from_nanos(counts.last_new_ns)),
        last_peer: seen.then(|| address(counts.last_peer)),
    }
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;

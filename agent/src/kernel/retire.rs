//! The retire programs and their maps, from the agent's side.

use std::{collections::BTreeSet, sync::Mutex, time::Duration};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{HashMap, MapData, MapError, ProgramArray, SockHash},
    programs::{Iter, ProgramType, SkMsg, SockOps},
    sys::{BpfHelper, is_helper_supported},
};
use drainctl_common::{ServiceKey, retire::Rule, track::next};

use super::{
    Followed, KernelError, RetireLacks, RetireOrder, explain,
    followed::{Flows, service_of},
    linux::lock,
    loaded::{begin_scan, finish_scan, is_missing, map, program},
    netns::Namespaces,
    objects::RETIRE,
    offsets::{Offsets, RetireOffsets},
    pins::Pins,
    scans::Scans,
    slots::SLOTS,
    sys,
    tracker::{FLOWS, Sizes, Tracker, key},
    walk::Walkable,
};
use crate::{drain::Service, failpoint};

/// Maps that the next agent goes on with.
const PINNED: [&str; 3] = ["FOLLOWED", "RETIRING", "SOCKETS"];

/// Retiring on this machine, or why it is not possible.
pub(super) struct Retiring {
    loaded: Result<Loaded, String>,
    scans: Scans,
}

/// What is there where retiring is possible.
struct Loaded {
    programs: Mutex<Programs>,
    flows: Flows,
}

impl Retiring {
    /// Loads the programs if this kernel takes them.
    pub(super) fn start(
        pins: &Pins,
        sizes: Sizes,
        offsets: &Offsets,
        tracker: ProgramArray<MapData>,
    ) -> Self {
        let loaded = Loaded::start(pins, sizes, offsets, tracker);
        let loaded = loaded.map_err(|error| {
            let reason = explain(&error);
            tracing::warn!(
                reason,
                "connections cannot be told to leave on this machine; drainctl doctor says what the kernel lacks"
            );
            reason
        });
        Self { loaded, scans: Scans::default() }
    }

    /// See [`Kernel::retire`](super::Kernel::retire).
    pub(super) fn retire(
        &self,
        service: Service,
        order: &RetireOrder,
        namespaces: &Namespaces,
        tracker: &Mutex<Tracker>,
    ) -> Result<(), KernelError> {
        let Ok(Loaded { programs, .. }) = &self.loaded else { return Ok(()) };
        lock(programs).order(service, order)?;
        failpoint::pass("retire: rule written");
        if self.begin(service, programs)? {
            lock(tracker).join_new(service, true)?;
        }
        self.scans.scan_if_due(service, || {
            // No lock is held while the kernel goes through its table: other services have rounds and gates.
            namespaces.inside(service.netns, || {
                let scan = begin_scan(&mut lock(programs).ebpf, "join")?;
                finish_scan(scan, "join")
            })
        })?;
        failpoint::pass("retire: joined");
        Ok(())
    }

    /// See [`Kernel::followed`](super::Kernel::followed).
    pub(super) fn followed(&self, service: Service) -> Result<Vec<Followed>, KernelError> {
        match &self.loaded {
            Ok(Loaded { flows, .. }) => flows.of(service),
            Err(_) => Ok(Vec::new()),
        }
    }

    /// See [`Kernel::unfollow`](super::Kernel::unfollow).
    pub(super) fn unfollow(&self, cookies: &[u64]) -> Result<(), KernelError> {
        match &self.loaded {
            Ok(Loaded { flows, .. }) => flows.forget(cookies),
            Err(_) => Ok(()),
        }
    }

    /// See [`Kernel::restore`](super::Kernel::restore).
    pub(super) fn restore(
        &self,
        service: Service,
        tracker: &Mutex<Tracker>,
    ) -> Result<(), KernelError> {
        let Ok(Loaded { programs, flows }) = &self.loaded else { return Ok(()) };
        // Should this come to no end, the next drain has new connections join again.
        self.scans.begin_anew(service);
        // Nobody joins any more, nobody is told any more; then those programs end that are still at it.
        lock(tracker).join_new(service, false)?;
        lock(programs).revoke(service)?;
        failpoint::pass("restore: revoked");
        sys::settle();
        let cookies: Vec<u64> = flows.of(service)?.iter().map(|flow| flow.cookie).collect();
        // Where none is followed, no program writes to any.
        if !cookies.is_empty() {
            lock(programs).let_go(&cookies)?;
            sys::settle(); // A program may still write to what is removed now.
            flows.forget(&cookies)?;
        }
        failpoint::pass("restore: let go");
        self.end(service, programs)
    }

    /// Notes the service; whether it was not scanned yet. As long as any is noted, the tracker goes on here: both under
    /// one lock, or the end of the last would undo the beginning of the next.
    fn begin(&self, service: Service, programs: &Mutex<Programs>) -> Result<bool, KernelError> {
        let mut programs = lock(programs);
        let is_new = self.scans.begin(service);
        if is_new {
            programs.follow_tracker()?;
        }
        Ok(is_new)
    }

    fn end(&self, service: Service, programs: &Mutex<Programs>) -> Result<(), KernelError> {
        let mut programs = lock(programs);
        if self.scans.end(service) { programs.leave_tracker() } else { Ok(()) }
    }

    /// Services whose flows are told to leave, or in the sockhash.
    pub(super) fn services(&self) -> Result<BTreeSet<Service>, KernelError> {
        let Ok(Loaded { programs, flows }) = &self.loaded else { return Ok(BTreeSet::new()) };
        let programs = lock(programs);
        let rules = programs.retiring.keys();
        let mut services = rules
            .filter(|key| !matches!(key, Err(MapError::KeyNotFound))) // It ended while we walked.
            .map(|key| key.map(service_of))
            .collect::<Result<BTreeSet<_>, _>>()
            .map_err(|e| KernelError::op("read map", "RETIRING", e))?;
        services.extend(flows.services()?);
        Ok(services)
    }

    /// Nothing retires: new connections are not joined, even if an earlier agent left it so.
    pub(super) fn rest(&self) -> Result<(), KernelError> {
        match &self.loaded {
            Ok(Loaded { programs, .. }) => lock(programs).leave_tracker(),
            Err(_) => Ok(()),
        }
    }

    /// See [`Kernel::retire_lacks`](super::Kernel::retire_lacks).
    pub(super) fn lacks(&self) -> RetireLacks {
        RetireLacks { telling: self.loaded.as_ref().err().cloned() }
    }
}

/// The loaded programs.
struct Programs {
    ebpf: Ebpf,
    retiring: HashMap<MapData, ServiceKey, Rule>,
    sockets: SockHash<MapData, u64>,
    /// Where the tracker goes on.
    tracker: ProgramArray<MapData>,
}

impl Loaded {
    /// Loads the programs; `tracker` is where it goes on with them.
    fn start(
        pins: &Pins,
        sizes: Sizes,
        offsets: &Offsets,
        tracker: ProgramArray<MapData>,
    ) -> Result<Self, KernelError> {
        ensure_loops()?;
        let mut ebpf = load(pins, sizes, offsets)?;
        let btf =
            Btf::from_sys_fs().map_err(|e| KernelError::op("read", "BTF of the kernel", e))?;
        let sockets: SockHash<MapData, u64> = map(&mut ebpf, "SOCKETS", SockHash::try_from)?;
        let tell: &mut SkMsg = program(&mut ebpf, "tell")?;
        tell.load().map_err(|e| KernelError::op("load program", "tell", e))?;
        let link = tell.attach(sockets.fd()).and_then(|id| tell.take_link(id));
        // It stays when the agent goes. Sockets keep the program that was there when they joined.
        std::mem::forget(link.map_err(|e| KernelError::op("attach program", "tell", e))?);
        let join: &mut Iter = program(&mut ebpf, "join")?;
        join.load("tcp", &btf).map_err(|e| KernelError::op("load program", "join", e))?;
        for name in ["join_new", "ended"] {
            let after: &mut SockOps = program(&mut ebpf, name)?;
            after.load().map_err(|e| KernelError::op("load program", name, e))?;
        }
        let flows = Flows::new(map(&mut ebpf, "FOLLOWED", Walkable::new)?);
        let retiring = map(&mut ebpf, "RETIRING", HashMap::try_from)?;
        let programs = Programs { retiring, sockets, tracker, ebpf };
        Ok(Self { programs: Mutex::new(programs), flows })
    }
}

impl Programs {
    /// Sets what flows of the service are told, from their turn on.
    fn order(&mut self, service: Service, order: &RetireOrder) -> Result<(), KernelError> {
        let bit = |wanted, bit| if wanted { bit } else { 0 };
        let carried = bit(order.carried, Rule::CARRIED);
        let rule = Rule {
            until_ns: order.until.as_nanos(),
            start_ns: order.start.as_nanos(),
            spread_ns: nanos(order.spread),
            patient_until_ns: order.patient_until.as_nanos(),
            what: bit(order.http1, Rule::HTTP1) | bit(order.http2, Rule::HTTP2) | carried,
            zero: 0,
        };
        self.retiring
            .insert(key(service), rule, 0)
            .map_err(|e| KernelError::op("write the retire rule of", service, e))
    }

    /// Has the tracker go on here, as long as anything retires.
    fn follow_tracker(&mut self) -> Result<(), KernelError> {
        for (index, name) in [(next::ACCEPTED, "join_new"), (next::ENDED, "ended")] {
            let fail = |e: Box<dyn std::error::Error + Send + Sync>| {
                KernelError::op("hand to the tracker program", name, e)
            };
            let program: &mut SockOps = program(&mut self.ebpf, name)?;
            let fd = program.fd().map_err(|e| fail(e.into()))?;
            self.tracker.set(index, fd, 0).map_err(|e| fail(e.into()))?;
        }
        Ok(())
    }

    /// Nothing retires any more.
    fn leave_tracker(&mut self) -> Result<(), KernelError> {
        for index in [next::ACCEPTED, next::ENDED] {
            match self.tracker.clear_index(&index) {
                Err(e) if !is_missing(&e) => {
                    return Err(KernelError::op("take from the tracker program", index, e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Nothing of the service is told from the next message on.
    fn revoke(&mut self, service: Service) -> Result<(), KernelError> {
        match self.retiring.remove(&key(service)) {
            Err(e) if !is_missing(&e) => {
                Err(KernelError::op("remove the retire rule of", service, e))
            }
            _ => Ok(()),
        }
    }

    /// Sockets leave the sockhash.
    fn let_go(&mut self, cookies: &[u64]) -> Result<(), KernelError> {
        for cookie in cookies {
            match self.sockets.remove(cookie) {
                // It has ended, or never was in it.
                Err(e) if !is_missing(&e) => {
                    return Err(KernelError::op("remove from map SOCKETS flow", cookie, e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What a message holds is read in loops.
fn ensure_loops() -> Result<(), KernelError> {
    match is_helper_supported(ProgramType::SkMsg, BpfHelper::BPF_FUNC_loop) {
        Ok(true) => Ok(()),
        Ok(false) => Err(KernelError::TooOld { feature: "bpf_loop", since: "5.17" }),
        Err(e) => Err(KernelError::op("ask the kernel for", "bpf_loop", e)),
    }
}

fn load(pins: &Pins, sizes: Sizes, offsets: &Offsets) -> Result<Ebpf, KernelError> {
    let ours = RetireOffsets::read()?;
    let slots = sizes.slots(pins)?;
    let mut loader = EbpfLoader::new();
    pins.share(&mut loader, &PINNED);
    loader
        .btf(None) // The offsets below are all it needs.
        .override_global("OFF_SKC_NET", &offsets.skc_net, true)
        .override_global("OFF_NET_INUM", &offsets.net_inum, true)
        .override_global("OFF_SKC_STATE", &offsets.skc_state, true)
        .override_global("OFF_INET_SPORT", &offsets.inet_sport, true)
        .override_global("OFF_SKC_COOKIE", &offsets.skc_cookie, true)
        .override_global("OFF_SK_USER_DATA", &ours.sk_user_data, true)
        .override_global("OFF_SK_FLAGS", &ours.sk_flags, true)
        .override_global("SOCK_ZEROCOPY", &ours.sock_zerocopy, true)
        .override_global("OFF_COPIED_SEQ", &ours.copied_seq, true)
        .override_global("OFF_SND_UNA", &ours.snd_una, true)
        .override_global("OFF_WRITE_SEQ", &ours.write_seq, true)
        .override_global("OFF_SK_WMEM_QUEUED", &ours.sk_wmem_queued, true)
        .override_global("OFF_SK_SNDBUF", &ours.sk_sndbuf, true)
        .override_global("OFF_BYTES_ACKED", &ours.bytes_acked, true)
        .override_global("OFF_LRCVTIME", &ours.lrcvtime, true)
        .override_global("OFF_LSNDTIME", &ours.lsndtime, true)
        .override_global("OFF_SND_NXT", &ours.snd_nxt, true)
        .override_global("OFF_NOTSENT_LOWAT", &ours.notsent_lowat, true)
        .override_global("OFF_NET_NOTSENT_LOWAT", &ours.net_notsent_lowat, true)
        .override_global("OFF_BYTES_RECEIVED", &ours.bytes_received, true)
        .override_global("SLOT_MASK", &(slots - 1), true)
        .map_pin_path(SLOTS, pins.path(SLOTS))
        .map_max_entries(SLOTS, slots)
        .map_pin_path(FLOWS, pins.path(FLOWS))
        .map_max_entries(FLOWS, sizes.max_flows)
        .map_max_entries("FOLLOWED", sizes.max_flows)
        .map_max_entries("SOCKETS", sizes.max_flows)
        .map_max_entries("RETIRING", sizes.max_services)
        .load(RETIRE.bytes()?)
        .map_err(|e| KernelError::op("load", "the retire programs", e))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

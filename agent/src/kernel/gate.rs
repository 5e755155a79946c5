//! The gates: one `sk_lookup` program instance for each network namespace that drains, and loaded spares,
//! so that a drain only writes a rule and attaches.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::CStr,
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
    sync::Arc,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap as BpfHashMap, MapData},
    programs::{SkLookup, sk_lookup::SkLookupLinkId},
};
use drainctl_common::gate::{Rule, RuleKey};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::{KernelError, objects::GATE, tracker::is_missing};
use crate::drain::{Boot, Service};

/// How many instances are kept loaded. Each costs about 30 ms to load and 10 KiB of kernel memory.
const SPARES: usize = 4;
/// Maps that all instances share.
const SHARED: [&str; 2] = ["RULES", "REJECTED"];

/// All gates of the node. When it is dropped, every gate opens.
pub(super) struct Gates {
    /// A bpffs of our own that is mounted nowhere: instances find the shared maps in it.
    bpffs: Arc<OwnedFd>,
    rules: BpfHashMap<MapData, RuleKey, Rule>,
    rejected: BpfHashMap<MapData, RuleKey, u64>,
    spares: Vec<Instance>,
    attached: HashMap<u32, Attached>,
    next_slot: u32,
}

/// A loaded gate program.
pub(super) struct Instance {
    slot: u32,
    ebpf: Ebpf,
}

/// A gate program at work.
struct Attached {
    instance: Instance,
    link: SkLookupLinkId,
    /// Tells a new namespace with an old inode number from the one this is attached to.
    cookie: Option<u64>,
    ports: BTreeSet<u16>,
}

impl Gates {
    /// Loads the spares.
    pub(super) fn load() -> Result<Self, KernelError> {
        let bpffs = Arc::new(private_bpffs()?);
        let mut first = load_instance(&bpffs, 0)?;
        let rules = shared(&mut first.ebpf, SHARED[0])?;
        let rejected = shared(&mut first.ebpf, SHARED[1])?;
        let rules =
            BpfHashMap::try_from(rules).map_err(|e| KernelError::op("use map", SHARED[0], e))?;
        let rejected =
            BpfHashMap::try_from(rejected).map_err(|e| KernelError::op("use map", SHARED[1], e))?;
        let mut gates = Self {
            bpffs,
            rules,
            rejected,
            spares: vec![first],
            attached: HashMap::new(),
            next_slot: 1,
        };
        while let Some(order) = gates.order_spare() {
            gates.spares.push(order.load()?);
        }
        Ok(gates)
    }

    /// If there are too few spares: what to load, outside of any lock, for [`Self::add_spare`].
    pub(super) fn order_spare(&mut self) -> Option<SpareOrder> {
        if self.spares.len() >= SPARES {
            return None;
        }
        let slot = self.next_slot;
        self.next_slot += 1;
        Some(SpareOrder { bpffs: Arc::clone(&self.bpffs), slot })
    }

    /// Keeps a loaded instance for the next drain; one too many is unloaded.
    pub(super) fn add_spare(&mut self, instance: Instance) {
        if self.spares.len() < SPARES {
            self.spares.push(instance);
        }
    }

    /// Refuses new connections of the service until `lease_until`. `netns` is its open namespace, `cookie`
    /// that namespace's identity.
    pub(super) fn close(
        &mut self,
        service: Service,
        lease_until: Boot,
        netns: &OwnedFd,
        cookie: Option<u64>,
    ) -> Result<(), KernelError> {
        // An attachment to a dead namespace that had the same number is no gate of this one.
        if self.attached.get(&service.netns).is_some_and(|a| a.cookie != cookie) {
            self.release(service.netns);
        }
        let instance = match self.attached.get(&service.netns) {
            Some(attached) => return self.add_port(attached.instance.slot, service, lease_until),
            None => self.spare()?,
        };
        // The rule first: a program without a rule passes everything, so nothing is half-done in between.
        if let Err(e) = self.write(RuleKey::new(instance.slot, service.port), lease_until) {
            self.add_spare(instance);
            return Err(e);
        }
        self.attach(instance, service, netns, cookie)
    }

    fn add_port(
        &mut self,
        slot: u32,
        service: Service,
        lease_until: Boot,
    ) -> Result<(), KernelError> {
        self.write(RuleKey::new(slot, service.port), lease_until)?;
        if let Some(attached) = self.attached.get_mut(&service.netns) {
            attached.ports.insert(service.port);
        }
        Ok(())
    }

    fn attach(
        &mut self,
        mut instance: Instance,
        service: Service,
        netns: &OwnedFd,
        cookie: Option<u64>,
    ) -> Result<(), KernelError> {
        let link = instance.program().and_then(|p| {
            p.attach(netns).map_err(|e| KernelError::op("attach the gate for", service, e))
        });
        match link {
            Ok(link) => {
                let ports = BTreeSet::from([service.port]);
                self.attached.insert(service.netns, Attached { instance, link, cookie, ports });
                Ok(())
            }
            Err(e) => {
                // With a rule left in its slot, it would refuse for the next drain: then it is unloaded.
                self.erase(RuleKey::new(instance.slot, service.port))?;
                self.add_spare(instance);
                Err(e)
            }
        }
    }

    /// Moves the lease of a closed gate.
    pub(super) fn renew(&mut self, service: Service, lease_until: Boot) -> Result<(), KernelError> {
        let key = self.key(service).ok_or_else(|| {
            KernelError::op("renew the lease of", service, "its gate is not closed")
        })?;
        self.rules
            .insert(key, Rule { lease_until_ns: lease_until.as_nanos() }, 0)
            .map_err(|e| KernelError::op("renew the lease of", service, e))
    }

    /// Lets new connections in again; the last port of a namespace detaches the program.
    pub(super) fn open(&mut self, service: Service) -> Result<(), KernelError> {
        let Some(key) = self.key(service) else { return Ok(()) };
        self.erase(key)?;
        let Some(attached) = self.attached.get_mut(&service.netns) else { return Ok(()) };
        attached.ports.remove(&service.port);
        if attached.ports.is_empty() {
            self.release(service.netns);
        }
        Ok(())
    }

    /// Lookups refused since the gate closed.
    pub(super) fn rejected(&self, service: Service) -> Result<u64, KernelError> {
        let Some(key) = self.key(service) else { return Ok(0) };
        self.rejected.get(&key, 0).map_err(|e| KernelError::op("read the counter of", service, e))
    }

    fn key(&self, service: Service) -> Option<RuleKey> {
        let attached = self.attached.get(&service.netns)?;
        attached
            .ports
            .contains(&service.port)
            .then(|| RuleKey::new(attached.instance.slot, service.port))
    }

    fn spare(&mut self) -> Result<Instance, KernelError> {
        if let Some(spare) = self.spares.pop() {
            return Ok(spare);
        }
        let order = self.order_spare();
        let order =
            order.ok_or_else(|| KernelError::op("find", "a spare gate", "none is loaded"))?;
        order.load()
    }

    fn write(&mut self, key: RuleKey, lease_until: Boot) -> Result<(), KernelError> {
        self.rejected
            .insert(key, 0, 0)
            .and_then(|()| {
                self.rules.insert(key, Rule { lease_until_ns: lease_until.as_nanos() }, 0)
            })
            .map_err(|e| KernelError::op("write the gate's rule for port", key.port, e))
    }

    /// A rule that somebody else has removed is no error: the gate is to open, and it is open.
    fn erase(&mut self, key: RuleKey) -> Result<(), KernelError> {
        // The rule is what refuses; the counter may go later.
        let done = self.rules.remove(&key);
        let _ = self.rejected.remove(&key);
        match done {
            Err(e) if !is_missing(&e) => {
                Err(KernelError::op("remove the gate's rule for port", key.port, e))
            }
            _ => Ok(()),
        }
    }

    /// Detaches the program of a namespace, and makes it a spare again if nothing is left of it.
    fn release(&mut self, netns: u32) {
        let Some(Attached { mut instance, link, ports, .. }) = self.attached.remove(&netns) else {
            return;
        };
        let slot = instance.slot;
        let erased = ports.into_iter().map(|port| self.erase(RuleKey::new(slot, port)));
        let erased = erased.fold(Ok(()), Result::and);
        // Of a dead namespace the kernel has detached it already.
        let detached = instance.program().and_then(|p| {
            p.detach(link)
                .map_err(|e| KernelError::op("detach the gate of network namespace", netns, e))
        });
        match detached.and(erased) {
            Ok(()) => self.add_spare(instance),
            // Its link is closed with it, and no other instance ever has its slot.
            Err(e) => tracing::warn!(netns, error = %e, "a used gate is not clean: unloading it"),
        }
    }
}

/// An instance to be loaded.
pub(super) struct SpareOrder {
    bpffs: Arc<OwnedFd>,
    slot: u32,
}

impl SpareOrder {
    /// Loads it: some 30 ms.
    pub(super) fn load(self) -> Result<Instance, KernelError> {
        load_instance(&self.bpffs, self.slot)
    }
}

impl Instance {
    fn program(&mut self) -> Result<&mut SkLookup, KernelError> {
        let missing = || KernelError::op("find program", "gate", "not in the object");
        let program = self.ebpf.program_mut("gate").ok_or_else(missing)?;
        program.try_into().map_err(|e| KernelError::op("use program", "gate", e))
    }
}

fn load_instance(bpffs: &OwnedFd, slot: u32) -> Result<Instance, KernelError> {
    let mut loader = EbpfLoader::new();
    // The gate needs no type information, and reading that of the whole kernel takes time and memory.
    loader.btf(None).override_global("GATE_SLOT", &slot, true);
    for name in SHARED {
        loader.map_pin_path(name, path(bpffs, name));
    }
    let ebpf = loader.load(GATE.bytes()?).map_err(|e| KernelError::op("load", "the gate", e))?;
    let mut instance = Instance { slot, ebpf };
    instance.program()?.load().map_err(|e| KernelError::op("load program", "gate", e))?;
    Ok(instance)
}

fn shared(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, KernelError> {
    ebpf.take_map(name).ok_or_else(|| KernelError::op("find map", name, "not in the object"))
}

/// Makes a bpffs that no path leads to; it vanishes with the agent.
fn private_bpffs() -> Result<OwnedFd, KernelError> {
    const BPF: &CStr = c"bpf";
    let fail = |e| KernelError::op("mount", "a private bpffs", e);
    let fs = fsopen(BPF, FsOpenFlags::FSOPEN_CLOEXEC).map_err(fail)?;
    fsconfig_create(&fs).map_err(fail)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(fail)
}

fn path(bpffs: &OwnedFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", bpffs.as_raw_fd()))
}

//! The gates: one `sk_lookup` program instance for each network namespace that drains, and loaded spares,
//! so that a drain only writes a rule and attaches.

mod targets;

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap as BpfHashMap, MapData, SockHash},
    programs::{SkLookup, sk_lookup::SkLookupLinkId},
};
use drainctl_common::gate::{Rule, RuleKey, SteerKey};

use super::{
    KernelError,
    linux::lock,
    loaded::{is_missing, map},
    objects::GATE,
    pins::Pins,
};
use crate::drain::{Boot, Service};

/// How many instances are kept loaded. Each costs about 30 ms to load and 10 KiB of kernel memory.
const SPARES: usize = 4;
/// Maps that all instances share.
const SHARED: [&str; 4] = ["RULES", "REJECTED", "TARGETS", "STEERED"];

/// All gates of the node. When it is dropped, every gate opens.
pub(super) struct Gates {
    /// Where instances find the shared maps.
    pins: Pins,
    rules: BpfHashMap<MapData, RuleKey, Rule>,
    rejected: BpfHashMap<MapData, RuleKey, u64>,
    targets: SockHash<MapData, SteerKey>,
    steered: BpfHashMap<MapData, RuleKey, u64>,
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
    /// The rule of each port, as it was written last.
    ports: BTreeMap<u16, Rule>,
}

impl Gates {
    /// Loads the spares.
    pub(super) fn load(pins: Pins) -> Result<Self, KernelError> {
        let mut first = load_instance(&pins, 0)?;
        let mut gates = Self {
            pins,
            rules: map(&mut first.ebpf, SHARED[0], BpfHashMap::try_from)?,
            rejected: map(&mut first.ebpf, SHARED[1], BpfHashMap::try_from)?,
            targets: map(&mut first.ebpf, SHARED[2], SockHash::try_from)?,
            steered: map(&mut first.ebpf, SHARED[3], BpfHashMap::try_from)?,
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
        Some(SpareOrder { pins: self.pins.clone(), slot })
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
        let before = self.rule(service).map(|(_, rule)| rule);
        let rule = before.unwrap_or_else(|| open_rule(service));
        let flags = rule.flags | Rule::CLOSED;
        let rule = Rule { lease_until_ns: lease_until.as_nanos(), flags, ..rule };
        self.set(service, rule, netns, cookie)
    }

    /// Writes the rule of a service, behind a program that is attached to its namespace.
    fn set(
        &mut self,
        service: Service,
        rule: Rule,
        netns: &OwnedFd,
        cookie: Option<u64>,
    ) -> Result<(), KernelError> {
        if let Some(attached) = self.attached.get(&service.netns) {
            let key = RuleKey::new(attached.instance.slot, service.port);
            let is_new = !attached.ports.contains_key(&service.port);
            return self.write(key, rule, is_new).map(|()| self.note(service, rule));
        }
        let instance = self.spare()?;
        // The rule first: a program without a rule passes everything, so nothing is half-done in between.
        if let Err(e) = self.write(RuleKey::new(instance.slot, service.port), rule, true) {
            self.add_spare(instance);
            return Err(e);
        }
        self.attach(instance, service, netns, cookie).map(|()| self.note(service, rule))
    }

    fn note(&mut self, service: Service, rule: Rule) {
        if let Some(attached) = self.attached.get_mut(&service.netns) {
            attached.ports.insert(service.port, rule);
        }
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
                let attached = Attached { instance, link, cookie, ports: BTreeMap::new() };
                self.attached.insert(service.netns, attached);
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
        let (key, rule) = self.rule(service).ok_or_else(|| {
            KernelError::op("renew the lease of", service, "its gate is not closed")
        })?;
        let rule = Rule { lease_until_ns: lease_until.as_nanos(), ..rule };
        self.write(key, rule, false).map(|()| self.note(service, rule))
    }

    /// Lets new connections in again; the last port of a namespace detaches the program.
    pub(super) fn open(&mut self, service: Service) -> Result<(), KernelError> {
        let Some((key, _)) = self.rule(service) else { return Ok(()) };
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
        let Some((key, _)) = self.rule(service) else { return Ok(0) };
        self.rejected.get(&key, 0).map_err(|e| KernelError::op("read the counter of", service, e))
    }

    /// The rule of a service and where it stands, if it has one.
    fn rule(&self, service: Service) -> Option<(RuleKey, Rule)> {
        let attached = self.attached.get(&service.netns)?;
        let rule = attached.ports.get(&service.port)?;
        Some((RuleKey::new(attached.instance.slot, service.port), *rule))
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

    /// Writes a rule, and for a new one its counter first.
    fn write(&mut self, key: RuleKey, rule: Rule, is_new: bool) -> Result<(), KernelError> {
        let counted = if is_new {
            self.rejected.insert(key, 0, 0).and_then(|()| self.steered.insert(key, 0, 0))
        } else {
            Ok(())
        };
        counted
            .and_then(|()| self.rules.insert(key, rule, 0))
            .map_err(|e| KernelError::op("write the gate's rule for port", key.port, e))
    }

    /// A rule that somebody else has removed is no error: the gate is to open, and it is open.
    fn erase(&mut self, key: RuleKey) -> Result<(), KernelError> {
        // The rule is what refuses; the rest may go later.
        let done = self.rules.remove(&key);
        let _ = self.rejected.remove(&key);
        let _ = self.steered.remove(&key);
        match done {
            Err(e) if !is_missing(&e) => {
                Err(KernelError::op("remove the gate's rule for port", key.port, e))
            }
            _ => self.clear_targets(key, 0..=u16::MAX),
        }
    }

    /// Detaches the program of a namespace, and makes it a spare again if nothing is left of it.
    fn release(&mut self, netns: u32) {
        let Some(Attached { mut instance, link, ports, .. }) = self.attached.remove(&netns) else {
            return;
        };
        let slot = instance.slot;
        let erased = ports.into_keys().map(|port| self.erase(RuleKey::new(slot, port)));
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

/// Loads a spare in the background, if one was used. Nothing here may fail its caller, whose gate is closed already.
pub(super) fn refill(gates: &Arc<Mutex<Gates>>) {
    let gates = Arc::clone(gates);
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

/// A rule that refuses nobody yet.
fn open_rule(service: Service) -> Rule {
    Rule {
        lease_until_ns: 0,
        keep_clients_ns: 0,
        netns: service.netns,
        flags: 0,
        targets: 0,
        zero: 0,
    }
}

/// An instance to be loaded.
pub(super) struct SpareOrder {
    pins: Pins,
    slot: u32,
}

impl SpareOrder {
    /// Loads it: some 30 ms.
    pub(super) fn load(self) -> Result<Instance, KernelError> {
        load_instance(&self.pins, self.slot)
    }
}

impl Instance {
    fn program(&mut self) -> Result<&mut SkLookup, KernelError> {
        let missing = || KernelError::op("find program", "gate", "not in the object");
        let program = self.ebpf.program_mut("gate").ok_or_else(missing)?;
        program.try_into().map_err(|e| KernelError::op("use program", "gate", e))
    }
}

fn load_instance(pins: &Pins, slot: u32) -> Result<Instance, KernelError> {
    let mut loader = EbpfLoader::new();
    // The gate needs no type information, and reading that of the whole kernel takes time and memory.
    loader.btf(None).override_global("GATE_SLOT", &slot, true);
    for name in SHARED {
        loader.map_pin_path(name, pins.path(name));
    }
    let ebpf = loader.load(GATE.bytes()?).map_err(|e| KernelError::op("load", "the gate", e))?;
    let mut instance = Instance { slot, ebpf };
    instance.program()?.load().map_err(|e| KernelError::op("load program", "gate", e))?;
    Ok(instance)
}

//! The gates: one `sk_lookup` program instance for each network namespace that drains, and loaded spares,
//! so that a drain only writes a rule and attaches.

mod counters;
mod instance;
mod spares;
mod targets;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    os::fd::OwnedFd,
    sync::Arc,
};

use aya::maps::{Array, HashMap as BpfHashMap, MapData, SockHash};
use drainctl_common::gate::{Counts, Rule, RuleKey, SteerKey};

pub(super) use self::spares::refill;
use self::{
    counters::Counters,
    instance::{Instance, load_instance},
    spares::SPARES,
};
use super::{
    KernelError,
    handshakes::Handshakes,
    loaded::{is_missing, map},
    pins::{GatePin, Pins, detach, keep, replace},
    settle::Unsettled,
};
use crate::{
    drain::{Admission, Boot, Service},
    failpoint,
};

/// All gates of the node.
pub(super) struct Gates {
    /// Where instances find the shared maps, and gates are kept.
    pins: Pins,
    rules: BpfHashMap<MapData, RuleKey, Rule>,
    counters: Counters,
    targets: SockHash<MapData, SteerKey>,
    spares: Vec<Instance>,
    attached: HashMap<u32, Attached>,
    handshakes: Arc<Handshakes>,
    unsettled: Arc<Unsettled>,
    next_slot: u32,
}

/// A gate program at work.
struct Attached {
    instance: Instance,
    pin: GatePin,
    /// The rule of each port, as it was written last.
    ports: BTreeMap<u16, Rule>,
}

impl Gates {
    /// Loads the spares, and takes over the gates that an earlier agent left in namespaces that `is_alive` knows.
    pub(super) fn load(
        pins: Pins,
        handshakes: Arc<Handshakes>,
        unsettled: Arc<Unsettled>,
        is_alive: impl Fn(&GatePin) -> Result<bool, KernelError>,
    ) -> Result<Self, KernelError> {
        let left = pins.gates()?;
        let next_slot = left.iter().map(|pin| pin.slot + 1).max().unwrap_or(0);
        let mut first = load_instance(&pins, next_slot)?;
        let mut gates = Self {
            rules: map(&mut first.ebpf, "RULES", BpfHashMap::try_from)?,
            counters: Counters::new(map(&mut first.ebpf, "GATE_COUNTS", Array::try_from)?),
            pins,
            targets: map(&mut first.ebpf, "TARGETS", SockHash::try_from)?,
            spares: vec![first],
            attached: HashMap::new(),
            handshakes,
            unsettled,
            next_slot: next_slot + 1,
        };
        gates.take_over(left, is_alive)?;
        while let Some(order) = gates.order_spare(SPARES) {
            gates.spares.push(order.load()?);
        }
        Ok(gates)
    }

    fn take_over(
        &mut self,
        left: Vec<GatePin>,
        is_alive: impl Fn(&GatePin) -> Result<bool, KernelError>,
    ) -> Result<(), KernelError> {
        let mut rules: HashMap<u32, BTreeMap<u16, Rule>> = HashMap::new();
        for entry in self.rules.iter() {
            let (key, rule) = entry.map_err(|e| KernelError::op("read map", "RULES", e))?;
            rules.entry(key.slot).or_default().insert(key.port, rule);
        }
        for pin in left {
            let ports = rules.remove(&pin.slot).unwrap_or_default();
            let wanted = !ports.is_empty() && is_alive(&pin)?;
            let instance = if wanted { self.go_on(&pin)? } else { None };
            if let Some(instance) = instance {
                failpoint::pass("adopt: gate replaced");
                let netns = pin.netns;
                let attached = Attached { instance, pin, ports: BTreeMap::new() };
                self.attached.insert(netns, attached);
                // Who has closed it did not wait, perhaps.
                self.unsettled.closed(netns);
                for (port, rule) in ports {
                    self.note(Service { netns, port }, rule);
                }
            } else {
                detach(&self.pins.gate(&pin))?;
                rules.insert(pin.slot, ports);
            }
        }
        // What is left belongs to no gate, and must not refuse for the next one with its slot.
        for (slot, ports) in rules {
            for port in ports.into_keys() {
                self.erase(RuleKey::new(slot, port))?;
            }
        }
        Ok(())
    }

    /// Puts a program of ours behind the gate of an earlier agent, unless its namespace is gone: before Linux 5.14 another
    /// one can have its number, and only the link tells.
    fn go_on(&self, pin: &GatePin) -> Result<Option<Instance>, KernelError> {
        // Loaded first: the old program refuses until the new one does.
        let mut instance = load_instance(&self.pins, pin.slot)?;
        let replaced = replace(&self.pins.gate(pin), instance.fd()?)?;
        Ok(replaced.then_some(instance))
    }

    /// Every service with a rule, and until when its gate is closed if it is.
    pub(super) fn services(&self) -> Vec<(Service, Option<Boot>)> {
        let all = self.attached.iter().flat_map(|(&netns, attached)| {
            attached.ports.iter().map(move |(&port, rule)| {
                let closed = rule.flags & Rule::CLOSED != 0;
                let until = closed.then(|| Boot::from_nanos(rule.lease_until_ns));
                (Service { netns, port }, until)
            })
        });
        all.collect()
    }

    /// Detaches the gates of namespaces that are gone.
    pub(super) fn forget_dead(&mut self, alive: &HashSet<u32>) {
        let dead: Vec<u32> =
            self.attached.keys().copied().filter(|netns| !alive.contains(netns)).collect();
        for netns in dead {
            self.release(netns);
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
        let rule = self.rule_to_change(service, cookie)?;
        let flags = rule.flags | Rule::CLOSED;
        let rule = Rule { lease_until_ns: lease_until.as_nanos(), flags, ..rule };
        self.set(service, rule, netns, cookie)
    }

    /// Treats clients by their address until `lease_until`, and refuses nobody else.
    pub(super) fn guard(
        &mut self,
        service: Service,
        admission: &Admission,
        lease_until: Boot,
        netns: &OwnedFd,
        cookie: Option<u64>,
    ) -> Result<(), KernelError> {
        let rule = self.rule_to_change(service, cookie)?;
        let lists = if admission.has_lists() { Rule::LISTS } else { 0 };
        let keep_clients = admission.keep_clients().unwrap_or_default();
        let rule = Rule {
            lease_until_ns: lease_until.as_nanos(),
            keep_clients_ns: keep_clients.as_nanos() as u64, // A day at most.
            flags: rule.flags | lists,
            ..rule
        };
        self.set(service, rule, netns, cookie)
    }

    /// The rule of a service, or one that does nothing yet, in the namespace with this identity.
    fn rule_to_change(
        &mut self,
        service: Service,
        cookie: Option<u64>,
    ) -> Result<Rule, KernelError> {
        // An attachment to a dead namespace that had the same number is no gate of this one.
        if self.attached.get(&service.netns).is_some_and(|a| a.pin.cookie != cookie) {
            self.release(service.netns);
        }
        match self.rule(service) {
            Some((_, rule)) => Ok(rule),
            None => self.open_rule(service),
        }
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
            return self.write(key, rule).map(|()| self.note(service, rule));
        }
        let instance = self.spare()?;
        // The rule first: a program without a rule passes everything, so nothing is half-done in between.
        if let Err(e) = self.write(RuleKey::new(instance.slot, service.port), rule) {
            self.add_spare(instance);
            return Err(e);
        }
        failpoint::pass("gate: rule written");
        self.attach(instance, service, netns, cookie).map(|()| self.note(service, rule))?;
        failpoint::pass("gate: pinned");
        Ok(())
    }

    /// Remembers a rule that is written.
    fn note(&mut self, service: Service, rule: Rule) {
        if rule.gives_all_away() {
            let lease_until = Boot::from_nanos(rule.lease_until_ns);
            let closed = || self.unsettled.closed(service.netns);
            self.handshakes.give_away(service, lease_until, closed);
        } else {
            self.handshakes.keep(service);
        }
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
        let pin = GatePin { slot: instance.slot, netns: service.netns, cookie };
        match instance.attach(service, netns).and_then(|link| keep(link, &self.pins.gate(&pin))) {
            Ok(()) => {
                let attached = Attached { instance, pin, ports: BTreeMap::new() };
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
        self.write(key, rule).map(|()| self.note(service, rule))
    }

    /// Lets new connections in again; the last port of a namespace detaches the program.
    pub(super) fn open(&mut self, service: Service) -> Result<(), KernelError> {
        let Some((key, _)) = self.rule(service) else { return Ok(()) };
        self.handshakes.keep(service);
        self.erase(key)?;
        failpoint::pass("gate: rule removed");
        let Some(attached) = self.attached.get_mut(&service.netns) else { return Ok(()) };
        attached.ports.remove(&service.port);
        if attached.ports.is_empty() {
            self.release(service.netns);
        }
        Ok(())
    }

    /// What the gate has done since the service has a rule; all zero for one that has none.
    pub(super) fn counts(&self, service: Service) -> Result<Counts, KernelError> {
        let Some((_, rule)) = self.rule(service) else { return Ok(Counts::default()) };
        let counts = self.counters.get(rule.counts);
        counts.map_err(|e| KernelError::op("read the counters of", service, e))
    }

    /// Whether the gate does anything for this service.
    pub(super) fn has_rule(&self, service: Service) -> bool {
        self.rule(service).is_some()
    }

    /// The rule of a service and where it stands, if it has one.
    fn rule(&self, service: Service) -> Option<(RuleKey, Rule)> {
        let attached = self.attached.get(&service.netns)?;
        let rule = attached.ports.get(&service.port)?;
        Some((RuleKey::new(attached.instance.slot, service.port), *rule))
    }

    /// A rule that refuses nobody yet, with counters of its own.
    fn open_rule(&mut self, service: Service) -> Result<Rule, KernelError> {
        let rules = self.attached.values().flat_map(|attached| attached.ports.values());
        let used: HashSet<u32> = rules.map(|rule| rule.counts).collect();
        let counts = self.counters.begin(&used)?;
        let netns = service.netns;
        Ok(Rule { netns, counts, ..Rule::default() })
    }

    fn write(&mut self, key: RuleKey, rule: Rule) -> Result<(), KernelError> {
        self.rules
            .insert(key, rule, 0)
            .map_err(|e| KernelError::op("write the gate's rule for port", key.port, e))
    }

    /// A rule that somebody else has removed is no error: the gate is to open, and it is open.
    fn erase(&mut self, key: RuleKey) -> Result<(), KernelError> {
        match self.rules.remove(&key) {
            Err(e) if !is_missing(&e) => {
                Err(KernelError::op("remove the gate's rule for port", key.port, e))
            }
            _ => self.clear_targets(key, 0..=u16::MAX),
        }
    }

    /// Detaches the program of a namespace, and makes it a spare again if nothing is left of it.
    fn release(&mut self, netns: u32) {
        let Some(Attached { instance, pin, ports }) = self.attached.remove(&netns) else {
            return;
        };
        let slot = instance.slot;
        ports.keys().for_each(|port| self.handshakes.keep(Service { netns, port: *port }));
        let erased = ports.into_keys().map(|port| self.erase(RuleKey::new(slot, port)));
        let erased = erased.fold(Ok(()), Result::and);
        match detach(&self.pins.gate(&pin)).and(erased) {
            Ok(()) => self.add_spare(instance),
            // The next agent cleans up. No other instance of this one has its slot.
            Err(e) => tracing::warn!(netns, error = %e, "a used gate is not clean: unloading it"),
        }
    }
}

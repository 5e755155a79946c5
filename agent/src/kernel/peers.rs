//! Clients by their address: how each service treats them, and when each last had a flow.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Mutex,
    time::Duration,
};

use aya::maps::lpm_trie::Key;
use drainctl_common::peers::{Peer, PeerKey, verdict};
use rustix::time::{ClockId, clock_gettime};

use super::{Class, KernelError, Look, linux::lock, loaded::is_missing, tracker::PeerMaps};
use crate::drain::{Admission, Boot, Cidr, List, Service};

/// See the module.
pub(super) struct Peers {
    maps: Mutex<PeerMaps>,
    remembers_clients: bool,
    in_force: Mutex<HashMap<Service, InForce>>,
    /// Namespaces that were there at the newest sweep.
    alive: Mutex<HashSet<u32>>,
}

/// How a service treats its clients.
struct InForce {
    admission: Admission,
    /// When the clients that have flows are to be noted again.
    note_at: Option<Boot>,
}

impl Peers {
    /// `history` is how many clients `CLIENTS` has room for; 0: it is not written.
    pub(super) fn new(maps: PeerMaps, history: u32) -> Self {
        Self {
            maps: Mutex::new(maps),
            remembers_clients: history > 0,
            in_force: Mutex::default(),
            alive: Mutex::default(),
        }
    }

    /// Whether the tracker writes `CLIENTS`.
    pub(super) fn remembers_clients(&self) -> bool {
        self.remembers_clients
    }

    /// Writes the lists of a service, which nobody reads yet.
    pub(super) fn write(&self, service: Service, lists: &Admission) -> Result<(), KernelError> {
        let (peers, _) = &mut *lock(&self.maps);
        for (cidr, list) in lists.lists() {
            let peer = Peer { verdict: verdict_of(list), zero: 0 };
            peers
                .insert(&prefix(service, cidr), peer, 0)
                .map_err(|e| KernelError::op("add to map PEERS", cidr, e))?;
        }
        Ok(())
    }

    /// Removes them again; those that are not there are no error.
    pub(super) fn remove(&self, service: Service, lists: &Admission) -> Result<(), KernelError> {
        let (peers, _) = &mut *lock(&self.maps);
        for (cidr, _) in lists.lists() {
            match peers.remove(&prefix(service, cidr)) {
                Err(e) if !is_missing(&e) => {
                    return Err(KernelError::op("remove from map PEERS", cidr, e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes what earlier agents left of services other than these.
    pub(super) fn keep_only(&self, services: &BTreeSet<&Service>) -> Result<(), KernelError> {
        let (peers, _) = &mut *lock(&self.maps);
        let keys: Result<Vec<_>, _> = peers.keys().collect();
        for key in keys.map_err(|e| KernelError::op("walk map", "PEERS", e))? {
            let PeerKey { netns, port, .. } = key.data();
            let done = match services.contains(&Service { netns, port }) {
                true => Ok(()),
                false => peers.remove(&key),
            };
            done.map_err(|e| KernelError::op("remove from map", "PEERS", e))?;
        }
        Ok(())
    }

    /// From now on looks tell the sockets of ignored clients apart.
    pub(super) fn put_in_force(&self, service: Service, admission: Admission, now: Boot) {
        let note_at = admission.keep_clients().map(|_| now);
        lock(&self.in_force).insert(service, InForce { admission, note_at });
    }

    /// What is in force for a service.
    pub(super) fn in_force(&self, service: Service) -> Option<Admission> {
        lock(&self.in_force).get(&service).map(|in_force| in_force.admission.clone())
    }

    /// Nothing is in force any more.
    pub(super) fn take_out(&self, service: Service) {
        lock(&self.in_force).remove(&service);
    }

    /// Says of the sockets of a look which ones are of ignored clients: from the lists themselves, so that the look
    /// does not share the map with the tracker.
    pub(super) fn sort_out(&self, netns: u32, look: &mut Look) {
        let in_force = lock(&self.in_force);
        if in_force.is_empty() {
            return;
        }
        for socket in look.sockets.iter_mut().filter(|socket| socket.class == Class::Counted) {
            let service = Service { netns, port: socket.local.port() };
            let lists = in_force.get(&service).map(|in_force| &in_force.admission);
            if lists.and_then(|lists| lists.list_of(socket.peer.ip())) == Some(List::Ignore) {
                socket.class = Class::Ignored;
            }
        }
    }

    /// Notes the clients that have flows now, of services that keep clients and have waited long enough: those that
    /// were there before the agent, and those whose flow has been open for long.
    pub(super) fn note_clients(&self, netns: u32, port: Option<u16>, look: &Look, now: Boot) {
        let mut in_force = lock(&self.in_force);
        let due = |(service, in_force): (&Service, &mut InForce)| {
            let keep = in_force.admission.keep_clients()?;
            let is_seen = service.netns == netns && port.is_none_or(|port| port == service.port);
            if !is_seen || in_force.note_at.is_some_and(|at| now < at) {
                return None;
            }
            in_force.note_at = Some(now + keep / 4);
            Some(*service)
        };
        let due: Vec<Service> = in_force.iter_mut().filter_map(due).collect();
        drop(in_force);
        for service in due {
            if let Err(error) = self.note(service, look) {
                tracing::warn!(%service, error = %super::explain(&error), "cannot note who is a client");
            }
        }
    }

    fn note(&self, service: Service, look: &Look) -> Result<(), KernelError> {
        let ours = look.sockets.iter().filter(|socket| socket.local.port() == service.port);
        let flows = ours.filter(|socket| socket.state.is_flow() && socket.class == Class::Counted);
        let clients: HashSet<IpAddr> = flows.map(|socket| socket.peer.ip()).collect();
        let now = clock_gettime(ClockId::Boottime);
        // Neither is negative for this clock.
        let now = Duration::new(now.tv_sec as u64, now.tv_nsec as u32).as_nanos() as u64;
        let (_, history) = &mut *lock(&self.maps);
        for client in clients {
            history
                .insert(key(service, client), now, 0)
                .map_err(|e| KernelError::op("add to map CLIENTS", client, e))?;
        }
        Ok(())
    }

    /// Forgets the clients of namespaces that are gone: their numbers are used again, and strangers to the new one
    /// must not be taken for its clients. A walk through all clients, so only if any namespace is gone.
    pub(super) fn forget(&self, alive: &HashSet<u32>) {
        let before = std::mem::replace(&mut *lock(&self.alive), alive.clone());
        if !self.remembers_clients || before.is_subset(alive) {
            return;
        }
        let (_, history) = &mut *lock(&self.maps);
        let clients = history.keys().filter_map(Result::ok);
        let gone: Vec<PeerKey> = clients.filter(|client| !alive.contains(&client.netns)).collect();
        for client in &gone {
            // Another client may have taken its place.
            let _ = history.remove(client);
        }
        tracing::debug!(clients = gone.len(), "forgot the clients of namespaces that are gone");
    }
}

fn verdict_of(list: List) -> u32 {
    match list {
        List::Ignore => verdict::IGNORE,
        List::Allow => verdict::ALLOW,
        List::FailHealthFrom => verdict::REFUSE,
    }
}

/// A prefix as the kernel programs look it up.
fn prefix(service: Service, cidr: Cidr) -> Key<PeerKey> {
    let mapped = if cidr.addr().is_ipv4() { 96 } else { 0 };
    let bits = PeerKey::SERVICE_BITS + mapped + u32::from(cidr.prefix_len());
    Key::new(bits, key(service, cidr.addr()))
}

/// A client as the kernel programs know it.
fn key(service: Service, client: IpAddr) -> PeerKey {
    let Service { netns, port } = service;
    match client.to_canonical() {
        IpAddr::V4(v4) => PeerKey::v4(netns, port, u32::from_ne_bytes(v4.octets())),
        IpAddr::V6(v6) => {
            let bytes = v6.octets();
            let word = |i: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|b| bytes[4 * i + b]));
            PeerKey::v6(netns, port, [0, 1, 2, 3].map(word))
        }
    }
}

//! The fake kernel's gates, and the lists of clients at them.

use std::net::IpAddr;

use super::{FakeKernel, model::Model};
use crate::{
    drain::{Admission, Boot, List, Service},
    kernel::Admitted,
};

pub(super) struct Gate {
    pub(super) lease_until: Boot,
    pub(super) rejected: u64,
}

pub(super) struct Guard {
    pub(super) admission: Admission,
    pub(super) lease_until: Boot,
    pub(super) admitted: Admitted,
}

/// What tests ask.
impl FakeKernel {
    /// Whether new connections are refused now.
    pub(crate) fn gate_is_closed(&self, service: Service) -> bool {
        self.model().gate_is_closed(service)
    }

    /// Whether clients are treated by their address now.
    pub(crate) fn is_guarded(&self, service: Service) -> bool {
        self.model().guards.contains_key(&service)
    }
}

impl Model {
    pub(super) fn gate_is_closed(&self, service: Service) -> bool {
        self.gates.get(&service).is_some_and(|gate| self.now < gate.lease_until)
    }

    /// Whether a connection attempt gets through lists and gate; counts it.
    pub(super) fn admits(&mut self, service: Service, client: IpAddr) -> bool {
        let (now, closed) = (self.now, self.gate_is_closed(service));
        let last = self.clients.get(&(service, client)).copied();
        if let Some(guard) = self.guards.get_mut(&service).filter(|guard| now < guard.lease_until) {
            let by_list = match guard.admission.list_of(client) {
                Some(List::Ignore) => Some((&mut guard.admitted.ignored, true)),
                Some(List::Allow) => Some((&mut guard.admitted.allowed, true)),
                Some(List::FailHealthFrom) => Some((&mut guard.admitted.failed_health, false)),
                None => None,
            };
            let keep = guard.admission.keep_clients().filter(|_| closed).zip(last);
            let is_kept = keep.is_some_and(|(keep, last)| now.since(last) <= keep);
            let kept = is_kept.then_some((&mut guard.admitted.kept, true));
            if let Some((counter, admits)) = by_list.or(kept) {
                *counter += 1;
                return admits;
            }
        }
        let steers = self.steers(service);
        if let Some(gate) = self.gates.get_mut(&service).filter(|_| closed && !steers) {
            gate.rejected += 1;
        }
        !closed
    }

    /// Whether a list refuses the client whatever the gate does.
    pub(super) fn is_refused(&self, service: Service, client: IpAddr) -> bool {
        let guard = self.guards.get(&service);
        guard.and_then(|guard| guard.admission.list_of(client)) == Some(List::FailHealthFrom)
    }

    pub(super) fn is_ignored(&self, service: Service, client: IpAddr) -> bool {
        let guard = self.guards.get(&service);
        guard.and_then(|guard| guard.admission.list_of(client)) == Some(List::Ignore)
    }

    /// Counts what is there by the lists in force.
    pub(super) fn sort(&mut self, service: Service) {
        let now = self.now;
        let ours = self.sockets.iter().filter(|(_, (of, _))| *of == service);
        let flows = ours.filter(|(_, (_, socket))| socket.state.is_flow());
        let flows: Vec<_> =
            flows.map(|(cookie, (_, socket))| (*cookie, socket.peer.ip())).collect();
        for (cookie, client) in flows {
            let ignored = self.is_ignored(service, client);
            let tracker = self.tracker.entry(service).or_default();
            if ignored {
                tracker.flows.remove(&cookie);
            } else {
                tracker.flows.entry(cookie).or_insert(now);
                self.clients.insert((service, client), now);
            }
        }
    }
}

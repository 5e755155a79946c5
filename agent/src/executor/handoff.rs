//! What comes of handing connections over to another process, and what that process means for the drain.

use std::collections::BTreeSet;

use tracing::{error, info};

use super::{entry::Entry, task::Task};
use crate::drain::{Event, Phase, Service, is_new_instance};

impl Task {
    /// From the drain's first moment on, what the new server accepts is its own.
    pub(super) fn hand_over(&mut self, service: Service) {
        if let Some(entry) = self.entries.get_mut(&service)
            && !entry.machine.spec().at_once()
        {
            entry.hand_over();
        }
    }

    pub(super) fn handed_over(&mut self, service: Service, takers: BTreeSet<u64>) {
        let Some(entry) = self.entries.get_mut(&service) else { return };
        let failed = entry.handoff_failed.take();
        if failed.is_some() || !takers.is_subset(&entry.takers) {
            info!(%service, listeners = takers.len(), "found who takes over new connections");
        }
        // Those that are closed by now were no servers of the old generation either.
        entry.takers.extend(takers);
        if failed.is_some() {
            self.tell(service, None);
        }
        self.keep_for_ever(service);
    }

    /// Once the old server is done, the port has nobody but the new one, who may need the gate: who is there to
    /// renew the lease?
    fn keep_for_ever(&mut self, service: Service) {
        let now = self.now();
        let Some(entry) = self.entries.get(&service) else { return };
        let left = entry.machine.lease_until().since(now);
        if entry.machine.phase() == Phase::Drained && left < entry.machine.spec().lease() / 2 {
            self.step(service, Event::Renew);
        }
    }

    /// The next recheck tries again; what stays the same is said once.
    pub(super) fn not_handed_over(&mut self, service: Service, reason: String) {
        if let Some(entry) = self.entries.get_mut(&service)
            && entry.handoff_failed.as_ref() != Some(&reason)
        {
            error!(%service, error = reason, "new connections cannot be handed over; without a listener they are refused");
            entry.handoff_failed = Some(reason);
            self.tell(service, None);
        }
    }
}

impl Entry {
    /// Whether the server that is drained has been replaced, given who listens on the port now. Whoever takes over is
    /// no reason as long as the old server has connections; on another port, it needs the gate for ever.
    pub(super) fn is_replaced(&self, now: &BTreeSet<u64>) -> bool {
        let Some(at_start) = &self.listeners else { return false };
        let old = at_start - &self.takers;
        let takes_over = !now.is_disjoint(&self.takers) && self.machine.phase() == Phase::Drained;
        is_new_instance(&old, &(now - &self.takers)) || takes_over && old.is_disjoint(now)
    }
}

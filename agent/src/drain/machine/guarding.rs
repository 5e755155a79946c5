//! Clients that are treated by their address: from before the drain's first moment until its end.

use super::Machine;
use crate::drain::{Action, Boot, Phase};

impl Machine {
    /// Has it done before anything else, or begins at once if all clients are treated alike.
    pub(super) fn guard(&mut self, now: Boot, out: &mut Vec<Action>) {
        if !self.is_guarded() {
            return self.announce(now, out);
        }
        self.go(Phase::Guarding, "a drain is about to begin", out);
        out.push(Action::Guard { lease_until: self.lease_until });
    }

    /// Clients are treated by their address now.
    pub(super) fn guarded(&mut self, lease_until: Boot, now: Boot, out: &mut Vec<Action>) {
        self.gate_lease = lease_until;
        self.announce(now, out);
        self.renew_late_guard(out);
    }

    /// The lease was renewed while the lists were put in force.
    pub(super) fn renew_late_guard(&self, out: &mut Vec<Action>) {
        if self.is_guarded() && self.lease_until > self.gate_lease && self.phase == Phase::Settling
        {
            out.push(Action::RenewGate { lease_until: self.lease_until });
        }
    }

    /// Whether clients are treated by their address from the drain's first moment on.
    pub(super) fn is_guarded(&self) -> bool {
        !self.spec.admission().is_empty()
    }

    /// The gate is not closed, but may refuse or let in some by a list, or be prepared to give connections to others:
    /// opening it ends that too.
    pub(super) fn end_unclosed(&mut self, reason: String, out: &mut Vec<Action>) {
        let new = self.spec.new_connections();
        let takes = self.phase == Phase::Closing && new.takes_stragglers();
        if self.is_guarded() || takes || new.handoff().is_some() {
            self.end_closed(reason, out);
        } else {
            self.over(reason, out);
        }
    }

    /// A flow appeared after zero was proven: with nobody to let in, that cannot be.
    pub(super) fn came_after_zero(&self, out: &mut Vec<Action>) {
        if !self.spec.admission().lets_in() {
            out.push(Action::FlowAfterDrained);
        }
    }
}

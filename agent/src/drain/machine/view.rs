//! What the outside may know of a machine.

use super::Machine;
use crate::drain::{Boot, Phase, SettledBy, Spec, StateName};

impl Machine {
    /// What was asked for.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Where it stands, as the interface names it. A gate that is being opened is not `drained` any more,
    /// and not known to be `serving` yet.
    pub fn state(&self) -> StateName {
        match self.phase {
            Phase::Serving => StateName::Serving,
            Phase::Guarding | Phase::Announcing | Phase::Settling | Phase::Closing => {
                StateName::Settling
            }
            Phase::Rejecting | Phase::Opening => StateName::Rejecting,
            Phase::Drained => StateName::Drained,
            Phase::Expired => StateName::Expired,
        }
    }

    /// When the drain began.
    pub fn started(&self) -> Boot {
        self.started
    }

    /// When it gives up waiting for zero.
    pub fn deadline(&self) -> Boot {
        self.deadline
    }

    /// When it ends by itself.
    pub fn lease_until(&self) -> Boot {
        self.lease_until
    }

    /// Why settling ended; `None` while settling.
    pub fn settled_by(&self) -> Option<SettledBy> {
        self.settled_by.filter(|_| !matches!(self.phase, Phase::Settling | Phase::Closing))
    }

    /// Why the newest verdict was `unknown`, if it was.
    pub fn unknown(&self) -> Option<&str> {
        self.unknown.as_deref()
    }

    /// Whether the lease has run out although the drain is still under way: the next event, whichever, ends it.
    pub fn lease_is_over(&self, now: Boot) -> bool {
        match self.phase {
            Phase::Serving | Phase::Guarding | Phase::Closing | Phase::Opening => false,
            Phase::Announcing | Phase::Settling => now >= self.lease_until,
            Phase::Rejecting | Phase::Drained | Phase::Expired => now >= self.gate_lease,
        }
    }
}

//! How drains end: the gate opens, if it may be closed, and then it is over.

use super::Machine;
use crate::{
    drain::{Action, Ending, Phase},
    kernel::Watch,
};

impl Machine {
    /// Ends the drain. A gate that may be closed must be opened first.
    pub(super) fn end(&mut self, reason: String, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Announcing | Phase::Settling => self.end_unclosed(reason, out),
            _ => self.end_closed(reason, out),
        }
    }

    pub(super) fn end_closed(&mut self, reason: String, out: &mut Vec<Action>) {
        self.unknown = None;
        self.go(Phase::Opening, &reason, out);
        self.ending = reason;
        self.reopen(out);
        self.restore(out);
    }

    pub(super) fn reopen(&mut self, out: &mut Vec<Action>) {
        self.reopen_at = None;
        out.push(Action::OpenGate);
    }

    /// The namespace took the gate with it.
    pub(super) fn forget(&mut self, out: &mut Vec<Action>) {
        out.push(Action::Forget);
        // Nobody is there to come back: a registry that was told so would send consumers to a dead address.
        self.told = false;
        self.over("the network namespace is gone".into(), out);
    }

    /// The drain is over and the gate is open.
    pub(super) fn over(&mut self, reason: String, out: &mut Vec<Action>) {
        self.unknown = None;
        self.go(Phase::Serving, &reason, out);
        self.restore(out);
        self.retract(out);
        out.push(Action::Watch(Watch::default()));
        out.push(Action::Ended(Ending { reason, at_deadline: self.gave_up }));
    }
}

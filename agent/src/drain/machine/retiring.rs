//! What happens to the flows that are there: rounds that make them leave, and a reset of those that remain at
//! the deadline, if that was asked for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Machine;
use crate::{
    drain::{Action, AtDeadline, Boot, Phase, RetireSet},
    kernel::RetireOrder,
};

/// Time from the end of one round to the next, at least.
pub const RETIRE_STEP: Duration = Duration::from_millis(250);
/// The same at most. In between, the pause is as long as the round took: where there are many connections, or many
/// drains at once, looking at them must not be all that is done.
const LONGEST_STEP: Duration = Duration::from_secs(1);

/// How far the reset at the deadline has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Aborting {
    #[default]
    NotYet,
    UnderWay,
    /// The next verdict tells what remains.
    Judging,
    Over,
}

impl Machine {
    /// Whether the reset asked for by [`Action::Abort`] is still to be carried out. Another drain may have joined
    /// meanwhile, with a new deadline: flows have their time again then.
    pub fn wants_abort(&self) -> bool {
        self.phase == Phase::Rejecting && self.aborting == Aborting::UnderWay
    }

    /// Whether connections that the agent carries are to leave too: there may be some even after zero.
    pub(super) fn carries(&self) -> bool {
        self.spec.new_connections().carries()
    }

    /// Begins the next round, if it is time and none is under way: one that takes long delays the next.
    pub(super) fn retire_if_due(&mut self, now: Boot, out: &mut Vec<Action>) {
        let is_over = self.phase == Phase::Drained && !self.carries();
        if !is_over && self.retire_at.is_some_and(|at| now >= at) {
            self.retire_at = None;
            self.round_began = now;
            self.restore_due = self.spec.retire().set != RetireSet::NONE;
            out.push(Action::Retire(self.order()));
        }
    }

    /// A round is over.
    pub(super) fn retired(&mut self, now: Boot) {
        let took = now.since(self.round_began);
        self.retire_at = Some(now + took.clamp(RETIRE_STEP, LONGEST_STEP));
    }

    fn order(&self) -> RetireOrder {
        let retire = self.spec.retire();
        RetireOrder {
            http1: retire.set.http1,
            http2: retire.set.http2,
            carried: self.carries(),
            start: self.started,
            spread: retire.spread,
            patient_until: self.started + self.spec.timeout() / 2,
            until: self.lease_until,
        }
    }

    /// The drain ends, or is about to: no flow is told any more.
    pub(super) fn restore(&mut self, out: &mut Vec<Action>) {
        if std::mem::take(&mut self.restore_due) {
            out.push(Action::Restore);
        }
    }

    /// When rejecting goes on by itself: not while a reset is under way, which has an answer.
    pub(super) fn deadline_due(&self) -> Option<Boot> {
        (self.aborting == Aborting::NotYet).then_some(self.deadline)
    }

    /// The deadline passed while flows may remain.
    pub(super) fn deadline_passed(&mut self, now: Boot, out: &mut Vec<Action>) {
        match (self.spec.retire().at_deadline, self.aborting) {
            (AtDeadline::Abort, Aborting::NotYet) => {
                self.aborting = Aborting::UnderWay;
                out.push(Action::Abort);
            }
            (AtDeadline::Abort, Aborting::UnderWay | Aborting::Judging) => {}
            (AtDeadline::Leave, _) | (AtDeadline::Abort, Aborting::Over) => {
                self.go(Phase::Expired, "the deadline passed", out);
                self.verify(now, out);
            }
        }
    }

    /// What remained was reset: a look that begins now decides.
    pub(super) fn aborted(&mut self, now: Boot, out: &mut Vec<Action>) {
        if self.wants_abort() {
            self.aborting = Aborting::Judging;
            self.look_from = self.look_from.max(now);
        }
        self.verify(now, out);
    }

    pub(super) fn abort_failed(&mut self, reason: &str, now: Boot, out: &mut Vec<Action>) {
        if self.wants_abort() {
            self.aborting = Aborting::Over;
            let reason = format!("the deadline passed, and flows could not be reset: {reason}");
            self.go(Phase::Expired, &reason, out);
        }
        self.verify(now, out);
    }

    /// The first verdict after the reset is not zero.
    pub(super) fn not_empty_after_abort(&mut self, found: &str, out: &mut Vec<Action>) {
        if self.phase == Phase::Rejecting && self.aborting == Aborting::Judging {
            self.aborting = Aborting::Over;
            let reason = format!("the deadline passed, and after flows were reset {found}");
            self.go(Phase::Expired, &reason, out);
        }
    }
}

//! Settling: how long new connections are still let in.

use std::time::Duration;

use super::Machine;
use crate::drain::{Action, Arrivals, Boot, Phase, SettledBy};

/// Shortest time between two looks at arrivals.
pub(super) const SETTLE_STEP: Duration = Duration::from_millis(10);

impl Machine {
    /// Closes the gate if settling is over, else says when to ask again.
    pub(super) fn settle(&mut self, arrivals: Arrivals, now: Boot, out: &mut Vec<Action>) {
        let newest = match arrivals {
            Arrivals::Never => self.noticed_from,
            Arrivals::Last(at) => at,
            Arrivals::Unknown => now,
        };
        let quiet = now.since(newest) >= self.spec.quiet();
        let age = now.since(self.started);
        if age >= self.spec.min_settle() && quiet {
            self.close(SettledBy::Quiet, "no new connection came for the quiet time", out);
        } else if age >= self.spec.max_settle()
            && arrivals == Arrivals::Never
            && self.noticed_from == self.started
        {
            self.close(SettledBy::Quiet, "max-settle is reached, and no connection ever came", out);
        } else if age >= self.spec.max_settle() {
            self.close(
                SettledBy::MaxSettle,
                "max-settle is reached while connections still arrive",
                out,
            );
            out.push(Action::LogSources);
        } else {
            let earliest = (newest + self.spec.quiet()).max(self.started + self.spec.min_settle());
            let latest = self.started + self.spec.max_settle();
            self.settle_at = earliest.max(now + SETTLE_STEP).min(latest);
        }
    }

    pub(super) fn close(&mut self, settled_by: SettledBy, reason: &str, out: &mut Vec<Action>) {
        self.settled_by = Some(settled_by);
        self.go(Phase::Closing, reason, out);
        out.push(Action::CloseGate { lease_until: self.lease_until });
    }
}

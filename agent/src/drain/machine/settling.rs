//! Settling: how long new connections are still let in.

use std::time::Duration;

use super::Machine;
use crate::drain::{Action, Arrivals, Boot, Endpoint, Phase, SettledBy};

/// Shortest time between two looks at arrivals.
pub(super) const SETTLE_STEP: Duration = Duration::from_millis(10);

/// Time between two looks at arrivals while the gate must stay open anyway.
const HELD_STEP: Duration = Duration::from_millis(200);

impl Machine {
    /// Closes the gate if settling is over, else says when to ask again.
    pub(super) fn settle(&mut self, arrivals: Arrivals, now: Boot, out: &mut Vec<Action>) {
        let newest = match arrivals {
            Arrivals::Never => self.noticed_from,
            Arrivals::Last(at) => at,
            Arrivals::Unknown => now,
        };
        let quiet = now.since(newest) >= self.spec.quiet();
        let age = now.since(self.settling_since());
        let late = now >= self.settled_at_last();
        let calm = quiet || arrivals == Arrivals::Never;
        if let Some(why) = self.held_open(calm, late) {
            self.stay_open(why, calm, now, out);
        } else if age >= self.spec.min_settle() && quiet {
            self.close(SettledBy::Quiet, "no new connection came for the quiet time", out);
        } else if late && arrivals == Arrivals::Never && self.noticed_from == self.started {
            self.close(SettledBy::Quiet, "max-settle is reached, and no connection ever came", out);
        } else if late {
            self.close(
                SettledBy::MaxSettle,
                "max-settle is reached while connections still arrive",
                out,
            );
            out.push(Action::LogSources);
        } else {
            let earliest =
                (newest + self.spec.quiet()).max(self.settling_since() + self.spec.min_settle());
            let latest = self.settled_at_last();
            self.settle_at = earliest.max(now + SETTLE_STEP).min(latest);
        }
    }

    /// Why the gate must not close, if it must not. Kubernetes would go on sending connections, which nobody would
    /// take then: to the only pod that is ready, or by a load balancer that does not notice.
    fn held_open(&self, calm: bool, late: bool) -> Option<&'static str> {
        let Endpoint::Staying { alone } = self.endpoint else { return None };
        if self.spec.close_anyway() || self.spec.new_connections().are_served() {
            return None;
        }
        if alone {
            return Some("it is the only ready endpoint of a Service");
        }
        (!calm && late).then_some("connections still arrive")
    }

    /// Goes on settling, and gives up at the deadline.
    fn stay_open(&mut self, why: &str, calm: bool, now: Boot, out: &mut Vec<Action>) {
        if now >= self.deadline {
            self.gave_up = true;
            let reason = format!(
                "the deadline passed while the port had to stay open, since its pod is not being deleted and {why}; it \
                 serves again"
            );
            return self.end(reason, out);
        }
        if !calm && now >= self.settled_at_last() && !self.sources_logged {
            self.sources_logged = true;
            out.push(Action::LogSources);
        }
        self.settle_at = (now + HELD_STEP).min(self.deadline);
    }

    pub(super) fn close(&mut self, settled_by: SettledBy, reason: &str, out: &mut Vec<Action>) {
        self.settled_by = Some(settled_by);
        self.go(Phase::Closing, reason, out);
        out.push(Action::CloseGate { lease_until: self.lease_until });
    }
}

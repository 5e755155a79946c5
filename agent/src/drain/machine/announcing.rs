//! Registries that are told: before the gate closes that the server leaves, and once the gate is open that it is back.

use std::time::Duration;

use super::{BACKUP, Machine};
use crate::drain::{Action, Boot, Phase};

/// Longest time for it where the gate is to close at once: whoever asks for that waits for it, and drainctl waits 10 s
/// for an answer.
const AT_ONCE: Duration = Duration::from_secs(7);

impl Machine {
    /// Whether there may be registries to tell. Said before the drain begins.
    #[must_use]
    pub fn announcing(self, announces: bool) -> Self {
        Self { announces, ..self }
    }

    /// Whether registries are told first.
    pub fn announces(&self) -> bool {
        self.announces
    }

    /// Whether a registry may believe that the server is gone: what an earlier drain has told it is taken back at the
    /// end of this one, too.
    #[must_use]
    pub fn inheriting(self, earlier: &Self) -> Self {
        Self { told: earlier.told, ..self }
    }

    /// Has the registries told before anything else is closed, or goes on at once if there are none.
    pub(super) fn announce(&mut self, now: Boot, out: &mut Vec<Action>) {
        if !self.announces {
            return self.begin(now, out);
        }
        self.go(Phase::Announcing, "registries are told first", out);
        self.recheck_at = now + BACKUP;
        self.tell_registries(now, out);
    }

    /// Leaves time to settle and drain, however long registries take to answer.
    pub(super) fn tell_registries(&mut self, now: Boot, out: &mut Vec<Action>) {
        self.told = true;
        let most = if self.spec.at_once() { AT_ONCE } else { Duration::MAX };
        let time = (self.spec.timeout() * 3 / 5).min(most);
        out.push(Action::Announce { until: now + time });
    }

    /// They know, or were given up: consumers have the settling time to notice.
    pub(super) fn announced(&mut self, now: Boot, out: &mut Vec<Action>) {
        self.announced_at = Some(now);
        self.settle_at = now + self.spec.min_settle();
        self.begin(now, out);
        self.renew_late_guard(out);
    }

    /// Since when the settling time counts.
    pub(super) fn settling_since(&self) -> Boot {
        self.announced_at.unwrap_or(self.started)
    }

    /// Until when settling lasts at most: it began late if registries took long, and consumers have their time anyway.
    pub(super) fn settled_at_last(&self) -> Boot {
        let least = self.settling_since() + self.spec.min_settle();
        (self.started + self.spec.max_settle()).max(least)
    }

    /// The gate is open again: what registries were told is taken back.
    pub(super) fn retract(&self, out: &mut Vec<Action>) {
        if self.told {
            out.push(Action::Retract);
        }
    }
}

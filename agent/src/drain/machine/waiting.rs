//! What a drain waits for that is no connection: holds.

use super::Machine;
use crate::drain::{Action, Boot, Phase};

impl Machine {
    /// Whether something holds the service, so that it is not drained whatever a look shows.
    pub fn is_held(&self, now: Boot) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    /// The service is held until then, if nobody releases or renews anything; or nothing holds it (any more).
    pub(super) fn held(&mut self, until: Option<Boot>, now: Boot, out: &mut Vec<Action>) {
        self.held_until = until;
        match (self.phase, self.is_held(now)) {
            // The executor refuses a hold that comes so late.
            (Phase::Drained, true) => self.fall_back("something holds it", now, out),
            (Phase::Rejecting | Phase::Expired, false) => self.verify(now, out),
            _ => {}
        }
    }

    /// Zero is proven, but something holds the service.
    pub(super) fn empty_but_held(&mut self, now: Boot, out: &mut Vec<Action>) {
        let why = "no connection is left, but something holds the service";
        if self.phase == Phase::Drained {
            self.fall_back(why, now, out);
        }
        self.not_empty_after_abort(why, out);
    }
}

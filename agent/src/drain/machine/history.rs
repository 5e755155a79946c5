//! When the service came into which state, for people who look at a drain.

use super::Machine;
use crate::drain::{Boot, Phase, StateName};

/// Most changes of state that are kept: what is saved of a drain has little room.
const MOST: usize = 8;

impl Machine {
    /// The states that the drain has gone through, and when it came into each, oldest first. Of more than eight the
    /// first and the newest are kept: a service may be drained, and then not, many times.
    pub fn history(&self) -> &[(StateName, Boot)] {
        &self.history
    }

    /// Notes the state, if it is another one.
    pub(super) fn remember(&mut self, now: Boot) {
        let state = self.state();
        let same = self.history.last().is_some_and(|(last, _)| *last == state);
        if same || self.phase == Phase::Serving {
            return;
        }
        if self.history.len() == MOST {
            self.history.remove(1);
        }
        self.history.push((state, now));
    }
}

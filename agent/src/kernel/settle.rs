//! Which gates have closed so lately that a packet may still be on its way through.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Network namespaces whose gate closed and nobody has waited since, each with the number of that closing.
#[derive(Default)]
pub(super) struct Unsettled(Mutex<State>);

#[derive(Default)]
struct State {
    closings: u64,
    newest: HashMap<u32, u64>,
}

impl Unsettled {
    /// A gate of this namespace has closed.
    pub(super) fn closed(&self, netns: u32) {
        let mut state = self.lock();
        state.closings += 1;
        let closing = state.closings;
        state.newest.insert(netns, closing);
    }

    /// Calls `wait` if a gate of this namespace closed since it was last waited for. A gate that closes
    /// during the wait is left to the next caller: this wait may have begun too early for it.
    pub(super) fn settle(&self, netns: u32, wait: impl FnOnce()) {
        let Some(closing) = self.lock().newest.get(&netns).copied() else { return };
        wait();
        let mut state = self.lock();
        if state.newest.get(&netns) == Some(&closing) {
            state.newest.remove(&netns);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a look would wait.
    fn waits(unsettled: &Unsettled, netns: u32) -> bool {
        let mut waited = false;
        unsettled.settle(netns, || waited = true);
        waited
    }

    #[test]
    fn a_closing_is_waited_for_once_in_its_namespace() {
        let unsettled = Unsettled::default();
        assert!(!waits(&unsettled, 1), "no gate has closed");
        unsettled.closed(1);
        assert!(!waits(&unsettled, 2), "not in this namespace");
        assert!(waits(&unsettled, 1));
        assert!(!waits(&unsettled, 1), "waited for already");
    }

    #[test]
    fn a_gate_that_closes_during_the_wait_is_waited_for_again() {
        let unsettled = Unsettled::default();
        unsettled.closed(1);
        unsettled.settle(1, || unsettled.closed(1));
        assert!(waits(&unsettled, 1), "the wait began before the second gate was closed");
        assert!(!waits(&unsettled, 1));
    }
}

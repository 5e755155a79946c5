//! Events that found the ring buffer full.

use super::{Event, EventKind, tracker::Tracker};
use crate::drain::Boot;

/// How many were lost so far.
#[derive(Default)]
pub(super) struct Losses {
    known: u64,
}

impl Losses {
    /// If more were lost since the last call: one event of each service of which any was wanted.
    pub(super) fn news(&mut self, tracker: &Tracker, at: Boot) -> Vec<Event> {
        let lost = tracker.faults().map_or(self.known, |faults| faults.events_lost);
        let more = lost - std::mem::replace(&mut self.known, lost);
        if more == 0 {
            return Vec::new();
        }
        let event = |service| Event { service, kind: EventKind::Lost, at };
        let events: Vec<_> = tracker.watched().into_iter().map(event).collect();
        tracing::warn!(
            events = more,
            services = events.len(),
            "the ring buffer of events was full: looking again at every service that drains"
        );
        events
    }
}

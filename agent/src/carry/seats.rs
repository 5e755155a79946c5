//! How many connections are carried, and who may have one more.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::CarryCounts;
use crate::drain::Service;

/// See the module.
pub(super) struct Seats {
    limit: usize,
    taken: Mutex<BTreeMap<Service, usize>>,
    counts: watch::Sender<CarryCounts>,
}

/// Room for one carried connection; given back when dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    service: Service,
}

impl Seats {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, taken: Mutex::default(), counts: watch::Sender::default() }
    }

    /// Room for one more connection of the service, as long as it has fewer than there is room left. So one that is
    /// alone gets half, two that want all get a third each, and there is always room for the next.
    pub(super) fn take(self: &Arc<Self>, service: Service) -> Option<Seat> {
        let mut taken = self.lock();
        let free = self.limit - taken.values().sum::<usize>();
        let own = taken.get(&service).copied().unwrap_or_default();
        if own >= free {
            return None;
        }
        taken.insert(service, own + 1);
        self.count(|counts| {
            counts.now += 1;
            counts.total += 1;
        });
        Some(Seat { seats: Arc::clone(self), service })
    }

    pub(super) fn counts(&self) -> CarryCounts {
        *self.counts.borrow()
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut CarryCounts)) {
        self.counts.send_modify(change);
    }

    /// Services that have some, and how many.
    pub(super) fn by_service(&self) -> Vec<(Service, usize)> {
        self.lock().iter().map(|(service, taken)| (*service, *taken)).collect()
    }

    /// Ready when none is taken.
    pub(super) async fn idle(&self) {
        // It fails only if the sender is gone, and that is ours.
        let _ = self.counts.subscribe().wait_for(|counts| counts.now == 0).await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Service, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        match taken.get_mut(&self.service) {
            Some(seats) if *seats > 1 => *seats -= 1,
            _ => drop(taken.remove(&self.service)),
        }
        self.seats.count(|counts| counts.now -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(port: u16) -> Service {
        Service { netns: 7, port }
    }

    fn fill(seats: &Arc<Seats>, port: u16) -> Vec<Seat> {
        std::iter::from_fn(|| seats.take(service(port))).collect()
    }

    #[test]
    fn nobody_takes_all_and_there_is_always_room_for_the_next() {
        let seats = Arc::new(Seats::new(100));
        let first = fill(&seats, 1);
        assert_eq!(first.len(), 50, "alone, half of them");
        let second = fill(&seats, 2);
        assert_eq!(second.len(), 25);
        assert_eq!(seats.by_service(), [(service(1), 50), (service(2), 25)]);
        drop(first);
        assert_eq!(fill(&seats, 1).len(), 38, "75 were free");
        assert_eq!(seats.counts().now, 25);
        drop(second);
        assert_eq!((seats.counts().now, seats.by_service().len()), (0, 0));
    }

    #[test]
    fn one_is_enough_for_one() {
        let seats = Arc::new(Seats::new(1));
        let only = seats.take(service(1)).expect("there is room");
        assert!(seats.take(service(1)).is_none() && seats.take(service(2)).is_none());
        drop(only);
        assert!(seats.take(service(2)).is_some());
    }
}

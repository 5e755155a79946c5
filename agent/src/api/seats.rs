//! How many connections there may be at once, and how many of one caller, so that nobody can lock the
//! others out by keeping connections open.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Most connections at once.
const MAX_TOTAL: usize = 1024;
/// Most connections at once of one user in one network namespace.
const MAX_PER_CALLER: usize = 128;

/// User id and network namespace.
type Key = (u32, u32);

/// All seats. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Seats(Arc<Mutex<HashMap<Key, usize>>>);

/// One taken seat; given back when dropped.
pub(super) struct Seat {
    seats: Seats,
    key: Key,
}

/// Why there is no seat.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("{MAX_TOTAL} connections are open")]
    Total,
    #[error("user {} in network namespace {} has {MAX_PER_CALLER} connections open", .0.0, .0.1)]
    Caller(Key),
}

impl Seats {
    /// Takes a seat for this caller.
    pub(super) fn take(&self, key: Key) -> Result<Seat, Full> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= MAX_TOTAL {
            return Err(Full::Total);
        }
        let of_caller = taken.entry(key).or_default();
        if *of_caller >= MAX_PER_CALLER {
            return Err(Full::Caller(key));
        }
        *of_caller += 1;
        Ok(Seat { seats: self.clone(), key })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_caller) = taken.get_mut(&self.key) {
            *of_caller -= 1;
            if *of_caller == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_cannot_take_them_all() {
        let seats = Seats::default();
        let mut held: Vec<_> = (0..MAX_PER_CALLER).map(|_| seats.take((0, 1)).unwrap()).collect();
        assert_eq!(seats.take((0, 1)).err(), Some(Full::Caller((0, 1))));
        assert!(seats.take((0, 2)).is_ok());
        held.pop();
        assert!(seats.take((0, 1)).is_ok());
    }

    #[test]
    fn there_is_an_end_to_all() {
        let seats = Seats::default();
        let key = |n: usize| (u32::try_from(n / MAX_PER_CALLER).unwrap(), 0);
        let held: Vec<_> = (0..MAX_TOTAL).map(|n| seats.take(key(n)).unwrap()).collect();
        assert_eq!(seats.take((99, 0)).err(), Some(Full::Total));
        drop(held);
        assert!(seats.0.lock().unwrap().is_empty());
    }
}

//! How many connections there may be at once, and how many of one caller, so that nobody can lock the
//! others out by keeping connections open.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::process::{Resource, getrlimit};

/// Most connections at once, if there are file descriptors for so many.
const MAX_TOTAL: usize = 4096;
/// Of those, for root in the host's network namespace only.
const RESERVE: usize = MAX_TOTAL / 16;
/// Most connections at once of one user in one network namespace. As seats become scarce it is fewer: a quarter
/// of what is free, so that dozens who take what they get leave some for the next.
const MAX_PER_CALLER: usize = 64;
const SHARE: usize = 4;
/// Most connections at once of one user, but root, who may have made himself many namespaces.
const MAX_PER_USER: usize = 256;
/// Descriptors that the agent needs for all else: gates, mostly.
const OTHER_DESCRIPTORS: usize = 4096;
/// Descriptors of a connection: itself, and a pidfd.
const DESCRIPTORS: usize = 2;

/// User id and network namespace.
type Key = (u32, u32);

/// All seats. Cheap to clone.
#[derive(Clone)]
pub struct Seats(Arc<Mutex<Table>>);

struct Table {
    host: u32,
    total: usize,
    taken: HashMap<Key, usize>,
}

/// One taken seat; given back when dropped.
pub(super) struct Seat {
    seats: Seats,
    key: Key,
}

/// Why there is no seat.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("{0} connections are open")]
    Total(usize),
    #[error("user {} in network namespace {} has {of_caller} connections open", key.0, key.1)]
    Caller { key: Key, of_caller: usize },
    #[error("user {0} has {MAX_PER_USER} connections open in several network namespaces")]
    User(u32),
}

impl Seats {
    /// As many as this process has descriptors for. `host` is the host's network namespace, where root is the
    /// administrator of the node.
    pub fn new(host: u32) -> Self {
        let files = getrlimit(Resource::Nofile).current;
        let files = files.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
        // A quarter at the least: then gates may be short of descriptors, which their drains are told.
        let total = files.saturating_sub(OTHER_DESCRIPTORS).max(files / 4) / DESCRIPTORS;
        Self::with(host, total.min(MAX_TOTAL))
    }

    fn with(host: u32, total: usize) -> Self {
        Self(Arc::new(Mutex::new(Table { host, total, taken: HashMap::new() })))
    }

    /// Takes a seat for this caller.
    pub(super) fn take(&self, key: Key) -> Result<Seat, Full> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.admit(key)?;
        *table.taken.entry(key).or_default() += 1;
        Ok(Seat { seats: self.clone(), key })
    }
}

impl Table {
    fn admit(&self, key: Key) -> Result<(), Full> {
        let all = self.taken.values().sum::<usize>();
        let is_admin = key == (0, self.host);
        let reserve = if is_admin { 0 } else { RESERVE.min(self.total / 4) };
        let free = self.total.saturating_sub(reserve + all);
        if free == 0 {
            return Err(Full::Total(all));
        }
        let of_caller = self.taken.get(&key).copied().unwrap_or(0);
        if !is_admin && of_caller >= MAX_PER_CALLER.min((free / SHARE).max(1)) {
            return Err(Full::Caller { key, of_caller });
        }
        let of_user =
            self.taken.iter().filter(|((uid, _), _)| *uid == key.0).map(|(_, taken)| taken);
        if key.0 != 0 && of_user.sum::<usize>() >= MAX_PER_USER {
            return Err(Full::User(key.0));
        }
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_caller) = table.taken.get_mut(&self.key) {
            *of_caller -= 1;
            if *of_caller == 0 {
                table.taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: u32 = 7;

    /// Takes seats until there is none; returns them.
    fn take_all(seats: &Seats, key: Key) -> Vec<Seat> {
        std::iter::from_fn(|| seats.take(key).ok()).collect()
    }

    #[test]
    fn one_caller_cannot_take_them_all() {
        let seats = Seats::with(HOST, MAX_TOTAL);
        let mut held = take_all(&seats, (0, 1));
        assert_eq!(held.len(), MAX_PER_CALLER);
        assert!(seats.take((0, 2)).is_ok());
        held.pop();
        assert!(seats.take((0, 1)).is_ok());
    }

    #[test]
    fn nor_can_one_user_with_many_namespaces() {
        let seats = Seats::with(HOST, MAX_TOTAL);
        let held: Vec<_> = (100..200).flat_map(|netns| take_all(&seats, (1000, netns))).collect();
        assert_eq!(held.len(), MAX_PER_USER);
        assert_eq!(seats.take((1000, 300)).err(), Some(Full::User(1000)));
        assert!(seats.take((1001, 300)).is_ok());
    }

    #[test]
    fn many_callers_leave_some_for_the_next_and_for_the_administrator() {
        let seats = Seats::with(HOST, MAX_TOTAL);
        let mut held: Vec<_> = (100..150).flat_map(|netns| take_all(&seats, (0, netns))).collect();
        assert!(held.len() > MAX_TOTAL / 2, "{}", held.len());
        for netns in 200..400 {
            held.push(seats.take((0, netns)).unwrap_or_else(|full| panic!("{full}")));
        }
        assert_eq!(take_all(&seats, (0, HOST)).len(), MAX_TOTAL - held.len());
    }

    #[test]
    fn a_thousand_waiting_clients_have_room() {
        let seats = Seats::with(HOST, MAX_TOTAL);
        let held: Vec<_> = (0..1000).map(|netns| seats.take((0, 100 + netns)).unwrap()).collect();
        assert_eq!(held.len(), 1000);
        let of_admin: Vec<_> = (0..1000).map(|_| seats.take((0, HOST)).unwrap()).collect();
        assert_eq!(of_admin.len(), 1000);
    }

    #[test]
    fn there_is_an_end_to_all() {
        let seats = Seats::with(HOST, 16);
        let held = take_all(&seats, (0, HOST));
        assert_eq!(held.len(), 16);
        assert_eq!(seats.take((99, 0)).err(), Some(Full::Total(16)));
        drop(held);
        assert!(seats.0.lock().unwrap().taken.is_empty());
    }
}

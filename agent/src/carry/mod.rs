//! The carrier: takes the connections that a closed gate steers to a listener of ours, and carries each to a
//! peer and back, so that a client that is late loses nothing. See docs/adr/0006.
//!
//! It knows sockets, but not how they get into a namespace ([`Kernel`] does) nor when ([`crate::executor`] does).

mod accept;
mod attempts;
mod line;
mod proxy;
mod search;
mod seats;
mod session;
mod splice;
mod targets;
mod trial;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::Semaphore;

use self::{attempts::Attempts, line::Line, seats::Seats, splice::Pipes};
use crate::{
    drain::Service,
    kernel::{Kernel, OwnListener},
};

/// How many attempts to connect may be on threads that block at once, which gates need too: each takes a moment, but
/// there may be thousands.
const OPENING: usize = 4;
/// Most connections carried at once, if nobody says otherwise.
pub const MAX_CARRIED: usize = 10_000;

/// Carries the stragglers of all drains. Cheap to clone.
#[derive(Clone)]
pub struct Carrier(Arc<Shared>);

/// What all lines share.
struct Shared {
    kernel: Arc<dyn Kernel>,
    pipes: Pipes,
    attempts: Arc<Attempts>,
    opening: Arc<Semaphore>,
    lines: Mutex<HashMap<Service, Open>>,
    /// Lines that accept nobody any more, and may still carry.
    closed: Mutex<Vec<(Service, Weak<Line>)>>,
    seats: Arc<Seats>,
}

/// What a service has open.
enum Open {
    /// Connections are accepted and carried.
    Line(Arc<Line>),
    /// A listener that answers nobody.
    Silent { _listener: OwnListener },
}

/// Where stragglers are to be carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// At least one; none of them leads to the service itself by its own address.
    pub targets: Vec<SocketAddr>,
    /// Whether the target is told who the client is, in a header of the PROXY protocol, version 2.
    pub proxy_protocol: bool,
    /// As which user (id in the initial user namespace) the connections are made: that of whoever asked for it, who is
    /// to get no more than they have.
    pub uid: u32,
}

/// Counters since the agent started, and what is carried now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CarryCounts {
    /// Connections being carried now, those that look for a target included.
    pub now: usize,
    /// Connections ever taken.
    pub total: u64,
    /// Reset because no target answered.
    pub refused: u64,
    /// Reset because they were carried already once, or had come back to where they were.
    pub loops: u64,
    /// Reset because as many were carried as may be, of the service or of all.
    pub over_limit: u64,
    /// Reset because they had not been steered, or did not show whether they were carried already.
    pub strangers: u64,
}

impl Carrier {
    /// Carries at most `limit` connections at once, and of one service at most as many as there is room left for: one
    /// alone half of them.
    pub fn new(kernel: Arc<dyn Kernel>, limit: usize) -> Self {
        Self(Arc::new(Shared {
            kernel,
            pipes: Pipes::default(),
            attempts: Arc::default(),
            opening: Arc::new(Semaphore::new(OPENING)),
            lines: Mutex::default(),
            closed: Mutex::default(),
            seats: Arc::new(Seats::new(limit)),
        }))
    }

    /// Accepts from `listener`, and carries what comes, until [`Carrier::close`]. Has to be called inside a
    /// runtime of tokio.
    ///
    /// # Errors
    /// The listener cannot be watched.
    pub fn open(&self, service: Service, listener: OwnListener, route: Route) -> io::Result<()> {
        let line = Line::start(Arc::clone(&self.0), service, listener, route)?;
        self.0.replace(service, Some(Open::Line(line)));
        Ok(())
    }

    /// Keeps a listener that answers nobody, until [`Carrier::close`].
    pub fn keep(&self, service: Service, listener: OwnListener) {
        self.0.replace(service, Some(Open::Silent { _listener: listener }));
    }

    /// Stops accepting, once those are in that were on their way already. What is carried goes on to its end.
    pub fn close(&self, service: Service) {
        self.0.replace(service, None);
    }

    /// Stops accepting and resets what is carried, since earlier drains too: the namespace is gone.
    pub fn abort(&self, service: Service) {
        self.0.replace(service, None);
        let closed = lock(&self.0.closed);
        let ours = closed.iter().filter(|(of, _)| *of == service);
        ours.filter_map(|(_, line)| line.upgrade()).for_each(|line| line.abort());
    }

    /// Counters of the whole node.
    pub fn counts(&self) -> CarryCounts {
        self.0.seats.counts()
    }

    /// Services of which connections are carried now, and how many.
    pub fn by_service(&self) -> Vec<(Service, usize)> {
        self.0.seats.by_service()
    }

    /// Ready when nothing is carried any more.
    pub async fn idle(&self) {
        self.0.seats.idle().await;
    }
}

impl Shared {
    /// Has a service have this open, in the place of what it had.
    fn replace(&self, service: Service, open: Option<Open>) {
        let mut lines = lock(&self.lines);
        let old = match open {
            Some(open) => lines.insert(service, open),
            None => lines.remove(&service),
        };
        if let Some(Open::Line(line)) = old {
            line.close();
            let mut closed = lock(&self.closed);
            closed.retain(|(_, line)| line.strong_count() > 0);
            closed.push((service, Arc::downgrade(&line)));
        }
    }

    fn count(&self, change: impl FnOnce(&mut CarryCounts)) {
        self.seats.count(change);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod search_tests;
#[cfg(test)]
mod tests;

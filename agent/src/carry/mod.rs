//! The carrier: takes the connections that a closed gate steers to a listener of ours, and carries each to a
//! peer and back, so that a client that is late loses nothing. See docs/adr/0006.
//!
//! It knows sockets, but not how they get into a namespace ([`Kernel`] does) nor when ([`crate::executor`] does).

mod accept;
mod attempts;
mod line;
mod proxy;
mod session;
mod splice;
mod targets;
mod trial;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use self::{attempts::Attempts, line::Line, splice::Pipes};
use crate::{
    drain::Service,
    kernel::{Kernel, OwnListener},
};

/// Most connections carried at once, if nobody says otherwise.
pub const MAX_CARRIED: usize = 10_000;

/// Carries the stragglers of all drains. Cheap to clone.
#[derive(Clone)]
pub struct Carrier(Arc<Shared>);

/// What all lines share.
struct Shared {
    kernel: Arc<dyn Kernel>,
    limit: usize,
    pipes: Pipes,
    attempts: Attempts,
    lines: Mutex<HashMap<Service, Open>>,
    counts: watch::Sender<CarryCounts>,
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
    /// Reset because as many were carried as may be.
    pub over_limit: u64,
    /// Reset because they had not been steered, or did not show whether they were carried already.
    pub strangers: u64,
}

impl Carrier {
    /// Carries at most `limit` connections at once.
    pub fn new(kernel: Arc<dyn Kernel>, limit: usize) -> Self {
        Self(Arc::new(Shared {
            kernel,
            limit,
            pipes: Pipes::default(),
            attempts: Attempts::default(),
            lines: Mutex::default(),
            counts: watch::Sender::default(),
        }))
    }

    /// Accepts from `listener`, and carries what comes, until [`Carrier::close`]. Has to be called inside a
    /// runtime of tokio.
    ///
    /// # Errors
    /// The listener cannot be watched.
    pub fn open(&self, service: Service, listener: OwnListener, route: Route) -> io::Result<()> {
        let line = Line::start(Arc::clone(&self.0), service, listener, route)?;
        if let Some(Open::Line(old)) = self.0.lines().insert(service, Open::Line(line)) {
            old.close();
        }
        Ok(())
    }

    /// Keeps a listener that answers nobody, until [`Carrier::close`].
    pub fn keep(&self, service: Service, listener: OwnListener) {
        let kept = Open::Silent { _listener: listener };
        if let Some(Open::Line(old)) = self.0.lines().insert(service, kept) {
            old.close();
        }
    }

    /// Stops accepting, once those are in that were on their way already. What is carried goes on to its end.
    pub fn close(&self, service: Service) {
        if let Some(Open::Line(line)) = self.0.lines().remove(&service) {
            line.close();
        }
    }

    /// Stops accepting and resets what is carried: the namespace is gone.
    pub fn abort(&self, service: Service) {
        if let Some(Open::Line(line)) = self.0.lines().remove(&service) {
            line.abort();
        }
    }

    /// Counters of the whole node.
    pub fn counts(&self) -> CarryCounts {
        *self.0.counts.borrow()
    }

    /// Ready when nothing is carried any more.
    pub async fn idle(&self) {
        // It fails only if the sender is gone, and that is ours.
        let _ = self.0.counts.subscribe().wait_for(|counts| counts.now == 0).await;
    }
}

impl Shared {
    fn lines(&self) -> MutexGuard<'_, HashMap<Service, Open>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, change: impl FnOnce(&mut CarryCounts)) {
        self.counts.send_modify(change);
    }
}
#[cfg(test)]
mod tests;

//! Carries out what the core decides: one task owns every drain, feeds its machine with events, and turns
//! actions into kernel operations.

use std::{sync::Arc, time::Duration};

use tokio::sync::{broadcast, mpsc};

use crate::{
    api::protocol::{SettledBy, StateName},
    drain::{Boot, Service},
    kernel::{Event, Kernel, KernelError},
};

/// Placeholder for `drain::Spec`.
#[derive(Clone, Debug)]
pub struct Spec;

/// A handle on the task that owns every drain of the node. Cheap to clone.
#[derive(Clone)]
pub struct Executor {
    _x: (),
}

/// Who started a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id in the initial user namespace.
    pub uid: u32,
    /// Network namespace the caller lived in.
    pub netns: u32,
}

/// Why a drain was not accepted. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// Nothing listens there, and there is no connection and no drain either.
    #[error("nothing listens on port {} in network namespace {}, and it has no connection", .0.port, .0.netns)]
    NoSuchService(Service),
    /// Already draining with other options.
    #[error(
        "{service} is already draining with other options ({difference}); undrain it first, or ask for the same"
    )]
    Conflict {
        /// The service.
        service: Service,
        /// Which option differs, and how.
        difference: String,
    },
    /// The kernel layer failed.
    #[error("the kernel refused")]
    Kernel(#[from] KernelError),
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

/// A service as it is now.
#[derive(Clone, Debug)]
pub struct Status {
    /// Which.
    pub service: Service,
    /// Its state.
    pub state: StateName,
    /// Flows, from the independent look.
    pub flows: u64,
    /// Handshakes in progress.
    pub handshakes: u64,
    /// Held FIN_WAIT2 connections that still count.
    pub lingering: u64,
    /// Refused connection attempts since the gate closed.
    pub rejected: u64,
    /// When the newest connection came.
    pub last_new: Option<Boot>,
    /// Sockets that listen on the port now.
    pub listeners: usize,
    /// Why the count cannot be verified.
    pub unknown: Option<String>,
    /// The drain.
    pub drain: Option<DrainView>,
}

/// A drain as it is now.
#[derive(Clone, Debug)]
pub struct DrainView {
    /// When it began.
    pub started: Boot,
    /// When it gives up waiting.
    pub deadline: Boot,
    /// When the gate opens by itself.
    pub lease_until: Boot,
    /// Whether a new instance leaves the gate closed.
    pub keep_closed: bool,
    /// Why settling ended.
    pub settled_by: Option<SettledBy>,
    /// Who started it.
    pub owner: Owner,
}

/// Something changed for a service.
#[derive(Clone, Debug)]
pub struct Update {
    /// Which.
    pub service: Service,
    /// If its drain ended before it was drained, or was lifted: why, in words.
    pub ended: Option<String>,
}

/// Counters since the agent started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Drains accepted.
    pub drains: u64,
    /// Services proven empty.
    pub drained: u64,
    /// Drains whose deadline passed with flows remaining.
    pub expired: u64,
    /// Times the independent look and the tracker disagreed.
    pub disagreements: u64,
    /// Tracker entries and counters mended.
    pub repairs: u64,
    /// Flows that appeared in a drained service: a bug, or somebody else's sk_lookup program.
    pub flows_after_drained: u64,
    /// Verdicts that were `unknown`.
    pub unknown_verdicts: u64,
}

impl Executor {
    /// Starts the task.
    pub fn spawn(kernel: Arc<dyn Kernel>, events: mpsc::UnboundedReceiver<Event>) -> Self {
        let _ = (kernel, events);
        unimplemented!()
    }

    /// Starts or joins one drain of all `services`: all of them, or none on error. Returns whether at least
    /// one was draining already. With `quiet` 0 the gates are closed when it returns.
    pub async fn drain(
        &self,
        services: Vec<Service>,
        spec: Spec,
        owner: Owner,
    ) -> Result<bool, DrainError> {
        let _ = (services, spec, owner);
        unimplemented!()
    }

    /// Ends the drain and opens the gate. Returns whether there was one.
    pub async fn undrain(&self, service: Service) -> Result<bool, DrainError> {
        let _ = service;
        unimplemented!()
    }

    /// The services as they are now, in the order asked for; looks at each namespace once.
    pub async fn status(&self, services: Vec<Service>) -> Result<Vec<Status>, DrainError> {
        let _ = services;
        unimplemented!()
    }

    /// Proves again that a drained service is empty (it falls back to rejecting if it is not), then its status.
    pub async fn prove(&self, service: Service) -> Result<Status, DrainError> {
        let _ = service;
        unimplemented!()
    }

    /// Every service that is draining now.
    pub async fn draining(&self) -> Result<Vec<Service>, DrainError> {
        unimplemented!()
    }

    /// Renews the lease of the service's drain to its full length, if there is a drain.
    pub async fn renew(&self, service: Service) {
        let _ = service;
    }

    /// Changes from now on. A receiver that lags behind must ask for the status again.
    pub fn subscribe(&self) -> broadcast::Receiver<Update> {
        unimplemented!()
    }

    /// Counters.
    pub fn totals(&self) -> Totals {
        unimplemented!()
    }

    /// Ends every drain (their gates open) and the task.
    pub async fn stop(&self, patience: Duration) {
        let _ = patience;
    }
}

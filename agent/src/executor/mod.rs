//! Carries out what the core decides: one task owns every drain, feeds its machine with events, and runs its actions.

mod accept;
mod adopt;
mod carry;
mod entry;
mod error;
mod handoff;
mod holds;
mod looking;
mod ops;
mod record;
mod registering;
mod report;
mod retired;
mod rounds;
mod straggling;
mod task;
mod verify;
mod view;

#[cfg(test)]
mod admission_tests;
#[cfg(test)]
mod adopt_tests;
#[cfg(test)]
mod failure_tests;
#[cfg(test)]
mod handoff_tests;
#[cfg(test)]
mod retire_tests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod straggling_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod verdict_tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{broadcast, mpsc, oneshot};

pub use self::{
    error::DrainError,
    holds::HoldRequest,
    registering::RegistryView,
    view::{DrainView, Owner, Stand, Status, Totals, Update},
};
use self::{
    holds::Held,
    task::{Command, Task},
};
use crate::{
    carry::{Carrier, CarryCounts},
    drain::{Endpoint, HoldName, Leaving, Service, Spec, StateName},
    kernel::{Event, Kernel, KernelError, explain},
    registries::{Registries, RegistryCounts},
};

/// A handle on the task that owns every drain of the node. Cheap to clone. When the last one is dropped,
/// the task ends, and leaves the drains to the next one.
#[derive(Clone)]
pub struct Executor {
    commands: mpsc::UnboundedSender<Command>,
    /// Weak, so that those who follow learn of it when the task ends.
    updates: broadcast::WeakSender<Update>,
    totals: Arc<Mutex<Totals>>,
    carrier: Carrier,
    registries: Registries,
    #[cfg(test)]
    task: tokio::task::AbortHandle,
}

/// Updates that a subscriber may lag behind before it loses some.
const UPDATES: usize = 1024;

impl Executor {
    /// Goes on with the drains that an earlier agent left, and starts the task. `events` are those of `kernel`; if
    /// that channel closes, drains go on by looking once a second. `max_carried` is how many connections are carried to
    /// peers at once, at most; `registries` are told of drains. Blocks for a moment.
    ///
    /// # Errors
    /// It is not known what the earlier agent left, or what is left of no drain could not be undone.
    pub fn spawn(
        kernel: Arc<dyn Kernel>,
        events: mpsc::UnboundedReceiver<Event>,
        max_carried: usize,
        registries: Registries,
    ) -> Result<Self, KernelError> {
        let carrier = Carrier::new(Arc::clone(&kernel), max_carried);
        let held = Held::adopt(&*kernel)?;
        let adopted = adopt::adopt(&*kernel, &carrier)?;
        let (commands, receiver) = mpsc::unbounded_channel();
        let (updates, _) = broadcast::channel(UPDATES);
        let totals = Arc::default();
        let weak = updates.downgrade();
        let mut task = Task::new(
            kernel,
            carrier.clone(),
            registries.clone(),
            receiver,
            updates,
            Arc::clone(&totals),
        );
        task.held = held;
        task.resume(adopted);
        let _task = tokio::spawn(task.run(events));
        Ok(Self {
            commands,
            updates: weak,
            totals,
            carrier,
            registries,
            #[cfg(test)]
            task: _task.abort_handle(),
        })
    }

    /// Starts or joins one drain of all `services`: all of them, or none on error. Returns whether at least
    /// one was draining already. With `quiet` 0 the gates are closed when it returns.
    ///
    /// # Errors
    /// See [`DrainError`]. If a gate cannot be closed at `quiet` 0, the others are opened again first.
    pub async fn drain(
        &self,
        services: Vec<Service>,
        spec: Spec,
        owner: Owner,
    ) -> Result<bool, DrainError> {
        let spec = Box::new(spec);
        self.ask(|reply| Command::Drain { services, spec, owner, reply }).await?
    }

    /// Ends the drain and opens the gate. Returns whether there was one.
    ///
    /// # Errors
    /// The kernel refused to open the gate: it stays closed and `rejecting`, and the executor goes on trying.
    pub async fn undrain(&self, service: Service) -> Result<bool, DrainError> {
        self.ask(|reply| Command::Undrain { service, reply }).await?
    }

    /// Sets a hold, or renews it if there is one of that name: the service is not drained before it is released, or its
    /// time is over. Returns whether it was there already.
    ///
    /// # Errors
    /// See [`DrainError`]; nothing has changed then.
    pub async fn hold(&self, request: HoldRequest) -> Result<bool, DrainError> {
        self.ask(|reply| Command::Hold { request, reply }).await?
    }

    /// Ends a hold. Returns whether there was one.
    ///
    /// # Errors
    /// The kernel refused: it is still there.
    pub async fn release(&self, service: Service, name: HoldName) -> Result<bool, DrainError> {
        self.ask(|reply| Command::Release { service, name, reply }).await?
    }

    /// Every service that something holds, sorted.
    ///
    /// # Errors
    /// [`DrainError::Stopping`] only.
    pub async fn held(&self) -> Result<Vec<Service>, DrainError> {
        self.ask(|reply| Command::Held { reply }).await
    }

    /// The services as they are now, in the order asked for; looks at each namespace once. A look that
    /// fails makes `unknown` of the services it was for.
    ///
    /// # Errors
    /// [`DrainError::Stopping`] only.
    pub async fn status(&self, services: Vec<Service>) -> Result<Vec<Status>, DrainError> {
        self.ask(|reply| Command::Status { services, reply }).await
    }

    /// Proves again that a drained service is empty (it falls back to rejecting if it is not), then its status.
    ///
    /// # Errors
    /// [`DrainError::Stopping`] only.
    pub async fn prove(&self, service: Service) -> Result<Status, DrainError> {
        let statuses = self.ask(|reply| Command::Prove { service, reply }).await?;
        statuses.into_iter().next().ok_or(DrainError::Stopping)
    }

    /// Every service that is draining now, sorted.
    ///
    /// # Errors
    /// [`DrainError::Stopping`] only.
    pub async fn draining(&self) -> Result<Vec<Service>, DrainError> {
        self.ask(|reply| Command::Draining { reply }).await
    }

    /// Every service that is draining now with its state, sorted.
    ///
    /// # Errors
    /// [`DrainError::Stopping`] only.
    pub async fn standing(&self) -> Result<Vec<(Service, StateName)>, DrainError> {
        self.ask(|reply| Command::Standing { reply }).await
    }

    /// Where the service's drain stands, if there is one; nobody looks at its connections for that.
    ///
    /// # Errors
    /// [`DrainError::Stopping`] only.
    pub async fn stand(&self, service: Service) -> Result<Option<Stand>, DrainError> {
        self.ask(|reply| Command::Stand { service, reply }).await
    }

    /// Tells the service's drain, if there is one, what Kubernetes does about its server.
    pub async fn endpoint(&self, service: Service, endpoint: Endpoint) {
        // An agent that is stopping leaves it to the next one.
        let _ = self.commands.send(Command::Endpoint { service, endpoint });
    }

    /// How each flow of the service's drain is on its way out, by socket cookie, as of the newest round; empty
    /// if it is not draining.
    ///
    /// # Errors
    /// [`DrainError::Stopping`] only.
    pub async fn leaving(&self, service: Service) -> Result<HashMap<u64, Leaving>, DrainError> {
        self.ask(|reply| Command::Leaving { service, reply }).await
    }

    /// Renews the lease of the service's drain to its full length, if there is a drain.
    pub async fn renew(&self, service: Service) {
        // An agent that is stopping ends the drain anyway.
        let _ = self.commands.send(Command::Renew { service });
    }

    /// Changes from now on, until the task ends. A receiver that lags behind must ask for the status again.
    pub fn subscribe(&self) -> broadcast::Receiver<Update> {
        let ended = || broadcast::channel(1).1;
        self.updates.upgrade().map_or_else(ended, |updates| updates.subscribe())
    }

    /// Counters.
    pub fn totals(&self) -> Totals {
        *self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What registries were told.
    pub fn registries(&self) -> RegistryCounts {
        self.registries.counts()
    }

    /// Connections that are carried to peers.
    pub fn carried(&self) -> CarryCounts {
        self.carrier.counts()
    }

    /// Services of which connections are carried to peers now, and how many of each.
    pub fn carried_by_service(&self) -> Vec<(Service, usize)> {
        self.carrier.by_service()
    }

    /// Ready when no connection is carried any more. What is carried does not end with its drain.
    pub async fn idle(&self) {
        self.carrier.idle().await;
    }

    /// Ends the task. The kernel keeps everything: the next agent goes on with the drains, and until then leases run.
    pub async fn stop(&self) {
        // If the task is gone already, there is nothing to stop.
        let _ = self.ask(|reply| Command::Stop { reply }).await;
    }

    /// Ends the task at once, wherever it is, as SIGKILL would. Operations under way are carried out.
    #[cfg(test)]
    fn kill(self) {
        self.task.abort();
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, DrainError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| DrainError::Stopping)?;
        answer.await.map_err(|_| DrainError::Stopping)
    }
}

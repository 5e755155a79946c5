//! What all requests share, and the steps that most of them take: find the namespace, check that the
//! caller may, ask the kernel.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use tokio::sync::Semaphore;

use super::{
    auth::{Action, Caller, Denied, ListenerFacts, Target, may},
    checks::UnderWay,
    drains::Drains,
    error::ApiError,
    metrics::Requests,
    peer::held_in_cgroup,
    protocol::{PodRef, ServiceStatus},
    status::{exists, service_status},
};
use crate::{
    drain::Service,
    executor::Status,
    hook,
    kernel::{Kernel, KernelError, Listener},
    pods::Pods,
};

/// What all requests share.
pub struct App<D> {
    pub(super) drains: D,
    pub(super) kernel: Arc<dyn Kernel>,
    pub(super) pods: Pods,
    pub(super) requests: Requests,
    pub(super) hooks: Arc<hook::Counts>,
    pub(super) checks: Arc<UnderWay>,
    turns: Arc<Semaphore>,
}

/// How many requests may ask the kernel at once; the others wait for their turn. Threads that block are few, and
/// drains need them.
const TURNS: usize = 4;

impl<D: Drains> App<D> {
    /// The interface to `drains`, looking through `kernel`; `pods` says who is who.
    pub fn new(drains: D, kernel: Arc<dyn Kernel>, pods: Pods) -> Self {
        let (requests, turns) = (Requests::default(), Arc::new(Semaphore::new(TURNS)));
        let (hooks, checks) = (Arc::default(), Arc::default());
        Self { drains, kernel, pods, requests, hooks, checks, turns }
    }

    /// Where hooks count what becomes of them, for the metrics.
    pub fn hooks(&self) -> Arc<hook::Counts> {
        Arc::clone(&self.hooks)
    }

    /// Calls the kernel on a thread that may block.
    pub(super) async fn kernel<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Kernel) -> Result<T, KernelError> + Send + 'static,
    ) -> Result<T, ApiError> {
        Ok(self.kernel_result(call).await??)
    }

    /// As [`App::kernel`], for callers that tell the kernel's errors apart.
    pub(super) async fn kernel_result<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Kernel) -> Result<T, KernelError> + Send + 'static,
    ) -> Result<Result<T, KernelError>, ApiError> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|closed| ApiError::internal(&closed))?;
        let kernel = Arc::clone(&self.kernel);
        // The thread goes on although nobody waits for it any more, and its turn with it.
        let called = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            call(kernel.as_ref())
        });
        called.await.map_err(|error| ApiError::internal(&error))
    }

    /// Checks that the caller may read this namespace.
    pub(super) fn authorize_read(&self, caller: &Caller, netns: u32) -> Result<(), ApiError> {
        let target = Target::unseen(netns, self.kernel.host_netns());
        may(Action::Read, caller, &target).map_err(|why| {
            ApiError::denied(caller, "read", &format!("network namespace {netns}"), why)
        })
    }

    /// Checks that the caller may drain and undrain this service.
    pub(super) async fn authorize_change(
        &self,
        caller: &Caller,
        service: Service,
    ) -> Result<(), ApiError> {
        self.may_change(caller, service)
            .await?
            .map_err(|why| ApiError::denied(caller, "drain or undrain", &service.to_string(), why))
    }

    /// Whether the caller may drain and undrain this service. Who may not even read the namespace learns
    /// nothing of it; who may is told first if there is no such service.
    pub(super) async fn may_change(
        &self,
        caller: &Caller,
        service: Service,
    ) -> Result<Result<(), Denied>, ApiError> {
        let unseen = Target::unseen(service.netns, self.kernel.host_netns());
        let at_first_sight = may(Action::Change, caller, &unseen);
        if at_first_sight.is_ok() || may(Action::Read, caller, &unseen).is_err() {
            return Ok(at_first_sight);
        }
        let status = self.existing(service).await?;
        let look = self.kernel(move |k| k.look(service.netns, Some(service.port))).await?;
        let target = Target {
            listeners: self.listener_facts(caller, service, look.listeners).await?,
            drain_owner: status.drain.map(|drain| drain.owner),
            ..unseen
        };
        Ok(may(Action::Change, caller, &target))
    }

    async fn listener_facts(
        &self,
        caller: &Caller,
        service: Service,
        listeners: Vec<Listener>,
    ) -> Result<Vec<ListenerFacts>, ApiError> {
        let held = match caller.cgroup.clone() {
            Some(cgroup) if service.netns == self.kernel.host_netns() => {
                let inodes: Vec<_> = listeners.iter().map(|listener| listener.inode).collect();
                let held = tokio::task::spawn_blocking(move || held_in_cgroup(&inodes, &cgroup));
                let held = held.await.map_err(|error| ApiError::internal(&error))?;
                held.map_err(|error| ApiError::internal(&error))?
            }
            _ => HashSet::new(),
        };
        let facts = |listener: &Listener| ListenerFacts {
            uid: listener.uid,
            in_callers_cgroup: held.contains(&listener.inode),
        };
        Ok(listeners.iter().map(facts).collect())
    }

    /// The service's status, if there is anything at all.
    pub(super) async fn existing(&self, service: Service) -> Result<Status, ApiError> {
        let status = self.drains.status(vec![service]).await?;
        let status = status.into_iter().next();
        self.there(status.ok_or_else(|| ApiError::no_such_service(service))?).await
    }

    /// The status, if there is anything that has it.
    pub(super) async fn there(&self, status: Status) -> Result<Status, ApiError> {
        let service = status.service;
        if !exists(&status) {
            return Err(ApiError::no_such_service(service));
        }
        if status.unknown.is_some() {
            // Of a namespace that is gone nothing is known, but it is not there either.
            self.kernel(move |kernel| kernel.netns_cookie(service.netns)).await?;
        }
        Ok(status)
    }

    /// The services as they are told now.
    pub(super) async fn told(
        &self,
        services: Vec<Service>,
    ) -> Result<Vec<ServiceStatus>, ApiError> {
        let status = self.drains.status(services).await?;
        let mut told = Vec::with_capacity(status.len());
        for status in &status {
            told.push(self.tell(status).await);
        }
        Ok(told)
    }

    /// Every service that is draining, or held by something.
    pub(super) async fn known(&self) -> Result<BTreeSet<Service>, ApiError> {
        let draining = self.drains.draining().await?;
        Ok(draining.into_iter().chain(self.drains.held().await?).collect())
    }

    /// The service as it is told now.
    pub(super) async fn tell(&self, status: &Status) -> ServiceStatus {
        let pod = self.pod(status.service.netns).await;
        service_status(status, pod, self.kernel.now())
    }

    /// The pod that a namespace belongs to.
    pub(super) async fn pod(&self, netns: u32) -> Option<PodRef> {
        self.pods.in_netns(netns).await.map(|pod| PodRef::from(&*pod))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::{super::testing::FakeDrains, *};

    #[tokio::test]
    async fn who_breaks_a_question_off_keeps_its_turn_until_it_is_answered() {
        let app = FakeDrains::new().app();
        let (begin, begun) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let asked = Arc::clone(&app);
        let question = tokio::spawn(async move {
            let wait = move |_: &dyn Kernel| {
                begin.send(()).expect("the test waits");
                ends.recv().expect("the test ends it");
                Ok(())
            };
            asked.kernel(wait).await.is_ok()
        });
        tokio::task::spawn_blocking(move || begun.recv()).await.unwrap().unwrap();
        question.abort();
        assert!(question.await.unwrap_err().is_cancelled());
        assert_eq!(app.turns.available_permits(), TURNS - 1);
        end.send(()).unwrap();
        let all = app.turns.acquire_many(TURNS as u32).await;
        assert!(all.is_ok(), "it has ended");
    }
}

//! Registries that are told of drains: that a server leaves, before its gate closes, and that it is back, once its gate
//! is open again. Whom to tell, and how, is in a file of the node's admin.

mod exec;
mod file;
mod http;
mod preset;
mod run;
mod status_file;

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tracing::warn;

pub use self::{
    file::{FileError, LONGEST_NAME, Registry, read},
    run::{Direction, News, Outcome, Run},
};
use crate::{
    drain::Service,
    kernel::Kernel,
    pods::{Pod, PodName, Pods},
};

/// Most registries that one service has: their names are kept with its drain.
pub const MOST: usize = 16;

/// All registries of this node, and how to reach them. Cheap to clone.
#[derive(Clone)]
pub struct Registries {
    inner: Arc<Inner>,
}

struct Inner {
    all: Vec<Registry>,
    kernel: Arc<dyn Kernel>,
    pods: OnceLock<Pods>,
    pods_known: Notify,
    counts: Counts,
}

/// What was told, since the agent started.
#[derive(Debug, Default)]
struct Counts {
    left: AtomicU64,
    back: AtomicU64,
    left_failed: AtomicU64,
    back_failed: AtomicU64,
    behind: AtomicU64,
}

/// Counters since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegistryCounts {
    /// Times a registry was told that a server leaves.
    pub left: u64,
    /// Times a registry was told that a server is back.
    pub back: u64,
    /// Attempts to tell a registry that a server leaves, which failed.
    pub left_failed: u64,
    /// Attempts to tell a registry that a server is back, which failed.
    pub back_failed: u64,
    /// Registries that do not know yet that a server is back, now.
    pub behind: u64,
}

/// What is told to a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// The server leaves.
    Drain,
    /// The server is back.
    Undrain,
}

impl Told {
    /// Its name, as programs are told.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Undrain => "undrain",
        }
    }
}

/// Whom a registry is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The service.
    pub service: Service,
    /// Its pod, if it is in one that is known.
    pub pod: Option<PodName>,
}

impl Registries {
    /// Those of a file, reached through `kernel`.
    pub fn new(all: Vec<Registry>, kernel: Arc<dyn Kernel>) -> Self {
        let (pods, pods_known) = (OnceLock::new(), Notify::new());
        let inner = Inner { all, kernel, pods, pods_known, counts: Counts::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Who is who. Registries that are for certain pods wait for it.
    pub fn know(&self, pods: Pods) {
        // It is said once only.
        let _ = self.inner.pods.set(pods);
        self.inner.pods_known.notify_waiters();
    }

    /// Whether there may be one for this service: which pod it is in is asked later.
    pub fn may_concern(&self, service: Service) -> bool {
        let host = service.netns == self.inner.kernel.host_netns();
        self.inner.all.iter().any(|registry| registry.may_be_for(service.port, host))
    }

    /// Counters.
    pub fn counts(&self) -> RegistryCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { left, back, left_failed, back_failed, behind } = &self.inner.counts;
        RegistryCounts {
            behind: read(behind),
            left: read(left),
            back: read(back),
            left_failed: read(left_failed),
            back_failed: read(back_failed),
        }
    }

    fn count(&self, told: Told, worked: bool) {
        let Counts { left, back, left_failed, back_failed, .. } = &self.inner.counts;
        let count = match (told, worked) {
            (Told::Drain, true) => left,
            (Told::Drain, false) => left_failed,
            (Told::Undrain, true) => back,
            (Told::Undrain, false) => back_failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// So many do not know yet that a server is back.
    pub fn are_behind(&self, registries: usize) {
        self.inner.counts.behind.store(registries as u64, Ordering::Relaxed);
    }

    fn named(&self, name: &str) -> Option<&Registry> {
        self.inner.all.iter().find(|registry| registry.name() == name)
    }

    /// Those for this service, in the order of the file, and what they are told of.
    async fn of(&self, service: Service) -> (Subject, Vec<&Registry>) {
        let host = service.netns == self.inner.kernel.host_netns();
        let some: Vec<_> =
            self.inner.all.iter().filter(|each| each.may_be_for(service.port, host)).collect();
        let pod = match some.iter().any(|registry| registry.needs_pod()) {
            true => self.pod(service).await,
            false => None,
        };
        if pod.is_none() && !host && some.iter().any(|registry| registry.selects_pods()) {
            warn!(%service, "it is not known which pod this is: registries that are for certain pods are not told");
        }
        let chosen = some.into_iter().filter(|each| each.is_for(pod.as_deref()));
        let name = pod.as_deref().map(Pod::full_name);
        (Subject { service, pod: name }, chosen.collect())
    }

    async fn pod(&self, service: Service) -> Option<Arc<Pod>> {
        loop {
            let known = self.inner.pods_known.notified();
            match self.inner.pods.get() {
                Some(pods) => return pods.in_netns(service.netns).await,
                None => known.await,
            }
        }
    }
}

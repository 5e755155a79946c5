//! [`Pods`]: asks the sources, and remembers what they said.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, task::spawn_blocking};

use super::{
    logs,
    places::{self, ContainerRef, Places, Seen},
    pod::{NetnsId, Pod, PodList, PodName},
    table,
};

/// Time between two looks at sources that do not tell by themselves what has changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Where to look.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Where proc is mounted.
    pub proc: PathBuf,
    /// The kubelet's folder of logs.
    pub logs: PathBuf,
}

/// Who is who on this node. Cheap to clone; everything that it looks up is read at that moment, or followed by tasks
/// of its own, which end with the last clone.
#[derive(Clone)]
pub struct Pods {
    inner: Arc<Inner>,
}

struct Inner {
    host: NetnsId,
    sources: Sources,
    list: watch::Sender<PodList>,
    /// The process by which the pod of a namespace was found last time.
    found: Mutex<HashMap<NetnsId, Seen>>,
}

/// A pod, or a container without one, and where it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The pod; `None` for a container that belongs to none, or to one whose name is not known.
    pub pod: Option<Arc<Pod>>,
    /// Its network namespace, which is not the node's.
    pub netns: NetnsId,
    /// A process that lives in it.
    pub pid: u32,
}

/// Why a pod or container was not found.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// Nobody knows it.
    #[error(
        "there is no pod {0} on this node; see `kubectl get pods -o wide` for the node it is on, and ask the agent there"
    )]
    NoSuchPod(PodName),
    /// It is known, and no process of it is left.
    #[error("pod {0} has no running container on this node (any more); there is nothing to drain")]
    NotRunning(PodName),
    /// A name that came again while processes of the old one are left.
    #[error(
        "{count} pods on this node are called {name}, and none of the sources says which is the newest; name one of its \
         containers instead (--container ID)"
    )]
    Several {
        /// The name.
        name: PodName,
        /// How many.
        count: usize,
    },
    /// It has no network namespace of its own.
    #[error(
        "{0} shares the node's network, where a port belongs to no pod; name the node and the port instead (--host)"
    )]
    HostNetwork(String),
    /// No process is in such a container.
    #[error(
        "no process on this node is in a container whose id begins with {0}; see `crictl ps` for those that run"
    )]
    NoSuchContainer(String),
    /// The beginning of an id fits several.
    #[error("the ids of {count} containers begin with {id}; write more of it")]
    SeveralContainers {
        /// What was asked for.
        id: String,
        /// How many.
        count: usize,
    },
    /// It is no id.
    #[error(
        "{0:?} is no container; write its id, or the first 12 digits of it or more, for example 3f8a1c5e7d9b"
    )]
    WrongContainer(String),
    /// /proc could not be read.
    #[error("cannot look through the processes of this node")]
    Proc(#[from] io::Error),
}

impl Pods {
    /// Begins to follow the pods of this node. `host` is the node's own network namespace.
    pub fn start(host: NetnsId, sources: Sources) -> Self {
        let inner =
            Inner { host, sources, list: watch::Sender::default(), found: Mutex::default() };
        let inner = Arc::new(inner);
        tokio::spawn(follow(Arc::downgrade(&inner)));
        Self { inner }
    }

    /// The pod and the container that a process belongs to; `None` if it is in no pod, or gone.
    pub async fn of_process(&self, pid: u32) -> Option<ContainerRef> {
        let proc = self.inner.sources.proc.clone();
        let place = spawn_blocking(move || places::of_process(&proc, pid)).await.ok()??;
        Some(ContainerRef { pod_uid: place.pod?, container_id: place.container })
    }

    /// The pod of this name that runs on this node.
    ///
    /// # Errors
    /// There is none, or it has no network namespace of its own, or it cannot be told which of two it is.
    pub async fn named(&self, name: &PodName) -> Result<Found, PodError> {
        self.inner.refresh().await;
        let candidates = table::named(&self.inner.list.borrow(), name);
        if candidates.is_empty() {
            return Err(PodError::NoSuchPod(name.clone()));
        }
        let places = self.inner.look().await?;
        let running: Vec<_> = candidates
            .into_iter()
            .filter_map(|pod| places.of_pod(&pod.uid).map(|seen| (pod, seen)))
            .collect();
        match running.as_slice() {
            [] => Err(PodError::NotRunning(name.clone())),
            [(_, seen)] if seen.netns == self.inner.host => {
                Err(PodError::HostNetwork(format!("pod {name}")))
            }
            [(pod, seen)] => {
                Ok(Found { pod: Some(Arc::clone(pod)), netns: seen.netns, pid: seen.pid })
            }
            several => Err(PodError::Several { name: name.clone(), count: several.len() }),
        }
    }

    /// The container whose id is, or begins with, `id`; the runtime's name may stand before it (`containerd://…`).
    ///
    /// # Errors
    /// There is none, or it has no network namespace of its own, or it cannot be told which of several it is.
    pub async fn container(&self, id: &str) -> Result<Found, PodError> {
        let bare = id.split_once("://").map_or(id, |(_, id)| id);
        let is_id = (12..=64).contains(&bare.len()) && bare.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_id {
            return Err(PodError::WrongContainer(id.into()));
        }
        let places = self.inner.look().await?;
        let seen = match places.of_container(&bare.to_ascii_lowercase()).as_slice() {
            [] => return Err(PodError::NoSuchContainer(bare.into())),
            [seen] => (*seen).clone(),
            all => return Err(PodError::SeveralContainers { id: bare.into(), count: all.len() }),
        };
        if seen.netns == self.inner.host {
            return Err(PodError::HostNetwork(format!("container {bare}")));
        }
        let pod = match &seen.place.pod {
            Some(uid) => self.inner.by_uid(uid).await,
            None => None,
        };
        Ok(Found { pod, netns: seen.netns, pid: seen.pid })
    }

    /// The pod that lives in this network namespace; `None` for the node's own, which pods with `hostNetwork` share,
    /// and for one that belongs to no pod or to one whose name is not known.
    pub async fn in_netns(&self, netns: NetnsId) -> Option<Arc<Pod>> {
        if netns == self.inner.host {
            return None;
        }
        let seen = self.inner.first_in(netns).await?;
        self.inner.by_uid(seen.place.pod.as_deref()?).await
    }

    /// The pods of this node as they come, change and go.
    pub fn watch(&self) -> watch::Receiver<PodList> {
        self.inner.list.subscribe()
    }
}

/// Looks again and again, until nobody is interested any more.
async fn follow(inner: std::sync::Weak<Inner>) {
    loop {
        let Some(strong) = inner.upgrade() else { return };
        strong.refresh().await;
        drop(strong);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Inner {
    /// Asks all sources.
    async fn refresh(&self) {
        let folder = self.sources.logs.clone();
        let logs = spawn_blocking(move || logs::read(&folder)).await;
        // Where there is no kubelet there is no such folder.
        let logs: Vec<Arc<Pod>> =
            logs.ok().and_then(Result::ok).unwrap_or_default().into_iter().map(Arc::new).collect();
        let list = table::merge([&logs[..]]);
        self.list.send_if_modified(|old| {
            let changed = *old != list;
            *old = list;
            changed
        });
    }

    /// The pod of this uid; asks the sources again if it is not known.
    async fn by_uid(&self, uid: &str) -> Option<Arc<Pod>> {
        let known = table::by_uid(&self.list.borrow(), uid);
        if known.is_some() {
            return known;
        }
        self.refresh().await;
        table::by_uid(&self.list.borrow(), uid)
    }

    /// The first process of a pod in this namespace.
    async fn first_in(&self, netns: NetnsId) -> Option<Seen> {
        let known = self.found().get(&netns).cloned();
        if let Some(seen) = known
            && seen.is_there(&self.sources.proc)
        {
            return Some(seen);
        }
        if !self.has_pods(&self.sources.logs) {
            return None;
        }
        let pods = self.look().await.ok()?.pods(self.host);
        let seen = pods.get(&netns).cloned();
        *self.found() = pods;
        seen
    }

    /// Whether there may be pods at all: elsewhere nobody should have to wait for a look at all processes.
    fn has_pods(&self, logs: &Path) -> bool {
        !self.list.borrow().is_empty() || logs.exists()
    }

    async fn look(&self) -> io::Result<Places> {
        let proc = self.sources.proc.clone();
        spawn_blocking(move || Places::look(&proc)).await?
    }

    fn found(&self) -> std::sync::MutexGuard<'_, HashMap<NetnsId, Seen>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! [`Pods`]: asks the sources, and remembers what they said.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{sync::watch, task::spawn_blocking};

use super::{
    cluster::{self, Cluster, ClusterError, Listed},
    cri::Runtime,
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
    /// Socket of the container runtime; `None`: the first that is there of those that are known.
    pub cri_socket: Option<PathBuf>,
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
    cluster: Option<Cluster>,
    listed: Option<watch::Receiver<Listed>>,
    runtime: Mutex<Option<Runtime>>,
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
    /// Begins to follow the pods of this node. `host` is the node's own network namespace. With `wait` it returns once
    /// the API has listed them.
    ///
    /// # Errors
    /// It was to wait, and the API does not answer.
    pub async fn start(
        host: NetnsId,
        sources: Sources,
        cluster: Option<Cluster>,
        wait: bool,
    ) -> Result<Self, ClusterError> {
        let mut listed = cluster.as_ref().map(Cluster::follow);
        if let Some(listed) = listed.as_mut().filter(|_| wait) {
            cluster::first_list(listed).await?;
        }
        let pods = Self::new(host, sources, cluster, listed);
        tokio::spawn(follow(Arc::downgrade(&pods.inner), pods.inner.listed.clone()));
        Ok(pods)
    }

    /// Where there is no Kubernetes.
    pub fn nowhere(host: NetnsId) -> Self {
        let sources =
            Sources { proc: "/proc".into(), logs: "/nonexistent".into(), cri_socket: None };
        Self::new(host, sources, None, None)
    }

    fn new(
        host: NetnsId,
        sources: Sources,
        cluster: Option<Cluster>,
        listed: Option<watch::Receiver<Listed>>,
    ) -> Self {
        let (runtime, list, found) = (Mutex::default(), watch::Sender::default(), Mutex::default());
        Self { inner: Arc::new(Inner { host, sources, cluster, listed, runtime, list, found }) }
    }

    /// The API, if it is asked.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.inner.cluster.as_ref()
    }

    /// The pod as it is now, as far as that can be told in a moment: a deletion may be younger than what is known.
    pub async fn fresh(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        match &self.inner.cluster {
            Some(cluster) => match cluster.get(pod).await {
                Ok(Some(now)) => return Arc::new(now),
                Ok(None) => {}
                Err(error) => {
                    let pod = pod.full_name();
                    tracing::warn!(%pod, error, "cannot ask the Kubernetes API for the pod");
                }
            },
            None => self.inner.refresh().await,
        }
        table::by_uid(&self.inner.list.borrow(), &pod.uid).unwrap_or_else(|| Arc::clone(pod))
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
        let candidates = self.inner.called(name);
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
async fn follow(inner: Weak<Inner>, mut listed: Option<watch::Receiver<Listed>>) {
    loop {
        let Some(strong) = inner.upgrade() else { return };
        strong.refresh().await;
        drop(strong);
        tokio::select! {
            Some(()) = changed(&mut listed) => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Ready when the API has told something new; `None` if it never will.
async fn changed(listed: &mut Option<watch::Receiver<Listed>>) -> Option<()> {
    listed.as_mut()?.changed().await.ok()
}

impl Inner {
    /// Asks all sources.
    async fn refresh(&self) {
        let listed = self.listed.as_ref().and_then(|listed| listed.borrow().clone());
        // What the runtime knows of pods the API knows better.
        let runtime = if listed.is_some() { Vec::new() } else { self.ask_runtime().await };
        let folder = self.sources.logs.clone();
        let logs = spawn_blocking(move || logs::read(&folder)).await;
        // Where there is no kubelet there is no such folder.
        let logs: Vec<Arc<Pod>> =
            logs.ok().and_then(Result::ok).unwrap_or_default().into_iter().map(Arc::new).collect();
        let list = table::merge([&listed.unwrap_or_default()[..], &runtime, &logs]);
        self.list.send_if_modified(|old| {
            let changed = *old != list;
            *old = list;
            changed
        });
    }

    async fn ask_runtime(&self) -> Vec<Arc<Pod>> {
        let runtime = {
            let mut known = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
            // It may start later than the agent.
            if known.is_none() && self.has_pods() {
                *known = Runtime::find(self.sources.cri_socket.as_deref());
            }
            known.clone()
        };
        let Some(runtime) = runtime else { return Vec::new() };
        let pods = runtime.pods().await;
        pods.inspect_err(|error| tracing::debug!(error, "the container runtime tells nothing"))
            .unwrap_or_default()
    }

    /// The pods of this name. One that the API knows is the one that is meant, whatever is left of others.
    fn called(&self, name: &PodName) -> Vec<Arc<Pod>> {
        let listed = self.listed.as_ref().and_then(|listed| listed.borrow().clone());
        let known = table::named(&listed.unwrap_or_default(), name);
        if known.is_empty() { table::named(&self.list.borrow(), name) } else { known }
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
        if !self.has_pods() {
            return None;
        }
        let pods = self.look().await.ok()?.pods(self.host);
        let seen = pods.get(&netns).cloned();
        *self.found() = pods;
        seen
    }

    /// Whether there may be pods at all: elsewhere nobody should have to wait for a look at all processes.
    fn has_pods(&self) -> bool {
        self.cluster.is_some() || self.sources.cri_socket.is_some() || self.sources.logs.exists()
    }

    async fn look(&self) -> io::Result<Places> {
        let proc = self.sources.proc.clone();
        spawn_blocking(move || Places::look(&proc)).await?
    }

    fn found(&self) -> std::sync::MutexGuard<'_, HashMap<NetnsId, Seen>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! preStop hooks over HTTP: for each pod of this node that asks for it by an annotation, a listener inside its network
//! namespace, which the kubelet of this node, and nobody else, may ask to drain the pod. See docs/adr/0010.

mod port;
mod query;

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::Router;
use tokio::{
    sync::{Semaphore, watch},
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use self::port::Port;
use crate::{
    api::protocol::HookMissing,
    kernel::{Kernel, Listening, explain},
    pods::{Found, Pod, PodList, PodName, Pods},
};

/// The annotation that asks for a hook; its value is the port.
pub const ANNOTATION: &str = "drainctl.dev/prestop-port";

/// Time between two looks whether the pods with listeners are still there, and two attempts to open one.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Strangers that are told at once that they are some; more are not told.
const MAX_STRANGERS: usize = 64;

/// What came of hooks since the agent started.
#[derive(Debug, Default)]
pub struct Counts {
    /// Listeners that are open now.
    pub open: AtomicU64,
    /// Pods that ask for a listener and have none, with their network namespace if it is known.
    missing: Mutex<Vec<(Option<u32>, HookMissing)>>,
    /// Requests answered: drained.
    pub drained: AtomicU64,
    /// Not drained at the deadline, or it cannot be told.
    pub not_drained: AtomicU64,
    /// Requests that made no drain.
    pub failed: AtomicU64,
    /// Connections that the kubelet did not open.
    pub denied: AtomicU64,
}

impl Counts {
    /// How many pods ask for a listener and have none.
    pub fn closed(&self) -> usize {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Those of them that are in certain network namespaces; none is passed where it is not known.
    pub fn missing(&self, of: impl Fn(Option<u32>) -> bool) -> Vec<HookMissing> {
        let all = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|(netns, _)| of(*netns)).map(|(_, missing)| missing.clone()).collect()
    }
}

/// All hooks of this node. They end when this is dropped.
pub struct Hooks {
    shared: Arc<Shared>,
    following: JoinHandle<()>,
}

struct Shared {
    kernel: Arc<dyn Kernel>,
    router: Router,
    counts: Arc<Counts>,
    strangers: Arc<Semaphore>,
    /// Requests under way.
    under_way: watch::Sender<usize>,
    /// Never true: connections end with what holds them.
    finish: watch::Sender<bool>,
}

impl Shared {
    /// Counts a request until what is returned is dropped.
    fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.send_modify(|count| *count += 1);
        UnderWay(Arc::clone(self))
    }
}

struct UnderWay(Arc<Shared>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|count| *count -= 1);
    }
}

impl Hooks {
    /// Begins to follow the pods of this node. `router` is the agent's interface.
    pub fn start(kernel: Arc<dyn Kernel>, router: Router, pods: Pods, counts: Arc<Counts>) -> Self {
        let shared = Arc::new(Shared {
            kernel,
            router,
            counts,
            strangers: Arc::new(Semaphore::new(MAX_STRANGERS)),
            under_way: watch::Sender::default(),
            finish: watch::Sender::default(),
        });
        let following = tokio::spawn(follow(Arc::clone(&shared), pods));
        Self { shared, following }
    }

    /// How many requests are under way.
    pub fn under_way(&self) -> usize {
        *self.shared.under_way.borrow()
    }

    /// Returns once no request is under way.
    pub async fn idle(&self) {
        let _ = self.shared.under_way.subscribe().wait_for(|&count| count == 0).await;
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// A pod that asks for a hook.
struct Wanted {
    uid: String,
    pod: PodName,
    /// What its annotation says.
    value: String,
    open: Option<Open>,
    /// Inode number of its network namespace, as it was found last.
    netns: Option<u32>,
    /// Why it has none, as it was logged.
    said: Option<String>,
    /// Not to be looked for before.
    again: Instant,
}

struct Open {
    port: Port,
    /// A process that lives there.
    pid: u32,
}

async fn follow(shared: Arc<Shared>, pods: Pods) {
    let mut list = pods.watch();
    let mut all: HashMap<String, Wanted> = HashMap::new();
    loop {
        let now = list.borrow_and_update().clone();
        adopt(&mut all, &now);
        for wanted in all.values_mut() {
            wanted.look_after(&shared, &pods).await;
        }
        let open = all.values().filter(|wanted| wanted.open.is_some()).count() as u64;
        shared.counts.open.store(open, Ordering::Relaxed);
        let mut missing: Vec<_> = all.values().filter_map(Wanted::missing).collect();
        missing.sort_by(|(_, a), (_, b)| a.pod.cmp(&b.pod));
        *shared.counts.missing.lock().unwrap_or_else(PoisonError::into_inner) = missing;
        let changed = if all.is_empty() {
            list.changed().await
        } else {
            timeout(LOOK_EVERY, list.changed()).await.unwrap_or(Ok(()))
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Takes in pods that have come, and lets go of those that are gone, or ask for something else now.
fn adopt(all: &mut HashMap<String, Wanted>, list: &PodList) {
    let asks = |pod: &Pod| pod.annotations.get(ANNOTATION).cloned();
    let asking: HashMap<&str, (&Pod, String)> =
        list.iter().filter_map(|pod| Some((&*pod.uid, (&**pod, asks(pod)?)))).collect();
    all.retain(|uid, wanted| {
        let stays = asking.get(&**uid).is_some_and(|(_, value)| *value == wanted.value);
        if !stays {
            tracing::info!(pod = %wanted.pod, "no preStop hook for this pod any more");
        }
        stays
    });
    for (uid, (pod, value)) in asking {
        all.entry(uid.to_owned()).or_insert_with(|| Wanted {
            uid: uid.to_owned(),
            pod: pod.full_name(),
            value,
            open: None,
            netns: None,
            said: None,
            again: Instant::now(),
        });
    }
}

impl Wanted {
    fn missing(&self) -> Option<(Option<u32>, HookMissing)> {
        let why = self.said.clone().unwrap_or_else(|| "it is being opened".into());
        let missing = || (self.netns, HookMissing { pod: self.pod.clone(), why });
        self.open.is_none().then(missing)
    }

    /// Opens its listener if it is to be open, and closes it if the pod is gone: as long as it is open, so is the
    /// namespace.
    async fn look_after(&mut self, shared: &Arc<Shared>, pods: &Pods) {
        if self.open.as_ref().is_some_and(Open::is_there) || Instant::now() < self.again {
            return;
        }
        // A look may itself change the list of pods, which has us come here again.
        self.again = Instant::now() + LOOK_EVERY;
        match self.find(shared, pods).await {
            Ok(open) => {
                self.open = Some(open);
                self.said = None;
            }
            Err(why) => {
                let had_one = self.open.take().is_some();
                if self.said.as_ref() != Some(&why) {
                    if had_one {
                        // So do all pods end.
                        tracing::info!(pod = %self.pod, why, "the preStop hook of this pod is closed");
                    } else {
                        tracing::warn!(pod = %self.pod, why, "there is no preStop hook for this pod; trying again");
                    }
                    self.said = Some(why);
                }
            }
        }
    }

    /// The listener, as it is or a new one, or why there is none.
    async fn find(&mut self, shared: &Arc<Shared>, pods: &Pods) -> Result<Open, String> {
        let number = self.value.trim().parse().ok().filter(|&number: &u16| number != 0);
        let number = number
            .ok_or_else(|| format!("its annotation {ANNOTATION} is no port: {:?}", self.value))?;
        let Found { pod, netns, pid } =
            pods.named(&self.pod).await.map_err(|error| error.to_string())?;
        if pod.is_none_or(|pod| pod.uid != self.uid) {
            return Err("another pod has its name now".into());
        }
        self.netns = Some(netns);
        if netns == shared.kernel.host_netns() {
            return Err(
                "it shares the node's network namespace, where a port belongs to no pod".into()
            );
        }
        if let Some(open) = self.open.take().filter(|open| open.port.netns == netns) {
            return Ok(Open { pid, ..open });
        }
        let kernel = Arc::clone(&shared.kernel);
        let opened =
            spawn_blocking(move || kernel.open_listener(netns, Listening::Port(number))).await;
        let listener =
            opened.map_err(|error| error.to_string())?.map_err(|error| explain(&error))?;
        let pod = self.pod.clone();
        let port = Port::serve(Arc::clone(shared), listener, pod, netns)
            .map_err(|error| error.to_string())?;
        tracing::info!(pod = %self.pod, port = number, netns, "a preStop hook for this pod");
        Ok(Open { port, pid })
    }
}

impl Open {
    /// Whether its process still lives in the namespace.
    fn is_there(&self) -> bool {
        let found = fs::metadata(format!("/proc/{}/ns/net", self.pid));
        found.is_ok_and(|meta| meta.ino() == u64::from(self.port.netns))
    }
}

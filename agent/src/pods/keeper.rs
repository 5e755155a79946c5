//! Keeps drains and Kubernetes in agreement: tells each drain what its pod is to Services, and pods that have the
//! readiness gate [`SERVING`] whether they are to be sent connections.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Instant, sleep, sleep_until},
};

use super::{
    SERVING,
    cluster::Cluster,
    directory::Pods,
    pod::{Pod, PodList},
};
use crate::{
    drain::{Endpoint, Service, StateName},
    executor::{Executor, Update},
};

/// Time between two looks while something drains: EndpointSlices are asked for, and not followed.
const WHILE_DRAINING: Duration = Duration::from_secs(1);
/// The same while nothing does, in case an attempt failed.
const AT_REST: Duration = Duration::from_secs(10);
/// Changes of so long are answered at once.
const TOGETHER: Duration = Duration::from_millis(50);
/// How long a condition that was set may take to come back from the API.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// Runs until the executor ends. Only where the API is asked is there anything to do.
pub async fn keep(pods: Pods, executor: Executor) {
    let Some(cluster) = pods.cluster().cloned() else { return };
    let mut updates = executor.subscribe();
    let mut list = pods.watch();
    let mut keeper =
        Keeper { pods, cluster, executor, drains: HashMap::new(), set: HashMap::new() };
    loop {
        let pods = Arc::clone(&list.borrow_and_update());
        let again = match keeper.look(&pods).await {
            None => return,
            Some(true) => WHILE_DRAINING,
            Some(false) => AT_REST,
        };
        let again = Instant::now() + again;
        tokio::select! {
            open = next(&mut updates) => if !open { return },
            changed = list.changed() => if changed.is_err() { return },
            () = sleep_until(again) => {}
        }
        sleep(TOGETHER).await;
        while updates.try_recv().is_ok() {}
    }
}

/// Whether the executor goes on.
async fn next(updates: &mut Receiver<Update>) -> bool {
    !matches!(updates.recv().await, Err(RecvError::Closed))
}

struct Keeper {
    pods: Pods,
    cluster: Cluster,
    executor: Executor,
    /// What the pod of each drain is, and when that was asked for.
    drains: HashMap<Service, (Endpoint, Instant)>,
    /// By the pod's uid: what the condition was set to, and when.
    set: HashMap<String, (bool, Instant)>,
}

impl Keeper {
    /// Brings everything up to date. Whether something drains; `None` once the executor has ended.
    async fn look(&mut self, pods: &PodList) -> Option<bool> {
        let standing = self.executor.standing().await.ok()?;
        self.drains.retain(|service, _| standing.iter().any(|(other, _)| other == service));
        let mut serves: BTreeMap<String, bool> = BTreeMap::new();
        for (service, state) in &standing {
            let Some(pod) = self.pods.in_netns(service.netns).await else { continue };
            let endpoint = self.endpoint(*service, *state, &pod).await;
            // The only one that is ready goes on serving: nobody else could.
            let alone = endpoint == Endpoint::Staying { alone: true };
            let held = *state == StateName::Settling && alone;
            // One port of it is enough: without the pod that Service would have nobody.
            *serves.entry(pod.uid.clone()).or_insert(false) |= held;
        }
        self.set.retain(|uid, _| pods.iter().any(|pod| pod.uid == *uid));
        for pod in pods.iter().filter(|pod| pod.deleting.is_none()) {
            let serves = serves.get(&pod.uid).copied().unwrap_or(true);
            if let Some(holds) = pod.gates.get(SERVING) {
                self.set_condition(pod, *holds, serves).await;
            }
        }
        Some(!standing.is_empty())
    }

    /// What the pod is to Services. Once the gate is closed it does not matter any more.
    async fn endpoint(&mut self, service: Service, state: StateName, pod: &Arc<Pod>) -> Endpoint {
        let known = self.drains.get(&service).copied();
        let before = known.map(|(endpoint, _)| endpoint);
        if state != StateName::Settling {
            return before.unwrap_or_default();
        }
        let lately = known.filter(|(_, asked)| asked.elapsed() < WHILE_DRAINING);
        let asked = match lately {
            Some((endpoint, _)) => Ok(endpoint),
            None => self.cluster.endpoint(pod, service.port).await,
        };
        match asked {
            Ok(now) => {
                if before != Some(now) {
                    let pod = pod.full_name();
                    tracing::info!(%service, %pod, endpoint = ?now, "what the pod is to Services");
                }
                if lately.is_none() {
                    self.drains.insert(service, (now, Instant::now()));
                }
                // Each time: the drain may be another one than that of the look before.
                self.executor.endpoint(service, now).await;
                now
            }
            Err(error) => {
                let pod = pod.full_name();
                tracing::warn!(%service, %pod, error, "cannot tell whether the pod is the last of a Service");
                before.unwrap_or_default()
            }
        }
    }

    async fn set_condition(&mut self, pod: &Pod, holds: Option<bool>, serves: bool) {
        let lately = self.set.get(&pod.uid);
        let is_set = lately.is_some_and(|(set, at)| *set == serves && at.elapsed() < SEEN_WITHIN);
        if holds == Some(serves) || is_set {
            return;
        }
        let reason = if serves { "Serving" } else { "Draining" };
        let name = pod.full_name();
        match self.cluster.set_condition(pod, SERVING, serves, reason).await {
            Ok(()) => {
                tracing::info!(pod = %name, condition = SERVING, serves, "condition set");
                self.set.insert(pod.uid.clone(), (serves, Instant::now()));
            }
            Err(error) => {
                tracing::warn!(pod = %name, condition = SERVING, serves, error, "cannot set the condition");
            }
        }
    }
}

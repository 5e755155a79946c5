//! The Kubernetes API as a source: the pods of this node, as they come, change and go; and what else is asked of it.

mod object;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use k8s_openapi::{
    api::{core::v1::Pod as PodObject, discovery::v1::EndpointSlice},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Config,
    api::{ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use serde_json::json;
use tokio::sync::watch;

use super::{endpoint, pod::Pod};
use crate::drain::Endpoint;

/// A drain does not wait longer for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long the first list may take where the API is required.
const LIST_WITHIN: Duration = Duration::from_secs(30);
/// A watch is asked for anew so often; one that has died without a word is noticed then.
const WATCH_FOR_SECONDS: u32 = 60;

/// Whether the API is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// If it is known where it is, and which node this is.
    #[default]
    Auto,
    /// No.
    Off,
    /// Yes, or the agent does not start.
    Require,
}

/// How to reach the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterOptions {
    /// Whether to.
    pub mode: Mode,
    /// A kubeconfig; `None`: the service account of the agent's own pod.
    pub kubeconfig: Option<PathBuf>,
    /// The name of this node in Kubernetes.
    pub node: Option<String>,
}

/// Why the API cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Which pods are this node's is not known.
    #[error(
        "it is not known which node this is; give --node-name, or set NODE_NAME in the agent's pod (fieldRef: \
         spec.nodeName)"
    )]
    NoNodeName,
    /// It is no kubeconfig.
    #[error("cannot use the kubeconfig {}: {why}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is no service account.
    #[error(
        "the agent has no service account of a pod ({0}); give --kubeconfig, or --kubernetes off to do without the API"
    )]
    NoServiceAccount(String),
    /// TLS, or an address.
    #[error("cannot make a client of the Kubernetes API: {0}")]
    Client(String),
    /// It is required, and there was no answer.
    #[error(
        "the Kubernetes API did not list the pods of this node within {} s; see the log, or give --kubernetes auto",
        LIST_WITHIN.as_secs()
    )]
    NoAnswer,
}

/// The pods of this node; `None` as long as they are not known.
pub(super) type Listed = Option<Vec<Arc<Pod>>>;

/// The API, and which node this is.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    node: String,
}

impl Cluster {
    /// The API, if it is to be asked and can be. Nothing is sent yet.
    ///
    /// # Errors
    /// It is required, or a kubeconfig was given, and it cannot be asked.
    pub async fn find(options: &ClusterOptions) -> Result<Option<Self>, ClusterError> {
        if options.mode == Mode::Off {
            return Ok(None);
        }
        match Self::with(options).await {
            Ok(cluster) => Ok(Some(cluster)),
            Err(error) if options.mode == Mode::Auto && options.kubeconfig.is_none() => {
                tracing::info!(reason = %error, "the Kubernetes API is not asked");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn with(options: &ClusterOptions) -> Result<Self, ClusterError> {
        let config = match &options.kubeconfig {
            Some(path) => from_file(path).await?,
            None => {
                Config::incluster().map_err(|e| ClusterError::NoServiceAccount(e.to_string()))?
            }
        };
        let node = options.node.clone().ok_or(ClusterError::NoNodeName)?;
        let client = Client::try_from(config).map_err(|e| ClusterError::Client(e.to_string()))?;
        Ok(Self { client, node })
    }

    /// Follows the pods of this node, until nobody has a receiver any more.
    pub(super) fn follow(&self) -> watch::Receiver<Listed> {
        let (sender, receiver) = watch::channel(None);
        let pods: Api<PodObject> = Api::all(self.client.clone());
        let config = watcher::Config::default()
            .fields(&format!("spec.nodeName={}", self.node))
            .timeout(WATCH_FOR_SECONDS);
        tokio::spawn(async move {
            tokio::select! {
                () = follow(pods, config, &sender) => {}
                () = sender.closed() => {}
            }
        });
        receiver
    }

    /// The pod as it is now; `None` if there is none of this name and uid.
    pub(super) async fn get(&self, pod: &Pod) -> Result<Option<Pod>, String> {
        let pods = self.pods(&pod.namespace);
        let object = answer(pods.get_opt(&pod.name)).await?;
        Ok(object.and_then(object::pod).filter(|now| now.uid == pod.uid))
    }

    /// Sets a condition of the pod, which the kubelet takes into account for its readiness. Nothing else of it changes,
    /// and no other pod of that name.
    pub(super) async fn set_condition(
        &self,
        pod: &Pod,
        condition: &str,
        holds: bool,
        reason: &str,
    ) -> Result<(), String> {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let status = if holds { "True" } else { "False" };
        let message = "set by drainctl";
        // Conditions are merged by their type (a strategic merge patch), and a uid is a precondition.
        let patch = json!({
            "metadata": { "uid": pod.uid },
            "status": { "conditions": [{
                "type": condition, "status": status, "reason": reason, "message": message, "lastTransitionTime": now,
            }] },
        });
        let (pods, params) = (self.pods(&pod.namespace), PatchParams::default());
        answer(pods.patch_status(&pod.name, &params, &Patch::Strategic(patch))).await.map(drop)
    }

    /// What the pod is as an endpoint of Services, on this port.
    pub(super) async fn endpoint(&self, pod: &Pod, port: u16) -> Result<Endpoint, String> {
        if pod.deleting.is_some() {
            return Ok(Endpoint::Leaving);
        }
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &pod.namespace);
        let slices = answer(slices.list(&ListParams::default().match_any())).await?;
        Ok(Endpoint::Staying { alone: endpoint::alone(&slices.items, pod, port).is_some() })
    }

    fn pods(&self, namespace: &str) -> Api<PodObject> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// Waits until the pods are known.
///
/// # Errors
/// That takes too long.
pub(super) async fn first_list(listed: &mut watch::Receiver<Listed>) -> Result<(), ClusterError> {
    let known = tokio::time::timeout(LIST_WITHIN, listed.wait_for(Option::is_some)).await;
    known.ok().and_then(Result::ok).map(drop).ok_or(ClusterError::NoAnswer)
}

async fn from_file(path: &PathBuf) -> Result<Config, ClusterError> {
    let wrong = |error: &dyn std::error::Error| {
        let (path, why) = (path.clone(), error.to_string());
        ClusterError::Kubeconfig { path, why }
    };
    let file = Kubeconfig::read_from(path).map_err(|e| wrong(&e))?;
    let options = KubeConfigOptions::default();
    Config::from_custom_kubeconfig(file, &options).await.map_err(|e| wrong(&e))
}

async fn answer<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(ANSWER_WITHIN, request).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("there was no answer within {} s", ANSWER_WITHIN.as_secs())),
    }
}

async fn follow(pods: Api<PodObject>, config: watcher::Config, listed: &watch::Sender<Listed>) {
    let mut events = std::pin::pin!(watcher::watcher(pods, config).default_backoff());
    // By the uid of the API: that of a static pod is another one.
    let mut known: BTreeMap<String, Arc<Pod>> = BTreeMap::new();
    let mut fails = false;
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                if !std::mem::replace(&mut fails, true) {
                    tracing::warn!(%error, "cannot follow the pods of this node; trying again");
                }
                continue;
            }
        };
        let complete = !matches!(event, Event::Init | Event::InitApply(_));
        match event {
            Event::Init => known.clear(),
            Event::InitApply(object) | Event::Apply(object) => {
                let uid = object.metadata.uid.clone().unwrap_or_default();
                known.extend(object::pod(object).map(|pod| (uid, Arc::new(pod))));
            }
            Event::Delete(object) => {
                known.remove(&object.metadata.uid.unwrap_or_default());
            }
            Event::InitDone => {
                if std::mem::take(&mut fails) || listed.borrow().is_none() {
                    tracing::info!(pods = known.len(), "following the pods of this node");
                }
            }
        }
        if complete {
            listed.send_replace(Some(known.values().cloned().collect()));
        }
    }
}

//! The container runtime as a source: it keeps what the kubelet told it of each pod. The interface is the kubelet's own
//! (`runtime.v1.RuntimeService`, k8s.io/cri-api), of which two calls and a few fields matter here; they are written
//! down by hand, since the generated ones need protoc wherever drainctl is built.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper::http::uri::PathAndQuery;
use tonic::{
    Request,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::pod::{Grace, GraceSource, Pod};

/// Where runtimes listen if nobody says otherwise: containerd, that of k3s, CRI-O, and Docker's.
const KNOWN: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/cri-dockerd.sock",
];
/// On a container: the pod's `terminationGracePeriodSeconds` (pkg/kubelet/kuberuntime/labels.go).
const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// On sandboxes and containers: the pod's uid.
const UID: &str = "io.kubernetes.pod.uid";
/// `SANDBOX_READY`.
const READY: i32 = 0;
/// Largest answer in bytes: some KiB a pod.
const LARGEST: usize = 16 * 1024 * 1024;
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// `ListPodSandboxRequest` and `ListContainersRequest` without a filter.
#[derive(Clone, PartialEq, prost::Message)]
struct Everything {}

#[derive(Clone, PartialEq, prost::Message)]
struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodSandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<PodSandboxMetadata>,
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(btree_map = "string, string", tag = "5")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "6")]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ListContainersResponse {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Container>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Container {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(btree_map = "string, string", tag = "8")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "9")]
    annotations: BTreeMap<String, String>,
}

/// A container runtime.
#[derive(Clone, Debug)]
pub(super) struct Runtime(Channel);

impl Runtime {
    /// The one that listens on this socket, or on one of the known ones. Nothing is sent yet. `None` if there is none.
    pub(super) fn find(socket: Option<&Path>) -> Option<Self> {
        let socket = match socket {
            Some(socket) => socket.to_owned(),
            None => KNOWN.iter().map(PathBuf::from).find(|path| path.exists())?,
        };
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).ok()?;
        tracing::info!(socket = %socket.display(), "asking the container runtime for pods");
        Some(Self(endpoint.connect_timeout(ANSWER_WITHIN).timeout(ANSWER_WITHIN).connect_lazy()))
    }

    /// Every pod that it knows.
    ///
    /// # Errors
    /// It does not answer; why, in words.
    pub(super) async fn pods(&self) -> Result<Vec<Arc<Pod>>, String> {
        let sandboxes: ListPodSandboxResponse = self.call("ListPodSandbox").await?;
        let containers: ListContainersResponse = self.call("ListContainers").await?;
        Ok(pods(sandboxes.items, containers.containers))
    }

    async fn call<T: prost::Message + Default + 'static>(&self, method: &str) -> Result<T, String> {
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}"));
        let path = path.map_err(|error| error.to_string())?;
        let mut grpc = Grpc::new(self.0.clone()).max_decoding_message_size(LARGEST);
        grpc.ready().await.map_err(|error| format!("it cannot be reached: {error}"))?;
        let codec = ProstCodec::<Everything, T>::default();
        let answer = grpc.unary(Request::new(Everything {}), path, codec).await;
        answer.map(tonic::Response::into_inner).map_err(|status| format!("{method}: {status}"))
    }
}

/// Puts both lists together. Of a pod whose sandbox was made anew the one that is ready counts.
fn pods(mut sandboxes: Vec<PodSandbox>, containers: Vec<Container>) -> Vec<Arc<Pod>> {
    sandboxes.sort_by_key(|sandbox| sandbox.state != READY);
    let mut pods: HashMap<String, Pod> = HashMap::new();
    for PodSandbox { metadata, labels, annotations, .. } in sandboxes {
        let Some(PodSandboxMetadata { name, uid, namespace }) = metadata else { continue };
        let labels = without_own(labels);
        pods.entry(uid.clone()).or_insert(Pod {
            uid,
            namespace,
            name,
            labels,
            annotations,
            ..Pod::default()
        });
    }
    for container in containers {
        let uid = container.labels.get(UID);
        let Some(pod) = uid.and_then(|uid| pods.get_mut(uid)) else { continue };
        if let Some(seconds) = container.annotations.get(GRACE).and_then(|s| s.parse().ok()) {
            pod.grace = Grace { seconds, source: GraceSource::Cri };
        }
        pod.containers.push(container.id);
    }
    let sorted = |mut pod: Pod| {
        // The runtime lists them in any order, and what has not changed must not look so.
        pod.containers.sort();
        Arc::new(pod)
    };
    pods.into_values().map(sorted).collect()
}

/// The pod's own labels, without those that the kubelet adds for itself.
fn without_own(labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
    labels.into_iter().filter(|(name, _)| !name.starts_with("io.kubernetes.pod.")).collect()
}

#[cfg(test)]
#[path = "cri_tests.rs"]
mod tests;

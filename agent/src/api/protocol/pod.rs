//! Pods, as they go over the socket.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::pods::{GraceSource, Pod};

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid, as the kubelet has it: a pod that comes again under its name has another one.
    pub uid: String,
}

/// `NAMESPACE/NAME`.
impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl From<&Pod> for PodRef {
    fn from(pod: &Pod) -> Self {
        let Pod { uid, namespace, name, .. } = pod.clone();
        Self { namespace, name, uid }
    }
}

/// Where the timeout of a drain comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeoutFrom {
    /// Whoever asked for the drain.
    Request,
    /// There is no pod, and nothing was asked for.
    #[default]
    Default,
    /// The pod's grace period, from the Kubernetes API.
    Api,
    /// The pod's grace period, from the container runtime.
    Cri,
    /// Kubernetes' default grace period, since nobody knows the pod's.
    Assumed,
}

impl From<GraceSource> for TimeoutFrom {
    fn from(source: GraceSource) -> Self {
        match source {
            GraceSource::Api => Self::Api,
            GraceSource::Cri => Self::Cri,
            GraceSource::Default => Self::Assumed,
        }
    }
}

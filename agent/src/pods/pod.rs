//! What is known of a pod: plain data.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};

/// Inode number of a network namespace.
pub type NetnsId = u32;

/// Every pod of this node that is known, by namespace and name.
pub type PodList = Arc<Vec<Arc<Pod>>>;

/// Grace period of a pod that says nothing of it, in seconds (`terminationGracePeriodSeconds`).
const DEFAULT_GRACE: u64 = 30;

/// A pod of this node, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// As the kubelet and its cgroups have it: of a static pod the hash of its file, without dashes, and not the uid
    /// that the API gave to its mirror.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels; empty if neither the API nor the container runtime was asked.
    pub labels: BTreeMap<String, String>,
    /// Annotations; empty if neither the API nor the container runtime was asked.
    pub annotations: BTreeMap<String, String>,
    /// How long its containers have to stop.
    pub grace: Grace,
    /// When it is killed at last, if it is being deleted, by the clock of the API server; known from the API only.
    pub deleting: Option<SystemTime>,
    /// Whether it says that it shares the node's network namespace; known from the API only.
    pub host_network: bool,
    /// Ids of its containers, without the runtime's name before them; as the sources tell them.
    pub containers: Vec<String>,
    /// Conditions that must be true before it gets traffic (`readinessGates`), each with whether it is; known from
    /// the API only.
    pub gates: BTreeMap<String, Option<bool>>,
}

/// How long a pod's containers have between being asked to stop and being killed. The preStop hook is part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace {
    /// Seconds, from 0.
    pub seconds: u64,
    /// Who said so.
    pub source: GraceSource,
}

/// Where a grace period comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GraceSource {
    /// The Kubernetes API.
    Api,
    /// An annotation that the kubelet gave to the container runtime.
    Cri,
    /// Nobody: it is Kubernetes' default.
    Default,
}

impl Default for Grace {
    fn default() -> Self {
        Self { seconds: DEFAULT_GRACE, source: GraceSource::Default }
    }
}

impl Pod {
    /// Namespace and name.
    pub fn full_name(&self) -> PodName {
        PodName { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

/// `NAMESPACE/NAME`, which both fit what Kubernetes allows as far as their characters go.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A text is no name of a pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no pod; write NAMESPACE/NAME, for example default/web-0")]
pub struct WrongPodName(String);

impl FromStr for PodName {
    type Err = WrongPodName;

    fn from_str(text: &str) -> Result<Self, WrongPodName> {
        let parts = text
            .split_once('/')
            .filter(|(namespace, name)| is_name(namespace, 63, b"-") && is_name(name, 253, b"-."));
        let (namespace, name) = parts.ok_or_else(|| WrongPodName(text.to_owned()))?;
        Ok(Self { namespace: namespace.into(), name: name.into() })
    }
}

/// Whether it can be a name in Kubernetes (RFC 1123, lower case). Underscores cannot, which folder names rely on.
fn is_name(text: &str, longest: usize, others: &[u8]) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || others.contains(&b);
    !text.is_empty() && text.len() <= longest && text.bytes().all(fits)
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl TryFrom<String> for PodName {
    type Error = WrongPodName;

    fn try_from(text: String) -> Result<Self, WrongPodName> {
        text.parse()
    }
}

impl From<PodName> for String {
    fn from(name: PodName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let name: PodName = "kube-system/etcd-node.example".parse().unwrap();
        assert_eq!((&*name.namespace, &*name.name), ("kube-system", "etcd-node.example"));
        assert_eq!(name.to_string(), "kube-system/etcd-node.example");
        for wrong in
            ["", "web", "/web", "default/", "a/b/c", "Default/web", "a.b/web", "a/b_c", "a/../x"]
        {
            let error = wrong.parse::<PodName>().unwrap_err();
            assert!(error.to_string().contains("NAMESPACE/NAME"), "{wrong}");
        }
    }
}

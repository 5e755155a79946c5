//! Who is who: from a process or a network namespace to the Kubernetes pod it belongs to, and back.
//!
//! [`cgroup`] tells the pod of a process by the name of its cgroup, and [`places`] finds all of them in /proc.
//! What the pod is called comes from three sources, the better one first: the API ([`cluster`]), the container runtime
//! ([`cri`]) and the names of folders in /var/log/pods ([`logs`]). [`table`] puts them together, and
//! [`Pods`] is what everybody else asks.

mod cgroup;
mod cluster;
mod cri;
mod directory;
mod endpoint;
mod keeper;
mod logs;
mod places;
mod pod;
mod table;

pub use self::{
    cluster::{Cluster, ClusterError, ClusterOptions, Mode},
    directory::{Found, PodError, Pods, Sources},
    keeper::keep,
    places::ContainerRef,
    pod::{Grace, GraceSource, NetnsId, Pod, PodList, PodName, WrongPodName},
};

/// A condition of pods, and the readiness gate of those that want Services to leave them out while they are drained.
pub const SERVING: &str = "drainctl.dev/serving";

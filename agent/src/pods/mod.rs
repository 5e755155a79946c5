//! Who is who: from a process or a network namespace to the Kubernetes pod it belongs to, and back.
//!
//! [`cgroup`] tells the pod of a process by the name of its cgroup, and [`places`] finds all of them in /proc.
//! What the pod is called comes from three sources, the better one first: the API ([`api`]), the container runtime
//! ([`cri`]) and the names of folders in /var/log/pods ([`logs`]). [`table`] puts them together, and
//! [`Pods`] is what everybody else asks.

mod cgroup;
mod directory;
mod logs;
mod places;
mod pod;
mod table;

pub use self::{
    directory::{Found, PodError, Pods, Sources},
    places::ContainerRef,
    pod::{Grace, GraceSource, NetnsId, Pod, PodList, PodName, WrongPodName},
};

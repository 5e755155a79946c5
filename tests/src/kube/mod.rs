//! A real cluster of one node: etcd, Kubernetes' own programs, containerd and runc, in namespaces of their own; and a
//! deployment that is rolled in it under load.

mod checks;
mod control;
mod hook;
mod node;
mod roll;

pub use control::Cluster;
pub use hook::Hook;
pub use roll::Outcome;

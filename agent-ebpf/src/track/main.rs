//! The tracker: counts the flows of every service of the node, exactly.
//!
//! - `track` (`sock_ops`, attached to the root of cgroup v2) counts a connection when it is accepted and
//!   uncounts it when it leaves the states that are flows. It runs under the socket's lock, and each flow
//!   is accounted for once, by its socket cookie.
//! - `adopt` (`iter/tcp`) takes in connections that were there before, or that the tracker missed.
//! - `probe` (`sock_ops`, attached to the kubelet's cgroup) notes which connections are probes, which do not
//!   keep a service from being drained.
//! - `repair` lets the agent remove what is no longer there, with the same atomic adds.
//!
//! `track_old`, `adopt_old` and `repair_old` are the same for kernels before Linux 6.1.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(target_arch = "bpf", expect(internal_features, reason = "see counter.rs"))]

mod adopt;
mod class;
mod clients;
#[path = "../counter.rs"]
mod counter;
mod flows;
#[path = "../iter.rs"]
mod iter;
mod marks;
#[path = "../netns.rs"]
mod netns;
#[path = "../peers.rs"]
mod peers;
mod placed;
mod probe;
#[path = "../probes.rs"]
mod probes;
#[path = "../program.rs"]
mod program;
mod repair;
#[path = "../slots.rs"]
mod slots;
mod sock_ops;

/// The host's compiler type-checks these files, so that `cargo check` needs no eBPF toolchain.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

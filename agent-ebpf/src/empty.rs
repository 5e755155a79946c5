//! Programs that do nothing, for the benchmarks: what running any program costs is not our cost.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod program;

use aya_ebpf::{
    macros::{sk_lookup, sock_ops},
    programs::{SkLookupContext, SockOpsContext},
};

/// Passes every lookup, as the kernel would without it.
#[sk_lookup]
fn empty_lookup(_ctx: SkLookupContext) -> u32 {
    1
}

/// Does nothing at every callback.
#[sock_ops]
fn empty_ops(_ctx: SockOpsContext) -> u32 {
    1
}

/// The host's compiler type-checks this file, so that `cargo check` needs no eBPF toolchain.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

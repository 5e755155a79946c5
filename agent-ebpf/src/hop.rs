//! The hop mark: a TCP option in the SYNs of connections that the agent opens to carry stragglers on, so that a
//! connection that comes back through somebody's address translation is known for what it is. See
//! docs/adr/0006.
//!
//! Attached to the root of cgroup v2 only while some drain forwards. Returns 1 always: 0 would override the reply
//! of another `sock_ops` program.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod program;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_F_NO_PREALLOC, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_HDR_OPT_LEN_CB,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_WRITE_HDR_OPT_CB,
        BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG,
    },
    helpers::generated::{bpf_get_socket_cookie, bpf_reserve_hdr_opt, bpf_store_hdr_opt},
    macros::{map, sock_ops},
    maps::HashMap,
    programs::SockOpsContext,
};
use drainctl_common::hop;

/// Attempts to connect that are under way at most: by socket cookie, the token to mark their SYNs with. The
/// agent puts an entry in before it connects, and takes it out when the attempt has ended.
#[map]
static HOPS: HashMap<u64, u64> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

#[sock_ops]
fn hop(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => ask(&ctx, true),
        BPF_SOCK_OPS_HDR_OPT_LEN_CB => reserve(&ctx),
        BPF_SOCK_OPS_WRITE_HDR_OPT_CB => write(&ctx),
        // Only SYNs are marked: before the first ACK goes out we are done.
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => ask(&ctx, false),
        _ => {}
    }
    1
}

/// Asks the kernel to let us write options into this socket's headers, or not to do so any more.
#[inline(always)]
fn ask(ctx: &SockOpsContext, wanted: bool) {
    if token(ctx).is_none() {
        return;
    }
    // The call replaces all flags: those of other programs are kept.
    let others = ctx.cb_flags() & !BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
    let ours = if wanted { BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG } else { 0 };
    // It fails for flags that the kernel does not know; then the SYN goes without a mark, and the agent
    // has found that out when it started.
    let _ = ctx.set_cb_flags((others | ours) as i32);
}

#[inline(always)]
fn reserve(ctx: &SockOpsContext) {
    if token(ctx).is_some() {
        // SAFETY: the context is the one this program was called with. It fails if there is no room left.
        unsafe { bpf_reserve_hdr_opt(ctx.as_ptr().cast(), hop::LEN as u32, 0) };
    }
}

#[inline(always)]
fn write(ctx: &SockOpsContext) {
    let Some(token) = token(ctx) else { return };
    let option = hop::option(token);
    // SAFETY: the option lives across the call and is as long as is said.
    unsafe {
        bpf_store_hdr_opt(ctx.as_ptr().cast(), option.as_ptr().cast(), hop::LEN as u32, 0);
    }
}

/// The token of this socket, if it is one of the agent's attempts.
#[inline(always)]
fn token(ctx: &SockOpsContext) -> Option<u64> {
    // SAFETY: the context is the one this program was called with.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: entries are only put in and taken out by the agent; eight bytes are read at once.
    unsafe { HOPS.get(cookie) }.copied()
}

/// The host's compiler type-checks this file, so that `cargo check` needs no eBPF toolchain.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

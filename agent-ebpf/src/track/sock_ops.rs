//! Counting as it happens.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_LISTEN_CB,
    },
    helpers::generated::{bpf_get_socket_cookie, bpf_skc_to_tcp_sock},
    macros::sock_ops,
    programs::SockOpsContext,
};
use aya_log_ebpf::warn;
use drainctl_common::{
    ServiceKey,
    class::{COUNTED, STEERED},
    track::{Event, Flow, ServiceCounts, fault, next, watch},
};

use crate::{
    class, clients, counter,
    flows::{self, Counted},
    netns,
};

const AF_INET6: u32 = 10;
/// TCP states (`include/net/tcp_states.h`).
const TCP_FIN_WAIT2: u32 = 5;
pub(crate) const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;

/// Runs at the moments in a socket's life that matter, for every socket of the node. Returns 1 always:
/// 0 would override the reply of another `sock_ops` program, for example to `BPF_SOCK_OPS_TIMEOUT_INIT`.
#[sock_ops]
fn track(ctx: SockOpsContext) -> u32 {
    attend::<true>(&ctx)
}

/// The same without slots: see [`placed`](crate::placed).
#[sock_ops]
fn track_old(ctx: SockOpsContext) -> u32 {
    attend::<false>(&ctx)
}

#[inline(always)]
fn attend<const SLOTS: bool>(ctx: &SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => established::<SLOTS>(ctx),
        BPF_SOCK_OPS_STATE_CB => state_changed::<SLOTS>(ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => listening(ctx),
        _ => {}
    }
    1
}

#[inline(always)]
fn established<const SLOTS: bool>(ctx: &SockOpsContext) {
    let Some(service) = service(ctx) else {
        flows::fault(fault::NO_NETNS);
        return;
    };
    let Some(counts) = flows::counts_or_new(&service) else { return };
    ask_for_states(ctx);
    let class = class::of(ctx, &service, counts);
    if class == COUNTED {
        counted::<SLOTS>(ctx, &service, counts);
    } else {
        exempt::<SLOTS>(ctx, &service.of_class(class));
    }
    // SAFETY: `counts` points to a live map value.
    let watch = unsafe { (&raw const (*counts).watch).read_volatile() };
    if watch & watch::JOIN != 0 && (class == COUNTED || class == STEERED) {
        flows::go_on(ctx, next::ACCEPTED); // If it fails, the next scan takes the connection in.
    }
}

/// Counts a flow of the service.
#[inline(always)]
fn counted<const SLOTS: bool>(
    ctx: &SockOpsContext,
    service: &ServiceKey,
    counts: *mut ServiceCounts,
) {
    let now = flows::now();
    // SAFETY: `counts` points to a live map value.
    unsafe {
        (*counts).last_new_ns = now;
        (*counts).last_peer = clients::client(ctx, service).addr;
        counter::add(&raw mut (*counts).accepted, 1);
    }
    let flow = Flow { service: *service, since_ns: now, flags: 0, zero: 0 };
    if let Counted::NoRoom = flows::count::<SLOTS>(counts, cookie(ctx), &flow) {
        let lost = flows::lose(counts);
        if lost & (lost - 1) == 0 {
            let ServiceKey { netns, port, .. } = *service;
            warn!(
                ctx,
                "no room to count a flow of port {} in netns {} (lost: {})", port, netns, lost
            );
        }
    }
    flows::tell(service, counts, Event::ACCEPTED, watch::FLOWS);
    // SAFETY: `counts` points to a live map value.
    let watch = unsafe { (&raw const (*counts).watch).read_volatile() };
    if watch & watch::CLIENTS != 0 {
        clients::remember(ctx, service, now);
    }
}

/// Counts a flow that does not keep its service from being drained.
#[inline(always)]
fn exempt<const SLOTS: bool>(ctx: &SockOpsContext, service: &ServiceKey) {
    let Some(counts) = flows::counts_or_new(service) else { return };
    // SAFETY: `counts` points to a live map value.
    unsafe { counter::add(&raw mut (*counts).accepted, 1) };
    let flow = Flow { service: *service, since_ns: flows::now(), flags: 0, zero: 0 };
    if let Counted::NoRoom = flows::count::<SLOTS>(counts, cookie(ctx), &flow) {
        flows::lose(counts);
    }
}

#[inline(always)]
fn state_changed<const SLOTS: bool>(ctx: &SockOpsContext) {
    match (ctx.arg(0), ctx.arg(1)) {
        (TCP_LISTEN, TCP_CLOSE) => tell_of_listener(ctx, Event::UNLISTENED),
        // In FIN_WAIT2 our last byte and FIN are acknowledged. Whether a process still holds the socket, only
        // a look can tell.
        (_, TCP_FIN_WAIT2) => clients::remember_end(ctx, flows::uncount::<SLOTS>(cookie(ctx))),
        // It was uncounted when it came to FIN_WAIT2, of which we are told whenever we are told of this.
        (TCP_FIN_WAIT2, TCP_CLOSE) => flows::go_on(ctx, next::ENDED),
        (_, TCP_CLOSE) => {
            clients::remember_end(ctx, flows::uncount::<SLOTS>(cookie(ctx)));
            flows::go_on(ctx, next::ENDED);
        }
        _ => {}
    }
}

#[inline(always)]
fn listening(ctx: &SockOpsContext) {
    ask_for_states(ctx);
    tell_of_listener(ctx, Event::LISTENING);
}

/// Only a service that is watched has to have counters for this.
#[inline(always)]
fn tell_of_listener(ctx: &SockOpsContext, kind: u32) {
    if let Some(service) = service(ctx)
        && let Some(counts) = flows::counts(&service)
    {
        flows::tell(&service, counts, kind, watch::LISTENERS);
    }
}

/// Asks the kernel to call us at each state change of this socket, and leaves the flags that another
/// program has set: the helper replaces them all.
#[inline(always)]
pub(crate) fn ask_for_states(ctx: &SockOpsContext) {
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    let _ = ctx.set_cb_flags(flags as i32);
}

#[inline(always)]
fn service(ctx: &SockOpsContext) -> Option<ServiceKey> {
    Some(ServiceKey::new(netns(ctx)?, ctx.local_port() as u16))
}

/// Inode number of the network namespace of the socket.
#[inline(always)]
pub(crate) fn netns(ctx: &SockOpsContext) -> Option<u32> {
    // SAFETY: the verifier checks the access, and the pointers before they are used.
    let sock = unsafe {
        let sk = (*ctx.ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        bpf_skc_to_tcp_sock(sk.cast())
    };
    if sock.is_null() {
        return None;
    }
    // SAFETY: `sock` came from the helper.
    Some(unsafe { netns::inum(sock.cast()) })
}

#[inline(always)]
fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context is the one the kernel passed.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// The peer's address as IPv6, v4-mapped where it is IPv4, network byte order.
#[inline(always)]
pub(crate) fn peer(ctx: &SockOpsContext) -> [u32; 4] {
    // SAFETY: the context is the one the kernel passed.
    unsafe { address(ctx, &raw const (*ctx.ops).remote_ip4, &raw const (*ctx.ops).remote_ip6) }
}

/// Our own address, in the same form.
#[inline(always)]
pub(crate) fn local(ctx: &SockOpsContext) -> [u32; 4] {
    // SAFETY: the context is the one the kernel passed.
    unsafe { address(ctx, &raw const (*ctx.ops).local_ip4, &raw const (*ctx.ops).local_ip6) }
}

/// # Safety
/// Both point into the context.
#[inline(always)]
unsafe fn address(ctx: &SockOpsContext, v4: *const u32, v6: *const [u32; 4]) -> [u32; 4] {
    // All five words are read first, volatile: merged into the branches, the reads would become one at a
    // computed offset, and the verifier wants constant offsets into the context.
    // SAFETY: the caller's promise.
    let (v4, v6) = unsafe {
        let word = |i: usize| v6.cast::<u32>().add(i).read_volatile();
        (v4.read_volatile(), [word(0), word(1), word(2), word(3)])
    };
    if ctx.family() == AF_INET6 { v6 } else { [0, 0, 0xffff_u32.to_be(), v4] }
}

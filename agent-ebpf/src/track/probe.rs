//! Recognising probes: the kubelet opens them, which is seen in the kubelet's own cgroup.

use aya_ebpf::{
    bindings::{BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_TCP_CONNECT_CB},
    macros::sock_ops,
    programs::SockOpsContext,
};
use drainctl_common::probe::{ProbeKey, count, port_index};

use crate::{
    counter, flows,
    probes::{self, PROBE_PORTS, PROBES},
    sock_ops::{TCP_CLOSE, ask_for_states, local, netns, peer},
};

/// Runs for sockets of the kubelet's cgroup only. At `TCP_CONNECT_CB` (`tcp_connect`) the addresses and ports are
/// chosen, and the SYN has not left yet. Returns 1 always, as `track` does.
#[sock_ops]
fn probe(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => {
            ask_for_states(&ctx);
            if let Some(key) = as_client(&ctx) {
                open(&key, flows::now());
                probes::count(count::OPENED);
            }
        }
        // TIME_WAIT comes here too: it is another kind of socket, and this one closes (`tcp_time_wait`).
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == TCP_CLOSE => {
            if let Some(key) = as_client(&ctx) {
                close(&key);
            }
        }
        _ => {}
    }
    1
}

/// The kubelet opens a connection.
#[inline(always)]
fn open(key: &ProbeKey, now: u64) {
    let Some(port) = PROBE_PORTS.get_ptr_mut(port_index(key.client_port)) else { return };
    counter::add(port, 1); // First: nobody must find zero while there is an entry.
    if PROBES.insert(key, now, 0).is_err() {
        counter::add(port, 1_u64.wrapping_neg()); // Without room it is no probe, and counts.
    }
}

/// A connection of the kubelet has ended: who uses the same ports next is no probe.
#[inline(always)]
fn close(key: &ProbeKey) {
    if PROBES.remove(key).is_ok()
        && let Some(port) = PROBE_PORTS.get_ptr_mut(port_index(key.client_port))
    {
        counter::add(port, 1_u64.wrapping_neg());
    }
}

/// Whether the kubelet opened this connection, which is being accepted in the namespace `netns`.
#[inline(always)]
pub(crate) fn is_probe(ctx: &SockOpsContext, netns: u32) -> bool {
    let port = peer_port(ctx);
    probes::may_be_from(port)
        && probes::is_probe(&ProbeKey::new((peer(ctx), port), (local(ctx), local_port(ctx)), netns))
}

#[inline(always)]
fn as_client(ctx: &SockOpsContext) -> Option<ProbeKey> {
    let netns = netns(ctx)?;
    Some(ProbeKey::new((local(ctx), local_port(ctx)), (peer(ctx), peer_port(ctx)), netns))
}

#[inline(always)]
fn local_port(ctx: &SockOpsContext) -> u16 {
    ctx.local_port() as u16
}

/// In the context it is in network byte order, 32 bits wide.
#[inline(always)]
fn peer_port(ctx: &SockOpsContext) -> u16 {
    u32::from_be(ctx.remote_port()) as u16
}

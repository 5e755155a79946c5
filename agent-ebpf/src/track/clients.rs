//! Who the client of a flow is, and when each client last had a flow.

use aya_ebpf::{Global, programs::SockOpsContext};
use drainctl_common::{ServiceKey, class, peers::PeerKey};

use crate::{flows, peers::CLIENTS};

const AF_INET6: u32 = 10;

/// Whether clients are remembered (`--client-history`). Where it is 0 the verifier drops all of this.
#[unsafe(no_mangle)]
static CLIENT_HISTORY: Global<u32> = Global::new(0);

/// Remembers that the client has a flow now, or had one until now. Of services that do not drain only the end of a
/// flow is remembered, which halves the cost: when a drain begins, the agent notes whose flows are there.
#[inline(always)]
pub(crate) fn remember(ctx: &SockOpsContext, service: &ServiceKey, now: u64) {
    if CLIENT_HISTORY.load() == 0 || service.class != class::COUNTED {
        return;
    }
    let client = client(ctx, service);
    // In place where it is known already, which is several times cheaper than to replace the entry. If the entry is
    // reused for another client meanwhile, that one had a flow too.
    if let Some(last) = CLIENTS.get_ptr_mut(client) {
        // SAFETY: `last` points to a live map value; eight bytes are written at once.
        unsafe { last.write_volatile(now) };
        return;
    }
    let _ = CLIENTS.insert(client, now, 0); // The oldest makes room.
}

/// The same at the end of a flow.
#[inline(always)]
pub(crate) fn remember_end(ctx: &SockOpsContext, ended: Option<ServiceKey>) {
    if CLIENT_HISTORY.load() != 0
        && let Some(service) = ended
    {
        remember(ctx, &service, flows::now());
    }
}

/// The client of a flow.
#[inline(always)]
pub(crate) fn client(ctx: &SockOpsContext, service: &ServiceKey) -> PeerKey {
    let ServiceKey { netns, port, .. } = *service;
    // All five words are read first, volatile: merged into the branches, the reads would become one at a
    // computed offset, and the verifier wants constant offsets into the context.
    // SAFETY: the context is the one the kernel passed.
    let (v4, v6) = unsafe {
        let v6 = (&raw const (*ctx.ops).remote_ip6).cast::<u32>();
        let word = |i: usize| v6.add(i).read_volatile();
        let v4 = (&raw const (*ctx.ops).remote_ip4).read_volatile();
        (v4, [word(0), word(1), word(2), word(3)])
    };
    // An IPv4 client of a dual-stack socket shows as v4-mapped.
    let is_mapped = v6[0] == 0 && v6[1] == 0 && v6[2] == 0xffff_u32.to_be();
    match ctx.family() {
        AF_INET6 if is_mapped => PeerKey::v4(netns, port, v6[3]),
        AF_INET6 => PeerKey::v6(netns, port, v6),
        _ => PeerKey::v4(netns, port, v4),
    }
}

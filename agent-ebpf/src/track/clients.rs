//! Who the client of a flow is, and when each client last had a flow.

use aya_ebpf::{Global, programs::SockOpsContext};
use drainctl_common::{ServiceKey, class, peers::PeerKey};

use crate::{flows, peers::CLIENTS, sock_ops};

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
    PeerKey::of(service.netns, service.port, sock_ops::peer(ctx))
}

//! Giving the connections of a closed port to other listening sockets.

use aya_ebpf::{
    bindings::{BPF_SK_LOOKUP_F_NO_REUSEPORT, bpf_sk_lookup},
    macros::map,
    maps::SockHash,
    programs::SkLookupContext,
};
use drainctl_common::gate::{RuleKey, SteerKey};

/// Those sockets, of all instances, put there by the agent. One that is closed leaves by itself.
#[map]
static TARGETS: SockHash<SteerKey> = SockHash::with_max_entries(16384, 0);

/// How many targets are tried, beginning with the one whose turn it is: others may be gone, or be of another
/// address family.
const TRIES: u32 = 32;

/// Chooses a target of the rule; false if it has none that takes the connection.
#[inline(always)]
pub(crate) fn to_target(ctx: &SkLookupContext, rule: RuleKey, targets: u32) -> bool {
    if targets == 0 {
        return false;
    }
    let first = client(ctx);
    for step in 0..TRIES {
        let index = first.wrapping_add(step) % targets;
        let key = SteerKey::new(rule, index as u16);
        // NO_REUSEPORT: else the kernel would choose once more, among all sockets that share the target's
        // address, those of the server that is being replaced included.
        if TARGETS.redirect_sk_lookup(ctx, key, u64::from(BPF_SK_LOOKUP_F_NO_REUSEPORT)).is_ok() {
            return true;
        }
        if step + 1 == targets {
            return false; // All were tried.
        }
    }
    false
}

/// A number that is evenly spread, but the same for each packet of one connection attempt: when SYN cookies are in
/// use, the last ACK of the handshake must find the listener that the SYN found.
#[inline(always)]
fn client(ctx: &SkLookupContext) -> u32 {
    let lookup: *const bpf_sk_lookup = ctx.lookup;
    // SAFETY: the kernel passes a valid context; the verifier checks every access to it. Volatile: reads that were
    // merged would be at a computed offset, and the verifier wants constant ones.
    let words = unsafe {
        let v6 = (&raw const (*lookup).remote_ip6).cast::<u32>();
        [
            (&raw const (*lookup).remote_ip4).read_volatile(),
            v6.read_volatile(),
            v6.add(1).read_volatile(),
            v6.add(2).read_volatile(),
            v6.add(3).read_volatile(),
            u32::from((&raw const (*lookup).remote_port).read_volatile()),
        ]
    };
    // FNV-1a over words; its low bits depend on all bits only after the shift.
    let mut hash: u32 = 0x811c_9dc5;
    for word in words {
        hash = (hash ^ word).wrapping_mul(0x0100_0193);
        hash ^= hash >> 15;
    }
    hash
}

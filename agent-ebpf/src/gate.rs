//! The gate: an `sk_lookup` program that refuses new connections of a draining service, or gives them to others.
//!
//! It is attached to the network namespace of the service and runs only when the kernel looks up a
//! *listener*: for a SYN, or for a segment that belongs to no connection. Established connections, and
//! handshakes whose request socket exists, never meet it.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(target_arch = "bpf", expect(internal_features, reason = "see counter.rs"))]

mod counter;
mod peers;
mod probes;
mod program;
mod steer;

use aya_ebpf::{
    EbpfContext as _, Global,
    bindings::bpf_sk_lookup,
    helpers::{bpf_ktime_get_boot_ns, generated::bpf_jiffies64},
    macros::{map, sk_lookup},
    maps::{Array, HashMap},
    programs::SkLookupContext,
};
use drainctl_common::{
    gate::{Counts, MAX_RULES, Rule, RuleKey},
    peers::{PeerKey, verdict},
    probe::{ProbeKey, count},
};

/// Verdicts of `sk_lookup` (`enum sk_action`).
const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const AF_INET6: u32 = 10;

/// Which rules are for this instance: the program cannot learn in which namespace it runs.
#[unsafe(no_mangle)]
static GATE_SLOT: Global<u32> = Global::new(0);

/// Rules of the ports of all instances, written by the agent.
#[map]
static RULES: HashMap<RuleKey, Rule> = HashMap::with_max_entries(MAX_RULES, 0);

/// What was done with lookups, counted here and read by the agent, which gives each rule a place and zeroes it.
#[map]
static GATE_COUNTS: Array<Counts> = Array::with_max_entries(MAX_RULES, 0);

/// Refuses what is to be refused, and leaves everything else as if the program were not there.
#[sk_lookup]
fn gate(ctx: SkLookupContext) -> u32 {
    let lookup: *const bpf_sk_lookup = ctx.as_ptr().cast();
    // SAFETY: the kernel passes a valid context; the verifier checks every access to it.
    let (protocol, port) = unsafe { ((*lookup).protocol, (*lookup).local_port) };
    if protocol != IPPROTO_TCP {
        return SK_PASS; // UDP runs through here too.
    }
    let key = RuleKey::new(GATE_SLOT.load(), port as u16);
    let Some(rule) = RULES.get_ptr_mut(key) else {
        return SK_PASS; // Not draining.
    };
    if is_lease_over(rule) {
        return SK_PASS; // Nobody renewed the lease: traffic comes back even if the agent is dead.
    }
    // SAFETY: `rule` points to a live map value, and the agent only replaces rules as a whole.
    let rule = unsafe { &*rule };
    if rule.flags & Rule::TAKEN_OVER == 0 {
        // SAFETY: as above.
        if unsafe { is_probe(lookup, rule.netns) } {
            probes::count(count::PASSED);
            return SK_PASS; // A container that serves until it is stopped must not be killed as unhealthy.
        }
        if rule.flags & Rule::LISTS != 0
            && let Some(decided) = by_list(lookup, rule, key)
        {
            return decided;
        }
        if rule.flags & Rule::CLOSED == 0 {
            return SK_PASS; // Settling: everybody is still served.
        }
        if rule.keep_clients_ns != 0 && is_kept(lookup, rule, key) {
            return SK_PASS; // Its session is here, and nowhere else.
        }
    }
    if steer::to_target(&ctx, key, rule.targets) {
        if let Some(counts) = counts(rule) {
            // SAFETY: `counts` points to a live map value.
            counter::add(unsafe { &raw mut (*counts).steered }, 1);
        }
        return SK_PASS; // With a socket chosen, the kernel asks no further.
    }
    if let Some(counts) = counts(rule) {
        // SAFETY: `counts` points to a live map value.
        counter::add(unsafe { &raw mut (*counts).rejected }, 1);
    }
    // The kernel itself answers the SYN with a RST: there is no listener, as far as it can see.
    SK_DROP
}

/// Boot time in nanoseconds.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Whether the lease of a rule is over; see [`Rule::lease_seen`].
#[inline(always)]
fn is_lease_over(rule: *mut Rule) -> bool {
    // SAFETY: `rule` points to a live map value; eight bytes are read or written at once. If the agent replaces the
    // rule meanwhile, the tick may be written to another one, whose lease is looked at in the next tick then.
    unsafe {
        let tick = bpf_jiffies64();
        let seen = &raw mut (*rule).lease_seen;
        if seen.read_volatile() == tick {
            return false;
        }
        if now() >= (*rule).lease_until_ns {
            return true;
        }
        seen.write_volatile(tick);
    }
    false
}

/// The counters of a rule.
#[inline(always)]
fn counts(rule: &Rule) -> Option<*mut Counts> {
    GATE_COUNTS.get_ptr_mut(rule.counts)
}

/// What the list that names the client decides, if one does: also while the gate is open.
#[inline(always)]
fn by_list(lookup: *const bpf_sk_lookup, rule: &Rule, key: RuleKey) -> Option<u32> {
    let verdict = peers::verdict(client(lookup, rule, key));
    if verdict == 0 {
        return None;
    }
    if let Some(counts) = counts(rule) {
        // SAFETY: `counts` points to a live map value.
        let counter = unsafe {
            match verdict {
                verdict::IGNORE => &raw mut (*counts).ignored,
                verdict::ALLOW => &raw mut (*counts).allowed,
                _ => &raw mut (*counts).refused,
            }
        };
        counter::add(counter, 1);
    }
    // A health check that fails at once has the load balancer take us out while users are still served.
    Some(if verdict == verdict::REFUSE { SK_DROP } else { SK_PASS })
}

/// Whether the client had a flow so lately that it may open another.
#[inline(always)]
fn is_kept(lookup: *const bpf_sk_lookup, rule: &Rule, key: RuleKey) -> bool {
    // SAFETY: eight bytes are read at once; if the entry is reused meanwhile, another client's time is read.
    let last = unsafe { peers::CLIENTS.get(client(lookup, rule, key)) };
    if last.is_none_or(|last| now().saturating_sub(*last) > rule.keep_clients_ns) {
        return false;
    }
    if let Some(counts) = counts(rule) {
        // SAFETY: `counts` points to a live map value.
        counter::add(unsafe { &raw mut (*counts).kept }, 1);
    }
    true
}

/// Who asks.
#[inline(always)]
fn client(lookup: *const bpf_sk_lookup, rule: &Rule, key: RuleKey) -> PeerKey {
    // SAFETY: the kernel passes a valid context; the verifier checks every access to it.
    let remote = unsafe {
        address(lookup, &raw const (*lookup).remote_ip4, &raw const (*lookup).remote_ip6)
    };
    PeerKey::of(rule.netns, key.port, remote)
}

/// Whether the kubelet opened the connection that is looked up, in the namespace `netns`.
///
/// # Safety
/// `lookup` is the context that the kernel passed.
#[inline(always)]
unsafe fn is_probe(lookup: *const bpf_sk_lookup, netns: u32) -> bool {
    // SAFETY: the caller's promise.
    let client_port = u16::from_be(unsafe { (*lookup).remote_port });
    if !probes::may_be_from(client_port) {
        return false;
    }
    // SAFETY: the caller's promise.
    let key = unsafe {
        let remote =
            address(lookup, &raw const (*lookup).remote_ip4, &raw const (*lookup).remote_ip6);
        let local = address(lookup, &raw const (*lookup).local_ip4, &raw const (*lookup).local_ip6);
        ProbeKey::new((remote, client_port), (local, (*lookup).local_port as u16), netns)
    };
    probes::is_probe(&key)
}

/// An address as IPv6, v4-mapped where it is IPv4, network byte order.
///
/// # Safety
/// All three point into the context.
#[inline(always)]
unsafe fn address(lookup: *const bpf_sk_lookup, v4: *const u32, v6: *const [u32; 4]) -> [u32; 4] {
    // Read first and volatile, for constant offsets into the context: see the tracker.
    // SAFETY: the caller's promise.
    let (family, v4, v6) = unsafe {
        let word = |i: usize| v6.cast::<u32>().add(i).read_volatile();
        ((*lookup).family, v4.read_volatile(), [word(0), word(1), word(2), word(3)])
    };
    if family == AF_INET6 { v6 } else { [0, 0, 0xffff_u32.to_be(), v4] }
}

/// The host's compiler type-checks this file, so that `cargo check` needs no eBPF toolchain.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

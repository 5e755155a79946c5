//! The gate: an `sk_lookup` program that refuses new connections of a draining service, or gives them to others.
//!
//! It is attached to the network namespace of the service and runs only when the kernel looks up a
//! *listener*: for a SYN, or for a segment that belongs to no connection. Established connections, and
//! handshakes whose request socket exists, never meet it.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(target_arch = "bpf", expect(internal_features, reason = "see counter.rs"))]

mod counter;
mod program;
mod steer;

use aya_ebpf::{
    EbpfContext as _, Global,
    bindings::bpf_sk_lookup,
    helpers::bpf_ktime_get_boot_ns,
    macros::{map, sk_lookup},
    maps::HashMap,
    programs::SkLookupContext,
};
use drainctl_common::gate::{Rule, RuleKey};

/// Verdicts of `sk_lookup` (`enum sk_action`).
const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;
const IPPROTO_TCP: u32 = 6;

/// Which rules are for this instance: the program cannot learn in which namespace it runs.
#[unsafe(no_mangle)]
static GATE_SLOT: Global<u32> = Global::new(0);

/// Closed ports of all instances, written by the agent.
#[map]
static RULES: HashMap<RuleKey, Rule> = HashMap::with_max_entries(16384, 0);

/// Lookups refused, counted here and read by the agent, which also makes the entries.
#[map]
static REJECTED: HashMap<RuleKey, u64> = HashMap::with_max_entries(16384, 0);

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
    // SAFETY: rules are only replaced as a whole by the agent.
    let Some(rule) = (unsafe { RULES.get(key) }) else {
        return SK_PASS; // Not draining.
    };
    // SAFETY: a helper without arguments.
    if unsafe { bpf_ktime_get_boot_ns() } >= rule.lease_until_ns {
        return SK_PASS; // Nobody renewed the lease: traffic comes back even if the agent is dead.
    }
    if rule.flags & Rule::CLOSED == 0 {
        return SK_PASS; // Settling: everybody is still served.
    }
    if steer::to_target(&ctx, key, rule.targets) {
        return SK_PASS; // With a socket chosen, the kernel asks no further.
    }
    if let Some(rejected) = REJECTED.get_ptr_mut(key) {
        counter::add(rejected, 1);
    }
    // The kernel itself answers the SYN with a RST: there is no listener, as far as it can see.
    SK_DROP
}

/// The host's compiler type-checks this file, so that `cargo check` needs no eBPF toolchain.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

//! Loading the tracker's programs and maps.

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{Iter, SchedClassifier, SockOps},
};

use super::{CHECKS, FLOWS, MARKS, PROBE_COUNTS, PROBE_PORTS, PROBES, Sizes};
use crate::kernel::{
    KernelError, loaded::program, objects::TRACK, offsets::Offsets, pins::Pins, slots::SLOTS,
};

/// Maps that the next agent goes on with, and of which other objects share some: the tracker is loaded first, so that
/// they have the sizes that it gives them. The ring of events and the faults begin anew with each agent: it takes in
/// everything that is there.
const PINNED: [&str; 14] = [
    "DRAINS",
    "HOLDS",
    SLOTS,
    FLOWS,
    "SERVICES",
    "NEXT",
    MARKS,
    "MARKED",
    PROBES,
    PROBE_PORTS,
    CHECKS,
    PROBE_COUNTS,
    "PEERS",
    "CLIENTS",
];

/// Loads the object, with the maps that an earlier agent has left.
pub(super) fn load(pins: &Pins, sizes: Sizes, offsets: &Offsets) -> Result<Ebpf, KernelError> {
    let bytes = TRACK.bytes()?;
    let slots = sizes.slots(pins)?;
    let mut loader = EbpfLoader::new();
    pins.share(&mut loader, &PINNED);
    loader
        .btf(None) // The offsets below are all it needs.
        .override_global("OFF_SKC_NET", &offsets.skc_net, true)
        .override_global("OFF_NET_INUM", &offsets.net_inum, true)
        .override_global("OFF_SKC_STATE", &offsets.skc_state, true)
        .override_global("OFF_INET_SPORT", &offsets.inet_sport, true)
        .override_global("OFF_SKC_COOKIE", &offsets.skc_cookie, true)
        .override_global("CLIENT_HISTORY", &sizes.client_history, true)
        .override_global("SLOT_MASK", &(slots - 1), true)
        .map_max_entries(SLOTS, slots)
        .map_max_entries(FLOWS, sizes.max_flows)
        .map_max_entries("SERVICES", sizes.max_services)
        // No map has room for nothing.
        .map_max_entries("CLIENTS", sizes.client_history.max(1))
        .load(bytes)
        .map_err(|e| KernelError::op("load", "the tracker", e))
}

/// The programs that a kernel can run, of those that there are twice.
pub(super) struct Variant {
    pub(super) track: &'static str,
    pub(super) adopt: &'static str,
    pub(super) repair: &'static str,
}

const MODERN: Variant = Variant { track: "track", adopt: "adopt", repair: "repair" };
const OLD: Variant = Variant { track: "track_old", adopt: "adopt_old", repair: "repair_old" };

/// Loads the programs that this kernel accepts, and returns which they are.
pub(super) fn load_programs(ebpf: &mut Ebpf) -> Result<&'static Variant, KernelError> {
    let btf = Btf::from_sys_fs().map_err(|e| KernelError::op("read", "BTF of the kernel", e))?;
    let fail = |name, e| KernelError::op("load program", name, e);
    let adopt: &mut Iter = program(ebpf, MODERN.adopt)?;
    let variant = match adopt.load("tcp", &btf) {
        Ok(()) => &MODERN,
        Err(e) => {
            tracing::warn!(error = %e, "this kernel's TCP iterator may not set socket options (it came with Linux 6.1): \
                connections are counted in a hash map, which costs twice as much");
            let old: &mut Iter = program(ebpf, OLD.adopt)?;
            old.load("tcp", &btf).map_err(|e| fail(OLD.adopt, e))?;
            &OLD
        }
    };
    for name in [variant.track, "probe"] {
        let ops: &mut SockOps = program(ebpf, name)?;
        ops.load().map_err(|e| fail(name, e))?;
    }
    let repair: &mut SchedClassifier = program(ebpf, variant.repair)?;
    repair.load().map_err(|e| fail(variant.repair, e))?;
    Ok(variant)
}

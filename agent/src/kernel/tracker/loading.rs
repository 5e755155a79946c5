//! Loading the tracker's programs and maps.

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{Iter, SchedClassifier, SockOps},
};

use super::{CHECKS, FLOWS, MARKS, PROBE_COUNTS, PROBE_PORTS, PROBES, Sizes};
use crate::kernel::{KernelError, loaded::program, objects::TRACK, offsets::Offsets, pins::Pins};

/// Maps that the next agent goes on with, and of which other objects share some: the tracker is loaded first, so that
/// they have the sizes that it gives them. The ring of events and the faults begin anew with each agent: it takes in
/// everything that is there.
const PINNED: [&str; 13] = [
    "DRAINS",
    "HOLDS",
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
        .map_max_entries(FLOWS, sizes.max_flows)
        .map_max_entries("SERVICES", sizes.max_services)
        // No map has room for nothing.
        .map_max_entries("CLIENTS", sizes.client_history.max(1))
        .load(bytes)
        .map_err(|e| KernelError::op("load", "the tracker", e))
}

/// Loads every program; returns the name of the iterator that this kernel accepts.
pub(super) fn load_programs(ebpf: &mut Ebpf) -> Result<&'static str, KernelError> {
    let btf = Btf::from_sys_fs().map_err(|e| KernelError::op("read", "BTF of the kernel", e))?;
    for name in ["track", "probe"] {
        let ops: &mut SockOps = program(ebpf, name)?;
        ops.load().map_err(|e| KernelError::op("load program", name, e))?;
    }
    let repair: &mut SchedClassifier = program(ebpf, "repair")?;
    repair.load().map_err(|e| KernelError::op("load program", "repair", e))?;
    let adopt: &mut Iter = program(ebpf, "adopt")?;
    if let Err(e) = adopt.load("tcp", &btf) {
        tracing::warn!(error = %e, "this kernel's TCP iterator may not set socket options (it came with Linux 6.1): \
            the end of connections older than the agent is found by looking, not by event");
        let unseen: &mut Iter = program(ebpf, "adopt_unseen")?;
        unseen.load("tcp", &btf).map_err(|e| KernelError::op("load program", "adopt_unseen", e))?;
        return Ok("adopt_unseen");
    }
    Ok("adopt")
}

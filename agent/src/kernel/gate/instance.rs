//! One gate program, loaded to be attached to one network namespace.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use aya::{
    Ebpf, EbpfLoader,
    programs::{SkLookup, links::FdLink},
};

use crate::{
    drain::Service,
    failpoint,
    kernel::{
        KernelError,
        objects::GATE,
        pins::Pins,
        tracker::{CHECKS, PROBE_COUNTS, PROBE_PORTS, PROBES},
    },
};

/// Maps that all instances share.
const SHARED: [&str; 9] = [
    "RULES",
    "GATE_COUNTS",
    "TARGETS",
    "PEERS",
    "CLIENTS",
    PROBES,
    PROBE_PORTS,
    CHECKS,
    PROBE_COUNTS,
];

/// A loaded gate program.
pub(in crate::kernel) struct Instance {
    pub(super) slot: u32,
    pub(super) ebpf: Ebpf,
}

/// An instance to be loaded.
pub(in crate::kernel) struct SpareOrder {
    pub(super) pins: Pins,
    pub(super) slot: u32,
}

impl SpareOrder {
    /// Loads it: some 30 ms.
    pub(in crate::kernel) fn load(self) -> Result<Instance, KernelError> {
        load_instance(&self.pins, self.slot)
    }
}

impl Instance {
    /// From now on every lookup of the namespace asks the program, for as long as the link is kept.
    pub(super) fn attach(
        &mut self,
        service: Service,
        netns: &OwnedFd,
    ) -> Result<FdLink, KernelError> {
        let program = self.program()?;
        let link = program.attach(netns).and_then(|id| program.take_link(id));
        failpoint::pass("gate: attached");
        link.map(Into::into).map_err(|e| KernelError::op("attach the gate for", service, e))
    }

    /// The program, to be put behind a link that is there.
    pub(super) fn fd(&mut self) -> Result<BorrowedFd<'_>, KernelError> {
        let fd = self.program()?.fd().map_err(|e| KernelError::op("use program", "gate", e))?;
        Ok(fd.as_fd())
    }

    fn program(&mut self) -> Result<&mut SkLookup, KernelError> {
        let missing = || KernelError::op("find program", "gate", "not in the object");
        let program = self.ebpf.program_mut("gate").ok_or_else(missing)?;
        program.try_into().map_err(|e| KernelError::op("use program", "gate", e))
    }
}

/// Loads the program, which does nothing before it is attached.
pub(super) fn load_instance(pins: &Pins, slot: u32) -> Result<Instance, KernelError> {
    let mut loader = EbpfLoader::new();
    // The gate needs no type information, and reading that of the whole kernel takes time and memory.
    loader.btf(None).override_global("GATE_SLOT", &slot, true);
    pins.share(&mut loader, &SHARED);
    let ebpf = loader.load(GATE.bytes()?).map_err(|e| KernelError::op("load", "the gate", e))?;
    let mut instance = Instance { slot, ebpf };
    instance.program()?.load().map_err(|e| KernelError::op("load program", "gate", e))?;
    Ok(instance)
}

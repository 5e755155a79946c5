//! Gate instances that are kept loaded, so that a drain need not wait for one.

use std::sync::{Arc, Mutex};

use super::{
    Gates,
    instance::{Instance, SpareOrder},
};
use crate::kernel::{KernelError, linux::lock};

/// How many instances are kept loaded. Each costs about 30 ms to load and 10 KiB of kernel memory.
pub(super) const SPARES: usize = 4;
/// With fewer, more are loaded: not for each drain, since to load one takes a CPU from what the drain does next, and
/// an instance comes back when its gate opens.
const ENOUGH: usize = 3;

impl Gates {
    /// If there are fewer spares than `wanted`: what to load, outside of any lock, for [`Self::add_spare`].
    pub(super) fn order_spare(&mut self, wanted: usize) -> Option<SpareOrder> {
        if self.spares.len() >= wanted {
            return None;
        }
        let slot = self.next_slot;
        self.next_slot += 1;
        Some(SpareOrder { pins: self.pins.clone(), slot })
    }

    /// Keeps a loaded instance for the next drain; one too many is unloaded.
    pub(super) fn add_spare(&mut self, instance: Instance) {
        if self.spares.len() < SPARES {
            self.spares.push(instance);
        }
    }

    pub(super) fn spare(&mut self) -> Result<Instance, KernelError> {
        if let Some(spare) = self.spares.pop() {
            return Ok(spare);
        }
        let order = self.order_spare(1);
        let order =
            order.ok_or_else(|| KernelError::op("find", "a spare gate", "none is loaded"))?;
        order.load()
    }
}

/// Loads a spare in the background, if few are left. Nothing here may fail its caller, whose gate is closed already.
pub(in crate::kernel) fn refill(gates: &Arc<Mutex<Gates>>) {
    let Some(order) = lock(gates).order_spare(ENOUGH) else { return };
    let gates = Arc::clone(gates);
    let load = move || order.load().map(|spare| lock(&gates).add_spare(spare));
    let spawned = std::thread::Builder::new().name("spare-gate".into()).spawn(move || {
        if let Err(e) = load() {
            tracing::warn!(error = %e, "cannot load a spare gate; a later drain loads its own");
        }
    });
    if let Err(e) = spawned {
        tracing::warn!(error = %e, "no thread to load a spare gate; a later drain loads its own");
    }
}

//! What the gate programs have counted: an array with a place for each rule.

use std::collections::HashSet;

use aya::maps::{Array, MapData, MapError};
use drainctl_common::gate::{Counts, MAX_RULES};

use crate::kernel::KernelError;

/// See the module.
pub(super) struct Counters {
    map: Array<MapData, Counts>,
    /// Where the search for a place begins. One that was given up is used again as late as can be, since a program
    /// that read the rule before it was removed may still count.
    next: u32,
}

impl Counters {
    /// The array `GATE_COUNTS`.
    pub(super) fn new(map: Array<MapData, Counts>) -> Self {
        Self { map, next: 0 }
    }

    /// A place that none of `used` is, with counters at zero. It is free until a rule has it.
    pub(super) fn begin(&mut self, used: &HashSet<u32>) -> Result<u32, KernelError> {
        let mut places = (0..MAX_RULES).map(|step| (self.next + step) % MAX_RULES);
        let place = places
            .find(|place| !used.contains(place))
            .ok_or_else(|| KernelError::op("find room in map", "GATE_COUNTS", "it is full"))?;
        self.map
            .set(place, Counts::default(), 0)
            .map_err(|e| KernelError::op("write map GATE_COUNTS at", place, e))?;
        self.next = (place + 1) % MAX_RULES;
        Ok(place)
    }

    /// What was counted there.
    pub(super) fn get(&self, place: u32) -> Result<Counts, MapError> {
        self.map.get(&place, 0)
    }
}

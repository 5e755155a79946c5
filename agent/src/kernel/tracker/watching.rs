//! What the tracker reports of each service, and how it tells classes of its flows apart.

use aya::maps::MapError;
use drainctl_common::{
    class,
    track::{Repair, watch},
};

use super::{Tracker, key, key_of};
use crate::{
    drain::Service,
    kernel::{Class, KernelError, Watch},
};

impl Tracker {
    /// What an earlier agent wanted to be told of.
    pub(super) fn read_watches(&mut self) -> Result<(), KernelError> {
        for entry in self.services.iter() {
            match entry {
                Ok((key, counts)) if counts.watch != 0 && key.class == class::COUNTED => {
                    let service = Service { netns: key.netns, port: key.port };
                    self.watches.insert(service, counts.watch);
                }
                Ok(_) | Err(MapError::KeyNotFound) => {}
                Err(e) => return Err(KernelError::op("read map", "SERVICES", e)),
            }
        }
        Ok(())
    }

    /// Services of which something is reported, or whose new connections are joined.
    pub(in crate::kernel) fn watched(&self) -> Vec<Service> {
        self.watches.keys().copied().collect()
    }

    /// Sets what is reported for a service, which is known from then on.
    pub(in crate::kernel) fn watch(
        &mut self,
        service: Service,
        wanted: Watch,
    ) -> Result<(), KernelError> {
        let bit = |wanted, bit| if wanted { bit } else { 0 };
        let bits = bit(wanted.listeners, watch::LISTENERS)
            | bit(wanted.flows, watch::FLOWS)
            | bit(wanted.classes, watch::CLASSES);
        self.set_watch(service, watch::LISTENERS | watch::FLOWS | watch::CLASSES, bits)
    }

    /// From now on, flows of the service that have this mark are [`Class::Steered`], and their end is reported; 0: none.
    pub(in crate::kernel) fn steer(
        &mut self,
        service: Service,
        mark: u32,
    ) -> Result<(), KernelError> {
        self.know(service)?;
        self.repair(service, &Repair { steer: mark, ..Repair::new(key(service)) })?;
        let watch = if mark == 0 { 0 } else { watch::FLOWS };
        let steered = key_of(service, Class::Steered);
        if watch != 0 && !self.know_key(service, steered)? {
            return Err(KernelError::op("add to map SERVICES", service, "it is full"));
        }
        self.repair(service, &Repair { watch, ..Repair::new(steered) }).map(drop)
    }

    /// Sets whether the retire programs take in new connections of a service.
    pub(in crate::kernel) fn join_new(
        &mut self,
        service: Service,
        wanted: bool,
    ) -> Result<(), KernelError> {
        self.set_watch(service, watch::JOIN, if wanted { watch::JOIN } else { 0 })
    }

    /// Sets whether the clients of new connections of a service are looked up in `PEERS`, and remembered in `CLIENTS`.
    pub(in crate::kernel) fn watch_clients(
        &mut self,
        service: Service,
        lists: bool,
        remembered: bool,
    ) -> Result<(), KernelError> {
        let bit = |wanted, bit| if wanted { bit } else { 0 };
        let bits = bit(lists, watch::LISTS) | bit(remembered, watch::CLIENTS);
        self.set_watch(service, watch::LISTS | watch::CLIENTS, bits)
    }

    /// Changes those bits of a service's watch that are in `mask`. The agent is the only one that sets them.
    fn set_watch(&mut self, service: Service, mask: u32, bits: u32) -> Result<(), KernelError> {
        let before = self.watches.get(&service).copied().unwrap_or(0);
        let watch = before & !mask | bits;
        if watch != 0 {
            self.know(service)?;
        }
        self.repair(service, &Repair { watch, ..Repair::new(key(service)) })?;
        match watch {
            0 => self.watches.remove(&service),
            _ => self.watches.insert(service, watch),
        };
        Ok(())
    }
}

//! Treating clients of a service by their address: gate, tracker and look together.

use super::{Kernel as _, KernelError, Linux, Look, gate, linux::lock, sys};
use crate::{
    drain::{Admission, Boot, Service},
    failpoint,
};

impl Linux {
    /// See [`Kernel::guard`](super::Kernel::guard).
    pub(super) fn begin_guard(
        &self,
        service: Service,
        admission: &Admission,
        lease_until: Boot,
    ) -> Result<(), KernelError> {
        let netns = self.namespaces.open(service.netns)?;
        let cookie = self.namespaces.cookie(service.netns)?;
        // An earlier agent has left a gate: whatever fails here, it must not open.
        let is_left = lock(&self.gates).has_rule(service);
        // Left by a drain of a namespace that is gone, and had this number.
        self.end_guard(service)?;
        // Noted first, so that whatever is done from here on can be undone.
        self.peers.put_in_force(service, admission.clone(), self.now());
        let done = self.peers.write(service, admission).and_then(|()| {
            failpoint::pass("guard: lists written");
            let remembered = admission.keep_clients().is_some();
            self.watch_clients(service, admission.has_lists(), remembered)?;
            // Again: the next look is to note all clients whose connections the tracker did not.
            self.peers.put_in_force(service, admission.clone(), self.now());
            failpoint::pass("guard: clients watched");
            lock(&self.gates).guard(service, admission, lease_until, &netns, cookie)?;
            failpoint::pass("guard: in force");
            self.sort_there(service)
        });
        if let Err(error) = done {
            if is_left {
                return Err(error);
            }
            let undone = lock(&self.gates).open(service).and_then(|()| self.end_guard(service));
            if let Err(left) = undone {
                tracing::error!(%service, error = %super::explain(&left), "lists of clients stay in force until their lease is over");
            }
            return Err(error);
        }
        gate::refill(&self.gates);
        Ok(())
    }

    /// Treats all clients alike again. The gate is open.
    pub(super) fn end_guard(&self, service: Service) -> Result<(), KernelError> {
        let Some(admission) = self.peers.in_force(service) else { return Ok(()) };
        self.watch_clients(service, false, false)?;
        self.peers.remove(service, &admission)?;
        self.peers.take_out(service);
        // Of a namespace that is gone there is nothing to be sorted.
        match self.sort_there(service) {
            Err(error) if !matches!(error, KernelError::NoNetns(_)) => {
                tracing::warn!(
                    %service, error = %super::explain(&error),
                    "connections of ignored clients stay uncounted until the next drain"
                );
            }
            _ => {}
        }
        Ok(())
    }

    /// Sets whether the tracker looks up and remembers the clients of new connections; when this returns, none is on its
    /// way that was treated the other way.
    fn watch_clients(
        &self,
        service: Service,
        lists: bool,
        remembered: bool,
    ) -> Result<(), KernelError> {
        self.tracker().watch_clients(service, lists, remembered)?;
        sys::settle();
        Ok(())
    }

    /// Counts the connections that are there as what they are now, and notes their clients.
    fn sort_there(&self, service: Service) -> Result<(), KernelError> {
        let look: Look = self.look(service.netns, Some(service.port))?;
        self.sort(service, &look).map(drop)
    }
}

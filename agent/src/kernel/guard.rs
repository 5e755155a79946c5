//! Treating clients of a service by their address: gate, tracker and look together.

use super::{Kernel as _, KernelError, Linux, Look, gate, linux::lock, sys};
use crate::drain::{Admission, Boot, Service};

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
        // Left by a drain of a namespace that is gone, and had this number.
        self.end_guard(service)?;
        // Noted first, so that whatever is done from here on can be undone.
        self.peers.put_in_force(service, admission.clone());
        let done = self.peers.write(service, admission).and_then(|()| {
            self.sort_new(service, admission, true)?;
            lock(&self.gates).guard(service, admission, lease_until, &netns, cookie)
        });
        let done = done.and_then(|()| self.sort_there(service));
        if let Err(error) = done {
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
        self.sort_new(service, &admission, false)?;
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

    /// Sets whether the tracker looks up the clients of new connections; when this returns, none is on its way that
    /// was looked up the other way.
    fn sort_new(
        &self,
        service: Service,
        admission: &Admission,
        wanted: bool,
    ) -> Result<(), KernelError> {
        if !admission.has_lists() {
            return Ok(());
        }
        self.tracker().sort_new(service, wanted)?;
        sys::settle();
        Ok(())
    }

    /// Counts the connections that are there as what they are now, and notes their clients.
    fn sort_there(&self, service: Service) -> Result<(), KernelError> {
        let look: Look = self.look(service.netns, Some(service.port))?;
        self.sort(service, &look).map(drop)
    }
}

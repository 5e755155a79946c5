//! The gate, together with what becomes of the connections that it does not let pass.

use std::{net::SocketAddr, os::fd::AsFd as _};

use tracing::{error, info, warn};

use super::{DrainError, Owner, explain, task::Task};
use crate::{
    carry::{Carrier, Route},
    drain::{Boot, Forward, NewConnections, Service},
    failpoint,
    kernel::{Kernel, KernelError, Listening},
};

/// One service and its stragglers. Blocks.
pub(super) struct Stragglers<'a> {
    pub(super) kernel: &'a dyn Kernel,
    pub(super) carrier: &'a Carrier,
    pub(super) new: &'a NewConnections,
    pub(super) service: Service,
    /// Who began the drain.
    pub(super) owner: Owner,
}

impl Stragglers<'_> {
    /// Closes the gate; who comes from then on finds whoever takes stragglers, if somebody does.
    pub(super) fn close_gate(&self, lease_until: Boot) -> Result<(), KernelError> {
        self.prepare()?;
        self.kernel.close_gate(self.service, lease_until)
    }

    /// Has somebody take stragglers, from when the gate is closed.
    pub(super) fn prepare(&self) -> Result<(), KernelError> {
        let service = self.service;
        match self.new {
            // Those who take over are found anew again and again: see Op::HandOver.
            NewConnections::Reject | NewConnections::Handoff(_) => {}
            NewConnections::Drop => {
                let listener = self.kernel.open_listener(service.netns, Listening::Silent)?;
                failpoint::pass("stragglers: listening");
                self.kernel.steer(service, &[listener.socket.as_fd()])?;
                self.carrier.keep(service, listener);
            }
            NewConnections::Forward(forward) => {
                let targets = targets(self.kernel, service, forward)?;
                let listener = self.kernel.open_listener(service.netns, Listening::Accepting)?;
                failpoint::pass("stragglers: listening");
                self.kernel.steer(service, &[listener.socket.as_fd()])?;
                failpoint::pass("stragglers: steered");
                let route =
                    Route { targets, proxy_protocol: forward.proxy_protocol, uid: self.owner.uid };
                self.carrier
                    .open(service, listener, route)
                    .map_err(|e| KernelError::op("accept stragglers of", service, e))?;
            }
        }
        Ok(())
    }

    /// The same for a gate that an earlier agent closed, if somebody is to take stragglers there. Returns why nobody
    /// does, if that is so: a closed gate that refuses for a while is better than one that opens.
    pub(super) fn take_again(&self) -> Option<String> {
        if !self.new.takes_stragglers() {
            return None;
        }
        let reason = explain(&self.prepare().err()?);
        untaken(self.service, &reason);
        Some(reason)
    }

    /// Opens the gate. Whoever was on the way to the carrier by then still gets there.
    pub(super) fn open_gate(&self) -> Result<(), KernelError> {
        self.kernel.open_gate(self.service)?;
        self.carrier.close(self.service);
        Ok(())
    }

    /// The namespace is gone, and what is carried from it can only hold its remains.
    pub(super) fn forget(&self) -> Result<(), KernelError> {
        self.carrier.abort(self.service);
        self.kernel.open_gate(self.service)
    }
}

impl Task {
    /// From now on they are not refused any more.
    pub(super) fn stragglers_taken(&mut self, service: Service) {
        let Some(entry) = self.entries.get_mut(&service) else { return };
        if entry.untaken.take().is_some() {
            info!(%service, "new connections are carried or dropped again, as asked");
            self.tell(service, None);
        }
    }

    /// The next look tries again; what stays the same is said once.
    pub(super) fn stragglers_not_taken(&mut self, service: Service, reason: String) {
        let Some(entry) = self.entries.get_mut(&service) else { return };
        if entry.untaken.as_ref() != Some(&reason) {
            untaken(service, &reason);
            entry.untaken = Some(reason);
            self.tell(service, None);
        }
    }
}

fn untaken(service: Service, reason: &str) {
    error!(%service, error = reason, "new connections cannot be carried or dropped; until that works they are refused");
}

/// Whether stragglers of the service can be carried as asked, before anything is changed.
pub(super) fn check(
    kernel: &dyn Kernel,
    service: Service,
    new: &NewConnections,
    owner: Owner,
) -> Result<(), DrainError> {
    let NewConnections::Forward(forward) = new else { return Ok(()) };
    kernel.can_act_as(owner.uid)?;
    if targets(kernel, service, forward)?.is_empty() {
        return Err(DrainError::OnlyItself(service));
    }
    // If this kernel cannot carry, the time to say so is now.
    kernel.open_listener(service.netns, Listening::Accepting).map(drop)?;
    Ok(())
}

/// The addresses but for those that are the service itself. An address that leads back here only after somebody's
/// address translation is found out by the carrier.
fn targets(
    kernel: &dyn Kernel,
    service: Service,
    forward: &Forward,
) -> Result<Vec<SocketAddr>, KernelError> {
    let mut targets = forward.targets(service.port);
    let ips: Vec<_> = targets.iter().map(|target| target.ip()).collect();
    let own = kernel.own_addresses(service.netns, &ips)?;
    targets.retain(|target| {
        let is_itself = target.port() == service.port && own.contains(&target.ip());
        if is_itself {
            warn!(%service, %target, "new connections are not carried to the service itself");
        }
        !is_itself
    });
    Ok(targets)
}

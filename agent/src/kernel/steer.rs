//! Handing the connections of a closed port to other listening sockets of its network namespace.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    sync::Mutex,
};

use drainctl_common::class;
use rustix::{fs::fstat, net::sockopt::socket_acceptconn};

use super::{
    Class, KernelError, gate::Gates, linux::lock, marks::Marks, netns::Namespaces, sys,
    tracker::Tracker,
};
use crate::{
    drain::{Boot, Service},
    failpoint,
};

/// What steering works on.
pub(super) struct Parts<'a> {
    pub(super) namespaces: &'a Namespaces,
    pub(super) gates: &'a Mutex<Gates>,
    pub(super) tracker: &'a Mutex<Tracker>,
    pub(super) marks: &'a Marks,
}

impl Parts<'_> {
    /// See [`Kernel::steer`](super::Kernel::steer).
    pub(super) fn steer(
        &self,
        service: Service,
        targets: &[BorrowedFd<'_>],
        now: Boot,
    ) -> Result<(), KernelError> {
        let netns = self.namespaces.open(service.netns)?;
        let cookie = self.namespaces.cookie(service.netns)?;
        targets.iter().try_for_each(|target| check(service, *target))?;
        let is_new = self.marks.of(service).is_none();
        let steered = self.mark(service, targets, now).and_then(|()| {
            failpoint::pass("steer: marked");
            // Only now: from here on, a connection can come with the mark.
            lock(self.gates).steer(service, targets, &netns, cookie)?;
            failpoint::pass("steer: targets in place");
            Ok(())
        });
        if steered.is_err() && is_new {
            self.end(service)?;
        }
        steered
    }

    /// Has everything that these sockets accept, or are, counted as [`Class::Steered`].
    pub(super) fn mark(
        &self,
        service: Service,
        sockets: &[BorrowedFd<'_>],
        now: Boot,
    ) -> Result<(), KernelError> {
        let mark = self.marks.begin(service, now)?;
        lock(self.tracker).steer(service, mark)?;
        sockets.iter().try_for_each(|socket| self.marks.put(service, mark, *socket))
    }

    /// Nothing is steered any more, and what was counts again; the gate is open by now.
    pub(super) fn end(&self, service: Service) -> Result<(), KernelError> {
        if self.marks.of(service).is_none() {
            return Ok(());
        }
        lock(self.tracker).steer(service, 0)?;
        failpoint::pass("steer: ending");
        // A connection may just be being established that was taken for a steered one.
        sys::settle();
        let flows = lock(self.tracker).flows_of(service)?;
        for (cookie, flow) in flows {
            if flow.service.class == class::STEERED {
                lock(self.tracker).move_to(service, cookie, Class::Counted)?;
            }
        }
        self.marks.end(service)
    }
}

/// A listener of another namespace would be accepted by the kernel, and hang the client.
fn check(service: Service, socket: BorrowedFd<'_>) -> Result<(), KernelError> {
    let refuse = |reason: String| Err(KernelError::op("add a target for", service, reason));
    if !socket_acceptconn(socket).is_ok_and(|listens| listens) {
        return refuse("it is no listening socket".into());
    }
    let netns = sys::socket_netns(socket)
        .and_then(|netns| Ok(fstat(netns.as_fd())?))
        .map_err(|e| KernelError::op("find the network namespace of a target of", service, e))?;
    if netns.st_ino != u64::from(service.netns) {
        return refuse(format!(
            "it listens in network namespace {}, and clients would hang: a target must be in the service's own",
            netns.st_ino
        ));
    }
    Ok(())
}

//! Making the tracker agree with a look: see [`Kernel::reconcile`](crate::kernel::Kernel::reconcile).

use std::collections::HashSet;

use super::Linux;
use crate::{
    drain::Service,
    kernel::{
        Class, Kernel as _, KernelError, Look,
        linux::lock,
        tracker::{Tracker, number},
    },
};

impl Linux {
    /// Takes in what the tracker misses of a look, and what was lost for want of room.
    pub(super) fn take_in(&self, service: Service, look: &Look) -> Result<u64, KernelError> {
        let misses = {
            let tracker = self.tracker();
            tracker.counts(service)?.lost > 0 || !holds_all(&tracker, look)?
        };
        if !misses {
            return Ok(0);
        }
        self.namespaces.inside(service.netns, || {
            let mut tracker = self.tracker();
            tracker.know(service)?;
            tracker.adopt()
        })
    }

    /// Drops the flows that a look taken after this snapshot of the tracker does not show.
    pub(super) fn drop_gone(&self, service: Service) -> Result<u64, KernelError> {
        let held = self.tracker().flows_of(service)?;
        if held.is_empty() {
            return Ok(0);
        }
        let there: HashSet<u64> = flows(&self.look(service.netns, Some(service.port))?).collect();
        let mut removed = 0;
        for (cookie, _) in held.iter().filter(|(cookie, _)| !there.contains(cookie)) {
            removed += u64::from(self.tracker().remove(service, *cookie)?);
        }
        Ok(removed)
    }

    /// Corrects counters that differ from the flows held. Only if nothing changed while they were counted:
    /// else a flow that comes or goes would be taken for an error.
    pub(super) fn correct(&self, service: Service) -> Result<i64, KernelError> {
        let mut tracker = self.tracker();
        let all = |tracker: &Tracker| {
            let counts = Class::ALL.map(|class| tracker.counts_of(service, class));
            counts.into_iter().collect::<Result<Vec<_>, _>>()
        };
        let before = all(&tracker)?;
        let held = tracker.flows_of(service)?;
        let after = all(&tracker)?;
        if before != after {
            return Ok(0);
        }
        let mut total = 0;
        for (class, counts) in Class::ALL.into_iter().zip(after) {
            let number = number(class);
            let held = held.iter().filter(|(_, flow)| flow.service.class == number).count();
            let wrong = held as i64 - counts.flows;
            if wrong != 0 {
                tracker.know(service)?;
                tracker.correct(service, class, wrong)?;
                total += wrong;
            }
        }
        Ok(total)
    }

    /// Has the tracker count the flows of a look in the classes that the look says.
    pub(super) fn sort(&self, service: Service, look: &Look) -> Result<u64, KernelError> {
        let mut moved = 0;
        for socket in look.sockets.iter().filter(|socket| socket.state.is_flow()) {
            let mut tracker = self.tracker();
            let is = tracker.flow(socket.cookie)?.map(|flow| flow.service.class);
            if is.is_some_and(|is| is != number(socket.class)) {
                moved += u64::from(tracker.move_to(service, socket.cookie, socket.class)?);
            }
        }
        Ok(moved)
    }

    /// Accounts for lost flows, if the tracker now holds everything that a look shows.
    pub(super) fn forgive(&self, service: Service) -> Result<(), KernelError> {
        let lost = self.tracker().counts(service)?.lost;
        if lost == 0 {
            return Ok(());
        }
        let look = self.look(service.netns, Some(service.port))?;
        let tracker = self.tracker();
        if holds_all(&tracker, &look)? && tracker.counts(service)?.lost == lost {
            lock(&self.forgiven).insert(service, lost);
        }
        Ok(())
    }
}

/// Whether the tracker holds every flow of a look.
fn holds_all(tracker: &Tracker, look: &Look) -> Result<bool, KernelError> {
    for cookie in flows(look) {
        if tracker.flow(cookie)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Cookies of all flows of a look.
fn flows(look: &Look) -> impl Iterator<Item = u64> + '_ {
    look.sockets.iter().filter(|s| s.state.is_flow()).map(|s| s.cookie)
}

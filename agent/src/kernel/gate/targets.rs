//! The listening sockets that take the connections of a closed port.

use std::{
    ops::RangeInclusive,
    os::fd::{BorrowedFd, OwnedFd},
};

use aya::maps::MapError;
use drainctl_common::gate::{Rule, RuleKey, SteerKey};

use super::Gates;
use crate::{
    drain::Service,
    kernel::{
        KernelError,
        loaded::{is_missing, os_error},
    },
};

impl Gates {
    /// Has these listening sockets take the connections that a closed gate does not let pass, in place of those
    /// that were to before. On error the gate is open, if it was not closed before.
    pub(in crate::kernel) fn steer(
        &mut self,
        service: Service,
        targets: &[BorrowedFd<'_>],
        netns: &OwnedFd,
        cookie: Option<u64>,
    ) -> Result<(), KernelError> {
        if self.attached.get(&service.netns).is_some_and(|a| a.pin.cookie != cookie) {
            self.release(service.netns);
        }
        let is_new = self.rule(service).is_none();
        if is_new {
            // Only the attached program has the slot that targets are keyed by.
            let rule = self.open_rule(service)?;
            self.set(service, rule, netns, cookie)?;
        }
        let put = self.put_targets(service, targets);
        if put.is_err() && is_new {
            self.open(service)?;
        }
        put
    }

    /// The targets first: a closed gate refuses what finds none.
    fn put_targets(
        &mut self,
        service: Service,
        targets: &[BorrowedFd<'_>],
    ) -> Result<(), KernelError> {
        let Some((key, rule)) = self.rule(service) else { return Ok(()) };
        for (index, socket) in (0_u16..).zip(targets) {
            self.targets
                .insert(SteerKey::new(key, index), *socket, 0)
                .map_err(|e| not_a_target(service, e))?;
        }
        let rule = Rule { targets: targets.len() as u32, ..rule };
        self.write(key, rule)?;
        self.note(service, rule);
        let (first, last) = (targets.len() as u16, u16::MAX);
        self.clear_targets(key, first..=last)
    }

    /// Says whether anybody but the targets serves the port. Of a gate that is not closed nothing is said: until it
    /// is, the kernel finds its listeners itself.
    pub(in crate::kernel) fn set_taken_over(
        &mut self,
        service: Service,
        taken_over: bool,
    ) -> Result<(), KernelError> {
        let Some((key, rule)) = self.rule(service) else { return Ok(()) };
        let is = taken_over && rule.targets > 0 && rule.flags & Rule::CLOSED != 0;
        let flag = if is { Rule::TAKEN_OVER } else { 0 };
        let changed = Rule { flags: rule.flags & !Rule::TAKEN_OVER | flag, ..rule };
        if changed == rule {
            return Ok(());
        }
        self.write(key, changed).map(|()| self.note(service, changed))
    }

    /// Targets that are there by now: of those that were put, some may have been closed.
    pub(in crate::kernel) fn targets(&self, service: Service) -> Result<u64, KernelError> {
        let Some((key, _)) = self.rule(service) else { return Ok(0) };
        let mut targets = 0;
        for target in self.targets.keys() {
            match target {
                Ok(target) => {
                    targets += u64::from((target.slot, target.port) == (key.slot, key.port))
                }
                Err(MapError::KeyNotFound) => {}
                Err(e) => return Err(KernelError::op("walk map TARGETS for", service, e)),
            }
        }
        Ok(targets)
    }

    pub(super) fn clear_targets(
        &mut self,
        key: RuleKey,
        which: RangeInclusive<u16>,
    ) -> Result<(), KernelError> {
        let stale: Vec<SteerKey> = self
            .targets
            .keys()
            .filter_map(Result::ok)
            .filter(|t| (t.slot, t.port) == (key.slot, key.port) && which.contains(&t.index))
            .collect();
        for target in stale {
            match self.targets.remove(&target) {
                Err(e) if !is_missing(&e) => {
                    return Err(KernelError::op("remove the targets of port", key.port, e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Why a socket cannot be a target (`sock_hash_update_common`).
fn not_a_target(service: Service, error: MapError) -> KernelError {
    let reason = match os_error(&error) {
        Some(libc::EOPNOTSUPP) => {
            "the kernel gives connections to plain TCP sockets only, and this is one of another kind, \
             for example Multipath TCP (in Go, GODEBUG=multipathtcp=0 turns that off)"
        }
        Some(libc::EBUSY) => "another program of the node has put it into a map of its own",
        _ => return KernelError::op("add a target for", service, error),
    };
    KernelError::op("add a target for", service, reason)
}

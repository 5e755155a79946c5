//! Going on with the drains of an earlier agent, and undoing what it left half-done.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use tracing::{error, info, warn};

use super::{
    carry::FORGET_AGAIN, entry::Entry, explain, record::Record, registering::Registrations,
    straggling::Stragglers, task::Task, verify::check_netns,
};
use crate::{
    carry::Carrier,
    drain::{Action, Boot, Machine, Retirement, Service, listeners},
    kernel::{Kernel, KernelError},
};

/// A drain of an earlier agent, and what is to be done first.
pub(super) struct Adopted {
    entry: Entry,
    actions: Vec<Action>,
}

/// Takes over what an earlier agent has left. When it returns, the gates of those drains are closed that are to
/// be, whoever is to take their stragglers does, and nothing else is left of others. Has to be called inside a runtime
/// of tokio. Blocks.
///
/// # Errors
/// It is not known what is there, or it could not be undone: to serve now could be a lie.
pub(super) fn adopt(kernel: &dyn Kernel, carrier: &Carrier) -> Result<Vec<Adopted>, KernelError> {
    let mut adopted = Vec::new();
    let mut dropped = Vec::new();
    for (service, text) in kernel.saved_drains()? {
        match revive(kernel, carrier, service, &text)? {
            Ok(drain) => adopted.push(drain),
            Err(reason) => {
                warn!(%service, reason, "a drain of an earlier agent is dropped");
                dropped.push(service);
            }
        }
    }
    // One that is over waits for registries only: whatever it has left in the kernel is undone.
    let drains = adopted.iter().filter(|drain| drain.entry.is_draining());
    let services: Vec<Service> = drains.map(|drain| drain.entry.service).collect();
    for service in kernel.release_others(&services)? {
        warn!(%service, "opened a gate that belonged to no drain");
    }
    // Now that nothing is left of them.
    dropped.into_iter().try_for_each(|service| kernel.forget_drain(service))?;
    Ok(adopted)
}

/// The drain, or why it cannot go on, in words.
///
/// # Errors
/// It is not known whether it can.
fn revive(
    kernel: &dyn Kernel,
    carrier: &Carrier,
    service: Service,
    text: &[u8],
) -> Result<Result<Adopted, String>, KernelError> {
    let mut record = match Record::read(text) {
        Ok(record) => record,
        Err(why) => return Ok(Err(format!("its record cannot be read: {why}"))),
    };
    // A pod that came since, with the same inode number, must not inherit the drain.
    match check_netns(kernel, service.netns, record.netns_cookie) {
        Err(KernelError::NoNetns(_)) => return Ok(Err("its network namespace is gone".into())),
        known => known?,
    }
    let may_be_another = record.netns_cookie.is_none() && !record.standing.is_over();
    if may_be_another && !is_the_same(kernel, service, &record)? {
        let reason = "this kernel has no namespace cookies, and none of its listeners is there";
        let Some(over) = record.standing.over() else { return Ok(Err(reason.into())) };
        warn!(%service, reason, "a drain of an earlier agent is over; registries are told so");
        record.standing = over;
    }
    let now = kernel.now();
    // The kernel goes on treating clients by their address, and its layer here has to know it too; a gate that is to be
    // closed is, if all is well. If either fails, not to start is better than to open the gate.
    // Of a drain whose lease is over too: what its end takes back must be known.
    if !record.standing.is_over() && !record.standing.admission().is_empty() {
        kernel.guard(service, record.standing.admission(), record.standing.guarded_until())?;
    }
    let (mut takers, mut untaken) = (BTreeSet::new(), None);
    if let Some(until) = record.standing.closed_until().filter(|until| *until > now) {
        // First, so that the gate never refuses whom it is to give to somebody. Until it is closed, the gate of an
        // agent of another version is, and goes on giving them to whom it knows.
        takers = hand_over_again(kernel, service, &record);
        let (new, owner) = (record.standing.new_connections(), record.owner);
        untaken = Stragglers { kernel, carrier, new, service, owner }.take_again();
        kernel.close_gate(service, until)?;
    }
    let (machine, actions) = Machine::adopt(record.standing.clone(), now);
    info!(%service, phase = machine.phase().name(), "going on with a drain of an earlier agent");
    let mut entry = entry(service, machine, record, text);
    (entry.takers, entry.untaken) = (takers, untaken);
    Ok(Ok(Adopted { entry, actions }))
}

/// Gates of an earlier agent know who takes over, but not our own ones that succeed those of another version.
fn hand_over_again(kernel: &dyn Kernel, service: Service, record: &Record) -> BTreeSet<u64> {
    let handoff = record.standing.new_connections().handoff();
    let takers = handoff.map_or_else(|| Ok(BTreeSet::new()), |to| kernel.hand_over(service, to));
    takers.unwrap_or_else(|error| {
        // Nobody listens there just now, for example. It is tried again and again, and told then if it stays so.
        info!(%service, error = explain(&error), "nobody is found yet who takes over new connections");
        BTreeSet::new()
    })
}

/// Whether a socket that listened at the drain's start still does, whose cookie is never reused.
fn is_the_same(
    kernel: &dyn Kernel,
    service: Service,
    record: &Record,
) -> Result<bool, KernelError> {
    let now = listeners(&kernel.look(service.netns, Some(service.port))?);
    Ok(record.listeners.as_ref().is_some_and(|before| !before.is_disjoint(&now)))
}

fn entry(service: Service, machine: Machine, record: Record, text: &[u8]) -> Entry {
    let spec = machine.spec().clone();
    let mut entry = Entry::new(service, spec, record.owner, 0);
    entry.machine = machine;
    entry.netns_cookie = record.netns_cookie;
    entry.listeners = record.listeners;
    entry.ledger = Arc::new(Mutex::new(Retirement::resume(record.report.clone(), record.reported)));
    entry.report = record.report;
    entry.reported = record.reported;
    entry.saved = Some(text.to_vec());
    entry.registrations = Registrations::keeping(record.registries);
    entry
}

impl Task {
    /// Begins to carry them out.
    pub(super) fn resume(&mut self, drains: Vec<Adopted>) {
        for Adopted { mut entry, actions } in drains {
            self.epochs += 1;
            (entry.epoch, entry.group) = (self.epochs, self.epochs);
            let service = entry.service;
            self.entries.insert(service, entry);
            self.carry_out_all(service, actions);
            // Before any look of this agent is judged.
            self.held_until(service);
        }
    }

    /// Has the next agent find the drain of this service as it is now. Before anything is done about it: what was
    /// begun is then repeated, and nothing is done that nobody remembers.
    pub(super) fn save(&mut self, service: Service) {
        let Some(entry) = self.entries.get_mut(&service) else { return };
        let text = Record::of(entry).map(|record| record.text());
        if entry.saved == text {
            return;
        }
        let done = match &text {
            Some(text) => self.kernel.save_drain(service, text),
            None => self.kernel.forget_drain(service),
        };
        match done {
            Ok(()) => entry.saved = text,
            // The next change tries again, and if there is none any more, time.
            Err(error) => {
                let error = explain(&error);
                error!(%service, error, "the drain would not survive the end of this agent");
            }
        }
    }

    /// Tries again to have the next agent find nothing of a drain that is over.
    pub(super) fn forget_again(&mut self, service: Service) {
        self.save(service);
        let now = self.now();
        if let Some(entry) = self.entries.get_mut(&service) {
            let over = entry.saved.as_ref().filter(|_| entry.machine.standing().is_none());
            entry.wake_at = over.map(|_| now + FORGET_AGAIN);
        }
    }

    pub(super) fn reported(&mut self, service: Service, at: Boot) {
        if let Some(entry) = self.entries.get_mut(&service) {
            entry.reported = at;
        }
        self.save(service);
    }
}

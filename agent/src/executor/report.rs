//! Services as they are now, for those who ask.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Status, entry::Entry, explain};
use crate::{
    drain::{Boot, Counts, Exempt, Lingerers, NewConnections, Service, StateName, full_map},
    kernel::{Admitted, Kernel, KernelError, Look, Steered, by_port},
};

/// What was seen of a service.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) service: Service,
    pub(super) counts: Counts,
    exempt: Exempt,
    listeners: usize,
    rejected: u64,
    admitted: Admitted,
    steered: Steered,
    accepted: u64,
    last_new: Option<Boot>,
    unknown: Option<String>,
}

/// A service to look at, with its memory of lingering connections if it is draining.
pub(super) type Asked = (Service, Option<Arc<Mutex<Lingerers>>>);

/// Looks at all services, each namespace once. Blocks.
pub(super) fn look_at(kernel: &dyn Kernel, asked: &[Asked]) -> Vec<Seen> {
    let mut ports: HashMap<u32, Vec<u16>> = HashMap::new();
    for (service, _) in asked {
        ports.entry(service.netns).or_default().push(service.port);
    }
    let look_of = |(netns, ports): (u32, Vec<u16>)| {
        let port = ports.first().copied().filter(|_| ports.len() == 1);
        (netns, kernel.look(netns, port).map(by_port).map_err(|error| explain(&error)))
    };
    let looks: HashMap<u32, Result<HashMap<u16, Look>, String>> =
        ports.into_iter().map(look_of).collect();
    let nothing = Look::default();
    asked
        .iter()
        .map(|(service, lingerers)| {
            let look = match looks.get(&service.netns) {
                Some(Ok(looks)) => Ok(looks.get(&service.port).unwrap_or(&nothing)),
                Some(Err(reason)) => Err(reason.clone()),
                None => Err("no look was taken".to_owned()),
            };
            see(kernel, *service, look, lingerers.as_deref())
        })
        .collect()
}

/// What this look shows of the service, and what else is known of it now.
pub(super) fn see(
    kernel: &dyn Kernel,
    service: Service,
    look: Result<&Look, String>,
    lingerers: Option<&Mutex<Lingerers>>,
) -> Seen {
    let nothing = Look::default();
    let (look, mut unknown) = match look {
        Ok(look) => (look, None),
        Err(reason) => (&nothing, Some(reason)),
    };
    let now = kernel.now();
    let lingering = match lingerers {
        Some(known) => known.lock().unwrap_or_else(PoisonError::into_inner).count(look, now),
        None => Lingerers::default().count(look, now),
    };
    let mut or_unknown = |error: KernelError| {
        unknown.get_or_insert(explain(&error));
    };
    let tracked = kernel.tracked(service).map_err(&mut or_unknown).unwrap_or_default();
    let rejected = kernel.rejected(service).map_err(&mut or_unknown).unwrap_or_default();
    let admitted = kernel.admitted(service).map_err(&mut or_unknown).unwrap_or_default();
    let steered = kernel.steered(service).map_err(&mut or_unknown).unwrap_or_default();
    let unknown = unknown.or_else(|| full_map(&tracked));
    Seen {
        service,
        counts: Counts::of(look, lingering),
        exempt: Exempt::of(look),
        listeners: look.listeners.len(),
        rejected,
        admitted,
        steered,
        accepted: tracked.accepted,
        last_new: tracked.last_new,
        unknown,
    }
}

/// Puts what was seen and where the drain stands together. `drained` is not said of a service in which
/// something was seen: its machine has a look of its own under way then.
pub(super) fn status(seen: Seen, entry: Option<&Entry>, now: Boot) -> Status {
    let registries = entry.map(|entry| entry.registrations.view()).unwrap_or_default();
    let entry = entry.filter(|entry| entry.is_draining());
    let state = match entry.map(|entry| entry.machine.state()) {
        None => StateName::Serving,
        Some(StateName::Drained) if !seen.counts.is_zero() => {
            let expired = entry.is_some_and(|entry| now >= entry.machine.deadline());
            if expired { StateName::Expired } else { StateName::Rejecting }
        }
        Some(state) => state,
    };
    let is_drop = |entry: &Entry| *entry.machine.spec().new_connections() == NewConnections::Drop;
    // That listener answers nobody.
    let dropped = if entry.is_some_and(is_drop) { seen.steered.attempts } else { 0 };
    let unknown = entry.and_then(|entry| entry.machine.unknown().map(str::to_owned));
    Status {
        service: seen.service,
        state,
        flows: seen.counts.flows,
        handshakes: seen.counts.handshakes,
        lingering: seen.counts.lingering,
        exempt: seen.exempt,
        rejected: seen.rejected + dropped,
        admitted: seen.admitted,
        steered: seen.steered,
        accepted: seen.accepted,
        last_new: seen.last_new,
        listeners: seen.listeners,
        unknown: seen.unknown.or(unknown),
        holds: Vec::new(),
        registries,
        ended: None,
        drain: entry.map(Entry::view),
    }
}

//! What holds services: kept in the kernel too, so that no agent says "drained" that does not know of it.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::{DrainError, Owner, explain, task::Task, verify::check_netns};
use crate::{
    drain::{Boot, Event, HOLD_TTL, Hold, HoldName, Holds, Phase, Service},
    kernel::{Kernel, KernelError},
};

/// Most services of one network namespace that something may hold at once; in the host's so many times as many.
const MOST_HELD: usize = 128;
const HOST: usize = 8;

/// Which form a record has; see [`super::record`].
const FORMAT: u32 = 1;

/// Asks for a hold, or for more time for one that is there.
#[derive(Clone, Debug)]
pub struct HoldRequest {
    /// What is to be held.
    pub service: Service,
    /// Its name.
    pub name: HoldName,
    /// How long it is to live from now on, within the limits of [`crate::drain::check_ttl`].
    pub ttl: Duration,
    /// Whether it is to be refused if the service is draining and it is not there yet.
    pub unless_draining: bool,
    /// Whose it is to be.
    pub owner: Owner,
    /// Of the namespace of the service, asked for just now.
    pub netns_cookie: Option<u64>,
}

/// The holds of one service, as they are saved too.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    format: u32,
    /// Of the namespace in which they were set: its inode number may be another one's by now.
    netns_cookie: Option<u64>,
    holds: Holds<Owner>,
}

/// Every service that something holds.
#[derive(Debug, Default)]
pub(super) struct Held(HashMap<Service, Record>);

impl Held {
    /// Those that an earlier agent knew. Blocks.
    ///
    /// # Errors
    /// It is not known which there are: nobody may be told "drained" then.
    pub(super) fn adopt(kernel: &dyn Kernel) -> Result<Self, KernelError> {
        let mut held = HashMap::new();
        for (service, text) in kernel.saved_holds()? {
            let now = kernel.now();
            let mut record = Record::read(&text).unwrap_or_else(|why| {
                error!(%service, why, "the holds of this service cannot be read: it is held for a while");
                Record::unreadable(kernel.netns_cookie(service.netns).ok().flatten(), now)
            });
            record.holds.expire(now);
            let is_there = match check_netns(kernel, service.netns, record.netns_cookie) {
                Err(KernelError::NoNetns(_)) => false,
                known => known.map(|()| true)?,
            };
            if is_there && !record.holds.is_empty() {
                held.insert(service, record);
            } else {
                kernel.save_holds(service, None)?;
            }
        }
        Ok(Self(held))
    }

    /// Whether something holds the service.
    pub(super) fn is_held(&self, service: Service, now: Boot) -> bool {
        self.until(service).is_some_and(|until| now < until)
    }

    /// What holds the service now, by name.
    pub(super) fn of(&self, service: Service, now: Boot) -> Vec<(HoldName, Hold<Owner>)> {
        let holds = self.0.get(&service).into_iter().flat_map(|record| record.holds.iter());
        let current = holds.filter(|(_, hold)| now < hold.until);
        current.map(|(name, hold)| (name.clone(), *hold)).collect()
    }

    /// Every service that something holds.
    pub(super) fn services(&self) -> Vec<Service> {
        let mut services: Vec<Service> = self.0.keys().copied().collect();
        services.sort();
        services
    }

    /// When the next hold ends by itself.
    pub(super) fn next_end(&self) -> Option<Boot> {
        self.0.values().filter_map(|record| record.holds.first_end()).min()
    }

    fn until(&self, service: Service) -> Option<Boot> {
        self.0.get(&service)?.holds.until()
    }
}

impl Record {
    fn new(netns_cookie: Option<u64>) -> Self {
        Self { format: FORMAT, netns_cookie, holds: Holds::default() }
    }

    /// Somebody held it, and it cannot be told who, and until when.
    fn unreadable(netns_cookie: Option<u64>, now: Boot) -> Self {
        let mut record = Self::new(netns_cookie);
        if let Ok(name) = "unreadable".parse() {
            record.holds.set(name, now, now + HOLD_TTL, Owner { uid: 0, netns: 0 });
        }
        record
    }

    fn read(text: &[u8]) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let known = record.format == FORMAT;
        known.then_some(record).ok_or_else(|| format!("this agent knows format {FORMAT} only"))
    }

    fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Task {
    /// Sets or renews a hold; nothing has changed on error. Returns whether it was there already.
    pub(super) fn hold(&mut self, request: HoldRequest) -> Result<bool, DrainError> {
        let HoldRequest { service, name, ttl, owner, netns_cookie, .. } = &request;
        let now = self.now();
        self.expire_holds();
        self.forget_holds_of_another(*service, *netns_cookie);
        let known = self.held.0.get(service).cloned();
        let mut record = known.unwrap_or_else(|| Record::new(*netns_cookie));
        let renewed = record.holds.get(name).is_some();
        if !renewed {
            self.may_hold(&request, &record.holds)?;
        }
        record.holds.set(name.clone(), now, now + *ttl, *owner);
        // First, so that nobody is told of a hold that the next agent would not know.
        let text = record.text();
        if self.kernel.save_holds(*service, Some(&text)).is_err() {
            // It may have been full.
            self.forget_holds_of_the_gone();
            self.kernel.save_holds(*service, Some(&text))?;
        }
        if !renewed {
            info!(%service, %name, ?ttl, uid = owner.uid, "held");
        }
        self.held.0.insert(*service, record);
        self.held_until(*service);
        Ok(renewed)
    }

    fn may_hold(&mut self, request: &HoldRequest, holds: &Holds<Owner>) -> Result<(), DrainError> {
        let service = request.service;
        if self.phase(service) == Phase::Drained {
            return Err(DrainError::HoldTooLate(service));
        }
        if request.unless_draining && self.is_draining(service) {
            return Err(DrainError::HoldWhileDraining(service));
        }
        let times = if service.netns == self.kernel.host_netns() { HOST } else { 1 };
        // Those of a namespace that is gone, and had the same number, are no obstacle.
        self.forget_holds_in(service.netns, request.netns_cookie);
        let here = self.held.0.keys().filter(|other| other.netns == service.netns).count();
        if !holds.has_room() || (holds.is_empty() && here >= MOST_HELD * times) {
            return Err(DrainError::TooManyHolds { service, services: MOST_HELD * times });
        }
        Ok(())
    }

    /// Ends a hold. Returns whether there was one.
    pub(super) fn release(
        &mut self,
        service: Service,
        name: &HoldName,
    ) -> Result<bool, DrainError> {
        self.expire_holds();
        let Some(mut record) = self.held.0.get(&service).cloned() else { return Ok(false) };
        if !record.holds.release(name) {
            return Ok(false);
        }
        self.keep_holds(service, record)?;
        info!(%service, %name, "released");
        Ok(true)
    }

    /// Ends holds whose time is over. What cannot be forgotten is expired for the next agent too.
    pub(super) fn expire_holds(&mut self) {
        let now = self.now();
        let due = |record: &Record| record.holds.first_end().is_some_and(|end| now >= end);
        let due: Vec<Service> =
            self.held.0.iter().filter(|(_, record)| due(record)).map(|(of, _)| *of).collect();
        for service in due {
            let Some(mut record) = self.held.0.get(&service).cloned() else { continue };
            for name in record.holds.expire(now) {
                warn!(%service, %name, "a hold was neither renewed nor released, and its time is over");
            }
            if let Err(error) = self.keep_holds(service, record.clone()) {
                let error = explain(&error);
                error!(%service, error, "holds that are over cannot be forgotten");
                self.put_holds(service, record);
            }
        }
    }

    /// What holds a namespace that is gone does not hold the one that has its number now.
    pub(super) fn forget_holds_of_another(&mut self, service: Service, netns_cookie: Option<u64>) {
        let is_another = |record: &Record| record.netns_cookie != netns_cookie;
        if self.held.0.get(&service).is_some_and(is_another) {
            self.forget_holds(service, netns_cookie);
        }
    }

    fn forget_holds(&mut self, service: Service, netns_cookie: Option<u64>) {
        let nothing = Record::new(netns_cookie);
        if let Err(error) = self.keep_holds(service, nothing.clone()) {
            let error = explain(&error);
            error!(%service, error, "holds of a namespace that is gone cannot be forgotten");
            self.put_holds(service, nothing);
        }
    }

    /// As [`Self::forget_holds_of_another`], for all services of a namespace.
    pub(super) fn forget_holds_in(&mut self, netns: u32, netns_cookie: Option<u64>) {
        let services = self.held.services().into_iter();
        for service in services.filter(|service| service.netns == netns) {
            self.forget_holds_of_another(service, netns_cookie);
        }
    }

    /// Drops what holds services of namespaces that are gone.
    pub(super) fn forget_holds_of_the_gone(&mut self) {
        let all: BTreeSet<_> =
            self.held.0.iter().map(|(of, held)| (of.netns, held.netns_cookie)).collect();
        for (netns, cookie) in all {
            let known = check_netns(&*self.kernel, netns, cookie);
            if matches!(known, Err(KernelError::NoNetns(_))) {
                for service in self.held.services() {
                    let is_its = |record: &Record| record.netns_cookie == cookie;
                    if service.netns == netns && self.held.0.get(&service).is_some_and(is_its) {
                        self.forget_holds(service, cookie);
                    }
                }
            }
        }
    }

    fn keep_holds(&mut self, service: Service, record: Record) -> Result<(), KernelError> {
        let text = (!record.holds.is_empty()).then(|| record.text());
        self.kernel.save_holds(service, text.as_deref())?;
        self.put_holds(service, record);
        Ok(())
    }

    fn put_holds(&mut self, service: Service, record: Record) {
        if record.holds.is_empty() {
            self.held.0.remove(&service);
        } else {
            self.held.0.insert(service, record);
        }
        self.held_until(service);
    }

    /// The service's drain, if there is one, and all who follow it learn what holds it.
    pub(super) fn held_until(&mut self, service: Service) {
        if self.is_draining(service) {
            let until = self.held.until(service);
            self.step(service, Event::Held(until));
        }
        self.tell(service, None);
    }
}

#[cfg(test)]
#[path = "hold_tests.rs"]
mod tests;

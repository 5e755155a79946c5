//! What a waiting command knows, and what follows from it. Pure: events and the time come in, a verdict
//! comes out.

use std::time::Duration;

use tokio::time::Instant;

use super::args::Until;
use crate::api::protocol::{
    AtDeadline, DrainStatus, NewConnections, ServiceStatus, StateName, StreamEvent,
};

/// How long after its deadline the agent may take to say what became of a drain.
const VERDICT_GRACE: Duration = Duration::from_secs(2);

/// The same where it resets what remains at the deadline, and only then looks whether the port is empty.
const ABORT_GRACE: Duration = Duration::from_secs(10);

/// Where new connections are carried to a peer: for how long none must have come before the end. What comes later finds
/// the namespace gone, if it belongs to a pod.
const CARRY_QUIET: Duration = Duration::from_secs(1);

/// How long after a service was seen serving its reason may take to arrive.
const REASON_GRACE: Duration = Duration::from_millis(250);

/// What the waiting is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// The end of a drain that we asked for: the agent keeps its deadline.
    Drain,
    /// A state, until a deadline of our own.
    Wait(Until, Instant),
}

/// How the waiting ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Every service is in the state that was waited for.
    Reached,
    /// The deadline passed, and the counts are known not to be zero (or the state not to be reached).
    Remaining,
    /// It cannot be known; why.
    Unknown(String),
    /// The deadline passed while the gate had to stay open: it serves again; why.
    GaveUp(String),
    /// The drain is over without the service having been drained; why.
    Ended(String),
}

/// The services of a drain, as last heard of.
#[derive(Debug)]
pub(super) struct Watched {
    goal: Goal,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    status: ServiceStatus,
    /// Of the service's drain, by our clock.
    deadline: Instant,
    /// Whether we have seen it draining.
    was_draining: bool,
    /// When we last heard of a connection that was carried, or of the drain for the first time.
    carried_at: Instant,
    /// Since when it is seen serving after it drained.
    lifted: Option<Instant>,
    /// Why its drain ended, and whether at its deadline.
    ended: Option<(String, bool)>,
}

impl Entry {
    fn new(status: ServiceStatus, now: Instant) -> Self {
        let mut entry = Self {
            deadline: now,
            carried_at: now,
            was_draining: false,
            lifted: None,
            ended: None,
            status: status.clone(),
        };
        entry.update(status, now);
        entry
    }

    fn update(&mut self, status: ServiceStatus, now: Instant) {
        if let Some(drain) = &status.drain {
            let left = Duration::from_millis(drain.deadline_in_ms);
            self.deadline = now.checked_add(left).unwrap_or(self.deadline);
        }
        let attempts = |status: &ServiceStatus| status.drain.as_ref().map_or(0, |d| d.handed_over);
        if carried(&status) > 0 || attempts(&status) != attempts(&self.status) {
            self.carried_at = now;
        }
        if status.state == StateName::Serving {
            self.lifted = self.lifted.or(self.was_draining.then_some(now));
        } else {
            self.was_draining = true;
            self.lifted = None;
        }
        self.status = status;
    }
}

impl Watched {
    /// Starts with these services. For [`Goal::Drain`] they were all accepted as draining.
    pub(super) fn new(goal: Goal, services: Vec<ServiceStatus>, now: Instant) -> Self {
        let mut entries: Vec<_> =
            services.into_iter().map(|status| Entry::new(status, now)).collect();
        if goal == Goal::Drain {
            for entry in &mut entries {
                entry.was_draining = true;
                entry.lifted = (entry.status.state == StateName::Serving).then_some(now);
                entry.ended = past_end(&entry.status);
            }
        }
        Self { goal, entries }
    }

    /// Takes in an event. Returns the service if its state changed; events of other services are ignored.
    pub(super) fn apply(&mut self, event: StreamEvent, now: Instant) -> Option<&ServiceStatus> {
        let (status, reason) = match event {
            StreamEvent::Status { service } => (service, None),
            StreamEvent::Ended { service, reason, at_deadline } => {
                (service, Some((reason, at_deadline)))
            }
        };
        let entry = self.entries.iter_mut().find(|entry| entry.status.id == status.id)?;
        let before = entry.status.state;
        entry.update(status, now);
        // It may have ended before anybody listened. Whoever waits for a new drain does not mean that one.
        let past = || past_end(&entry.status).filter(|_| self.goal == Goal::Drain);
        let reason = reason.or_else(past);
        // A drain that begins after another one ended is a new one.
        entry.ended = reason.or(entry.ended.take().filter(|_| entry.lifted.is_some()));
        (entry.status.state != before).then_some(&entry.status)
    }

    /// The services as last heard of.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceStatus> + Clone {
        self.entries.iter().map(|entry| &entry.status)
    }

    /// The ids to ask the event stream for.
    pub(super) fn ids(&self) -> Vec<String> {
        self.services().map(|service| service.id.clone()).collect()
    }

    /// When the deadline is, by our clock. After it a lost agent is not waited for any more.
    pub(super) fn deadline(&self, now: Instant) -> Instant {
        match self.goal {
            Goal::Wait(_, deadline) => deadline,
            Goal::Drain => self.entries.iter().map(|entry| entry.deadline).max().unwrap_or(now),
        }
    }

    /// Until when to wait for the next event before [`Watched::overdue`] is the verdict. Once the deadline has
    /// passed each event begins that time anew: as long as the agent says that it is not done, it is waited for.
    pub(super) fn patience(&self, now: Instant) -> Instant {
        let late = match self.goal {
            Goal::Wait(..) => self.deadline(now),
            Goal::Drain if self.aborts() => self.deadline(now) + ABORT_GRACE,
            // The agent has said all that it will say.
            Goal::Drain if self.drained().is_some() => {
                self.quiet_at().filter(|at| *at > now).unwrap_or_else(|| self.deadline(now))
            }
            Goal::Drain => self.deadline(now) + VERDICT_GRACE,
        };
        match self.lifted() {
            Some(lifted) if self.verdict(now).is_none() => late.min(lifted + REASON_GRACE),
            _ => late,
        }
    }

    /// What is known for sure, if anything is.
    pub(super) fn verdict(&self, now: Instant) -> Option<Verdict> {
        match self.goal {
            Goal::Drain => self.ended().or_else(|| self.over(now)),
            Goal::Wait(Until::Drained, _) => self.ended().or_else(|| self.drained()),
            Goal::Wait(Until::Serving, _) => self
                .entries
                .iter()
                .all(|entry| entry.status.state == StateName::Serving || entry.ended.is_some())
                .then_some(Verdict::Reached),
        }
    }

    /// The verdict when no event has come until [`Watched::patience`].
    pub(super) fn overdue(&self) -> Verdict {
        if let Some(entry) = self.entries.iter().find(|entry| entry.lifted.is_some())
            && !matches!(self.goal, Goal::Wait(Until::Serving, _))
        {
            return Verdict::Ended(format!("port {} is serving again", entry.status.port));
        }
        match (self.unknown(), self.goal) {
            (Some(why), _) => Verdict::Unknown(why),
            (None, Goal::Drain) if self.carried() > 0 => Verdict::Remaining,
            (None, Goal::Drain) => {
                Verdict::Unknown("the agent did not say by the deadline what became of it".into())
            }
            (None, Goal::Wait(..)) => Verdict::Remaining,
        }
    }

    /// The verdict when the agent says that it knows no such service.
    pub(super) fn forgotten(&self) -> Verdict {
        Verdict::Ended("the agent knows neither the service nor its drain any more".into())
    }

    /// Connections that the agent carries to a peer.
    fn carried(&self) -> u64 {
        self.services().map(carried).sum()
    }

    /// Whether connections are reset at the deadline.
    fn aborts(&self) -> bool {
        let mut drains = self.services().filter_map(|service| service.drain.as_ref());
        drains.any(|drain| drain.retire.at_deadline == AtDeadline::Abort)
    }

    /// The earliest service seen serving after it drained, whose reason has not arrived.
    fn lifted(&self) -> Option<Instant> {
        if matches!(self.goal, Goal::Wait(Until::Serving, _)) {
            return None;
        }
        self.entries.iter().filter_map(|entry| entry.lifted).min()
    }

    fn ended(&self) -> Option<Verdict> {
        let entry = self.entries.iter().find(|entry| entry.ended.is_some())?;
        let (reason, at_deadline) = entry.ended.clone().unwrap_or_default();
        let why = format!("port {}: {reason}", entry.status.port);
        Some(if at_deadline { Verdict::GaveUp(why) } else { Verdict::Ended(why) })
    }

    fn all_are(&self, states: &[StateName]) -> bool {
        self.services().all(|service| states.contains(&service.state))
    }

    /// Whether all are drained.
    fn drained(&self) -> Option<Verdict> {
        // Drained and unknown contradict each other: not to be taken for zero.
        let proven = || self.unknown().map_or(Verdict::Reached, Verdict::Unknown);
        self.all_are(&[StateName::Drained]).then(proven)
    }

    /// Whether all are drained or expired. A namespace must not go before what is carried has ended.
    fn over(&self, now: Instant) -> Option<Verdict> {
        if let Some(verdict) = self.drained() {
            let quiet = self.quiet_at().is_none_or(|at| now >= at);
            return (self.carried() == 0 && quiet).then_some(verdict);
        }
        let final_states = [StateName::Drained, StateName::Expired];
        let remaining = || self.unknown().map_or(Verdict::Remaining, Verdict::Unknown);
        self.all_are(&final_states).then(remaining)
    }

    /// Once nothing is carried: from when on nothing has been for long enough. None where nothing ever is.
    fn quiet_at(&self) -> Option<Instant> {
        let forwarding = self.entries.iter().filter(|entry| forwards(&entry.status));
        forwarding.map(|entry| entry.carried_at + CARRY_QUIET).max().filter(|_| self.carried() == 0)
    }

    fn unknown(&self) -> Option<String> {
        self.services().find_map(|service| {
            let why = service.unknown.as_ref()?;
            Some(format!("port {}: {why}", service.port))
        })
    }
}

/// Why its newest drain ended, and whether at its deadline, as far as the agent remembers.
fn past_end(service: &ServiceStatus) -> Option<(String, bool)> {
    let ended = service.ended.as_ref().filter(|_| service.state == StateName::Serving)?;
    Some((ended.reason.clone(), ended.at_deadline))
}

/// Connections of this service that the agent carries to a peer.
pub(super) fn carried(service: &ServiceStatus) -> u64 {
    if forwards(service) { service.steered } else { 0 }
}

fn forwards(service: &ServiceStatus) -> bool {
    let forwards = |drain: &DrainStatus| matches!(drain.new, NewConnections::Forward(_));
    service.drain.as_ref().is_some_and(forwards)
}

#[cfg(test)]
#[path = "watched_tests.rs"]
mod tests;

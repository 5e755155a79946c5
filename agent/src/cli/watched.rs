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
    /// Since when it is seen serving after it drained.
    lifted: Option<Instant>,
    /// Why its drain ended, and whether at its deadline.
    ended: Option<(String, bool)>,
}

impl Entry {
    fn new(status: ServiceStatus, now: Instant) -> Self {
        let mut entry = Self {
            deadline: now,
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
            Goal::Drain if self.drained(false).is_some() => self.deadline(now),
            Goal::Drain => self.deadline(now) + VERDICT_GRACE,
        };
        match self.lifted() {
            Some(lifted) if self.verdict().is_none() => late.min(lifted + REASON_GRACE),
            _ => late,
        }
    }

    /// What is known for sure, if anything is.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        match self.goal {
            Goal::Drain => self.ended().or_else(|| self.drained(true)),
            Goal::Wait(Until::Drained, _) => self.ended().or_else(|| self.drained(false)),
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

    /// Whether all are drained; or, if `expired_is_final`, either drained or expired.
    fn drained(&self, expired_is_final: bool) -> Option<Verdict> {
        let all = |states: &[StateName]| self.services().all(|s| states.contains(&s.state));
        // The service is drained, but its namespace must not go before they have ended.
        if expired_is_final && all(&[StateName::Drained]) && self.carried() > 0 {
            return None;
        }
        if all(&[StateName::Drained]) {
            // Drained and unknown contradict each other: not to be taken for zero.
            return Some(self.unknown().map_or(Verdict::Reached, Verdict::Unknown));
        }
        if expired_is_final && all(&[StateName::Drained, StateName::Expired]) {
            return Some(self.unknown().map_or(Verdict::Remaining, Verdict::Unknown));
        }
        None
    }

    fn unknown(&self) -> Option<String> {
        self.services().find_map(|service| {
            let why = service.unknown.as_ref()?;
            Some(format!("port {}: {why}", service.port))
        })
    }
}

/// Connections of this service that the agent carries to a peer.
pub(super) fn carried(service: &ServiceStatus) -> u64 {
    let forwards = |drain: &DrainStatus| matches!(drain.new, NewConnections::Forward(_));
    if service.drain.as_ref().is_some_and(forwards) { service.steered } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::protocol::Forward, cli::fake::service};
    use StateName::{Drained, Expired, Rejecting, Serving, Settling};

    fn unknown(mut status: ServiceStatus) -> ServiceStatus {
        status.unknown = Some("map full".into());
        status
    }

    #[test]
    fn verdicts_of_a_drain() {
        let table = [
            ("settling goes on", vec![service(1, Settling)], None),
            ("rejecting goes on", vec![service(1, Rejecting)], None),
            ("drained", vec![service(1, Drained)], Some(Verdict::Reached)),
            ("expired", vec![service(1, Expired)], Some(Verdict::Remaining)),
            ("one of two", vec![service(1, Drained), service(2, Rejecting)], None),
            ("expired waits for the other", vec![service(1, Expired), service(2, Rejecting)], None),
            ("mixed", vec![service(1, Expired), service(2, Drained)], Some(Verdict::Remaining)),
            ("serving waits for its reason", vec![service(1, Serving)], None),
            (
                "expired and unknown",
                vec![unknown(service(1, Expired))],
                Some(Verdict::Unknown("port 1: map full".into())),
            ),
            (
                "drained and unknown is not zero",
                vec![unknown(service(1, Drained))],
                Some(Verdict::Unknown("port 1: map full".into())),
            ),
            ("unknown goes on until the deadline", vec![unknown(service(1, Rejecting))], None),
        ];
        for (what, services, verdict) in table {
            let watched = Watched::new(Goal::Drain, services, Instant::now());
            assert_eq!(watched.verdict(), verdict, "{what}");
        }
    }

    #[test]
    fn an_end_is_told_with_its_reason() {
        let now = Instant::now();
        let mut watched = Watched::new(Goal::Drain, vec![service(1, Rejecting)], now);
        assert!(watched.apply(StreamEvent::Status { service: service(1, Serving) }, now).is_some());
        assert_eq!(watched.verdict(), None);
        assert_eq!(watched.patience(now), now + REASON_GRACE);
        assert_eq!(watched.overdue(), Verdict::Ended("port 1 is serving again".into()));
        let ended = StreamEvent::Ended {
            service: service(1, Serving),
            reason: "undrained".into(),
            at_deadline: false,
        };
        watched.apply(ended, now);
        assert_eq!(watched.verdict(), Some(Verdict::Ended("port 1: undrained".into())));
    }

    #[test]
    fn an_agent_that_says_nothing_by_the_deadline_is_unknown() {
        let now = Instant::now();
        let watched = Watched::new(Goal::Drain, vec![service(1, Rejecting)], now);
        assert_eq!(watched.patience(now), now + Duration::from_secs(25) + VERDICT_GRACE);
        assert!(matches!(watched.overdue(), Verdict::Unknown(_)));
    }

    #[test]
    fn an_agent_that_resets_connections_at_the_deadline_gets_the_time_for_it() {
        let now = Instant::now();
        let mut aborting = service(1, Rejecting);
        let drain = aborting.drain.as_mut().unwrap();
        (drain.retire.at_deadline, drain.deadline_in_ms) = (AtDeadline::Abort, 0);
        let mut watched = Watched::new(Goal::Drain, vec![aborting.clone()], now);
        assert_eq!(watched.verdict(), None, "rejecting at the deadline is no verdict");
        assert_eq!(watched.patience(now), now + ABORT_GRACE);
        let later = now + Duration::from_secs(1);
        watched.apply(StreamEvent::Status { service: aborting.clone() }, later);
        assert_eq!(watched.patience(later), later + ABORT_GRACE, "it is still at it");
        aborting.state = Drained;
        watched.apply(StreamEvent::Status { service: aborting }, later);
        assert_eq!(watched.verdict(), Some(Verdict::Reached));
    }

    #[test]
    fn a_drain_waits_for_what_is_carried_too() {
        let now = Instant::now();
        let mut carrying = service(1, Drained);
        let to = vec!["10.0.0.2".parse().unwrap()];
        let forward = Forward { to, proxy_protocol: false };
        carrying.drain.as_mut().unwrap().new = NewConnections::Forward(forward);
        carrying.steered = 2;
        let mut watched = Watched::new(Goal::Drain, vec![carrying.clone()], now);
        assert_eq!(watched.verdict(), None);
        assert_eq!(watched.patience(now), now + Duration::from_secs(25), "the drain's deadline");
        assert_eq!(watched.overdue(), Verdict::Remaining);
        let goal = Goal::Wait(Until::Drained, now);
        let waited = Watched::new(goal, vec![carrying.clone()], now);
        assert_eq!(waited.verdict(), Some(Verdict::Reached), "the state alone was waited for");
        carrying.steered = 0;
        watched.apply(StreamEvent::Status { service: carrying }, now);
        assert_eq!(watched.verdict(), Some(Verdict::Reached));
        let mut handed = service(1, Drained);
        handed.steered = 2;
        let watched = Watched::new(Goal::Drain, vec![handed], now);
        assert_eq!(watched.verdict(), Some(Verdict::Reached), "they are somebody else's");
    }

    #[test]
    fn waiting_for_a_drain_that_has_not_begun() {
        let now = Instant::now();
        let goal = Goal::Wait(Until::Drained, now + Duration::from_secs(1));
        let mut watched = Watched::new(goal, vec![service(1, Serving)], now);
        assert_eq!(watched.verdict(), None);
        assert_eq!(watched.overdue(), Verdict::Remaining);
        watched.apply(StreamEvent::Status { service: service(1, Expired) }, now);
        assert_eq!(watched.verdict(), None, "an expired drain may still come to zero");
        watched.apply(StreamEvent::Status { service: service(1, Drained) }, now);
        assert_eq!(watched.verdict(), Some(Verdict::Reached));
    }

    #[test]
    fn waiting_for_traffic() {
        let now = Instant::now();
        let goal = Goal::Wait(Until::Serving, now + Duration::from_secs(1));
        let mut watched = Watched::new(goal, vec![service(1, Drained)], now);
        assert_eq!(watched.verdict(), None);
        watched.apply(StreamEvent::Status { service: service(1, Serving) }, now);
        assert_eq!(watched.verdict(), Some(Verdict::Reached));
    }

    #[test]
    fn the_deadline_moves_with_the_drain() {
        let now = Instant::now();
        let mut watched = Watched::new(Goal::Drain, vec![service(1, Settling)], now);
        assert_eq!(watched.deadline(now), now + Duration::from_secs(25));
        let mut renewed = service(1, Rejecting);
        renewed.drain.as_mut().unwrap().deadline_in_ms = 60_000;
        watched.apply(StreamEvent::Status { service: renewed }, now);
        assert_eq!(watched.deadline(now), now + Duration::from_secs(60));
        let other = StreamEvent::Status { service: service(2, Serving) };
        assert!(watched.apply(other, now).is_none(), "somebody else's service");
    }
}

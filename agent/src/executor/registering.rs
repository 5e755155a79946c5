//! Registries of a service: runs that tell them, one at a time, what is kept of them for the next agent, and what is
//! shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};
use tracing::error;

use super::{DrainError, task::Task};
use crate::{
    drain::{Boot, Event, Phase, Service},
    pods::PodName,
    registries::{Direction, News, Outcome, Run, Told},
};

/// What is kept of it for the next agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Names of those that were told, or may have been, that the server leaves; in order.
    told: Vec<String>,
    /// The pod they were told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<PodName>,
}

impl Kept {
    pub(super) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A registry, as a service's status shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryView {
    /// Its name.
    pub name: String,
    /// Whether it believes that the server is gone, as far as is known.
    pub told: bool,
    /// What could not be told to it, and why, if that was the newest attempt.
    pub failure: Option<(Told, String)>,
}

/// The registries of one service.
#[derive(Default)]
pub(super) struct Registrations {
    pub(super) kept: Kept,
    failures: BTreeMap<String, (Told, String)>,
    /// Of the run under way: when it is dropped, the run stops.
    run: Option<watch::Sender<bool>>,
    /// What comes after the run that is asked to stop.
    next: Option<Direction>,
}

impl Registrations {
    pub(super) fn keeping(kept: Kept) -> Self {
        Self { kept, ..Self::default() }
    }

    /// Whether anything is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.run.is_some()
    }

    /// Those that were told, or could not be.
    pub(super) fn view(&self) -> Vec<RegistryView> {
        let told = self.kept.told.iter();
        let others = self.failures.keys().filter(|name| !self.kept.told.contains(name));
        let view = |name: &String| RegistryView {
            name: name.clone(),
            told: self.kept.told.contains(name),
            failure: self.failures.get(name).cloned(),
        };
        told.chain(others).map(view).collect()
    }

    fn is_told(&mut self, name: String, told: Told) {
        self.failures.remove(&name);
        if told == Told::Undrain {
            self.kept.told.retain(|each| *each != name);
        }
    }
}

impl Task {
    pub(super) fn announce(&mut self, service: Service, until: Boot) {
        let until = Instant::now() + until.since(self.now());
        self.direct(service, Direction::Announce(until));
    }

    pub(super) fn retract(&mut self, service: Service) {
        self.direct(service, Direction::Retract);
    }

    /// Nobody comes back in a namespace that is gone.
    pub(super) fn forget_registries(&mut self, service: Service) {
        if let Some(entry) = self.entries.get_mut(&service) {
            entry.registrations = Registrations::default();
        }
        self.count_behind();
    }

    /// One run after the other: what a registry is told last must be what is so.
    fn direct(&mut self, service: Service, direction: Direction) {
        let Some(entry) = self.entries.get_mut(&service) else { return };
        let registrations = &mut entry.registrations;
        if let Some(run) = &registrations.run {
            registrations.next = Some(direction);
            // It has ended by itself if nobody hears.
            let _ = run.send(true);
            return;
        }
        let (run, stop) = watch::channel(false);
        self.runs += 1;
        entry.run_number = self.runs;
        if let Direction::Announce(_) = direction {
            registrations.failures.clear();
        }
        registrations.run = Some(run);
        let run = Run {
            registries: self.registries.clone(),
            service,
            netns_cookie: entry.netns_cookie,
            told: registrations.kept.told.clone(),
            pod: registrations.kept.pod.clone(),
            stop,
            news: self.news.clone(),
            number: self.runs,
        };
        tokio::spawn(run.go(direction));
    }

    pub(super) fn registry_news(&mut self, service: Service, number: u64, news: News) {
        let Some(entry) = self.entries.get_mut(&service) else { return };
        if entry.run_number != number || !entry.registrations.is_busy() {
            return;
        }
        let registrations = &mut entry.registrations;
        match news {
            News::Telling { name, pod, kept } => {
                if !registrations.kept.told.contains(&name) {
                    registrations.kept.told.push(name);
                }
                registrations.kept.pod = pod;
                self.save(service);
                // A run that is gone does not tell.
                let _ = kept.send(());
            }
            News::Knows { name, told } => {
                registrations.is_told(name, told);
                self.save(service);
            }
            News::Failed { name, told, why, unchanged } => {
                if unchanged && told == Told::Drain {
                    registrations.kept.told.retain(|each| *each != name);
                }
                registrations.failures.insert(name, (told, why));
                self.save(service);
            }
            News::Over(outcome) => return self.run_over(service, outcome),
        }
        self.count_behind();
        self.tell(service, None);
    }

    fn count_behind(&self) {
        let over = self.entries.values().filter(|entry| !entry.is_draining());
        self.registries.are_behind(over.map(|entry| entry.registrations.kept.told.len()).sum());
    }

    fn run_over(&mut self, service: Service, outcome: Outcome) {
        self.count_behind();
        let Some(entry) = self.entries.get_mut(&service) else { return };
        entry.registrations.run = None;
        let gone = outcome == Outcome::Gone;
        if let Some(next) = entry.registrations.next.take().filter(|_| !gone) {
            return self.direct(service, next);
        }
        match (entry.machine.phase(), outcome) {
            (Phase::Announcing, Outcome::Done) => self.step(service, Event::Announced),
            (Phase::Announcing, Outcome::Refused(why)) => self.refused(service, &why),
            (Phase::Serving, Outcome::Done) => self.retracted(service),
            (Phase::Serving, Outcome::Gone) => {
                self.forget_registries(service);
                self.retracted(service);
            }
            (_, Outcome::Gone) => self.step(service, Event::NetnsGone),
            _ => {}
        }
    }

    /// Nothing is left of the drain. If that cannot be kept now, it is tried again.
    fn retracted(&mut self, service: Service) {
        self.step(service, Event::Retracted);
        self.forget_again(service);
    }

    /// The drain is not to go on, and neither are those that began with it.
    fn refused(&mut self, service: Service, why: &str) {
        error!(%service, why, "the drain ends, with nothing closed");
        let group = self.entries.get(&service).map(|entry| entry.group);
        let together = self.entries.values().filter(|entry| Some(entry.group) == group);
        let mut together: Vec<Service> = together.map(|entry| entry.service).collect();
        for waiting in &mut self.waiting {
            if waiting.failure.is_none() && waiting.services.contains(&service) {
                waiting.failure = Some(DrainError::Registry { service, why: why.into() });
                together.extend(&waiting.started);
            }
        }
        self.step(service, Event::NotAnnounced(why.into()));
        for other in together {
            if other != service && self.is_draining(other) {
                let reason = format!("{service} cannot be drained with it: {why}");
                self.step(other, Event::Undrain(reason));
            }
        }
    }
}

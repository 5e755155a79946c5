//! Telling the registries of one service: in order when it leaves, in the opposite order when it is back.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, timeout_at},
};
use tracing::{error, info, warn};

use super::{
    MOST, Registries, Registry, Subject, Told, exec,
    file::{From, OnFailure},
    http::Failed,
    preset::{Fill, Way, nacos_keeps},
    status_file,
};
use crate::{drain::Service, kernel::KernelError, pods::PodName};

/// Pause before the second attempt; each one after that is twice as long.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest pause between two attempts while a drain waits.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause between two rounds of telling that the server is back.
const LONGEST_ROUND: Duration = Duration::from_secs(30);

/// What the registries of a service are to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The server leaves; what is not told by then is given up.
    Announce(Instant),
    /// The server is back.
    Retract,
}

/// What happens while registries are told.
#[derive(Debug)]
pub enum News {
    /// This registry is about to be told, and must be told again when the server is back: the run goes on once that
    /// is kept.
    Telling {
        /// Its name.
        name: String,
        /// The service's pod.
        pod: Option<PodName>,
        /// To be answered.
        kept: oneshot::Sender<()>,
    },
    /// It knows. If the server is back, it is done.
    Knows {
        /// Its name.
        name: String,
        /// What.
        told: Told,
    },
    /// It could not be told, for now or for good.
    Failed {
        /// Its name.
        name: String,
        /// What.
        told: Told,
        /// Why not.
        why: String,
        /// Whether it is certain that it believes what it did before.
        unchanged: bool,
    },
    /// The run is over.
    Over(Outcome),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All that matter know.
    Done,
    /// One that matters does not, with its name and the reason.
    Refused(String),
    /// It was asked to stop.
    Stopped,
    /// The network namespace is gone.
    Gone,
}

/// One service's registries, to be told.
pub struct Run {
    /// All registries.
    pub registries: Registries,
    /// The service.
    pub service: Service,
    /// Of its namespace, whose inode number may be another one's by now.
    pub netns_cookie: Option<u64>,
    /// Whom earlier runs have told that it leaves, in order.
    pub told: Vec<String>,
    /// Its pod, as it was told of then.
    pub pod: Option<PodName>,
    /// Becomes true if it is to stop after what it is about.
    pub stop: watch::Receiver<bool>,
    /// Where news go, with the service and the number of the run.
    pub news: mpsc::UnboundedSender<(Service, u64, News)>,
    /// Its number.
    pub number: u64,
}

/// An attempt did not work.
enum Attempt {
    Gone,
    Failed(Failed),
}

impl Run {
    /// Tells them.
    pub async fn go(mut self, direction: Direction) {
        let outcome = match direction {
            Direction::Announce(until) => self.announce(until).await,
            Direction::Retract => self.retract().await,
        };
        self.send(News::Over(outcome));
    }

    async fn announce(&mut self, until: Instant) -> Outcome {
        let registries = self.registries.clone();
        let (subject, all) = registries.of(self.service).await;
        if all.len() > MOST {
            return Outcome::Refused(format!(
                "{} registries are for this service, and {MOST} are possible: see the agent's --registries",
                all.len()
            ));
        }
        for registry in all {
            if self.is_stopped() {
                return Outcome::Stopped;
            }
            let (kept, is_kept) = oneshot::channel();
            let (name, pod) = (registry.name().to_owned(), subject.pod.clone());
            self.send(News::Telling { name, pod, kept });
            if is_kept.await.is_err() {
                return Outcome::Stopped;
            }
            crate::failpoint::pass("registry");
            match self.announce_to(registry, &subject, until).await {
                Ok(()) => {}
                Err(outcome) => return outcome,
            }
        }
        Outcome::Done
    }

    /// Tries as often as it may.
    async fn announce_to(
        &mut self,
        registry: &Registry,
        subject: &Subject,
        until: Instant,
    ) -> Result<(), Outcome> {
        // Whom an earlier run has told believes that, whatever becomes of this one.
        let mut unchanged = !self.told.iter().any(|told| told == registry.name());
        let (mut pause, mut tries) = (PAUSE, 0);
        let failed = loop {
            tries += 1;
            let end = until.min(Instant::now() + registry.timeout());
            match self.attempt(registry, subject, Told::Drain, end).await {
                Ok(()) => {
                    info!(service = %self.service, registry = registry.name(), "told that the server leaves");
                    self.knows(registry, Told::Drain);
                    return Ok(());
                }
                Err(Attempt::Gone) => return Err(Outcome::Gone),
                Err(Attempt::Failed(failed)) => {
                    unchanged &= failed.unchanged;
                    warn!(
                        service = %self.service, registry = registry.name(), attempt = tries, error = failed.why,
                        "cannot tell that the server leaves"
                    );
                    if tries > registry.retries()
                        || Instant::now() + pause >= until
                        || self.is_stopped()
                    {
                        break failed;
                    }
                    self.pause(pause).await;
                    if self.is_stopped() {
                        break failed;
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        };
        let why = failed.why;
        self.failed(registry.name(), Told::Drain, why.clone(), unchanged);
        if self.is_stopped() {
            return Err(Outcome::Stopped);
        }
        match registry.on_failure() {
            OnFailure::Continue => Ok(()),
            OnFailure::Abort => Err(Outcome::Refused(format!(
                "registry {:?} cannot be told that the server leaves ({why}), and says `on-failure: abort`",
                registry.name()
            ))),
        }
    }

    /// Until all of them know, or somebody wants something else.
    async fn retract(&mut self) -> Outcome {
        let registries = self.registries.clone();
        let subject = Subject { service: self.service, pod: self.pod.clone() };
        let mut left: Vec<String> = self.told.iter().rev().cloned().collect();
        let mut pause = PAUSE;
        loop {
            let mut behind = Vec::new();
            for name in left {
                if self.is_stopped() {
                    return Outcome::Stopped;
                }
                let Some(registry) = registries.named(&name) else {
                    error!(service = %self.service, registry = name, "it is not in --registries any more, and believes that the server is gone");
                    self.send(News::Knows { name, told: Told::Undrain });
                    continue;
                };
                match self.retract_from(registry, &subject).await {
                    Ok(true) => {}
                    Ok(false) => behind.push(name),
                    Err(gone) => return gone,
                }
            }
            if behind.is_empty() {
                return Outcome::Done;
            }
            left = behind;
            self.pause(pause).await;
            pause = (pause * 2).min(LONGEST_ROUND);
        }
    }

    async fn retract_from(
        &mut self,
        registry: &Registry,
        subject: &Subject,
    ) -> Result<bool, Outcome> {
        let (service, name) = (self.service, registry.name());
        let end = Instant::now() + registry.timeout();
        match self.attempt(registry, subject, Told::Undrain, end).await {
            Ok(()) => {
                info!(%service, registry = name, "told that the server is back");
                self.knows(registry, Told::Undrain);
                Ok(true)
            }
            Err(Attempt::Gone) => Err(Outcome::Gone),
            Err(Attempt::Failed(failed)) => {
                warn!(%service, registry = name, error = failed.why, "cannot tell that the server is back; goes on trying");
                self.failed(name, Told::Undrain, failed.why, failed.unchanged);
                Ok(false)
            }
        }
    }

    async fn attempt(
        &self,
        registry: &Registry,
        subject: &Subject,
        told: Told,
        end: Instant,
    ) -> Result<(), Attempt> {
        let kernel = Arc::clone(&self.registries.inner.kernel);
        let (netns, cookie) = (self.service.netns, self.netns_cookie);
        let there = tokio::task::spawn_blocking(move || kernel.netns_cookie(netns)).await;
        match there {
            Ok(Ok(now)) if cookie.is_none() || now == cookie => {}
            Ok(Ok(_) | Err(KernelError::NoNetns(_))) => return Err(Attempt::Gone),
            Ok(Err(error)) => {
                return Err(Attempt::Failed(Failed::before(crate::kernel::explain(&error))));
            }
            Err(error) => return Err(Attempt::Failed(Failed::before(error.to_string()))),
        }
        let done = timeout_at(end, self.tell(registry, subject, told))
            .await
            .unwrap_or_else(|_| Err(Failed::perhaps("it took too long, and was ended")));
        self.registries.count(told, done.is_ok());
        done.map_err(Attempt::Failed)
    }

    async fn tell(&self, registry: &Registry, subject: &Subject, told: Told) -> Result<(), Failed> {
        let kernel = &self.registries.inner.kernel;
        let netns = match registry.from() {
            From::Host => kernel.host_netns(),
            From::Service => self.service.netns,
        };
        let preset = registry.preset().ok_or_else(|| Failed::before("it has no kind"))?;
        match preset.way(told, &Fill(subject)).map_err(Failed::before)? {
            Way::Ask(ask) => ask.send(kernel, netns).await.map(drop),
            Way::Nacos { read, mut write } => {
                let answer = read.send(kernel, netns).await;
                // Reading changes nothing.
                let answer = answer.map_err(|failed| Failed::before(failed.why))?;
                nacos_keeps(&mut write, &answer).map_err(Failed::before)?;
                write.send(kernel, netns).await.map(drop)
            }
            Way::Execute(command) => {
                exec::execute(&command, subject, told).await.map_err(Failed::perhaps)
            }
            Way::RemoveFile(path) => on_disk(path, status_file::remove).await,
            Way::RestoreFile(path) => on_disk(path, status_file::restore).await,
        }
    }

    fn is_stopped(&self) -> bool {
        // Nobody wants to know any more, if the other end is gone.
        *self.stop.borrow() || self.stop.has_changed().is_err()
    }

    /// Sleeps, unless it is to stop.
    async fn pause(&mut self, pause: Duration) {
        tokio::select! {
            () = sleep(pause) => {}
            _ = self.stop.wait_for(|stop| *stop) => {}
        }
    }

    fn knows(&self, registry: &Registry, told: Told) {
        self.send(News::Knows { name: registry.name().into(), told });
    }

    fn failed(&self, name: &str, told: Told, why: String, unchanged: bool) {
        self.send(News::Failed { name: name.into(), told, why, unchanged });
    }

    fn send(&self, news: News) {
        // Nobody is there to hear it once the agent has stopped.
        let _ = self.news.send((self.service, self.number, news));
    }
}

async fn on_disk(
    path: std::path::PathBuf,
    change: fn(&Path) -> Result<(), String>,
) -> Result<(), Failed> {
    let changed = tokio::task::spawn_blocking(move || change(&path)).await;
    changed.map_err(|error| Failed::perhaps(error.to_string()))?.map_err(Failed::perhaps)
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;

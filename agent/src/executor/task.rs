//! The task that owns every drain: one loop that takes commands, kernel events, answers of operations and
//! the passing of time, one after the other.

use std::{
    collections::HashMap,
    future::pending,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    sync::{Semaphore, broadcast, mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tracing::{error, info};

use super::{
    DrainError, Owner, Stand, Status, Totals, Update,
    accept::{Checked, Request, Waiting},
    entry::Entry,
    holds::{Held, HoldRequest},
    looking::LOOKS,
    ops::{OpDone, Threads},
    report::Seen,
};
use crate::{
    carry::Carrier,
    drain::{Boot, Ending, Endpoint, Event, HoldName, Leaving, Phase, Service, Spec, StateName},
    kernel::{self, EventKind, Kernel},
    registries::{News, Registries},
};

/// What the handle asks of the task.
pub(super) enum Command {
    Drain {
        services: Vec<Service>,
        spec: Box<Spec>,
        owner: Owner,
        reply: oneshot::Sender<Result<bool, DrainError>>,
    },
    Undrain {
        service: Service,
        reply: oneshot::Sender<Result<bool, DrainError>>,
    },
    Status {
        services: Vec<Service>,
        reply: oneshot::Sender<Vec<Status>>,
    },
    Prove {
        service: Service,
        reply: oneshot::Sender<Vec<Status>>,
    },
    Hold {
        request: HoldRequest,
        reply: oneshot::Sender<Result<bool, DrainError>>,
    },
    Release {
        service: Service,
        name: HoldName,
        reply: oneshot::Sender<Result<bool, DrainError>>,
    },
    Held {
        reply: oneshot::Sender<Vec<Service>>,
    },
    Draining {
        reply: oneshot::Sender<Vec<Service>>,
    },
    Standing {
        reply: oneshot::Sender<Vec<(Service, StateName)>>,
    },
    Stand {
        service: Service,
        reply: oneshot::Sender<Option<Stand>>,
    },
    Endpoint {
        service: Service,
        endpoint: Endpoint,
    },
    Leaving {
        service: Service,
        reply: oneshot::Sender<HashMap<u64, Leaving>>,
    },
    Renew {
        service: Service,
    },
    Stop {
        reply: oneshot::Sender<()>,
    },
}

/// What blocking threads answer.
pub(super) enum Internal {
    Done(OpDone),
    Checked(Checked),
    Seen(Vec<Seen>, oneshot::Sender<Vec<Status>>),
    /// Time to try again to restore the flows of a drain that is over.
    Restore {
        service: Service,
        epoch: u64,
    },
}

/// See the module.
pub(super) struct Task {
    pub(super) kernel: Arc<dyn Kernel>,
    pub(super) carrier: Carrier,
    commands: mpsc::UnboundedReceiver<Command>,
    pub(super) done: mpsc::UnboundedSender<Internal>,
    done_receiver: mpsc::UnboundedReceiver<Internal>,
    pub(super) updates: broadcast::Sender<Update>,
    totals: Arc<Mutex<Totals>>,
    pub(super) entries: HashMap<Service, Entry>,
    pub(super) held: Held,
    /// How drains ended not long ago, and when, of services that drain no more.
    pub(super) ended: HashMap<Service, (Ending, Boot)>,
    /// Requests that wait for their gates to close.
    pub(super) waiting: Vec<Waiting>,
    /// Requests that wait for a gate to open first.
    pub(super) parked: Vec<Request>,
    pub(super) epochs: u64,
    pub(super) registries: Registries,
    /// Of runs that tell registries.
    pub(super) runs: u64,
    pub(super) news: mpsc::UnboundedSender<(Service, u64, News)>,
    news_receiver: mpsc::UnboundedReceiver<(Service, u64, News)>,
    /// The agent is stopping.
    stop: Option<oneshot::Sender<()>>,
    pub(super) threads: Threads,
    pub(super) looks: Arc<Semaphore>,
}

impl Task {
    pub(super) fn new(
        kernel: Arc<dyn Kernel>,
        carrier: Carrier,
        registries: Registries,
        commands: mpsc::UnboundedReceiver<Command>,
        updates: broadcast::Sender<Update>,
        totals: Arc<Mutex<Totals>>,
    ) -> Self {
        let (done, done_receiver) = mpsc::unbounded_channel();
        let (news, news_receiver) = mpsc::unbounded_channel();
        Self {
            kernel,
            carrier,
            commands,
            done,
            done_receiver,
            updates,
            totals,
            entries: HashMap::new(),
            held: Held::default(),
            ended: HashMap::new(),
            waiting: Vec::new(),
            parked: Vec::new(),
            epochs: 0,
            registries,
            runs: 0,
            news,
            news_receiver,
            stop: None,
            threads: Threads::default(),
            looks: Arc::new(Semaphore::new(LOOKS)),
        }
    }

    pub(super) async fn run(mut self, events: mpsc::UnboundedReceiver<kernel::Event>) {
        let mut events = Some(events);
        while self.stop.is_none() {
            let wake_at = self.wake_at();
            tokio::select! {
                biased;
                Some(internal) = self.done_receiver.recv() => self.internal(internal),
                Some((service, run, news)) = self.news_receiver.recv() => {
                    self.registry_news(service, run, news);
                }
                () = sleep_until_or_forever(wake_at) => self.wake(),
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                // Last: a service with many connections must not keep the others' drains from what is due.
                event = next_event(&mut events) => match event {
                    Some(event) => self.kernel_event(event),
                    None => {
                        error!("kernel events ended; drains go on by looking once a second");
                        events = None;
                    }
                },
            }
            self.settle();
        }
        if let Some(stop) = self.stop.take() {
            self.finish_operations().await;
            self.kernel.rest();
            // Whoever asked may have lost patience.
            let _ = stop.send(());
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Drain { services, spec, owner, reply } => {
                self.drain(Request::new(services, *spec, owner, reply));
            }
            Command::Undrain { service, reply } => self.undrain(service, reply),
            Command::Status { services, reply } => self.look_for(&services, reply),
            Command::Prove { service, reply } => self.prove(service, reply),
            // Whoever asked may have gone away.
            Command::Hold { request, reply } => drop(reply.send(self.hold(request))),
            Command::Release { service, name, reply } => {
                drop(reply.send(self.release(service, &name)));
            }
            Command::Held { reply } => drop(reply.send(self.held.services())),
            Command::Draining { reply } => {
                let _ = reply.send(self.draining());
            }
            Command::Standing { reply } => {
                let state =
                    |service: &Service| self.entries.get(service).map(|e| e.machine.state());
                let services = self.draining().into_iter();
                let _ = reply.send(services.filter_map(|s| Some((s, state(&s)?))).collect());
            }
            Command::Stand { service, reply } => {
                let entry = self.entries.get(&service).filter(|entry| entry.is_draining());
                // Whoever asked may have gone away.
                let _ = reply.send(entry.map(|entry| (entry.machine.state(), entry.view())));
            }
            Command::Endpoint { service, endpoint } => {
                if self.is_draining(service) {
                    self.step(service, Event::Endpoint(endpoint));
                }
            }
            Command::Leaving { service, reply } => self.leaving(service, reply),
            Command::Renew { service } => {
                if self.is_draining(service) {
                    self.step(service, Event::Renew);
                }
            }
            Command::Stop { reply } => self.begin_stop(reply),
        }
    }

    fn internal(&mut self, internal: Internal) {
        match internal {
            Internal::Done(done) => self.op_done(done),
            Internal::Checked(checked) => self.checked(checked),
            Internal::Seen(seen, reply) => self.seen(seen, reply),
            Internal::Restore { service, epoch } => self.restore_again(service, epoch),
        }
    }

    fn kernel_event(&mut self, event: kernel::Event) {
        if !self.is_draining(event.service) {
            return;
        }
        if let EventKind::Unsteered | EventKind::Lost = event.kind {
            // Somebody may wait for the last one that was steered.
            self.tell(event.service, None);
        }
        let hint = match event.kind {
            EventKind::Unsteered => return, // No verdict changes with it.
            EventKind::Accepted => Event::Accepted { at: event.at },
            EventKind::Empty | EventKind::Listening | EventKind::Unlistened | EventKind::Lost => {
                Event::Hint
            }
        };
        self.step(event.service, hint);
    }

    fn undrain(&mut self, service: Service, reply: oneshot::Sender<Result<bool, DrainError>>) {
        match self.entries.get_mut(&service).filter(|entry| entry.is_draining()) {
            Some(entry) => {
                entry.undrains.push(reply);
                self.step(service, Event::Undrain("undrained".into()));
            }
            None => {
                let _ = reply.send(Ok(false));
            }
        }
    }

    /// Has it verified again, where the machine takes that: not while the gate is moving.
    fn prove(&mut self, service: Service, reply: oneshot::Sender<Vec<Status>>) {
        let provable = |entry: &&mut Entry| {
            !matches!(
                entry.machine.phase(),
                Phase::Serving
                    | Phase::Guarding
                    | Phase::Announcing
                    | Phase::Closing
                    | Phase::Opening
            )
        };
        match self.entries.get_mut(&service).filter(provable) {
            Some(entry) => {
                entry.provers.push((entry.verifications + 1, reply));
                self.step(service, Event::Hint);
            }
            None => self.look_for(&[service], reply),
        }
    }

    /// Operations under way end before the next agent may start; none is begun any more.
    async fn finish_operations(&mut self) {
        while self.entries.values().any(Entry::is_busy) {
            if let Some(Internal::Done(done)) = self.done_receiver.recv().await {
                self.done_while_stopping(done);
            }
        }
    }

    /// Nothing is done about the drains. The next agent repeats operations whose outcome was not saved.
    fn begin_stop(&mut self, reply: oneshot::Sender<()>) {
        for service in self.draining() {
            let phase = self.phase(service).name();
            info!(%service, phase, "the agent is stopping: this drain is left to the next one");
        }
        self.stop = Some(reply);
    }

    /// When the next drain wants to be woken.
    fn wake_at(&self) -> Option<Instant> {
        let (now, instant) = (self.kernel.now(), Instant::now());
        let wakes = self.entries.values().filter_map(|entry| entry.wake_at);
        let next = wakes.chain(self.held.next_end()).min();
        next.map(|at| instant + at.since(now))
    }

    fn wake(&mut self) {
        self.expire_holds();
        let now = self.kernel.now();
        let due = |entry: &&Entry| entry.wake_at.is_some_and(|at| now >= at);
        let due: Vec<Service> = self.entries.values().filter(due).map(|e| e.service).collect();
        for service in due {
            if self.is_draining(service) {
                self.step(service, Event::Timer);
            } else {
                self.forget_again(service);
            }
        }
    }

    /// After each turn: answers those whose wait is over, and forgets what is done.
    fn settle(&mut self) {
        self.answer_waiting();
        self.resume_parked();
        self.entries.retain(|_, entry| !entry.is_done());
    }

    pub(super) fn phase(&self, service: Service) -> Phase {
        self.entries.get(&service).map_or(Phase::Serving, |entry| entry.machine.phase())
    }

    pub(super) fn is_draining(&self, service: Service) -> bool {
        self.phase(service) != Phase::Serving
    }

    fn draining(&self) -> Vec<Service> {
        let draining = self.entries.values().filter(|entry| entry.is_draining());
        let mut services: Vec<Service> = draining.map(|entry| entry.service).collect();
        services.sort();
        services
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Totals)) {
        change(&mut self.totals.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn now(&self) -> Boot {
        self.kernel.now()
    }
}

async fn next_event(
    events: &mut Option<mpsc::UnboundedReceiver<kernel::Event>>,
) -> Option<kernel::Event> {
    match events {
        Some(events) => events.recv().await,
        None => pending().await,
    }
}

async fn sleep_until_or_forever(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

//! A restart in place: the new version is started, takes over, and the old one is drained and stopped.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
    time::Duration,
};

use rustix::process::{Pid, Signal};
use tokio::time::{Instant, sleep, timeout};

use super::{Server, drain_on_stderr};
use crate::{
    api::protocol::StateName,
    cli::{
        args::{DrainArgs, TargetArgs},
        child::{Happened, name},
        client::Client,
        exit::{Exit, Failure},
        follow::patiently,
        new::New,
        services,
        target::Target,
        text::Streams,
        undrain::undrain,
    },
    drain::Handoff,
};

/// Time between two questions whether the new version listens, or the ports serve again.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the agent may take to notice that nobody but the new version is left. It looks once a second.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

/// How long the agent may take to answer a request that is of no use any more.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// For how long the agent is asked again to take a handover back: it may be restarting.
const TAKEN_BACK_WITHIN: Duration = Duration::from_secs(10);

/// How far the agent has taken part.
#[derive(Default)]
struct Part {
    /// A request is under way, or was granted: it may have handed over.
    asked: AtomicBool,
    /// It has handed over.
    accepted: AtomicBool,
}

impl Part {
    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    fn has_accepted(&self) -> bool {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// What becomes of a second SIGHUP.
const UNDER_WAY: &str = "drainctl: SIGHUP: a restart is under way already";

/// How a handover ended.
enum Handover {
    /// The new version has the ports, and this came of draining the old one.
    Over(Result<Exit, Failure>),
    /// A process has ended meanwhile, with this exit code.
    Ended(Pid, u8),
    /// We are to stop, and the new version has nothing yet.
    Stop(Signal),
}

impl Server<'_> {
    /// Replaces the server. Returns an exit code if there is nothing left to attend to.
    pub(super) async fn replace(&mut self, streams: &mut Streams<'_>) -> Option<u8> {
        let new = match self.children.spawn(&self.args.command) {
            Ok(new) => new,
            Err(failure) => {
                streams.note(&format!("drainctl: SIGHUP: {failure}; the old version goes on"));
                return None;
            }
        };
        let old = self.pid;
        streams.note(&format!(
            "drainctl: SIGHUP: the new version is process {}; it takes over when it listens",
            new.as_raw_nonzero()
        ));
        let part = Part::default();
        let mut stop = None;
        match self.hand_over(new, &part, &mut stop, streams).await {
            Handover::Over(Err(failure)) if !part.has_accepted() => {
                streams.note(&format!("drainctl: no restart: {failure}; the old version goes on"));
                // The agent may have heard of it all the same, and then nobody would have the ports.
                if failure.exit == Exit::Unreachable {
                    self.take_back(streams).await;
                }
                self.give_up(new, streams).await
            }
            Handover::Over(result) => self.retire(old, new, result, stop, streams).await,
            Handover::Ended(ended, code) if ended == new => {
                self.go_on_without(code, part.is_asked(), stop, streams).await
            }
            Handover::Ended(_, code) => {
                streams.note(&format!(
                    "drainctl: the old version ended by itself with code {code}; the new one goes on"
                ));
                self.pid = new;
                None
            }
            Handover::Stop(signal) => {
                streams.note(&format!("drainctl: {}: no restart", name(signal)));
                if part.is_asked() {
                    self.take_back(streams).await;
                }
                match self.give_up(new, streams).await {
                    Some(code) => Some(code),
                    None => Some(self.stop(signal, streams).await),
                }
            }
        }
    }

    /// The new version has ended, with this exit code: the old one goes on, or stops if we are to. Returns an exit code if
    /// there is nothing left to attend to.
    async fn go_on_without(
        &mut self,
        code: u8,
        may_have_handed_over: bool,
        stop: Option<Signal>,
        streams: &mut Streams<'_>,
    ) -> Option<u8> {
        let then = if stop.is_some() { "is drained and stopped" } else { "goes on" };
        streams.note(&format!(
            "drainctl: no restart: the new version ended with code {code}; the old version {then}"
        ));
        if may_have_handed_over {
            self.take_back(streams).await;
        }
        // It may have ended after it had handed over.
        if !self.children.is_running(self.pid) {
            return Some(code);
        }
        match stop {
            Some(signal) => Some(self.stop(signal, streams).await),
            None => None,
        }
    }

    /// Until the new version has taken over and the old one is drained.
    async fn hand_over(
        &mut self,
        new: Pid,
        part: &Part,
        stop: &mut Option<Signal>,
        streams: &mut Streams<'_>,
    ) -> Handover {
        let args = handoff(&self.args.drain, new);
        let limit = Instant::now() + self.args.ready_timeout;
        let client = self.client.clone();
        let drain = drain_when_it_listens(&args, &client, self.json, part, limit);
        tokio::pin!(drain);
        loop {
            tokio::select! {
                result = &mut drain => return Handover::Over(result),
                happened = self.children.next() => match happened {
                    Happened::Ended(ended, code) if ended == new => {
                        answered(drain.as_mut(), part).await;
                        return Handover::Ended(ended, code);
                    }
                    // What it had is drained, then.
                    Happened::Ended(ended, _) if ended == self.pid && part.has_accepted() => {}
                    Happened::Ended(ended, code) if ended == self.pid => return Handover::Ended(ended, code),
                    Happened::Ended(..) => {}
                    Happened::Told(signal @ (Signal::TERM | Signal::INT)) => {
                        let over = answered(drain.as_mut(), part).await;
                        if !part.has_accepted() {
                            return Handover::Stop(signal);
                        }
                        if stop.replace(signal).is_some() {
                            return Handover::Over(Ok(Exit::Deadline));
                        }
                        if let Some(result) = over {
                            return Handover::Over(result);
                        }
                        streams.note(&format!(
                            "drainctl: {}: the new version is stopped as soon as the old one is drained; once more stops \
                             the old one at once", name(signal)
                        ));
                    }
                    Happened::Told(Signal::HUP) => {
                        streams.note(UNDER_WAY);
                    }
                    Happened::Told(signal) => {
                        self.pass_on(signal);
                        self.children.tell(new, signal);
                    }
                },
            }
        }
    }

    /// Stops the old version, which the new one has replaced.
    async fn retire(
        &mut self,
        old: Pid,
        new: Pid,
        drained: Result<Exit, Failure>,
        mut stop: Option<Signal>,
        streams: &mut Streams<'_>,
    ) -> Option<u8> {
        match drained {
            Ok(Exit::Done) => {}
            Ok(_) => streams.note("drainctl: the old version is stopped all the same"),
            Err(failure) => streams
                .note(&format!("drainctl: {failure}; the old version is stopped all the same")),
        }
        self.pid = new;
        let mut new_ended = None;
        self.children.tell(old, Signal::TERM);
        while self.children.is_running(old) {
            match self.children.next().await {
                Happened::Ended(ended, code) if ended == new => new_ended = Some(code),
                Happened::Ended(..) => {}
                Happened::Told(Signal::HUP) => streams.note(UNDER_WAY),
                Happened::Told(signal @ (Signal::TERM | Signal::INT)) => {
                    stop = Some(signal);
                    self.children.tell(old, signal);
                }
                Happened::Told(signal) => {
                    self.children.tell(old, signal);
                    self.pass_on(signal);
                }
            }
        }
        if new_ended.is_some() {
            return new_ended;
        }
        streams.note("drainctl: the new version has taken over, and the old one has ended");
        if !self.serves_again().await {
            streams.note(
                "drainctl: the drain of the old version goes on: does the new one listen on the same ports (SO_REUSEPORT)?",
            );
        }
        match stop {
            Some(signal) => Some(self.stop(signal, streams).await),
            None => None,
        }
    }

    /// Stops the new version, and then the old one if we are to stop. Returns the exit code of the old one if that has
    /// ended.
    async fn give_up(&mut self, new: Pid, streams: &mut Streams<'_>) -> Option<u8> {
        self.children.tell(new, Signal::TERM);
        let (mut ended, mut stop) = (None, None);
        while self.children.is_running(new) {
            match self.children.next().await {
                Happened::Ended(pid, code) if pid == self.pid => ended = Some(code),
                Happened::Ended(..) => {}
                Happened::Told(signal) => {
                    if matches!(signal, Signal::TERM | Signal::INT) {
                        stop = Some(signal);
                    }
                    self.children.tell(new, signal);
                }
            }
        }
        match stop {
            Some(signal) if ended.is_none() => Some(self.stop(signal, streams).await),
            _ => ended,
        }
    }

    /// The new version may have ended with the ports in its hands: the old one takes them again.
    async fn take_back(&self, streams: &mut Streams<'_>) {
        let Ok(target) = Target::find(&TargetArgs::default()) else { return };
        let until = Instant::now() + TAKEN_BACK_WITHIN;
        for port in &self.args.drain.ports {
            if let Err(failure) = patiently(until, || undrain(self.client, &target, *port)).await {
                streams.note(&format!("drainctl: port {port} may stay closed: {failure}"));
            }
        }
    }

    /// Waits until the drain has ended by itself. Another one would contradict it.
    async fn serves_again(&self) -> bool {
        let Ok(target) = Target::find(&TargetArgs::default()) else { return false };
        let limit = Instant::now() + NOTICED_WITHIN;
        while Instant::now() < limit {
            if let Ok(list) = services::list(self.client, &target, None).await {
                let mut ours =
                    list.services.iter().filter(|each| self.args.drain.ports.contains(&each.port));
                if ours.all(|service| service.state == StateName::Serving) {
                    return true;
                }
            }
            sleep(PAUSE).await;
        }
        false
    }
}

/// The drain of the old version.
fn handoff(args: &DrainArgs, new: Pid) -> DrainArgs {
    let to = Handoff::Successor(new.as_raw_nonzero().get().unsigned_abs());
    DrainArgs {
        new: vec![New::Handoff(to)],
        proxy_protocol: false,
        keep_closed: false,
        ..args.clone()
    }
}

/// Begins the drain as soon as the new version listens, and as soon as no other drain is in the way.
async fn drain_when_it_listens(
    args: &DrainArgs,
    client: &Client,
    json: bool,
    part: &Part,
    limit: Instant,
) -> Result<Exit, Failure> {
    loop {
        part.asked.store(true, Ordering::Relaxed);
        match drain_on_stderr(args, client, json, &part.accepted).await {
            Err(Failure { exit: Exit::NoSuchService | Exit::Conflict, .. })
                if Instant::now() < limit => {}
            result => return result,
        }
        part.asked.store(false, Ordering::Relaxed);
        sleep(PAUSE).await;
    }
}

/// Waits until the agent has said yes or no: what it grants after nobody asks any more would close the ports for nobody.
/// Returns what came of the drain, if that is over with the answer.
async fn answered(
    mut drain: Pin<&mut impl Future<Output = Result<Exit, Failure>>>,
    part: &Part,
) -> Option<Result<Exit, Failure>> {
    let answered = poll_fn(|context| match drain.as_mut().poll(context) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending if part.has_accepted() || !part.is_asked() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    if !part.is_asked() || part.has_accepted() {
        return None;
    }
    // One that does not answer is asked to take it back, at least.
    timeout(ANSWERED_WITHIN, answered).await.unwrap_or_default()
}

//! Clients without mercy: no retry, every byte checked, every failure counted by kind.

mod client;
mod tally;
mod timeline;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use tokio::{
    sync::watch,
    time::{self, MissedTickBehavior},
};

use crate::netns::Netns;
use client::Client;

pub use tally::{Failure, Tally};
pub use timeline::{Sample, Timeline};

/// After this a request has failed, whatever it still waits for; a slow reader gets the time it takes.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What clients do with their connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// One request per connection, which the server closes.
    OneRequest,
    /// A worker keeps its connection until the server says `Connection: close`, or has closed it while
    /// it was idle. A request that meets its end on the way has failed: no connection pool could know
    /// whether to send it again.
    KeepAlive,
    /// The same, and bodies are read at this many bytes a second.
    SlowReader(u32),
}

/// What to ask, how often, and how much.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whom to ask.
    pub target: SocketAddr,
    /// What to ask for.
    pub path: &'static str,
    /// What the body must be, byte by byte.
    pub body: &'static [u8],
    /// How to treat connections.
    pub manner: Manner,
    /// Requests under way at the same time, at most.
    pub workers: u32,
    /// Time between two requests of one worker; it asks again at once if this has passed.
    pub pace: Duration,
    /// Stop by itself after this many requests.
    pub at_most: u64,
}

/// A load that runs on a thread of its own inside the client's namespace.
#[derive(Debug)]
pub struct Load {
    sent: Arc<AtomicU64>,
    timeline: Arc<Timeline>,
    stop: watch::Sender<bool>,
    thread: JoinHandle<Result<Tally>>,
}

impl Load {
    /// Starts it.
    pub fn start(client: &Arc<Netns>, plan: Plan) -> Self {
        let timeline = Arc::new(Timeline::default());
        let sent = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = watch::channel(false);
        let client = Arc::clone(client);
        let work = Work { plan, sent: Arc::clone(&sent), timeline: Arc::clone(&timeline) };
        let thread = thread::spawn(move || {
            client.enter()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(work, stopped))
        });
        Self { sent, timeline, stop, thread }
    }

    /// Every request that has ended, with its times.
    pub fn timeline(&self) -> Arc<Timeline> {
        Arc::clone(&self.timeline)
    }

    /// Requests started so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether [`Plan::at_most`] was reached and every answer is in.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// No new requests from now on.
    pub fn stop(&self) {
        // Fails only if the load has ended by itself.
        let _ = self.stop.send(true);
    }

    /// Lets requests under way end, and returns how all of them went.
    pub fn finish(self) -> Result<Tally> {
        self.stop();
        self.thread.join().map_err(|_| anyhow!("the load panicked"))?
    }
}

/// What all workers share.
struct Work {
    plan: Plan,
    sent: Arc<AtomicU64>,
    timeline: Arc<Timeline>,
}

async fn run(work: Work, stopped: watch::Receiver<bool>) -> Result<Tally> {
    let work = Arc::new(work);
    let start = Instant::now();
    let workers: Vec<_> = (0..work.plan.workers)
        .map(|index| tokio::spawn(worker(index, start, Arc::clone(&work), stopped.clone())))
        .collect();
    let mut tally = Tally::default();
    for worker in workers {
        tally.merge(worker.await.context("a worker panicked")?);
    }
    Ok(tally)
}

async fn worker(
    index: u32,
    start: Instant,
    work: Arc<Work>,
    mut stopped: watch::Receiver<bool>,
) -> Tally {
    let Work { plan, sent, timeline } = &*work;
    let mut tally = Tally::default();
    // Evenly spread over the first interval.
    let first = time::Instant::from_std(start + plan.pace / plan.workers.max(1) * index);
    let mut ticks = time::interval_at(first, plan.pace.max(Duration::from_nanos(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut client = Client::new(plan.clone());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.wait_for(|stop| *stop) => return tally,
        }
        if *stopped.borrow() || sent.fetch_add(1, Ordering::Relaxed) >= plan.at_most {
            return tally;
        }
        let begun = Timeline::now();
        let outcome = client.ask().await;
        timeline.add(begun, outcome.is_err());
        match outcome {
            Ok(()) => tally.ok += 1,
            Err((kind, message)) => {
                tally.add(kind, format!("at {:.3?}: {message}", start.elapsed()));
            }
        }
    }
}

//! Clients without mercy: one request per connection, no retry, every failure counted by kind.

use std::{
    fmt, io,
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
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{self, MissedTickBehavior},
};

use crate::netns::Netns;

/// After this a request has failed, whatever it still waits for.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How many failures are kept in words.
const SAMPLES: usize = 5;

/// What to ask, how often, and how much.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whom to ask.
    pub target: SocketAddr,
    /// What to ask for.
    pub path: &'static str,
    /// What the body must be, byte by byte.
    pub body: &'static [u8],
    /// Requests under way at the same time, at most.
    pub workers: u32,
    /// Time between two requests of one worker; it asks again at once if this has passed.
    pub pace: Duration,
    /// Stop by itself after this many requests.
    pub at_most: u64,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// connect() was refused.
    Refused,
    /// The connection was reset.
    Reset,
    /// No complete answer in time.
    Timeout,
    /// The answer ended early.
    Truncated,
    /// Another status, another body, or an error of the client's own.
    Bad,
}

/// How the requests went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answered, complete and correct.
    pub ok: u64,
    /// connect() was refused.
    pub refused: u64,
    /// The connection was reset.
    pub reset: u64,
    /// No complete answer in time.
    pub timeout: u64,
    /// The answer ended early.
    pub truncated: u64,
    /// Anything else.
    pub bad: u64,
    /// The first failures, in words.
    pub samples: Vec<String>,
}

impl Tally {
    /// Requests that failed.
    pub fn failed(&self) -> u64 {
        self.refused + self.reset + self.timeout + self.truncated + self.bad
    }

    /// Requests sent.
    pub fn total(&self) -> u64 {
        self.ok + self.failed()
    }

    fn add(&mut self, kind: Failure, message: String) {
        *match kind {
            Failure::Refused => &mut self.refused,
            Failure::Reset => &mut self.reset,
            Failure::Timeout => &mut self.timeout,
            Failure::Truncated => &mut self.truncated,
            Failure::Bad => &mut self.bad,
        } += 1;
        if self.samples.len() < SAMPLES {
            self.samples.push(message);
        }
    }

    fn merge(&mut self, other: Self) {
        self.ok += other.ok;
        self.refused += other.refused;
        self.reset += other.reset;
        self.timeout += other.timeout;
        self.truncated += other.truncated;
        self.bad += other.bad;
        self.samples.extend(other.samples);
        self.samples.truncate(SAMPLES);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ok, refused, reset, timeout, truncated, bad, samples } = self;
        write!(f, "{ok} ok, {refused} refused, {reset} reset, {timeout} timed out, ")?;
        write!(f, "{truncated} truncated, {bad} bad; first: {samples:?}")
    }
}

/// A load that runs on a thread of its own inside the client's namespace.
#[derive(Debug)]
pub struct Load {
    sent: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    thread: JoinHandle<Result<Tally>>,
}

impl Load {
    /// Starts it.
    pub fn start(client: &Arc<Netns>, plan: Plan) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = watch::channel(false);
        let (client, counter) = (Arc::clone(client), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            client.enter()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(plan, counter, stopped))
        });
        Self { sent, stop, thread }
    }

    /// Requests started so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether [`Plan::at_most`] was reached and every answer is in.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Lets requests under way end, and returns how all of them went.
    pub fn finish(self) -> Result<Tally> {
        // Fails only if the load has ended by itself.
        let _ = self.stop.send(true);
        self.thread.join().map_err(|_| anyhow!("the load panicked"))?
    }
}

async fn run(plan: Plan, sent: Arc<AtomicU64>, stopped: watch::Receiver<bool>) -> Result<Tally> {
    let plan = Arc::new(plan);
    let start = Instant::now();
    let workers: Vec<_> = (0..plan.workers)
        .map(|index| {
            let (plan, sent) = (Arc::clone(&plan), Arc::clone(&sent));
            tokio::spawn(worker(index, start, plan, sent, stopped.clone()))
        })
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
    plan: Arc<Plan>,
    sent: Arc<AtomicU64>,
    mut stopped: watch::Receiver<bool>,
) -> Tally {
    let mut tally = Tally::default();
    // Evenly spread over the first interval.
    let first = time::Instant::from_std(start + plan.pace / plan.workers.max(1) * index);
    let mut ticks = time::interval_at(first, plan.pace.max(Duration::from_nanos(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let request = format!("GET {} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", plan.path);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.wait_for(|stop| *stop) => return tally,
        }
        if *stopped.borrow() || sent.fetch_add(1, Ordering::Relaxed) >= plan.at_most {
            return tally;
        }
        let outcome = time::timeout(TIMEOUT, ask(&plan, request.as_bytes())).await;
        let at = start.elapsed();
        match outcome.unwrap_or_else(|_| Err((Failure::Timeout, "no answer".into()))) {
            Ok(()) => tally.ok += 1,
            Err((kind, message)) => tally.add(kind, format!("at {at:.3?}: {message}")),
        }
    }
}

async fn ask(plan: &Plan, request: &[u8]) -> Result<(), (Failure, String)> {
    let io = |error: io::Error| (kind(&error), error.to_string());
    let mut stream = TcpStream::connect(plan.target).await.map_err(io)?;
    stream.write_all(request).await.map_err(io)?;
    let mut answer = Vec::with_capacity(1024);
    // The server closes first: its answer is complete when the connection ends.
    stream.read_to_end(&mut answer).await.map_err(io)?;
    check(&answer, plan.body)
}

fn check(answer: &[u8], body: &[u8]) -> Result<(), (Failure, String)> {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let Some(head) = head else {
        return Err((Failure::Truncated, format!("{} bytes without a body", answer.len())));
    };
    let got = &answer[head + 4..];
    if answer.starts_with(b"HTTP/1.1 200 ") && got == body {
        Ok(())
    } else if answer.starts_with(b"HTTP/1.1 200 ") && body.starts_with(got) {
        Err((Failure::Truncated, format!("{} of {} bytes", got.len(), body.len())))
    } else {
        let answer = String::from_utf8_lossy(answer);
        Err((Failure::Bad, answer.lines().next().unwrap_or_default().to_owned()))
    }
}

fn kind(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Failure::Reset,
        io::ErrorKind::TimedOut => Failure::Timeout,
        _ => Failure::Bad,
    }
}

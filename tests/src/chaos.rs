//! The agent is killed at random moments while drains and undrains run and connections come and go, round after round;
//! after each, another one starts. What must hold all the time is checked all the time.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{
    cluster::PORT,
    fixture::{Fixture, await_agreement, serve},
    load::{Load, Manner, Plan},
    net::{self, Acceptor, Attempt, Pair},
    netns::Netns,
    nginx::{BODY, Nginx},
    wait::{LIMIT, eventually, patient},
};

/// Where the new server of a handoff listens, and one that nobody drains.
const NEXT: u16 = 8081;
const OTHER: u16 = 8082;

/// What drains ask for beside closing the gate, and what becomes then of a client while it is closed. Nobody gets to the
/// old server in any case: its connections are counted after each round.
const KINDS: [(&[&str], &[Attempt]); 4] = [
    (&[], &[Attempt::Refused]),
    (&["--ignore=203.0.113.0/24", "--fail-health-from=10.244.1.1"], &[Attempt::Refused]),
    (&["--new=handoff=port:8081"], &[Attempt::Connected]),
    // Carried to where nobody listens, and reset; refused while no agent runs.
    (&["--new=forward=10.244.0.2:9"], &[Attempt::Connected, Attempt::Refused]),
];

/// Most connections that are held at a time.
const MOST: usize = 20;

/// What one run has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rounds.
    pub rounds: u64,
    /// After how many of them the service was draining.
    pub draining: u64,
    /// Connection attempts that did not get to the server that drains while they had not to.
    pub refused: u64,
    /// Requests to another server of the pod that were served all the while.
    pub served: u64,
}

/// SplitMix64: the same moments for the same seed, as far as the machine lets them be the same.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// Watches a gate that must be closed.
#[derive(Default)]
struct Watch {
    /// Whether it must be closed now, and in a drain of which of [`KINDS`]. Locked during an attempt, so that none is
    /// under way when this changes.
    closed: Mutex<Option<usize>>,
    over: AtomicBool,
    refused: AtomicU64,
}

/// Runs so many rounds.
///
/// # Errors
/// A gate opened by itself, a count was wrong, an agent did not start, or something was left behind.
pub fn run(rounds: u64, seed: u64) -> Result<Tally> {
    let mut fixture = Fixture::new()?;
    fixture.agent.be_quiet();
    let _next = Acceptor::start(serve(fixture.pod(), NEXT)?);
    let _served = Nginx::start_on(Arc::clone(&fixture.pod().netns), &[OTHER])?;
    let load = load(&fixture);
    let watch = Watch::default();
    let addr = fixture.pod().addr();
    let client = Netns::at(fixture.cluster.client.path().clone())?;
    let mut tally = Tally { rounds, ..Tally::default() };
    thread::scope(|scope| {
        let watching = scope.spawn(|| watch.look(&client, addr));
        let mut random = Random(seed);
        let mut held = Vec::new();
        let played = (0..rounds).try_for_each(|number| {
            let played = play(&mut fixture, &mut random, &mut held, &watch);
            tally.draining += u64::from(watch.must_be_closed().is_some());
            played.with_context(|| format!("round {number}\n{}", fixture.agent.log()))
        });
        watch.over.store(true, Ordering::SeqCst);
        let watched = watching.join().map_err(|_| anyhow!("the watch panicked"))?;
        watched.with_context(|| fixture.agent.log())?;
        played
    })?;
    tally.refused = watch.refused.load(Ordering::SeqCst);
    let served = load.finish()?;
    ensure!(served.failed() == 0, "{served}");
    tally.served = served.ok;
    await_agreement(&fixture.agent, fixture.pod(), OTHER)?;
    end(fixture)?;
    Ok(tally)
}

impl Watch {
    fn must_be_closed(&self) -> MutexGuard<'_, Option<usize>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries to connect, again and again; nothing may be accepted as long as the gate must be closed.
    fn look(&self, client: &Netns, addr: SocketAddr) -> Result<()> {
        while !self.over.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1)); // not a wait for a state: the pause between two looks
            let closed = self.must_be_closed();
            if let Some(kind) = *closed {
                let attempt = attempt(client, addr)?;
                let (options, expected) = KINDS[kind];
                ensure!(expected.contains(&attempt), "a gate has opened: {attempt:?} {options:?}");
                self.refused.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok(())
    }
}

/// Tries to connect. Who is reset before it has noticed that it was connected was connected too.
fn attempt(client: &Netns, addr: SocketAddr) -> Result<Attempt> {
    let got = net::attempt(client, addr, LIMIT);
    let kind = |error: &anyhow::Error| Some(error.root_cause().downcast_ref::<io::Error>()?.kind());
    match got {
        Err(error) if kind(&error) == Some(io::ErrorKind::ConnectionReset) => {
            Ok(Attempt::Connected)
        }
        got => got,
    }
}

/// Requests to a server that nobody drains, by clients that never retry.
fn load(fixture: &Fixture) -> Load {
    let target = SocketAddr::new(fixture.pod().v4.into(), OTHER);
    let (pace, at_most, workers) = (Duration::from_millis(20), u64::MAX, 2);
    let (path, body, manner) = ("/ok", BODY, Manner::OneRequest);
    let plan = Plan { target, path, body, manner, workers, pace, at_most };
    Load::start(&fixture.cluster.client, plan)
}

/// What is asked for in a round: a drain of this kind, an undrain, or nothing.
fn verb(random: &mut Random, kind: usize) -> Option<Vec<&'static str>> {
    const SETTLES: &[&str] = &["--quiet=200ms", "--min-settle=100ms"];
    let drain = |how: &[&'static str]| {
        Some([&["drain", "--port", "80", "--no-wait"], how, KINDS[kind].0].concat())
    };
    match random.below(5) {
        0 => Some(vec!["undrain", "--port", "80"]),
        1 => drain(SETTLES),
        2 | 3 => drain(&["--quiet=0s"]),
        _ => None,
    }
}

/// One round: something is asked for, connections come and go, and some time later the agent is killed.
fn play(
    fixture: &mut Fixture,
    random: &mut Random,
    held: &mut Vec<Pair>,
    watch: &Watch,
) -> Result<()> {
    let was_closed = *watch.must_be_closed();
    // Who joins a drain asks for the same.
    let kind = was_closed.unwrap_or_else(|| random.below(KINDS.len() as u64) as usize);
    let verb = verb(random, kind);
    let undrains = verb.as_ref().is_some_and(|verb| verb[0] == "undrain");
    if undrains {
        *watch.must_be_closed() = None;
    }
    let asked = verb.as_ref().map(|verb| fixture.ctl().start(verb)).transpose()?;
    if was_closed.is_none() && verb.is_none() && held.len() < MOST {
        held.extend(fixture.pairs(random.below(4) as usize)?);
    }
    let leaving = random.below(3).min(held.len() as u64);
    held.drain(..leaving as usize);
    let moment = Duration::from_micros(random.below(60_000)); // `drainctl` starts, asks, and has its answer within it
    thread::sleep(patient(moment)); // not a wait for a state: a random moment
    fixture.agent.crash()?;
    fixture.agent.launch(&[])?;
    // It may have found an agent before, after, or none at all.
    if let Some(asked) = asked {
        asked.wait()?;
    }
    if undrains {
        // An agent that was killed while it opened the gate leaves that to the next one, and "rejecting" may mean that it
        // is still at it: asked again, it answers when the gate is open.
        fixture.ctl().expect(0, &["undrain", "--port", "80"])?;
    }
    let mut closed = false;
    eventually(LIMIT, "what the agent says of the gate is so", || {
        let state = fixture.service()?.state;
        closed = matches!(state.as_str(), "rejecting" | "drained" | "expired");
        Ok(match (state.as_str(), closed) {
            ("settling", _) => false,
            (_, false) => fixture.attempt()? == Attempt::Connected,
            (_, true) => {
                let attempt = attempt(&fixture.cluster.client, fixture.pod().addr())?;
                KINDS[kind].1.contains(&attempt)
            }
        })
    })?;
    ensure!(closed || undrains || was_closed.is_none(), "the drain has ended by itself");
    *watch.must_be_closed() = closed.then_some(kind);
    let sockets = fixture.await_agreement()?;
    ensure!(sockets.flows() == held.len() as u64, "{sockets:?}, and {} are held", held.len());
    Ok(())
}

/// Everything can be undone, and nothing is left.
fn end(mut fixture: Fixture) -> Result<()> {
    fixture.ctl().expect(0, &["undrain", "--port", "80"])?;
    fixture.ensure_untouched()?;
    ensure!(fixture.service()?.port == PORT);
    fixture.ensure_nothing_is_left()
}

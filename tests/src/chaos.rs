//! The agent is killed at random moments while drains and undrains run and connections come and go, round after round;
//! after each, another one starts. What must hold all the time is checked all the time.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{
    cluster::PORT,
    fixture::Fixture,
    net::{self, Attempt, Pair},
    netns::Netns,
    wait::{LIMIT, eventually},
};

/// Most connections that are held at a time.
const MOST: usize = 20;

/// What one run has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rounds.
    pub rounds: u64,
    /// After how many of them the service was draining.
    pub draining: u64,
    /// Connection attempts that were refused while they had to be.
    pub refused: u64,
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
    /// Whether it must be closed now. Locked during an attempt, so that none is under way when this changes.
    closed: Mutex<bool>,
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
            tally.draining += u64::from(*watch.must_be_closed());
            played.with_context(|| format!("round {number}\n{}", fixture.agent.log()))
        });
        watch.over.store(true, Ordering::SeqCst);
        let watched = watching.join().map_err(|_| anyhow!("the watch panicked"))?;
        watched.with_context(|| fixture.agent.log())?;
        played
    })?;
    tally.refused = watch.refused.load(Ordering::SeqCst);
    end(fixture)?;
    Ok(tally)
}

impl Watch {
    fn must_be_closed(&self) -> MutexGuard<'_, bool> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries to connect, again and again; nothing may be accepted as long as the gate must be closed.
    fn look(&self, client: &Netns, addr: SocketAddr) -> Result<()> {
        while !self.over.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1)); // not a wait for a state: the pause between two looks
            let closed = self.must_be_closed();
            if *closed {
                let attempt = net::attempt(client, addr, LIMIT)?;
                ensure!(attempt == Attempt::Refused, "a closed gate has opened: {attempt:?}");
                self.refused.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok(())
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
    let verb = match random.below(5) {
        0 => Some(&["undrain", "--port", "80"][..]),
        1 => Some(
            &["drain", "--port", "80", "--quiet", "200ms", "--min-settle", "100ms", "--no-wait"][..],
        ),
        2 | 3 => Some(&["drain", "--port", "80", "--quiet", "0s", "--no-wait"][..]),
        _ => None,
    };
    if verb.is_some_and(|verb| verb[0] == "undrain") {
        *watch.must_be_closed() = false;
    }
    let asked = verb.map(|verb| fixture.ctl().start(verb)).transpose()?;
    if !was_closed && verb.is_none() && held.len() < MOST {
        held.extend(fixture.pairs(random.below(4) as usize)?);
    }
    let leaving = random.below(3).min(held.len() as u64);
    held.drain(..leaving as usize);
    thread::sleep(Duration::from_micros(random.below(60_000))); // not a wait for a state: a random moment
    fixture.agent.crash()?;
    fixture.agent.launch(&[])?;
    // It may have found an agent before, after, or none at all.
    if let Some(asked) = asked {
        asked.wait()?;
    }
    let mut closed = was_closed;
    eventually(LIMIT, "what the agent says of the gate is so", || {
        let state = fixture.service()?.state;
        closed = matches!(state.as_str(), "rejecting" | "drained" | "expired");
        let attempt = fixture.attempt()?;
        Ok(state != "settling" && closed == (attempt == Attempt::Refused))
    })?;
    let undrained = verb.is_some_and(|verb| verb[0] == "undrain");
    ensure!(closed || undrained || !was_closed, "the drain has ended by itself");
    *watch.must_be_closed() = closed;
    let sockets = fixture.await_agreement()?;
    ensure!(sockets.flows() == held.len() as u64, "{sockets:?}, and {} are held", held.len());
    Ok(())
}

/// Everything can be undone, and nothing is left.
fn end(mut fixture: Fixture) -> Result<()> {
    fixture.ctl().expect(0, &["undrain", "--port", "80"])?;
    fixture.ensure_untouched()?;
    ensure!(fixture.service()?.port == PORT);
    fixture.agent.crash()?;
    let output = fixture.agent.uninstall()?;
    ensure!(output.status.success(), "{output:?}");
    let left = fixture.agent.bpffs().contents()?;
    ensure!(left.is_empty(), "{left:?}");
    ensure!(fixture.attempt()? == Attempt::Connected);
    Ok(())
}

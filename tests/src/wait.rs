//! Waiting for a state: look again and again, with a limit, and say what was waited for.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(10);

/// Long enough for anything that must happen, on a busy machine with two cores.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A limit for this machine: ten times as long where `DRAINCTL_SLOW` is set, as it is in virtual machines without hardware
/// support. [`eventually`] does that by itself.
pub fn patient(limit: Duration) -> Duration {
    limit * if is_slow() { 10 } else { 1 }
}

/// Whether this machine is emulated: `DRAINCTL_SLOW` is set.
pub fn is_slow() -> bool {
    std::env::var_os("DRAINCTL_SLOW").is_some()
}

/// Waits until `condition` holds; an error when it does not within `limit`, or when it cannot be told.
pub fn eventually(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    eventually_some(limit, what, || Ok(condition()?.then_some(())))
}

/// Waits until `look` returns something, and returns it.
pub fn eventually_some<T>(
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let limit = patient(limit);
    let start = Instant::now();
    loop {
        let began = Instant::now();
        if let Some(found) = look()? {
            return Ok(found);
        }
        let took = began.elapsed();
        if start.elapsed() >= limit {
            bail!("not within {limit:?}: {what}");
        }
        // Where a look takes long, since it starts programs in an emulated machine, it is not to take all there is.
        thread::sleep(PAUSE.max(took)); // not a wait for a state: the pause between two looks
    }
}

/// Checks that `condition` holds all through `time`, for what must *not* happen in it.
pub fn throughout(
    time: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < time {
        if !condition()? {
            bail!("no longer true after {:?}: {what}", start.elapsed());
        }
        thread::sleep(PAUSE); // not a wait for a state: the pause between two looks
    }
    Ok(())
}

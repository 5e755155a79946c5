//! When requests were made, how long they took, and which failed.

use std::{
    mem,
    sync::{Mutex, PoisonError},
};

use rustix::time::{ClockId, clock_gettime};

/// One request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When it began: seconds of CLOCK_MONOTONIC, which other programs read too.
    pub at: f64,
    /// Seconds until its answer was complete, or until it failed.
    pub took: f32,
    /// Whether it failed.
    pub failed: bool,
}

/// Requests in the order in which they ended.
#[derive(Debug, Default)]
pub struct Timeline(Mutex<Vec<Sample>>);

impl Timeline {
    /// Seconds of CLOCK_MONOTONIC.
    pub fn now() -> f64 {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
    }

    /// A request that has just ended.
    pub fn add(&self, begun: f64, failed: bool) {
        let took = (Self::now() - begun) as f32;
        self.lock().push(Sample { at: begun, took, failed });
    }

    /// All of them; none is left.
    pub fn take(&self) -> Vec<Sample> {
        mem::take(&mut self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

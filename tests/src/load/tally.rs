//! How requests went.

use std::fmt;

use serde::Deserialize;

/// How many failures are kept in words.
const SAMPLES: usize = 5;

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// connect() was refused.
    Refused,
    /// The connection was reset.
    Reset,
    /// The connection ended before the first byte of an answer.
    Closed,
    /// No complete answer in time.
    Timeout,
    /// The answer ended early.
    Truncated,
    /// Another status, another body, or an error of the client's own.
    Bad,
}

/// How the requests went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Tally {
    /// Answered, complete and correct.
    pub ok: u64,
    /// connect() was refused.
    pub refused: u64,
    /// The connection was reset.
    pub reset: u64,
    /// The connection ended before the first byte of an answer.
    pub closed: u64,
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
        self.kinds().iter().map(|(count, _)| count).sum()
    }

    /// Requests sent.
    pub fn total(&self) -> u64 {
        self.ok + self.failed()
    }

    /// Failures by kind, with the kind's name.
    pub fn kinds(&self) -> [(u64, &'static str); 6] {
        [
            (self.refused, "refused"),
            (self.reset, "reset"),
            (self.closed, "closed"),
            (self.timeout, "timed out"),
            (self.truncated, "truncated"),
            (self.bad, "bad"),
        ]
    }

    pub(super) fn add(&mut self, kind: Failure, message: String) {
        *match kind {
            Failure::Refused => &mut self.refused,
            Failure::Reset => &mut self.reset,
            Failure::Closed => &mut self.closed,
            Failure::Timeout => &mut self.timeout,
            Failure::Truncated => &mut self.truncated,
            Failure::Bad => &mut self.bad,
        } += 1;
        if self.samples.len() < SAMPLES {
            self.samples.push(message);
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.ok += other.ok;
        self.refused += other.refused;
        self.reset += other.reset;
        self.closed += other.closed;
        self.timeout += other.timeout;
        self.truncated += other.truncated;
        self.bad += other.bad;
        self.samples.extend(other.samples);
        self.samples.truncate(SAMPLES);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ok, ", self.ok)?;
        for (count, kind) in self.kinds() {
            write!(f, "{count} {kind}, ")?;
        }
        write!(f, "first: {:?}", self.samples)
    }
}

//! The pure core: what a drain is, which states it goes through, and what is proof of zero. No I/O, no
//! clock, no async and no kernel types; everything that happens comes in as an event with its time, and
//! everything to be done goes out as an action.

mod time;

use std::fmt;

pub use time::Boot;

/// A service: one TCP port in one network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// TCP port, 1 to 65535.
    pub port: u16,
}

/// `4026531840:8080`, the service's id in the HTTP interface.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.netns, self.port)
    }
}

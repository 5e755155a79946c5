//! Why the executor did not do what was asked.

use crate::{
    drain::{MOST_HOLDS, Service},
    kernel::KernelError,
};

/// Why a drain was not accepted. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// Nothing listens there, and there is no connection and no drain either.
    #[error("nothing listens on port {} in network namespace {}, and it has no connection", .0.port, .0.netns)]
    NoSuchService(Service),
    /// Already draining with other options.
    #[error(
        "{service} is already draining with other options ({difference}); undrain it first, or ask for the same"
    )]
    Conflict {
        /// The service.
        service: Service,
        /// Which option differs, and how.
        difference: String,
    },
    /// Clients are not remembered, so that none can be kept.
    #[error(
        "--keep-clients is not possible: this agent remembers no clients; start drain-agent without --client-history 0"
    )]
    NoClientHistory,
    /// New connections would be carried to where they come from.
    #[error(
        "--new forward: every address leads back to port {} in network namespace {} itself; name a peer", .0.port, .0.netns
    )]
    OnlyItself(Service),
    /// The maps that all drains share have no more room for one namespace.
    #[error(
        "network namespace {netns} may have {most} {what} at once, and has no room for this; undrain some services first"
    )]
    TooMany {
        /// Which namespace.
        netns: u32,
        /// How many it may have.
        most: usize,
        /// Of what, in words.
        what: &'static str,
    },
    /// The next agent could not be told of it.
    #[error(
        "there is no room to keep so many addresses beside so many listening sockets (14 KiB of text in all); name fewer \
         addresses, or shorter prefixes that hold them"
    )]
    NoRoom,
    /// It has been said that the service can be stopped.
    #[error(
        "{0} is drained: its server may be stopped any moment, so nothing can hold it any more; undrain it first, or do \
         the work elsewhere"
    )]
    HoldTooLate(Service),
    /// The work is not to begin while the service is draining.
    #[error(
        "{0} is draining, and the hold was asked for with --unless-draining; do the work elsewhere"
    )]
    HoldWhileDraining(Service),
    /// There is no room for one more.
    #[error(
        "{service} may have {} holds at once, and its network namespace {services} services with holds; release some first",
        MOST_HOLDS
    )]
    TooManyHolds {
        /// What was to be held.
        service: Service,
        /// How many services of its namespace may be held.
        services: usize,
    },
    /// The kernel layer failed.
    #[error("the kernel refused")]
    Kernel(#[from] KernelError),
    /// A registry could not be told, which was to come first.
    #[error("{service} was not drained, and nothing was closed: {why}")]
    Registry {
        /// The service.
        service: Service,
        /// Which registry, and why not.
        why: String,
    },
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

//! Why nobody can take over.

use crate::drain::Service;

/// Why nobody can take over the connections of a service. The text says what to do; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandoffError {
    /// The process does not exist.
    #[error("there is no process {0} to hand over to (any more); nothing was changed")]
    NoProcess(u32),
    /// The process lives elsewhere.
    #[error(
        "process {pid} lives in network namespace {lives_in} and cannot take over the connections of {service}: \
         clients would hang; name a process in the service's own namespace"
    )]
    OtherNetns {
        /// The process.
        pid: u32,
        /// Its namespace.
        lives_in: u32,
        /// Whose connections it was to get.
        service: Service,
    },
    /// Nothing to give connections to.
    #[error(
        "{who} has no listening TCP socket in network namespace {netns}: start the new server first, and then \
         drain the old one (Multipath TCP sockets cannot be handed to; in Go, GODEBUG=multipathtcp=0)"
    )]
    NoListener {
        /// `process 7` or `port 8081`.
        who: String,
        /// Where it was looked for.
        netns: u32,
    },
    /// It listens on several ports, none of which is the drained one.
    #[error("process {pid} listens on several ports ({}), none of them {port}: say which by --new handoff=port:N", list(.ports))]
    Ambiguous {
        /// The process.
        pid: u32,
        /// The drained port.
        port: u16,
        /// Its own.
        ports: Vec<u16>,
    },
    /// Both servers accept from the same socket.
    #[error(
        "process {pid} shares its listening socket of port {port} with process {other}, so both accept from it: name \
         the process from which all others of the new server descend, or let the new server listen with SO_REUSEPORT \
         or on another port"
    )]
    Shared {
        /// The process.
        pid: u32,
        /// The drained port.
        port: u16,
        /// One that does not belong to it.
        other: i32,
    },
    /// Nobody else has to do with the port.
    #[error(
        "process {pid} holds every listening socket and every connection of port {port}: there is no other server to \
         drain; name the new server's process, not the old one's"
    )]
    Itself {
        /// The process.
        pid: u32,
        /// The drained port.
        port: u16,
    },
    /// A connection could be of either port's drain.
    #[error(
        "a listening socket that is to take over port {port} takes over port {other} already: let the new server have \
         sockets of its own for each port, and drain the ports one by one"
    )]
    Taken {
        /// The drained port.
        port: u16,
        /// The other one.
        other: u16,
    },
    /// The port that is drained and the port that takes over are the same.
    #[error(
        "port {0} cannot be handed over to itself: name the new server by --new handoff=pid:N, or another port"
    )]
    SamePort(u16),
}

impl HandoffError {
    /// Whether there is nobody, rather than somebody who cannot be taken.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::NoProcess(_) | Self::NoListener { .. })
    }
}

fn list(ports: &[u16]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

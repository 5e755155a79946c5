//! What the kernel programs report of a service as it happens: plain data.

use crate::drain::{Boot, Service};

/// What the tracker reports for a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// [`EventKind::Listening`] and [`EventKind::Unlistened`].
    pub listeners: bool,
    /// [`EventKind::Empty`] and [`EventKind::Accepted`].
    pub flows: bool,
    /// Nothing more, but new flows are counted by [`Class`](super::Class): the service has a drain.
    pub classes: bool,
}

/// Something that happened in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where.
    pub service: Service,
    /// What.
    pub kind: EventKind,
    /// When.
    pub at: Boot,
}

/// Kinds of [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The tracker's count fell to zero: a hint, not yet a proof.
    Empty,
    /// A connection was accepted.
    Accepted,
    /// A socket started to listen on the port.
    Listening,
    /// A listening socket of the port was closed.
    Unlistened,
    /// The last of the steered flows has ended, as far as the tracker knows.
    Unsteered,
    /// The ring buffer was full: any of the above may have happened.
    Lost,
}

//! What asks a rollout to end: Ctrl-C, and SIGTERM, which service managers and CI systems send.

use std::{future::poll_fn, io, task::Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::exit::{Exit, Failure};

/// See the module.
pub(super) struct Interrupts([(&'static str, Signal); 2]);

impl Interrupts {
    /// From now on these signals do not end this process any more.
    ///
    /// # Errors
    /// They cannot be caught.
    pub(super) fn new() -> Result<Self, Failure> {
        let fail = |error: io::Error| {
            Failure::new(Exit::Internal, format!("cannot catch signals: {error}"))
        };
        let caught = |kind| signal(kind).map_err(fail);
        let int = ("Ctrl-C", caught(SignalKind::interrupt())?);
        Ok(Self([int, ("SIGTERM", caught(SignalKind::terminate())?)]))
    }

    /// The next one, in words. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> &'static str {
        poll_fn(|context| {
            let came = self
                .0
                .iter_mut()
                .find_map(|(name, signal)| signal.poll_recv(context).is_ready().then_some(*name));
            came.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

//! The carrier's side of one drained service.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{net::TcpListener, sync::watch};

use super::{Route, Shared, accept, targets::Targets};
use crate::{drain::Service, kernel::OwnListener};

/// See the module.
pub(super) struct Line {
    pub(super) shared: Arc<Shared>,
    pub(super) service: Service,
    pub(super) proxy_protocol: bool,
    pub(super) uid: u32,
    targets: Mutex<Targets>,
    /// No more connections come.
    pub(super) closed: watch::Sender<bool>,
    /// What is carried is to be reset.
    pub(super) cut: watch::Sender<bool>,
}

impl Line {
    /// Begins to accept.
    pub(super) fn start(
        shared: Arc<Shared>,
        service: Service,
        listener: OwnListener,
        route: Route,
    ) -> io::Result<Arc<Self>> {
        let OwnListener { socket, with } = listener;
        let accepting = TcpListener::from_std(socket.into())?;
        let line = Arc::new(Self {
            shared,
            service,
            proxy_protocol: route.proxy_protocol,
            uid: route.uid,
            targets: Mutex::new(Targets::new(&route.targets)),
            closed: watch::Sender::new(false),
            cut: watch::Sender::new(false),
        });
        let served = Arc::clone(&line);
        tokio::spawn(async move {
            accept::run(served, accepting).await;
            drop(with);
        });
        Ok(line)
    }

    pub(super) fn close(&self) {
        self.closed.send_replace(true);
    }

    pub(super) fn abort(&self) {
        self.cut.send_replace(true);
    }

    pub(super) fn targets(&self) -> MutexGuard<'_, Targets> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! One connection, whatever it came by: limits of what it may cost, its requests, and its end.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    task::JoinSet,
};

use super::stalled::Unstalled;

/// How long a client may take to send the head of a request, and may stay idle between two.
pub(super) const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes (hyper's least).
const MAX_HEAD: usize = 8 * 1024;
/// How long a client may leave an answer unread.
pub(super) const UNREAD_FOR: Duration = Duration::from_secs(10);

/// The open connections of one listener.
#[derive(Default)]
pub struct Connections {
    tasks: JoinSet<()>,
    finish: watch::Sender<bool>,
}

impl Connections {
    /// Runs a connection, which gets to know when it is to end.
    pub(super) fn spawn<F>(&mut self, connection: impl FnOnce(watch::Receiver<bool>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(connection(self.finish.subscribe()));
    }

    /// Returns when one has ended, so that those that ended do not pile up; never, if there is none.
    pub(super) async fn ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Lets requests under way have their answer, for at most `patience`, and closes everything.
    pub async fn finish(mut self, patience: Duration) {
        let _ = self.finish.send(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::warn!(connections = self.tasks.len(), "closed connections that did not end");
        }
        self.tasks.shutdown().await;
    }
}

/// Answers the requests of one connection, each of which carries `peer` as an extension, until it ends or
/// `finish` is true.
pub(crate) async fn serve_connection<S, P>(
    stream: S,
    peer: Arc<P>,
    router: Router,
    mut finish: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    P: Send + Sync + ?Sized + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(&peer));
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Unstalled::new(stream, UNREAD_FOR)), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = asked_to(&mut finish) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// Returns once `finish` is true, or nobody is left who could ask.
async fn asked_to(finish: &mut watch::Receiver<bool>) {
    let _ = finish.wait_for(|&finish| finish).await;
}

//! One pod's hook: accepts in the pod's network namespace, and answers nobody but the kubelet of this node.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, header::CONNECTION},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use super::{Shared, query};
use crate::{
    api::{
        auth::{Caller, INITIAL_USERNS},
        connection::serve_connection,
        peer::{Identify, Unidentified},
    },
    cli::{Dial, Exit, drain_for_hook},
    kernel::OwnListener,
    pods::PodName,
};

/// Bytes on the way between the hook and the agent's interface.
const PIPE: usize = 64 * 1024;
/// Most connections of the kubelet to one pod at once.
const MAX_OPEN: usize = 64;
/// How long a stranger may take to read that it is one, and how many bytes of its request are read away, so that the
/// answer is not lost to a reset.
const STRANGERS_READ_FOR: Duration = Duration::from_secs(1);
const STRANGERS_SEND: u64 = 8 * 1024;
/// Pause after accept(2) failed, most likely for want of file descriptors.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What strangers are told.
const FORBIDDEN: &str = "only the kubelet of this node may ask here: name it in a preStop hook \
    (lifecycle.preStop.httpGet); everybody else uses drainctl\n";

/// The open listener of a pod. Closed, with all connections, when this is dropped.
pub(super) struct Port {
    /// Inode number of the pod's namespace.
    pub(super) netns: u32,
    accepting: JoinHandle<()>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Port {
    /// Serves what comes to this listener. To be called inside a runtime.
    pub(super) fn serve(
        shared: Arc<Shared>,
        listener: OwnListener,
        pod: PodName,
        netns: u32,
    ) -> io::Result<Self> {
        let listener = TcpListener::from_std(std::net::TcpListener::from(listener.socket))?;
        let context = Arc::new(Context { shared, pod, netns });
        Ok(Self { netns, accepting: tokio::spawn(accept(listener, context)) })
    }
}

struct Context {
    shared: Arc<Shared>,
    pod: PodName,
    netns: u32,
}

async fn accept(listener: TcpListener, context: Arc<Context>) {
    let router = Router::new()
        .route("/drain", get(drain))
        .fallback(async || (StatusCode::NOT_FOUND, "there is only /drain?port=…\n"))
        .with_state(Arc::clone(&context));
    let seats = Arc::new(Semaphore::new(MAX_OPEN));
    // They end with this task.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(pod = %context.pod, %error, "cannot accept a connection of a hook");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            }
        };
        if !context.is_kubelets(&stream, client).await {
            context.refuse(stream, client, &mut connections);
        } else if let Ok(seat) = Arc::clone(&seats).try_acquire_owned() {
            let (router, finish) = (router.clone(), context.shared.finish.subscribe());
            let peer = Arc::new(client);
            connections.spawn(async move {
                serve_connection(stream, peer, router, finish).await;
                drop(seat);
            });
        }
    }
}

impl Context {
    /// In doubt it is not.
    async fn is_kubelets(&self, stream: &TcpStream, client: SocketAddr) -> bool {
        // From inside the pod no kubelet comes; but a runtime that shares its cgroup does, for `kubectl port-forward`.
        if client.ip().to_canonical().is_loopback() {
            return false;
        }
        let Ok(server) = stream.local_addr() else { return false };
        let (kernel, netns) = (Arc::clone(&self.shared.kernel), self.netns);
        let asked = tokio::task::spawn_blocking(move || kernel.is_kubelets(netns, client, server));
        match asked.await {
            Ok(Ok(is_kubelets)) => is_kubelets,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot tell whether the kubelet opened a connection");
                false
            }
            Err(_) => false,
        }
    }

    /// Tells a stranger so, if there are not too many of them, and without letting it wait for anything.
    fn refuse(&self, stream: TcpStream, client: SocketAddr, connections: &mut JoinSet<()>) {
        let counts = &self.shared.counts;
        if counts.denied.fetch_add(1, Ordering::Relaxed).is_power_of_two() {
            tracing::warn!(pod = %self.pod, %client, "denied: a preStop hook that the kubelet did not call");
        }
        if let Ok(seat) = Arc::clone(&self.shared.strangers).try_acquire_owned() {
            connections.spawn(async move {
                let _ = timeout(STRANGERS_READ_FOR, tell_stranger(stream)).await;
                drop(seat);
            });
        }
    }
}

async fn tell_stranger(mut stream: TcpStream) -> io::Result<()> {
    let length = FORBIDDEN.len();
    let head = format!(
        "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), FORBIDDEN.as_bytes()].concat()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(STRANGERS_SEND), &mut tokio::io::sink()).await?;
    Ok(())
}

/// `GET /drain?port=8080`.
async fn drain(State(context): State<Arc<Context>>, RawQuery(query): RawQuery) -> Response {
    let counts = &context.shared.counts;
    let (status, text) = match query::options(query.as_deref().unwrap_or_default()) {
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
        Ok(mut options) => {
            // Its container is about to be stopped, whatever Services think of the pod: a probe that failed has the
            // kubelet come here too.
            let close = "--close-anyway".to_owned();
            if !options.contains(&close) {
                options.push(close);
            }
            tracing::info!(pod = %context.pod, ?options, "the kubelet asks for a drain (preStop)");
            let under_way = context.shared.begin();
            let ended = drain_for_hook(&options, context.dial()).await;
            drop(under_way);
            match ended {
                Err(mistake) => (StatusCode::BAD_REQUEST, mistake.to_string()),
                Ok((exit, text)) => (status(exit), text),
            }
        }
    };
    let counter = match status {
        StatusCode::OK => &counts.drained,
        StatusCode::SERVICE_UNAVAILABLE => &counts.not_drained,
        _ => &counts.failed,
    };
    counter.fetch_add(1, Ordering::Relaxed);
    let (code, words) = (status.as_u16(), text.trim_end());
    if status == StatusCode::OK {
        tracing::info!(pod = %context.pod, words, "a preStop hook is answered");
    } else {
        // The kubelet keeps it to itself.
        tracing::warn!(pod = %context.pod, status = code, words, "a preStop hook is answered");
    }
    // One request a connection: who has opened it was looked at once.
    (status, [(CONNECTION, "close")], text).into_response()
}

fn status(exit: Exit) -> StatusCode {
    match exit {
        Exit::Done => StatusCode::OK,
        Exit::Usage => StatusCode::BAD_REQUEST,
        Exit::NotPermitted => StatusCode::FORBIDDEN,
        Exit::NoSuchService => StatusCode::NOT_FOUND,
        Exit::Conflict => StatusCode::CONFLICT,
        Exit::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl Context {
    /// To the agent's own interface, as somebody who may act on this pod and on nothing else.
    fn dial(self: &Arc<Self>) -> Dial {
        let context = Arc::clone(self);
        Arc::new(move || {
            let (ours, theirs) = duplex(PIPE);
            let peer: Arc<dyn Identify> = Arc::new(Kubelet { netns: context.netns });
            let finish = context.shared.finish.subscribe();
            let router = context.shared.router.clone();
            tokio::spawn(serve_connection(theirs, peer, router, finish));
            ours
        })
    }
}

/// The kubelet, for one pod: as root of that pod would, it may change what is in its network namespace.
struct Kubelet {
    netns: u32,
}

impl Identify for Kubelet {
    fn caller(&self) -> Result<Caller, Unidentified> {
        Ok(Caller {
            netns: self.netns,
            // Of no pid namespace, so that it is no administrator of the node.
            pidns: 0,
            net_admin: true,
            netns_owners: vec![INITIAL_USERNS],
            ..Caller::remote()
        })
    }

    fn seat(&self) -> (u32, u32) {
        (0, self.netns)
    }
}

//! The same interface over TCP (`--listen`), for release scripts and load balancers elsewhere. Nobody can be
//! identified by the kernel there, so there are two roles: who proves to be an operator, by a token or a
//! certificate, may do everything; all others may ask for health and metrics, and whether a port is serving.

mod agent_check;
mod door;
mod file;
mod pace;
mod tls;
mod token;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, middleware::from_fn_with_state};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

pub use self::agent_check::AgentCheck;
use self::{
    door::{Door, Remote, at_the_door},
    pace::{Pace, Visit},
    tls::Tls,
    token::Tokens,
};
use super::{
    connection::{Connections, serve_connection},
    server::{ACCEPT_AGAIN_AFTER, Refusals},
};

/// How long a client may take for the TLS handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// What the endpoint is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where to listen.
    pub listen: SocketAddr,
    /// With TLS.
    pub tls: Option<TlsFiles>,
    /// Operators are those who know a line of this file.
    pub token_file: Option<PathBuf>,
    /// Whether another address than a loopback one may be listened on without TLS.
    pub plain: bool,
}

/// Files in PEM form; read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those between it and its authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Operators are those whose certificates these authorities have signed.
    pub client_ca: Option<PathBuf>,
}

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Tokens and answers would be readable on the wire.
    #[error(
        "{0} is no loopback address, and without TLS everybody on the way reads the token: give --tls-cert and \
         --tls-key, or --listen-plain if something else protects the way"
    )]
    Plain(SocketAddr),
    /// It is in use, most likely.
    #[error("cannot listen on {addr}; is another agent running there? ({option})")]
    Bind {
        /// Where.
        addr: SocketAddr,
        /// The option that says so.
        option: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file cannot be used.
    #[error("cannot use {} ({option}): {why}", path.display())]
    File {
        /// The option that named it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl EndpointError {
    fn file(option: &'static str, path: &Path, why: impl ToString) -> Self {
        Self::File { option, path: path.to_owned(), why: why.to_string() }
    }
}

/// The endpoint, listening.
pub struct Endpoint {
    listener: TcpListener,
    tls: Option<Tls>,
    door: Arc<Door>,
}

impl Endpoint {
    /// Reads the files and listens.
    ///
    /// # Errors
    /// A file cannot be used, or the address, or TLS is missing.
    pub async fn bind(options: &Options) -> Result<Self, EndpointError> {
        let addr = options.listen;
        if options.tls.is_none() && !addr.ip().to_canonical().is_loopback() && !options.plain {
            return Err(EndpointError::Plain(addr));
        }
        let tls = options.tls.clone().map(Tls::load).transpose()?;
        let tokens = options.token_file.clone().map(Tokens::load).transpose()?;
        let listener = TcpListener::bind(addr).await;
        let option = "--listen";
        let listener = listener.map_err(|source| EndpointError::Bind { addr, option, source })?;
        if tokens.is_none() && options.tls.as_ref().is_none_or(|tls| tls.client_ca.is_none()) {
            tracing::info!(
                "without --token-file and --tls-client-ca nobody may do more over TCP than ask for health and metrics"
            );
        }
        let door = Arc::new(Door { tokens, pace: Pace::default() });
        Ok(Self { listener, tls, door })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Never, for a socket that is open.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts connections until `stop`. Returns those that are still open.
    pub async fn serve(self, router: Router, stop: impl Future<Output = ()>) -> Connections {
        let router = router.layer(from_fn_with_state(Arc::clone(&self.door), at_the_door));
        accept(&self.listener, &self.door.pace, stop, |stream, addr, visit, finish| {
            let tls = self.tls.as_ref().map(Tls::acceptor);
            serve_one(stream, Caller { addr, tls, visit }, router.clone(), finish)
        })
        .await
    }
}

/// Accepts connections until `stop`, as many as a peer may have. Returns those that are still open.
async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: &TcpListener,
    pace: &Pace,
    stop: impl Future<Output = ()>,
    serve: impl Fn(TcpStream, SocketAddr, Visit, watch::Receiver<bool>) -> F,
) -> Connections {
    let mut connections = Connections::default();
    let mut refusals = Refusals::default();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => return connections,
            accepted = listener.accept() => accepted,
            () = connections.ended() => continue,
        };
        match accepted {
            Ok((stream, addr)) => match pace.enter(addr.ip()) {
                Ok(visit) => connections.spawn(|finish| serve(stream, addr, visit, finish)),
                Err(full) => refusals.log(addr, &full),
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection over TCP");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

/// Who has connected.
struct Caller {
    addr: SocketAddr,
    tls: Option<tokio_rustls::TlsAcceptor>,
    visit: Visit,
}

async fn serve_one(
    stream: TcpStream,
    caller: Caller,
    router: Router,
    finish: watch::Receiver<bool>,
) {
    let Caller { addr, tls, visit } = caller;
    let Some(tls) = tls else {
        let remote = Arc::new(Remote { addr, has_certificate: false });
        serve_connection(stream, remote, router, finish).await;
        return drop(visit);
    };
    match timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            // It was verified: the handshake fails for one that is not good.
            let has_certificate = stream.get_ref().1.peer_certificates().is_some();
            let remote = Arc::new(Remote { addr, has_certificate });
            serve_connection(stream, remote, router, finish).await;
        }
        Ok(Err(error)) => tracing::info!(peer = %addr, %error, "no TLS connection"),
        Err(_) => tracing::info!(peer = %addr, "the TLS handshake took too long"),
    }
    drop(visit);
}

#[cfg(test)]
mod tests;

//! The socket: made, guarded against a second agent, served connection by connection, and removed.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, middleware::from_fn};
use rustix::fs::{FlockOperation, flock};
use tokio::{
    net::{UnixListener, UnixStream},
    time::Instant,
};

use super::{
    browser,
    connection::{Connections, serve_connection},
    peer::{Identify, Peer},
    seats::Seats,
};

/// Refused connections are logged at most this often: who is refused may try without end.
const REFUSALS_EVERY: Duration = Duration::from_secs(10);
/// Pause after accept(2) failed, most likely for want of file descriptors.
pub(super) const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The socket that clients connect to. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Held as long as the socket exists: two agents cannot both find it stale and replace it.
    _lock: File,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("another agent is using {}; stop it, or give --socket another path", .0.display())]
    InUse(PathBuf),
    /// Something else has the name.
    #[error("{} exists and is not a socket; remove it, or give --socket another path", .0.display())]
    NotASocket(PathBuf),
    /// A system call failed.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Socket {
    /// Makes the socket, with mode 0666 (who may do what is decided at each request), and its folder. A
    /// socket that nobody answers on is replaced.
    ///
    /// # Errors
    /// Another agent answers there, or a system call failed.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let fail = |op, path: &Path| {
            let path = path.to_owned();
            move |source| BindError::Io { op, path, source }
        };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
            made.map_err(fail("create folder", folder))?;
        }
        let lock_path = path.with_added_extension("lock");
        let lock = open_lock(&lock_path).map_err(fail("create", &lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(BindError::InUse(path.to_owned())),
            locked => locked.map_err(|errno| fail("lock", &lock_path)(errno.into()))?,
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(fail("listen on", path))?;
        let socket = Self { listener, path: path.to_owned(), _lock: lock };
        let mode = Permissions::from_mode(0o666);
        fs::set_permissions(path, mode).map_err(fail("set the mode of", path))?;
        Ok(socket)
    }

    /// Accepts connections until `stop`, then removes the socket. Returns those that are still open.
    pub async fn serve(
        self,
        router: Router,
        seats: Seats,
        stop: impl Future<Output = ()>,
    ) -> Connections {
        let router = router.layer(from_fn(browser::by_our_own_name));
        let mut connections = Connections::default();
        let mut refusals = Refusals::default();
        let mut stop = std::pin::pin!(stop);
        loop {
            let stream = tokio::select! {
                () = &mut stop => return connections,
                accepted = self.listener.accept() => accepted,
                () = connections.ended() => continue,
            };
            let admitted = stream.and_then(|(stream, _)| {
                let peer: Arc<dyn Identify> = Arc::new(Peer::of(&stream)?);
                Ok((stream, peer))
            });
            match admitted {
                Ok((stream, peer)) => {
                    admit(&mut connections, stream, peer, &router, &seats, &mut refusals);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(socket = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

/// Opens the lock file. Nobody else may: who can open it could hold the lock and keep us from starting.
fn open_lock(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
}

/// Removes what a dead agent left behind. The lock is held, so no other agent is just starting.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(BindError::Io { op: "look at", path: path.to_owned(), source }),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(BindError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    // Whoever answers without holding the lock is no agent of this version, and still in use.
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        _ => return Err(BindError::InUse(path.to_owned())),
    }
    tracing::info!(socket = %path.display(), "replacing the socket of an agent that is gone");
    fs::remove_file(path).map_err(|source| BindError::Io {
        op: "remove",
        path: path.to_owned(),
        source,
    })
}

/// Connections that found no seat.
#[derive(Default)]
pub(super) struct Refusals {
    not_logged: u64,
    logged_at: Option<Instant>,
}

impl Refusals {
    pub(super) fn log(&mut self, who: impl std::fmt::Debug, reason: &impl std::fmt::Display) {
        if self.logged_at.is_some_and(|at| at.elapsed() < REFUSALS_EVERY) {
            self.not_logged += 1;
            return;
        }
        let others = std::mem::take(&mut self.not_logged);
        self.logged_at = Some(Instant::now());
        tracing::warn!(?who, %reason, others, "connection refused");
    }
}

/// Serves a connection if there is a seat for it.
fn admit(
    connections: &mut Connections,
    stream: UnixStream,
    peer: Arc<dyn Identify>,
    router: &Router,
    seats: &Seats,
    refusals: &mut Refusals,
) {
    let seat = match seats.take(peer.seat()) {
        Ok(seat) => seat,
        // It says who.
        Err(full) => return refusals.log(peer.seat(), &full),
    };
    let router = router.clone();
    connections.spawn(async move |finish| {
        serve_connection(stream, peer, router, finish).await;
        drop(seat);
    });
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;

//! Connections of our own to a service, made inside its network namespace to see whether it answers. They pass its
//! closed gate and do not count, as the kubelet's do, because they are noted among the probes before their first SYN.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use drainctl_common::probe::ProbeKey;
use rustix::{
    io::Errno,
    net::{bind, connect, connect_unspec, getsockname},
};

use super::{KernelError, diag, linux::lock, netns::Namespaces, probes::Probes, straggling};
use crate::drain::Service;

/// How often another port is tried if somebody takes it between being chosen and being bound.
const TRIES: usize = 5;
/// Pauses until the server's side has seen our RST: on a busy machine it may wait for `ksoftirqd`.
const PAUSES_MS: [u64; 6] = [0, 1, 4, 16, 64, 256];

/// A connection that is being made to a service, see [`super::Kernel::open_check`].
pub struct Check {
    /// Not blocking; writable once the attempt has ended.
    pub socket: OwnedFd,
    /// To be given back.
    pub note: CheckNote,
}

/// That a connection is a check. Of one that is not given back the server's side may count for a moment.
pub struct CheckNote {
    noted: Noted,
}

/// A port that is ours, and the connection from it that is noted. The note goes first, then the port.
struct Noted {
    service: Service,
    client: SocketAddr,
    _entry: Entry,
    /// The same socket as [`Check::socket`].
    port: OwnedFd,
}

struct Entry {
    probes: Arc<Mutex<Probes>>,
    key: ProbeKey,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.probes).forget_check(&self.key);
    }
}

/// Begins to connect to the service at one of its addresses, in whose namespace this thread is.
pub(super) fn open_here(
    probes: &Arc<Mutex<Probes>>,
    service: Service,
    to: IpAddr,
) -> Result<Check, KernelError> {
    let server = SocketAddr::new(to, service.port);
    let fail = |e: Errno| KernelError::op("connect to", server, e);
    let (socket, client) = bound(server).map_err(fail)?;
    let port = socket.try_clone().map_err(|e| KernelError::op("keep a socket to", server, e))?;
    let key = lock(probes).note_check(client, server, service.netns)?;
    let entry = Entry { probes: Arc::clone(probes), key };
    match connect(&socket, &server) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(e) => return Err(fail(e)),
    }
    let noted = Noted { service, client, _entry: entry, port };
    Ok(Check { socket, note: CheckNote { noted } })
}

/// Resets the connection, and forgets it when the server's side is gone: it must not count before, and nobody else
/// may have its addresses and ports after.
pub(super) fn close(namespaces: &Namespaces, note: CheckNote) {
    let noted = note.noted;
    // The socket is ours still, and so is its port (`tcp_disconnect`), which was named when it was bound.
    let _ = connect_unspec(&noted.port);
    let Noted { service, client, .. } = noted;
    for pause in PAUSES_MS {
        thread::sleep(Duration::from_millis(pause));
        let look = namespaces.inside(service.netns, || diag::look(&[service.port], None));
        // Of a namespace that is gone nothing counts.
        if !look.is_ok_and(|look| look.sockets.iter().any(|socket| socket.peer == client)) {
            return;
        }
    }
}

/// A socket with a source address and port, for connections to `server` in the same namespace.
fn bound(server: SocketAddr) -> Result<(OwnedFd, SocketAddr), Errno> {
    let any_port = SocketAddr::new(server.ip(), 0);
    let mut last = Errno::ADDRINUSE;
    for _ in 0..TRIES {
        let chosen = straggling::socket_for(server)?;
        bind(&chosen, &any_port)?;
        let client = SocketAddr::try_from(getsockname(&chosen)?)?;
        drop(chosen);
        // Bound by its number: else the kernel would give the port away when we disconnect (`SOCK_BINDPORT_LOCK`).
        let socket = straggling::socket_for(server)?;
        match bind(&socket, &client) {
            Ok(()) => return Ok((socket, client)),
            Err(e) => last = e,
        }
    }
    Err(last)
}

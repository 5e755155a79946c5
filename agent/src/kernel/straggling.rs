//! Sockets of our own in other namespaces: listeners that take the connections that a closed gate does not let pass,
//! outgoing connections that carry them on, and listeners for preStop hooks.

use std::{
    any::Any,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, ipproto, listen, socket,
    socket_with, sockopt,
};

use super::{KernelError, hop::Hop, sys};

/// Longest accept queue of a listener with a port: kubelets are few.
const HOOK_BACKLOG: i32 = 128;
/// Longest accept queue; the kernel takes `net.core.somaxconn` if that is less.
const BACKLOG: i32 = 65_535;

/// What becomes of the connections that a listener is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    /// They are established, and somebody accepts them.
    Accepting,
    /// Nothing that comes is answered.
    Silent,
    /// As `Accepting`, but for whoever connects to this port, rather than for those that a gate steers to one that
    /// the kernel chooses.
    Port(u16),
}

/// A listener of ours inside a namespace. The namespace lives at least as long.
pub struct Listener {
    /// Not blocking.
    pub socket: OwnedFd,
    /// What has to stay alive with it.
    pub(crate) with: Box<dyn Any + Send + Sync>,
}

/// An attempt to connect that is under way.
pub struct Outgoing {
    /// Not blocking; writable once the attempt has ended. Resets when it is closed.
    pub socket: OwnedFd,
    /// Its SYNs are marked until this is dropped.
    pub(crate) mark: Box<dyn Any + Send + Sync>,
}

/// Listens in the namespace of the calling thread, for IPv4 and, if there is such a thing here, IPv6.
pub(super) fn listen_here(how: Listening) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let open = |family| socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP));
    let (fd, any) = match open(AddressFamily::INET6) {
        Ok(fd) => {
            sockopt::set_ipv6_v6only(&fd, false)?;
            (fd, IpAddr::from(Ipv6Addr::UNSPECIFIED))
        }
        Err(_) => (open(AddressFamily::INET)?, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
    };
    let (port, backlog) = match how {
        Listening::Accepting => {
            sys::save_syn(fd.as_fd())?;
            (0, BACKLOG)
        }
        Listening::Silent => {
            sys::drop_all(fd.as_fd())?;
            (0, BACKLOG)
        }
        Listening::Port(port) => (port, HOOK_BACKLOG),
    };
    // What it accepts in a service's place has the service's port: without this, a new server could not bind to it
    // meanwhile (`inet_csk_get_port`). And connections of an agent before this one may still be in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&fd, true)?;
    bind(&fd, &SocketAddr::new(any, port))?;
    listen(&fd, backlog)?;
    Ok(fd)
}

/// Begins to connect in the namespace of the calling thread, with marked SYNs.
pub(super) fn connect_here(
    target: SocketAddr,
    hop: &std::sync::Arc<Hop>,
    token: u64,
) -> Result<Outgoing, KernelError> {
    let fail = |e: io::Error| KernelError::op("connect to", target, e);
    let fd = socket_for(target).map_err(|e| fail(e.into()))?;
    let cookie = sys::socket_cookie(fd.as_fd()).map_err(fail)?;
    // Before the first SYN: one without a mark could go round for ever.
    let mark = hop.mark(cookie, token)?;
    match connect(&fd, &target) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(e) => return Err(fail(e.into())),
    }
    Ok(Outgoing { socket: fd, mark: Box::new(mark) })
}

/// A socket for a connection to this address. Resets when it is closed.
pub(super) fn socket_for(target: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    reset_at_close(&socket, true);
    Ok(socket)
}

/// Whether a connection to this address ends in the namespace of the calling thread: the kernel takes an own
/// address for the source if, and only if, it is the destination.
pub(super) fn is_own_here(addr: IpAddr) -> bool {
    let addr = addr.to_canonical();
    if addr.is_loopback() || addr.is_unspecified() {
        return true;
    }
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let source = socket(family, SocketType::DGRAM, None).and_then(|fd| {
        connect(&fd, &SocketAddr::new(addr, 9))?;
        getsockname(&fd)
    });
    let source = source.ok().and_then(|source| SocketAddr::try_from(source).ok());
    source.is_some_and(|source| source.ip() == addr)
}

/// Whether the other side gets a RST when the socket is closed (`SO_LINGER` 0), or a FIN.
pub fn reset_at_close(socket: impl std::os::fd::AsFd, resets: bool) {
    // It does not fail for a socket.
    let _ = sockopt::set_socket_linger(socket, resets.then_some(Duration::ZERO));
}

/// The SYN that opened an accepted connection, from its IP header on; empty if the kernel has not kept it, as with
/// SYN cookies.
pub fn saved_syn(socket: impl std::os::fd::AsFd) -> Vec<u8> {
    sys::saved_syn(socket.as_fd()).unwrap_or_default()
}

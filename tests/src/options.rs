//! Options of sockets that real servers set and rustix does not know.

use std::{io, net::TcpStream, os::fd::AsRawFd};

use anyhow::{Context, Result};

/// Asks for notifications of zero-copy sends, as a server does once for each connection.
pub fn ask_for_zero_copy(socket: &TcpStream) -> Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1).context("SO_ZEROCOPY")
}

/// Takes no more from the server while so many bytes are not sent yet, however large its send buffer is.
pub fn limit_not_sent(socket: &TcpStream, bytes: libc::c_int) -> Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes).context("TCP_NOTSENT_LOWAT")
}

/// Puts the kernel's TLS onto a connection, as a server does that hands its keys over next.
pub fn ask_for_kernel_tls(socket: &TcpStream) -> Result<()> {
    let name = b"tls";
    // SAFETY: the kernel reads as many bytes from there as are told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_ULP,
            name.as_ptr().cast(),
            libc::socklen_t::try_from(name.len())?,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()).context("TCP_ULP") } else { Ok(()) }
}

fn set(
    socket: &TcpStream,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> Result<()> {
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>())?;
    // SAFETY: the kernel reads an int from there.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size)
    };
    if result < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
}

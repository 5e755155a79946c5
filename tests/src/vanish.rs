//! A client that is gone without a word, so that a server's side can stay in large numbers.

use std::{io, net::TcpStream, os::fd::AsRawFd as _};

use anyhow::{Context, Result};

/// Closes the connection on this side without a FIN or RST (`TCP_REPAIR`, tcp(7)): the other side stays
/// established. Needs CAP_NET_ADMIN in the namespace of the socket.
pub fn vanish(stream: TcpStream) -> Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is as long as is said, and lives through the call.
    let status = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()).context("TCP_REPAIR") }
}

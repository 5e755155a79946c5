//! Sends a FIN on somebody else's connection, as their server would at a keep-alive timeout: a descriptor of
//! the socket is borrowed from a process that holds it, and closed again at once, since a copy that is kept
//! would hold the connection open after the server has closed it.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    process,
};

use rustix::{
    io::{Errno, ioctl_fionread},
    net::{Shutdown, shutdown},
};

use super::{
    Finish, KernelError,
    holders::{borrow, holders, lives_in},
    netns::Namespaces,
    sys,
};

/// See [`Kernel::finish`](super::Kernel::finish).
pub(super) fn finish(
    namespaces: &Namespaces,
    netns: u32,
    flows: &[Finish],
) -> Result<Vec<u64>, KernelError> {
    if flows.is_empty() {
        return Ok(Vec::new());
    }
    namespaces.open(netns)?; // Or it is gone.
    let wanted: HashMap<u32, &Finish> = flows.iter().map(|flow| (flow.inode, flow)).collect();
    // Another process of the node may hold a socket of this namespace, but its server does as well; or we do, if we
    // carry the connection.
    let holds =
        |pid| lives_in(pid, netns) || u32::try_from(pid).is_ok_and(|pid| pid == process::id());
    let places = holders(holds, |inode| wanted.contains_key(&inode), wanted.len());
    let mut done = Vec::new();
    let mut refused = None;
    for (inode, place) in places? {
        let Some(flow) = wanted.get(&inode) else { continue };
        match borrow(place) {
            Ok(socket) => {
                if is_unchanged(flow, &socket) && shutdown(socket, Shutdown::Write).is_ok() {
                    done.push(flow.cookie);
                }
            }
            // The process has ended, or closed or replaced the descriptor since: no error.
            Err(Errno::SRCH | Errno::BADF) => {}
            Err(e) => refused = Some(e),
        }
    }
    match refused {
        Some(e) if done.is_empty() => {
            Err(KernelError::op("borrow sockets from processes in network namespace", netns, e))
        }
        _ => Ok(done),
    }
}

/// Whether this is the flow, and as it was judged. The number of a descriptor may belong to another socket by
/// now, and bytes may have come.
fn is_unchanged(flow: &Finish, socket: &OwnedFd) -> bool {
    sys::socket_cookie(socket.as_fd()).is_ok_and(|cookie| cookie == flow.cookie)
        && sys::bytes_received(socket.as_fd()).is_ok_and(|received| received == flow.received)
        && ioctl_fionread(socket).is_ok_and(|unread| unread == 0)
}

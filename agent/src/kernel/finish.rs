//! Sends a FIN on somebody else's connection, as their server would at a keep-alive timeout: a descriptor of
//! the socket is borrowed from a process that holds it, and closed again at once, since a copy that is kept
//! would hold the connection open after the server has closed it.

use std::{
    collections::HashMap,
    fs,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    io::{Errno, ioctl_fionread},
    net::{Shutdown, shutdown},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::{
    Finish, KernelError,
    netns::{self, Namespaces},
    sys,
};

/// A descriptor of a process.
type Place = (i32, i32);

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
    let mut done = Vec::new();
    let mut refused = None;
    for (inode, place) in holders(netns, &wanted)? {
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

/// A process and descriptor for each of these sockets that any process of the namespace holds. Reads /proc:
/// some milliseconds for thousands of descriptors. Processes that end meanwhile are passed over.
fn holders(netns: u32, wanted: &HashMap<u32, &Finish>) -> Result<HashMap<u32, Place>, KernelError> {
    let fail = |e: procfs::ProcError| KernelError::op("read", "/proc", e);
    let mut places = HashMap::new();
    for process in procfs::process::all_processes().map_err(fail)?.flatten() {
        let lives_there = || {
            let path = format!("/proc/{}/ns/net", process.pid);
            netns::inode(path.as_ref()).is_ok_and(|inode| inode == netns)
        };
        if places.len() == wanted.len() {
            break;
        }
        // Another process of the node may hold a socket of this namespace, but its server does as well.
        if !lives_there() {
            continue;
        }
        let Ok(descriptors) = fs::read_dir(format!("/proc/{}/fd", process.pid)) else { continue };
        for descriptor in descriptors.flatten() {
            let number = descriptor.file_name().to_str().and_then(|name| name.parse().ok());
            let inode = fs::read_link(descriptor.path()).ok().and_then(|link| {
                let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
                inode.parse::<u32>().ok()
            });
            if let (Some(number), Some(inode)) = (number, inode)
                && wanted.contains_key(&inode)
            {
                places.insert(inode, (process.pid, number));
            }
        }
    }
    Ok(places)
}

fn borrow((pid, descriptor): Place) -> rustix::io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty())
}

/// Whether this is the flow, and as it was judged. The number of a descriptor may belong to another socket by
/// now, and bytes may have come.
fn is_unchanged(flow: &Finish, socket: &OwnedFd) -> bool {
    sys::socket_cookie(socket.as_fd()).is_ok_and(|cookie| cookie == flow.cookie)
        && sys::bytes_received(socket.as_fd()).is_ok_and(|received| received == flow.received)
        && ioctl_fionread(socket).is_ok_and(|unread| unread == 0)
}

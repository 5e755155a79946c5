//! Which processes hold which sockets, and borrowing those.

use std::{collections::HashMap, fs, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::{KernelError, netns};

/// A descriptor of a process.
pub(super) type Place = (i32, i32);

/// A process and descriptor for each of the wanted sockets (inode numbers) that one of the processes `among` holds,
/// at most so many. Reads /proc: some milliseconds for thousands of descriptors. Processes that end meanwhile are
/// passed over.
pub(super) fn holders(
    among: impl Fn(i32) -> bool,
    wanted: impl Fn(u32) -> bool,
    at_most: usize,
) -> Result<HashMap<u32, Place>, KernelError> {
    let mut places = HashMap::new();
    for pid in processes()? {
        if places.len() == at_most {
            break;
        }
        if among(pid) {
            places.extend(sockets(pid).filter(|(inode, _)| wanted(*inode)));
        }
    }
    Ok(places)
}

/// All processes.
pub(super) fn processes() -> Result<Vec<i32>, KernelError> {
    let all = fs::read_dir("/proc").map_err(|e| KernelError::op("read", "/proc", e))?;
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    Ok(all.flatten().filter_map(pid).collect())
}

/// Whether a process lives in this network namespace.
pub(super) fn lives_in(pid: i32, netns: u32) -> bool {
    let path = format!("/proc/{pid}/ns/net");
    netns::inode(path.as_ref()).is_ok_and(|inode| inode == netns)
}

/// The sockets of a process, by inode number, and where it holds each; none if it has ended.
pub(super) fn sockets(pid: i32) -> impl Iterator<Item = (u32, Place)> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.filter_map(move |descriptor| {
        let number = descriptor.file_name().to_str()?.parse().ok()?;
        let link = fs::read_link(descriptor.path()).ok()?;
        let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        Some((inode.parse().ok()?, (pid, number)))
    })
}

/// A copy of a descriptor. It holds the socket open, so it is to be closed at once.
pub(super) fn borrow((pid, descriptor): Place) -> rustix::io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty())
}

//! Asks the kernel who is at the other end of a connection. Nothing the caller says about itself is believed.

use std::{
    collections::HashSet,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
};

use procfs::{
    ProcError,
    process::{FDTarget, Process, all_processes},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::net::{UnixStream, unix::UCred};

use super::auth::Caller;
use crate::kernel::peer::{owning_user_namespace, parent_user_namespace, peer_pidfd};

/// Bit of CAP_NET_ADMIN in a capability set (capabilities(7)).
const CAP_NET_ADMIN: u32 = 12;
/// User namespaces nest at most 33 levels deep (`create_user_ns()`, kernel/user_namespace.c).
const MAX_USERNS_DEPTH: usize = 33;

/// Somebody who can be asked who they are. Tests answer for processes that are not there.
pub trait Identify: Send + Sync + 'static {
    /// Who it is now. Blocks for some ten microseconds.
    ///
    /// # Errors
    /// It cannot be told, so it may do nothing.
    fn caller(&self) -> Result<Caller, Unidentified>;

    /// User id and network namespace, to share out connections; zero where unknown.
    fn seat(&self) -> (u32, u32);
}

/// Why a caller cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum Unidentified {
    /// The process is not visible in the agent's pid namespace.
    #[error(
        "the calling process is not visible to the agent: the agent must run in the node's pid namespace \
         (hostPID: true in Kubernetes)"
    )]
    Invisible,
    /// The process ended.
    #[error(
        "the calling process ended before it could be identified; keep it running until it has its answer"
    )]
    Gone,
    /// It became somebody else, for example by executing a setuid program.
    #[error(
        "the calling process changed its user from {connected} to {now} after it connected; connect again"
    )]
    Changed {
        /// User id when it connected.
        connected: u32,
        /// User id now.
        now: u32,
    },
    /// /proc could not be read.
    #[error("the calling process could not be identified")]
    Proc(#[from] ProcError),
    /// A namespace could not be read.
    #[error("the namespaces of the calling process could not be read")]
    Namespaces(#[from] io::Error),
}

/// The process that connected a Unix socket.
#[derive(Debug)]
pub struct Peer {
    credentials: UCred,
    process: Option<OwnedFd>,
}

impl Peer {
    /// Who connected `stream`. Never fails: whoever cannot be identified is told so at its first request.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        // Without SO_PEERPIDFD the process is pinned by its pid right after accept(2); that its uid is the
        // one that connected is checked at each request.
        let by_pid = || {
            let pid = Pid::from_raw(credentials.pid()?)?;
            pidfd_open(pid, PidfdFlags::empty()).ok()
        };
        let process = match peer_pidfd(stream) {
            Ok(process) => Some(process),
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => by_pid(),
            // It has ended already: by now its pid may be another's.
            Err(_) => None,
        };
        Ok(Self { credentials, process })
    }

    /// Whether the process that connected is still there, so that its pid means no other.
    fn is_alive(&self) -> bool {
        let Some(process) = &self.process else { return false };
        // A pidfd becomes readable when its process ends (pidfd_open(2)).
        let mut fds = [PollFd::new(process, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }

    fn pid(&self) -> Option<i32> {
        self.credentials.pid().filter(|&pid| pid > 0)
    }
}

impl Identify for Peer {
    fn caller(&self) -> Result<Caller, Unidentified> {
        let pid = self.pid().ok_or(Unidentified::Invisible)?;
        let caller = Process::new(pid)
            .map_err(Unidentified::from)
            .and_then(|process| read_caller(&process, self.credentials.uid()));
        // Checked after reading: if it is alive now, all that was read is about it.
        if self.is_alive() { caller } else { Err(Unidentified::Gone) }
    }

    fn seat(&self) -> (u32, u32) {
        let netns = self
            .pid()
            .and_then(|pid| std::fs::metadata(format!("/proc/{pid}/ns/net")).ok())
            .and_then(|meta| u32::try_from(meta.ino()).ok());
        (self.credentials.uid(), netns.unwrap_or(0))
    }
}

/// Reads what the kernel knows of a process that connected as `uid`.
fn read_caller(process: &Process, uid: u32) -> Result<Caller, Unidentified> {
    let status = process.status()?;
    if status.euid != uid {
        return Err(Unidentified::Changed { connected: uid, now: status.euid });
    }
    let netns = process.open_relative("ns/net")?;
    Ok(Caller {
        pid: process.pid,
        uid,
        netns: u32::try_from(netns.metadata()?.ino()).unwrap_or(0),
        userns: process.open_relative("ns/user")?.metadata()?.ino(),
        pidns: process.open_relative("ns/pid")?.metadata()?.ino(),
        net_admin: status.capeff & (1 << CAP_NET_ADMIN) != 0 && !gained_privileges(process, uid)?,
        netns_owners: owners(&netns)?,
        cgroup: cgroup_of(process),
    })
}

/// Whether the process gained capabilities by executing a privileged program, possibly after it connected
/// (and the program then does not know what was asked in its name). The kernel makes such a process
/// undumpable and gives its /proc files to root (`commit_creds()`, kernel/cred.c; proc(5)).
fn gained_privileges(process: &Process, uid: u32) -> Result<bool, ProcError> {
    Ok(process.uid()? != uid)
}

/// Inode numbers of the user namespace that owns `ns`, and of all above it.
fn owners(ns: impl AsFd) -> io::Result<Vec<u64>> {
    let mut owners = Vec::new();
    let mut next = owning_user_namespace(ns);
    while let Ok(userns) = next {
        owners.push(rustix::fs::fstat(&userns)?.st_ino);
        if owners.len() > MAX_USERNS_DEPTH {
            break;
        }
        next = parent_user_namespace(&userns);
    }
    Ok(owners)
}

fn cgroup_of(process: &Process) -> Option<String> {
    let cgroups = process.cgroups().ok()?;
    cgroups.into_iter().find(|group| group.hierarchy == 0).map(|group| group.pathname)
}

/// Which of these sockets (inode numbers) are held by a process of this cgroup. Reads /proc: milliseconds.
///
/// # Errors
/// /proc cannot be read.
pub(super) fn held_in_cgroup(inodes: &[u32], cgroup: &str) -> Result<HashSet<u32>, ProcError> {
    let members = all_processes()?
        .filter_map(Result::ok)
        .filter(|process| cgroup_of(process).as_deref() == Some(cgroup));
    let mut held = HashSet::new();
    for process in members {
        // A process that ends meanwhile holds nothing.
        let Ok(fds) = process.fd() else { continue };
        let sockets = fds.filter_map(Result::ok).filter_map(|fd| match fd.target {
            FDTarget::Socket(inode) => u32::try_from(inode).ok(),
            _ => None,
        });
        held.extend(sockets.filter(|inode| inodes.contains(inode)));
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd};

    use super::*;

    fn ino(path: &str) -> u64 {
        std::fs::metadata(path).unwrap().ino()
    }

    #[tokio::test]
    async fn our_own_process_is_recognised() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(&ours).unwrap();
        let caller = peer.caller().unwrap();
        assert_eq!(caller.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(u64::from(caller.netns), ino("/proc/self/ns/net"));
        assert_eq!(caller.userns, ino("/proc/self/ns/user"));
        assert_eq!(caller.pidns, ino("/proc/self/ns/pid"));
        assert_eq!(peer.seat(), (caller.uid, caller.netns));
    }

    #[tokio::test]
    async fn a_process_that_ended_is_nobody() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer { process: Some(process), ..Peer::of(&ours).unwrap() };
        child.wait().unwrap();
        assert!(matches!(peer.caller(), Err(Unidentified::Gone)));
    }

    #[tokio::test]
    async fn who_cannot_be_pinned_is_nobody() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer { process: None, ..Peer::of(&ours).unwrap() };
        assert!(matches!(peer.caller(), Err(Unidentified::Gone)));
    }

    #[test]
    fn another_user_than_the_one_that_connected_is_nobody() {
        let error = read_caller(&Process::myself().unwrap(), 4_000_000).unwrap_err();
        assert!(matches!(error, Unidentified::Changed { connected: 4_000_000, .. }));
    }

    #[test]
    fn finds_the_holder_of_a_socket_by_cgroup() {
        let cgroup = cgroup_of(&Process::myself().unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = ino(&format!("/proc/self/fd/{}", listener.as_raw_fd()));
        let inode = u32::try_from(inode).unwrap();
        assert_eq!(held_in_cgroup(&[inode, 1], &cgroup).unwrap(), HashSet::from([inode]));
        assert!(held_in_cgroup(&[inode], "/no/such/cgroup").unwrap().is_empty());
    }
}

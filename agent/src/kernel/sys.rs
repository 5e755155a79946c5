//! System calls that no crate wraps.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use super::KernelError;

/// Commands of `bpf(2)` (`enum bpf_cmd`).
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;

/// The part of `union bpf_attr` for `BPF_OBJ_GET`.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part for `BPF_LINK_UPDATE`; its first field alone is that for `BPF_LINK_DETACH`.
#[repr(C)]
struct LinkUpdate {
    link_fd: i32,
    new_prog_fd: i32,
    flags: u32,
    old_prog_fd: u32,
}

/// `bpf(2)` with the part of `union bpf_attr` that the command reads.
fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads as many bytes of `attr` as its size says, and writes none for these commands.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Opens the link or map that is pinned at `path`.
///
/// # Errors
/// There is none.
pub(super) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = ObjGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    let fd = bpf(BPF_OBJ_GET, &attr)?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Puts another program behind a link, in one step: packets meet the old one or the new one.
///
/// # Errors
/// What the link was attached to is gone, or the program is of another type.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (link_fd, new_prog_fd) = (link.as_raw_fd(), program.as_raw_fd());
    bpf(BPF_LINK_UPDATE, &LinkUpdate { link_fd, new_prog_fd, flags: 0, old_prog_fd: 0 }).map(drop)
}

/// Detaches a link from what it is attached to, now. What is gone already is no error.
///
/// # Errors
/// The kernel cannot detach links of this type.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &link.as_raw_fd()).map(drop)
}

/// `MEMBARRIER_CMD_GLOBAL` (`include/uapi/linux/membarrier.h`).
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// Returns after every CPU has left what it was doing in an RCU read-side section when this was called
/// (`membarrier(2)`, which is `synchronize_rcu` in the kernel): packets that were being processed by then
/// are through. Takes some milliseconds.
///
/// # Errors
/// The kernel runs with `nohz_full`, where the command does not exist.
fn wait_for_rcu() -> io::Result<()> {
    // SAFETY: membarrier touches no memory of ours.
    match unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// [`wait_for_rcu`], or a tenth of a second where the kernel has no such command: by then, too, what was
/// running in the kernel has ended.
pub(super) fn settle() {
    if let Err(e) = wait_for_rcu() {
        tracing::debug!(error = %e, "no membarrier on this kernel: waiting instead");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Has the C library give freed memory back to the kernel. A look at a hundred thousand sockets takes tens of MiB
/// for a moment, and threads that end would leave them behind in arenas of their own.
pub fn give_memory_back() {
    /// What is larger than this is mapped by itself, and unmapped when it is freed.
    const MAPPED_FROM: libc::c_int = 128 * 1024;
    const ARENAS: libc::c_int = 2;
    // SAFETY: mallopt only sets parameters of the allocator, and this is called before there are other threads.
    unsafe {
        // Failure leaves the defaults, which are only wasteful.
        let _ = libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
        let _ = libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

/// The cookie of the network namespace that a socket lives in (`SO_NETNS_COOKIE`, Linux 5.14).
///
/// # Errors
/// The kernel has no such option.
pub(super) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the buffer is eight bytes long, as `len` says, and both live across the call.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if rc == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// The cookie of a socket (`SO_COOKIE`): never reused while the machine runs.
///
/// # Errors
/// It is no socket.
pub(super) fn socket_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the buffer is eight bytes long, as `len` says, and both live across the call.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if rc == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// `SIOCGSKNS` (`include/uapi/linux/sockios.h`).
const SIOCGSKNS: libc::c_ulong = 0x894c;

/// The network namespace that a socket lives in (`SIOCGSKNS`, Linux 4.9).
///
/// # Errors
/// It is no socket, or we have no CAP_NET_ADMIN over that namespace.
pub(super) fn socket_netns(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the request takes no argument and returns a new file descriptor.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Offset of `tcpi_bytes_received` in `struct tcp_info` (`include/uapi/linux/tcp.h`).
const TCPI_BYTES_RECEIVED: usize = 128;

/// Payload bytes that a TCP socket has received (`tcpi_bytes_received`).
///
/// # Errors
/// It is no TCP socket.
pub(super) fn bytes_received(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = [0_u8; TCPI_BYTES_RECEIVED + size_of::<u64>()];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most as many bytes as `len` says the buffer has.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes = info[TCPI_BYTES_RECEIVED..].try_into();
    bytes.map(u64::from_ne_bytes).map_err(io::Error::other)
}

/// Keeps the SYN of every connection that this listener accepts (`TCP_SAVE_SYN`), from the IP header on.
///
/// # Errors
/// It is no TCP socket.
pub(super) fn save_syn(socket: BorrowedFd<'_>) -> io::Result<()> {
    let one: libc::c_int = 1;
    set(socket, libc::IPPROTO_TCP, libc::TCP_SAVE_SYN, &one)
}

/// As long as it lives, files and sockets that this thread makes belong to another user. Threads are used again: it
/// must not outlive the work for that user.
pub(super) struct AsUser {
    before: u32,
}

impl AsUser {
    /// Begins to act as this user.
    ///
    /// # Errors
    /// It may not (`CAP_SETUID`).
    pub(super) fn begin(uid: u32) -> Result<Self, KernelError> {
        let user = Self { before: set_fsuid(uid) };
        // What was asked for is what was before, or it has failed.
        if set_fsuid(uid) == uid {
            return Ok(user);
        }
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        Err(KernelError::op("(for lack of CAP_SETUID?) act as the user", uid, error))
    }
}

impl Drop for AsUser {
    fn drop(&mut self) {
        // A thread may always go back to its effective user (setfsuid(2)).
        set_fsuid(self.before);
    }
}

/// Returns what was before, whether it fails or not.
fn set_fsuid(uid: u32) -> u32 {
    // SAFETY: a system call on a number.
    unsafe { libc::setfsuid(uid) as u32 }
}

/// The SYN that was kept (`TCP_SAVED_SYN`), once: the kernel forgets it then. Empty if it was not kept.
///
/// # Errors
/// It is no TCP socket.
pub(super) fn saved_syn(socket: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    // IPv6 with some extension headers, and the longest TCP header.
    let mut syn = vec![0_u8; 512];
    let mut len = syn.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most as many bytes as `len` says the buffer has.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_SAVED_SYN,
            syn.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    syn.truncate(len as usize);
    Ok(syn)
}

/// Has the kernel drop every packet for this socket, as if it had never come: a socket filter that keeps no byte.
/// For a listener `tcp_v4_rcv` asks it about the SYN already.
///
/// # Errors
/// It is no socket, or there is no memory.
pub(super) fn drop_all(socket: BorrowedFd<'_>) -> io::Result<()> {
    let code = (libc::BPF_RET | libc::BPF_K) as u16;
    let mut keep_nothing = libc::sock_filter { code, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut keep_nothing };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn set<T>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads as many bytes as the value has, and what the value points to lives longer.
    let rc = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), len)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

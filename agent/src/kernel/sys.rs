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

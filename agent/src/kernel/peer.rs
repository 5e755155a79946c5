//! Who is at the other end of a Unix socket, and which user namespace rules a namespace: the few system
//! calls about it that no safe crate offers.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

/// A pidfd of the process that connected the Unix socket (`SO_PEERPIDFD`, Linux 6.5): refers to that very
/// process even if its pid is reused.
///
/// # Errors
/// `ENOPROTOOPT` on older kernels; `ESRCH` or `EINVAL` if the process is already gone.
pub fn peer_pidfd(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `fd` and `len` live through the call and `len` says how large `fd` is.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut len,
        )
    };
    owned(if status == 0 { fd } else { status })
}

/// The user namespace that owns the namespace `ns` (`NS_GET_USERNS`, ioctl_ns(2)).
///
/// # Errors
/// `ENOTTY` if `ns` is no namespace; `EPERM` if its owner is outside of our own user namespace.
pub fn owning_user_namespace(ns: impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: NS_GET_USERNS takes no argument and returns a new file descriptor.
    owned(unsafe { libc::ioctl(ns.as_fd().as_raw_fd(), libc::NS_GET_USERNS) })
}

/// The parent of the user namespace `ns` (`NS_GET_PARENT`, ioctl_ns(2)).
///
/// # Errors
/// `EPERM` for the initial user namespace, which has none, and for what is above our own.
pub fn parent_user_namespace(ns: impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: NS_GET_PARENT takes no argument and returns a new file descriptor.
    owned(unsafe { libc::ioctl(ns.as_fd().as_raw_fd(), libc::NS_GET_PARENT) })
}

/// Takes over a file descriptor that a system call just returned; negative means it failed.
fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made `fd` for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn the_initial_user_namespace_has_no_parent() {
        let netns = File::open("/proc/self/ns/net").unwrap();
        let mut ns = owning_user_namespace(&netns).unwrap();
        for _ in 0..33 {
            match parent_user_namespace(&ns) {
                Ok(parent) => ns = parent,
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
                    return;
                }
            }
        }
        panic!("user namespaces nest deeper than the kernel allows");
    }

    #[test]
    fn what_is_no_namespace_has_no_owner() {
        let file = File::open("/proc/self/status").unwrap();
        assert!(owning_user_namespace(&file).is_err());
    }

    #[test]
    fn the_peer_of_our_own_socket_is_alive() {
        let (a, _b) = UnixStream::pair().unwrap();
        match peer_pidfd(&a) {
            Ok(fd) => assert!(fd.as_raw_fd() >= 0),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT)),
        }
    }
}

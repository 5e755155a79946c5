//! What other programs on a node do to sockets, so that drainctl has to leave them alone: a sockmap as Cilium and
//! Istio ambient have.

use std::{
    io,
    net::TcpStream,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use anyhow::{Context, Result};
use rustix::net::sockopt;

/// Commands of bpf(2), and a type of map.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_TYPE_SOCKHASH: u32 = 18;

/// The start of `union bpf_attr` for [`BPF_MAP_CREATE`].
#[repr(C)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// The start of `union bpf_attr` for [`BPF_MAP_UPDATE_ELEM`].
#[repr(C)]
struct Update {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// A sockhash without a program, as somebody else would have.
#[derive(Debug)]
pub struct ForeignSockmap {
    map: OwnedFd,
}

impl ForeignSockmap {
    /// An empty one.
    pub fn new() -> Result<Self> {
        let create = Create {
            map_type: BPF_MAP_TYPE_SOCKHASH,
            key_size: 8,
            value_size: 8,
            max_entries: 16,
            map_flags: 0,
        };
        let fd = bpf(BPF_MAP_CREATE, &create).context("create a sockhash")?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        let map = unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd)?) };
        Ok(Self { map })
    }

    /// Takes in a socket.
    pub fn insert(&self, socket: &TcpStream) -> Result<()> {
        let key = sockopt::socket_cookie(socket)?;
        let value = u64::try_from(socket.as_raw_fd())?;
        let update = Update {
            map: u32::try_from(self.map.as_raw_fd())?,
            padding: 0,
            key: (&raw const key).addr() as u64,
            value: (&raw const value).addr() as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &update).context("insert a socket into a sockhash").map(drop)
    }
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads that many bytes from there, and what their addresses point to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, (&raw const *attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

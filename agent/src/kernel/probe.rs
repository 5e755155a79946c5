//! Questions about the running kernel that `drainctl` asks itself, without an agent: what a namespace file
//! is, and which sk_lookup programs are attached. Nothing here changes anything.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use aya::programs::{links::LinkType, loaded_links, loaded_programs};

use super::KernelError;

/// `NS_GET_NSTYPE`: `_IO(NSIO, 0x3)` in include/uapi/linux/nsfs.h.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// `BPF_OBJ_GET_INFO_BY_FD` in enum bpf_cmd.
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// `BPF_LINK_GET_FD_BY_ID` in enum bpf_cmd.
const LINK_GET_FD_BY_ID: libc::c_int = 30;

/// `BPF_SK_LOOKUP` in enum bpf_attach_type.
const ATTACH_SK_LOOKUP: u32 = 36;

/// An sk_lookup program attached to a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkLookupLink {
    /// Id of the program, as in `bpftool prog show id`.
    pub program: u32,
    /// Name of the program, at most 15 bytes; empty if it has none or is gone.
    pub name: String,
    /// Inode number of the network namespace.
    pub netns: u32,
}

/// Whether an open nsfs file is a network namespace (and not, say, a mount namespace).
///
/// # Errors
/// It is no nsfs file (`ENOTTY`).
pub fn is_network_namespace(file: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: NS_GET_NSTYPE takes no argument and writes no memory; the descriptor is open for the call.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    if kind < 0 { Err(io::Error::last_os_error()) } else { Ok(kind == libc::CLONE_NEWNET) }
}

/// All sk_lookup programs attached by a link, in any network namespace. Needs CAP_SYS_ADMIN. Links that go
/// away meanwhile are left out.
///
/// # Errors
/// The ids of links or programs may not be read.
pub fn sk_lookup_links() -> Result<Vec<SkLookupLink>, KernelError> {
    let mut found = Vec::new();
    for link in loaded_links() {
        let link = match link {
            Ok(link) => link,
            Err(source) if is_gone(&source) => continue,
            Err(source) => return Err(KernelError::op("list", "bpf links", source)),
        };
        // An error is a type of link that the library does not know yet; it is not ours to ask about.
        if !matches!(link.link_type(), Ok(LinkType::Netns)) {
            continue;
        }
        match netns_link(link.id()) {
            Ok(info) if info.attach_type == ATTACH_SK_LOOKUP => {
                found.push((link.program_id(), info.netns));
            }
            Ok(_) => {}
            Err(source) if source.raw_os_error() == Some(libc::ENOENT) => {}
            Err(source) => return Err(KernelError::op("read", "a bpf link", source)),
        }
    }
    let names = program_names()?;
    let named = |(program, netns)| SkLookupLink {
        program,
        name: names.get(&program).cloned().unwrap_or_default(),
        netns,
    };
    Ok(found.into_iter().map(named).collect())
}

/// Names of all loaded programs by id.
fn program_names() -> Result<HashMap<u32, String>, KernelError> {
    let mut names = HashMap::new();
    for program in loaded_programs() {
        match program {
            Ok(program) => {
                names.insert(program.id(), String::from_utf8_lossy(program.name()).into_owned());
            }
            Err(source) if is_gone(&source) => {}
            Err(source) => return Err(KernelError::op("list", "bpf programs", source)),
        }
    }
    Ok(names)
}

/// Whether an object disappeared between the listing of its id and the look at it.
fn is_gone(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.raw_os_error() == Some(libc::ENOENT))
}

/// `struct bpf_link_info` of a netns link, as far as its union member `netns`.
#[repr(C, align(8))]
#[derive(Default)]
struct NetnsLinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    _padding: u32,
    netns: u32,
    attach_type: u32,
}

const _: () = assert!(size_of::<NetnsLinkInfo>() == 24);

/// `union bpf_attr`, the member of `BPF_LINK_GET_FD_BY_ID`.
#[repr(C)]
struct GetFdById {
    id: u32,
}

/// `union bpf_attr`, the member of `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct GetInfo {
    fd: u32,
    len: u32,
    info: u64,
}

/// What the kernel says about the netns link with this id (aya does not pass these fields on).
fn netns_link(id: u32) -> io::Result<NetnsLinkInfo> {
    let mut by_id = GetFdById { id };
    // SAFETY: the attribute is a live `repr(C)` struct with the layout of the command's union member.
    let fd = unsafe { bpf(LINK_GET_FD_BY_ID, &mut by_id) }?;
    // SAFETY: the kernel has just returned this descriptor to us, and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut info = NetnsLinkInfo::default();
    let mut get = GetInfo {
        fd: fd.as_raw_fd().cast_unsigned(),
        len: size_of::<NetnsLinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: as above; `info` points to `len` writable bytes that outlive the call, and the kernel writes
    // no more than `len` (`bpf_link_get_info_by_fd`).
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut get) }?;
    Ok(info)
}

/// The bpf(2) system call.
///
/// # Safety
/// `T` must be the member of `union bpf_attr` that `command` reads, and every address in it valid for the
/// length the kernel takes it to have.
unsafe fn bpf<T>(command: libc::c_int, attribute: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the attribute is live and `size_of::<T>()` bytes long; the rest is the caller's promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<T>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::*;

    #[test]
    fn tells_a_network_namespace_from_another_and_from_a_file() {
        let net = File::open("/proc/self/ns/net").unwrap();
        let mount = File::open("/proc/self/ns/mnt").unwrap();
        let file = tempfile::tempfile().unwrap();
        assert!(is_network_namespace(net.as_fd()).unwrap());
        assert!(!is_network_namespace(mount.as_fd()).unwrap());
        assert!(is_network_namespace(file.as_fd()).is_err());
    }

    #[test]
    fn listing_works_or_says_it_may_not() {
        let root = rustix::process::geteuid().is_root();
        match sk_lookup_links() {
            Ok(links) => assert!(links.iter().all(|link| link.netns != 0)),
            Err(error) => assert!(!root, "root may list links: {error:?}"),
        }
    }
}

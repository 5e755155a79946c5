//! Programs and maps of an object that is loaded.

use std::{
    fs::File,
    io::Read as _,
    net::{IpAddr, Ipv6Addr},
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError},
    programs::Iter,
};

use super::KernelError;

/// Begins a walk of the iterator `name` through the sockets of the network namespace of this thread; it is done as
/// the file is read, which takes no lock.
pub(super) fn begin_scan(ebpf: &mut Ebpf, name: &'static str) -> Result<File, KernelError> {
    let fail =
        |e: Box<dyn std::error::Error + Send + Sync>| KernelError::op("run iterator", name, e);
    let program: &mut Iter = program(ebpf, name)?;
    let link = program.attach().map_err(|e| fail(e.into()))?;
    let link = program.take_link(link).map_err(|e| fail(e.into()))?;
    link.into_file().map_err(|e| fail(e.into()))
}

/// Carries the walk out; returns how many flows were new, of each of which it writes the cookie.
pub(super) fn finish_scan(mut scan: File, name: &'static str) -> Result<u64, KernelError> {
    let mut cookies = Vec::new();
    scan.read_to_end(&mut cookies).map_err(|e| KernelError::op("run iterator", name, e))?;
    Ok((cookies.len() / size_of::<u64>()) as u64)
}

/// A program of a loaded object.
pub(super) fn program<'a, P>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut P, KernelError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let missing = || KernelError::op("find program", name, "not in the object");
    let program = ebpf.program_mut(name).ok_or_else(missing)?;
    program.try_into().map_err(|e| KernelError::op("use program", name, e))
}

/// A map of a loaded object, once.
pub(super) fn map<M>(
    ebpf: &mut Ebpf,
    name: &'static str,
    convert: impl FnOnce(aya::maps::Map) -> Result<M, MapError>,
) -> Result<M, KernelError> {
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| KernelError::op("find map", name, "not in the object"))?;
    convert(map).map_err(|e| KernelError::op("use map", name, e))
}

/// The value of a key, if the map has it.
pub(super) fn lookup<K: aya::Pod, V: aya::Pod>(
    map: &HashMap<MapData, K, V>,
    key: &K,
    name: &'static str,
) -> Result<Option<V>, KernelError> {
    match map.get(key, 0) {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(e) => Err(KernelError::op("read map", name, e)),
    }
}

/// The error number of the system call that failed, if one did.
pub(super) fn os_error(e: &MapError) -> Option<i32> {
    if let MapError::SyscallError(e) = e { e.io_error.raw_os_error() } else { None }
}

/// Whether a key was in a map already.
pub(super) fn exists(e: &MapError) -> bool {
    os_error(e) == Some(libc::EEXIST)
}

/// Whether a map has no room for another key.
pub(super) fn is_full(e: &MapError) -> bool {
    os_error(e) == Some(libc::E2BIG)
}

/// Whether a key is not in a map.
pub(super) fn is_missing(e: &MapError) -> bool {
    matches!(e, MapError::KeyNotFound) || os_error(e) == Some(libc::ENOENT)
}

/// An address as kernel programs write it: IPv6, or IPv4 mapped into it.
pub(super) fn address(words: [u32; 4]) -> IpAddr {
    let mut bytes = [0; 16];
    for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes()); // Already in network byte order.
    }
    IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
}

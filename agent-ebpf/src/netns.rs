//! Reading a socket's network namespace and port out of kernel structures.
//!
//! Rust's BPF target has no CO-RE relocations, so the agent takes the offsets from the kernel's BTF and
//! puts them here before it loads the programs.

use core::ffi::c_void;

use aya_ebpf::{Global, helpers::bpf_probe_read_kernel};

/// Offset of `skc_net` in `struct sock_common`, bytes.
#[unsafe(no_mangle)]
static OFF_SKC_NET: Global<u32> = Global::new(0);
/// Offset of `ns.inum` in `struct net`, bytes.
#[unsafe(no_mangle)]
static OFF_NET_INUM: Global<u32> = Global::new(0);
/// Offset of `skc_state` in `struct sock_common`, bytes.
#[unsafe(no_mangle)]
static OFF_SKC_STATE: Global<u32> = Global::new(0);
/// Offset of `inet_sport` in `struct inet_sock`, bytes.
#[unsafe(no_mangle)]
static OFF_INET_SPORT: Global<u32> = Global::new(0);

/// Inode number of the network namespace of a socket.
///
/// # Safety
/// `sock` came from a helper or a context that gives the verifier its type (`struct tcp_sock`). The two
/// loads are then checked against BTF and need no helper, which is faster.
#[inline(always)]
pub(crate) unsafe fn inum(sock: *const c_void) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { net_u32(sock, &OFF_NET_INUM) }
}

/// A number in the network namespace of a socket.
///
/// # Safety
/// As for [`inum`].
#[inline(always)]
pub(crate) unsafe fn net_u32(sock: *const c_void, offset: &Global<u32>) -> u32 {
    // SAFETY: the caller's promise; the kernel makes a bad load read zero instead of faulting.
    unsafe {
        let net: *const c_void =
            sock.byte_add(OFF_SKC_NET.load() as usize).cast::<*const c_void>().read_volatile();
        net.byte_add(offset.load() as usize).cast::<u32>().read_volatile()
    }
}

/// TCP state of the socket at `sock`; works for request and TIME_WAIT sockets too.
#[inline(always)]
pub(crate) fn state(sock: usize) -> Option<u8> {
    read(sock + OFF_SKC_STATE.load() as usize)
}

/// Local port, host byte order, of the full socket at `sock`. Not `skc_num`: on a reset that is zero
/// before the socket is gone.
#[inline(always)]
pub(crate) fn local_port(sock: usize) -> Option<u16> {
    read(sock + OFF_INET_SPORT.load() as usize).map(u16::from_be)
}

#[inline(always)]
pub(crate) fn read<T>(address: usize) -> Option<T> {
    // SAFETY: the helper checks the address itself and fails instead of faulting.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

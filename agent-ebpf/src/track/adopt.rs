//! Taking in connections that the tracker has not seen being established.

use core::ffi::c_void;

use aya_ebpf::{
    Global,
    bindings::{BPF_SOCK_OPS_STATE_CB_FLAG, bpf_sock_ops},
    helpers::generated::{
        bpf_get_socket_cookie, bpf_getsockopt, bpf_seq_write, bpf_setsockopt, bpf_skc_to_tcp_sock,
    },
};
use drainctl_common::{ServiceKey, track::Flow};

use crate::{
    flows::{self, Counted},
    iter::IterContext,
    netns,
};

const SOL_TCP: i32 = 6;
/// `bpf_setsockopt` option: the callback flags of a socket (Linux 6.12).
const TCP_BPF_SOCK_OPS_CB_FLAGS: i32 = 1008;

/// Offset of `skc_cookie` in `struct sock_common`, bytes.
#[unsafe(no_mangle)]
static OFF_SKC_COOKIE: Global<u32> = Global::new(0);

/// TCP states (`include/net/tcp_states.h`).
const TCP_ESTABLISHED: u8 = 1;
const TCP_FIN_WAIT1: u8 = 4;
const TCP_CLOSE_WAIT: u8 = 8;
const TCP_LAST_ACK: u8 = 9;
const TCP_LISTEN: u8 = 10;
const TCP_CLOSING: u8 = 11;

/// Visits each TCP socket of a namespace, its lock held (since Linux 6.1). Flows of services that have
/// counters are taken in, and listeners are asked to report their end. Writes the cookie of each flow that
/// is new.
///
/// # Safety
/// Only for the kernel to call.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
unsafe extern "C" fn adopt(ctx: *mut IterContext) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { visit::<true>(ctx) }
}

/// The same for kernels where an iterator may neither set socket options (before Linux 6.1) nor give a socket its cookie
/// (before 5.12): what it adopts ends unseen, and must have been looked at by inet_diag, which gives it one. Without the socket's
/// lock, nothing but the hash map keeps it from counting a flow twice that is just being established.
///
/// # Safety
/// Only for the kernel to call.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
unsafe extern "C" fn adopt_old(ctx: *mut IterContext) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { visit::<false>(ctx) }
}

#[inline(always)]
unsafe fn visit<const MODERN: bool>(ctx: *mut IterContext) -> i32 {
    // SAFETY: the context is valid, and the verifier checks each access.
    let (seq, common) = unsafe { ((*(*ctx).meta).seq, (*ctx).sk_common) };
    if common.is_null() {
        return 0; // The end of the walk.
    }
    let Some(state) = netns::state(common as usize) else { return 0 };
    if state != TCP_LISTEN && !is_flow(state) {
        return 0;
    }
    // SAFETY: `common` is a socket; the helper returns null for one that is not TCP.
    let sock: *mut c_void = unsafe { bpf_skc_to_tcp_sock(common) }.cast();
    if sock.is_null() {
        return 0;
    }
    let Some(port) = netns::local_port(sock as usize) else { return 0 };
    // SAFETY: `sock` came from the helper.
    let service = ServiceKey::new(unsafe { netns::inum(sock) }, port);
    let Some(counts) = flows::counts(&service) else { return 0 };
    // SAFETY: `sock` is a full socket, locked where MODERN is true.
    let seen = MODERN && unsafe { ask_for_states(sock) };
    if state == TCP_LISTEN {
        return 0;
    }
    let mut flags = Flow::ADOPTED;
    if !seen {
        flags |= Flow::END_UNSEEN;
    }
    let cookie = if MODERN {
        // SAFETY: `sock` is a full socket.
        unsafe { bpf_get_socket_cookie(sock) }
    } else {
        netns::read(common as usize + OFF_SKC_COOKIE.load() as usize).unwrap_or(0)
    };
    if cookie == 0 {
        return 0; // Established since that look: `track` has counted it, and the next look would tell if not.
    }
    let flow = Flow { service, since_ns: flows::now(), flags, zero: 0 };
    if MODERN && flows::is_hashed(cookie) {
        return 0;
    }
    match flows::count::<MODERN>(counts, cookie, &flow) {
        // SAFETY: `seq` belongs to this walk. A full buffer makes the kernel call us again for this
        // socket, which is Known by then.
        Counted::New => unsafe {
            bpf_seq_write(seq.cast(), (&raw const cookie).cast(), 8);
        },
        Counted::Known => {}
        Counted::NoRoom => {
            // One is enough to distrust the service; each walk would count it again.
            // SAFETY: `counts` points to a live map value.
            if unsafe { (*counts).lost } == 0 {
                flows::lose(counts);
            }
        }
    }
    0
}

#[inline(always)]
fn is_flow(state: u8) -> bool {
    matches!(state, TCP_ESTABLISHED | TCP_FIN_WAIT1 | TCP_CLOSE_WAIT | TCP_LAST_ACK | TCP_CLOSING)
}

/// Adds the state callback to the socket's flags; false where the kernel has no such option.
#[inline(always)]
unsafe fn ask_for_states(sock: *mut c_void) -> bool {
    let mut flags: i32 = 0;
    let value = (&raw mut flags).cast::<c_void>();
    // SAFETY: the caller's promise; the buffers are as long as is said. The helpers take any socket here,
    // whatever the generated type says.
    unsafe {
        let sock: *mut bpf_sock_ops = sock.cast();
        if bpf_getsockopt(sock.cast(), SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, value, 4) != 0 {
            return false;
        }
        // Volatile: the compiler does not know that the helper has written it, and will read it.
        let all = value.cast::<i32>().read_volatile() | BPF_SOCK_OPS_STATE_CB_FLAG as i32;
        value.cast::<i32>().write_volatile(all);
        bpf_setsockopt(sock.cast(), SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, value, 4) == 0
    }
}

//! Taking sockets into the sockhash.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_NOEXIST, bpf_sock_ops},
    helpers::{
        bpf_ktime_get_boot_ns,
        generated::{
            bpf_get_socket_cookie, bpf_map_delete_elem, bpf_map_update_elem, bpf_seq_write,
            bpf_skc_to_tcp_sock, bpf_sock_hash_update,
        },
    },
    macros::sock_ops,
    programs::SockOpsContext,
};
use drainctl_common::{
    ServiceKey, class,
    http1::Responses,
    http2::{Answering, Boundary, FRAME_LIMIT},
    retire::{Followed, Rule, barrier, protocol},
};

use crate::{
    iter::IterContext,
    maps::{FLOWS, FOLLOWED, RETIRING, SOCKETS},
    netns, slots,
    sock::TcpSock,
};

const TCP_ESTABLISHED: u8 = 1;

/// Kernel error numbers, negative as helpers return them.
const E2BIG: i32 = -7;
const EBUSY: i32 = -16;
const EEXIST: i32 = -17;
const EINVAL: i32 = -22;
const EOPNOTSUPP: i32 = -95;

/// What a flow begins with. In read-only data, since it would take much of the stack.
static JOINED: Followed = Followed {
    service: ServiceKey::new(0, 0),
    turn_ns: 0,
    told_ns: 0,
    sent_ns: 0,
    received: 0,
    sent_in_all: 0,
    received_in_all: 0,
    read_seq: 0,
    protocol: protocol::UNKNOWN,
    barrier: barrier::NONE,
    told: 0,
    flags: 0,
    responses: Responses::joined(),
    boundary: Boundary::joined(FRAME_LIMIT),
    answering: Answering::joined(),
    room: 0,
    moment: 0,
    zero: 0,
};
static NEW: Followed = Followed {
    flags: Followed::FROM_START,
    responses: Responses::from_start(),
    boundary: Boundary::from_start(FRAME_LIMIT),
    answering: Answering::from_start(),
    ..JOINED
};

/// Visits each TCP socket of a namespace, its lock held (since Linux 6.1), and takes in the flows of retiring
/// services. Writes the cookie of each flow that is new.
///
/// # Safety
/// Only for the kernel to call.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
unsafe extern "C" fn join(ctx: *mut IterContext) -> i32 {
    // SAFETY: the context is valid, and the verifier checks each access.
    let (seq, common) = unsafe { ((*(*ctx).meta).seq, (*ctx).sk_common) };
    if common.is_null() || netns::state(common as usize) != Some(TCP_ESTABLISHED) {
        return 0;
    }
    // SAFETY: `common` is a socket; the helper returns null for one that is not TCP.
    let Some(sock) = (unsafe { TcpSock::new(bpf_skc_to_tcp_sock(common).cast()) }) else {
        return 0;
    };
    let Some(port) = netns::local_port(sock.as_ptr() as usize) else { return 0 };
    // SAFETY: the pointer came from the helper.
    let service = ServiceKey::new(unsafe { netns::inum(sock.as_ptr()) }, port);
    // SAFETY: rules are only replaced as a whole by the agent.
    let Some(rule) = (unsafe { RETIRING.get(service) }) else { return 0 };
    // SAFETY: `sock` is a full socket.
    let cookie = unsafe { bpf_get_socket_cookie(sock.as_ptr().cast_mut()) };
    if is_exempt(cookie, rule) {
        return 0;
    }
    let insert = |key: &u64| {
        // SAFETY: the helper takes a socket for a value of a sockhash.
        unsafe {
            bpf_map_update_elem(
                (&raw const SOCKETS).cast_mut().cast(),
                (&raw const *key).cast(),
                sock.as_ptr(),
                u64::from(BPF_NOEXIST),
            )
        }
    };
    if follow(&JOINED, service, rule, sock, cookie, insert) {
        // SAFETY: `seq` belongs to this walk. A full buffer makes the kernel call us again for this socket,
        // which is known by then.
        unsafe { bpf_seq_write(seq.cast(), (&raw const cookie).cast(), 8) };
    }
    0
}

/// Whether the drain has nothing to do with this flow, by what the tracker says.
#[inline(always)]
fn is_exempt(cookie: u64, rule: &Rule) -> bool {
    // SAFETY: the class is read at once; if the flow ends meanwhile, it is nobody's any more.
    let hashed = || unsafe { FLOWS.get(cookie) }.map(|flow| flow.service.class);
    slots::class(cookie).or_else(hashed).is_some_and(|class| match class {
        class::COUNTED => false,
        class::STEERED => rule.what & Rule::CARRIED == 0,
        _ => true,
    })
}

/// Takes in a connection that has just been accepted. The tracker has seen that its service is watched for
/// this, and that it counts or was steered.
#[sock_ops]
fn join_new(ctx: SockOpsContext) -> u32 {
    // SAFETY: the verifier checks the access, and the pointers before they are used.
    let sock = unsafe {
        let sk = (*ctx.ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return 1;
        }
        TcpSock::new(bpf_skc_to_tcp_sock(sk.cast()).cast())
    };
    let Some(sock) = sock else { return 1 };
    // SAFETY: the pointer came from the helper.
    let service = ServiceKey::new(unsafe { netns::inum(sock.as_ptr()) }, ctx.local_port() as u16);
    // SAFETY: rules are only replaced as a whole by the agent.
    let Some(rule) = (unsafe { RETIRING.get(service) }) else { return 1 };
    // SAFETY: the context is the one the kernel passed.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if is_exempt(cookie, rule) {
        return 1;
    }
    let insert = |key: &u64| {
        let ops: *mut bpf_sock_ops = ctx.ops;
        // SAFETY: as above; the helper takes the socket from the context.
        unsafe {
            bpf_sock_hash_update(
                ops,
                (&raw const SOCKETS).cast_mut().cast(),
                (&raw const *key).cast_mut().cast(),
                u64::from(BPF_NOEXIST),
            )
        }
    };
    follow(&NEW, service, rule, sock, cookie, insert);
    1
}

/// A connection has ended: notes how much came from its client, for those that got a FIN of ours.
#[sock_ops]
fn ended(ctx: SockOpsContext) -> u32 {
    // SAFETY: the context is the one the kernel passed.
    let (cookie, received) = unsafe {
        (
            bpf_get_socket_cookie(ctx.as_ptr()),
            (&raw const (*ctx.ops).bytes_received).read_volatile(),
        )
    };
    if let Some(flow) = FOLLOWED.get_ptr_mut(cookie) {
        // SAFETY: `flow` points to a live map value, and the socket's lock is held.
        unsafe { (*flow).received_in_all = received };
    }
    1
}

/// Follows a flow from now on, unless it is followed already; what it is told by depends on whether the sockhash
/// takes it. Returns whether it is new.
#[inline(always)]
fn follow(
    like: &'static Followed,
    service: ServiceKey,
    rule: &Rule,
    sock: TcpSock,
    cookie: u64,
    insert: impl Fn(&u64) -> i64,
) -> bool {
    if let Some(known) = FOLLOWED.get_ptr_mut(cookie) {
        let_go_if_zero_copy(known, sock, &cookie);
        return false;
    }
    let in_use = sock.has_user();
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a copy would be made on the stack"
    )]
    if FOLLOWED.insert(&cookie, like, u64::from(BPF_NOEXIST)).is_err() {
        return false; // There is no room, or another CPU was faster.
    }
    let Some(flow) = FOLLOWED.get_ptr_mut(cookie) else { return false };
    // SAFETY: `flow` points to a live map value; nobody else writes it before it is in the sockhash.
    unsafe {
        (*flow).turn_ns = turn(rule, cookie);
        // A request that is there already counts as read from now on, so that its answer may be told.
        (*flow).read_seq = sock.copied_seq().wrapping_sub(u32::from(sock.is_asked()));
        (*flow).received = sock.bytes_received();
        (*flow).sent_in_all = sock.sent();
        (*flow).service = service;
        (*flow).barrier = if in_use {
            barrier::FOREIGN
        } else if sock.is_zero_copy() {
            barrier::ZEROCOPY
        } else {
            why_not(insert(&cookie))
        };
    }
    true
}

/// A server may ask for zero-copy notifications after it has accepted the connection.
#[inline(always)]
fn let_go_if_zero_copy(flow: *mut Followed, sock: TcpSock, cookie: &u64) {
    // SAFETY: `flow` points to a live map value, and the socket's lock is held (since Linux 6.1).
    unsafe {
        if (*flow).barrier == barrier::NONE && sock.is_zero_copy() {
            (*flow).barrier = barrier::ZEROCOPY;
            bpf_map_delete_elem(
                (&raw const SOCKETS).cast_mut().cast(),
                (&raw const *cookie).cast(),
            );
        }
    }
}

/// What a refusal of the sockhash means (`sock_map_update_common`, `tcp_bpf_update_proto`). The verifier calls the
/// map's function directly, and before Linux 6.4 that returned an `int`: the upper half of the register is not
/// its sign.
#[inline(always)]
fn why_not(result: i64) -> u8 {
    match result as i32 {
        0 => barrier::NONE,
        EBUSY | EEXIST => barrier::FOREIGN,
        EINVAL => barrier::ULP,
        EOPNOTSUPP => barrier::UNSUPPORTED,
        E2BIG => barrier::NO_ROOM,
        _ => barrier::REFUSED,
    }
}

/// When it is this flow's turn: any time of the spread, but always the same. A flow that comes later than
/// its turn would have been has it at once.
#[inline(always)]
fn turn(rule: &Rule, cookie: u64) -> u64 {
    // Fibonacci hashing: cookies are small and count up.
    let hash = cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    rule.start_ns + ((hash * (rule.spread_ns >> 16)) >> 16)
}

/// Boot time in nanoseconds.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

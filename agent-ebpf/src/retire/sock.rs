//! Reading what the kernel knows of a socket.

use core::ffi::c_void;

use aya_ebpf::Global;

use crate::netns;

/// Offset of `skc_cookie` in `struct sock_common`, bytes; so are the others of their fields.
#[unsafe(no_mangle)]
static OFF_SKC_COOKIE: Global<u32> = Global::new(0);
/// `struct sock`, `sk_user_data`.
#[unsafe(no_mangle)]
static OFF_SK_USER_DATA: Global<u32> = Global::new(0);
/// `struct sock_common`, `skc_flags`.
#[unsafe(no_mangle)]
static OFF_SK_FLAGS: Global<u32> = Global::new(0);
/// Bit of `SOCK_ZEROCOPY` in `sk_flags` (`enum sock_flags`).
#[unsafe(no_mangle)]
static SOCK_ZEROCOPY: Global<u32> = Global::new(0);
/// `struct tcp_sock`, `copied_seq`.
#[unsafe(no_mangle)]
static OFF_COPIED_SEQ: Global<u32> = Global::new(0);
/// `struct tcp_sock`, `snd_una`.
#[unsafe(no_mangle)]
static OFF_SND_UNA: Global<u32> = Global::new(0);
/// `struct tcp_sock`, `write_seq`.
#[unsafe(no_mangle)]
static OFF_WRITE_SEQ: Global<u32> = Global::new(0);
/// `struct tcp_sock`, `bytes_received`.
#[unsafe(no_mangle)]
static OFF_BYTES_RECEIVED: Global<u32> = Global::new(0);

/// `struct sock`, `sk_wmem_queued`.
#[unsafe(no_mangle)]
static OFF_SK_WMEM_QUEUED: Global<u32> = Global::new(0);
/// `struct sock`, `sk_sndbuf`.
#[unsafe(no_mangle)]
static OFF_SK_SNDBUF: Global<u32> = Global::new(0);

/// `struct tcp_sock`, `bytes_acked`.
#[unsafe(no_mangle)]
static OFF_BYTES_ACKED: Global<u32> = Global::new(0);

/// `struct inet_connection_sock`, `icsk_ack.lrcvtime`.
#[unsafe(no_mangle)]
static OFF_LRCVTIME: Global<u32> = Global::new(0);
/// `struct tcp_sock`, `lsndtime`.
#[unsafe(no_mangle)]
static OFF_LSNDTIME: Global<u32> = Global::new(0);

/// `struct tcp_sock`, `snd_nxt`.
#[unsafe(no_mangle)]
static OFF_SND_NXT: Global<u32> = Global::new(0);
/// `struct tcp_sock`, `notsent_lowat`.
#[unsafe(no_mangle)]
static OFF_NOTSENT_LOWAT: Global<u32> = Global::new(0);
/// `struct net`, `ipv4.sysctl_tcp_notsent_lowat`.
#[unsafe(no_mangle)]
static OFF_NET_NOTSENT_LOWAT: Global<u32> = Global::new(0);

/// A socket that a helper has said to be a `struct tcp_sock`, so that the verifier allows loads from it.
#[derive(Clone, Copy)]
pub(crate) struct TcpSock(*const c_void);

impl TcpSock {
    /// # Safety
    /// `sock` came from `bpf_skc_to_tcp_sock`.
    #[inline(always)]
    pub(crate) unsafe fn new(sock: *const c_void) -> Option<Self> {
        if sock.is_null() { None } else { Some(Self(sock)) }
    }

    #[inline(always)]
    pub(crate) fn as_ptr(self) -> *const c_void {
        self.0
    }

    /// Its cookie; 0 if nobody has asked for one yet.
    #[inline(always)]
    pub(crate) fn cookie(self) -> u64 {
        self.load(&OFF_SKC_COOKIE)
    }

    /// Whether it is in a sockmap, or used by something else in the kernel.
    #[inline(always)]
    pub(crate) fn has_user(self) -> bool {
        self.load::<u64>(&OFF_SK_USER_DATA) != 0
    }

    /// Whether it wants to be told when zero-copy sends are done.
    #[inline(always)]
    pub(crate) fn is_zero_copy(self) -> bool {
        self.load::<u64>(&OFF_SK_FLAGS) >> (SOCK_ZEROCOPY.load() & 63) & 1 != 0
    }

    /// Up to where the process has read.
    #[inline(always)]
    pub(crate) fn copied_seq(self) -> u32 {
        self.load(&OFF_COPIED_SEQ)
    }

    /// Whether the peer has acknowledged all that was sent before.
    #[inline(always)]
    pub(crate) fn is_acknowledged(self) -> bool {
        self.load::<u32>(&OFF_SND_UNA) == self.load::<u32>(&OFF_WRITE_SEQ)
    }

    /// Payload bytes received (`tcpi_bytes_received`).
    #[inline(always)]
    pub(crate) fn bytes_received(self) -> u64 {
        self.load(&OFF_BYTES_RECEIVED)
    }

    /// Payload bytes taken from the server so far, counted as `tcpi_bytes_acked` counts them.
    #[inline(always)]
    pub(crate) fn sent(self) -> u64 {
        let queued = self.load::<u32>(&OFF_WRITE_SEQ).wrapping_sub(self.load(&OFF_SND_UNA));
        self.load::<u64>(&OFF_BYTES_ACKED).wrapping_add(u64::from(queued))
    }

    /// Whether the client has sent something since the server last did: it is asking, or still sending.
    #[inline(always)]
    pub(crate) fn is_asked(self) -> bool {
        // Both in jiffies, which wrap around.
        self.load::<u32>(&OFF_LRCVTIME).wrapping_sub(self.load(&OFF_LSNDTIME)) as i32 > 0
    }

    /// How many more bytes the kernel surely takes from the server at once, 0 if none: before each new packet
    /// it asks whether the send buffer is full, or too much of it is not sent (`tcp_stream_memory_free`).
    #[inline(always)]
    pub(crate) fn room(self) -> u16 {
        // What is sent is accounted for with what holds it: twice as much and a reserve are ample.
        const RESERVE: i32 = 8192;
        // Beyond this, memory that is short on the whole machine may make an end (`tcp_wmem_schedule`).
        const MOST: u32 = 16_384;
        let buffer = self
            .load::<i32>(&OFF_SK_SNDBUF)
            .wrapping_sub(self.load::<i32>(&OFF_SK_WMEM_QUEUED))
            .wrapping_sub(RESERVE);
        let buffer = if buffer > 0 { buffer as u32 / 2 } else { 0 };
        let unsent = self.load::<u32>(&OFF_WRITE_SEQ).wrapping_sub(self.load(&OFF_SND_NXT));
        let low = self.low_water();
        let unsent = if low > unsent { low - unsent - 1 } else { 0 };
        let room = if buffer < unsent { buffer } else { unsent };
        if room < MOST { room as u16 } else { MOST as u16 }
    }

    /// `TCP_NOTSENT_LOWAT` of the socket, else of its namespace (`tcp_notsent_lowat`).
    #[inline(always)]
    fn low_water(self) -> u32 {
        let own: u32 = self.load(&OFF_NOTSENT_LOWAT);
        if own != 0 {
            return own;
        }
        // SAFETY: the pointer came from the helper, as for the namespace's number.
        unsafe { netns::net_u32(self.0, &OFF_NET_NOTSENT_LOWAT) }
    }

    #[inline(always)]
    fn load<T>(self, offset: &Global<u32>) -> T {
        // SAFETY: the verifier checks the load against the kernel's BTF.
        unsafe { self.0.byte_add(offset.load() as usize).cast::<T>().read_volatile() }
    }
}

//! Maps about clients by their address: how a drain treats them (`PEERS`), and when they last had a flow
//! (`CLIENTS`). The gate and the tracker share them.

/// A client of a service. Key of the `CLIENTS` map, and, behind its prefix length, of the `PEERS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerKey {
    /// Inode number of the network namespace of the service.
    pub netns: u32,
    /// Local TCP port of the service in host byte order.
    pub port: u16,
    /// [`PeerKey::V4`] or [`PeerKey::V6`]: `::/1` must not be a prefix of an IPv4 address.
    pub family: u16,
    /// The client's address in network byte order, v4-mapped where it is IPv4.
    pub addr: [u32; 4],
}

impl PeerKey {
    /// The client comes by IPv4.
    pub const V4: u16 = 4;
    /// The client comes by IPv6.
    pub const V6: u16 = 6;
    /// Prefix length in `PEERS` of all clients of a service and a family, bits; the length of an IPv6 prefix is
    /// added to it, or 96 and that of an IPv4 prefix.
    pub const SERVICE_BITS: u32 = 64;
    /// Prefix length of one client.
    pub const ALL_BITS: u32 = Self::SERVICE_BITS + 128;

    /// The key of the IPv4 client `addr` (network byte order).
    #[inline(always)]
    pub const fn v4(netns: u32, port: u16, addr: u32) -> Self {
        Self { netns, port, family: Self::V4, addr: [0, 0, 0xffff_u32.to_be(), addr] }
    }

    /// The key of the IPv6 client `addr` (network byte order), which is not v4-mapped.
    #[inline(always)]
    pub const fn v6(netns: u32, port: u16, addr: [u32; 4]) -> Self {
        Self { netns, port, family: Self::V6, addr }
    }

    /// The key of a client (network byte order, v4-mapped where it is IPv4, by whatever socket it came).
    #[inline(always)]
    pub const fn of(netns: u32, port: u16, addr: [u32; 4]) -> Self {
        if addr[0] == 0 && addr[1] == 0 && addr[2] == 0xffff_u32.to_be() {
            Self::v4(netns, port, addr[3])
        } else {
            Self::v6(netns, port, addr)
        }
    }
}

/// How a drain treats the clients of a prefix; value of the `PEERS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// One of [`verdict`].
    pub verdict: u32,
    /// Always zero.
    pub zero: u32,
}

/// Values of [`Peer::verdict`].
pub mod verdict {
    /// It passes the gate, and its flows are of [`class::IGNORED`](crate::class::IGNORED).
    pub const IGNORE: u32 = 1;
    /// It passes the gate, and its flows count.
    pub const ALLOW: u32 = 2;
    /// It is refused, also while the gate is open.
    pub const REFUSE: u32 = 3;
}

const _: () = assert!(size_of::<PeerKey>() == 24 && size_of::<Peer>() == 8);

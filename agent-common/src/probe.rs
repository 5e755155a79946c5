//! Connections that the kubelet opens: probes of containers, recognised when they are opened, never by address.

/// Key of the `PROBES` map: a connection as its *server* sees it. The value is the boot time in nanoseconds at
/// which it was opened; there is no entry any more once the kubelet's side of it has ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProbeKey {
    /// IPv6 (or v4-mapped) address of the kubelet's side, network byte order.
    pub client: [u32; 4],
    /// IPv6 (or v4-mapped) address of the server's side, network byte order.
    pub server: [u32; 4],
    /// The kubelet's port, host byte order.
    pub client_port: u16,
    /// The server's port, host byte order.
    pub server_port: u16,
    /// Inode number of the network namespace for a loopback address, which every namespace has; else 0.
    pub netns: u32,
}

impl ProbeKey {
    /// The key of a connection; `netns` is the network namespace of the side that asks.
    #[inline(always)]
    pub fn new(client: ([u32; 4], u16), server: ([u32; 4], u16), netns: u32) -> Self {
        let netns = if is_loopback(&server.0) { netns } else { 0 };
        Self {
            client: client.0,
            server: server.0,
            client_port: client.1,
            server_port: server.1,
            netns,
        }
    }
}

/// `::1`, or `127.0.0.0/8` as v4-mapped addresses.
#[inline(always)]
fn is_loopback(address: &[u32; 4]) -> bool {
    let [a, b, c, d] = address.map(u32::from_be);
    a | b == 0 && (c == 0 && d == 1 || c == 0xffff && d >> 24 == 127)
}

/// How many counters the `PROBE_PORTS` array has.
pub const PORTS: u32 = 4096;

/// Which counter of `PROBE_PORTS` is that of connections from this port, host byte order. While it is zero, none of
/// them is the kubelet's; else some of those that share the counter may be.
#[inline(always)]
pub const fn port_index(client_port: u16) -> u32 {
    client_port as u32 % PORTS
}

/// Counters of probes for the whole node; indices into the `PROBE_COUNTS` array.
pub mod count {
    /// The kubelet opened a connection.
    pub const OPENED: u32 = 0;
    /// A closed gate let one pass.
    pub const PASSED: u32 = 1;
    /// How many there are.
    pub const COUNT: u32 = 2;
}

const _: () = assert!(size_of::<ProbeKey>() == 40);

#[cfg(test)]
mod tests {
    use core::net::Ipv6Addr;

    use super::*;

    fn words(address: &str) -> [u32; 4] {
        let address: Ipv6Addr = address.parse().unwrap();
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(address.octets().chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().unwrap());
        }
        words
    }

    #[test]
    fn only_loopback_addresses_belong_to_a_namespace() {
        let table = [
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:127.255.3.4", true),
            ("::ffff:10.0.0.127", false),
            ("::2", false),
            ("::127.0.0.1", false),
            ("fd00::1", false),
        ];
        for (address, expected) in table {
            let key = ProbeKey::new((words("::1"), 4000), (words(address), 80), 7);
            assert_eq!(key.netns == 7, expected, "{address}");
        }
    }
}

//! The PROXY protocol, version 2: a header before the client's first byte, which tells the target who the client is.

use std::net::SocketAddr;

use ppp::v2::{Builder, Command, Protocol, Version};

/// The header for a connection from `client` to `service`, the address that the client had reached.
pub(super) fn header(client: SocketAddr, service: SocketAddr) -> Vec<u8> {
    let canonical = |addr: SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
    let addresses = (canonical(client), canonical(service));
    let command = Version::Two | Command::Proxy;
    let built = Builder::with_addresses(command, Protocol::Stream, addresses).build();
    // A header of two addresses is far below what its length field can say.
    built.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    #[test]
    fn the_header_is_that_of_the_specification() {
        let client = "[::ffff:192.0.2.7]:40000".parse().unwrap();
        let service = "198.51.100.1:80".parse().unwrap();
        let v4 = [0x21, 0x11, 0, 12, 192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 0, 80];
        assert_eq!(header(client, service), [SIGNATURE, &v4].concat());
        let header = header("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:2".parse().unwrap());
        assert_eq!(header[12..16], [0x21, 0x21, 0, 36]);
        assert_eq!((header.len(), &header[48..]), (52, &[0, 1, 0, 2][..]));
    }
}

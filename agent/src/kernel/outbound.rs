//! Connections that lead to an address: the independent look at what a service has opened itself.

use std::net::SocketAddr;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags},
};

use super::{
    KernelError,
    diag::{DumpError, TRIES, walk},
};

/// `TCP_FIN_WAIT2` (`include/net/tcp_states.h`).
const TCP_FIN_WAIT2: u8 = 5;

/// How many sockets of the namespace this thread is in have each of these peers. One that connects counts: it may be
/// established any moment.
pub(super) fn count(to: &[SocketAddr]) -> Result<Vec<u64>, KernelError> {
    let fail = |to: SocketAddr, e| KernelError::op("ask inet_diag for connections to", to, e);
    to.iter().map(|to| count_one(*to).map_err(|e| fail(*to, e))).collect()
}

fn count_one(to: SocketAddr) -> Result<u64, DumpError> {
    // IPv4 may be spoken by sockets of either family.
    Ok(whole(AF_INET, to)? + whole(AF_INET6, to)?)
}

/// By a dump that was not interrupted by a change of the table it walked.
fn whole(family: u8, to: SocketAddr) -> Result<u64, DumpError> {
    let request = request(family, to.port());
    for _ in 0..TRIES {
        let mut count = 0;
        let each = &mut |response: &InetResponse| {
            let id = &response.header.socket_id;
            let peer = SocketAddr::new(id.destination_address.to_canonical(), id.destination_port);
            // One that has sent its FIN may still read, unless no process has it any more.
            let is_used = response.header.state != TCP_FIN_WAIT2 || response.header.inode != 0;
            count += u64::from(peer == to && is_used);
        };
        if walk(&request, each)? {
            return Ok(count);
        }
    }
    Err(DumpError::Interrupted)
}

/// Asks for the sockets with this port at the other end.
fn request(family: u8, port: u16) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    socket_id.destination_port = port;
    let states = StateFlags::ESTABLISHED
        | StateFlags::SYN_SENT
        | StateFlags::FIN_WAIT1
        | StateFlags::FIN_WAIT2
        | StateFlags::CLOSE_WAIT
        | StateFlags::LAST_ACK
        | StateFlags::CLOSING;
    let extensions = ExtensionFlags::empty();
    let request = InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn connections_to_an_address_are_counted_until_they_have_ended() {
        let broker = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = broker.local_addr().unwrap();
        let other = SocketAddr::from(([127, 0, 0, 2], to.port()));
        assert_eq!(count(&[to, other]).unwrap(), [0, 0]);
        // One of IPv4, and one that speaks it by a socket of IPv6.
        let first = TcpStream::connect(to).unwrap();
        let mapped = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped(), to.port()));
        let second = TcpStream::connect(mapped).unwrap();
        let accepted = [broker.accept().unwrap(), broker.accept().unwrap()];
        assert_eq!(count(&[to, other]).unwrap(), [2, 0]);
        // A consumer that says no more, and still reads.
        first.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(count(&[to, other]).unwrap(), [2, 0]);
        drop(first);
        // Nobody has it any more, once its FIN is acknowledged, which may be put off.
        let limit = Instant::now() + Duration::from_secs(30);
        while count(&[to, other]).unwrap() != [1, 0] {
            assert!(Instant::now() < limit, "it is still waited for");
            std::thread::yield_now();
        }
        drop((second, accepted));
    }
}

//! Connections that lead to an address: the independent look at what a service has opened itself.

use std::net::SocketAddr;

use netlink_packet_sock_diag::inet::StateFlags;

use super::{
    KernelError,
    diag::{DumpError, Request, until_whole, walk},
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
    let states = StateFlags::ESTABLISHED
        | StateFlags::SYN_SENT
        | StateFlags::FIN_WAIT1
        | StateFlags::FIN_WAIT2
        | StateFlags::CLOSE_WAIT
        | StateFlags::LAST_ACK
        | StateFlags::CLOSING;
    let request = Request { peer_port: to.port(), ..Request::of(states) };
    until_whole(|| {
        let mut count = 0;
        let is_whole = walk(&request, &mut |response| {
            let id = &response.header.socket_id;
            // IPv4 may be spoken by sockets of either family.
            let peer = SocketAddr::new(id.destination_address.to_canonical(), id.destination_port);
            // One that has sent its FIN may still read, unless no process has it any more.
            let is_used = response.header.state != TCP_FIN_WAIT2 || response.header.inode != 0;
            count += u64::from(peer == to && is_used);
        })?;
        Ok(is_whole.then_some(count))
    })
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

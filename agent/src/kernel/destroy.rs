//! Resetting connections: `SOCK_DESTROY` (`tcp_diag_destroy`, Linux 4.5 with `CONFIG_INET_DIAG_DESTROY`).

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket as Netlink, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

use super::{Abort, KernelError};

/// Room for an answer, which repeats the request.
const BUFFER: usize = 4096;

/// Resets these connections of the namespace this thread is in; returns the cookies of those that were there.
/// The kernel finds each by its addresses and ports, and resets it only if it has that very cookie.
pub(super) fn destroy(flows: &[Abort]) -> Result<Vec<u64>, KernelError> {
    let fail = |e| KernelError::op("ask the kernel to reset", "connections", e);
    let mut netlink = Netlink::new(NETLINK_SOCK_DIAG).map_err(fail)?;
    netlink.bind_auto().map_err(fail)?;
    netlink.connect(&NetlinkAddr::new(0, 0)).map_err(fail)?;
    let mut done = Vec::new();
    let mut refused = None;
    for flow in flows {
        match destroy_one(&netlink, flow) {
            Ok(()) => done.push(flow.cookie),
            // It has ended meanwhile, or its addresses belong to another one by now.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {}
            Err(e) => refused = Some(KernelError::op("reset the connection of", flow.peer, e)),
        }
    }
    match refused {
        Some(e) if done.is_empty() => Err(e),
        // What was reset has to be told; the look that follows shows what remains.
        _ => Ok(done),
    }
}

fn destroy_one(netlink: &Netlink, flow: &Abort) -> io::Result<()> {
    netlink.send(&request(flow), 0)?;
    let mut buffer = vec![0; BUFFER];
    let size = netlink.recv(&mut &mut buffer[..], 0)?;
    let answer = <NetlinkMessage<SockDiagMessage>>::deserialize(&buffer[..size]);
    match answer.map_err(io::Error::other)?.payload {
        NetlinkPayload::Error(e) if e.code.is_none() => Ok(()),
        NetlinkPayload::Error(e) => Err(e.to_io()),
        other => Err(io::Error::other(format!("unexpected answer {other:?}"))),
    }
}

fn request(flow: &Abort) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    // A socket bound to `::` is found by the IPv4 addresses of a peer that came by IPv4.
    let local = flow.local.ip().to_canonical();
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    let socket_id = SocketId {
        source_port: flow.local.port(),
        destination_port: flow.peer.port(),
        source_address: local,
        destination_address: flow.peer.ip().to_canonical(),
        // The kernel finds one that is bound to an interface by that only (`inet6_match`).
        interface_id: flow.interface,
        cookie: flow.cookie.to_ne_bytes(),
    };
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id,
    };
    let request = SockDiagDestroy::new(SockDiagMessage::InetRequest(request));
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

//! The independent look: TCP sockets as inet_diag reports them (`net/ipv4/inet_diag.c`).

use std::{net::SocketAddr, time::Duration};

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, Parseable as _,
};
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetResponse, StateFlags,
    nlas::{Nla, TcpInfo},
};
use netlink_sys::{Socket as Netlink, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

use super::{Class, KernelError, Listener, Look, Socket, SocketInfo, TcpState, marks::Asked};

/// `TCPDIAG_GETSOCK` (`include/uapi/linux/inet_diag.h`) asks for sockets of IPv4 and IPv6 together (`inet_diag_dump_compat`).
/// The newer `SOCK_DIAG_BY_FAMILY` asks for one family, and the kernel goes through the tables of the whole node for each.
const GETSOCK: u16 = 18;
/// `TCP_LISTEN` (`include/net/tcp_states.h`).
const TCP_LISTEN: u8 = 10;
/// What a look shows: sockets that listen, and all that somebody may still wait for.
const SHOWN: StateFlags = StateFlags::all()
    .difference(StateFlags::TIME_WAIT.union(StateFlags::CLOSE).union(StateFlags::SYN_SENT));
/// A dump that changed under us is asked for again, this often.
const TRIES: usize = 5;
/// Larger than any message of a dump (`NLMSG_GOODSIZE` and what `recvmsg` made the kernel grow to).
const BUFFER: usize = 64 * 1024;

/// Looks at all TCP sockets of the namespace this thread is in with one of these local ports, or with any if none is
/// named. Without `marks`, all connections are [`Class::Counted`].
pub(super) fn look(ports: &[u16], marks: Option<&Asked<'_>>) -> Result<Look, KernelError> {
    let request = look_request(ports, marks);
    until_whole(|| {
        let mut look = Look::default();
        let is_whole = walk(&request, &mut |response| add(&mut look, response, marks))?;
        Ok(is_whole.then_some(look))
    })
    .map_err(|e| KernelError::op("ask inet_diag for", "TCP sockets", e))
}

fn look_request(ports: &[u16], marks: Option<&Asked<'_>>) -> Request {
    let mut request = Request { info: true, ..Request::of(SHOWN) };
    request.attributes = marks.map(Asked::attribute).unwrap_or_default();
    match ports {
        [port] => request.local_port = *port,
        [] => {}
        ports => request.attributes.extend(one_of(ports)),
    }
    request
}

/// Whether a socket of the namespace this thread is in listens on this port. The kernel goes through its table of listeners
/// for that, and not through that of connections (`inet_diag_dump_icsk`).
pub(super) fn listens(port: u16) -> Result<bool, KernelError> {
    let request = Request { local_port: port, ..Request::of(StateFlags::LISTEN) };
    until_whole(|| {
        let mut found = false;
        let is_whole = walk(&request, &mut |r| found |= r.header.state == TCP_LISTEN)?;
        // What was found is there, whatever else has changed.
        Ok((is_whole || found).then_some(found))
    })
    .map_err(|e| KernelError::op("ask inet_diag for", "listeners", e))
}

fn add(look: &mut Look, response: &InetResponse, marks: Option<&Asked<'_>>) {
    let h = &response.header;
    let id = &h.socket_id;
    let local = SocketAddr::new(id.source_address.to_canonical(), id.source_port);
    let cookie = u64::from_ne_bytes(id.cookie);
    if h.state == TCP_LISTEN {
        let (uid, inode, backlog) = (h.uid, h.inode, h.recv_queue);
        look.listeners.push(Listener { cookie, local, uid, inode, backlog });
        return;
    }
    let Some(state) = state(h.state) else { return };
    look.sockets.push(Socket {
        cookie,
        state,
        class: match marks {
            Some(marks) if marks.is_steered(local.port(), &response.nlas) => Class::Steered,
            _ => Class::Counted,
        },
        local,
        peer: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
        interface: id.interface_id,
        inode: h.inode,
        unread: h.recv_queue,
        unacked: h.send_queue,
        info: response.nlas.iter().find_map(info),
    });
}

fn state(number: u8) -> Option<TcpState> {
    // include/net/tcp_states.h
    Some(match number {
        1 => TcpState::Established,
        3 => TcpState::SynRecv,
        4 => TcpState::FinWait1,
        5 => TcpState::FinWait2,
        8 => TcpState::CloseWait,
        9 => TcpState::LastAck,
        11 => TcpState::Closing,
        _ => return None,
    })
}

fn info(nla: &Nla) -> Option<SocketInfo> {
    let Nla::TcpInfo(TcpInfo {
        bytes_received,
        bytes_acked,
        notsent_bytes,
        last_data_sent,
        last_data_recv,
        rtt,
        ..
    }) = nla
    else {
        return None;
    };
    Some(SocketInfo {
        bytes_received: *bytes_received,
        bytes_acked: *bytes_acked,
        not_sent: *notsent_bytes,
        since_sent: Duration::from_millis(u64::from(*last_data_sent)),
        since_received: Duration::from_millis(u64::from(*last_data_recv)),
        rtt: Duration::from_micros(u64::from(*rtt)),
    })
}

/// Why a dump is not to be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DumpError {
    #[error("netlink socket")]
    Io(#[from] std::io::Error),
    #[error("cannot read the kernel's answer")]
    Decode(#[from] DecodeError),
    #[error("the kernel refused: {0}")]
    Refused(std::io::Error),
    #[error("the table changed during the dump, {TRIES} times in a row")]
    Interrupted,
}

/// The outcome of a dump that was not interrupted by a change of the table it walked: `dump` gives `None` if it was.
pub(super) fn until_whole<T>(
    dump: impl FnMut() -> Result<Option<T>, DumpError>,
) -> Result<T, DumpError> {
    std::iter::repeat_with(dump)
        .take(TRIES)
        .find_map(Result::transpose)
        .unwrap_or(Err(DumpError::Interrupted))
}

/// Asks the kernel, and calls `each` for every socket in its answer. False if the kernel marks that as interrupted.
pub(super) fn walk(
    request: &Request,
    each: &mut dyn FnMut(&InetResponse),
) -> Result<bool, DumpError> {
    let mut netlink = Netlink::new(NETLINK_SOCK_DIAG)?;
    netlink.bind_auto()?;
    netlink.connect(&NetlinkAddr::new(0, 0))?;
    netlink.send(&request.bytes(), 0)?;
    let mut buffer = vec![0; BUFFER];
    let mut dump = Dump { each, interrupted: false, done: false };
    while !dump.done {
        let size = netlink.recv(&mut &mut buffer[..], 0)?;
        dump.read(&buffer[..size])?;
    }
    Ok(!dump.interrupted)
}

/// One socket in the answer.
struct Answer(InetResponse);

impl NetlinkDeserializable for Answer {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        InetResponse::parse(payload).map(Self)
    }
}

/// A dump as it comes in.
struct Dump<'a> {
    each: &'a mut dyn FnMut(&InetResponse),
    interrupted: bool,
    done: bool,
}

impl Dump<'_> {
    /// Takes one datagram of messages.
    fn read(&mut self, mut datagram: &[u8]) -> Result<(), DumpError> {
        while !datagram.is_empty() && !self.done {
            let message = <NetlinkMessage<Answer>>::deserialize(datagram)?;
            self.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                NetlinkPayload::InnerMessage(Answer(response)) => (self.each)(&response),
                // An error that the dump ran into comes here, without an NLMSG_ERROR (`netlink_dump`): without the
                // module tcp_diag, for example, this is -ENOENT and all there is.
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(DumpError::Refused(std::io::Error::from_raw_os_error(-done.code)));
                }
                NetlinkPayload::Done(_) => self.done = true,
                NetlinkPayload::Error(e) => return Err(DumpError::Refused(e.to_io())),
                _ => {}
            }
            // Messages are aligned to four bytes.
            let length = (message.header.length as usize).next_multiple_of(4);
            datagram = datagram.get(length..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Which sockets are asked for, and what of them.
pub(super) struct Request {
    pub(super) states: StateFlags,
    /// 0: any.
    pub(super) local_port: u16,
    /// 0: any.
    pub(super) peer_port: u16,
    /// Whether `tcp_info` is.
    pub(super) info: bool,
    /// Netlink attributes with what else is asked.
    pub(super) attributes: Vec<u8>,
}

impl Request {
    /// For all sockets in these states.
    pub(super) fn of(states: StateFlags) -> Self {
        Self { states, local_port: 0, peer_port: 0, info: false, attributes: Vec::new() }
    }

    /// `struct nlmsghdr`, `struct inet_diag_req` (`include/uapi/linux/inet_diag.h`) and the attributes.
    fn bytes(&self) -> Vec<u8> {
        /// Size of both structures.
        const SIZE: usize = 16 + 60;
        let info = if self.info { ExtensionFlags::INFO } else { ExtensionFlags::empty() };
        let length = (SIZE + self.attributes.len()) as u32;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend([GETSOCK, NLM_F_REQUEST | NLM_F_DUMP].map(u16::to_ne_bytes).concat());
        bytes.extend([0; 8]); // Sequence number and port id.
        bytes.extend([0, 0, 0, info.bits()]); // A dump does not look at the family and the lengths of prefixes.
        bytes.extend([self.local_port, self.peer_port].map(u16::to_be_bytes).concat());
        bytes.extend([0; 44]); // Nor at addresses, interface and cookie.
        bytes.extend(self.states.bits().to_ne_bytes());
        bytes.extend([0; 4]); // Tables (`idiag_dbs`), which the kernel does not read.
        debug_assert_eq!(bytes.len(), SIZE);
        bytes.extend(&self.attributes);
        bytes
    }
}

/// The attribute with a program for the kernel that picks sockets with one of these local ports. For each port it
/// compares; a match goes to the end of the program, and what goes beyond the end is left out.
fn one_of(ports: &[u16]) -> Vec<u8> {
    /// `INET_DIAG_REQ_BYTECODE`, `INET_DIAG_BC_JMP` and `INET_DIAG_BC_S_EQ` (Linux 4.16).
    const BYTECODE: u16 = 1;
    const JUMP: u8 = 1;
    const SOURCE_PORT_IS: u8 = 11;
    /// Size of `struct inet_diag_bc_op`, in which lengths of jumps are counted; a comparison takes two.
    const OP: u16 = 4;
    let length = (3 * ports.len() as u16 - 1) * OP;
    let mut bytes = [4 + length, BYTECODE].map(u16::to_ne_bytes).concat();
    let mut op = |code: u8, yes: u16, no: u16| {
        bytes.extend([code, yes as u8]);
        bytes.extend(no.to_ne_bytes());
    };
    for (number, port) in (1..).zip(ports) {
        op(SOURCE_PORT_IS, 2 * OP, 3 * OP);
        op(0, 0, *port);
        if number < ports.len() as u16 {
            op(JUMP, OP, length - (3 * number - 1) * OP);
        }
    }
    bytes
}

#[cfg(test)]
#[path = "diag_tests.rs"]
mod tests;

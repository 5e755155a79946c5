//! What goes to inet_diag and what comes back, byte by byte (`include/uapi/linux/inet_diag.h`).

use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};

use super::*;

const WEB: [u8; 4] = [192, 0, 2, 1];
const PEER: [u8; 4] = [198, 51, 100, 7];

/// A netlink message of this type.
fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + payload.len() as u32).to_ne_bytes().to_vec();
    bytes.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
    bytes.extend([0; 8]); // Sequence number and port id.
    bytes.extend(payload);
    bytes
}

/// `NLMSG_DONE` with the code that the dump ended with.
fn done(code: i32) -> Vec<u8> {
    message(3, 0, &code.to_ne_bytes())
}

/// `NLMSG_ERROR`, and the header it answers to.
fn error(code: i32) -> Vec<u8> {
    message(2, 0, &[&code.to_ne_bytes()[..], &[0; 16]].concat())
}

/// `struct inet_diag_msg` in a message: the socket with this cookie, from [`WEB`] to [`PEER`].
fn socket(family: u8, state: u8, cookie: u64) -> Vec<u8> {
    let address = |v4: [u8; 4]| {
        let mapped = std::net::Ipv4Addr::from(v4).to_ipv6_mapped().octets();
        let unmapped = [&v4[..], &[0; 12]].concat();
        if family == AF_INET6 { mapped.to_vec() } else { unmapped }
    };
    let mut payload = vec![family, state, 0, 0];
    payload.extend(8080_u16.to_be_bytes());
    payload.extend(40_000_u16.to_be_bytes());
    payload.extend([address(WEB), address(PEER)].concat());
    payload.extend(0_u32.to_ne_bytes()); // Interface.
    payload.extend(cookie.to_ne_bytes());
    // Expires, receive queue, send queue, user id, inode.
    payload.extend([0_u32, 3, 4, 1000, 5].map(u32::to_ne_bytes).concat());
    assert_eq!(payload.len(), 72);
    message(18, 0, &payload)
}

struct Seen {
    look: Look,
    done: bool,
    interrupted: bool,
}

fn read(datagrams: &[Vec<u8>]) -> Result<Seen, DumpError> {
    let mut look = Look::default();
    let mut each = |response: &InetResponse| add(&mut look, response, None);
    let mut dump = Dump { each: &mut each, interrupted: false, done: false };
    for datagram in datagrams {
        dump.read(datagram)?;
    }
    let Dump { done, interrupted, .. } = dump;
    Ok(Seen { look, done, interrupted })
}

fn looked(datagram: Vec<u8>) -> Look {
    read(&[datagram]).unwrap().look
}

#[test]
fn a_connection_is_one_whichever_family_it_came_by() {
    for family in [AF_INET, AF_INET6] {
        let look = looked(socket(family, 1, 0x1_0000_0002));
        let expected = Socket {
            cookie: 0x1_0000_0002,
            state: TcpState::Established,
            class: Class::Counted,
            local: (WEB, 8080).into(),
            peer: (PEER, 40_000).into(),
            inode: 5,
            unread: 3,
            unacked: 4,
            interface: 0,
            info: None,
        };
        assert_eq!(look, Look { listeners: vec![], sockets: vec![expected] }, "family {family}");
    }
}

#[test]
fn a_listener_is_not_a_connection() {
    let look = looked(socket(AF_INET6, TCP_LISTEN, 9));
    let local = (WEB, 8080).into();
    let expected = Listener { cookie: 9, local, uid: 1000, inode: 5, backlog: 3 };
    assert_eq!(look, Look { listeners: vec![expected], sockets: vec![] });
}

#[test]
fn states_have_the_numbers_of_the_kernel() {
    let known = [
        (1, TcpState::Established),
        (3, TcpState::SynRecv),
        (4, TcpState::FinWait1),
        (5, TcpState::FinWait2),
        (8, TcpState::CloseWait),
        (9, TcpState::LastAck),
        (11, TcpState::Closing),
    ];
    for number in 0..=u8::MAX {
        let expected = known.iter().find(|(n, _)| *n == number).map(|(_, state)| *state);
        assert_eq!(state(number), expected, "{number}");
    }
    assert_eq!(looked(socket(AF_INET, 6, 1)), Look::default(), "TIME_WAIT is left out");
}

#[test]
fn a_dump_is_whole_at_its_end() {
    let datagram = [socket(AF_INET, 1, 1), socket(AF_INET, 1, 2)].concat();
    let dump = read(std::slice::from_ref(&datagram)).unwrap();
    assert_eq!((dump.look.sockets.len(), dump.done, dump.interrupted), (2, false, false));
    let dump = read(&[datagram, socket(AF_INET, 1, 3), done(0)]).unwrap();
    assert_eq!((dump.look.sockets.len(), dump.done, dump.interrupted), (3, true, false));
}

#[test]
fn a_dump_that_was_interrupted_says_so() {
    let interrupted = message(3, NLM_F_DUMP_INTR, &0_i32.to_ne_bytes());
    let dump = read(&[socket(AF_INET, 1, 1), interrupted]).unwrap();
    assert_eq!((dump.done, dump.interrupted), (true, true));
}

#[test]
fn a_dump_that_failed_is_never_an_empty_look() {
    for (description, datagram) in
        [("at its end", done(-libc::ENOENT)), ("instead of an answer", error(-libc::ENOENT))]
    {
        match read(&[datagram]) {
            Err(DumpError::Refused(e)) => {
                assert_eq!(e.raw_os_error(), Some(libc::ENOENT), "{description}");
            }
            other => panic!("{description}: {:?}", other.map(|dump| dump.look)),
        }
    }
    let short = &socket(AF_INET, 1, 1)[..60];
    assert!(matches!(read(&[short.to_vec()]), Err(DumpError::Decode(_))));
}

#[test]
fn a_request_names_port_and_states_and_is_for_both_families() {
    let bytes = look_request(&[8080], None).bytes();
    // nlmsghdr (16 bytes), then struct inet_diag_req (60 bytes).
    assert_eq!(bytes.len(), 76);
    assert_eq!(bytes[..4], 76_u32.to_ne_bytes());
    assert_eq!(bytes[4..6], 18_u16.to_ne_bytes(), "TCPDIAG_GETSOCK");
    assert_eq!(bytes[6..8], (NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    assert_eq!(bytes[16..20], [0, 0, 0, 1 << 1], "tcp_info (INET_DIAG_INFO)");
    assert_eq!(bytes[20..22], 8080_u16.to_be_bytes(), "local port");
    assert_eq!(bytes[22..24], [0; 2], "any port of the peer");
    let states = u32::from_ne_bytes(bytes[68..72].try_into().unwrap());
    let asked: Vec<u32> = (0..32).filter(|state| states & (1 << state) != 0).collect();
    assert_eq!(asked, [1, 3, 4, 5, 8, 9, 10, 11], "all but SYN_SENT, TIME_WAIT and CLOSE");
}

#[test]
fn one_look_shows_sockets_of_both_families_of_the_ports_it_was_asked_for() {
    let listen = |at: &str| std::net::TcpListener::bind(at).unwrap();
    let (v4, v6, other) = (listen("127.0.0.1:0"), listen("[::1]:0"), listen("127.0.0.1:0"));
    let address = |listener: &std::net::TcpListener| listener.local_addr().unwrap();
    let shown = |ports: &[u16]| {
        let look = look(ports, None).unwrap();
        let shown: Vec<SocketAddr> = look.listeners.iter().map(|each| each.local).collect();
        [&v4, &v6, &other].map(|listener| shown.contains(&address(listener)))
    };
    let (first, second) = (address(&v4).port(), address(&v6).port());
    assert_eq!(shown(&[]), [true, true, true]);
    assert_eq!(shown(&[first]), [true, false, false]);
    assert_eq!(shown(&[second]), [false, true, false]);
    assert_eq!(shown(&[first, second]), [true, true, false]);
}

#[test]
fn a_listener_is_found_and_a_connection_is_none() {
    for any in ["127.0.0.1:0", "[::1]:0"] {
        let listener = std::net::TcpListener::bind(any).unwrap();
        let addr = listener.local_addr().unwrap();
        assert!(listens(addr.port()).unwrap(), "{addr}");
        let client = std::net::TcpStream::connect(addr).unwrap();
        let server = listener.accept().unwrap();
        drop(listener);
        assert!(!listens(addr.port()).unwrap(), "{addr}");
        drop((client, server));
    }
}

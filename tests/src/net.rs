//! Sockets in a namespace, in every state a test needs.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, bind, connect as connect_socket, ipproto,
    listen as start_listening, shutdown, socket_with, sockopt,
};
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;

use crate::{
    cmd,
    netns::Netns,
    wait::{LIMIT, eventually, patient},
};

/// A listening socket in a namespace, one that accepts only when told to.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

/// What a listening socket is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Listening {
    /// Where to listen.
    pub addr: SocketAddr,
    /// Length of the accept queue.
    pub backlog: i32,
    /// For IPv6: whether IPv4 clients are refused (false: they come as v4-mapped addresses).
    pub v6_only: bool,
}

impl Listening {
    /// A server with a long accept queue; IPv6 addresses are dual-stack.
    pub fn on(ip: impl Into<IpAddr>, port: u16) -> Self {
        Self { addr: SocketAddr::new(ip.into(), port), backlog: 4096, v6_only: false }
    }
}

impl Server {
    /// Starts to listen inside `netns`.
    pub fn start(netns: &Netns, how: Listening) -> Result<Self> {
        netns.run(|| Self::start_here(how))
    }

    /// The same as another user: the socket belongs to the user of the thread that makes it.
    pub fn start_as(uid: u32, netns: &Netns, how: Listening) -> Result<Self> {
        netns.run(|| {
            let uid = Uid::from_raw(uid);
            set_thread_res_uid(uid, uid, uid)?;
            Self::start_here(how)
        })
    }

    /// Starts to listen in the namespace, and as the user, of the calling thread.
    pub fn start_here(how: Listening) -> Result<Self> {
        let family = if how.addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        // Child processes of tests beside must not keep it open.
        let fd = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
        sockopt::set_socket_reuseaddr(&fd, true)?;
        if how.addr.is_ipv6() {
            sockopt::set_ipv6_v6only(&fd, how.v6_only)?;
        }
        // What was closed just now is still open in a child that a test beside has started, until that executes its program.
        eventually(LIMIT, "the address is free", || match bind(&fd, &how.addr) {
            Err(Errno::ADDRINUSE) => Ok(false),
            bound => bound.map(|()| true).with_context(|| format!("bind {}", how.addr)),
        })?;
        start_listening(&fd, how.backlog)?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(LIMIT))?;
        Ok(Self { listener: TcpListener::from(fd) })
    }

    /// Starts to listen inside `netns` for Multipath TCP on this address; clients of plain TCP can come too.
    pub fn start_mptcp(netns: &Netns, addr: SocketAddr) -> Result<Self> {
        netns.run(|| {
            let fd = mptcp(addr)?;
            sockopt::set_socket_reuseaddr(&fd, true)?;
            bind(&fd, &addr).with_context(|| format!("bind {addr}"))?;
            start_listening(&fd, 64)?;
            sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(LIMIT))?;
            Ok(Self { listener: TcpListener::from(fd) })
        })
    }

    /// A connection of Multipath TCP.
    pub fn mptcp_pair(&self, client: &Netns, addr: SocketAddr) -> Result<Pair> {
        let client = client.run(|| {
            let fd = mptcp(addr)?;
            connect_socket(&fd, &addr).with_context(|| format!("connect to {addr}"))?;
            let stream = TcpStream::from(fd);
            limit(&stream)?;
            Ok(stream)
        })?;
        Ok(Pair { client, server: self.accept()? })
    }

    /// Takes the next connection from the accept queue.
    pub fn accept(&self) -> Result<TcpStream> {
        let (stream, _) = self.listener.accept().context("accept")?;
        limit(&stream)?;
        Ok(stream)
    }

    /// The port it listens on.
    pub fn port(&self) -> Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// Connects from `client` to `addr` `count` times and accepts each connection.
    pub fn pairs(&self, client: &Netns, addr: SocketAddr, count: usize) -> Result<Vec<Pair>> {
        client.run(|| {
            (0..count)
                .map(|_| Ok(Pair { client: connect_here(addr)?, server: self.accept()? }))
                .collect()
        })
    }
}

/// Accepts and closes whatever comes, on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Acceptor {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Acceptor {
    /// Takes over a server.
    pub fn start(server: Server) -> Self {
        let listener = Arc::new(server.listener);
        let accepting = Arc::clone(&listener);
        let thread = thread::spawn(move || {
            loop {
                match accepting.accept() {
                    Ok(connection) => drop(connection),
                    // Nobody came for a while.
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        });
        Self { listener, thread: Some(thread) }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        // Makes accept() return.
        let _ = shutdown(&self.listener, Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Both ends of one connection.
#[derive(Debug)]
pub struct Pair {
    /// The end that connected.
    pub client: TcpStream,
    /// The end that was accepted.
    pub server: TcpStream,
}

impl Pair {
    /// Sends a few bytes both ways and checks that they arrive.
    pub fn exchange(&mut self) -> Result<()> {
        send(&mut self.client, &mut self.server)?;
        send(&mut self.server, &mut self.client)
    }
}

fn send(from: &mut TcpStream, to: &mut TcpStream) -> Result<()> {
    const BYTES: &[u8] = b"0123456789abcdef";
    from.write_all(BYTES)?;
    let mut got = [0; BYTES.len()];
    to.read_exact(&mut got)?;
    if got != BYTES {
        bail!("other bytes arrived than were sent");
    }
    Ok(())
}

/// Connects from inside `netns`; reads and writes have a limit.
pub fn connect(netns: &Netns, addr: SocketAddr) -> Result<TcpStream> {
    netns.run(|| connect_here(addr))
}

/// Connects from the namespace of the calling thread.
pub fn connect_here(addr: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, patient(LIMIT))
        .with_context(|| format!("connect to {addr}"))?;
    limit(&stream)?;
    Ok(stream)
}

/// Connects from inside `netns` and from this address and port; the connection is `None` if it is refused.
pub fn connect_from(
    netns: &Netns,
    from: SocketAddr,
    addr: SocketAddr,
) -> Result<Option<TcpStream>> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    netns.run(|| {
        let fd = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
        sockopt::set_socket_reuseaddr(&fd, true)?;
        bind(&fd, &from).with_context(|| format!("bind {from}"))?;
        match connect_socket(&fd, &addr) {
            Ok(()) => Ok(Some(TcpStream::from(fd))),
            Err(Errno::CONNREFUSED) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("connect from {from} to {addr}")),
        }
    })
}

fn mptcp(addr: SocketAddr) -> Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::MPTCP))
        .context("a socket of Multipath TCP (CONFIG_MPTCP)")
}

/// What became of an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It was established.
    Connected,
    /// It was answered by a RST.
    Refused,
    /// Nothing came back within the time given.
    Unanswered,
}

/// Tries to connect, and closes again.
pub fn attempt(netns: &Netns, addr: SocketAddr, limit: Duration) -> Result<Attempt> {
    netns.run(|| match TcpStream::connect_timeout(&addr, limit) {
        Ok(_) => Ok(Attempt::Connected),
        Err(error) => match error.kind() {
            // It was established, and who accepted it died before connect(2) returned.
            ErrorKind::ConnectionReset => Ok(Attempt::Connected),
            ErrorKind::ConnectionRefused => Ok(Attempt::Refused),
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Ok(Attempt::Unanswered),
            _ => Err(error).with_context(|| format!("connect to {addr}")),
        },
    })
}

/// Closes a connection with a RST.
pub fn reset(stream: TcpStream) -> Result<()> {
    sockopt::set_socket_linger(stream.as_fd(), Some(Duration::ZERO))?;
    Ok(())
}

fn limit(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(patient(LIMIT)))?;
    stream.set_write_timeout(Some(patient(LIMIT)))?;
    Ok(())
}

/// While this lives, nothing but SYNs leaves `client` for `port`: handshakes stay in SYN_RECV.
#[derive(Debug)]
pub struct LostAcks<'a> {
    client: &'a Netns,
    port: String,
}

impl<'a> LostAcks<'a> {
    /// Starts to lose them.
    pub fn start(client: &'a Netns, port: u16) -> Result<Self> {
        let lost = Self { client, port: port.to_string() };
        lost.rule("--append")?;
        Ok(lost)
    }

    fn rule(&self, action: &str) -> Result<()> {
        let rule = ["OUTPUT", "-p", "tcp", "--dport", &self.port, "!", "--syn", "-j", "DROP"];
        let args = [&["--wait", action], &rule[..]].concat();
        self.client.run(|| cmd::run("iptables", &args)).map(drop)
    }
}

impl Drop for LostAcks<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.rule("--delete") {
            eprintln!("a rule stays behind: {error:#}");
        }
    }
}

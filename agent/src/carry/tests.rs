//! The carrier between real sockets on loopback; how connections get to it is for the integration tests.

use std::{io::ErrorKind, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{
    Attempts, Carrier, CarryCounts, Route,
    trial::{self, Held, Verdict},
};
use crate::{
    drain::Service,
    kernel::{Kernel as _, Listening, fake::FakeKernel, reset_at_close},
};

const NETNS: u32 = 7;
const LIMIT: Duration = Duration::from_secs(20);

/// A carrier, and where its clients connect.
pub(super) struct World {
    pub(super) kernel: Arc<FakeKernel>,
    pub(super) carrier: Carrier,
    service: Service,
    addr: SocketAddr,
}

impl World {
    pub(super) fn new(route: Route) -> Self {
        Self::with_limit(route, 10)
    }

    /// Clients find our listener without a gate, so the service has its port.
    fn with_limit(route: Route, limit: usize) -> Self {
        let (kernel, _) = FakeKernel::with_manual_clock();
        kernel.add_netns(NETNS);
        let listener = kernel.open_listener(NETNS, Listening::Accepting).unwrap();
        let bound = rustix::net::getsockname(&listener.socket).unwrap();
        let port = SocketAddr::try_from(bound).unwrap().port();
        let service = Service { netns: NETNS, port };
        let carrier = Carrier::new(Arc::clone(&kernel) as _, limit);
        carrier.open(service, listener, route).unwrap();
        Self { kernel, carrier, service, addr: ([127, 0, 0, 1], port).into() }
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }
}

pub(super) fn to(targets: &[SocketAddr]) -> Route {
    Route { targets: targets.to_vec(), proxy_protocol: false, uid: 0 }
}

pub(super) async fn server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// An address where nobody listens.
pub(super) async fn nobody() -> SocketAddr {
    server().await.1
}

/// A client and the connection that its target got.
pub(super) async fn pair(world: &World, server: &TcpListener) -> (TcpStream, TcpStream) {
    let client = world.connect().await;
    let (target, _) = limited(server.accept()).await.unwrap();
    (client, target)
}

pub(super) async fn limited<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.expect("it takes too long")
}

pub(super) async fn ends_with(socket: &mut TcpStream, kind: ErrorKind) {
    let error = limited(socket.read_to_end(&mut Vec::new())).await.unwrap_err();
    assert_eq!(error.kind(), kind);
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 31 + i / 251) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_and_half_closes_arrive_both_ways() {
    let (server, addr) = server().await;
    let world = World::new(to(&[addr]));
    let (client, target) = pair(&world, &server).await;
    let (there, back) = (pattern(20_000_000), pattern(15_000_001));
    let (sent, answer) = (there.clone(), back.clone());
    let serving = tokio::spawn(async move {
        let (mut target, mut got) = (target, Vec::new());
        target.read_to_end(&mut got).await.unwrap();
        target.write_all(&answer).await.unwrap();
        got
    });
    let (mut read, mut write) = client.into_split();
    let sending = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (_, received) = limited(async { tokio::join!(sending, read.read_to_end(&mut got)) }).await;
    received.unwrap();
    assert!(got == back && serving.await.unwrap() == there, "other bytes than were sent");
    limited(world.carrier.idle()).await;
    let counts = CarryCounts { total: 1, ..CarryCounts::default() };
    assert_eq!(world.carrier.counts(), counts);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    let (server, addr) = server().await;
    let world = World::new(to(&[addr]));
    let (mut client, mut target) = pair(&world, &server).await;
    target.write_all(b"220 ready").await.unwrap();
    let mut greeting = [0; 9];
    limited(client.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"220 ready");
    client.write_all(b"QUIT").await.unwrap();
    drop(client);
    let mut rest = Vec::new();
    limited(target.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"QUIT");
}

#[tokio::test]
async fn a_target_that_refuses_is_passed_over_and_none_at_all_is_a_reset() {
    let (server, addr) = server().await;
    let world = World::new(to(&[nobody().await, addr]));
    for _ in 0..3 {
        let (mut client, target) = pair(&world, &server).await;
        drop(target);
        assert_eq!(limited(client.read(&mut [0])).await.unwrap(), 0);
    }
    let world = World::new(to(&[nobody().await, nobody().await]));
    ends_with(&mut world.connect().await, ErrorKind::ConnectionReset).await;
    limited(world.carrier.idle()).await;
    assert_eq!((world.carrier.counts().refused, world.carrier.counts().total), (1, 1));
}

#[tokio::test]
async fn resets_are_passed_on_both_ways() {
    let (server, addr) = server().await;
    let world = World::new(to(&[addr]));
    for settled in [false, true] {
        for from_client in [false, true] {
            let (mut client, mut target) = pair(&world, &server).await;
            if settled {
                target.write_all(b"x").await.unwrap();
                limited(client.read_exact(&mut [0])).await.unwrap();
            }
            let (from, mut to) = if from_client { (client, target) } else { (target, client) };
            reset_at_close(&from, true);
            drop(from);
            ends_with(&mut to, ErrorKind::ConnectionReset).await;
        }
    }
    limited(world.carrier.idle()).await;
}

#[tokio::test]
async fn a_reset_after_a_half_close_is_passed_on_too() {
    let (server, addr) = server().await;
    let world = World::new(to(&[addr]));
    let (mut client, mut target) = pair(&world, &server).await;
    client.shutdown().await.unwrap();
    assert_eq!(limited(target.read(&mut [0])).await.unwrap(), 0);
    target.write_all(b"x").await.unwrap();
    limited(client.read_exact(&mut [0])).await.unwrap();
    reset_at_close(&client, true);
    drop(client);
    // After an end of the stream, a reset shows when something is written.
    let writing = async { while target.write_all(b"x").await.is_ok() {} };
    limited(writing).await;
    limited(world.carrier.idle()).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_target() {
    let (server, addr) = server().await;
    let world = World::new(to(&[addr]));
    let (client, target) = pair(&world, &server).await;
    let chunk = vec![1; 1 << 20];
    let mut written = 0;
    // Socket buffers of four sockets, each of some MiB at most, and one pipe.
    while timeout(Duration::from_millis(500), target.writable()).await.is_ok() {
        match target.try_write(&chunk) {
            Ok(count) => written += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(written < 64 << 20, "somebody takes everything");
    }
    drop(target);
    let mut client = client;
    let mut got = Vec::new();
    limited(client.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got.len(), written);
}

#[tokio::test]
async fn the_target_is_told_who_the_client_is() {
    let (server, addr) = server().await;
    let world = World::new(Route { targets: vec![addr], proxy_protocol: true, uid: 0 });
    let (mut client, mut target) = pair(&world, &server).await;
    client.write_all(b"hello").await.unwrap();
    let mut got = [0; 33];
    limited(target.read_exact(&mut got)).await.unwrap();
    let expected = super::proxy::header(client.local_addr().unwrap(), world.addr);
    assert_eq!(got[..28], expected);
    assert_eq!(&got[28..], b"hello");
}

#[tokio::test]
async fn there_is_a_limit() {
    let (server, addr) = server().await;
    let world = World::with_limit(to(&[addr]), 1);
    let first = pair(&world, &server).await;
    ends_with(&mut world.connect().await, ErrorKind::ConnectionReset).await;
    assert_eq!((world.carrier.counts().over_limit, world.carrier.counts().now), (1, 1));
    drop(first);
    limited(world.carrier.idle()).await;
    drop(pair(&world, &server).await);
}

#[tokio::test]
async fn who_was_not_steered_is_not_carried() {
    let (_server, addr) = server().await;
    let (kernel, _) = FakeKernel::with_manual_clock();
    kernel.add_netns(NETNS);
    let listener = kernel.open_listener(NETNS, Listening::Accepting).unwrap();
    let bound = rustix::net::getsockname(&listener.socket).unwrap();
    let own = SocketAddr::try_from(bound).unwrap().port();
    let carrier = Carrier::new(Arc::clone(&kernel) as _, 10);
    carrier.open(Service { netns: NETNS, port: 1 }, listener, to(&[addr])).unwrap();
    let mut client = TcpStream::connect(("127.0.0.1", own)).await.unwrap();
    ends_with(&mut client, ErrorKind::ConnectionReset).await;
    assert_eq!((carrier.counts().strangers, carrier.counts().total), (1, 0));
}

#[tokio::test]
async fn what_is_carried_outlives_the_listener_but_not_the_namespace() {
    let (server, addr) = server().await;
    let world = World::new(to(&[addr]));
    let (mut client, mut target) = pair(&world, &server).await;
    world.carrier.close(world.service);
    client.write_all(b"still here").await.unwrap();
    let mut got = [0; 10];
    limited(target.read_exact(&mut got)).await.unwrap();
    assert_eq!(world.carrier.counts().now, 1);
    drop((client, target));
    limited(world.carrier.idle()).await;

    // Nor if it was closed before.
    let world = World::new(to(&[addr]));
    let (mut client, mut target) = pair(&world, &server).await;
    world.carrier.close(world.service);
    world.carrier.abort(world.service);
    ends_with(&mut client, ErrorKind::ConnectionReset).await;
    ends_with(&mut target, ErrorKind::ConnectionReset).await;
    limited(world.carrier.idle()).await;
}

#[tokio::test]
async fn nothing_is_lost_of_what_was_given_to_a_target_that_was_us() {
    let (listener, addr) = server().await;
    let mut client = TcpStream::connect(addr).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    client.write_all(b"request").await.unwrap();
    client.shutdown().await.unwrap();
    let (other, other_addr) = server().await;
    let (attempts, mut held) = (Arc::new(Attempts::default()), Held::default());
    held.header = b"header ".to_vec();

    let target = TcpStream::connect(other_addr).await.unwrap();
    let (mut us, _) = other.accept().await.unwrap();
    let attempt = attempts.begin();
    let came_back = async {
        let mut got = Vec::new();
        us.read_to_end(&mut got).await.unwrap();
        attempts.arrived(attempt.token);
        got
    };
    let trying = trial::run(&accepted, &target, &mut held, &attempt);
    let (verdict, got) = tokio::join!(trying, came_back);
    assert_eq!(got, b"header request");
    assert!(matches!(verdict, Verdict::CameBack));

    let target = TcpStream::connect(other_addr).await.unwrap();
    let (mut peer, _) = other.accept().await.unwrap();
    let attempt = attempts.begin();
    let answer = async {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).await.unwrap();
        peer.write_all(b"!").await.unwrap();
        got
    };
    let trying = trial::run(&accepted, &target, &mut held, &attempt);
    let (verdict, got) = tokio::join!(trying, answer);
    assert_eq!(got, b"header request");
    let Verdict::Certain { unsent, client_ended } = verdict else { panic!("it has answered") };
    assert!(unsent.is_empty() && !client_ended);
}

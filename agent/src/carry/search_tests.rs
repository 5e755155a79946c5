//! How long a straggler looks for a target, and which one it gets.

use std::{net::SocketAddr, os::fd::OwnedFd, sync::Arc, time::Duration};

use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, runtime::Builder, time::Instant};

use super::{
    OPENING,
    search::WITHIN,
    tests::{World, ends_with, limited, nobody, pair, server, to},
};
use crate::kernel::{fake::Op, reset_at_close};

/// A listener whose queue is full: it drops SYNs.
async fn silent() -> (OwnedFd, TcpStream, SocketAddr) {
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listen(&listener, 0).unwrap();
    let addr = SocketAddr::try_from(getsockname(&listener).unwrap()).unwrap();
    let first = TcpStream::connect(addr).await.unwrap();
    (listener, first, addr)
}

#[tokio::test(start_paused = true)]
async fn all_silent_targets_together_have_one_limit() {
    let mut targets = Vec::new();
    for _ in 0..12 {
        targets.push(silent().await);
    }
    let addrs: Vec<SocketAddr> = targets.iter().map(|(_, _, addr)| *addr).collect();
    let world = World::new(to(&addrs));
    let began = Instant::now();
    let mut client = world.connect().await;
    ends_with(&mut client, std::io::ErrorKind::ConnectionReset).await;
    world.carrier.idle().await;
    let took = began.elapsed();
    assert!(took <= WITHIN + Duration::from_millis(10), "of the clock of this test: {took:?}");
    assert_eq!(world.carrier.counts().refused, 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_target_does_not_keep_the_next_one_waiting_and_is_avoided() {
    let ((server, addr), silent) = (server().await, silent().await);
    let world = World::new(to(&[silent.2, addr]));
    let began = Instant::now();
    drop(pair(&world, &server).await);
    let took = began.elapsed();
    assert!(took < WITHIN, "of the clock of this test: {took:?}");
    let calls = world.kernel.calls(Op::OpenConnection);
    for more in 1..=4 {
        drop(pair(&world, &server).await);
        assert_eq!(
            world.kernel.calls(Op::OpenConnection),
            calls + more,
            "the silent one is not asked"
        );
    }
}

#[tokio::test]
async fn a_target_that_resets_before_it_was_asked_anything_is_passed_over() {
    let ((first, one), (second, other)) = (server().await, server().await);
    let world = World::new(to(&[one, other]));
    let mut client = world.connect().await;
    let (reset, _) = limited(first.accept()).await.unwrap();
    reset_at_close(&reset, true);
    drop(reset);
    let (mut target, _) = limited(second.accept()).await.unwrap();
    target.write_all(b"x").await.unwrap();
    let mut got = [0];
    limited(tokio::io::AsyncReadExt::read_exact(&mut client, &mut got)).await.unwrap();
    assert_eq!(world.carrier.counts().refused, 0);
}

#[tokio::test]
async fn a_target_that_was_asked_something_may_have_done_it() {
    let ((first, one), (second, other)) = (server().await, server().await);
    let world = World::new(to(&[one, other]));
    let mut client = world.connect().await;
    client.write_all(b"POST").await.unwrap();
    let (mut target, _) = limited(first.accept()).await.unwrap();
    limited(tokio::io::AsyncReadExt::read_exact(&mut target, &mut [0; 4])).await.unwrap();
    reset_at_close(&target, true);
    drop(target);
    ends_with(&mut client, std::io::ErrorKind::ConnectionReset).await;
    let nobody = tokio::time::timeout(Duration::ZERO, second.accept()).await;
    assert!(nobody.is_err(), "it was done twice");
}

#[test]
fn attempts_leave_threads_for_gates() {
    let threads = OPENING + 1;
    let runtime = Builder::new_multi_thread().enable_all().max_blocking_threads(threads).build();
    runtime.unwrap().block_on(async {
        let world = World::new(to(&[nobody().await]));
        // All of them are held up, until the end of the test.
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let wait = Arc::new(std::sync::Mutex::new(wait));
        for _ in 0..5 {
            let wait = Arc::clone(&wait);
            world.kernel.hook(Op::OpenConnection, move |_| {
                // An error: the test has ended.
                let _ = wait.lock().map(|wait| wait.recv());
            });
        }
        let mut clients = Vec::new();
        for _ in 0..5 {
            clients.push(world.connect().await);
        }
        limited(async {
            while world.kernel.calls(Op::OpenConnection) < OPENING as u64 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        limited(tokio::task::spawn_blocking(|| ())).await.unwrap();
        drop(release);
        limited(world.carrier.idle()).await;
    });
}

//! The socket itself: stale files, second agents, limits, and the end.

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
};

use super::*;
use crate::api::{
    connection::{HEAD_WITHIN, UNREAD_FOR},
    router,
    testing::FakeDrains,
};

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn makes_its_folder_and_lets_everybody_in() {
    let folder = folder();
    let path = folder.path().join("run/agent.sock");
    let _socket = Socket::bind(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    let lock = fs::metadata(folder.path().join("run/agent.sock.lock")).unwrap();
    assert_eq!(lock.permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_second_agent_is_refused_and_the_first_goes_on() {
    let folder = folder();
    let path = folder.path().join("agent.sock");
    let first = Socket::bind(&path).unwrap();
    assert!(matches!(Socket::bind(&path), Err(BindError::InUse(_))));
    assert!(path.exists());
    drop(first);
    assert!(!path.exists());
    Socket::bind(&path).unwrap();
}

#[tokio::test]
async fn who_answers_without_the_lock_is_left_alone() {
    let folder = folder();
    let path = folder.path().join("agent.sock");
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(matches!(Socket::bind(&path), Err(BindError::InUse(_))));
    drop(other);
    // Its file is still there, and nobody answers: now it is stale.
    assert!(path.exists());
    Socket::bind(&path).unwrap();
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let folder = folder();
    let path = folder.path().join("agent.sock");
    fs::write(&path, "precious").unwrap();
    assert!(matches!(Socket::bind(&path), Err(BindError::NotASocket(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn answers_our_own_process_and_ends_cleanly() {
    let folder = folder();
    let path = folder.path().join("agent.sock");
    let socket = Socket::bind(&path).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving =
        tokio::spawn(socket.serve(router(FakeDrains::new().app()), Seats::new(1), async {
            let _ = stopped.await;
        }));
    let mut client = UnixStream::connect(&path).await.unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ok\n"), "{answer}");
    let mut idle = UnixStream::connect(&path).await.unwrap();
    idle.write_all(b"GET /hea").await.unwrap();
    stop.send(()).unwrap();
    let connections = serving.await.unwrap();
    assert!(!path.exists());
    connections.finish(Duration::ZERO).await;
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap_or(0), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_cut_off() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let peer: Arc<dyn Identify> = Arc::new(Peer::of(&ours).unwrap());
    let (_finish, asked) = watch::channel(false);
    let app = router(FakeDrains::new().app());
    let served = tokio::spawn(serve_connection(ours, peer, app, asked));
    let begin = Instant::now();
    let mut theirs = theirs;
    theirs.write_all(b"GET /healthz HTTP/1.1\r\nHos").await.unwrap();
    served.await.unwrap();
    assert!(begin.elapsed() >= HEAD_WITHIN && begin.elapsed() < HEAD_WITHIN * 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_off() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let peer: Arc<dyn Identify> = Arc::new(Peer::of(&ours).unwrap());
    let (_finish, asked) = watch::channel(false);
    let large = Router::new().route("/", axum::routing::get(async || vec![b'x'; 1 << 22]));
    let served = tokio::spawn(serve_connection(ours, peer, large, asked));
    theirs.write_all(b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n").await.unwrap();
    let begin = Instant::now();
    served.await.unwrap();
    assert!(begin.elapsed() >= UNREAD_FOR && begin.elapsed() < UNREAD_FOR * 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_gets_all() {
    const LENGTH: usize = 1 << 22;
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let peer: Arc<dyn Identify> = Arc::new(Peer::of(&ours).unwrap());
    let (_finish, asked) = watch::channel(false);
    let large = Router::new().route("/", axum::routing::get(async || vec![b'x'; LENGTH]));
    tokio::spawn(serve_connection(ours, peer, large, asked));
    let request = b"GET / HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n";
    theirs.write_all(request).await.unwrap();
    let (mut part, mut read) = (vec![0; 1 << 18], 0);
    loop {
        tokio::time::sleep(UNREAD_FOR / 2).await;
        match theirs.read(&mut part).await.unwrap() {
            0 => break,
            some => read += some,
        }
    }
    assert!(read > LENGTH, "{read} bytes");
}

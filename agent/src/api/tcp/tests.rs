//! Roles, rates and tokens, over loopback.

use std::{net::Ipv4Addr, path::Path};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::oneshot,
    task::JoinHandle,
};

use super::*;
use crate::api::{
    router,
    testing::{FakeDrains, POD},
};

const TOKEN: &str = "0123456789abcdef";

struct Served {
    addr: SocketAddr,
    serving: JoinHandle<Connections>,
    _stop: oneshot::Sender<()>,
}

async fn serve(token_file: Option<&Path>) -> Served {
    let options = Options {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        tls: None,
        token_file: token_file.map(Path::to_owned),
        plain: false,
    };
    let endpoint = Endpoint::bind(&options).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let addr = endpoint.addr().unwrap();
    let app = router(FakeDrains::new().app());
    let serving = tokio::spawn(endpoint.serve(app, async { drop(stopped.await) }));
    Served { addr, serving, _stop: stop }
}

impl Served {
    /// Asks; the status and what follows.
    async fn ask(&self, request: &str, more: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let text = format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        (answer[9..12].parse().unwrap(), answer)
    }
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

#[tokio::test]
async fn who_may_ask_what() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let served = serve(Some(&file)).await;
    let serving = format!("GET /serving/8080?netns={POD}");
    let drained = format!("GET /drained/8080?netns={POD}");
    let list = format!("GET /v1/services?netns={POD}");
    #[rustfmt::skip]
    let table = [
        ("GET /healthz", 200, 200),
        ("GET /metrics", 200, 200),
        (&*serving, 200, 200),
        ("GET /serving/8080", 400, 400),
        ("GET /drained/8080", 401, 400),
        ("GET /v1/services", 401, 400),
        (&*drained, 401, 503),
        (&*list, 401, 200),
        ("GET /v1/services?netns=all", 401, 200),
        ("POST /serving/8080", 401, 405),
        ("POST /v1/drains", 401, 415),
        ("DELETE /v1/drains/4026532100:8080", 401, 200),
        ("GET /serving/8080/../../v1/services", 401, 404),
        ("GET //healthz", 401, 404),
    ];
    for (request, nobody, operator) in table {
        let (status, answer) = served.ask(request, "").await;
        assert_eq!(status, nobody, "{request}: {answer}");
        let (status, answer) = served.ask(request, &bearer(TOKEN)).await;
        assert_eq!(status, operator, "{request} with the token: {answer}");
    }
    let (_, answer) = served.ask(&serving, "").await;
    assert!(answer.ends_with("\r\n\r\nserving\n"), "{answer}");
    let (_, answer) = served.ask(&serving, &bearer(TOKEN)).await;
    assert!(answer.contains("\"flows\":0"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_token_is_refused_late_and_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let served = serve(Some(&file)).await;
    for wrong in [bearer("0123456789abcdeX"), bearer(""), "Authorization: Basic Zm9v\r\n".into()] {
        let before = tokio::time::Instant::now();
        let (status, answer) = served.ask("GET /healthz", &wrong).await;
        assert_eq!(status, 401, "{answer}");
        assert!(answer.to_lowercase().contains("www-authenticate: bearer"), "{answer}");
        assert!(before.elapsed() >= Duration::from_secs(1), "{wrong}");
    }
}

#[tokio::test]
async fn without_credentials_nobody_is_an_operator() {
    let served = serve(None).await;
    assert_eq!(served.ask("GET /healthz", "").await.0, 200);
    assert_eq!(served.ask("GET /v1/services?netns=host", "").await.0, 401);
    assert_eq!(served.ask("GET /v1/services?netns=host", &bearer("")).await.0, 401);
}

#[tokio::test]
async fn who_asks_too_often_is_told_to_wait_and_the_rest_goes_on() {
    let served = serve(None).await;
    let mut last = 0;
    for _ in 0..1000 {
        last = served.ask("GET /healthz", "").await.0;
        if last == 429 {
            break;
        }
    }
    assert_eq!(last, 429);
    assert!(!served.serving.is_finished());
}

#[tokio::test]
async fn without_tls_only_loopback_is_listened_on_unless_told_so() {
    let mut options =
        Options { listen: "0.0.0.0:0".parse().unwrap(), tls: None, token_file: None, plain: false };
    let error = Endpoint::bind(&options).await.err().unwrap();
    assert!(matches!(error, EndpointError::Plain(_)), "{error}");
    options.plain = true;
    assert!(Endpoint::bind(&options).await.is_ok());
    for loopback in ["127.0.0.1:0", "[::1]:0"] {
        let options =
            Options { listen: loopback.parse().unwrap(), plain: false, ..options.clone() };
        assert!(!matches!(Endpoint::bind(&options).await.err(), Some(EndpointError::Plain(_))));
    }
}

//! Each route over a Unix socket, by callers who may and who may not, and with input that makes no sense.

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{net::UnixStream, sync::watch};

use super::*;
use crate::{
    api::{
        auth::Caller,
        connection::serve_connection,
        peer::Identify,
        protocol::{AtDeadline, ErrorBody, ErrorCode, FlowProtocol, FlowRetired, RetireKind},
        testing::{
            Asked, FOREIGN, FakeDrains, FakeKernel, HOST, Invisible, Known, POD, ROOTS, WEB,
            app_user, connection, draining, leaving, node_admin,
        },
    },
    drain::Leaving,
    kernel::{Protocol, Socket, ToldBy},
    pods::Pods,
};

type Client = http1::SendRequest<Full<Bytes>>;

/// A client of an agent that takes it for `peer`.
async fn client(app: Arc<App<FakeDrains>>, peer: Arc<dyn Identify>) -> Client {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (finish, asked) = watch::channel(false);
    tokio::spawn(async move {
        serve_connection(ours, peer, router(app), asked).await;
        drop(finish);
    });
    let (client, connection) = http1::handshake(TokioIo::new(theirs)).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn client_of(drains: &FakeDrains, caller: Caller) -> Client {
    client(drains.app(), Arc::new(Known(caller))).await
}

async fn send(
    client: &mut Client,
    method: Method,
    path: &str,
    content_type: &str,
    body: impl Into<Bytes>,
) -> (u16, Bytes) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content_type)
        .body(Full::new(body.into()))
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    (status, response.into_body().collect().await.unwrap().to_bytes())
}

async fn get<T: DeserializeOwned>(client: &mut Client, path: &str) -> (u16, T) {
    let (status, body) = send(client, Method::GET, path, "", "").await;
    (status, serde_json::from_slice(&body).unwrap())
}

async fn drain(client: &mut Client, body: &str) -> (u16, Bytes) {
    send(client, Method::POST, "/v1/drains", "application/json", body.to_owned()).await
}

fn error(body: &[u8]) -> (ErrorCode, String) {
    let error = serde_json::from_slice::<ErrorBody>(body).unwrap().error;
    (error.code, error.message)
}

#[tokio::test]
async fn a_drain_from_beginning_to_end() {
    let drains = FakeDrains::new();
    let mut client = client_of(&drains, app_user()).await;
    let (status, body) = drain(&mut client, r#"{"ports":[8080,8080]}"#).await;
    let accepted: DrainAccepted = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, accepted.joined, accepted.services.len()), (202, false, 1));
    let (status, service) = get::<ServiceStatus>(&mut client, "/v1/services/4026532100:8080").await;
    assert_eq!((status, service.state), (200, StateName::Settling));
    assert_eq!(get::<ServiceStatus>(&mut client, "/drained/8080").await.0, 503);
    assert_eq!(get::<ServiceStatus>(&mut client, "/serving/8080").await.0, 503);
    drains.set(draining(WEB, StateName::Drained, 0));
    assert_eq!(get::<ServiceStatus>(&mut client, "/drained/8080").await.0, 200);
    let unsure = Some("the look failed".to_owned());
    drains.set(Status { unknown: unsure.clone(), ..draining(WEB, StateName::Drained, 0) });
    let (status, service) = get::<ServiceStatus>(&mut client, "/drained/8080").await;
    assert_eq!((status, service.unknown), (503, unsure));
    for was_draining in [true, false] {
        let id = "/v1/drains/4026532100:8080";
        let (status, body) = send(&mut client, Method::DELETE, id, "", "").await;
        let undrained: Undrained = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, undrained.was_draining), (200, was_draining));
    }
    assert_eq!(get::<ServiceStatus>(&mut client, "/serving/8080").await.0, 200);
    assert_eq!(drains.asked(), [Asked::Drain(vec![WEB]), Asked::Undrain(WEB), Asked::Undrain(WEB)]);
}

#[tokio::test]
async fn bad_input_changes_nothing_and_says_what_would_fit() {
    use ErrorCode::{NoSuchService, Usage};
    let ports = |count: u16| format!("{{\"ports\":{:?}}}", (1..=count).collect::<Vec<_>>());
    let large = format!("{{\"ports\":[80{}]}}", " ".repeat(64 * 1024));
    let cases: &[(&str, &str, &str, u16, ErrorCode, &str)] = &[
        ("POST", "/v1/drains", "{\"ports\":[8080}", 400, Usage, "not a valid request"),
        ("POST", "/v1/drains", "", 400, Usage, "not a valid request"),
        ("POST", "/v1/drains", &large, 413, Usage, "larger than 65536 bytes"),
        (
            "POST",
            "/v1/drains",
            "{\"ports\":[8080],\"forward\":1}",
            400,
            Usage,
            "unknown field `forward`",
        ),
        (
            "POST",
            "/v1/drains",
            "{\"ports\":[8080],\"retire\":[\"http2\"]}",
            400,
            Usage,
            "unknown variant `http2`",
        ),
        (
            "POST",
            "/v1/drains",
            "{\"ports\":[8080],\"retire\":[\"quiet\"]}",
            400,
            Usage,
            "--retire quiet needs --quiet-flow-after",
        ),
        ("POST", "/v1/drains", "{\"ports\":[0]}", 400, Usage, "1 to 65535"),
        ("POST", "/v1/drains", "{\"ports\":[70000]}", 400, Usage, "70000"),
        ("POST", "/v1/drains", "{\"ports\":[]}", 400, Usage, "1 to 64 ports"),
        ("POST", "/v1/drains", &ports(65), 400, Usage, "this has 65"),
        ("POST", "/v1/drains", "{\"ports\":[8080],\"netns\":\"pod\"}", 400, Usage, "netns"),
        (
            "POST",
            "/v1/drains",
            "{\"ports\":[9999]}",
            404,
            NoSuchService,
            "nothing listens on port 9999",
        ),
        ("DELETE", "/v1/drains/8080", "", 400, Usage, "NETNS:PORT"),
        ("DELETE", "/v1/drains/4026532100:9999", "", 404, NoSuchService, "9999"),
        ("GET", "/v1/services/x:y", "", 400, Usage, "NETNS:PORT"),
        ("GET", "/v1/services/4026532100:9999", "", 404, NoSuchService, "9999"),
        ("GET", "/v1/services/4026532100:9999/flows", "", 404, NoSuchService, "9999"),
        ("GET", "/v1/services?netns=home", "", 400, Usage, "inode number or `host`"),
        ("GET", "/v1/services?port=9999", "", 404, NoSuchService, "9999"),
        ("GET", "/v1/services?port=0", "", 400, Usage, "1 to 65535"),
        ("GET", "/v1/services?node=a", "", 400, Usage, "unknown field `node`"),
        ("GET", "/v1/services?pod=a", "", 400, Usage, "write NAMESPACE/NAME"),
        ("GET", "/v1/services?pod=a/b&netns=host", "", 400, Usage, "give one of them"),
        ("POST", "/v1/drains", r#"{"ports":[8080],"pod":"web"}"#, 400, Usage, "NAMESPACE/NAME"),
        ("GET", "/v1/events", "", 400, Usage, "services"),
        ("GET", "/v1/events?services=8080", "", 400, Usage, "NETNS:PORT"),
        ("GET", "/drained/70000", "", 400, Usage, "1 to 65535"),
        ("GET", "/drained/9999", "", 404, NoSuchService, "9999"),
        ("GET", "/serving/9999", "", 404, NoSuchService, "9999"),
        ("GET", "/drained/8080?netns=all", "", 400, Usage, "name one"),
        ("GET", "/v2/drains", "", 404, Usage, "there is no /v2/drains"),
        ("PUT", "/v1/drains", "", 405, Usage, "does not take PUT"),
    ];
    let drains = FakeDrains::new();
    for &(method, path, body, status, code, words) in cases {
        let mut client = client_of(&drains, Caller { net_admin: true, ..app_user() }).await;
        let method = method.parse().unwrap();
        let json = "application/json";
        let (got, body) = send(&mut client, method, path, json, body.to_owned()).await;
        let (got_code, message) = error(&body);
        assert_eq!((got, got_code), (status, code), "{path}: {message}");
        assert!(message.contains(words), "{path}: {message:?} lacks {words:?}");
    }
    assert!(drains.draining().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused() {
    let mut client = client_of(&FakeDrains::new(), app_user()).await;
    for (content_type, expected) in [
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
        ("application/json; charset=utf-8", 202),
    ] {
        let body = r#"{"ports":[8080]}"#;
        let (status, _) = send(&mut client, Method::POST, "/v1/drains", content_type, body).await;
        assert_eq!(status, expected, "{content_type:?}");
    }
}

#[tokio::test]
async fn a_conflict_is_told() {
    let mut client = client_of(&FakeDrains::new(), app_user()).await;
    assert_eq!(drain(&mut client, r#"{"ports":[8080]}"#).await.0, 202);
    let (status, body) = drain(&mut client, r#"{"ports":[8080]}"#).await;
    let (code, message) = error(&body);
    assert_eq!((status, code), (409, ErrorCode::Conflict));
    assert!(message.contains("timeout 25s, not 30s"));
}

#[tokio::test]
async fn who_may_not_is_told_why_and_changes_nothing() {
    let drains = FakeDrains::new();
    let mut client = client_of(&drains, app_user()).await;
    let roots = r#"{"ports":[8080,22]}"#;
    let foreign = r#"{"ports":[8080],"netns":4026532200}"#;
    let host = r#"{"ports":[22],"netns":"host"}"#;
    for (body, words) in [
        (roots, "does not own every listening socket"),
        (foreign, "may not drain or undrain 4026532200:8080"),
        (host, "reach into another one"),
    ] {
        let (status, body) = drain(&mut client, body).await;
        let (code, message) = error(&body);
        assert_eq!((status, code), (403, ErrorCode::NotPermitted));
        assert!(
            message.contains("process 4242 (uid 1000)") && message.contains(words),
            "{message}"
        );
    }
    for path in [
        "/v1/services?netns=host",
        "/v1/services?netns=all",
        "/v1/services/4026532200:8080",
        "/v1/services/4026532200:8080/flows",
        "/v1/events?services=4026532200:8080",
        "/drained/8080?netns=4026532200",
        "/serving/8080?netns=host",
    ] {
        let (status, body) = get::<ErrorBody>(&mut client, path).await;
        assert_eq!((status, body.error.code), (403, ErrorCode::NotPermitted), "{path}");
    }
    assert_eq!(drains.asked(), []);
    let mut admin = client_of(&drains, node_admin()).await;
    assert_eq!(drain(&mut admin, foreign).await.0, 202);
    assert_eq!(drains.asked(), [Asked::Drain(vec![FOREIGN])]);
}

#[tokio::test]
async fn who_cannot_be_identified_sees_health_and_metrics_only() {
    let mut client = client(FakeDrains::new().app(), Arc::new(Invisible)).await;
    let (status, body) = get::<ErrorBody>(&mut client, "/v1/services").await;
    assert_eq!(status, 403);
    assert!(body.error.message.contains("hostPID"));
    for path in ["/healthz", "/metrics"] {
        assert_eq!(send(&mut client, Method::GET, path, "", "").await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn lists_are_sorted_and_hold_what_drains_without_a_listener() {
    let drains = FakeDrains::new();
    let gone = Service { netns: POD, port: 7000 };
    drains.set(Status { listeners: 0, ..draining(gone, StateName::Drained, 0) });
    let mut client = client_of(&drains, app_user()).await;
    let (_, list) = get::<ServiceList>(&mut client, "/v1/services").await;
    let ids: Vec<_> = list.services.iter().map(ServiceStatus::service).collect();
    assert_eq!(ids, [ROOTS, gone, WEB]);
    let (_, list) = get::<ServiceList>(&mut client, "/v1/services?port=8080").await;
    assert_eq!(list.services.len(), 1);
    let mut admin = client_of(&drains, node_admin()).await;
    let (_, list) = get::<ServiceList>(&mut admin, "/v1/services?netns=all").await;
    let ids: Vec<_> = list.services.iter().map(ServiceStatus::service).collect();
    assert_eq!(ids, [ROOTS, gone, WEB, FOREIGN]);
}

#[tokio::test]
async fn flows_are_told_or_cannot_be_verified() {
    let socket = Socket { inode: 0, ..connection(5) };
    let path = "/v1/services/4026532100:8080/flows";
    let ask = async |blind| {
        let kernel = FakeKernel { sockets: vec![socket.clone()], blind };
        let app = Arc::new(App::new(FakeDrains::new(), Arc::new(kernel), Pods::nowhere(HOST)));
        let mut client = client(app, Arc::new(Known(app_user()))).await;
        send(&mut client, Method::GET, path, "", "").await
    };
    let (status, body) = ask(false).await;
    let list: FlowList = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, list.flows[0].age_ms), (200, Some(0)));
    assert_eq!(list.flows[0].why, "waiting to be accepted by the server");
    let (status, body) = ask(true).await;
    assert_eq!((status, error(&body).0), (503, ErrorCode::Unverifiable));
}

#[tokio::test]
async fn a_drain_tells_how_its_connections_leave() {
    let drains = FakeDrains::new();
    let kernel = FakeKernel { sockets: vec![connection(5)], blind: false };
    let mut client = client(drains.app_with(kernel), Arc::new(Known(app_user()))).await;
    let told = Leaving { told: Some(ToldBy::Goaway), ..leaving(Protocol::Http2) };
    drains.set_leaving(5, told);
    let path = "/v1/services/4026532100:8080/flows";
    let (_, before) = get::<FlowList>(&mut client, path).await;
    let of = |list: &FlowList| (list.flows[0].protocol, list.flows[0].retire);
    assert_eq!(of(&before), (FlowProtocol::Unknown, None), "nobody looks while it serves");
    let body = r#"{"ports":[8080],"retire":["http"],"at_deadline":"abort"}"#;
    let (status, body) = drain(&mut client, body).await;
    let accepted: DrainAccepted = serde_json::from_slice(&body).unwrap();
    let retire = &accepted.services[0].drain.as_ref().unwrap().retire;
    assert_eq!((status, &*retire.what), (202, &[RetireKind::Http][..]));
    assert_eq!(retire.at_deadline, AtDeadline::Abort);
    let (_, during) = get::<FlowList>(&mut client, path).await;
    assert_eq!(of(&during), (FlowProtocol::Http2, Some(FlowRetired::ToldByGoaway)));
}

#[tokio::test]
async fn events_stream_lines_and_keep_the_lease() {
    let drains = FakeDrains::new();
    drains.set(draining(WEB, StateName::Rejecting, 3));
    let mut client = client_of(&drains, app_user()).await;
    let request =
        Request::get("/v1/events?services=4026532100:8080").body(Full::default()).unwrap();
    let mut response = client.send_request(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(br#"{"type":"status","service":{"id":"4026532100:8080""#));
    assert_eq!(drains.asked(), [Asked::Renew(WEB)]);
    drains.say(WEB, Some("undrained"));
    let rest = response.into_body().collect().await.unwrap().to_bytes();
    let last = rest.split(|&byte| byte == b'\n').rfind(|line| !line.is_empty()).unwrap();
    assert!(last.starts_with(br#"{"type":"ended""#));
}

#[tokio::test]
async fn a_client_that_goes_leaves_no_stream_behind() {
    let drains = FakeDrains::new();
    let mut client = client_of(&drains, app_user()).await;
    let request =
        Request::get("/v1/events?services=4026532100:8080").body(Full::default()).unwrap();
    let mut response = client.send_request(request).await.unwrap();
    response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(drains.followers(), 1);
    drop((client, response));
    let gone = async {
        while drains.followers() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
}

#[tokio::test]
async fn metrics_tell_totals_faults_and_what_drains() {
    let drains = FakeDrains::new();
    let mut retiring = draining(WEB, StateName::Rejecting, 3);
    let report = &mut retiring.drain.as_mut().unwrap().report;
    (report.told_by_header, report.told_by_goaway, report.left) = (9, 2, 30);
    (report.fin_sent, report.fin_raced, report.aborted) = (4, 1, 5);
    report.untellable.zero_copy = 6;
    drains.set(retiring);
    let mut client = client_of(&drains, app_user()).await;
    assert_eq!(send(&mut client, Method::GET, "/nowhere", "", "").await.0, 404);
    let (_, body) = send(&mut client, Method::GET, "/metrics", "", "").await;
    let text = String::from_utf8(body.to_vec()).unwrap();
    for line in [
        "drainctl_drains_total 7",
        "drainctl_tracker_events_lost_total 3",
        "drainctl_http_requests_total{code=\"404\"} 1",
        "drainctl_service_flows{netns=\"4026532100\",port=\"8080\"} 3",
        "drainctl_service_state{netns=\"4026532100\",port=\"8080\",state=\"rejecting\"} 1",
        "drainctl_service_state{netns=\"4026532100\",port=\"8080\",state=\"drained\"} 0",
        "drainctl_drain_told{netns=\"4026532100\",port=\"8080\",how=\"header\"} 9",
        "drainctl_drain_told{netns=\"4026532100\",port=\"8080\",how=\"goaway\"} 2",
        "drainctl_drain_fin_sent{netns=\"4026532100\",port=\"8080\"} 4",
        "drainctl_drain_fin_raced{netns=\"4026532100\",port=\"8080\"} 1",
        "drainctl_drain_left{netns=\"4026532100\",port=\"8080\"} 30",
        "drainctl_drain_aborted{netns=\"4026532100\",port=\"8080\"} 5",
        "drainctl_drain_untellable{netns=\"4026532100\",port=\"8080\",reason=\"zero_copy\"} 6",
        "drainctl_drain_untellable{netns=\"4026532100\",port=\"8080\",reason=\"tls\"} 0",
    ] {
        assert!(text.lines().any(|each| each == line), "no {line:?} in:\n{text}");
    }
    assert!(!text.contains("port=\"22\""), "{text}");
    let documented = include_str!("../../../docs/metrics.md");
    for name in text.lines().filter_map(|line| line.split(['{', ' ']).next()) {
        assert!(name.starts_with('#') || documented.contains(&format!("`{name}`")), "{name}");
    }
    let dashboard = include_str!("../../../deploy/grafana/drainctl.json");
    assert!(
        serde_json::from_str::<serde_json::Value>(dashboard).is_ok(),
        "the dashboard is no JSON"
    );
    for watched in [dashboard, include_str!("../../../deploy/prometheus/rules.yaml")] {
        let words = watched.split(|c: char| !c.is_ascii_lowercase() && c != '_');
        for name in words.filter(|word| word.starts_with("drainctl_")) {
            let is_there = ["{", " "].map(|end| text.contains(&format!("\n{name}{end}")));
            assert_ne!(is_there, [false, false], "nothing measures {name}");
        }
    }
}

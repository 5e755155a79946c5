use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Request as HttpRequest, Response,
    body::{Body, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::UnixListener;

use super::*;

/// A field of protocol buffers that has a length: its key and length are one byte each here.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let len = u8::try_from(bytes.len()).expect("short");
    assert!(len < 128, "a length of one byte");
    [&[tag << 3 | 2, len], bytes].concat()
}

/// As `k8s.io/cri-api/pkg/apis/runtime/v1/api.proto` numbers the fields, written by hand.
#[test]
fn fields_have_the_numbers_of_the_published_interface() {
    let entry =
        |key: &str, value: &str| [field(1, key.as_bytes()), field(2, value.as_bytes())].concat();
    let metadata = [field(1, b"web-0"), field(2, b"uid-1"), field(3, b"default"), vec![4 << 3, 1]];
    let sandbox = [
        field(1, b"sandbox"),
        field(2, &metadata.concat()),
        vec![3 << 3, 1],
        vec![4 << 3, 99],
        field(5, &entry("app", "web")),
        field(6, &entry("note", "x")),
        field(7, b"runc"),
    ];
    let response = field(1, &sandbox.concat());
    let response = ListPodSandboxResponse::decode(&response[..]).unwrap();
    let sandbox = &response.items[0];
    let metadata = sandbox.metadata.clone().unwrap();
    assert_eq!((&*sandbox.id, sandbox.state, &*sandbox.labels["app"]), ("sandbox", 1, "web"));
    assert_eq!(sandbox.annotations["note"], "x");
    assert_eq!(
        (&*metadata.name, &*metadata.uid, &*metadata.namespace),
        ("web-0", "uid-1", "default")
    );

    let container = [
        field(1, b"3f8a"),
        field(2, b"sandbox"),
        vec![6 << 3, 1],
        field(8, &entry(UID, "uid-1")),
        field(9, &entry("note", "60")),
    ];
    let response = field(1, &container.concat());
    let response = ListContainersResponse::decode(&response[..]).unwrap();
    let container = &response.containers[0];
    assert_eq!((&*container.id, &*container.labels[UID]), ("3f8a", "uid-1"));
    assert_eq!(container.annotations["note"], "60");
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn sandbox(uid: &str, state: i32, annotations: &[(&str, &str)]) -> PodSandbox {
    PodSandbox {
        id: format!("{uid}-{state}"),
        metadata: Some(PodSandboxMetadata {
            name: "web-0".into(),
            uid: uid.into(),
            namespace: "default".into(),
        }),
        state,
        labels: map(&[("app", "web"), (UID, uid)]),
        annotations: map(annotations),
    }
}

fn container(uid: &str, id: &str, grace: &str) -> Container {
    Container { id: id.into(), labels: map(&[(UID, uid)]), annotations: map(&[(GRACE, grace)]) }
}

#[test]
fn sandboxes_and_containers_make_pods() {
    let sandboxes = vec![
        sandbox("1", 1, &[("drainctl.dev/prestop-port", "1")]),
        sandbox("1", READY, &[("drainctl.dev/prestop-port", "9876")]),
        sandbox("2", READY, &[]),
    ];
    let containers =
        vec![container("1", "a", "60"), container("1", "b", "60"), container("3", "c", "1")];
    let mut pods = pods(sandboxes, containers);
    pods.sort_by(|a, b| a.uid.cmp(&b.uid));
    assert_eq!(pods.len(), 2, "what has no sandbox has no name");
    assert_eq!(pods[0].annotations["drainctl.dev/prestop-port"], "9876", "the one that is ready");
    assert_eq!(pods[0].grace, Grace { seconds: 60, source: GraceSource::Cri });
    assert_eq!(pods[0].containers, ["a", "b"]);
    assert_eq!(pods[0].labels, map(&[("app", "web")]));
    assert_eq!(pods[1].grace, Grace::default(), "nobody has said");
}

/// As a runtime answers: a message with its length before it, and the status behind it (gRPC over HTTP/2).
async fn answer(
    request: HttpRequest<Incoming>,
) -> Result<Response<impl Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let message = match request.uri().path() {
        "/runtime.v1.RuntimeService/ListPodSandbox" => {
            ListPodSandboxResponse { items: vec![sandbox("1", READY, &[])] }.encode_to_vec()
        }
        "/runtime.v1.RuntimeService/ListContainers" => {
            ListContainersResponse { containers: vec![container("1", "a", "45")] }.encode_to_vec()
        }
        other => panic!("nobody calls {other}"),
    };
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    let body = Bytes::from([&[0], &length[..], &message].concat());
    let trailers = async {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Some(Ok(trailers))
    };
    let mut response = Response::new(Full::new(body).with_trailers(trailers));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

#[tokio::test]
async fn a_runtime_is_asked_over_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("cri.sock");
    let runtime = Runtime::find(Some(&socket)).expect("it may come later");
    runtime.pods().await.expect_err("nobody listens");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
    let pods = runtime.pods().await.expect("it answers now");
    assert_eq!(pods[0].full_name().to_string(), "default/web-0");
    assert_eq!(pods[0].grace, Grace { seconds: 45, source: GraceSource::Cri });
}

//! A stand-in for the agent, on a real Unix socket, that answers by a script; and the command run against it.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    thread::JoinHandle,
};

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use hyper::{
    Method, StatusCode, Uri,
    body::{Body, Frame},
};
use tokio::{net::UnixListener, sync::Notify};

use super::{Exit, Streams, run};
use crate::api::protocol::{
    Activity, AdmissionStatus, DrainAccepted, DrainStatus, ErrorBody, ErrorCode, ErrorDetail,
    FlowClass, FlowProtocol, FlowStatus, NewConnections, RetireStatus, ServiceStatus, StateName,
    StreamEvent, TimeoutFrom,
};

/// Network namespace of every service here.
pub(super) const NETNS: u32 = 4_026_531_840;

/// A service with a drain of 25 s (or none if it serves) and nothing else to tell.
pub(super) fn service(port: u16, state: StateName) -> ServiceStatus {
    let drain = DrainStatus {
        age_ms: 0,
        history: Vec::new(),
        deadline_in_ms: 25_000,
        lease_in_ms: 600_000,
        keep_closed: false,
        handed_over: 0,
        takers: 0,
        settled_by: None,
        admission: AdmissionStatus::default(),
        new: NewConnections::Reject,
        retire: RetireStatus::default(),
        wait_outbound: Vec::new(),
    };
    ServiceStatus {
        id: format!("{NETNS}:{port}"),
        netns: NETNS,
        port,
        state,
        flows: 0,
        handshakes: 0,
        lingering: 0,
        ignored: 0,
        probes: 0,
        steered: 0,
        rejected: 0,
        accepted: 0,
        last_new_age_ms: None,
        pod: None,
        unknown: None,
        holds: Vec::new(),
        registries: vec![],
        ended: None,
        drain: (state != StateName::Serving).then_some(drain),
    }
}

/// The service in a drain whose deadline is so near.
pub(super) fn with_deadline(port: u16, state: StateName, deadline_in_ms: u64) -> ServiceStatus {
    let mut service = service(port, state);
    if let Some(drain) = &mut service.drain {
        drain.deadline_in_ms = deadline_in_ms;
    }
    service
}

/// A busy connection to port 8080, a minute old.
pub(super) fn flow() -> FlowStatus {
    FlowStatus {
        peer: "10.0.0.1:40000".into(),
        local: "10.0.1.1:8080".into(),
        tcp_state: "ESTAB".into(),
        age_ms: Some(61_000),
        bytes_in: 100,
        bytes_out: 2048,
        class: FlowClass::Counted,
        activity: Activity::Busy,
        why: "unacknowledged data".into(),
        protocol: FlowProtocol::Unknown,
        retire: None,
        fin_raced: false,
        barrier: None,
    }
}

/// A status event.
pub(super) fn status(service: ServiceStatus) -> StreamEvent {
    StreamEvent::Status { service }
}

/// One answer of the script.
#[derive(Clone)]
pub(super) enum Answer {
    /// A status and a body.
    Body(StatusCode, String),
    /// A stream of events; then it stays open (`true`) or ends.
    Events(Vec<StreamEvent>, bool),
    /// No answer: the agent is gone, with its socket.
    Die,
}

impl Answer {
    /// 200 with this as JSON.
    pub(super) fn ok(value: &impl serde::Serialize) -> Self {
        Self::Body(StatusCode::OK, serde_json::to_string(value).unwrap())
    }

    /// 202: these services are draining.
    pub(super) fn accepted(services: Vec<ServiceStatus>) -> Self {
        let accepted = DrainAccepted {
            services,
            joined: false,
            timeout_ms: 25_000,
            timeout_from: TimeoutFrom::Default,
            notes: Vec::new(),
        };
        Self::Body(StatusCode::ACCEPTED, serde_json::to_string(&accepted).unwrap())
    }

    /// An error of the interface.
    pub(super) fn error(status: StatusCode, code: ErrorCode, message: &str) -> Self {
        let body = ErrorBody { error: ErrorDetail { code, message: message.into() } };
        Self::Body(status, serde_json::to_string(&body).unwrap())
    }
}

/// What the agent was asked, and what it is going to say.
#[derive(Default)]
struct Script {
    answers: HashMap<String, VecDeque<Answer>>,
    requests: Vec<(String, Bytes)>,
}

/// The stand-in. Stops, and removes its socket, when dropped.
pub(super) struct Fake {
    dir: tempfile::TempDir,
    script: Arc<Mutex<Script>>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    /// Starts with answers by request, for example `("POST /v1/drains", vec![…])`. Each is given once, in
    /// order, but the last one for ever. Anything else is answered with 404.
    pub(super) fn start(answers: Vec<(&str, Vec<Answer>)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let answers =
            answers.into_iter().map(|(key, list)| (key.to_owned(), list.into())).collect();
        let script = Arc::new(Mutex::new(Script { answers, requests: Vec::new() }));
        let stop = Arc::new(Notify::new());
        let socket = dir.path().join("agent.sock");
        let (state, stopped) = ((script.clone(), stop.clone()), stop.clone());
        // Bound before anyone may ask, so that no test has to wait for it.
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = UnixListener::from_std(listener).unwrap();
                let router = Router::new().fallback(answer).with_state(state);
                tokio::select! {
                    served = async { axum::serve(listener, router).await } => served.unwrap(),
                    () = stopped.notified() => {}
                }
            });
            std::fs::remove_file(&socket).unwrap();
        });
        Self { dir, script, stop, thread: Some(thread) }
    }

    /// The path of its socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// What it was asked, as `METHOD path?query`.
    pub(super) fn requests(&self) -> Vec<String> {
        self.script.lock().unwrap().requests.iter().map(|(key, _)| key.clone()).collect()
    }

    /// The body of the first such request.
    pub(super) fn body(&self, key: &str) -> serde_json::Value {
        let script = self.script.lock().unwrap();
        let (_, body) = script.requests.iter().find(|(asked, _)| asked == key).unwrap();
        serde_json::from_slice(body).unwrap()
    }

    /// Runs `drainctl` against it.
    pub(super) fn drainctl(&self, args: &[&str]) -> Ran {
        drainctl(&self.socket(), args)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// What a command did.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) exit: Exit,
    pub(super) out: String,
    pub(super) err: String,
}

impl Ran {
    /// Its stdout as JSON.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap()
    }
}

/// Runs `drainctl` with this socket.
pub(super) fn drainctl(socket: &std::path::Path, args: &[&str]) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let agent = format!("--agent={}", socket.display());
    let full = std::iter::once("drainctl").chain(args.iter().copied()).chain([&*agent]);
    let mut streams = Streams { out: &mut out, err: &mut err, live: false };
    let exit = run(full, &mut streams);
    Ran { exit, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

async fn answer(
    State((script, stop)): State<(Arc<Mutex<Script>>, Arc<Notify>)>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response {
    let key = format!("{method} {uri}");
    let answer = {
        let mut script = script.lock().unwrap();
        script.requests.push((key.clone(), body));
        match script.answers.get_mut(&key) {
            Some(answers) if answers.len() > 1 => answers.pop_front(),
            Some(answers) => answers.front().cloned(),
            None => None,
        }
    };
    match answer {
        None => Answer::unscripted(&key),
        Some(Answer::Body(status, body)) => (status, body).into_response(),
        Some(Answer::Events(events, hold)) => {
            let line = |event| serde_json::to_string(event).unwrap() + "\n";
            let data = events.iter().map(line).collect::<String>();
            Response::new(axum::body::Body::new(Lines { data: Some(data.into()), hold }))
        }
        Some(Answer::Die) => {
            stop.notify_one();
            std::future::pending().await
        }
    }
}

impl Answer {
    fn unscripted(key: &str) -> Response {
        (StatusCode::IM_A_TEAPOT, format!("not in the script: {key}")).into_response()
    }
}

/// The body of an event stream.
struct Lines {
    data: Option<Bytes>,
    hold: bool,
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.data.take().filter(|data| !data.is_empty()) {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            // Nothing wakes it again; the client's end of the connection does.
            None if self.hold => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}

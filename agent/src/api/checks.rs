//! `POST /v1/checks`: does a service answer? The agent asks it from inside its network namespace, closed gate or not.

mod tls;

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Json, extract::State};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::rustls::pki_types::ServerName;

use super::{
    app::App,
    drains::Drains,
    error::ApiError,
    extract::{Body, Calling},
    place::Place,
    protocol::{CheckRequest, CheckResult},
};
use crate::{
    drain::Service,
    kernel::{Check, KernelError, Listener, explain},
};

/// How long a server may take to answer, if the request does not say.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The longest that can be asked for: nobody waits longer for an answer of the agent.
const LONGEST: Duration = Duration::from_secs(5);

/// Checks under way at once, in one network namespace: what one pod asks for is not to take the others' room.
const OF_NETNS: usize = 8;
/// The same, of the node: each holds a socket, an entry in the map of probes and a task.
const OF_NODE: usize = 256;

/// The checks that are under way, by network namespace.
#[derive(Debug, Default)]
pub(super) struct UnderWay(Mutex<HashMap<u32, usize>>);

/// Counts as a check for as long as it is kept.
#[derive(Debug)]
struct Permit {
    all: Arc<UnderWay>,
    netns: u32,
}

impl UnderWay {
    /// # Errors
    /// There are too many.
    fn begin(self: &Arc<Self>, netns: u32) -> Result<Permit, ApiError> {
        let mut each = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (here, all) = (each.get(&netns).copied().unwrap_or(0), each.values().sum::<usize>());
        let too_many = match (here >= OF_NETNS, all >= OF_NODE) {
            (true, _) => format!("{here} checks are under way in network namespace {netns}"),
            (false, true) => format!("{all} checks are under way on this node"),
            (false, false) => {
                each.insert(netns, here + 1);
                return Ok(Permit { all: Arc::clone(self), netns });
            }
        };
        let message = format!("{too_many} already, and no more are begun; try again in a second");
        Err(ApiError::later(StatusCode::TOO_MANY_REQUESTS, message))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut each = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        match each.get_mut(&self.netns) {
            Some(here) if *here > 1 => *here -= 1,
            _ => drop(each.remove(&self.netns)),
        }
    }
}

/// What is asked of the server, once it has accepted.
struct Question {
    /// `None`: that it accepts is enough.
    request: Option<Request<Empty<Bytes>>>,
    /// Over TLS, with a server of this name.
    tls: Option<ServerName<'static>>,
    /// Statuses that are as wanted; none: all below 400.
    expect: Vec<u16>,
    timeout: Duration,
}

/// See [`super::protocol`].
pub(super) async fn check<D: Drains>(
    State(app): State<Arc<App<D>>>,
    Calling(caller): Calling,
    Body(request): Body<CheckRequest>,
) -> Result<Json<CheckResult>, ApiError> {
    let question = Question::try_from(&request).map_err(ApiError::usage)?;
    if request.port == 0 {
        return Err(ApiError::usage("0 is no port; it is 1 to 65535"));
    }
    let CheckRequest { netns, pod, container, port, .. } = request;
    let netns = app.place(Place { netns, pod, container }, &caller).await?;
    let service = Service { netns, port };
    app.authorize_change(&caller, service).await?;
    let permit = app.checks.begin(netns)?;
    let look = app.kernel(move |kernel| kernel.look(netns, Some(port))).await?;
    let addresses = addresses(&look.listeners);
    // In a task of its own: who asked may go away, but what was begun has to be ended.
    let asked = tokio::spawn(async move {
        let _permit = permit;
        ask(&app, service, addresses, question).await
    });
    asked.await.map_err(|error| ApiError::internal(&error))?.map(Json)
}

async fn ask<D: Drains>(
    app: &App<D>,
    service: Service,
    addresses: Vec<IpAddr>,
    question: Question,
) -> Result<CheckResult, ApiError> {
    let mut result = CheckResult {
        service: service.to_string(),
        listening: !addresses.is_empty(),
        healthy: false,
        status: None,
        why: Some(format!("nothing listens on port {}", service.port)),
    };
    for address in addresses {
        let check =
            match app.kernel_result(move |kernel| kernel.open_check(service, address)).await? {
                Ok(check) => check,
                Err(error @ KernelError::NoNetns(_)) => return Err(error.into()),
                Err(error) => {
                    result.why = Some(explain(&error));
                    continue;
                }
            };
        let Check { socket, note } = check;
        let answer = timeout(question.timeout, question.put(socket.into())).await;
        // It may take a while, and waits: not in the turn of those who look. How many there are is limited already.
        let kernel = Arc::clone(&app.kernel);
        let closed = tokio::task::spawn_blocking(move || kernel.close_check(note)).await;
        closed.map_err(|error| ApiError::internal(&error))?;
        match answer {
            Ok(Err(why)) if why.kind() == io::ErrorKind::ConnectionRefused => {
                result.why = Some(format!("{address} refuses connections"));
            }
            answer => return Ok(question.judge(answer.map_err(|_| ()), result)),
        }
    }
    Ok(result)
}

impl Question {
    /// The status of the answer, if one was asked for. Returns with the head: what follows is the server's business.
    async fn put(&self, socket: std::net::TcpStream) -> io::Result<Option<StatusCode>> {
        let stream = TcpStream::from_std(socket)?;
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        let Some(request) = self.request.clone() else { return Ok(None) };
        let status = match &self.tls {
            None => status(stream, request).await,
            Some(name) => status(tls::connect(stream, name.clone()).await?, request).await,
        };
        status.map(Some)
    }

    fn judge(
        &self,
        answer: Result<io::Result<Option<StatusCode>>, ()>,
        result: CheckResult,
    ) -> CheckResult {
        let status = answer.as_ref().ok().and_then(|answer| *answer.as_ref().ok()?);
        let why = match answer {
            Err(()) => Some(format!("no answer within {} ms", self.timeout.as_millis())),
            Ok(Err(error)) => Some(format!("no answer: {error}")),
            Ok(Ok(Some(status))) if !self.is_as_wanted(status) => {
                Some(format!("HTTP status {status}"))
            }
            Ok(Ok(_)) => None,
        };
        CheckResult { healthy: why.is_none(), status: status.map(|it| it.as_u16()), why, ..result }
    }

    fn is_as_wanted(&self, status: StatusCode) -> bool {
        match self.expect.as_slice() {
            [] => status.is_success() || status.is_redirection(),
            some => some.contains(&status.as_u16()),
        }
    }
}

async fn status(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
) -> io::Result<StatusCode> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(io::Error::other)?;
    let answer = async { sender.send_request(request).await.map_err(io::Error::other) };
    tokio::select! {
        answer = answer => Ok(answer?.status()),
        Err(error) = connection => Err(io::Error::other(error)),
    }
}

impl TryFrom<&CheckRequest> for Question {
    type Error = String;

    fn try_from(asked: &CheckRequest) -> Result<Self, String> {
        let timeout = asked.timeout_ms.map_or(TIMEOUT, Duration::from_millis);
        if timeout.is_zero() || timeout > LONGEST {
            return Err(format!("timeout_ms is 1 to {}", LONGEST.as_millis()));
        }
        if let Some(wrong) = asked.expect.iter().find(|status| !(100..=599).contains(*status)) {
            return Err(format!("{wrong} is no status of HTTP; it is 100 to 599"));
        }
        let Some(path) = &asked.path else {
            if asked.host.is_some() || asked.tls || !asked.expect.is_empty() {
                return Err("host, tls and expect are of a request, which path would name".into());
            }
            return Ok(Self { request: None, tls: None, expect: Vec::new(), timeout });
        };
        let is_path = path.starts_with('/') && path.bytes().all(is_of_path);
        let uri: Option<Uri> = is_path.then(|| path.parse().ok()).flatten();
        let uri = uri.ok_or_else(|| format!("{path:?} is no path; one is /healthz"))?;
        let host = asked.host.clone().unwrap_or_else(|| format!("localhost:{}", asked.port));
        if host.is_empty()
            || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:_[]-".contains(&byte))
        {
            return Err(format!("{host:?} is no name of a host, with or without a port"));
        }
        let tls = asked.tls.then(|| tls::name(&host)).transpose()?;
        let request = Request::get(uri)
            .header(header::HOST, host)
            .header(header::USER_AGENT, concat!("drainctl/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close")
            .body(Empty::new())
            .map_err(|error| format!("path and host make no request: {error}"))?;
        Ok(Self { request: Some(request), tls, expect: asked.expect.clone(), timeout })
    }
}

/// Whether a path or query may have it (`pchar` of RFC 3986, section 3.3, and what divides them).
fn is_of_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/?".contains(&byte)
}

/// Where to find a service that listens so: a loopback address, unless it listens on one address only. IPv4 first,
/// which a listener on `::` takes too, unless it is told not to.
fn addresses(listeners: &[Listener]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for listener in listeners {
        let ip = listener.local.ip();
        let ways = match ip {
            IpAddr::V4(v4) if v4.is_unspecified() => vec![IpAddr::from([127, 0, 0, 1])],
            IpAddr::V6(v6) if v6.is_unspecified() => {
                vec![IpAddr::from([127, 0, 0, 1]), std::net::Ipv6Addr::LOCALHOST.into()]
            }
            _ => vec![ip],
        };
        found.extend(ways);
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> CheckRequest {
        CheckRequest { port: 80, path: Some("/ok".into()), ..CheckRequest::default() }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let table = [
            ("as it should be", asked(), true),
            ("only the port", CheckRequest { path: None, ..asked() }, true),
            ("no path", CheckRequest { path: Some("ok".into()), ..asked() }, false),
            ("a space", CheckRequest { path: Some("/a b".into()), ..asked() }, false),
            ("a line end", CheckRequest { host: Some("a\r\nb: c".into()), ..asked() }, false),
            ("no time", CheckRequest { timeout_ms: Some(0), ..asked() }, false),
            ("for ever", CheckRequest { timeout_ms: Some(5001), ..asked() }, false),
            ("no status", CheckRequest { expect: vec![42], ..asked() }, false),
            ("no request", CheckRequest { path: None, expect: vec![200], ..asked() }, false),
            ("over TLS", CheckRequest { tls: true, host: Some("web:443".into()), ..asked() }, true),
            ("TLS without a request", CheckRequest { path: None, tls: true, ..asked() }, false),
        ];
        for (what, request, is_good) in table {
            assert_eq!(Question::try_from(&request).is_ok(), is_good, "{what}");
        }
    }

    #[test]
    fn checks_under_way_are_few() {
        let all = Arc::new(UnderWay::default());
        let mut permits: Vec<Permit> = (0..OF_NETNS).map(|_| all.begin(1).unwrap()).collect();
        assert!(all.begin(1).unwrap_err().message().contains("network namespace 1 already"));
        permits.pop();
        permits.push(all.begin(1).unwrap());
        let others = (OF_NETNS..OF_NODE).map(|at| all.begin((at / OF_NETNS) as u32 + 1).unwrap());
        let others: Vec<Permit> = others.collect();
        assert!(all.begin(u32::MAX).unwrap_err().message().contains("256 checks"));
        drop((permits, others));
        assert!(all.0.lock().unwrap().is_empty());
    }

    #[test]
    fn statuses() {
        let judge = |expect: &[u16], status: u16| {
            let request = CheckRequest { expect: expect.to_vec(), ..asked() };
            let question = Question::try_from(&request).unwrap();
            let answer = Ok(Ok(Some(StatusCode::from_u16(status).unwrap())));
            question.judge(answer, CheckResult::default()).healthy
        };
        let table: [(&[u16], u16, bool); 6] = [
            (&[], 200, true),
            (&[], 302, true),
            (&[], 404, false),
            (&[], 503, false),
            (&[401], 401, true),
            (&[401], 200, false),
        ];
        for (expect, status, healthy) in table {
            assert_eq!(judge(expect, status), healthy, "{expect:?} {status}");
        }
    }

    #[test]
    fn a_listener_is_asked_where_it_listens() {
        let listener = |local: &str| Listener {
            cookie: 1,
            local: local.parse().unwrap(),
            uid: 0,
            inode: 1,
            backlog: 0,
        };
        let table: [(&[&str], &[&str]); 5] = [
            (&[], &[]),
            (&["0.0.0.0:80"], &["127.0.0.1"]),
            (&["[::]:80"], &["127.0.0.1", "::1"]),
            (&["0.0.0.0:80", "[::]:80", "0.0.0.0:80"], &["127.0.0.1", "::1"]),
            (&["10.0.0.1:80"], &["10.0.0.1"]),
        ];
        for (listeners, expected) in table {
            let listeners: Vec<_> = listeners.iter().map(|local| listener(local)).collect();
            let expected: Vec<IpAddr> = expected.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(addresses(&listeners), expected, "{listeners:?}");
        }
    }
}

//! Who may come in, and what for: runs before every request over TCP.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{pace::Pace, token::Tokens};
use crate::api::{
    auth::Caller,
    error::ApiError,
    peer::{Identify, Unidentified},
};

/// What everybody may ask, as the router names it. The page has nothing to tell until it has a token.
const PUBLIC: [&str; 4] = ["/", "/healthz", "/metrics", SERVING];
/// Of this, who is no operator is told yes or no.
const SERVING: &str = "/serving/{port}";
/// A wrong token costs as many requests as this, and its answer is late by so much.
const WRONG_TOKEN_COSTS: f64 = 10.0;
const WRONG_TOKEN_WAITS: Duration = Duration::from_secs(1);

/// What it takes to be an operator.
pub(super) struct Door {
    pub(super) tokens: Option<Tokens>,
    pub(super) pace: Pace,
}

/// The other end of a connection.
pub(super) struct Remote {
    pub(super) addr: SocketAddr,
    /// A client's certificate that was verified.
    pub(super) has_certificate: bool,
}

impl Identify for Remote {
    fn caller(&self) -> Result<Caller, Unidentified> {
        Ok(Caller::remote())
    }

    fn seat(&self) -> (u32, u32) {
        (0, 0)
    }
}

/// What a request shows.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    Operator,
    Nothing,
    WrongToken,
}

impl Door {
    fn look_at(&self, remote: &Remote, headers: &HeaderMap) -> Shown {
        if remote.has_certificate {
            return Shown::Operator;
        }
        let Some(value) = headers.get(header::AUTHORIZATION) else { return Shown::Nothing };
        let token = value.to_str().ok().and_then(|value| value.split_once(' '));
        let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        match (&self.tokens, token) {
            (Some(tokens), Some((_, token))) if tokens.contains(token.trim()) => Shown::Operator,
            _ => Shown::WrongToken,
        }
    }
}

/// Lets a request in, or answers it. It carries an `Arc<Remote>`, and gets the `Arc<dyn Identify>` that handlers
/// want.
pub(super) async fn at_the_door(
    State(door): State<Arc<Door>>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(remote) = request.extensions().get::<Arc<Remote>>().cloned() else {
        return ApiError::from(Unidentified::Invisible).into_response();
    };
    if !door.pace.spend(remote.addr.ip(), 1.0) {
        return too_many();
    }
    let path = path.as_ref().map_or("", MatchedPath::as_str);
    let is_public = PUBLIC.contains(&path) && request.method() == Method::GET;
    let shown = door.look_at(&remote, request.headers());
    match shown {
        Shown::Operator if request.method() != Method::GET => {
            tracing::info!(peer = %remote.addr, method = %request.method(), path = request.uri().path(), "an operator asks over TCP");
        }
        Shown::Operator => {}
        Shown::Nothing if is_public => {}
        Shown::Nothing => return unauthorized("it takes a token, or a client's certificate"),
        Shown::WrongToken => {
            tracing::warn!(peer = %remote.addr, path = request.uri().path(), "denied: the token is wrong");
            if !door.pace.spend(remote.addr.ip(), WRONG_TOKEN_COSTS) {
                return too_many();
            }
            tokio::time::sleep(WRONG_TOKEN_WAITS).await;
            return unauthorized("the token is wrong");
        }
    }
    request.extensions_mut().insert::<Arc<dyn Identify>>(remote);
    let response = next.run(request).await;
    if shown == Shown::Nothing && path == SERVING {
        return yes_or_no(response);
    }
    response
}

/// Keeps from others what a port's clients are.
fn yes_or_no(response: Response) -> Response {
    match response.status() {
        StatusCode::OK => (StatusCode::OK, "serving\n").into_response(),
        status @ StatusCode::SERVICE_UNAVAILABLE => (status, "not serving\n").into_response(),
        _ => response,
    }
}

fn unauthorized(why: &str) -> Response {
    let message = format!(
        "{why}; over TCP everything but /, /healthz, /metrics and /serving needs the header \
         Authorization: Bearer TOKEN with a line of the agent's --token-file, or a certificate that its \
         --tls-client-ca has signed (drainctl: --token-file, or --cert and --key)"
    );
    let mut response = ApiError::unauthorized(message).into_response();
    let scheme = header::HeaderValue::from_static("Bearer");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    response
}

fn too_many() -> Response {
    let message = "too many requests from this address; ask again in a second";
    let refused = ApiError::later(StatusCode::TOO_MANY_REQUESTS, message);
    let mut response = refused.into_response();
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    response
}

//! Takes requests apart: whatever does not fit becomes an [`ApiError`] that says what would.

use std::{str::FromStr, sync::Arc};

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE, request::Parts},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    auth::Caller,
    error::ApiError,
    peer::{Identify, Unidentified},
    place::Place,
    protocol::{NetnsName, NetnsRef, PodName},
};
use crate::drain::{HoldError, HoldName, Service};

/// Largest body of a request, in bytes. The largest sensible one is below 1 KiB.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        check_json(&parts.headers)?;
        let bytes = axum::body::to_bytes(body, MAX_BODY).await.map_err(|error| {
            let large = std::error::Error::source(&error)
                .is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>());
            if large {
                let message =
                    format!("the body is larger than {MAX_BODY} bytes; send one drain at a time");
                ApiError::bad_request(StatusCode::PAYLOAD_TOO_LARGE, message)
            } else {
                ApiError::usage(format!("the body broke off: {error}"))
            }
        })?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| ApiError::usage(format!("the body is not a valid request: {error}")))
    }
}

fn check_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = value.split(';').next().unwrap_or("").trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let message = "the body must be JSON; send it with the header Content-Type: application/json";
    Err(ApiError::bad_request(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
}

/// The one variable segment of a path, parsed.
pub(super) struct Segment<T>(pub(super) T);

impl<S: Send + Sync, T: FromSegment> FromRequestParts<S> for Segment<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(segment) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|error| ApiError::usage(error.body_text()))?;
        T::from_segment(&segment).map(Self)
    }
}

/// Both variable segments of a path, parsed.
pub(super) struct Segments<A, B>(pub(super) A, pub(super) B);

impl<S: Send + Sync, A: FromSegment, B: FromSegment> FromRequestParts<S> for Segments<A, B> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((first, second)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|error| ApiError::usage(error.body_text()))?;
        Ok(Self(A::from_segment(&first)?, B::from_segment(&second)?))
    }
}

/// What can stand in a path.
pub(super) trait FromSegment: Sized {
    /// Parses it, or says what would fit.
    fn from_segment(segment: &str) -> Result<Self, ApiError>;
}

impl FromSegment for Service {
    fn from_segment(segment: &str) -> Result<Self, ApiError> {
        let parsed = segment.split_once(':').and_then(|(netns, port)| {
            Some(Self { netns: decimal(netns)?, port: decimal(port).filter(|&port| port != 0)? })
        });
        parsed.ok_or_else(|| {
            let form = "NETNS:PORT, for example 4026531840:8080 (see GET /v1/services)";
            ApiError::usage(format!("{segment:?} is no service id; it is {form}"))
        })
    }
}

impl FromSegment for HoldName {
    fn from_segment(segment: &str) -> Result<Self, ApiError> {
        segment.parse().map_err(|error: HoldError| ApiError::usage(error.to_string()))
    }
}

/// A TCP port, 1 to 65535.
pub(super) struct Port(pub(super) u16);

impl FromSegment for Port {
    fn from_segment(segment: &str) -> Result<Self, ApiError> {
        let port = decimal(segment).filter(|&port| port != 0);
        let wrong = || ApiError::usage(format!("{segment:?} is no port; it is 1 to 65535"));
        port.map(Self).ok_or_else(wrong)
    }
}

/// A decimal number without sign.
fn decimal<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The query, with nothing unknown in it.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|error| ApiError::usage(error.body_text()))
    }
}

/// `?netns=` in a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum NetnsQuery {
    /// One.
    One(NetnsRef),
    /// Every one.
    All,
}

impl TryFrom<String> for NetnsQuery {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "host" => Ok(Self::One(NetnsRef::Named(NetnsName::Host))),
            "all" => Ok(Self::All),
            number => match decimal(number) {
                Some(inode) => Ok(Self::One(NetnsRef::Inode(inode))),
                None => Err(format!(
                    "{text:?} is no network namespace; it is an inode number or `host`"
                )),
            },
        }
    }
}

/// Which namespace a query is about.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlaceQuery {
    pub(super) netns: Option<NetnsQuery>,
    pub(super) pod: Option<PodName>,
    pub(super) container: Option<String>,
}

impl PlaceQuery {
    /// The one place that it names.
    pub(super) fn one(self) -> Result<Place, ApiError> {
        let Self { netns, pod, container } = self;
        let netns = match netns {
            None => None,
            Some(NetnsQuery::One(netns)) => Some(netns),
            Some(NetnsQuery::All) => {
                return Err(ApiError::usage("netns=all is for GET /v1/services only; name one"));
            }
        };
        Ok(Place { netns, pod, container })
    }
}

/// Who calls, identified for this request.
pub(super) struct Calling(pub(super) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Calling {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let peer = parts.extensions.get::<Arc<dyn Identify>>().cloned();
        let peer = peer.ok_or(Unidentified::Invisible)?;
        let caller = tokio::task::spawn_blocking(move || peer.caller()).await;
        Ok(Self(caller.map_err(|error| ApiError::internal(&error))??))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_ids() {
        let good = Service::from_segment("4026531840:8080").unwrap();
        assert_eq!(good, Service { netns: 4_026_531_840, port: 8080 });
        assert_eq!(good.to_string(), "4026531840:8080");
        for bad in ["", "8080", ":8080", "1:", "1:0", "1:65536", "1:-1", "+1:80", "1:80:1", "a:80"]
        {
            assert!(Service::from_segment(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn namespaces_in_a_query() {
        let parse = |text: &str| NetnsQuery::try_from(text.to_owned());
        assert_eq!(parse("host"), Ok(NetnsQuery::One(NetnsRef::Named(NetnsName::Host))));
        assert_eq!(parse("4026531840"), Ok(NetnsQuery::One(NetnsRef::Inode(4_026_531_840))));
        assert_eq!(parse("all"), Ok(NetnsQuery::All));
        for bad in ["", "Host", "-1", "4294967296", "/proc/1/ns/net"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}

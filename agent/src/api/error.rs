//! Errors of the HTTP interface: each has a status, a code and a message that says what to do next.

use std::error::Error;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{
    auth::{Caller, Denied},
    peer::Unidentified,
    protocol::{ErrorBody, ErrorCode, ErrorDetail},
};
use crate::{drain::Service, executor::DrainError, kernel::KernelError, pods::PodError};

/// An answer that is not what was asked for.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: ErrorCode,
    message: String,
}

impl ApiError {
    /// For people.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// The request makes no sense.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::bad_request(StatusCode::BAD_REQUEST, message)
    }

    /// The request makes no sense, and HTTP has a status of its own for it.
    pub(super) fn bad_request(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, code: ErrorCode::Usage, message: message.into() }
    }

    /// There is no listener, connection or drain.
    pub(super) fn no_such_service(service: Service) -> Self {
        Self::from(DrainError::NoSuchService(service))
    }

    /// The caller may not do this. Logged here, so that no denial goes unseen.
    pub(super) fn denied(caller: &Caller, what: &str, target: &str, why: Denied) -> Self {
        let Caller { pid, uid, .. } = *caller;
        tracing::warn!(pid, uid, target = %target, reason = %why, "denied: {what}");
        let message = format!("process {pid} (uid {uid}) may not {what} {target}: {why}");
        Self { status: StatusCode::FORBIDDEN, code: ErrorCode::NotPermitted, message }
    }

    /// Who asks has not shown that it may.
    pub(super) fn unauthorized(message: String) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, code: ErrorCode::NotPermitted, message }
    }

    /// Nobody may ask in this way.
    pub(super) fn forbidden(message: &str) -> Self {
        let message = message.to_owned();
        Self { status: StatusCode::FORBIDDEN, code: ErrorCode::NotPermitted, message }
    }

    /// To be asked again in a moment, as that of an agent that is being replaced.
    pub(super) fn later(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, code: ErrorCode::Stopping, message: message.into() }
    }

    /// The connections cannot be looked at.
    pub(super) fn unverifiable(error: &KernelError) -> Self {
        let message = format!("the connections cannot be verified: {}; try again", chain(error));
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code: ErrorCode::Unverifiable, message }
    }

    /// Our fault.
    pub(super) fn internal(error: &(dyn Error + 'static)) -> Self {
        let message = chain(error);
        tracing::error!(error = %message, "a request failed");
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self { status, code: ErrorCode::Internal, message }
    }

    fn not_found(message: String) -> Self {
        Self { status: StatusCode::NOT_FOUND, code: ErrorCode::NoSuchService, message }
    }
}

/// An error and its causes on one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

impl From<DrainError> for ApiError {
    fn from(error: DrainError) -> Self {
        match error {
            DrainError::NoSuchService(_) => {
                Self::not_found(format!("{error}; check the port and the namespace"))
            }
            DrainError::Conflict { .. }
            | DrainError::TooMany { .. }
            | DrainError::TooManyHolds { .. }
            | DrainError::HoldTooLate(_)
            | DrainError::HoldWhileDraining(_) => {
                let (status, code) = (StatusCode::CONFLICT, ErrorCode::Conflict);
                Self { status, code, message: error.to_string() }
            }
            DrainError::NoClientHistory | DrainError::NoRoom => Self::usage(error.to_string()),
            DrainError::OnlyItself(_) => {
                Self::bad_request(StatusCode::BAD_REQUEST, error.to_string())
            }
            DrainError::Registry { .. } => {
                let (status, code) = (StatusCode::BAD_GATEWAY, ErrorCode::Ended);
                Self { status, code, message: error.to_string() }
            }
            DrainError::Kernel(error) => error.into(),
            // Nobody's fault, so not logged as one.
            DrainError::Stopping => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                code: ErrorCode::Stopping,
                message: error.to_string(),
            },
        }
    }
}

impl From<KernelError> for ApiError {
    fn from(error: KernelError) -> Self {
        match error {
            KernelError::NoNetns(_) => Self::not_found(error.to_string()),
            KernelError::Handoff(error) if error.is_missing() => Self::not_found(error.to_string()),
            KernelError::Handoff(error) => Self::usage(error.to_string()),
            _ => Self::internal(&error),
        }
    }
}

impl From<PodError> for ApiError {
    fn from(error: PodError) -> Self {
        match error {
            PodError::NoSuchPod(_) | PodError::NotRunning(_) | PodError::NoSuchContainer(_) => {
                Self::not_found(error.to_string())
            }
            PodError::Several { .. }
            | PodError::SeveralContainers { .. }
            | PodError::HostNetwork(_)
            | PodError::WrongContainer(_) => Self::usage(error.to_string()),
            PodError::Proc(_) => Self::internal(&error),
        }
    }
}

impl From<Unidentified> for ApiError {
    fn from(error: Unidentified) -> Self {
        let message = chain(&error);
        tracing::warn!(reason = %message, "denied: the caller cannot be identified");
        Self { status: StatusCode::FORBIDDEN, code: ErrorCode::NotPermitted, message }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = ErrorDetail { code: self.code, message: self.message };
        (self.status, Json(ErrorBody { error })).into_response()
    }
}

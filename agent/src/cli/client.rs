//! Talks to the agent: HTTP/1.1 and JSON over its socket or its TCP endpoint, one connection a request. A retry is the
//! caller's decision; here every failure is told apart.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use super::{
    agent::{AgentAddress, Way},
    exit::{Exit, Failure},
};
use crate::{
    api::protocol::{ErrorBody, ErrorCode, StreamEvent},
    kernel::explain,
};

/// How long the agent may take to answer one request. It answers in milliseconds; this is for one that hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Largest answer that is read: far above 100,000 flows.
const BODY_LIMIT: usize = 64 << 20;

/// Largest line of the event stream.
const LINE_LIMIT: usize = 1 << 20;

/// The agent, by the way to it. Cheap to make: nothing is connected before the first request.
#[derive(Clone)]
pub(super) struct Client {
    way: Arc<Way>,
}

/// Why a request had no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody answers there, or the connection broke before the answer was whole.
    #[error(
        "cannot reach the agent at {agent}: {why}; is drain-agent running on {}",
        where_to_look(agent)
    )]
    Unreachable {
        /// What was tried.
        agent: AgentAddress,
        /// What went wrong.
        why: String,
    },
    /// The agent said no.
    #[error("{message}")]
    Refused {
        /// What kind of no.
        exit: Exit,
        /// The agent's words.
        message: String,
    },
    /// The answer is not one of this protocol.
    #[error(
        "the agent at {agent} sent something drainctl does not understand: {why}; \
         are drainctl and drain-agent of the same version?"
    )]
    Nonsense {
        /// Where it is.
        agent: AgentAddress,
        /// What was wrong with it.
        why: String,
    },
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match error {
            ClientError::Unreachable { .. } => Exit::Unreachable,
            ClientError::Refused { exit, .. } => exit,
            ClientError::Nonsense { .. } => Exit::Internal,
        };
        Self::new(exit, error.to_string())
    }
}

fn where_to_look(agent: &AgentAddress) -> &'static str {
    match agent {
        AgentAddress::Socket(_) => {
            "this node, and is the folder of its socket mounted here? (--agent PATH names another socket)"
        }
        AgentAddress::Url(_) => "that node, with --listen?",
    }
}

impl Client {
    /// The agent that this way leads to.
    pub(super) fn new(way: Way) -> Self {
        Self { way: Arc::new(way) }
    }

    /// Where the agent is looked for.
    pub(super) fn address(&self) -> &AgentAddress {
        &self.way.address
    }

    /// The options with which another `drainctl` finds the same agent, each with a space before it.
    pub(super) fn options(&self) -> &str {
        &self.way.options
    }

    /// `GET path`; the answer must be a success.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let (status, body) = self.exchange(Method::GET, path, Bytes::new()).await?;
        self.success(status, &body)
    }

    /// `GET path`; the status, and the body as it came.
    pub(super) async fn get_raw(&self, path: &str) -> Result<(StatusCode, Bytes), ClientError> {
        self.exchange(Method::GET, path, Bytes::new()).await
    }

    /// `DELETE path`; the answer must be a success.
    pub(super) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let (status, body) = self.exchange(Method::DELETE, path, Bytes::new()).await?;
        self.success(status, &body)
    }

    /// `POST path` with a JSON body; the answer must be a success.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.nonsense(error))?;
        let (status, body) = self.exchange(Method::POST, path, body.into()).await?;
        self.success(status, &body)
    }

    /// Opens the event stream of these services.
    pub(super) async fn events(&self, ids: &[String]) -> Result<Events, ClientError> {
        let path = format!("/v1/events?services={}", ids.join(","));
        let response = self.within_limit(self.send(Method::GET, &path, Bytes::new())).await?;
        if response.status().is_success() {
            return Ok(Events {
                client: self.clone(),
                body: response.into_body(),
                buffer: BytesMut::new(),
            });
        }
        let (status, body) = self.within_limit(self.collect(response)).await?;
        Err(self.refusal(status, &body))
    }

    /// Reads the body of an answer as JSON.
    pub(super) fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| self.nonsense(error))
    }

    /// The error in the body of an answer that is no success.
    pub(super) fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice::<ErrorBody>(body) {
            // As good as gone: who would try again then does so now.
            Ok(ErrorBody { error }) if error.code == ErrorCode::Stopping => {
                self.unreachable(error.message)
            }
            Ok(ErrorBody { error }) => {
                ClientError::Refused { exit: error.code.into(), message: error.message }
            }
            Err(_) => self.nonsense(format!("HTTP status {status} without a known error")),
        }
    }

    fn success<T: DeserializeOwned>(
        &self,
        status: StatusCode,
        body: &[u8],
    ) -> Result<T, ClientError> {
        if status.is_success() { self.parse(body) } else { Err(self.refusal(status, body)) }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        self.within_limit(async { self.collect(self.send(method, path, body).await?).await }).await
    }

    async fn within_limit<T>(
        &self,
        exchange: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let late = |_| self.unreachable(format!("no answer within {} s", ANSWER_LIMIT.as_secs()));
        timeout(ANSWER_LIMIT, exchange).await.map_err(late)?
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = self.way.connect().await.map_err(|why| self.unreachable(why))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(error))?;
        // Ends when the answer is whole or dropped; its errors come out of the request too.
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.way.host())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.way.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(body)).map_err(|error| self.nonsense(error))?;
        // hyper's own words name its layers; what happened is below.
        sender.send_request(request).await.map_err(|error| self.unreachable(explain(&error)))
    }

    async fn collect(
        &self,
        response: Response<Incoming>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
        Ok((status, body.map_err(|error| self.unreachable(error))?.to_bytes()))
    }

    fn unreachable(&self, why: impl ToString) -> ClientError {
        let expired =
            if self.way.has_expired { "; our certificate (--cert) has expired" } else { "" };
        ClientError::Unreachable {
            agent: self.address().clone(),
            why: format!("{}{expired}", why.to_string()),
        }
    }

    fn nonsense(&self, why: impl ToString) -> ClientError {
        ClientError::Nonsense { agent: self.address().clone(), why: why.to_string() }
    }
}

/// The event stream: one JSON object a line.
pub(super) struct Events {
    client: Client,
    body: Incoming,
    buffer: BytesMut,
}

impl Events {
    /// The next event; `None` when the agent ended the stream. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The connection broke, or a line is no event.
    pub(super) async fn next(&mut self) -> Result<Option<StreamEvent>, ClientError> {
        loop {
            if let Some(line) = self.take_line()? {
                return self.client.parse(&line).map(Some);
            }
            match self.body.frame().await {
                None => return Ok(None),
                // hyper's own words name its layers, not what happened.
                Some(Err(_)) => return Err(self.client.unreachable("the connection broke")),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }

    /// The next whole line that is not empty (empty ones keep a connection alive).
    fn take_line(&mut self) -> Result<Option<BytesMut>, ClientError> {
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line = self.buffer.split_to(end + 1);
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
        if self.buffer.len() > LINE_LIMIT {
            return Err(self.client.nonsense("a line that never ends"));
        }
        Ok(None)
    }
}

//! hyper-util's server, which finds out by itself which version the client talks.

use std::{
    convert::Infallible,
    fs::{File, OpenOptions},
    io::Write as _,
    net::Ipv4Addr,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use drainctl_tests::peers::body;
use http_body_util::BodyExt as _;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::TcpListener,
    time::{Sleep, sleep},
};

const PIECES: usize = 30;
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    port: u16,
    #[arg(long)]
    executed: PathBuf,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let executed = OpenOptions::new().create(true).append(true).open(&options.executed);
    let executed = Arc::new(executed.context("open the file of what was executed")?);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, options.port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let executed = Arc::clone(&executed);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, Arc::clone(&executed)));
            let connection = auto::Builder::new(TokioExecutor::new());
            if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
                eprintln!("{error}");
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    executed: Arc<File>,
) -> Result<Response<Pieces>, Infallible> {
    let path = request.uri().path().to_owned();
    let mut parts = path.split('/').skip(1);
    let (kind, what) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let size = || what.parse::<usize>().unwrap_or_default();
    let mut response = Response::new(Pieces::whole(Vec::new()));
    match kind {
        "body" if *request.method() == Method::HEAD => {
            response.headers_mut().insert("content-length", size().into());
        }
        "body" => *response.body_mut() = Pieces::whole(body(size())),
        "chunked" => *response.body_mut() = Pieces { exact: false, ..Pieces::whole(body(size())) },
        "slow" => *response.body_mut() = Pieces::slow(body(size())),
        "count" => {
            let done = request.into_body().collect().await.is_ok();
            // One write, so that lines stay whole.
            if !done || (&*executed).write_all(format!("{what}\n").as_bytes()).is_err() {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            *response.body_mut() = Pieces::whole(what.as_bytes().to_vec());
        }
        _ => {
            let status = what.parse().ok().and_then(|code| StatusCode::from_u16(code).ok());
            *response.status_mut() = status.unwrap_or(StatusCode::NOT_FOUND);
        }
    }
    Ok(response)
}

/// A body in pieces, with a pause after each or without.
struct Pieces {
    rest: Bytes,
    step: usize,
    /// Whether its length is told beforehand.
    exact: bool,
    slow: bool,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Pieces {
    fn whole(bytes: Vec<u8>) -> Self {
        let step = (bytes.len() / PIECES).max(1);
        Self { rest: bytes.into(), step, exact: true, slow: false, pause: None }
    }

    fn slow(bytes: Vec<u8>) -> Self {
        Self { slow: true, ..Self::whole(bytes) }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let body = self.get_mut();
        if let Some(pause) = &mut body.pause {
            ready!(pause.as_mut().poll(context));
            body.pause = None;
        }
        if body.rest.is_empty() {
            return Poll::Ready(None);
        }
        let step = if body.exact && !body.slow { body.rest.len() } else { body.step };
        let piece = body.rest.split_to(step.min(body.rest.len()));
        if body.slow && !body.rest.is_empty() {
            body.pause = Some(Box::pin(sleep(PAUSE))); // not a wait for a state: the server's pace
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.exact && self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.exact { SizeHint::with_exact(self.rest.len() as u64) } else { SizeHint::default() }
    }
}

//! hyper-util's client with its pool. The last worker has a client of its own, so that its
//! connection is idle while it rests; all others share one.

use std::{cell::Cell, rc::Rc, time::Duration};

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use drainctl_tests::peers::{SIZES, SLOW, body};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::LocalSet,
    time::{sleep, timeout},
};

use crate::tally::{Failure, Tally};

const TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    url: String,
    #[arg(long)]
    connections: usize,
    #[arg(long)]
    warm: u64,
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
    /// HTTP/2 with prior knowledge.
    #[arg(long)]
    http2: bool,
}

type Way = Client<HttpConnector, Full<Bytes>>;

#[derive(Clone, Copy)]
struct Question {
    method: Verb,
    kind: &'static str,
    size: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Head,
    Post,
}

struct Worker {
    options: Rc<Options>,
    tally: Rc<Tally>,
    way: Way,
    index: usize,
    warm: Rc<Cell<bool>>,
    stop: watch::Receiver<bool>,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let options = Rc::new(options);
    let (stopper, stop) = watch::channel(false);
    let (tally, warm) = (Rc::new(Tally::default()), Rc::new(Cell::new(false)));
    let (shared, own) = (way(&options), way(&options));
    let local = LocalSet::new();
    for index in 0..options.connections {
        let last = index + 1 == options.connections;
        let worker = Worker {
            options: Rc::clone(&options),
            tally: Rc::clone(&tally),
            way: if last { own.clone() } else { shared.clone() },
            index,
            warm: Rc::clone(&warm),
            stop: stop.clone(),
        };
        local.spawn_local(worker.run());
    }
    let mut term = signal(SignalKind::terminate())?;
    local.run_until(term.recv()).await;
    stopper.send(true)?;
    if timeout(TIMEOUT, local).await.is_err() {
        let failure = Failure::Error("a request did not end".to_owned());
        tally.judge("stop", false, Err(failure));
    }
    tally.print()?;
    Ok(())
}

fn way(options: &Options) -> Way {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let mut builder = Client::builder(TokioExecutor::new());
    // Requests that it has not begun to send when the connection ends: a GOAWAY makes them in HTTP/2, where
    // this is what everybody uses. In HTTP/1.1 nothing else may be hidden by it.
    builder.http2_only(options.http2).retry_canceled_requests(options.http2);
    builder.pool_idle_timeout(Duration::from_secs(300)).build(connector)
}

fn mix(kinds: &[String]) -> Vec<Question> {
    let mut mix = Vec::new();
    let mut add = |name: &str, method, kind, size| {
        if kinds.iter().any(|wanted| wanted == name) {
            mix.push(Question { method, kind, size });
        }
    };
    for size in SIZES {
        add("body", Verb::Get, "body", size);
        add("chunked", Verb::Get, "chunked", size);
        add("head", Verb::Head, "body", size);
        add("post", Verb::Post, "count", 0);
    }
    add("status", Verb::Get, "status", 204);
    add("status", Verb::Get, "status", 304);
    mix
}

impl Worker {
    async fn run(mut self) {
        let mix = mix(&self.options.kinds);
        let slow = self.options.kinds.iter().any(|kind| kind == "slow");
        let mut slow_waits = self.index == 0 && slow;
        for question in mix.iter().cycle() {
            if *self.stop.borrow() {
                return;
            }
            if slow_waits && self.warm.get() {
                slow_waits = false;
                let question = Question { method: Verb::Get, kind: "slow", size: SLOW };
                self.ask(question, || println!("warm")).await;
            }
            self.ask(*question, || {}).await;
            if self.tally.responses() >= self.options.warm && !self.warm.replace(true) && !slow {
                println!("warm");
            }
            self.pause().await;
        }
    }

    async fn pause(&mut self) {
        let length = match self.index {
            0 => return,
            last if last + 1 == self.options.connections => Duration::from_millis(1500),
            _ if self.warm.get() => Duration::from_millis(2),
            _ => return,
        };
        tokio::select! {
            () = sleep(length) => {} // not a wait for a state: the client's pace
            _ = self.stop.changed() => {}
        }
    }

    async fn ask(&self, question: Question, begun: impl FnOnce()) {
        let post = question.method == Verb::Post;
        let what = if post { self.tally.sent() } else { question.size.to_string() };
        let path = format!("/{}/{what}", question.kind);
        let exchange = timeout(TIMEOUT, self.exchange(question, &path, begun)).await;
        let outcome = exchange.unwrap_or_else(|_| Err(Failure::Error("timed out".to_owned())));
        let outcome = outcome.and_then(|(head, got)| check(question, &what, &head, &got));
        self.tally.judge(&path, post, outcome);
    }

    async fn exchange(
        &self,
        question: Question,
        path: &str,
        begun: impl FnOnce(),
    ) -> Result<(Response<()>, Vec<u8>), Failure> {
        let (method, data) = match question.method {
            Verb::Get => (Method::GET, Vec::new()),
            Verb::Head => (Method::HEAD, Vec::new()),
            Verb::Post => (Method::POST, body(1000)),
        };
        let request = Request::builder().method(method).uri(format!("{}{path}", self.options.url));
        let request = request.body(Full::new(data.into())).map_err(|error| Failure::of(&error))?;
        let response = self.way.request(request).await.map_err(|error| Failure::of(&error))?;
        let (head, mut incoming) = response.into_parts();
        let got = read(&mut incoming, begun).await?;
        Ok((Response::from_parts(head, ()), got))
    }
}

async fn read(incoming: &mut Incoming, begun: impl FnOnce()) -> Result<Vec<u8>, Failure> {
    let (mut got, mut begun) = (Vec::new(), Some(begun));
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|error| Failure::of(&error))?;
        if let Some(begun) = begun.take() {
            begun();
        }
        got.extend(frame.into_data().unwrap_or_default());
    }
    Ok(got)
}

fn check(question: Question, what: &str, head: &Response<()>, got: &[u8]) -> Result<(), Failure> {
    let Question { method, kind, size } = question;
    let (status, wanted) = match (kind, method) {
        ("status", _) => (StatusCode::from_u16(size.try_into().unwrap_or_default()), Vec::new()),
        ("count", _) => (Ok(StatusCode::OK), what.as_bytes().to_vec()),
        (_, Verb::Head) => (Ok(StatusCode::OK), Vec::new()),
        _ => (Ok(StatusCode::OK), body(size)),
    };
    if !status.is_ok_and(|status| status == head.status()) {
        return Err(Failure::Wrong(format!("status {}", head.status())));
    }
    let announced = head.headers().get("content-length");
    let announced = announced.and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0);
    if method == Verb::Head && size != announced {
        return Err(Failure::Wrong(format!("HEAD announces {announced}")));
    }
    let got = if kind == "count" { got.trim_ascii() } else { got };
    if got != wanted {
        let text = format!("{} bytes instead of {}, or others", got.len(), wanted.len());
        return Err(Failure::Wrong(text));
    }
    Ok(())
}

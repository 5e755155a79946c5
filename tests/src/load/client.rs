//! One worker's way to the server.

use std::{io, time::Duration};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{self, Instant},
};

use super::{Failure, Manner, Plan, TIMEOUT};
use crate::wait::patient;

/// A slow reader's receive buffer: with a larger one, the kernel would read ahead of it.
const SMALL: u32 = 128 << 10;

/// How much is read at once.
const PIECE: usize = 64 << 10;

/// A failure, and the same in words.
type Failed = (Failure, String);

/// A client with at most one connection.
pub(super) struct Client {
    plan: Plan,
    request: String,
    kept: Option<TcpStream>,
}

impl Client {
    /// Not connected yet.
    pub(super) fn new(plan: Plan) -> Self {
        let close = if plan.manner == Manner::OneRequest { "Connection: close\r\n" } else { "" };
        let request = format!("GET {} HTTP/1.1\r\nHost: test\r\n{close}\r\n", plan.path);
        Self { plan, request, kept: None }
    }

    /// One request and its whole answer.
    pub(super) async fn ask(&mut self) -> Result<(), Failed> {
        let slow = self.rate().map(|rate| self.time_for(self.plan.body.len(), rate));
        let limit = patient(TIMEOUT) + slow.unwrap_or_default();
        let outcome = match self.plan.manner {
            Manner::OneRequest => time::timeout(limit, self.ask_once()).await,
            Manner::KeepAlive | Manner::SlowReader(_) => {
                time::timeout(limit, self.ask_and_keep()).await
            }
        };
        outcome.unwrap_or_else(|_| Err((Failure::Timeout, "no whole answer".into())))
    }

    async fn ask_once(&self) -> Result<(), Failed> {
        let mut stream = self.connect().await.map_err(failed)?;
        stream.write_all(self.request.as_bytes()).await.map_err(failed)?;
        let mut answer = Vec::with_capacity(1024);
        // The server closes first: its answer is complete when the connection ends.
        stream.read_to_end(&mut answer).await.map_err(failed)?;
        if answer.is_empty() {
            return Err((Failure::Closed, "no answer".into()));
        }
        check(&answer, self.plan.body)
    }

    async fn ask_and_keep(&mut self) -> Result<(), Failed> {
        let mut stream = match self.kept.take().filter(is_open) {
            Some(kept) => kept,
            None => self.connect().await.map_err(failed)?,
        };
        stream.write_all(self.request.as_bytes()).await.map_err(failed)?;
        let (head, first) = read_head(&mut stream).await?;
        let length = header(&head, "content-length").and_then(|text| text.parse().ok());
        if !head.starts_with("HTTP/1.1 200 ") || length != Some(self.plan.body.len()) {
            return Err((Failure::Bad, head.replace("\r\n", "; ")));
        }
        self.read_body(&mut stream, first).await?;
        let close = header(&head, "connection").is_some_and(|value| value.contains("close"));
        self.kept = (!close).then_some(stream);
        Ok(())
    }

    /// Reads and compares the body, of which `first` came with the head.
    async fn read_body(&self, stream: &mut TcpStream, first: Vec<u8>) -> Result<(), Failed> {
        let (body, begin) = (self.plan.body, Instant::now());
        let mut piece = first;
        let mut got = 0;
        loop {
            if !body[got..].starts_with(&piece) {
                return Err((Failure::Bad, format!("another byte after {got} of {}", body.len())));
            }
            got += piece.len();
            if got == body.len() {
                return Ok(());
            }
            if let Some(rate) = self.rate() {
                let due = begin + self.time_for(got, rate);
                time::sleep_until(due).await; // not a wait for a state: the reader's pace
            }
            piece.resize(PIECE.min(body.len() - got), 0);
            let read = stream.read(&mut piece).await.map_err(failed)?;
            if read == 0 {
                return Err((Failure::Truncated, format!("{got} of {} bytes", body.len())));
            }
            piece.truncate(read);
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let socket =
            if self.plan.target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if self.rate().is_some() {
            socket.set_recv_buffer_size(SMALL)?;
        }
        socket.connect(self.plan.target).await
    }

    fn rate(&self) -> Option<u32> {
        match self.plan.manner {
            Manner::SlowReader(rate) => Some(rate),
            Manner::OneRequest | Manner::KeepAlive => None,
        }
    }

    fn time_for(&self, bytes: usize, rate: u32) -> Duration {
        Duration::from_micros(bytes as u64 * 1_000_000 / u64::from(rate.max(1)))
    }
}

/// Whether an idle connection can be used: clients look before they send, and so take one that was closed
/// while it was idle for what it is.
fn is_open(stream: &TcpStream) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    matches!(recv(stream, &mut [0; 1][..], flags), Err(Errno::AGAIN))
}

/// The head of the answer, and what came with it of the body.
async fn read_head(stream: &mut TcpStream) -> Result<(String, Vec<u8>), Failed> {
    let mut bytes = Vec::with_capacity(PIECE);
    loop {
        if stream.read_buf(&mut bytes).await.map_err(failed)? == 0 {
            return Err(match bytes.len() {
                0 => (Failure::Closed, "no answer".into()),
                length => (Failure::Truncated, format!("{length} bytes without a body")),
            });
        }
        if let Some(end) = end_of_head(&bytes) {
            let body = bytes.split_off(end);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), body));
        }
    }
}

/// Where the body begins.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|head| head + 4)
}

/// All values of a header field, in lower case.
fn header(head: &str, name: &str) -> Option<String> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let named = fields.filter(|(found, _)| found.eq_ignore_ascii_case(name));
    let values: Vec<String> = named.map(|(_, value)| value.trim().to_ascii_lowercase()).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

/// Insists on a whole answer with this body.
fn check(answer: &[u8], body: &[u8]) -> Result<(), Failed> {
    let Some(begin) = end_of_head(answer) else {
        return Err((Failure::Truncated, format!("{} bytes without a body", answer.len())));
    };
    let got = &answer[begin..];
    if answer.starts_with(b"HTTP/1.1 200 ") && got == body {
        Ok(())
    } else if answer.starts_with(b"HTTP/1.1 200 ") && body.starts_with(got) {
        Err((Failure::Truncated, format!("{} of {} bytes", got.len(), body.len())))
    } else {
        let answer = String::from_utf8_lossy(answer);
        Err((Failure::Bad, answer.lines().next().unwrap_or_default().to_owned()))
    }
}

fn failed(error: io::Error) -> Failed {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Failure::Reset,
        io::ErrorKind::TimedOut => Failure::Timeout,
        _ => Failure::Bad,
    };
    (kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{self, SocketAddr},
        thread,
    };

    use super::*;

    const KEEP: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const CLOSE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: Close\r\n\r\nok";

    /// A server that accepts one connection after the other, and gives these answers on each, to as many
    /// requests, an empty one by closing.
    fn serve(connections: Vec<Vec<&'static str>>) -> SocketAddr {
        let listener = net::TcpListener::bind("127.0.0.1:0").expect("listen");
        let addr = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for answers in connections {
                let (mut stream, _) = listener.accept().expect("accept");
                for answer in answers {
                    let _ = stream.read(&mut [0; 1000]).expect("a request");
                    stream.write_all(answer.as_bytes()).expect("answer");
                }
            }
        });
        addr
    }

    /// How that many requests go.
    fn ask(manner: Manner, connections: Vec<Vec<&'static str>>, count: usize) -> Vec<bool> {
        let pace = Duration::ZERO;
        let (target, path, body) = (serve(connections), "/", &b"ok"[..]);
        let plan = Plan { target, path, body, manner, workers: 1, pace, at_most: 1 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut client = Client::new(plan);
            let mut outcomes = Vec::new();
            for _ in 0..count {
                let outcome = client.ask().await;
                if let Err((kind, text)) = &outcome {
                    assert_eq!(*kind, Failure::Closed, "{text}");
                }
                outcomes.push(outcome.is_ok());
            }
            outcomes
        })
    }

    #[test]
    fn a_connection_is_kept_until_the_server_says_close() {
        let connections = vec![vec![KEEP, KEEP, CLOSE], vec![KEEP]];
        assert_eq!(ask(Manner::KeepAlive, connections, 4), [true; 4]);
        assert_eq!(
            ask(Manner::SlowReader(1000), vec![vec![KEEP, CLOSE], vec![KEEP]], 3),
            [true; 3]
        );
    }

    #[test]
    fn a_request_without_an_answer_has_failed_and_is_not_repeated() {
        let connections = vec![vec![KEEP, ""], vec![KEEP]];
        assert_eq!(ask(Manner::KeepAlive, connections, 3), [true, false, true]);
    }

    #[test]
    fn each_request_has_its_connection_where_wanted() {
        assert_eq!(
            ask(Manner::OneRequest, vec![vec![KEEP], vec![KEEP], vec![""]], 3),
            [true, true, false]
        );
    }

    #[test]
    fn a_field_is_found_in_any_case_and_as_often_as_it_is_there() {
        let head = "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nCONNECTION:close\r\n\r\n";
        assert_eq!(header(head, "connection").as_deref(), Some("keep-alive, close"));
        assert_eq!(header(head, "content-length"), None);
    }
}

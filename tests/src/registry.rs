//! A registry that writes down what it is told, and answers as a test wants it to: late, with an error, or not at all.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::Result;

use crate::netns::Netns;

/// What it answers to a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// This status, with this text.
    Says(u16, &'static str),
    /// Nothing, ever.
    Hangs,
}

/// See the module. It listens until the process ends.
#[derive(Clone, Debug)]
pub struct Registry {
    addr: SocketAddr,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    requests: Vec<Request>,
    answers: VecDeque<Answer>,
    hanging: Vec<TcpStream>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method and target.
    pub line: String,
    /// `name: value`, as sent.
    pub headers: Vec<String>,
    /// Its text.
    pub body: String,
    /// What [`Registry::start`] was given to find out meanwhile.
    pub meanwhile: String,
}

impl Registry {
    /// Listens on a loopback address inside `netns`, and finds out `meanwhile` at each request, before it answers.
    pub fn start(netns: &Netns, meanwhile: impl Fn() -> String + Send + 'static) -> Result<Self> {
        let listener = netns.run(|| Ok(TcpListener::bind("127.0.0.1:0")?))?;
        let registry = Self { addr: listener.local_addr()?, inner: Arc::default() };
        let own = registry.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away in the middle is none.
                let _ = own.serve(stream, &meanwhile);
            }
        });
        Ok(registry)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What it answers next, one after the other; after that, 200.
    pub fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.lock().answers = answers.into_iter().collect();
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.lock().requests.clone()
    }

    /// Methods and targets of all requests so far.
    pub fn lines(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.line).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: TcpStream, meanwhile: &impl Fn() -> String) -> Result<()> {
        let request = read(&stream, meanwhile)?;
        let answer = {
            let mut inner = self.lock();
            inner.requests.push(request);
            inner.answers.pop_front().unwrap_or(Answer::Says(200, "{}"))
        };
        match answer {
            Answer::Says(status, text) => {
                let length = text.len();
                let head = format!("HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\n\r\n");
                stream.write_all((head + text).as_bytes())?;
            }
            Answer::Hangs => self.lock().hanging.push(stream),
        }
        Ok(())
    }
}

fn read(stream: &TcpStream, meanwhile: &impl Fn() -> String) -> Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let first = lines.remove(0);
    let line = first.trim_end_matches(" HTTP/1.1").to_owned();
    let length = lines.iter().find_map(|each| each.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(Ok(0), str::parse)?];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Request { line, headers: lines, body, meanwhile: meanwhile() })
}

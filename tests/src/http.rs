//! A plain HTTP/1.1 client that keeps its connection and checks what it gets.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    net,
    netns::Netns,
    wait::{LIMIT, patient},
};

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// The body, complete.
    pub body: Vec<u8>,
}

/// A keep-alive connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects from inside `netns`.
    pub fn connect(netns: &Netns, addr: SocketAddr) -> Result<Self> {
        Ok(Self { stream: BufReader::new(net::connect(netns, addr)?) })
    }

    /// Sends a request and reads the whole answer; the connection stays open.
    pub fn get(&mut self, path: &str) -> Result<Response> {
        self.send(path)?;
        self.receive()
    }

    /// Sends a request and no more.
    pub fn send(&mut self, path: &str) -> Result<()> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes()).context("send the request")
    }

    /// Reads one answer to its end.
    pub fn receive(&mut self) -> Result<Response> {
        receive(&mut self.stream)
    }
}

/// One request on its own connection from inside `netns`; an error if there is no complete answer.
pub fn get(netns: &Netns, addr: SocketAddr, path: &str) -> Result<Response> {
    Client::connect(netns, addr)?.get(path)
}

/// One request to an HTTP server on a Unix socket.
pub fn unix(socket: &Path, method: &str, path: &str, body: &str) -> Result<Response> {
    unix_within(LIMIT, socket, method, path, body)
}

/// The same, for what may take longer than usual.
pub fn unix_within(
    limit: Duration,
    socket: &Path,
    method: &str,
    path: &str,
    body: &str,
) -> Result<Response> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(patient(limit)))?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: agent\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    // A server that has read enough answers and closes: the answer tells more than the broken pipe.
    let _ = stream.write_all(request.as_bytes());
    receive(&mut BufReader::new(stream))
}

fn receive(stream: &mut impl BufRead) -> Result<Response> {
    let status_line = line(stream)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("no status in {status_line:?}"))?;
    let mut length = None;
    loop {
        let header = line(stream)?;
        if header.is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = Some(value.trim().parse::<usize>().context("content-length")?);
        }
    }
    let mut body = vec![0; length.context("an answer without content-length")?];
    stream.read_exact(&mut body).context("read the body")?;
    Ok(Response { status, body })
}

fn line(stream: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line).context("read a header line")?;
    let Some(line) = line.strip_suffix("\r\n") else { bail!("the connection ended: {line:?}") };
    Ok(line.to_owned())
}

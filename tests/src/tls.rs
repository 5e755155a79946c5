//! A client of a server that speaks TLS: OpenSSL's, which shows what is inside.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{netns::Netns, process::Process};

/// Ends a client that nobody answers.
const LIMIT_SECS: &str = "600";

/// One connection that is kept.
#[derive(Debug)]
pub struct TlsClient {
    _process: Process,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsAnswer {
    /// The status line and the fields, as they came.
    pub head: String,
    /// All of what `Content-Length` promised.
    pub body: Vec<u8>,
}

impl TlsClient {
    /// Connects from inside `netns`.
    pub fn connect(netns: &Netns, addr: SocketAddr) -> Result<Self> {
        let mut command = Command::new("timeout");
        command.args([LIMIT_SECS, "openssl", "s_client", "-quiet", "-connect", &addr.to_string()]);
        // It ends with its input, whether `timeout` is still there to end it or not.
        command.arg("-no_ign_eof");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = netns.run(|| command.spawn().context("start openssl"))?;
        let requests = child.stdin.take().context("its input is piped")?;
        let answers = BufReader::new(child.stdout.take().context("its output is piped")?);
        Ok(Self { _process: Process::new(child, "openssl s_client"), requests, answers })
    }

    /// Asks for a path and reads the whole answer.
    pub fn get(&mut self, path: &str) -> Result<TlsAnswer> {
        write!(self.requests, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")?;
        self.requests.flush()?;
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            ensure!(self.answers.read_line(&mut line)? > 0, "{path}: it ended after {head:?}");
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            head += &line;
        }
        let mut body = vec![0; length];
        self.answers.read_exact(&mut body).with_context(|| format!("the body of {path}"))?;
        Ok(TlsAnswer { head, body })
    }

    /// Waits until the server ends the connection; nothing may come before.
    pub fn await_end(&mut self) -> Result<()> {
        let mut rest = Vec::new();
        self.answers.read_to_end(&mut rest)?;
        ensure!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
        Ok(())
    }
}

/// How many connections of a namespace the kernel has encrypted for their programs until now.
pub fn encrypted_by_kernel(netns: &Netns) -> Result<u64> {
    netns.run(|| {
        let path = "/proc/thread-self/net/tls_stat";
        let text = fs::read_to_string(path).with_context(|| {
            format!(
                "{path}: this kernel has no TLS of its own; `cargo xtask vm` boots one that has"
            )
        })?;
        let count = text.lines().find_map(|line| line.strip_prefix("TlsTxSw"));
        Ok(count.context("TlsTxSw is missing")?.trim().parse()?)
    })
}

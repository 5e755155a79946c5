//! One connection byte by byte: what the server writes, call by call, and what its client gets.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::{
    event::{PollFd, PollFlags, poll},
    net::sockopt,
};

use crate::{
    net::Pair,
    wait::{LIMIT, eventually, throughout},
};

/// Both ends of a connection, and what has gone over it from the server to the client.
#[derive(Debug)]
pub struct Wire {
    client: TcpStream,
    server: TcpStream,
    written: Vec<u8>,
    arrived: Vec<u8>,
    reader: Option<JoinHandle<Result<Vec<u8>>>>,
}

/// What a client would find if it looked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Nothing.
    Silence,
    /// Bytes.
    Bytes,
    /// The server's FIN.
    End,
    /// A RST.
    Reset,
}

/// Everything that went from the server to the client, as it was at either end.
#[derive(Debug)]
pub struct Transcript {
    /// What the server wrote.
    pub written: Vec<u8>,
    /// What the client got.
    pub arrived: Vec<u8>,
}

impl Wire {
    /// Takes charge of a connection. Nothing is held back to be sent with more.
    pub fn new(pair: Pair) -> Result<Self> {
        let Pair { client, server } = pair;
        server.set_nodelay(true)?;
        client.set_nodelay(true)?;
        Ok(Self { client, server, written: Vec::new(), arrived: Vec::new(), reader: None })
    }

    /// The kernel's number of the server's socket.
    pub fn cookie(&self) -> Result<u64> {
        sockopt::socket_cookie(&self.server).context("cookie of a socket")
    }

    /// The client sends, and the server reads all of it.
    pub fn ask(&mut self, request: &[u8]) -> Result<()> {
        self.client.write_all(request).context("send a request")?;
        let mut read = vec![0; request.len()];
        self.server.read_exact(&mut read).context("read a request")?;
        ensure!(read == request, "the server has read something else than the client sent");
        Ok(())
    }

    /// The server writes all of it with one call.
    pub fn say(&mut self, bytes: &[u8]) -> Result<()> {
        let taken = self.server.write(bytes).context("write a response")?;
        ensure!(taken == bytes.len(), "{taken} bytes of {} were taken", bytes.len());
        self.written.extend(bytes);
        Ok(())
    }

    /// The server writes these bytes in another way.
    pub fn say_by(
        &mut self,
        bytes: &[u8],
        write: impl FnOnce(&mut TcpStream) -> Result<()>,
    ) -> Result<()> {
        write(&mut self.server)?;
        self.written.extend(bytes);
        Ok(())
    }

    /// The client reads so many bytes.
    pub fn hear(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.client.read_exact(&mut bytes).context("read a response")?;
        self.arrived.extend(&bytes);
        Ok(bytes)
    }

    /// What the client would find if it looked now.
    pub fn sign(&self) -> Result<Sign> {
        self.client.set_nonblocking(true)?;
        let looked = self.client.peek(&mut [0]);
        self.client.set_nonblocking(false)?;
        match looked {
            Ok(0) => Ok(Sign::End),
            Ok(_) => Ok(Sign::Bytes),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Sign::Silence),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(Sign::Reset),
            Err(error) => Err(error).context("look at what has come"),
        }
    }

    /// Waits for the server's FIN, behind which nothing comes, as all has been read.
    pub fn await_end(&self) -> Result<()> {
        eventually(LIMIT, "a FIN", || {
            let sign = self.sign()?;
            ensure!(matches!(sign, Sign::Silence | Sign::End), "{sign:?} instead of a FIN");
            Ok(sign == Sign::End)
        })
    }

    /// Checks that nothing comes for so long.
    pub fn stays(&self, time: Duration) -> Result<()> {
        throughout(time, "nothing comes", || Ok(self.sign()? == Sign::Silence))
    }

    /// Checks that nothing but the server's FIN is there for so long.
    pub fn stays_ended(&self, time: Duration) -> Result<()> {
        throughout(time, "nothing comes behind a FIN", || Ok(self.sign()? == Sign::End))
    }

    /// From now on the client reads whatever comes, `pace` being called before each read.
    pub fn listen(&mut self, mut pace: impl FnMut() + Send + 'static) -> Result<()> {
        let mut client = self.client.try_clone()?;
        self.reader = Some(thread::spawn(move || {
            let (mut all, mut part) = (Vec::new(), vec![0; 65_536]);
            loop {
                pace();
                match client.read(&mut part).context("read what the server wrote")? {
                    0 => return Ok(all),
                    count => all.extend(&part[..count]),
                }
            }
        }));
        Ok(())
    }

    /// The end that connected.
    pub fn client(&self) -> &TcpStream {
        &self.client
    }

    /// The end that was accepted.
    pub fn server(&self) -> &TcpStream {
        &self.server
    }

    /// The server closes, and the client reads to the end.
    pub fn close(mut self) -> Result<Transcript> {
        self.server.shutdown(Shutdown::Write).context("close the server's side")?;
        match self.reader.take() {
            Some(reader) => {
                let rest = reader.join().map_err(|_| anyhow!("the client panicked"))??;
                self.arrived.extend(rest);
            }
            None => {
                self.client.read_to_end(&mut self.arrived).context("read to the end")?;
            }
        }
        Ok(Transcript { written: self.written, arrived: self.arrived })
    }
}

/// Writes all without ever blocking in a write, as servers with an event loop do; returns how often there was no room.
pub fn write_when_possible(server: &TcpStream, mut bytes: &[u8]) -> Result<u32> {
    server.set_nonblocking(true)?;
    let mut full = 0;
    while !bytes.is_empty() {
        match (&mut &*server).write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                full += 1;
                poll(&mut [PollFd::from_borrowed_fd(server.as_fd(), PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error).context("write without blocking"),
        }
    }
    server.set_nonblocking(false)?;
    Ok(full)
}

/// Bytes without any regularity that could hide a fault, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Two pieces of a stream of bytes and where they begin to differ, to be read by people.
pub fn difference(expected: &[u8], arrived: &[u8]) -> String {
    let same = expected.iter().zip(arrived).take_while(|(a, b)| a == b).count();
    let around = |bytes: &[u8]| {
        let (start, end) = (same.saturating_sub(80), bytes.len().min(same + 80));
        bytes[start.min(end)..end].escape_ascii().to_string()
    };
    format!(
        "they differ from byte {same} on\nexpected {:7} bytes: …{}…\n arrived {:7} bytes: …{}…",
        expected.len(),
        around(expected),
        arrived.len(),
        around(arrived)
    )
}

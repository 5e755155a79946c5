//! Bytes from one socket to another without a copy: through a pipe (`splice(2)`), which is borrowed for as long
//! as bytes are in it. What the receiver does not take stays with the sender: that is the back-pressure.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Mutex, PoisonError},
};

use rustix::{
    net::{RecvFlags, recv},
    pipe::{PipeFlags, SpliceFlags, pipe_with, splice},
};
use tokio::{io::Interest, net::TcpStream};

/// What a pipe holds, unless an administrator has made them smaller.
const CHUNK: usize = 64 * 1024;
/// Empty pipes kept for the next who needs one.
const SPARES: usize = 64;

/// Pipes that nobody uses now.
#[derive(Default)]
pub(super) struct Pipes(Mutex<Vec<Pipe>>);

struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

impl Pipes {
    fn take(&self) -> io::Result<Pipe> {
        if let Some(pipe) = self.lock().pop() {
            return Ok(pipe);
        }
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Pipe { out, into })
    }

    /// Takes an empty pipe back.
    fn give_back(&self, pipe: Pipe) {
        let mut spares = self.lock();
        if spares.len() < SPARES {
            spares.push(pipe);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Pipe>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries bytes both ways until both sides have said that they are done. An end of one side alone is passed on
/// (a half-close), and the other direction goes on.
///
/// # Errors
/// One side was reset, or is unreachable: the other is to be reset too.
pub(super) async fn both_ways(a: &TcpStream, b: &TcpStream, pipes: &Pipes) -> io::Result<()> {
    tokio::select! {
        // What a side has said before it was reset is passed on first.
        biased;
        done = async { tokio::try_join!(pump(a, b, pipes), pump(b, a, pipes)) } => done.map(drop),
        // A direction that has ended, or is waiting, does not notice a reset by itself.
        broken = broken(a) => Err(broken),
        broken = broken(b) => Err(broken),
    }
}

/// Ready when the socket has an error, as after a RST.
async fn broken(socket: &TcpStream) -> io::Error {
    loop {
        match socket.ready(Interest::ERROR).await {
            Ok(ready) if ready.is_error() => match socket.take_error() {
                Ok(Some(error)) | Err(error) => return error,
                // Somebody else took it, who ends the connection.
                Ok(None) => std::future::pending().await,
            },
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => return error,
        }
    }
}

async fn pump(from: &TcpStream, to: &TcpStream, pipes: &Pipes) -> io::Result<()> {
    loop {
        from.readable().await?;
        let pipe = pipes.take()?;
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        // The pipe is empty, so what would block is the socket.
        let fill = || Ok(splice(from, None, &pipe.into, None, CHUNK, flags)?);
        match from.try_io(Interest::READABLE, fill) {
            Ok(0) => {
                pipes.give_back(pipe);
                if has_bytes(from) {
                    return Err(urgent());
                }
                return shutdown(to);
            }
            Ok(count) => {
                empty(&pipe, count, to).await?;
                pipes.give_back(pipe);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                // What has come since can be had, what lies behind urgent data cannot.
                if has_bytes(from) {
                    match fill() {
                        Ok(0) => return Err(urgent()),
                        Ok(count) => empty(&pipe, count, to).await?,
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(urgent()),
                        Err(e) => return Err(e),
                    }
                }
                pipes.give_back(pipe);
            }
            Err(e) => return Err(e),
        }
        // A fast stream must not keep the others waiting.
        tokio::task::yield_now().await;
    }
}

/// Whether there is something to be read.
fn has_bytes(from: &TcpStream) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    matches!(recv(from, &mut [0_u8][..], flags), Ok((1, _)))
}

/// `splice(2)` stops before urgent data (`tcp_read_sock`), and says the same as if there were nothing behind it. To go on
/// would be to say "end" where there is none.
fn urgent() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "urgent data (MSG_OOB) cannot be carried")
}

async fn empty(pipe: &Pipe, mut count: usize, to: &TcpStream) -> io::Result<()> {
    while count > 0 {
        to.writable().await?;
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let drain = || Ok(splice(&pipe.out, None, to, None, count, flags)?);
        match to.try_io(Interest::WRITABLE, drain) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => count -= written,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Says that no more bytes come.
pub(super) fn shutdown(to: &TcpStream) -> io::Result<()> {
    match rustix::net::shutdown(to, rustix::net::Shutdown::Write) {
        // It has closed its side, and ours with it.
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

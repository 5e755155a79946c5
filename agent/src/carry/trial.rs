//! The beginning of a carried connection: until it is certain that it has not come back to us, nothing that the
//! client has sent is let go of, so that another target can have it.

use std::{io, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until},
};

use super::{attempts::Attempt, splice::shutdown};

/// How much is held at most; then the client has to wait.
const MOST: usize = 64 * 1024;
/// A connection that comes back is accepted by us within less than a millisecond of its being established.
const CERTAIN: Duration = Duration::from_millis(200);
/// How long a reset may precede the news that it was us who reset.
const NEWS: Duration = Duration::from_millis(50);

/// What the client has sent so far.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// For the target to read first; not from the client.
    pub(super) header: Vec<u8>,
    bytes: Vec<u8>,
    ended: bool,
}

/// What came of a trial.
pub(super) enum Verdict {
    /// The target is another one than us; this much of what is held it has not been given yet.
    Certain { unsent: Vec<u8>, client_ended: bool },
    /// It was us.
    CameBack,
    /// The target reset the connection.
    Reset,
    /// The client did.
    Broken,
}

/// How far one target has got.
struct Progress<'a> {
    client: &'a TcpStream,
    target: &'a TcpStream,
    sent: usize,
    told_end: bool,
}

/// Gives the target what the client sends, until there is a verdict.
pub(super) async fn run(
    client: &TcpStream,
    target: &TcpStream,
    held: &mut Held,
    attempt: &Attempt,
) -> Verdict {
    let certain_at = Instant::now() + CERTAIN;
    let mut progress = Progress { client, target, sent: 0, told_end: false };
    let mut peeked = [0];
    loop {
        if let Err(_broken) = progress.tell_end(held) {
            return after_reset(attempt).await;
        }
        let all = held.all();
        let step = tokio::select! {
            biased;
            () = attempt.came_back() => return Verdict::CameBack,
            // Whoever answers, be it with an end, is not us: we would have reset it.
            answer = target.peek(&mut peeked) => match answer {
                Ok(_) => break,
                Err(_) => return after_reset(attempt).await,
            },
            () = sleep_until(certain_at) => break,
            ready = target.writable(), if progress.sent < all => {
                ready.and_then(|()| progress.send(held))
            }
            ready = client.readable(), if !held.ended && held.bytes.len() < MOST => {
                match ready.and_then(|()| progress.receive(held)) {
                    Ok(()) => Ok(()),
                    Err(_) => return Verdict::Broken,
                }
            }
        };
        if step.is_err() {
            return after_reset(attempt).await;
        }
    }
    let unsent = held.from(progress.sent).concat();
    Verdict::Certain { unsent, client_ended: held.ended && !progress.told_end }
}

/// The target reset the connection; it may have been us.
async fn after_reset(attempt: &Attempt) -> Verdict {
    match tokio::time::timeout(NEWS, attempt.came_back()).await {
        Ok(()) => Verdict::CameBack,
        Err(_) => Verdict::Reset,
    }
}

impl Progress<'_> {
    fn receive(&self, held: &mut Held) -> io::Result<()> {
        let mut buffer = [0; 8 * 1024];
        let room = buffer.len().min(MOST - held.bytes.len());
        match self.client.try_read(&mut buffer[..room]) {
            Ok(0) => held.ended = true,
            Ok(count) => held.bytes.extend_from_slice(&buffer[..count]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn send(&mut self, held: &Held) -> io::Result<()> {
        let [header, bytes] = held.from(self.sent);
        let next = if header.is_empty() { bytes } else { header };
        match self.target.try_write(next) {
            Ok(count) => self.sent += count,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Passes the client's end on, once the target has everything before it.
    fn tell_end(&mut self, held: &Held) -> io::Result<()> {
        if held.ended && !self.told_end && self.sent == held.all() {
            shutdown(self.target)?;
            self.told_end = true;
        }
        Ok(())
    }
}

impl Held {
    /// Whether the client has sent nothing, nor its end.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.ended
    }

    fn all(&self) -> usize {
        self.header.len() + self.bytes.len()
    }

    /// Everything but the first `sent` bytes.
    fn from(&self, sent: usize) -> [&[u8]; 2] {
        let header = self.header.get(sent..).unwrap_or_default();
        let bytes = &self.bytes[sent.saturating_sub(self.header.len())..];
        [header, bytes]
    }
}

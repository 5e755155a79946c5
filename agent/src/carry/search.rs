//! Finding a target that answers: all of them have to share one limit of time, and one that is silent does not keep
//! the next one waiting (RFC 8305, section 5, does the same with the addresses of one host).

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{attempts::Attempt, line::Line, session::prepare, targets::Choice};
use crate::kernel::{KernelError, Outgoing};

/// How long a straggler waits for a target, all attempts together.
pub(super) const WITHIN: Duration = Duration::from_secs(2);
/// How long the newest attempt may be silent before the next target is tried beside it.
const STAGGER: Duration = Duration::from_millis(250);

/// The search for one straggler.
pub(super) struct Search {
    line: Arc<Line>,
    choice: Choice,
    trying: JoinSet<Tried>,
    until: Instant,
}

/// A target that has answered.
pub(super) struct Found {
    pub(super) addr: SocketAddr,
    pub(super) socket: TcpStream,
    pub(super) attempt: Attempt,
}

/// What came of one attempt.
type Tried = (SocketAddr, Attempt, Result<TcpStream, KernelError>);

impl Search {
    pub(super) fn begin(line: &Arc<Line>) -> Self {
        let now = Instant::now();
        let choice = line.targets().choose(now);
        Self { line: Arc::clone(line), choice, trying: JoinSet::new(), until: now + WITHIN }
    }

    /// The next one that answers; none: there is nobody, or time is over. Attempts that are under way by then go on.
    pub(super) async fn next(&mut self) -> Option<Found> {
        loop {
            let newest = self.choice.next();
            if let Some(addr) = newest {
                self.trying.spawn(attempt(Arc::clone(&self.line), addr));
            } else if self.trying.is_empty() {
                return None;
            }
            let patience = newest.map_or(self.until, |_| self.until.min(Instant::now() + STAGGER));
            tokio::select! {
                Some(tried) = self.trying.join_next() => {
                    if let Some(found) = self.judge(tried.ok()?).await {
                        return Some(found);
                    }
                }
                () = sleep_until(patience) => {
                    // The next straggler asks others first; if it does answer yet, that is forgotten.
                    newest.into_iter().for_each(|addr| self.failed(addr));
                    if patience == self.until {
                        return None;
                    }
                }
            }
        }
    }

    async fn judge(&mut self, (addr, attempt, tried): Tried) -> Option<Found> {
        match tried {
            Ok(socket) => {
                self.line.targets().answered(addr);
                return Some(Found { addr, socket, attempt });
            }
            // We may have reset it before we noticed that it was established.
            Err(_) if attempt.has_come_back().await => self.choice.again(addr),
            Err(error) => {
                tracing::debug!(service = %self.line.service, %error, "a target did not answer");
                self.failed(addr);
            }
        }
        None
    }

    /// This target led back to us; it may lead elsewhere when it is asked again.
    pub(super) fn again(&mut self, addr: SocketAddr) {
        self.choice.again(addr);
    }

    /// This target is no good just now.
    pub(super) fn failed(&self, addr: SocketAddr) {
        self.line.targets().failed(addr, Instant::now());
    }
}

async fn attempt(line: Arc<Line>, addr: SocketAddr) -> Tried {
    let attempt = line.shared.attempts.begin();
    let connected = connect(&line, addr, attempt.token).await;
    (addr, attempt, connected)
}

/// A connection from inside the service's namespace.
async fn connect(line: &Line, addr: SocketAddr, token: u64) -> Result<TcpStream, KernelError> {
    let fail = |e: io::Error| KernelError::op("connect to", addr, e);
    let (kernel, netns, uid) = (Arc::clone(&line.shared.kernel), line.service.netns, line.uid);
    // It is never closed. The thread goes on although nobody waits for it any more, and its turn with it.
    let turn = Arc::clone(&line.shared.opening).acquire_owned().await;
    let begun = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        kernel.open_connection(netns, addr, token, uid)
    })
    .await;
    // The mark stays until the attempt has ended: a repeated SYN has it too.
    let Outgoing { socket, mark: _mark } = begun.map_err(|e| fail(e.into()))??;
    let socket = TcpStream::from_std(socket.into()).map_err(fail)?;
    socket.writable().await.map_err(fail)?;
    if let Some(error) = socket.take_error().map_err(fail)? {
        return Err(fail(error));
    }
    prepare(&socket);
    Ok(socket)
}

//! One straggler: finds a target that answers, and carries it there and back.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustix::net::sockopt;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{
    line::Line,
    proxy,
    splice::{both_ways, shutdown},
    trial::{self, Held, Verdict},
};
use crate::kernel::{self, KernelError, Outgoing};

/// How long a target may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// After how long without a byte a connection is asked whether it is still there.
const ALIVE_AFTER: Duration = Duration::from_secs(60);

/// Why a straggler is not carried any more, other than because both sides were done.
enum End {
    /// No target answered.
    NoTarget,
    /// It was carried, and one side broke.
    Broken,
}

/// Carries the connection to its end.
pub(super) async fn run(line: &Line, client: TcpStream) {
    let mut cut = line.cut.subscribe();
    let ended = tokio::select! {
        ended = carry(line, &client) => ended,
        _ = cut.wait_for(|cut| *cut) => Err(End::Broken),
    };
    match ended {
        Ok(()) => kernel::reset_at_close(&client, false),
        Err(End::NoTarget) => line.shared.count(|counts| counts.refused += 1),
        Err(End::Broken) => {}
    }
}

async fn carry(line: &Line, client: &TcpStream) -> Result<(), End> {
    prepare(client);
    let mut held = Held::default();
    if line.proxy_protocol {
        let addresses = client.peer_addr().and_then(|peer| Ok((peer, client.local_addr()?)));
        let (peer, local) = addresses.map_err(|_| End::Broken)?;
        held.header = proxy::header(peer, local);
    }
    let mut choice = line.targets().choose(Instant::now());
    while let Some(addr) = choice.next() {
        let attempt = line.shared.attempts.begin();
        let target = match connect(line, addr, attempt.token).await {
            Ok(target) => target,
            // We may have reset it before we noticed that it was established.
            Err(_) if attempt.has_come_back().await => {
                choice.again(addr);
                continue;
            }
            Err(error) => {
                tracing::debug!(service = %line.service, %error, "a target did not answer");
                line.targets().failed(addr, Instant::now());
                continue;
            }
        };
        line.targets().answered(addr);
        match trial::run(client, &target, &mut held, &attempt).await {
            Verdict::Certain { unsent, client_ended } => {
                drop((attempt, held));
                return through(line, client, target, unsent, client_ended).await;
            }
            Verdict::CameBack => choice.again(addr),
            Verdict::Broken => return Err(End::Broken),
        }
    }
    Err(End::NoTarget)
}

/// From here on there is no other target.
async fn through(
    line: &Line,
    client: &TcpStream,
    mut target: TcpStream,
    unsent: Vec<u8>,
    client_ended: bool,
) -> Result<(), End> {
    let done = async {
        target.write_all(&unsent).await?;
        drop(unsent);
        if client_ended {
            shutdown(&target)?;
        }
        both_ways(client, &target, &line.shared.pipes).await
    };
    done.await.map_err(|_| End::Broken)?;
    kernel::reset_at_close(&target, false);
    Ok(())
}

/// A connection from inside the service's namespace.
async fn connect(line: &Line, addr: SocketAddr, token: u64) -> Result<TcpStream, KernelError> {
    let fail = |e: io::Error| KernelError::op("connect to", addr, e);
    let (kernel, netns) = (Arc::clone(&line.shared.kernel), line.service.netns);
    let begun = tokio::task::spawn_blocking(move || kernel.open_connection(netns, addr, token));
    // The mark stays until the attempt has ended: a repeated SYN has it too.
    let Outgoing { socket, mark: _mark } = begun.await.map_err(|e| fail(e.into()))??;
    let socket = TcpStream::from_std(socket.into()).map_err(fail)?;
    let established = timeout(CONNECT_WITHIN, socket.writable()).await;
    established.map_err(|e| fail(e.into()))?.map_err(fail)?;
    if let Some(error) = socket.take_error().map_err(fail)? {
        return Err(fail(error));
    }
    prepare(&socket);
    Ok(socket)
}

/// Bytes are passed on as they come, and a side that has vanished is noticed some day. Until both sides are done
/// whatever closes the socket resets it, be it our own end: nobody must take half an answer for a whole one.
fn prepare(socket: &TcpStream) {
    kernel::reset_at_close(socket, true);
    // None of these fails for a socket of TCP, and none is worth a connection.
    let _ = socket.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, ALIVE_AFTER);
}

//! One straggler: finds a target that answers, and carries it there and back.

use std::{io, sync::Arc, time::Duration};

use rustix::net::sockopt;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::{
    line::Line,
    proxy,
    search::{Found, Search},
    splice::{both_ways, shutdown},
    trial::{self, Held, Verdict},
};
use crate::kernel;

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
pub(super) async fn run(line: &Arc<Line>, client: TcpStream) {
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

async fn carry(line: &Arc<Line>, client: &TcpStream) -> Result<(), End> {
    prepare(client);
    let mut held = Held::default();
    if line.proxy_protocol {
        let addresses = client.peer_addr().and_then(|peer| Ok((peer, client.local_addr()?)));
        let (peer, local) = addresses.map_err(|_| End::Broken)?;
        held.header = proxy::header(peer, local);
    }
    let mut search = Search::begin(line);
    while let Some(Found { addr, socket, attempt }) = search.next().await {
        match trial::run(client, &socket, &mut held, &attempt).await {
            Verdict::Certain { unsent, client_ended } => {
                drop((attempt, held, search));
                return through(line, client, socket, unsent, client_ended).await;
            }
            Verdict::CameBack => search.again(addr),
            // It cannot have executed anything.
            Verdict::Reset if held.is_empty() => search.failed(addr),
            Verdict::Reset | Verdict::Broken => return Err(End::Broken),
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
    done.await.map_err(|error: io::Error| {
        if let Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) = error.raw_os_error() {
            tracing::warn!(service = %line.service, %error, "a carried connection is reset: no room for its bytes");
        }
        End::Broken
    })?;
    kernel::reset_at_close(&target, false);
    Ok(())
}

/// Bytes are passed on as they come, and a side that has vanished is noticed some day. Until both sides are done
/// whatever closes the socket resets it, be it our own end: nobody must take half an answer for a whole one.
pub(super) fn prepare(socket: &TcpStream) {
    kernel::reset_at_close(socket, true);
    // None of these fails for a socket of TCP, and none is worth a connection.
    let _ = socket.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, ALIVE_AFTER);
}

//! Who comes to our listener, and who of them is carried.

use std::{io, sync::Arc, time::Duration};

use drainctl_common::hop;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout_at},
};

use super::{line::Line, session};
use crate::kernel;

/// How long after an error (no descriptors, no memory) to try again.
const PAUSE: Duration = Duration::from_millis(100);
/// How long after the gate has opened a handshake that was steered to us may still finish: the kernel repeats the
/// SYN-ACK after 1 s and 2 s more.
const LATECOMERS: Duration = Duration::from_secs(4);

/// What is to be done with a connection.
enum Admission {
    Carry,
    /// It has been carried before, with this token.
    Loop(u64),
    /// Not steered, or nobody can tell whether it has been carried before.
    Stranger,
}

/// Accepts until the line is closed, and those who were on their way by then.
pub(super) async fn run(line: Arc<Line>, listener: TcpListener) {
    let mut closed = line.closed.subscribe();
    let mut cut = line.cut.subscribe();
    let accepting = async {
        tokio::select! {
            () = accept(&line, &listener) => {}
            _ = closed.wait_for(|closed| *closed) => {}
        }
        let _ = timeout_at(Instant::now() + LATECOMERS, accept(&line, &listener)).await;
    };
    tokio::select! {
        () = accepting => {}
        _ = cut.wait_for(|cut| *cut) => {}
    }
}

async fn accept(line: &Arc<Line>, listener: &TcpListener) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => admit(line, client),
            Err(error) => {
                tracing::warn!(service = %line.service, %error, "cannot accept a connection to carry");
                sleep(PAUSE).await;
            }
        }
    }
}

fn admit(line: &Arc<Line>, client: TcpStream) {
    let shared = &line.shared;
    match admission(line, &client).unwrap_or(Admission::Stranger) {
        Admission::Loop(token) => {
            shared.count(|counts| counts.loops += 1);
            shared.attempts.arrived(token);
        }
        Admission::Stranger => shared.count(|counts| counts.strangers += 1),
        Admission::Carry => match shared.seats.take(line.service) {
            Some(seat) => {
                let line = Arc::clone(line);
                tokio::spawn(async move {
                    session::run(&line, client).await;
                    drop(seat);
                });
                return;
            }
            None => shared.count(|counts| counts.over_limit += 1),
        },
    }
    kernel::reset_at_close(&client, true);
}

fn admission(line: &Line, client: &TcpStream) -> io::Result<Admission> {
    // What was steered here still has the service's port; whoever found our own port does not.
    if client.local_addr()?.port() != line.service.port {
        return Ok(Admission::Stranger);
    }
    Ok(match hop::token(&kernel::saved_syn(client)) {
        Ok(None) => Admission::Carry,
        Ok(Some(token)) => Admission::Loop(token),
        // In doubt not: it could go round for ever.
        Err(hop::NotASyn) => Admission::Stranger,
    })
}

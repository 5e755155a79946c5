//! `drainctl run`: runs a server, drains its ports before it is stopped, and replaces it without a client noticing.

mod replacing;

use std::{io::stderr, sync::atomic::AtomicBool};

use rustix::process::{Pid, Signal};

use super::{
    agent::AgentAddress,
    args::{DrainArgs, RunArgs},
    child::{Children, Happened, comes_from_the_terminal, name},
    client::Client,
    drain,
    exit::{Exit, Failure},
    new::New,
    text::Streams,
};

/// A server that runs, and those who wait for its end.
struct Server<'a> {
    args: &'a RunArgs,
    client: &'a Client,
    json: bool,
    children: Children,
    /// The process that is drained before it is stopped.
    pid: Pid,
}

/// Runs the verb. Everything that drainctl has to say goes to stderr: stdout is the server's.
///
/// # Errors
/// The server was not started.
pub(super) async fn run(
    args: &RunArgs,
    client: &Client,
    streams: &mut Streams<'_>,
    json: bool,
) -> Result<Exit, Failure> {
    check(args, client)?;
    // Not only when it is too late.
    drain::checked(&args.drain).await?;
    let mut children = Children::new()?;
    let pid = children.spawn(&args.command)?;
    let mut server = Server { args, client, json, children, pid };
    Ok(Exit::Command(server.attend(streams).await))
}

/// Refuses what makes no sense for a server that drainctl runs itself.
fn check(args: &RunArgs, client: &Client) -> Result<(), Failure> {
    let DrainArgs { target, no_wait, new, .. } = &args.drain;
    let usage = |what: &str| Err(Failure::new(Exit::Usage, format!("{what}; nothing was started")));
    let names_a_target = target.pid.is_some()
        || target.netns.is_some()
        || target.pod.is_some()
        || target.container.is_some()
        || target.host;
    if names_a_target {
        return usage("run drains the network namespace it runs in, and takes no target");
    }
    if *no_wait {
        return usage("run stops the server when it is drained, and takes no --no-wait");
    }
    if new.iter().any(|new| matches!(new, New::Handoff(_))) {
        return usage("run hands over at SIGHUP, and by itself: leave out --new handoff");
    }
    if matches!(client.address(), AgentAddress::Url(_)) {
        return usage("run needs the agent of this node: --agent is the path of its socket");
    }
    Ok(())
}

impl Server<'_> {
    /// Until the server has ended; its exit code.
    async fn attend(&mut self, streams: &mut Streams<'_>) -> u8 {
        loop {
            match self.children.next().await {
                Happened::Ended(ended, code) if ended == self.pid => return code,
                Happened::Ended(..) => {}
                Happened::Told(signal @ (Signal::TERM | Signal::INT)) => {
                    return self.stop(signal, streams).await;
                }
                Happened::Told(Signal::HUP) => {
                    if let Some(code) = self.replace(streams).await {
                        return code;
                    }
                }
                Happened::Told(signal) => self.pass_on(signal),
            }
        }
    }

    /// Drains, and then has the server stop; its exit code.
    async fn stop(&mut self, signal: Signal, streams: &mut Streams<'_>) -> u8 {
        streams.note(&format!("drainctl: {}: draining before the server is stopped", name(signal)));
        let (client, json, accepted) = (self.client.clone(), self.json, AtomicBool::new(false));
        let drain = drain_on_stderr(&self.args.drain, &client, json, &accepted);
        tokio::pin!(drain);
        let signal = loop {
            tokio::select! {
                result = &mut drain => {
                    if let Err(failure) = result {
                        streams.note(&format!("drainctl: not drained: {failure}; the server is stopped all the same"));
                    }
                    break signal;
                }
                happened = self.children.next() => match happened {
                    Happened::Ended(ended, code) if ended == self.pid => return code,
                    Happened::Ended(..) | Happened::Told(Signal::HUP) => {}
                    Happened::Told(second @ (Signal::TERM | Signal::INT | Signal::QUIT)) => {
                        streams.note(&format!("drainctl: {}: the server is stopped at once", name(second)));
                        break second;
                    }
                    Happened::Told(other) => self.pass_on(other),
                },
            }
        };
        self.children.tell(self.pid, signal);
        self.end_of(self.pid).await
    }

    /// Waits until this process has ended, and passes all signals on to it; its exit code.
    async fn end_of(&mut self, pid: Pid) -> u8 {
        loop {
            match self.children.next().await {
                Happened::Ended(ended, code) if ended == pid => return code,
                Happened::Ended(..) => {}
                Happened::Told(signal) => self.children.tell(pid, signal),
            }
        }
    }

    fn pass_on(&self, signal: Signal) {
        if !comes_from_the_terminal(signal) {
            self.children.tell(self.pid, signal);
        }
    }
}

/// Drains, with all words on stderr.
async fn drain_on_stderr(
    args: &DrainArgs,
    client: &Client,
    json: bool,
    accepted: &AtomicBool,
) -> Result<Exit, Failure> {
    let (mut out, mut err) = (stderr(), stderr());
    let mut streams = Streams { out: &mut out, err: &mut err, live: false };
    drain::attended(args, client, &mut streams, json, accepted).await
}

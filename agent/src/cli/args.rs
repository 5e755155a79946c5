//! The command line as clap parses it. What is written here is what people read at 3 a.m.: every option says
//! its unit and its default.

mod asking;
mod work;

pub(super) use self::{
    asking::{CompletionsArgs, DoctorArgs, ManArgs, StatusArgs, Until, WaitArgs},
    work::{HoldArgs, RunArgs},
};

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{
    access::Access,
    agent::AgentAddress,
    exit,
    new::New,
    rollout::RolloutArgs,
    value::{self, IfUnreachable, Timeout},
};
use crate::{
    drain::{Cidr, RetireSet},
    pods::PodName,
};

/// Takes an unmodified TCP server out of service so that no client sees an error, and says when it is safe
/// to stop it.
#[derive(Debug, Parser)]
#[command(name = "drainctl", version, after_help = exit::TABLE, max_term_width = 100)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// Where the agent listens: the path of its Unix socket, or its TCP endpoint as https://HOST:PORT (or http://)
    #[arg(
        long,
        global = true,
        value_name = "PATH|URL",
        default_value_t,
        help_heading = "Everywhere"
    )]
    pub(super) agent: AgentAddress,
    #[command(flatten)]
    pub(super) access: Access,
    /// Print one JSON object on stdout instead of text; errors are one JSON object on stderr
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub(super) json: bool,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Take ports out of service, and wait until they are proven empty
    ///
    /// First the service goes on accepting ("settling") until no new connection has come for --quiet, so that
    /// a load balancer that learns of it late loses nothing. Then the kernel refuses new connections
    /// (connect() fails at once with ECONNREFUSED) while established ones go on being served. From the first
    /// moment on these are made to leave (--retire): HTTP/1 by `Connection: close`, HTTP/2 by GOAWAY, idle ones
    /// by a FIN. drainctl returns 0 when no connection, handshake or lingering request is left, proven by an
    /// independent look; or 3 at the deadline, with a list of what remains. The ports stay closed either way,
    /// until `drainctl undrain`, until a new instance listens, or until the lease is over.
    ///
    ///   preStop:  drainctl drain --port 8080 --close-anyway
    #[command(after_help = exit::TABLE, verbatim_doc_comment)]
    Drain(Box<DrainArgs>),
    /// Keep a port from being drained while a command runs
    ///
    /// For work that is no connection: a consumer of a queue, a job, a pool of threads. While something holds it, a
    /// service may be draining, but it is never drained. drainctl renews the hold while the command runs, passes signals
    /// on to it, and ends with its exit code. Without a command the hold is set, and ends at --release, or after --ttl.
    ///
    ///   drainctl hold --port 8080 --name batch-42 -- ./import --all
    #[command(after_help = exit::TABLE, verbatim_doc_comment)]
    Hold(HoldArgs),
    /// Run a server, and drain its ports before it is stopped
    ///
    /// On SIGTERM and SIGINT the ports are drained first, with the options of drain; then the server gets the signal, and
    /// drainctl ends with its exit code. SIGHUP starts the new version beside the old one, hands the ports over once it
    /// listens on them, and stops the old one when it has no connection left.
    ///
    ///   ENTRYPOINT ["drainctl", "run", "--port", "8080", "--"]
    #[command(after_help = exit::TABLE, verbatim_doc_comment)]
    Run(Box<RunArgs>),
    /// End the drain of ports and let their traffic in again, at once
    ///
    /// Works without a listener too. If a port is not draining nothing is done, a note says so, and the exit
    /// code is 0.
    #[command(after_help = exit::TABLE)]
    Undrain(PortArgs),
    /// Show the TCP services of a network namespace: state, connections, drain
    #[command(after_help = exit::TABLE)]
    Status(StatusArgs),
    /// Watch services and drains on a terminal: states, rates, and the connections that still block zero
    ///
    /// Arrows choose a service, enter shows all of its drain, / filters, q quits. It changes nothing, and keeps no
    /// drain alive. In a browser the agent's page at / shows the same.
    #[command(after_help = exit::TABLE)]
    Watch(StatusArgs),
    /// List the connections of a service: peer, age, bytes, what each is doing, and what made it leave
    ///
    /// "quiet" means that nothing is unsent, unacknowledged or unread and no bytes moved for a second. It may
    /// well be a request in flight: a server that thinks, or a stream that pauses. "idle" is proven: the last
    /// HTTP/1 response was seen to end. It is known only while the service is draining, and so is RETIRE: how a
    /// connection was told to leave, or why it cannot be told.
    #[command(after_help = exit::TABLE)]
    Flows(PortArgs),
    /// Ask once: is it safe to stop the server? 0 only if drained, and proven again now
    ///
    /// 3 if it is not drained (yet), 6 if there is no such service, 7 if the count cannot be verified.
    ///
    ///   drainctl ready --port 8080 && systemctl restart app
    #[command(after_help = exit::TABLE, verbatim_doc_comment)]
    Ready(PortArgs),
    /// Wait until ports are drained, or serving again, without starting or ending a drain
    #[command(after_help = exit::TABLE)]
    Wait(WaitArgs),
    /// Release the instances of an inventory, a few at a time, without a client noticing
    ///
    /// Each is drained, kept closed and proven empty, then --release is run for it, and when it answers its agent its
    /// traffic is let in again. Canaries first, then batches; it stops at the first failure, and can go on
    /// (--resume) or be taken back (--undo), also if drainctl was killed.
    ///
    ///   drainctl rollout web.yaml --release 'ssh $HOST systemctl restart web' --health /healthz
    ///                             --canary 1 --canary-wait 10m --batch 30%
    #[command(after_help = exit::TABLE, verbatim_doc_comment)]
    Rollout(Box<RolloutArgs>),
    /// Check what this machine offers to the agent, and say what each missing thing costs
    ///
    /// Run it where the agent runs, as the user the agent runs as: it reports its own capabilities and what it
    /// can see itself. The agent need not be running. 0 if everything required is there, 1 if not.
    #[command(after_help = exit::TABLE)]
    Doctor(DoctorArgs),
    /// Print what makes a shell complete the words of a drainctl command line
    ///
    ///   drainctl completions bash > /etc/bash_completion.d/drainctl
    #[command(after_help = exit::TABLE, verbatim_doc_comment)]
    Completions(CompletionsArgs),
    /// Write the manual pages, drainctl(1) and one for each verb, into a folder
    ///
    ///   drainctl man /usr/local/share/man/man1
    #[command(after_help = exit::TABLE, verbatim_doc_comment)]
    Man(ManArgs),
}

impl Verb {
    /// What it is about; `None` if it asks no agent.
    pub(super) fn target(&self) -> Option<&TargetArgs> {
        match self {
            Self::Drain(args) => Some(&args.target),
            Self::Undrain(args) | Self::Flows(args) | Self::Ready(args) => Some(&args.target),
            Self::Status(args) | Self::Watch(args) => Some(&args.target),
            Self::Wait(args) => Some(&args.target),
            Self::Doctor(args) => Some(&args.target),
            Self::Hold(args) => Some(&args.target),
            Self::Run(args) => Some(&args.drain.target),
            Self::Rollout(_) | Self::Completions(_) | Self::Man(_) => None,
        }
    }
}

/// Which network namespace; one at most.
#[derive(Clone, Debug, Default, Args)]
#[group(id = "target", multiple = false)]
#[command(next_help_heading = "Network namespace (default: the one drainctl runs in)")]
pub(super) struct TargetArgs {
    /// That of this process, by its id in drainctl's own pid namespace
    #[arg(long, value_name = "PID", value_parser = value::pid)]
    pub(super) pid: Option<u32>,
    /// The one this file stands for, for example /run/netns/blue
    #[arg(long, value_name = "PATH")]
    pub(super) netns: Option<PathBuf>,
    /// That of this pod on the node where the agent runs; for node admins (root of the host)
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub(super) pod: Option<PodName>,
    /// That of this container on the node where the agent runs, by its id or the first 12 digits of it; for node admins
    #[arg(long, value_name = "ID")]
    pub(super) container: Option<String>,
    /// That of the host (the node), where servers without a namespace of their own live
    #[arg(long)]
    pub(super) host: bool,
}

/// Which ports.
#[derive(Clone, Debug, Args)]
pub(super) struct Ports {
    /// TCP ports, 1 to 65535; several as 80,443 or by repeating the option
    #[arg(
        long = "port",
        value_name = "PORT",
        required = true,
        value_delimiter = ',',
        value_parser = value::port
    )]
    pub(super) ports: Vec<u16>,
}

impl Ports {
    /// Each port once, in the order given.
    pub(super) fn distinct(&self) -> Vec<u16> {
        value::distinct(&self.ports)
    }
}

/// Arguments of the verbs that need ports and a namespace only.
#[derive(Debug, Args)]
pub(super) struct PortArgs {
    #[command(flatten)]
    pub(super) ports: Ports,
    #[command(flatten)]
    pub(super) target: TargetArgs,
}

/// Arguments of `drain`.
#[derive(Clone, Debug, Args)]
pub(super) struct DrainArgs {
    /// TCP ports, 1 to 65535; several (80,443, or the option repeated) are one drain with one deadline
    #[arg(
        long = "port",
        value_name = "PORT",
        required = true,
        value_delimiter = ',',
        value_parser = value::port
    )]
    pub(super) ports: Vec<u16>,
    /// Refuse new connections once none has come for this long; 0s refuses them at once [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(super) quiet: Option<Duration>,
    /// Go on accepting for at least this long, from the start of the drain [default: 3s]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(super) min_settle: Option<Duration>,
    /// Refuse new connections after this long even if they still come, from the start of the drain; less
    /// than --timeout [default: 60 % of --timeout, but not less than --min-settle]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(super) max_settle: Option<Duration>,
    /// Give up waiting for zero after this long and exit 3; the ports stay closed. `auto` is, in a pod, what is
    /// left of its grace period, less 5s or 15 % of it for the server's own stop, whichever is more; elsewhere
    /// 25s [default: auto]
    #[arg(long, value_name = "DURATION|auto")]
    pub(super) timeout: Option<Timeout>,
    /// What happens to new connections after settling [default: reject]
    ///
    ///   reject               the kernel answers with a reset: connect() fails at once, clients go elsewhere
    ///   drop                 nothing answers; the kernel of the client tries again, until it gives up
    ///   forward=ADDR[:PORT]  the agent carries each to a peer and back, so that clients notice nothing. ADDR is an
    ///                        address or a name, resolved once, here; PORT is the service's own if left out. May be
    ///                        given several times: peers take turns
    ///   handoff=pid:N        the kernel gives them to the new server on this machine: every listening socket of
    ///                        process N (by its id in drainctl's own pid namespace) and its descendants, on the same
    ///                        port (SO_REUSEPORT) or on its only other one; settles only if told to (--quiet)
    ///   handoff=port:N       the same, to whoever listens on port N of the same network namespace
    #[arg(
        long,
        value_name = "WHAT",
        default_value = "reject",
        hide_default_value = true,
        verbatim_doc_comment
    )]
    pub(super) new: Vec<New>,
    /// With --new forward: tell the peer who the client is (PROXY protocol, version 2; it must expect that)
    #[arg(long)]
    pub(super) proxy_protocol: bool,
    /// Let traffic in again by itself when nobody has renewed the drain for this long (a waiting drainctl
    /// renews it); at least --timeout plus 60s [default: 10m, or --timeout plus 60s if that is longer]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(super) lease: Option<Duration>,
    /// Keep refusing when a new instance listens on the port (by default that ends the drain)
    #[arg(long)]
    pub(super) keep_closed: bool,
    /// In a pod that is not being deleted: refuse new connections after --max-settle also if it is the only ready
    /// one of a Service, or if they still come (by default it goes on accepting, and gives up at --timeout)
    #[arg(long)]
    pub(super) close_anyway: bool,
    /// Wait also until no connection of the network namespace leads to this address, a broker's or a database's, as
    /// 10.0.0.9:5672; several as A,B or by repeating the option
    #[arg(long, value_name = "ADDR:PORT", value_delimiter = ',', value_parser = value::address)]
    pub(super) wait_outbound: Vec<SocketAddr>,
    /// Return 0 as soon as the drain is under way; nothing is proven then (see ready and wait)
    #[arg(long)]
    pub(super) no_wait: bool,
    /// What to do if the agent cannot be reached: try for a while, or exit 4 at once
    #[arg(long, value_name = "wait=DURATION|fail", default_value = "wait=5s")]
    pub(super) if_unreachable: IfUnreachable,
    #[command(flatten)]
    pub(super) admission: AdmissionArgs,
    #[command(flatten)]
    pub(super) retire: RetireArgs,
    #[command(flatten)]
    pub(super) target: TargetArgs,
}

/// Which clients are treated differently from the others.
#[derive(Clone, Debug, Args)]
#[command(
    next_help_heading = "Clients by their address (as 10.0.0.0/8 or ::1; several as A,B or by repeating)"
)]
pub(super) struct AdmissionArgs {
    /// Neither refuse these clients nor wait for their connections, for example scrapes. Not the node's own
    /// address: traffic through a NodePort carries it too
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(super) ignore: Vec<Cidr>,
    /// Do not refuse these clients, but wait for their connections
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(super) allow: Vec<Cidr>,
    /// Refuse these clients from the first moment on, while everybody else is still served, so that a load
    /// balancer's health check fails before any user is refused. Of several prefixes the longest decides
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(super) fail_health_from: Vec<Cidr>,
    /// Do not refuse clients that had a connection to the port in this time, at least 2s, for servers with
    /// sessions; strangers are refused. An address is a client: behind NAT many share one
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(super) keep_clients: Option<Duration>,
}

/// What happens to the connections that are there.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connections that are there already")]
pub(super) struct RetireArgs {
    /// Make connections leave: none, or a list of http (or http1), idle and quiet [default: http,idle]
    ///
    ///   http   HTTP/1 responses say `Connection: close`, HTTP/2 connections get a GOAWAY
    ///   http1  the same, but HTTP/2 is left alone
    ///   idle   HTTP/1 connections proven to be idle get a FIN after --idle-after, as at a keep-alive timeout
    ///   quiet  so does any other on which nothing has moved for --quiet-flow-after (TLS, HTTP/2, WebSocket,
    ///          unknown protocols); it may cut a request in flight
    ///   none   connections leave when they want to
    #[arg(long, value_name = "LIST", verbatim_doc_comment)]
    pub(super) retire: Option<RetireSet>,
    /// How long a connection must have been idle before it gets a FIN; with --retire idle [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(super) idle_after: Option<Duration>,
    /// How long nothing must have moved on a connection that is not proven to be idle before it gets a FIN;
    /// needed with --retire quiet, and only there. Choose it longer than the longest pause of any request
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(super) quiet_flow_after: Option<Duration>,
    /// How long a connection that the server closed on its side, and still holds, counts; a request may still
    /// be executing on it [default: 2s]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(super) linger: Option<Duration>,
    /// Over how long connections are told, one after the other, so that clients do not all come back at
    /// once; from the start of the drain, less than --timeout, 0s: all at once [default: --min-settle; 0s with
    /// --quiet 0s]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(super) spread: Option<Duration>,
    /// What happens at --timeout to the connections that remain [default: leave]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(super) at_deadline: Option<AtDeadline>,
}

/// What happens at the deadline to the connections that remain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum AtDeadline {
    /// Nothing: they go on, and drainctl exits 3
    Leave,
    /// They are reset, and their clients see an error. 0 if the port is then proven empty, else 3
    Abort,
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;

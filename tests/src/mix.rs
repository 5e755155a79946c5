//! Every kind of client at once, and pods that serve them all: nginx and a gRPC server in each.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;

use crate::{
    cluster::{PORT, Pod, RPC_PORT, RPC_SERVICE, SERVICE},
    grpc::{GrpcLoad, GrpcServer},
    load::{Load, Manner, Plan, Sample, Tally},
    netns::Netns,
    nginx::{BODY, Nginx, large},
    rolling::Server,
};

/// What a slow reader reads in a second: one download takes a little over three.
const SLOWLY: u32 = 2_500_000;

/// What runs in one pod.
#[derive(Debug)]
pub struct App {
    nginx: Nginx,
    grpc: GrpcServer,
}

impl App {
    /// Starts both servers.
    pub fn start(pod: &Pod) -> Result<Self> {
        Ok(Self { nginx: Nginx::start(pod)?, grpc: GrpcServer::start(pod)? })
    }
}

impl Server for App {
    const PORTS: &'static [u16] = &[PORT, RPC_PORT];

    fn stop(&mut self) -> Result<()> {
        self.nginx.stop()?;
        self.grpc.stop()
    }

    fn start_again(&mut self) -> Result<()> {
        self.nginx.start_again()?;
        self.grpc.start_again()
    }

    fn await_ready(client: &Netns, pod: &Pod) -> Result<()> {
        Nginx::await_answer(client, pod.addr())?;
        GrpcServer::await_connected(client, pod)
    }
}

/// How many clients of each kind. A kept connection is never idle for as long as a second: who sends a
/// request just when an idle connection is ended loses it, which is so at every keep-alive timeout.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Workers with one request per connection, and the time between two requests of one.
    pub short: (u32, Duration),
    /// Workers that keep their connections, likewise.
    pub kept: (u32, Duration),
    /// Downloads at the same time, on connections that are kept.
    pub slow: u32,
    /// gRPC channels: each has a caller, and one stream after the other.
    pub channels: u32,
}

/// Where clients go.
#[derive(Clone, Copy, Debug)]
pub struct Entrance {
    /// For HTTP/1.
    pub http: SocketAddr,
    /// For gRPC.
    pub rpc: SocketAddr,
}

impl Entrance {
    /// The service, by kube-proxy's rules.
    pub fn service() -> Self {
        Self { http: SERVICE.into(), rpc: RPC_SERVICE.into() }
    }
}

/// One kind of client.
#[derive(Clone, Debug)]
pub struct Row {
    /// Who they are.
    pub name: &'static str,
    /// What they saw.
    pub clients: Tally,
    /// What the servers say they have served; none where they keep no record.
    pub served: Option<u64>,
}

/// All of them, running.
#[derive(Debug)]
pub struct Mix {
    short: Load,
    kept: Load,
    slow: Load,
    grpc: GrpcLoad,
}

/// How it went for all of them.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Each kind of client.
    pub rows: Vec<Row>,
    /// The requests on short and kept connections, with their times.
    pub requests: Vec<Sample>,
    /// When requests of any kind failed: seconds of CLOCK_MONOTONIC, in no order.
    pub failed_at: Vec<f64>,
}

impl Outcome {
    /// Requests of all kinds.
    pub fn total(&self) -> u64 {
        self.rows.iter().map(|row| row.clients.total()).sum()
    }

    /// Those that failed.
    pub fn failed(&self) -> u64 {
        self.rows.iter().map(|row| row.clients.failed()).sum()
    }
}

impl Mix {
    /// Starts them; every gRPC channel has had its first answers when this returns.
    pub fn start(client: &Arc<Netns>, scale: Scale, entrance: Entrance) -> Result<Self> {
        let grpc = GrpcLoad::start(client, entrance.rpc, scale.channels)?;
        let start = |path, body, manner, (workers, pace)| {
            let (target, at_most) = (entrance.http, u64::MAX);
            Load::start(client, Plan { target, path, body, manner, workers, pace, at_most })
        };
        let slow = (scale.slow, Duration::from_millis(100));
        Ok(Self {
            short: start("/ok", BODY, Manner::OneRequest, scale.short),
            kept: start("/kept", BODY, Manner::KeepAlive, scale.kept),
            slow: start("/large", large(), Manner::SlowReader(SLOWLY), slow),
            grpc,
        })
    }

    /// Requests of HTTP/1 so far.
    pub fn sent(&self) -> u64 {
        self.short.sent() + self.kept.sent() + self.slow.sent()
    }

    /// Lets requests under way end, then stops the servers, whose records are complete only then.
    pub fn finish(self, apps: &mut [App]) -> Result<Outcome> {
        // What takes long first: until it has ended, the others go on.
        self.grpc.stop()?;
        self.slow.stop();
        let [short, kept, slow] = [&self.short, &self.kept, &self.slow].map(Load::timeline);
        let grpc = self.grpc.finish()?;
        let tallies = (self.slow.finish()?, self.kept.finish()?, self.short.finish()?);
        apps.iter_mut().try_for_each(App::stop)?;
        let logged = |path| apps.iter().map(|app| app.nginx.served_of(path)).sum::<Result<u64>>();
        let executed = GrpcServer::executed(apps.iter().map(|app| &app.grpc))?;
        let row = |name, clients, served| Row { name, clients, served };
        let rows = vec![
            row("short connections", tallies.2, Some(logged("/ok")?)),
            row("keep-alive", tallies.1, Some(logged("/kept")?)),
            row("slow downloads", tallies.0, Some(logged("/large")?)),
            row("gRPC calls", grpc.calls, Some(executed)),
            row("gRPC streams", grpc.streams, None),
        ];
        let requests = [short.take(), kept.take()].concat();
        let failed = requests.iter().copied().chain(slow.take()).filter(|sample| sample.failed);
        let failed_at = failed.map(|sample| sample.at + f64::from(sample.took));
        let failed_at = failed_at.chain(grpc.failed_at).collect();
        Ok(Outcome { rows, requests, failed_at })
    }
}

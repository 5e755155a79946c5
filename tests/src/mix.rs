//! Every kind of client at once, and pods that serve them all: nginx and a gRPC server in each.

use std::{sync::Arc, time::Duration};

use anyhow::Result;

use crate::{
    cluster::{PORT, Pod, RPC_PORT, SERVICE},
    grpc::{GrpcLoad, GrpcServer},
    load::{Load, Manner, Plan, Tally},
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

impl Mix {
    /// Starts them; every gRPC channel has had its first answers when this returns.
    pub fn start(client: &Arc<Netns>, scale: Scale) -> Result<Self> {
        let grpc = GrpcLoad::start(client, scale.channels)?;
        let start = |path, body, manner, (workers, pace)| {
            let (target, at_most) = (SERVICE.into(), u64::MAX);
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

    /// Lets requests under way end, then stops the servers, whose records are complete only then.
    pub fn finish(self, apps: &mut [App]) -> Result<Vec<Row>> {
        // What takes long first: until it has ended, the others go on.
        self.grpc.stop()?;
        self.slow.stop();
        let grpc = self.grpc.finish()?;
        let slow = self.slow.finish()?;
        let (kept, short) = (self.kept.finish()?, self.short.finish()?);
        apps.iter_mut().try_for_each(App::stop)?;
        let logged = |path| apps.iter().map(|app| app.nginx.served_of(path)).sum::<Result<u64>>();
        let executed = GrpcServer::executed(apps.iter().map(|app| &app.grpc))?;
        let row = |name, clients, served| Row { name, clients, served };
        Ok(vec![
            row("short connections", short, Some(logged("/ok")?)),
            row("keep-alive", kept, Some(logged("/kept")?)),
            row("slow downloads", slow, Some(logged("/large")?)),
            row("gRPC calls", grpc.calls, Some(executed)),
            row("gRPC streams", grpc.streams, None),
        ])
    }
}

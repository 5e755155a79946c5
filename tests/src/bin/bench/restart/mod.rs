//! `restart`: the headline. The same load on the same pods, which are replaced again and again by what people do
//! today, and by drainctl; no client retries.

mod report;

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, SERVICE},
    haproxy::Haproxy,
    kubeproxy::Mode,
    mix::{App, Entrance, Mix, Outcome, Scale},
    rolling::{self, Method, Restart, Server as _},
    wait::eventually,
};

use crate::page;

/// Instances of the service.
const INSTANCES: usize = 3;
/// What two cores can serve besides being the clients: some 3,500 requests a second.
const SCALE: Scale = Scale {
    short: (32, Duration::from_millis(30)),
    kept: (64, Duration::from_millis(25)),
    slow: 6,
    channels: 4,
};
/// From the start of one restart to that of the next, at least, so that all methods have the same number of restarts and
/// of requests.
const EVERY: Duration = Duration::from_secs(8);
/// Before the first restart.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long scripts wait for connections to end. Those that are kept do not end by themselves, since nobody tells their
/// clients: to wait longer (25 s were tried) makes the run longer and changes nothing else.
const LIMIT: Duration = Duration::from_secs(10);
/// For the requests that are still to be made behind the last restart.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Options of `restart`.
pub(crate) struct Options {
    /// Rolling restarts, of each instance one.
    pub(crate) rounds: usize,
    /// Requests with each way of drainctl, at least; the others have a sixth of them.
    pub(crate) requests: u64,
    /// The folder of documents; nothing is written if absent.
    pub(crate) out: Option<PathBuf>,
}

/// One way to replace instances, and what its clients saw.
struct Run {
    name: &'static str,
    is_ours: bool,
    outcome: Outcome,
    restarts: Vec<Restart>,
}

/// Measures all ways, prints the table, and writes it down if wanted.
///
/// # Errors
/// A request failed with drainctl, or none failed with SIGTERM alone, so that the load proves nothing.
pub(crate) fn restart(options: &Options) -> Result<()> {
    let machine = page::machine()?;
    let mut agent = Agent::start()?;
    agent.be_quiet();
    let service = format!("forward={}", SERVICE.ip());
    let forward = ["--quiet", "0s", "--new", &service];
    let drain = |options| Some(Method::Drain { agent: &agent, options });
    let ways = [
        ("SIGTERM alone", Some(Method::Terminate)),
        ("preStop: sleep 5", Some(Method::Sleep(Duration::from_secs(5)))),
        ("iptables REJECT, polling ss", Some(Method::Reject(LIMIT))),
        ("HAProxy, state drain", None),
        ("drainctl (reject)", drain(&[])),
        ("drainctl (forward)", drain(&forward)),
    ];
    // The bar is about ours; of the others a share is enough to see what becomes of them.
    let share = options.requests.div_ceil(ways.len() as u64);
    let runs = ways.map(|(name, method)| {
        let is_ours = matches!(method, Some(Method::Drain { .. }));
        run(name, method, options.rounds, if is_ours { options.requests } else { share })
    });
    let runs: Vec<Run> = runs.into_iter().collect::<Result<_>>()?;
    report::print(&runs, options, &machine)?;
    judge(&runs, options)
}

/// Replaces every instance again and again; without a method, HAProxy is in front of them.
fn run(
    name: &'static str,
    method: Option<Method<'_>>,
    rounds: usize,
    requests: u64,
) -> Result<Run> {
    eprintln!("{name} …");
    let start = Instant::now();
    // The last one is HAProxy's, if it is needed.
    let cluster = Cluster::new(INSTANCES + 1, Mode::Iptables)?;
    let (pods, place) = cluster.pods.split_at(INSTANCES);
    cluster.set_endpoints(&(0..INSTANCES).collect::<Vec<_>>())?;
    let mut apps = pods.iter().map(App::start).collect::<Result<Vec<_>>>()?;
    pods.iter().try_for_each(|pod| App::await_ready(&cluster.client, pod))?;
    let proxy = match method {
        None => Some(Haproxy::start(&place[0], pods)?),
        Some(_) => None,
    };
    let is_ours = matches!(method, Some(Method::Drain { .. }));
    let (method, entrance) = match (method, &proxy) {
        (None, Some(proxy)) => (
            Method::Proxy { proxy, limit: LIMIT },
            Entrance { http: proxy.http(), rpc: proxy.rpc() },
        ),
        (method, _) => (method.context("no way to restart")?, Entrance::service()),
    };
    let mix = Mix::start(&cluster.client, SCALE, entrance)?;
    let restarts = restarts(&cluster, &mut apps, method, rounds)
        .with_context(|| format!("{name}: a restart"))?;
    eventually(PATIENCE, "enough requests", || Ok(mix.sent() >= requests))?;
    let outcome = mix.finish(&mut apps)?;
    eprintln!("{name}: {} requests in {:.0?}", outcome.total(), start.elapsed());
    Ok(Run { name, is_ours, outcome, restarts })
}

fn restarts(
    cluster: &Cluster,
    apps: &mut [App],
    method: Method<'_>,
    rounds: usize,
) -> Result<Vec<Restart>> {
    let mut due = Instant::now() + WARM_UP;
    let pods = (0..rounds).flat_map(|_| 0..INSTANCES);
    pods.map(|pod| {
        thread::sleep(due.saturating_duration_since(Instant::now())); // not a wait for a state: the plan
        due = Instant::now() + EVERY;
        rolling::restart_one(cluster, apps, pod, method)
    })
    .collect()
}

fn judge(runs: &[Run], options: &Options) -> Result<()> {
    for run in runs {
        let total = run.outcome.total();
        ensure!(!run.is_ours || total >= options.requests, "{}: only {total} requests", run.name);
        if run.is_ours && run.outcome.failed() > 0 {
            let failed = run.outcome.rows.iter().filter(|row| row.clients.failed() > 0);
            let failed: Vec<_> =
                failed.map(|row| format!("{}: {}", row.name, row.clients)).collect();
            bail!("{}: requests failed: {}", run.name, failed.join("; "));
        }
    }
    ensure!(runs[0].outcome.failed() > 0, "SIGTERM failed no request: this load proves nothing");
    Ok(())
}

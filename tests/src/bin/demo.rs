//! `cargo xtask demo`: a rolling restart of three real nginx servers behind kube-proxy's rules, under
//! load from clients that never retry: once with drainctl, once with plain SIGTERM beside it.

use std::{process::ExitCode, time::Instant};

use anyhow::{Context, Result};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, SERVICE},
    kubeproxy::Mode,
    load::{Load, Plan, Tally},
    nginx::{BODY, Nginx},
    rolling::{self, Method, Restart},
    wait::{LIMIT, eventually},
};
use std::time::Duration;

/// Fewer requests prove little.
const REQUESTS: u64 = 20_000;

fn main() -> ExitCode {
    match demo() {
        Ok(complaints) if complaints.is_empty() => {
            println!("No client saw an error while three servers were replaced.");
            ExitCode::SUCCESS
        }
        Ok(complaints) => {
            complaints.iter().for_each(|complaint| eprintln!("FAILED: {complaint}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Both runs; what speaks against the result, if anything.
fn demo() -> Result<Vec<String>> {
    println!(
        "Three nginx pods behind kube-proxy's iptables rules; each is restarted in turn, and its endpoint \
         leaves the rules\n0.5 to 2 s after the restart began. Clients: one request per connection, no retry.\n"
    );
    let mut agent = Agent::start()?;
    agent.be_quiet();
    let with = run("drainctl drain", Method::Drain { agent: &agent, options: &[] })
        .with_context(|| format!("log of the agent:\n{}", agent.log()))?;
    let without = run("SIGTERM", Method::Terminate)?;
    print(&[&with, &without]);
    Ok(judge(&with, &without))
}

/// What came out of one rolling restart.
struct Run {
    name: &'static str,
    clients: Tally,
    served: u64,
    restarts: Vec<Restart>,
    took: Duration,
}

fn run(name: &'static str, method: Method<'_>) -> Result<Run> {
    println!("running: {name} …");
    let cluster = Cluster::new(3, Mode::Iptables)?;
    let mut servers = cluster.pods.iter().map(Nginx::start).collect::<Result<Vec<_>>>()?;
    for pod in &cluster.pods {
        Nginx::await_answer(&cluster.client, pod.addr())?;
    }
    let start = Instant::now();
    let load = Load::start(
        &cluster.client,
        Plan {
            target: SERVICE.into(),
            path: "/ok",
            body: BODY,
            workers: 32,
            pace: Duration::from_millis(16),
            at_most: u64::MAX,
        },
    );
    let restarts = rolling::restart_all(&cluster, &mut servers, method)?;
    eventually(LIMIT, "enough requests", || Ok(load.sent() > REQUESTS + 100))?;
    let clients = load.finish()?;
    let took = start.elapsed();
    // The log is complete once nginx has ended.
    servers.iter_mut().try_for_each(Nginx::stop)?;
    let served = servers.iter().map(Nginx::served).sum::<Result<u64>>()?;
    Ok(Run { name, clients, served, restarts, took })
}

fn print(runs: &[&Run]) {
    println!(
        "\n{:<15}{:>10}{:>10}{:>8}   {:<40}{:>7}   seconds to drain, per pod",
        "", "requests", "served", "failed", "of these", "took"
    );
    for run in runs {
        let Tally { refused, reset, timeout, truncated, bad, .. } = &run.clients;
        let kinds: Vec<String> = [
            (refused, "refused"),
            (reset, "reset"),
            (timeout, "timed out"),
            (truncated, "truncated"),
            (bad, "bad"),
        ]
        .into_iter()
        .filter(|(count, _)| **count > 0)
        .map(|(count, kind)| format!("{count} {kind}"))
        .collect();
        let kinds = if kinds.is_empty() { "-".into() } else { kinds.join(", ") };
        let drains: Vec<String> = run
            .restarts
            .iter()
            .map(|restart| format!("{:.1}", restart.drained_after.as_secs_f64()))
            .collect();
        println!(
            "{:<15}{:>10}{:>10}{:>8}   {kinds:<40}{:>6.1}s   {}",
            run.name,
            run.clients.total(),
            run.served,
            run.clients.failed(),
            run.took.as_secs_f64(),
            drains.join("  ")
        );
    }
    println!("(requests: counted by the clients; served: counted by the servers' access logs)\n");
}

fn judge(with: &Run, without: &Run) -> Vec<String> {
    let mut complaints = Vec::new();
    if with.clients.failed() > 0 {
        complaints.push(format!("requests failed with drainctl: {}", with.clients));
    }
    if with.clients.total() != with.served {
        complaints.push(format!(
            "clients sent {} requests, servers answered {}",
            with.clients.total(),
            with.served
        ));
    }
    if with.clients.total() < REQUESTS {
        complaints.push(format!("only {} requests", with.clients.total()));
    }
    if without.clients.failed() == 0 {
        complaints.push("plain SIGTERM failed no request, so this run proves nothing".into());
    }
    complaints
}

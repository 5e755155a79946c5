//! `cargo xtask demo`: a rolling restart of three pods behind kube-proxy's rules, under load from every
//! kind of client, none of which ever retries: once with drainctl, once with plain SIGTERM beside it.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use drainctl_tests::{
    agent::Agent,
    cluster::Cluster,
    kubeproxy::Mode,
    load::Tally,
    mix::{App, Entrance, Mix, Outcome, Row, Scale},
    rolling::{self, Method, Restart, Server as _},
};

/// Fewer requests prove little.
const REQUESTS: u64 = 20_000;

/// What two shared cores can do besides serving it.
const SCALE: Scale = Scale {
    short: (24, Duration::from_millis(30)),
    kept: (24, Duration::from_millis(30)),
    slow: 6,
    channels: 4,
};

fn main() -> ExitCode {
    match demo() {
        Ok(complaints) if complaints.is_empty() => {
            println!("No client saw an error while drainctl had three pods replaced.");
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
        "Three pods behind kube-proxy's iptables rules, nginx and a gRPC server in each. One after the other is\n\
         restarted, and its endpoint leaves the rules 0.5 to 2 s after the restart began. No client retries.\n"
    );
    let mut agent = Agent::start()?;
    agent.be_quiet();
    let with = run("drainctl drain, then SIGTERM", Method::Drain { agent: &agent, options: &[] })
        .with_context(|| format!("log of the agent:\n{}", agent.log()))?;
    let without = run("SIGTERM", Method::Terminate)?;
    print(&with, &without);
    Ok(judge(&with, &without))
}

/// What came out of one rolling restart.
struct Run {
    outcome: Outcome,
    restarts: Vec<Restart>,
    took: Duration,
}

fn run(name: &str, method: Method<'_>) -> Result<Run> {
    println!("running: {name} …");
    let cluster = Cluster::new(3, Mode::Iptables)?;
    let mut apps = cluster.pods.iter().map(App::start).collect::<Result<Vec<_>>>()?;
    for pod in &cluster.pods {
        App::await_ready(&cluster.client, pod)?;
    }
    let mix = Mix::start(&cluster.client, SCALE, Entrance::service())?;
    let start = Instant::now();
    let restarts = rolling::restart_all(&cluster, &mut apps, method)?;
    let took = start.elapsed();
    Ok(Run { outcome: mix.finish(&mut apps)?, restarts, took })
}

fn print(with: &Run, without: &Run) {
    println!("\n{:<18}{:^28}   {:^28}", "", "drainctl drain, SIGTERM", "SIGTERM alone");
    let heads = format!("{:>10}{:>10}{:>8}", "requests", "served", "failed");
    println!("{:<18}{heads}   {heads}   of these", "");
    for (row, other) in with.outcome.rows.iter().zip(&without.outcome.rows) {
        let kinds = kinds(&other.clients);
        println!("{:<18}{}   {}   {kinds}", row.name, numbers(row), numbers(other));
    }
    let drains: Vec<String> = with
        .restarts
        .iter()
        .map(|restart| format!("{:.1}", restart.drained_after.as_secs_f64()))
        .collect();
    println!(
        "\n(requests: counted by the clients; served: by nginx's access logs, and by the gRPC servers, call by call)\n\
         All three pods: {:.1} s with drainctl, of which {} s to drain; {:.1} s with SIGTERM alone.",
        with.took.as_secs_f64(),
        drains.join(" + "),
        without.took.as_secs_f64(),
    );
}

fn numbers(row: &Row) -> String {
    let served = row.served.map_or_else(|| "-".to_owned(), |served| served.to_string());
    format!("{:>10}{served:>10}{:>8}", row.clients.total(), row.clients.failed())
}

/// The kinds of failure that there were.
fn kinds(clients: &Tally) -> String {
    let kinds = clients.kinds().into_iter().filter(|(count, _)| *count > 0);
    let kinds: Vec<String> = kinds.map(|(count, kind)| format!("{count} {kind}")).collect();
    if kinds.is_empty() { "-".into() } else { kinds.join(", ") }
}

fn judge(with: &Run, without: &Run) -> Vec<String> {
    let mut complaints = Vec::new();
    for Row { name, clients, served } in &with.outcome.rows {
        if clients.failed() > 0 {
            complaints.push(format!("with drainctl, {name}: requests failed: {clients}"));
        }
        if let Some(served) = served.filter(|served| *served != clients.total()) {
            let total = clients.total();
            complaints.push(format!("{name}: {total} requests sent, {served} served"));
        }
        if clients.total() == 0 {
            complaints.push(format!("{name}: no request at all"));
        }
    }
    if with.outcome.total() < REQUESTS {
        complaints.push(format!("only {} requests", with.outcome.total()));
    }
    if without.outcome.failed() == 0 {
        complaints.push("plain SIGTERM failed no request, so this run proves nothing".into());
    }
    complaints
}

//! `cargo xtask test kube`: a deployment is rolled in a real cluster under load, with each kind of preStop hook, and
//! kube-proxy in two modes; prints what the clients saw. And pods that stay are drained by hand, by an agent that was
//! installed in each of its ways.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use drainctl_tests::{
    kube::{Cluster, Hook, Outcome},
    kubeproxy::Mode,
};

/// Rolls a deployment in a real cluster under load, and says which kind of hook comes through without an error.
#[derive(Parser)]
struct Cli {
    /// Only these kinds of hooks.
    #[arg(long = "hook", value_enum)]
    hooks: Vec<Hook>,
    /// Only these modes of kube-proxy.
    #[arg(long = "proxy", value_enum)]
    proxies: Vec<Proxy>,
    /// How often the deployment is rolled with each; 0: only drains by hand.
    #[arg(long, default_value_t = 10)]
    rolls: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Proxy {
    Iptables,
    Nftables,
}

impl From<Proxy> for Mode {
    fn from(proxy: Proxy) -> Self {
        match proxy {
            Proxy::Iptables => Self::Iptables,
            Proxy::Nftables => Self::Nftables,
        }
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(complaints) if complaints.is_empty() => ExitCode::SUCCESS,
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

/// Everything that was asked for; what speaks against the result, if anything.
fn run(cli: &Cli) -> Result<Vec<String>> {
    let kube = env::var_os("DRAINCTL_KUBE").context(
        "DRAINCTL_KUBE does not name the cluster's programs: run `cargo xtask test kube`",
    )?;
    let proxies: &[Proxy] =
        if cli.proxies.is_empty() { &[Proxy::Iptables, Proxy::Nftables] } else { &cli.proxies };
    let hooks: &[Hook] = if cli.hooks.is_empty() { Hook::value_variants() } else { &cli.hooks };
    let mut complaints = Vec::new();
    let mut lines = Vec::new();
    for (number, proxy) in proxies.iter().enumerate() {
        let mode = Mode::from(*proxy);
        println!("{mode:?}: starting a cluster …");
        let mut cluster = Cluster::start(&PathBuf::from(&kube), mode)?;
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        cluster.deploy_agent(&deploy.canonicalize()?)?;
        // Rolling nothing would show nothing.
        for hook in hooks.iter().filter(|_| cli.rolls > 0) {
            println!("{mode:?}: {} …", hook.name());
            let outcome = cluster.roll(*hook, cli.rolls)?;
            let found = judge(mode, &outcome, cli.rolls);
            for (name, tally) in outcome.rows.iter().filter(|(_, tally)| tally.failed() > 0) {
                println!("    {name}: {tally}");
            }
            if !found.is_empty() {
                eprintln!("{}", cluster.account());
            }
            complaints.extend(found);
            lines.push(line(mode, &outcome));
            println!("{}", lines.last().map_or("", String::as_str));
        }
        if number == 0
            && let Err(error) = cluster.check_uses()
        {
            complaints.push(format!("{error:#}"));
        }
    }
    println!(
        "\n{:<10} {:<24} {:>9} {:>7} {:>8} {:>8}",
        "kube-proxy", "hook", "requests", "failed", "drained", "seconds"
    );
    lines.iter().for_each(|line| println!("{line}"));
    Ok(complaints)
}

fn line(mode: Mode, outcome: &Outcome) -> String {
    let mode = format!("{mode:?}").to_lowercase();
    let (requests, failed) = (outcome.requests(), outcome.failed());
    let (drained, took) = (outcome.drained, outcome.took.as_secs());
    format!(
        "{mode:<10} {:<24} {requests:>9} {failed:>7} {drained:>8} {took:>8}",
        outcome.hook.name()
    )
}

/// What speaks against the result.
fn judge(mode: Mode, outcome: &Outcome, rolls: u32) -> Vec<String> {
    let what = format!("{mode:?}, {}", outcome.hook.name());
    let mut complaints = Vec::new();
    if outcome.hook.drains() {
        for (name, tally) in &outcome.rows {
            if tally.failed() > 0 {
                complaints.push(format!("{what}: {name}: {tally}"));
            }
        }
        // Three pods with two ports each.
        let expected = u64::from(rolls) * 6;
        if outcome.drained < expected {
            complaints.push(format!("{what}: {} drained, not {expected}", outcome.drained));
        }
    }
    // Clients that do not notice servers being killed would notice nothing.
    if outcome.hook == Hook::None && outcome.failed() == 0 {
        complaints.push(format!("{what}: no request failed"));
    }
    complaints
}

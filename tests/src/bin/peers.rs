//! `cargo xtask test peers`: real servers and clients in pairs, drained under load; prints the matrix.

use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Error, Result};
use clap::Parser;
use drainctl_tests::{
    agent::Agent,
    peers::{self, Cell, Matrix, Pair, Settings},
};

/// Drains servers under their clients and says which pairs come through without an error.
#[derive(Parser)]
struct Cli {
    /// Only these: `protocol/server/client`, where a part may be `*`; or the name of one of the three.
    filters: Vec<String>,
    /// Print the pairs and run none.
    #[arg(long)]
    list: bool,
    /// Pairs at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Connections of each client.
    #[arg(long, default_value_t = Settings::default().connections)]
    connections: u32,
    /// Seconds until a drain gives up.
    #[arg(long, default_value_t = Settings::default().timeout)]
    timeout: u32,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    let pairs = peers::pairs(&cli.filters)?;
    if cli.list {
        pairs.iter().for_each(|pair| println!("{}", pair.name()));
        return Ok(true);
    }
    let mut agent = Agent::start()?;
    agent.be_quiet();
    let settings = Settings { timeout: cli.timeout, connections: cli.connections };
    let matrix = Matrix::new(run_all(&agent, &pairs, settings, cli.jobs.max(1)));
    println!("\n{matrix}");
    Ok(matrix.passed())
}

/// Runs the pairs, a few at a time; the outcomes are in the order of the pairs.
fn run_all(
    agent: &Agent,
    pairs: &[Pair],
    settings: Settings,
    jobs: usize,
) -> Vec<(Pair, Result<Cell, Error>)> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(pair) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = peers::run(agent, *pair, settings);
                    println!("{}", peers::line(pair, &outcome));
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.push((*pair, outcome));
                    }
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_default();
    let place = |pair: &Pair| pairs.iter().position(|other| other.name() == pair.name());
    outcomes.sort_by_key(|(pair, _)| place(pair));
    outcomes
}

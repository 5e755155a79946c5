//! `cargo xtask test chaos`: the agent is killed at random moments.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Parser;
use drainctl_tests::chaos;

#[derive(Parser)]
struct Options {
    /// How often the agent is killed.
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// The same moments as in another run, as far as the machine lets them be the same [default: another each time].
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> Result<()> {
    let Options { rounds, seed } = Options::parse();
    let seed = match seed {
        Some(seed) => seed,
        None => u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?,
    };
    println!("seed {seed}");
    let tally = chaos::run(rounds, seed).with_context(|| format!("--seed {seed}"))?;
    println!(
        "killed {} times, {} of them draining; {} connection attempts kept away from the drained server, all that had \
         to be; {} requests to another one served, all there were",
        tally.rounds, tally.draining, tally.refused, tally.served
    );
    Ok(())
}

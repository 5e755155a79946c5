//! `cargo xtask bench`: the speed bars, measured. Ratios come from interleaved pairs in one run; a figure
//! stands beside its 95 % interval and its bar.

mod delays;
mod flows;
mod limits;
mod meter;
mod page;
mod programs;
mod refused;
mod restart;
mod rows;
mod scale;
mod stats;
mod table;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;

use crate::{
    stats::Verdict,
    table::{HEAD, Row},
};

/// How rows are measured.
type Measure = fn() -> Result<Vec<Row>>;

const ROWS: [(&str, Measure); 8] = [
    ("keep-alive", rows::keep_alive),
    ("connections", rows::connections),
    ("gate", rows::gate_cost),
    ("tracker", rows::tracker_cost),
    ("refused", refused::refused_connects),
    ("exec-to-closed", delays::exec_to_closed),
    ("close-to-exit", delays::close_to_exit),
    ("join", flows::join),
];

/// Measures the speed bars on this machine.
#[derive(Parser)]
struct Args {
    /// Rows to measure: keep-alive, connections, gate, tracker, refused, exec-to-closed, close-to-exit, join. All if
    /// none is named. `limits` stands alone: it prints what a full node costs the agent. So does `scale`: cost against the
    /// number of connections and of services; and `restart`: rolling restarts under full load, by drainctl and by what
    /// people do today, which takes half an hour.
    rows: Vec<String>,
    /// With `limits`: how many connections the node has.
    #[arg(long, default_value = "1000000")]
    flows: usize,
    /// With `restart`: how often every instance is replaced.
    #[arg(long, default_value = "10")]
    rounds: usize,
    /// With `restart`: how many requests each way of drainctl must stand, at least; the others have a sixth.
    #[arg(long, default_value = "1000000")]
    requests: u64,
    /// The folder of documents: the command's part of benchmarks.md there is rewritten, and its pictures.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> Result<()> {
    let Args { rows: wanted, flows, rounds, requests, out } = Args::parse();
    if wanted == ["limits"] {
        return limits::limits(flows);
    }
    if wanted == ["restart"] {
        return restart::restart(&restart::Options { rounds, requests, out });
    }
    if wanted == ["scale"] {
        return scale::scale(out.as_deref());
    }
    if let Some(unknown) = wanted.iter().find(|w| ROWS.iter().all(|(name, _)| name != w)) {
        let names: Vec<_> = ROWS.iter().map(|(name, _)| *name).collect();
        bail!("there is no row {unknown}; rows are {}", names.join(", "));
    }
    if out.is_some() && !wanted.is_empty() {
        bail!("--out is for the whole table: name no rows, or leave it out");
    }
    let mut text = page::machine()? + "\n" + HEAD;
    print!("{text}");
    let mut missed = 0;
    for (_, measure) in
        ROWS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name))
    {
        for row in measure()? {
            let line = row.line();
            println!("{line}");
            text.push_str(&(line + "\n"));
            missed += usize::from(row.verdict() == Some(Verdict::Missed));
        }
    }
    if let Some(out) = out {
        page::put(&out, "bars", &text)?;
    }
    if missed > 0 {
        bail!("{missed} bars missed");
    }
    Ok(())
}

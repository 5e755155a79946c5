//! `cargo xtask bench`: the speed bars, measured. Ratios come from interleaved pairs in one run; a figure
//! stands beside its 95 % interval and its bar.

mod flows;
mod limits;
mod programs;
mod restart;
mod rows;
mod stats;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use stats::{Bar, Estimate, Verdict};

/// A finished row.
pub(crate) struct Row {
    name: &'static str,
    unit: &'static str,
    estimate: Estimate,
    bar: Bar,
}

impl Row {
    /// A row; the unit of figure and bar may be empty for ratios.
    pub(crate) fn new(
        name: &'static str,
        unit: &'static str,
        estimate: Estimate,
        bar: Bar,
    ) -> Self {
        Self { name, unit, estimate, bar }
    }

    fn print(&self) {
        let Estimate { value, low, high } = self.estimate;
        let (sign, bar) = match self.bar {
            Bar::AtLeast(bar) => ("≥", bar),
            Bar::AtMost(bar) => ("≤", bar),
        };
        let digits = if self.unit == "ns" { 0 } else { 3 };
        let interval = format!("{low:.digits$} … {high:.digits$}");
        println!(
            "{:38} {value:>10.digits$} {:2}   {interval:>20}   {sign} {bar:<6} {:?}",
            self.name,
            self.unit,
            self.bar.judge(self.estimate),
        );
    }
}

/// How a row is measured.
type Measure = fn() -> Result<Row>;

const ROWS: [(&str, Measure); 7] = [
    ("gate", rows::gate_cost),
    ("tracker", rows::tracker_cost),
    ("connections", rows::connections),
    ("keep-alive", rows::keep_alive),
    ("exec-to-closed", rows::exec_to_closed),
    ("close-to-exit", rows::close_to_exit),
    ("join", flows::join),
];

/// Measures the speed bars on this machine.
#[derive(Parser)]
struct Args {
    /// Rows to measure: gate, tracker, connections, keep-alive, exec-to-closed, close-to-exit, join. All if
    /// none is named. `limits` stands alone: it prints what a full node costs the agent. So does `restart`: rolling
    /// restarts under full load, by drainctl and by what people do today; it takes the better part of an hour.
    rows: Vec<String>,
    /// With `limits`: how many connections the node has.
    #[arg(long, default_value = "1000000")]
    flows: usize,
    /// With `restart`: how often every instance is replaced.
    #[arg(long, default_value = "10")]
    rounds: usize,
    /// With `restart`: how many requests each way must stand, at least.
    #[arg(long, default_value = "1000000")]
    requests: u64,
    /// With `restart`: a folder for the table (restart.md) and the picture (restart.svg).
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
    if let Some(unknown) = wanted.iter().find(|w| ROWS.iter().all(|(name, _)| name != w)) {
        let names: Vec<_> = ROWS.iter().map(|(name, _)| *name).collect();
        bail!("there is no row {unknown}; rows are {}", names.join(", "));
    }
    println!("{:38} {:>13}   {:>20}   {:8} verdict", "what", "figure", "95 % interval", "bar");
    let mut missed = 0;
    for (name, measure) in ROWS {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            let row = measure()?;
            row.print();
            missed += usize::from(row.bar.judge(row.estimate) == Verdict::Missed);
        }
    }
    if missed > 0 {
        bail!("{missed} bars missed");
    }
    Ok(())
}

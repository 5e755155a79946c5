//! A few rounds of `cargo xtask test chaos`.

use anyhow::{Context, Result, bail, ensure};
use drainctl_tests::{chaos, wait::is_slow};

#[test]
fn an_agent_that_is_killed_ten_times_opens_no_gate_and_loses_no_count() -> Result<()> {
    let seed = u64::from(std::process::id());
    // In an emulated machine each of ten agents may be killed before `drainctl` has got there.
    let runs = if is_slow() { 3 } else { 1 };
    for seed in seed..seed + runs {
        let tally = chaos::run(10, seed).with_context(|| format!("seed {seed}"))?;
        ensure!(tally.served > 0, "seed {seed}: {tally:?}");
        if tally.draining > 0 && tally.refused > 0 {
            return Ok(());
        }
    }
    bail!("seed {seed}: no gate was ever closed")
}

//! A few rounds of `cargo xtask test chaos`.

use anyhow::{Context, Result, ensure};
use drainctl_tests::chaos;

#[test]
fn an_agent_that_is_killed_ten_times_opens_no_gate_and_loses_no_count() -> Result<()> {
    let seed = u64::from(std::process::id());
    let tally = chaos::run(10, seed).with_context(|| format!("seed {seed}"))?;
    ensure!(tally.draining > 0 && tally.refused > 0 && tally.served > 0, "seed {seed}: {tally:?}");
    Ok(())
}

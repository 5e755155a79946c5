//! Rollouts that somebody or something ends in the middle: what is said, what is left, and how they go on.

use std::fs;

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    ctl::{Outcome, Running},
    net,
    wait::{LIMIT, eventually, eventually_some},
};
use rustix::process::Signal;

use crate::rollout::{World, lines, reported};

/// Why each instance is as it is, in the report.
fn whys(outcome: &Outcome) -> Result<Vec<String>> {
    let lines = lines(outcome)?;
    let report = lines.iter().find(|line| line["event"] == "report").context("no report")?;
    let instances = report["instances"].as_array().context("no instances")?;
    Ok(instances.iter().map(|each| each["why"].as_str().unwrap_or_default().to_owned()).collect())
}

/// Sends a signal, and waits until drainctl has said what comes of it.
fn interrupt(rollout: &mut Running, signal: Signal, name: &str) -> Result<()> {
    rollout.signal(signal)?;
    let said = format!("{name}: nothing new is begun");
    eventually(LIMIT, "it has heard the signal", || Ok(rollout.stdout()?.contains(&said)))?;
    ensure!(rollout.is_running()?, "it does not finish what is under way");
    Ok(())
}

/// Goes on once the command that was left has ended.
fn resume(world: &World, options: &[&str]) -> Result<Outcome> {
    eventually_some(LIMIT, "the command has ended", || {
        let outcome = world.start(&[options, &["--resume"]].concat())?.wait()?;
        Ok((outcome.code != Some(8)).then_some(outcome))
    })
}

#[test]
fn a_signal_lets_what_is_under_way_end_and_a_second_one_leaves_it() -> Result<()> {
    let world = World::new(3)?;
    let fleet = &world.fleet;
    let options = ["--json", "--retire", "none"];
    fs::write(fleet.folder(0).join("hold"), "")?;
    let mut rollout = world.start(&options)?;
    world.await_command("web-0")?;
    interrupt(&mut rollout, Signal::TERM, "SIGTERM")?;
    fs::write(fleet.folder(0).join("go"), "")?;
    let stopped = rollout.wait()?.expect(130)?.says("interrupted by SIGTERM")?.says("--resume")?;
    ensure!(reported(&stopped)? == ["released", "untouched", "untouched"], "{stopped}");
    ensure!(world.states()? == ["serving"; 3], "{:?}", world.states()?);

    // One has its command run, and another one waits for a connection to end.
    fs::write(fleet.folder(1).join("hold"), "")?;
    let kept = net::connect(&fleet.cluster.client, fleet.cluster.pods[2].addr())?;
    let options = [&options[..], &["--batch", "3"]].concat();
    let mut rollout = world.start(&[&options[..], &["--resume"]].concat())?;
    world.await_command("web-1")?;
    eventually(LIMIT, "the gate is closed", || Ok(world.states()?[2] == "rejecting"))?;
    interrupt(&mut rollout, Signal::INT, "Ctrl-C")?;
    rollout.signal(Signal::INT)?;
    let left = rollout.wait()?.expect(130)?.says("2 instances are kept out")?;
    ensure!(reported(&left)? == ["released", "half done", "draining"], "{left}");
    let whys = whys(&left)?;
    let pid = whys[1].strip_prefix("left while its command ran, which goes on as process ");
    let pid: u32 = pid.context(whys[1].clone())?.parse()?;
    ensure!(fs::exists(format!("/proc/{pid}"))?, "nobody is process {pid}");
    ensure!(whys[2].contains("the drain goes on"), "{whys:?}");
    ensure!(world.states()? == ["serving", "drained", "rejecting"], "{:?}", world.states()?);

    world.run(8, &[&options[..], &["--resume"]].concat())?.says(&pid.to_string())?;
    fs::write(fleet.folder(1).join("go"), "")?;
    drop(kept);
    let finished = resume(&world, &options)?.expect(0)?;
    ensure!(reported(&finished)? == ["released"; 3], "{finished}");
    ensure!(fleet.versions()? == ["version-new"; 3] && world.states()? == ["serving"; 3]);
    Ok(())
}

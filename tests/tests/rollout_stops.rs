//! Rollouts that somebody or something ends in the middle: what is said, what is left, and how they go on.

use std::fs;

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    ctl::{Outcome, Running},
    net,
    tmux::Tmux,
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

/// A script that runs the rollout, for a terminal; it says how that has ended.
fn script(world: &World, options: &[&str]) -> Result<String> {
    let (program, socket) = (world.agent.dist().drainctl(), world.agent.socket());
    let words = world.fleet.words(options);
    let (verb, rest) = words.split_first().context("a verb")?;
    let rest: Vec<String> = rest.iter().map(|word| format!("'{word}'")).collect();
    let (program, socket, rest) = (program.display(), socket.display(), rest.join(" "));
    let path = world.fleet.path("in-a-terminal.sh");
    fs::write(&path, format!("{program} {verb} --agent {socket} {rest}\necho ended with $?\n"))?;
    Ok(format!("clear; sh {}", path.display()))
}

#[test]
fn a_person_is_asked_after_the_canaries() -> Result<()> {
    let world = World::new(2)?;
    let fleet = &world.fleet;
    let asking = ["--canary", "1", "--canary-ask", "--json"];
    let question = "the canaries are released (web-0); go on? [y/N]";
    // There is nobody, and nobody's go is none.
    let nobody = world.run(130, &asking)?.says(question)?.says("nobody answered")?;
    ensure!(reported(&nobody)? == ["released", "untouched"], "{nobody}");
    let asking = [&asking[..], &["--resume"]].concat();
    let words = fleet.words(&asking);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let wrapper = ["sh", "-c", "echo no | \"$@\"", "sh"];
    let no = world.agent.ctl(&world.host).under(&wrapper).run(&words)?.expect(130)?;
    ensure!(reported(&no.says("the answer was not y")?)? == ["released", "untouched"]);

    let tmux = Tmux::start(&world.host, 200, 50)?;
    let run = script(&world, &["--canary", "1", "--canary-ask", "--resume"])?;
    tmux.line(&run)?;
    // The question is the last that is to be seen until somebody answers.
    let asked = tmux.await_text(&[question])?;
    ensure!(asked.trim_end().ends_with(question), "{asked}");
    tmux.keys(&["C-c"])?;
    tmux.await_text(&["interrupted by Ctrl-C", "untouched", "ended with 130"])?;
    ensure!(fleet.versions()? == ["version-new", "version-old"]);
    tmux.line(&run)?;
    tmux.await_text(&[question])?;
    tmux.line("y")?;
    tmux.await_text(&["ended with 0"])?;
    ensure!(fleet.versions()? == ["version-new"; 2] && world.states()? == ["serving"; 2]);
    Ok(())
}

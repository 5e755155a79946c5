//! Rollouts of real servers, under load from clients that never retry: canaries, batches, a failure in the middle, going
//! on, going back, and a drainctl that is killed.

use std::fs;

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::PORT,
    ctl::{Outcome, Running},
    fleet::Fleet,
    net::{self, Attempt},
    netns::Netns,
    wait::{LIMIT, eventually},
};
use serde_json::Value;

/// An agent, servers, and where the command line runs.
pub(crate) struct World {
    pub(crate) agent: Agent,
    pub(crate) host: Netns,
    pub(crate) fleet: Fleet,
}

impl World {
    pub(crate) fn new(count: usize) -> Result<Self> {
        Ok(Self { fleet: Fleet::new(count)?, agent: Agent::start()?, host: Netns::host()? })
    }

    pub(crate) fn start(&self, more: &[&str]) -> Result<Running> {
        let words = self.fleet.words(more);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.agent.ctl(&self.host).start(&words)
    }

    pub(crate) fn run(&self, code: i32, more: &[&str]) -> Result<Outcome> {
        self.start(more)?.wait()?.expect(code)
    }

    /// Waits until the command of an instance runs, and that is in the journal.
    pub(crate) fn await_command(&self, name: &str) -> Result<()> {
        let begun = format!(r#""event":"command","instance":"{name}""#);
        eventually(LIMIT, &format!("the command of {name} runs"), || {
            // It may not be there yet.
            let journal = fs::read_to_string(self.fleet.path("inventory.yaml.journal"));
            Ok(journal.unwrap_or_default().contains(&begun))
        })
    }

    /// Waits until so many commands were begun.
    pub(crate) fn await_commands(&self, count: usize) -> Result<()> {
        let begun = || Ok(self.fleet.commands()?.len() >= count);
        eventually(LIMIT, "the command runs", begun)
    }

    /// The states of all services, in order.
    pub(crate) fn states(&self) -> Result<Vec<String>> {
        let pods = &self.fleet.cluster.pods;
        pods.iter().map(|pod| Ok(self.agent.ctl(&pod.netns).service(PORT)?.state)).collect()
    }
}

/// The lines of `--json`.
pub(crate) fn lines(outcome: &Outcome) -> Result<Vec<Value>> {
    outcome
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).context("a line of JSON"))
        .collect()
}

/// The state of each instance in the report.
pub(crate) fn reported(outcome: &Outcome) -> Result<Vec<String>> {
    let lines = lines(outcome)?;
    let report = lines.iter().find(|line| line["event"] == "report").context("no report")?;
    let instances = report["instances"].as_array().context("no instances")?;
    Ok(instances.iter().map(|each| each["state"].as_str().unwrap_or_default().to_owned()).collect())
}

/// The most instances that were out at once.
fn most_out(outcome: &Outcome) -> Result<usize> {
    let (mut out, mut most) = (std::collections::BTreeSet::new(), 0);
    for line in lines(outcome)?.iter().filter(|line| line["event"] == "step") {
        let name = line["instance"].as_str().context("a name")?.to_owned();
        match line["mark"].as_str() {
            Some("closing") => drop(out.insert(name)),
            Some("done" | "reopened") => drop(out.remove(&name)),
            _ => {}
        }
        most = most.max(out.len());
    }
    Ok(most)
}

const PACE: [&str; 7] = ["--canary", "1", "--canary-check", "CHECK", "--batch", "3", "--json"];

#[test]
fn a_release_stops_at_a_failure_goes_on_and_is_taken_back() -> Result<()> {
    let world = World::new(10)?;
    let fleet = &world.fleet;
    let seen = fleet.path("canaries-seen").display().to_string();
    let check = format!("echo \"$DRAINCTL_INSTANCES\" > {seen}");
    let pace = PACE.map(|word| if word == "CHECK" { &*check } else { word });
    fs::write(fleet.folder(5).join("broken"), "")?;
    fleet.under_load(&world.agent, || {
        // Canary and first batch are released; in the second one fails, and the third does not begin.
        let stopped = world.run(1, &pace)?;
        stopped.clone().says("no such artifact")?.says("--resume")?.says("web-5")?;
        ensure!(fs::read_to_string(&seen)?.trim() == "web-0");
        let states = ["released"; 5].iter().chain(&["failed", "released"]).chain(&["untouched"; 3]);
        ensure!(reported(&stopped)?.iter().eq(states), "{stopped}");
        ensure!(most_out(&stopped)? <= 3, "{stopped}");
        let kept_out: Vec<_> =
            world.states()?.into_iter().map(|state| state == "drained").collect();
        ensure!(kept_out.iter().enumerate().all(|(at, out)| *out == (at == 5)), "{kept_out:?}");
        let commands = fleet.commands()?;
        ensure!(commands.len() == 7 && commands[0] == "release web-0 canary", "{commands:?}");
        // Without a word about it, nothing is begun anew.
        world.run(8, &pace)?.says("--resume")?;

        fs::remove_file(fleet.folder(5).join("broken"))?;
        let finished = world.run(0, &[&pace[..], &["--resume"]].concat())?;
        ensure!(reported(&finished)?.iter().all(|state| state == "released"), "{finished}");
        ensure!(fleet.commands()?.len() == 7 + 4, "{:?}", fleet.commands()?);
        ensure!(fleet.versions()?.iter().all(|version| version == "version-new"));
        world.run(0, &[&pace[..], &["--resume"]].concat())?.says("already")?;
        ensure!(fleet.commands()?.len() == 7 + 4);

        let undo = ["--undo", "--batch", "50%", "--json"];
        let undone = world.run(0, &undo)?;
        ensure!(reported(&undone)?.iter().all(|state| state == "undone"), "{undone}");
        ensure!(most_out(&undone)? <= 5, "{undone}");
        ensure!(fleet.versions()?.iter().all(|version| version == "version-old"));
        Ok(())
    })?;
    ensure!(world.states()?.iter().all(|state| state == "serving"), "{:?}", world.states()?);
    // All of it went by the kernel programs.
    ensure!(world.agent.metric("probes_passed_total")? >= 40, "checks passed closed gates");
    ensure!(world.agent.metric("flows_after_drained_total")? == 0);
    Ok(())
}

#[test]
fn one_that_was_killed_goes_on_where_it_was() -> Result<()> {
    let world = World::new(2)?;
    let fleet = &world.fleet;
    // While the command runs.
    fs::write(fleet.folder(0).join("hold"), "")?;
    let killed = world.start(&[])?;
    // Also written down: that comes just after its start.
    eventually(LIMIT, "the command runs, and is in the journal", || {
        // It may not be there yet.
        let journal = fs::read_to_string(fleet.path("inventory.yaml.journal")).unwrap_or_default();
        Ok(!fleet.commands()?.is_empty() && journal.contains(r#""event":"command""#))
    })?;
    killed.kill()?;
    ensure!(killed.wait()?.code.is_none());
    ensure!(world.states()? == ["drained", "serving"], "{:?}", world.states()?);
    world.run(8, &["--resume"])?.says("still runs")?;
    fs::write(fleet.folder(0).join("go"), "")?;
    let mut resumed = None;
    eventually(LIMIT, "the command has ended", || {
        let outcome = world.start(&["--resume", "--batch", "2"])?.wait()?;
        let is_over = outcome.code != Some(8);
        resumed = Some(outcome);
        Ok(is_over)
    })?;
    resumed.context("an outcome")?.expect(0)?;
    ensure!(fleet.commands()?.len() == 3, "it was run again: {:?}", fleet.commands()?);
    ensure!(fleet.versions()? == ["version-new"; 2]);

    // While it is drained, which a connection keeps it from being.
    let kept = net::connect(&fleet.cluster.client, fleet.cluster.pods[1].addr())?;
    let undo = ["--undo", "--retire", "none"];
    let killed = world.start(&undo)?;
    eventually(LIMIT, "the gate is closed", || Ok(world.states()?[1] == "rejecting"))?;
    killed.kill()?;
    ensure!(killed.wait()?.code.is_none());
    drop(kept);
    world.run(0, &undo)?;
    ensure!(fleet.versions()? == ["version-old"; 2]);
    ensure!(world.states()? == ["serving"; 2]);
    Ok(())
}

#[test]
fn what_is_not_healthy_stays_out_and_what_is_not_drained_is_put_back() -> Result<()> {
    let world = World::new(2)?;
    let fleet = &world.fleet;
    fs::write(fleet.folder(0).join("sick"), "")?;
    let sick = world.run(3, &["--health-timeout", "500ms", "--json"])?.says("HTTP status 503")?;
    ensure!(reported(&sick)? == ["failed", "untouched"], "{sick}");
    let addr = fleet.cluster.pods[0].addr();
    ensure!(net::attempt(&fleet.cluster.client, addr, LIMIT)? == Attempt::Refused);
    fs::remove_file(fleet.folder(0).join("sick"))?;

    let kept = net::connect(&fleet.cluster.client, fleet.cluster.pods[1].addr())?;
    let rest = ["--resume", "--retire", "none", "--quiet", "0s", "--json"];
    let options = [&rest[..], &["--timeout", "4s"]].concat();
    let words: Vec<String> = fleet.words(&options);
    // The last of an option counts nowhere: it is given once.
    let words: Vec<&str> = without(&words, &[("--quiet", "1s"), ("--timeout", "40s")]);
    let late = world.agent.ctl(&world.host).start(&words)?.wait()?.expect(3)?;
    ensure!(reported(&late)? == ["released", "put back"], "{late}");
    ensure!(
        world.states()? == ["serving"; 2] && fleet.versions()? == ["version-new", "version-old"]
    );
    drop(kept);
    // A person may say no, and yes.
    let step = |answer: &'static str| -> Result<Outcome> {
        let wrapper = ["sh", "-c", answer, "sh"];
        let words = fleet.words(&["--resume", "--step"]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        world.agent.ctl(&world.host).under(&wrapper).run(&words)
    };
    step("echo n | \"$@\"")?.expect(130)?.says("begin with web-1?")?;
    ensure!(fleet.versions()? == ["version-new", "version-old"]);
    step("echo y | \"$@\"")?.expect(0)?;
    ensure!(fleet.versions()? == ["version-new"; 2]);
    Ok(())
}

/// The words without these options.
fn without<'a>(words: &'a [String], options: &[(&str, &str)]) -> Vec<&'a str> {
    let mut left: Vec<&str> = words.iter().map(String::as_str).collect();
    for (name, value) in options {
        let at = left.windows(2).position(|two| two == [*name, *value]);
        if let Some(at) = at {
            left.drain(at..at + 2);
        }
    }
    left
}

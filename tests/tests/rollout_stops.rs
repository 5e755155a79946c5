//! Rollouts that somebody or something ends in the middle: what is said, what is left, and how they go on.

use std::fs;

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    ctl::{Outcome, Running},
    net::{self, Attempt},
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
    // The terminal sends Ctrl-C to the shell too, which is to go on.
    fs::write(
        &path,
        format!("trap : INT\n{program} {verb} --agent {socket} {rest}\necho ended with $?\n"),
    )?;
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

/// Fills the file system of the journal, whose last page is full too: the next line has no room.
const FILL: &str = r#"
if test -n "$SMALL"; then
  while ! grep -q '"event":"command"' "$SMALL/journal"; do sleep 0.02; done
  page=$(getconf PAGESIZE)
  head -c $((page - $(stat -c %s "$SMALL/journal") % page)) /dev/zero | tr '\0' '\n' >> "$SMALL/journal"
  cat /dev/zero > "$SMALL/fill" || true
fi
"#;

/// Runs the rest on a small file system of its own at `$0`, and keeps the journal.
const SMALL: &str = r#"
mount -t tmpfs -o size=1m,${OPTIONS:-rw} none "$0" || exit 99
test -z "$FULL" || cat /dev/zero > "$0/fill"
test -n "$FULL" || export SMALL="$0"
"$@"
code=$?
cp "$0/journal" "$0.kept"
exit $code
"#;

#[test]
fn a_journal_that_cannot_be_written_stops_it() -> Result<()> {
    let world = World::new(2)?;
    let fleet = &world.fleet;
    let small = fleet.path("small").display().to_string();
    fs::create_dir(&small)?;
    let script = fs::read_to_string(fleet.path("release.sh"))?;
    fs::write(fleet.path("release.sh"), format!("{FILL}{script}"))?;
    let journal = format!("{small}/journal");
    let run = |setting: &str| -> Result<Outcome> {
        let words = fleet.words(&["--journal", &journal, "--json"]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let wrapper = ["env", setting, "unshare", "--mount", "sh", "-c", SMALL, &small];
        world.agent.ctl(&world.host).under(&wrapper).run(&words)
    };
    // From the start: nothing is touched.
    run("OPTIONS=ro")?.expect(2)?.says("Read-only file system")?.says("nothing was changed")?;
    run("FULL=yes")?.expect(2)?.says("No space left")?.says("nothing was changed")?;
    world.run(2, &["--journal", "/dev/null"])?.says("no regular file")?;
    ensure!(world.states()? == ["serving"; 2] && fleet.commands()?.is_empty());

    // While a command runs: what it has done stays, and nothing else is begun.
    let full = run("OPTIONS=rw")?.expect(1)?.says("cannot write the journal")?;
    ensure!(reported(&full)? == ["failed", "untouched"], "{full}");
    ensure!(whys(&full)?[0].contains("No space left"), "{full}");
    ensure!(world.states()? == ["drained", "serving"], "{:?}", world.states()?);
    // What could be written is enough to go on.
    let kept = format!("{small}.kept");
    world.run(0, &["--journal", &kept, "--resume"])?;
    ensure!(fleet.versions()? == ["version-new"; 2] && fleet.commands()?.len() == 3);
    Ok(())
}

#[test]
fn a_gate_that_opened_while_the_agent_was_gone_is_told_and_closed_again() -> Result<()> {
    let mut world = World::new(1)?;
    let addr = world.fleet.cluster.pods[0].addr();
    for name in ["hold", "broken"] {
        fs::write(world.fleet.folder(0).join(name), "")?;
    }
    let mut rollout = world.start(&[])?;
    world.await_command("web-0")?;
    world.agent.crash()?;
    let client = &world.fleet.cluster.client;
    ensure!(net::attempt(client, addr, LIMIT)? == Attempt::Refused);
    // As when the lease is over, which takes longer.
    ensure!(world.agent.uninstall()?.status.success());
    ensure!(net::attempt(client, addr, LIMIT)? == Attempt::Connected);
    world.agent.launch(&[])?;
    let told = "port 80 has traffic before it is known to be healthy";
    eventually(LIMIT, "it is told", || Ok(rollout.stderr()?.contains(told)))?;
    fs::write(world.fleet.folder(0).join("go"), "")?;
    let failed = rollout.wait()?.expect(1)?.says("failed  not closed")?;
    ensure!(!failed.stderr.contains("kept out"), "{failed}");

    fs::remove_file(world.fleet.folder(0).join("broken"))?;
    let before = world.agent.metric("drained_total")?;
    world.run(0, &["--resume"])?;
    ensure!(world.agent.metric("drained_total")? == before + 1, "it was not drained again");
    ensure!(world.fleet.versions()? == ["version-new"]);
    Ok(())
}

#[test]
fn what_somebody_else_drains_is_left_to_them() -> Result<()> {
    let world = World::new(2)?;
    fs::write(world.fleet.folder(0).join("hold"), "")?;
    let rollout = world.start(&["--json"])?;
    world.await_command("web-0")?;
    let theirs = world.agent.ctl(&world.fleet.cluster.pods[1].netns);
    theirs.expect(0, &["drain", "--port", "80", "--quiet", "0s"])?;
    fs::write(world.fleet.folder(0).join("go"), "")?;
    let stopped = rollout.wait()?.expect(8)?.says("web-1: port 80 is drained already")?;
    ensure!(reported(&stopped)? == ["released", "untouched"], "{stopped}");
    ensure!(world.states()? == ["serving", "drained"], "their drain is over");
    ensure!(world.fleet.commands()?.len() == 1, "{:?}", world.fleet.commands()?);
    theirs.expect(0, &["undrain", "--port", "80"])?;
    world.run(0, &["--resume"])?;
    Ok(())
}

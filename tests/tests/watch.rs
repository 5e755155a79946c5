//! `drainctl watch` in a real terminal.

use std::fs;

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    cluster::PORT,
    fixture::{Fixture, serve},
    tmux::Tmux,
    wait::{LIMIT, eventually},
};
use rustix::process::{Pid, Signal, kill_process};

/// The smallest terminal that people use.
const SMALL: (u16, u16) = (80, 24);

/// How the terminal is set, beside what is on it.
fn settings(tmux: &Tmux) -> Result<String> {
    let tty = tmux.tell(&["display-message", "-p", "#{pane_tty}"])?;
    let file = fs::File::open(tty.trim())?;
    let output = std::process::Command::new("stty").arg("-g").stdin(file).output()?;
    let flags = tmux.tell(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"])?;
    Ok(flags + &String::from_utf8_lossy(&output.stdout))
}

/// The escape sequences for colours that are to be seen.
fn colours(tmux: &Tmux) -> Result<Vec<String>> {
    let drawn = tmux.tell(&["capture-pane", "-p", "-e"])?;
    let sequences = drawn.split("\u{1b}[").skip(1).filter_map(|rest| rest.split_once('m'));
    let codes = sequences.map(|(codes, _)| codes.to_owned());
    // 30 to 37, and 38 with another number.
    Ok(codes
        .filter(|codes| {
            codes.split(';').any(|code| code.len() == 2 && code.starts_with('3') && code != "39")
        })
        .collect())
}

/// Waits until the shell has the terminal again: what is typed before may be taken for keys.
fn await_shell(tmux: &Tmux) -> Result<()> {
    eventually(LIMIT, "the shell is back", || {
        Ok(tmux.tell(&["display-message", "-p", "#{pane_current_command}"])?.trim() == "sh")
    })
}

/// The command line, which leaves its process id in a file.
fn command(fixture: &Fixture) -> String {
    let (dir, socket) = (fixture.agent.dir().display(), fixture.agent.socket());
    let program = fixture.agent.dist().drainctl();
    let (program, socket) = (program.display(), socket.display());
    format!("sh -c 'echo $$ > {dir}/pid; exec {program} watch --agent {socket}'")
}

#[test]
fn a_drain_is_seen_and_the_terminal_is_as_it_was_afterwards() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let _another = serve(fixture.pod(), 81)?;
    let tmux = Tmux::start(&fixture.pod().netns, SMALL.0, SMALL.1)?;
    tmux.line("echo written before")?;
    tmux.await_text(&["\nwritten before"])?;
    let before = settings(&tmux)?;

    let watch = command(&fixture);
    tmux.line(&watch)?;
    tmux.await_text(&["2 services, 0 draining   live", ":80 ", ":81 ", "no drain is under way"])?;
    ensure!(settings(&tmux)? != before, "it draws on a screen of its own");
    let blocking = fixture.pair()?;
    let drain = [
        "drain",
        "--port",
        "80",
        "--quiet",
        "0s",
        "--retire",
        "none",
        "--timeout",
        "2m",
        "--no-wait",
    ];
    fixture.ctl().expect(0, &drain)?;
    let client = blocking.client.local_addr()?.to_string();
    // The port that drains has come first.
    tmux.await_text(&["1 draining", "▒ rejecting", "left: 1 connection,", ":80   ", ":81   "])?;
    tmux.keys(&["Home"])?;
    tmux.await_text(&[&client])?;
    ensure!(!colours(&tmux)?.is_empty(), "nothing is in colour");
    keys_and_sizes(&tmux, &client)?;

    fixture.agent.crash()?;
    tmux.await_text(&["NO CONNECTION for", "rejecting"])?;
    fixture.agent.launch(&[])?;
    tmux.await_text(&["live", "rejecting"])?;
    drop(blocking);
    tmux.await_text(&["safe to stop the server"])?;
    tmux.keys(&["q"])?;
    await_shell(&tmux)?;
    tmux.line("echo it ended with $?")?;
    tmux.await_text(&["written before", "it ended with 0"])?;
    ensure!(settings(&tmux)? == before, "{} was {before}", settings(&tmux)?);

    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let number = signal.as_raw();
        tmux.line(&format!("NO_COLOR=1 {watch}"))?;
        tmux.await_text(&["live", "drained"])?;
        ensure!(colours(&tmux)?.is_empty(), "{:?}", colours(&tmux)?);
        let pid = fs::read_to_string(fixture.agent.dir().join("pid"))?.trim().parse()?;
        kill_process(Pid::from_raw(pid).context("a pid")?, signal)?;
        await_shell(&tmux)?;
        tmux.line(&format!("echo $? after {number}"))?;
        tmux.await_text(&[&format!("\n130 after {number}")])?;
        ensure!(settings(&tmux)? == before, "{} was {before}", settings(&tmux)?);
    }
    fixture.ctl().expect(0, &["undrain", "--port", "80"])?;
    Ok(())
}

/// While port 80 is drained.
fn keys_and_sizes(tmux: &Tmux, client: &str) -> Result<()> {
    tmux.keys(&["Down"])?;
    tmux.await_text(&["serving: no drain is under way"])?;
    tmux.keys(&["/", ":", "8", "0"])?;
    let text = tmux.await_text(&["/:80", "left: 1 connection,"])?;
    ensure!(!text.contains(":81 "), "{text}");
    tmux.keys(&["Enter"])?;
    tmux.await_text(&["only /:80", client])?;
    tmux.tell(&["resize-window", "-x", "120", "-y", "40"])?;
    let long = "─".repeat(90);
    tmux.await_text(&[client, &long, "protocol unknown"])?;
    tmux.keys(&["Enter"])?;
    tmux.await_text(&[client, &long, "still be a request in flight"])?;
    tmux.tell(&["resize-window", "-x", &SMALL.0.to_string(), "-y", &SMALL.1.to_string()])?;
    // Two escapes at once would be another key.
    tmux.keys(&["Enter", "Escape"])?;
    tmux.await_text(&[":81 ", "q quit", client]).map(drop)
}

#[test]
fn without_a_terminal_it_says_what_to_use_instead() -> Result<()> {
    let fixture = Fixture::new()?;
    for args in [&["watch"][..], &["watch", "--json"], &["watch", "--port", &PORT.to_string()]] {
        fixture.ctl().expect(2, args)?.says("drainctl status --json")?;
    }
    Ok(())
}

//! What the kernel programs cost on the running kernel: starts an agent, and prints one line of JSON for
//! `cargo xtask bpf stats`.

mod trace;

use std::{
    fs::File,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use drainctl_tests::{bpffs::Bpffs, cmd, dist::Dist, http, process, wait::eventually};
use serde_json::{Value, json};
use trace::Logs;

const LIMIT: Duration = Duration::from_secs(20);

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (dist, bpffs) = (Dist::from_env()?, Bpffs::mount()?);
    let socket = folder.path().join("agent.sock");
    let log = File::create(folder.path().join("log"))?;
    let mut agent = Command::new(dist.agent());
    agent.arg("--socket").arg(&socket).arg("--pin-dir").arg(bpffs.pin_dir());
    agent.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = trace::start(&mut agent)?;
    let pid = i32::try_from(child.id())?;
    let (logs, over) = (Mutex::new(Logs::new()), AtomicBool::new(false));
    let report = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let report = ask(&dist, &socket, &logs, &over);
            process::kill(pid); // Whatever came of it: the tracer waits for the end.
            report
        });
        let followed = trace::follow(&child, |name, log| {
            logs.lock().expect("nobody panics with it").insert(name, log);
        });
        if let Err(error) = followed {
            // Nobody lets it go on any more, and so nobody would be answered.
            eprintln!("{error:#}");
            std::process::exit(1);
        }
        over.store(true, Ordering::Relaxed);
        asking.join().expect("it does not panic")
    });
    let _ = child.wait(); // The tracer may have seen it off.
    let report = report
        .with_context(|| std::fs::read_to_string(folder.path().join("log")).unwrap_or_default())?;
    println!("drainctl-bpf-stats {report}");
    Ok(())
}

/// Waits until everything is loaded, and asks the kernel.
fn ask(dist: &Dist, socket: &Path, logs: &Mutex<Logs>, over: &AtomicBool) -> Result<Value> {
    eventually(LIMIT, "the agent answers", || {
        ensure!(!over.load(Ordering::Relaxed), "the agent has ended");
        Ok(http::unix(socket, "GET", "/healthz", "").is_ok_and(|answer| answer.status == 200))
    })?;
    // One program is there only while a drain forwards.
    let server = TcpListener::bind("127.0.0.1:0")?;
    let port = server.local_addr()?.port().to_string();
    let mut drain = Command::new(dist.drainctl());
    drain.arg("--agent").arg(socket).args(["drain", "--host", "--port", &port, "--quiet", "0s"]);
    drain.args(["--new", "forward=127.0.0.1:1", "--no-wait"]);
    let done = cmd::output(&mut drain, "")?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let has = |name: &str| logs.lock().expect("nobody panics with it").contains_key(name);
    eventually(LIMIT, "all are loaded", || Ok(has("hop") && has("gate")))?;
    let programs = programs(&logs.lock().expect("nobody panics with it"))?;
    Ok(json!({ "programs": programs, "maps": maps()? }))
}

/// Those that are loaded now: the agent has tried others.
fn programs(logs: &Logs) -> Result<Value> {
    let mut programs = serde_json::Map::new();
    for program in listed("prog")? {
        let Some(name) = program["name"].as_str() else { continue };
        let Some(log) = logs.get(name) else { continue };
        let of = |word: &str| number(log, word).with_context(|| format!("{name}: {log:?}"));
        programs.insert(
            name.to_owned(),
            json!({
                "instructions": program["bytes_xlated"].as_u64().unwrap_or_default() / 8,
                "verified": of("processed ")?,
                "states": of("peak_states ")?,
                "stack": stack(log).with_context(|| format!("{name}: {log:?}"))?,
            }),
        );
    }
    Ok(programs.into())
}

/// What maps of one name take together, in bytes.
fn maps() -> Result<Value> {
    let mut maps = serde_json::Map::new();
    for map in listed("map")? {
        let name = map["name"].as_str().unwrap_or_default();
        let before = maps.get(name).and_then(Value::as_u64).unwrap_or_default();
        let bytes = map["bytes_memlock"].as_u64().unwrap_or_default();
        maps.insert(name.to_owned(), json!(before + bytes));
    }
    Ok(maps.into())
}

fn listed(what: &str) -> Result<Vec<Value>> {
    let text = cmd::run("bpftool", &["-j", what, "show"])?;
    serde_json::from_str(&text).with_context(|| format!("bpftool {what} show"))
}

/// The number behind a word.
fn number(log: &str, word: &str) -> Option<u64> {
    let (_, rest) = log.split_once(word)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// `stack depth 88+32`: of the program, and of each function that it calls. Since Linux 7, that line has their maximum,
/// and one line for each of them follows: `subprog 0 (gate) … stack 88`.
fn stack(log: &str) -> Option<u64> {
    let (_, rest) = log.split_once("stack depth ")?;
    let numbers: Vec<&str> = match rest.strip_prefix("max ") {
        Some(rest) => {
            let lines = rest.lines().filter(|line| line.starts_with("subprog "));
            lines.filter_map(|line| Some(line.rsplit_once(" stack ")?.1)).collect()
        }
        None => rest.lines().next()?.split('+').collect(),
    };
    numbers.iter().map(|number| number.trim().parse::<u64>().ok()).sum()
}

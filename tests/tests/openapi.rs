//! docs/openapi.yaml says what the running agent does: schemathesis asks for everything that is described, right and
//! wrong, and holds each answer to the description.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{cluster::PORT, fixture::Fixture, process::Process, wait::LIMIT};

const TOKEN: &str = "a-token-of-the-test";

/// The description with nothing but services of one network namespace in it: whatever is asked for stays there.
fn description(netns: u32) -> Result<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.yaml");
    let mut text = fs::read_to_string(file)?;
    let netns_is = format!("{{const: \"{netns}\"}}");
    let narrower = [
        (r#"{type: string, pattern: "^([0-9]{1,10}|host|all)$"}"#, netns_is.clone()),
        (r#"{type: string, pattern: "^([0-9]{1,10}|host)$"}"#, netns_is),
        (
            "anyOf: [{type: integer, minimum: 0, maximum: 4294967295}, {const: host}]",
            format!("const: {netns}"),
        ),
        (
            r#"ServiceId: {type: string, pattern: "^[0-9]{1,10}:[1-9][0-9]{0,4}$", examples: ["4026531840:8080"]}"#,
            format!("ServiceId: {{enum: [\"{netns}:{PORT}\", \"{netns}:81\"]}}"),
        ),
        (
            "Port: {type: integer, minimum: 1, maximum: 65535}",
            format!("Port: {{enum: [{PORT}, 81]}}"),
        ),
    ];
    for (from, to) in narrower {
        ensure!(text.contains(from), "the description has no more {from}");
        text = text.replace(from, &to);
    }
    Ok(text)
}

/// A program of the environment with schemathesis.
fn program(name: &str) -> Result<PathBuf> {
    let peers = env::var_os("DRAINCTL_PEERS")
        .context("DRAINCTL_PEERS does not name the peers: run `cargo xtask test integration`")?;
    Ok(Path::new(&peers).join("openapi/bin").join(name))
}

#[test]
fn every_answer_is_as_described() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = |name| dir.path().join(name);
    fs::write(path("token"), TOKEN)?;
    let token = path("token").display().to_string();
    let fixture = Fixture::with(&["--listen", "127.0.0.1:0", "--token-file", &token])?;
    fs::write(path("openapi.yaml"), description(fixture.pod().netns.inode())?)?;
    let url = format!("http://{}", fixture.agent.endpoint()?);

    follow_a_drain(&fixture, dir.path(), &url)?;
    let mut fuzz = Command::new(program("schemathesis")?);
    fuzz.current_dir(&dir).args(["run", "openapi.yaml", "--url", &url]);
    fuzz.args(["--header", &format!("Authorization: Bearer {TOKEN}")]);
    // Faster than the agent's limit all answers would be 429.
    fuzz.args(["--rate-limit", "45/s", "--max-examples", "30", "--seed", "20", "--mode", "all"]);
    fuzz.args(["--phases", "examples,coverage,fuzzing", "--no-color"]);
    let checks = [
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
    ];
    fuzz.args(["--checks", &checks.join(",")]);
    // It does not end while a drain goes on.
    fuzz.args(["--exclude-operation-id", "watch"]);
    println!("{}", said(fuzz)?);
    Ok(())
}

/// The stream of events, which has no end while a drain goes on.
fn follow_a_drain(fixture: &Fixture, dir: &Path, url: &str) -> Result<()> {
    let ctl = fixture.ctl();
    let _keeps_it_going = fixture.pair()?;
    ctl.expect(0, &["drain", "--port", "80", "--quiet", "0s", "--retire", "none", "--no-wait"])?;
    ctl.await_state(PORT, "rejecting")?;
    let stream = format!("{url}/v1/events?services={}:{PORT}", fixture.pod().netns.inode());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/events.py");
    let mut events = Command::new(program("python")?);
    events.current_dir(dir).arg(script).args(["openapi.yaml", &stream, TOKEN, "2"]);
    let mut child = events.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    let mut events = Process::new(child, "events.py");
    let first = lines.next().context("the stream says nothing")??;
    ensure!(first == "status rejecting", "{first}");
    ctl.expect(0, &["undrain", "--port", "80"])?;
    // A look that ended just then is told too.
    let last = lines.find(|line| !matches!(line, Ok(line) if line == "status rejecting"));
    let last = last.context("the stream ends without a word")??;
    ensure!(last == "ended serving", "{last}");
    ensure!(events.wait(LIMIT)?.success());
    Ok(())
}

/// What a program prints that succeeds.
fn said(mut command: Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

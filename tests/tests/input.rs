//! Bad input: a clear message, the documented exit code, and nothing changed.

use anyhow::{Result, ensure};
use drainctl_tests::{cluster::PORT, fixture::Fixture, net, netns::Netns};

/// The permitted form first: the same fixture, and the gate really closes and opens.
fn fixture() -> Result<Fixture> {
    let fixture = Fixture::new()?;
    fixture.ensure_untouched()?;
    fixture.ctl().expect(0, &["drain", "--port", "80", "--quiet", "0s"])?;
    fixture.await_refused()?;
    ensure!(fixture.service()?.rejected > 0);
    fixture.ctl().expect(0, &["undrain", "--port", "80"])?;
    fixture.ensure_untouched()?;
    Ok(fixture)
}

#[test]
fn ports_that_make_no_sense() -> Result<()> {
    let fixture = fixture()?;
    let ctl = fixture.ctl();
    ctl.expect(6, &["drain", "--port", "81", "--quiet", "0s"])?.says("81")?;
    ctl.expect(6, &["ready", "--port", "81"])?.says("81")?;
    ctl.expect(6, &["drain", "--port", "80,81", "--quiet", "0s"])?.says("81")?;
    for port in ["0", "70000", "-1", "http", "", "80,,81"] {
        let outcome = ctl.expect(2, &["drain", &format!("--port={port}")])?;
        ensure!(!outcome.stderr.is_empty(), "no message: {outcome}");
    }
    ctl.expect(2, &["drain"])?;
    // A connection made from a port is no service on it.
    let outgoing = net::connect(&fixture.pod().netns, ([127, 0, 0, 1], PORT).into())?;
    let port = outgoing.local_addr()?.port().to_string();
    ctl.expect(6, &["drain", "--port", &port, "--quiet", "0s"])?.says(&port)?;
    drop((outgoing, fixture.server.accept()?));
    fixture.ensure_untouched()
}

#[test]
fn targets_that_are_none() -> Result<()> {
    let fixture = fixture()?;
    let host = Netns::host()?;
    let ctl = fixture.agent.ctl(&host);
    let mut process = std::process::Command::new("true").spawn()?;
    process.wait()?;
    let vanished = process.id().to_string();
    // No pid is larger than the kernel's limit of 2^22.
    let targets = [
        (6, ["--pid", vanished.as_str()]),
        (6, ["--pid", "4194305"]),
        (2, ["--pid", "0"]),
        (2, ["--netns", "/run/netns/drainctl-t-none"]),
        (2, ["--netns", "/etc/hostname"]),
        (2, ["--netns", "/proc/self/ns/uts"]),
    ];
    for (code, target) in targets {
        let drain = ["drain", "--port", "80", "--quiet", "0s", target[0], target[1]];
        ctl.expect(code, &drain)?.says(target[1])?;
    }
    ctl.expect(2, &["drain", "--port", "80", "--host", "--pid", "1"])?;
    fixture.ensure_untouched()
}

#[test]
fn options_that_contradict_or_are_not_built() -> Result<()> {
    let fixture = fixture()?;
    let ctl = fixture.ctl();
    let cases: [&[&str]; 17] = [
        &["--min-settle", "20s", "--max-settle", "10s"],
        &["--max-settle", "30s", "--timeout", "25s"],
        &["--min-settle", "30s", "--timeout", "25s"],
        &["--lease", "30s", "--timeout", "25s"],
        &["--quiet", "soon"],
        &["--timeout", "0s"],
        &["--new", "forget"],
        &["--new", "forward=127.0.0.1"],
        &["--retire", "http2"],
        &["--retire", "none,idle"],
        &["--retire", "quiet"],
        &["--retire", "http", "--idle-after", "2s"],
        &["--quiet-flow-after", "10s"],
        &["--spread", "25s"],
        &["--at-deadline", "reset"],
        &["--pod", "web"],
        &["--no-such-option"],
    ];
    for options in cases {
        let outcome = ctl.run(&[&["drain", "--port", "80"], options].concat())?;
        ensure!(outcome.code == Some(2), "{options:?}: {outcome}");
        ensure!(!outcome.stderr.is_empty(), "{options:?}: no message");
    }
    fixture.ensure_untouched()
}

#[test]
fn requests_that_make_no_sense() -> Result<()> {
    let fixture = fixture()?;
    let netns = fixture.pod().netns.inode();
    let huge = format!("{{\"ports\":[{}80]}}", "80,".repeat(200_000));
    let many = serde_json::json!({ "ports": Vec::from_iter(1..=65) }).to_string();
    let cases = [
        ("{".to_owned(), &[400][..]),
        (String::new(), &[400]),
        ("[]".into(), &[400]),
        ("{\"ports\":\"80\"}".into(), &[400]),
        ("{\"ports\":[]}".into(), &[400]),
        ("{\"ports\":[0]}".into(), &[400]),
        ("{\"ports\":[70000]}".into(), &[400]),
        (format!("{{\"ports\":[80],\"netns\":{netns},\"colour\":\"red\"}}"), &[400]),
        (format!("{{\"ports\":[80],\"netns\":{netns},\"quiet_ms\":-1}}"), &[400]),
        ("{\"ports\":[80],\"netns\":\"moon\"}".into(), &[400]),
        (many, &[400]),
        (format!("{{\"ports\":[81],\"netns\":{netns}}}"), &[404]),
        ("{\"ports\":[80],\"netns\":1}".into(), &[404]),
        (huge, &[413]),
    ];
    for (body, statuses) in cases {
        let answer = fixture.agent.http("POST", "/v1/drains", &body)?;
        let shown: String = body.chars().take(60).collect();
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(statuses.contains(&answer.status), "{shown}: {} {text}", answer.status);
        let error: serde_json::Value = serde_json::from_str(&text)?;
        ensure!(error["error"]["code"].is_string(), "{shown}: {text}");
        ensure!(error["error"]["message"].as_str().is_some_and(|it| !it.is_empty()), "{text}");
    }
    let missing = fixture.agent.http("GET", "/v2/nothing", "")?;
    ensure!(missing.status == 404, "{missing:?}");
    let odd = fixture.agent.http("DELETE", "/v1/drains/no-service-id", "")?;
    ensure!(matches!(odd.status, 400 | 404), "{odd:?}");
    fixture.ensure_untouched()
}

#[test]
fn undrain_of_what_is_not_drained() -> Result<()> {
    let fixture = fixture()?;
    fixture.ctl().expect(0, &["undrain", "--port", "80"])?.says("80")?;
    fixture.ctl().expect(6, &["undrain", "--port", "81"])?;
    fixture.ensure_untouched()
}

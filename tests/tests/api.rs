//! The agent's interface for everybody but `drainctl`: curl on the Unix socket, health checks, metrics;
//! and the verbs that only look.

use anyhow::{Context, Result, ensure};
use drainctl_tests::{cluster::PORT, cmd, fixture::Fixture, wait::LIMIT, wait::eventually};
use serde_json::Value;

/// What curl in the pod gets: HTTP status and body.
fn curl(fixture: &Fixture, path: &str) -> Result<(u16, String)> {
    let socket = fixture.agent.socket();
    let socket = socket.to_str().context("path")?;
    let url = format!("http://agent{path}");
    let args = ["-sS", "--max-time", "10", "-w", "\n%{http_code}", "--unix-socket", socket, &url];
    let text = fixture.pod().netns.run(|| cmd::run("curl", &args))?;
    let (body, status) = text.rsplit_once('\n').context("no status")?;
    Ok((status.parse()?, body.to_owned()))
}

#[test]
fn curl_on_the_unix_socket_works() -> Result<()> {
    let fixture = Fixture::new()?;
    let pair = fixture.pair()?;
    let (status, body) = curl(&fixture, "/v1/services")?;
    let list: Value = serde_json::from_str(&body)?;
    let ports: Vec<_> = list["services"].as_array().context("a list")?.iter().collect();
    ensure!(status == 200 && ports.len() == 1, "only the pod's own: {body}");
    ensure!(ports[0]["port"] == 80 && ports[0]["flows"] == 1, "{body}");
    let id = format!("{}:80", fixture.pod().netns.inode());
    ensure!(ports[0]["id"] == id.as_str(), "{body}");
    let (status, body) = curl(&fixture, &format!("/v1/services/{id}/flows"))?;
    ensure!(status == 200 && body.contains("ESTAB"), "{body}");
    ensure!(curl(&fixture, "/healthz")?.0 == 200);
    ensure!(fixture.accepted()? == 1);
    drop(pair);
    Ok(())
}

#[test]
fn health_checks_follow_the_drain() -> Result<()> {
    let fixture = Fixture::new()?;
    let pair = fixture.pair()?;
    ensure!(curl(&fixture, "/serving/80")?.0 == 200);
    ensure!(curl(&fixture, "/drained/80")?.0 == 503);
    let drain = fixture.ctl().start(&["drain", "--port", "80", "--min-settle", "2s"])?;
    fixture.ctl().await_state(PORT, "settling")?;
    ensure!(curl(&fixture, "/serving/80")?.0 == 503, "not ready from the start");
    fixture.ctl().await_state(PORT, "rejecting")?;
    ensure!(curl(&fixture, "/drained/80")?.0 == 503);
    drop(pair);
    drain.wait()?.expect(0)?;
    ensure!(curl(&fixture, "/drained/80")?.0 == 200);
    ensure!(curl(&fixture, "/drained/81")?.0 == 404);
    // As root of the host one may ask about any namespace; there is none with this number.
    ensure!(fixture.agent.http("GET", "/drained/80?netns=1", "")?.status == 404);
    fixture.await_refused()?;
    ensure!(fixture.service()?.rejected > 0);
    Ok(())
}

#[test]
fn metrics_are_prometheus_text_and_move() -> Result<()> {
    let fixture = Fixture::new()?;
    let metrics = || -> Result<String> {
        let (status, body) = curl(&fixture, "/metrics")?;
        ensure!(status == 200);
        Ok(body)
    };
    ensure!(metrics()?.contains("# TYPE drainctl_"), "{}", metrics()?);
    fixture.ctl().expect(0, &["drain", "--port", "80", "--quiet", "0s"])?;
    fixture.await_refused()?;
    let rejected = |text: &str| {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.any(|line| line.contains("rejected") && !line.ends_with(" 0"))
    };
    eventually(LIMIT, "a metric tells of the rejected", || Ok(rejected(&metrics()?)))
}

#[test]
fn flows_tell_who_is_there_and_why() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut pair = fixture.pair()?;
    pair.exchange()?;
    let outcome = fixture.ctl().expect(0, &["flows", "--port", "80", "--json"])?;
    let list: Value = serde_json::from_str(&outcome.stdout)?;
    let flows = list["services"][0]["flows"].as_array().context("a list")?;
    ensure!(flows.len() == 1, "{outcome}");
    let flow = &flows[0];
    let peer = pair.client.local_addr()?;
    // The listener is dual-stack, and still the peer is shown as what it is.
    ensure!(flow["peer"] == peer.to_string().as_str(), "{peer}: {flow}");
    ensure!(flow["tcp_state"] == "ESTAB" && flow["bytes_in"] == 16, "{flow}");
    ensure!(flow["age_ms"].is_u64() && flow["why"].as_str().is_some_and(|why| !why.is_empty()));
    eventually(LIMIT, "it becomes quiet", || {
        let outcome = fixture.ctl().expect(0, &["flows", "--port", "80", "--json"])?;
        let list: Value = serde_json::from_str(&outcome.stdout)?;
        Ok(list["services"][0]["flows"][0]["activity"] == "quiet")
    })?;
    let human = fixture.ctl().expect(0, &["flows", "--port", "80"])?;
    ensure!(human.stdout.contains(&peer.ip().to_string()), "{human}");
    fixture.ctl().expect(6, &["flows", "--port", "81"])?;
    ensure!(fixture.accepted()? == 1);
    Ok(())
}

#[test]
fn status_is_a_table_a_person_can_read() -> Result<()> {
    let fixture = Fixture::new()?;
    let pair = fixture.pair()?;
    let human = fixture.ctl().expect(0, &["status"])?;
    ensure!(human.stdout.contains("serving") && human.stdout.contains("80"), "{human}");
    ensure!(fixture.service()?.flows == 1 && fixture.accepted()? == 1);
    ensure!(fixture.service()?.last_new_age_ms.is_some());
    drop(pair);
    Ok(())
}

#[test]
fn doctor_finds_this_machine_fit() -> Result<()> {
    let fixture = Fixture::new()?;
    let human = fixture.ctl().expect(0, &["doctor"])?;
    ensure!(human.stdout.to_lowercase().contains("btf"), "{human}");
    let json = fixture.ctl().expect(0, &["doctor", "--json"])?;
    serde_json::from_str::<Value>(&json.stdout)?;
    Ok(())
}

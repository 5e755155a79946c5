//! drainctl runs a server, drains it before it is stopped, and replaces it in place.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT, Pod, SERVICE},
    ctl::{Ctl, Running},
    fixture::Fixture,
    http,
    kubeproxy::Mode,
    load::{Load, Manner, Plan},
    nginx::{self, BODY, Nginx},
    wait::{LIMIT, eventually, eventually_some},
};
use rustix::process::{Pid, Signal, kill_process};

fn plan(manner: Manner) -> Plan {
    let (workers, pace, at_most) = (8, Duration::from_millis(20), u64::MAX);
    Plan { target: SERVICE.into(), path: "/ok", body: BODY, manner, workers, pace, at_most }
}

/// Clients that open a connection for each request, and clients that keep theirs.
fn loads(cluster: &Cluster) -> [Load; 2] {
    [Manner::OneRequest, Manner::KeepAlive].map(|manner| Load::start(&cluster.client, plan(manner)))
}

fn none_failed(loads: [Load; 2]) -> Result<()> {
    for load in loads {
        let tally = load.finish()?;
        println!("{tally}");
        ensure!(tally.failed() == 0 && tally.ok > 100, "{tally}");
    }
    Ok(())
}

/// nginx on port 80 of the pod, run by drainctl.
fn run(agent: &Agent, pod: &Pod, nginx: &Nginx, options: &[&str]) -> Result<Running> {
    let words = nginx.words()?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    agent.ctl(&pod.netns).start(&[&["run", "--port", "80"], options, &["--"], &words].concat())
}

fn prepare(pod: &Pod, version: &str) -> Result<Nginx> {
    Nginx::prepare(Arc::clone(&pod.netns), &[PORT], "reuseport", version, None)
}

fn version(cluster: &Cluster, pod: &Pod) -> Result<String> {
    let answer = http::get(&cluster.client, pod.addr(), "/version")?;
    Ok(String::from_utf8(answer.body)?)
}

#[test]
fn no_request_fails_when_the_server_is_stopped() -> Result<()> {
    let cluster = Cluster::new(2, Mode::Iptables)?;
    let agent = Agent::start()?;
    let nginx = prepare(&cluster.pods[0], "1")?;
    let server = run(&agent, &cluster.pods[0], &nginx, &[])?;
    let _other = Nginx::start(&cluster.pods[1])?;
    Nginx::await_answer(&cluster.client, cluster.pods[0].addr())?;
    let loads = loads(&cluster);
    eventually(LIMIT, "it serves", || Ok(nginx.served()? > 50))?;
    server.signal(Signal::TERM)?;
    agent.ctl(&cluster.pods[0].netns).await_state(PORT, "settling")?;
    // As late as rules are.
    std::thread::sleep(Duration::from_millis(500)); // not a wait for a state: this is how late the rules are
    cluster.set_endpoints(&[1])?;
    server.wait()?.expect(0)?.says("drained: port 80 is proven empty")?;
    none_failed(loads)
}

#[test]
fn no_request_fails_when_the_server_is_replaced_in_place() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let agent = Agent::start()?;
    let nginx = prepare(pod, "old")?;
    let mut server = run(&agent, pod, &nginx, &[])?;
    Nginx::await_answer(&cluster.client, pod.addr())?;
    let loads = loads(&cluster);
    eventually(LIMIT, "it serves", || Ok(nginx.served()? > 50))?;

    // One that does not come up changes nothing.
    nginx.rewrite("no-such-parameter", "bad")?;
    server.signal(Signal::HUP)?;
    eventually(LIMIT, "it is given up", || {
        Ok(server.stderr()?.contains("the old version goes on"))
    })?;
    ensure!(version(&cluster, pod)? == "old at 80\n");

    for new in ["new", "newest"] {
        nginx.rewrite("reuseport", new)?;
        let before = server.stderr()?.matches("has taken over").count();
        server.signal(Signal::HUP)?;
        let is = eventually(LIMIT, "it is replaced", || {
            ensure!(server.is_running()?, "it ended: {}", server.stderr()?);
            Ok(server.stderr()?.matches("has taken over").count() > before)
        });
        is.with_context(|| server.stderr().unwrap_or_default())?;
        ensure!(version(&cluster, pod)? == format!("{new} at 80\n"));
        agent.ctl(&pod.netns).await_state(PORT, "serving")?;
    }
    ensure!(agent.metric("drained_total")? >= 2, "both were proven empty");
    none_failed(loads)?;
    server.signal(Signal::TERM)?;
    server.wait()?.expect(0)?.says("drained: port 80")?;
    Ok(())
}

#[test]
fn the_exit_code_is_that_of_the_server() -> Result<()> {
    let fixture = Fixture::new()?;
    let table: [(&[&str], i32); 4] = [
        (&["--", "sh", "-c", "exit 5"], 5),
        (&["--", "sh", "-c", "kill -9 $$"], 137),
        (&["--", "no-such-server"], 127),
        // What is left behind by the server is nobody's but ours.
        (&["--", "sh", "-c", "(sleep 0.1 &); sleep 0.3; exit 6"], 6),
    ];
    for (words, code) in table {
        fixture.ctl().expect(code, &[&["run", "--port", "80"], words].concat())?;
    }
    let refused: [&[&str]; 4] = [
        &["--no-wait"],
        &["--host"],
        &["--new", "handoff=port:81"],
        &["--timeout", "1s", "--min-settle", "2s"],
    ];
    for options in refused {
        let words = ["--", "sh", "-c", "echo it runs"];
        let outcome =
            fixture.ctl().expect(2, &[&["run", "--port", "80"], options, &words].concat())?;
        ensure!(!outcome.stdout.contains("it runs"), "{outcome}");
    }
    Ok(())
}

#[test]
fn signals_reach_the_server_whether_there_is_an_agent_or_not() -> Result<()> {
    const SERVER: &str =
        "trap 'echo usr1' USR1; trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done";
    let mut fixture = Fixture::new()?;
    let held = fixture.pair()?;
    let begin = |fixture: &Fixture, options: &[&str]| -> Result<Running> {
        let words = ["--", "sh", "-c", SERVER];
        let mut server = fixture
            .ctl()
            .start(&[&["run", "--port", "80", "--retire", "none"], options, &words].concat())?;
        eventually(LIMIT, "it runs", || Ok(server.stdout()?.contains("up")))?;
        server.signal(Signal::USR1)?;
        eventually(LIMIT, "SIGUSR1 is passed on", || Ok(server.stdout()?.contains("usr1")))?;
        Ok(server)
    };
    // The second signal waits for nothing.
    let mut server = begin(&fixture, &["--quiet", "0s", "--timeout", "50s"])?;
    server.signal(Signal::TERM)?;
    fixture.ctl().await_state(PORT, "rejecting")?;
    ensure!(server.is_running()?);
    server.signal(Signal::TERM)?;
    server.wait()?.expect(9)?.says("stopped at once")?;
    fixture.ctl().expect(0, &["undrain", "--port", "80"])?;
    // Connections that remain at the deadline are no reason to go on for ever.
    let server = begin(&fixture, &["--quiet", "0s", "--timeout", "1s"])?;
    server.signal(Signal::TERM)?;
    server.wait()?.expect(9)?.says("port 80 still has 1 flow")?;
    fixture.ctl().expect(0, &["undrain", "--port", "80"])?;
    drop(held);
    let server = begin(&fixture, &["--if-unreachable", "fail"])?;
    fixture.agent.stop()?;
    server.signal(Signal::TERM)?;
    server
        .wait()?
        .expect(9)?
        .says("the server is stopped all the same")
        .map(drop)
        .context("no agent")
}

/// A drain that ends only with the last connection.
const HELD: [&str; 8] =
    ["--quiet", "0s", "--min-settle", "0s", "--retire", "none", "--timeout", "50s"];

/// The process of the version that was started last, as drainctl has said; there have been so many.
fn newest(server: &mut Running, count: usize) -> Result<Pid> {
    let begins = "the new version is process ";
    let pid = eventually_some(LIMIT, "a new version is started", || {
        let text = server.stderr()?;
        let starts: Vec<&str> = text.split(begins).skip(1).collect();
        let digits = |rest: &&str| rest.split(';').next().map(str::to_owned);
        Ok(starts.last().filter(|_| starts.len() == count).and_then(digits))
    })?;
    Pid::from_raw(pid.parse()?).context("a process id")
}

/// Has a new version take over, while a connection keeps the old one from being drained.
fn hand_over(server: &mut Running, ctl: &Ctl<'_>, count: usize) -> Result<Pid> {
    server.signal(Signal::HUP)?;
    let pid = newest(server, count)?;
    let is = ctl.await_service(PORT, "it is handed over", |service| {
        service.drain.as_ref().is_some_and(|drain| service.state == "rejecting" && drain.takers > 0)
    });
    is.with_context(|| server.stderr().unwrap_or_default())?;
    Ok(pid)
}

#[test]
fn a_new_version_that_dies_gives_the_ports_back_and_a_signal_waits_for_the_old_one() -> Result<()> {
    let cluster = Cluster::single()?;
    let (pod, client) = (&cluster.pods[0], &cluster.client);
    let agent = Agent::start()?;
    let ctl = agent.ctl(&pod.netns);
    let nginx = prepare(pod, "old")?;
    let mut server = run(&agent, pod, &nginx, &HELD)?;
    Nginx::await_answer(client, pod.addr())?;
    let mut kept = http::Client::connect(client, pod.addr())?;
    kept.get("/ready")?;

    nginx.rewrite("reuseport", "new")?;
    let new = hand_over(&mut server, &ctl, 1)?;
    ensure!(version(&cluster, pod)? == "new at 80\n");
    kill_process(new, Signal::TERM)?;
    let said = "no restart: the new version ended with code 0; the old version goes on";
    eventually(LIMIT, "it is told", || Ok(server.stderr()?.contains(said)))?;
    ctl.await_state(PORT, "serving")?;
    ensure!(version(&cluster, pod)? == "old at 80\n");
    ensure!(kept.get("/ready")?.status == 200, "the old version has lost a connection");

    hand_over(&mut server, &ctl, 2)?;
    server.signal(Signal::HUP)?;
    let said = "a restart is under way already";
    eventually(LIMIT, "it is told", || Ok(server.stderr()?.contains(said)))?;
    server.signal(Signal::TERM)?;
    let said = "SIGTERM: the new version is stopped as soon as the old one is drained";
    eventually(LIMIT, "it waits for the old one", || Ok(server.stderr()?.contains(said)))?;
    ensure!(kept.get("/ready")?.status == 200, "the old version does not serve to its end");
    drop(kept);
    let ended = server.wait()?.expect(0)?.says("has taken over, and the old one has ended")?;
    ended.says("SIGTERM: draining before the server is stopped")?;
    ensure!(!nginx::accepts(&pod.netns, PORT)?);
    Ok(())
}

/// Waits until a server that was told to stop waits for its old version, which goes on meanwhile.
fn await_both(server: &mut Running, kept: &mut http::Client) -> Result<()> {
    let said = "once more stops the old one at once";
    eventually(LIMIT, "it waits for the old one", || Ok(server.stderr()?.contains(said)))?;
    ensure!(server.is_running()? && kept.get("/ready")?.status == 200);
    Ok(())
}

#[test]
fn who_is_told_to_stop_in_a_restart_stops_whatever_comes_of_it() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let agent = Agent::start()?;
    let nginx = prepare(pod, "1")?;
    let begin = || -> Result<(Running, Pid, http::Client)> {
        let mut server = run(&agent, pod, &nginx, &HELD)?;
        Nginx::await_answer(&cluster.client, pod.addr())?;
        let mut kept = http::Client::connect(&cluster.client, pod.addr())?;
        kept.get("/ready")?;
        let new = hand_over(&mut server, &agent.ctl(&pod.netns), 1)?;
        server.signal(Signal::TERM)?;
        await_both(&mut server, &mut kept)?;
        Ok((server, new, kept))
    };
    // Told once more: for the old version nothing is waited for.
    let (server, _, mut kept) = begin()?;
    server.signal(Signal::TERM)?;
    server.wait()?.expect(0)?.says("the old version is stopped all the same")?;
    ensure!(kept.get("/ready").is_err(), "the old version still serves");

    // The new version dies: the old one has the ports again, and is stopped as it was to be.
    let (mut server, new, mut kept) = begin()?;
    kill_process(new, Signal::TERM)?;
    let said = "the new version ended with code 0; the old version is drained and stopped";
    eventually(LIMIT, "it is told", || Ok(server.stderr()?.contains(said)))?;
    ensure!(server.is_running()? && kept.get("/ready")?.status == 200);
    drop(kept);
    server.wait()?.expect(0)?.says("drained: port 80")?;
    ensure!(!nginx::accepts(&pod.netns, PORT)?);
    Ok(())
}

#[test]
fn who_is_told_to_stop_before_the_agent_has_answered_goes_by_the_answer() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let agent = Agent::start()?;
    let nginx = prepare(pod, "old")?;
    let mut server = run(&agent, pod, &nginx, &HELD)?;
    Nginx::await_answer(&cluster.client, pod.addr())?;
    let mut kept = http::Client::connect(&cluster.client, pod.addr())?;
    kept.get("/ready")?;
    nginx.rewrite("reuseport", "new")?;
    agent.pause()?;
    server.signal(Signal::HUP)?;
    let listens = || Ok(version(&cluster, pod)? == "new at 80\n");
    eventually(LIMIT, "the new version listens beside the old one", listens)?;
    server.signal(Signal::TERM)?;
    agent.resume()?;
    await_both(&mut server, &mut kept)?;
    drop(kept);
    server.wait()?.expect(0)?.says("has taken over, and the old one has ended")?;
    ensure!(!nginx::accepts(&pod.netns, PORT)?);
    Ok(())
}

/// Starts the rest, or something that never listens.
const MUTE: &str = r#"if test -e "$0"; then exec sleep 600; fi; exec "$@""#;

#[test]
fn a_new_version_that_does_not_listen_in_time_is_stopped() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let agent = Agent::start()?;
    let ctl = agent.ctl(&pod.netns);
    let nginx = prepare(pod, "old")?;
    let dir = tempfile::tempdir()?;
    let flag = dir.path().join("mute");
    let name = flag.to_str().context("a path")?;
    let words = nginx.words()?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let begin = |ready: &str| -> Result<Running> {
        let options = ["run", "--port", "80", "--ready-timeout", ready];
        let wrapper = ["--", "sh", "-c", MUTE, name];
        let server = ctl.start(&[&options[..], &HELD, &wrapper, &words].concat())?;
        Nginx::await_answer(&cluster.client, pod.addr())?;
        fs::write(&flag, "")?;
        server.signal(Signal::HUP)?;
        Ok(server)
    };
    let ended = |new: Pid| Ok(!fs::exists(format!("/proc/{}", new.as_raw_nonzero()))?);
    let mut server = begin("500ms")?;
    let new = newest(&mut server, 1)?;
    eventually(LIMIT, "it is told", || Ok(server.stderr()?.contains("the old version goes on")))?;
    ensure!(server.stderr()?.contains("drainctl: no restart: "), "{}", server.stderr()?);
    eventually(LIMIT, "the new version is stopped", || ended(new))?;
    ensure!(version(&cluster, pod)? == "old at 80\n" && ctl.service(PORT)?.state == "serving");
    server.signal(Signal::TERM)?;
    server.wait()?.expect(0)?;
    fs::remove_file(&flag)?;

    // A signal meanwhile is for both.
    let mut server = begin("50s")?;
    let new = newest(&mut server, 1)?;
    server.signal(Signal::TERM)?;
    let stopped = server.wait()?.expect(0)?.says("SIGTERM: no restart")?;
    stopped.says("SIGTERM: draining before the server is stopped")?.says("drained: port 80")?;
    ensure!(ended(new)? && !nginx::accepts(&pod.netns, PORT)?);
    Ok(())
}

//! drainctl runs a server, drains it before it is stopped, and replaces it in place.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT, Pod, SERVICE},
    ctl::Running,
    fixture::Fixture,
    http,
    kubeproxy::Mode,
    load::{Load, Manner, Plan},
    nginx::{BODY, Nginx},
    wait::{LIMIT, eventually},
};
use rustix::process::Signal;

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
        eventually(LIMIT, "it is replaced", || {
            ensure!(server.is_running()?, "it ended: {}", server.stderr()?);
            Ok(server.stderr()?.matches("has taken over").count() > before)
        })?;
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

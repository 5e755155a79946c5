//! What the agent must be allowed to do: it works with exactly that, and says what is off without each.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT},
    ctl::{Outcome, Service},
    fixture::{Fixture, serve},
    held::{Held, drain},
    kubeapi::{KubeApi, NODE, RunningPod},
    kubelet::Kubelet,
    kubeproxy::Mode,
    net::{Attempt, Listening, Server, connect},
    netns::Netns,
    script::{talk, untold},
    wait::{LIMIT, eventually, throughout},
};

/// As docs/security.md has them. CAP_SYS_ADMIN contains CAP_BPF and CAP_PERFMON.
const CAPABILITIES: [&str; 5] =
    ["net_admin", "sys_admin", "sys_ptrace", "dac_read_search", "setuid"];

/// Another port than that of the fixture's server.
const OTHER: u16 = 8080;

/// `nobody`.
const NOBODY: u32 = 65534;

/// Makes everything read-only but the agent's own folder, in a mount namespace that goes on seeing what others mount.
const READ_ONLY: &str = "mount --rbind $0 $0 && mount -o remount,bind,ro / && exec \"$@\"";

const IDLE: &[&str] =
    &["--timeout", "50s", "--spread", "0s", "--retire", "idle", "--idle-after", "200ms"];

/// An agent with these capabilities and no others, no_new_privs, and a root that it cannot write to.
fn restricted(capabilities: &[&str], options: &[&str]) -> Result<Agent> {
    let mut agent = Agent::prepare()?;
    let dir = agent.dir().to_str().context("path")?.to_owned();
    let each = capabilities.iter().map(|name| format!(",+{name}")).collect::<String>();
    let bounding = format!("-all{each}");
    let mounts = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", READ_ONLY, &dir];
    let sets = ["setpriv", "--no-new-privs", "--inh-caps", "-all", "--bounding-set", &bounding];
    agent.set_wrapper(mounts.into_iter().chain(sets));
    agent.launch(options)?;
    Ok(agent)
}

/// Two pods, the first of which is drained.
fn fixture(agent: Agent) -> Result<Fixture> {
    let cluster = Cluster::new(2, Mode::Iptables)?;
    let server = serve(&cluster.pods[0], PORT)?;
    Ok(Fixture { agent, server, cluster })
}

/// A connection that is idle, of a server that is not root, while its port drains.
fn idle_of_nobody(fixture: &Fixture) -> Result<(Held, drainctl_tests::ctl::Running)> {
    let mut held = Held::new_as(NOBODY, &fixture.pod().netns, fixture.pair()?)?;
    let drain = drain(fixture, IDLE, [&held])?;
    talk(&mut held.wire, &untold())?;
    Ok((held, drain))
}

/// Has a user who is not root drain a port of his own and carry on what comes; it is to end so.
fn forward_as_nobody(fixture: &Fixture, code: i32) -> Result<Outcome> {
    let _server =
        Server::start_as(NOBODY, &fixture.pod().netns, Listening::on(fixture.pod().v4, OTHER))?;
    let to = format!("--new=forward={}", fixture.cluster.pods[1].v4);
    let nobody = fixture.ctl().as_user(NOBODY)?;
    let port = OTHER.to_string();
    nobody.expect(code, &["drain", "--port", &port, "--quiet", "0s", "--no-wait", &to])
}

#[test]
fn everything_works_with_exactly_these_privileges() -> Result<()> {
    let (kubelet, api, dir) = (Kubelet::new()?, KubeApi::start()?, tempfile::tempdir()?);
    let config = api.kubeconfig(dir.path())?;
    let kubernetes = ["--kubernetes", "require", "--kubeconfig", &config, "--node-name", NODE];
    let options = [&kubernetes[..], &["--probe-cgroup", kubelet.cgroup()?]].concat();
    let fixture = fixture(restricted(&CAPABILITIES, &options)?)?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", fixture.agent.pid()?))?;
    // Bits 2, 7, 12, 19 and 21, and no_new_privs.
    ensure!(status.contains("CapEff:\t0000000000281084\n"), "{status}");
    ensure!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    ensure!(!fixture.agent.log().contains("off:"), "{}", fixture.agent.log());

    // A drain that retires.
    let (held, drain) = idle_of_nobody(&fixture)?;
    held.wire.await_end()?;
    drop(held);
    drain.wait()?.expect(0)?;
    ensure!(fixture.attempt()? == Attempt::Refused && fixture.service()?.rejected > 0);
    fixture.ctl().expect(0, &["undrain", "--port", "80"])?;

    // One that carries on, for another user.
    let peer = serve(&fixture.cluster.pods[1], OTHER)?;
    forward_as_nobody(&fixture, 0)?;
    let carried = connect(&fixture.cluster.client, (fixture.pod().v4, OTHER).into())?;
    drop((peer.accept()?, carried));

    // And a hook.
    let running = RunningPod::start(&fixture.pod().netns)?;
    api.add(&running, &[("drainctl.dev/prestop-port", "9876")]);
    let log = || fixture.agent.log().contains("a preStop hook for this pod");
    eventually(LIMIT, "the hook is there", || Ok(log()))?;
    let url = format!("http://{}:9876/drain?port=80&quiet=0s", fixture.pod().v4);
    let (status, text) = kubelet.get(&fixture.cluster.node, &url, &[])?.answer()?;
    ensure!(status == 200, "{status} {text}");
    Ok(())
}

#[test]
fn without_one_it_does_not_start_or_says_what_is_off() -> Result<()> {
    for missing in CAPABILITIES {
        let others: Vec<_> = CAPABILITIES.into_iter().filter(|name| *name != missing).collect();
        let name = format!("CAP_{}", missing.to_uppercase());
        if missing == "dac_read_search" {
            let fixture = fixture(restricted(&others, &[])?)?;
            let log = fixture.agent.log();
            ensure!(log.contains(&name) && log.contains("off: idle connections"), "{log}");
            // And so it is: nothing happens to it, and it is waited for.
            let (held, mut drain) = idle_of_nobody(&fixture)?;
            // Not asked by drainctl: a process that is about to become one is root's, and has this process's sockets.
            let path = format!("/v1/services/{}:{PORT}", fixture.pod().netns.inode());
            throughout(Duration::from_millis(1500), "no FIN", || {
                let answer = fixture.agent.http("GET", &path, "")?;
                let service: Service = serde_json::from_slice(&answer.body)?;
                Ok(service.drain.context("it drains")?.retire.fin_sent == 0)
            })?;
            ensure!(drain.is_running()?);
            drop(held);
            drain.wait()?.expect(0)?;
        } else if missing == "setuid" {
            let fixture = fixture(restricted(&others, &[])?)?;
            let log = fixture.agent.log();
            ensure!(log.contains(&name) && log.contains("off: --new forward"), "{log}");
            forward_as_nobody(&fixture, 1)?.says(&name)?;
        } else {
            let error = restricted(&others, &[]).err().context("it started")?;
            let error = format!("{error:#}");
            ensure!(error.contains(&name) && error.contains("docs/security.md"), "{error}");
        }
    }
    Ok(())
}

#[test]
fn without_the_nodes_process_ids_callers_are_refused_and_told_why() -> Result<()> {
    let host = Netns::host()?;
    let mut agent = Agent::prepare()?;
    agent.launch(&[])?;
    agent.ctl(&host).expect(0, &["status"])?;
    agent.stop()?;
    agent.set_wrapper(["unshare", "--pid", "--fork", "--kill-child"]);
    agent.launch(&[])?;
    agent.ctl(&host).expect(5, &["status"])?.says("hostPID")?;
    // unshare(1) itself does not pass signals on.
    agent.crash()
}

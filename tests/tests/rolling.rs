//! Rolling restarts under load, with clients that never retry and rules that follow late.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT, SERVICE},
    kubeproxy::Mode,
    load::{Load, Manner, Plan, Tally},
    mix::{App, Entrance, Mix, Row, Scale},
    nginx::{BODY, Nginx},
    rolling::{self, Method, Server as _},
    wait::{LIMIT, eventually, is_slow},
};

fn plan(workers: u32, pace: Duration) -> Plan {
    let at_most = u64::MAX;
    let manner = Manner::OneRequest;
    Plan { target: SERVICE.into(), path: "/ok", body: BODY, manner, workers, pace, at_most }
}

/// About 800 requests a second.
fn short_connections() -> Plan {
    plan(16, Duration::from_millis(20))
}

/// One request every 3 s.
fn one_in_three_seconds() -> Plan {
    plan(1, Duration::from_secs(3))
}

/// About 80 requests a second: in an emulated machine more of them would keep kube-proxy from its work.
fn few_connections() -> Plan {
    plan(4, Duration::from_millis(50))
}

/// kube-proxy itself, with all the programs it runs, may take half a minute there to follow.
const PATIENT: [&str; 4] = ["--max-settle", "4m", "--timeout", "5m"];

/// The default; in an emulated machine three times that, as rules are three times as late there.
fn min_settle() -> &'static [&'static str] {
    if is_slow() { &["--min-settle", "9s"] } else { &[] }
}

/// Restarts three pods under load; what the clients saw, and what the gate refused.
fn restart(mode: Mode, load: Plan, options: &[&str]) -> Result<(Tally, u64)> {
    let cluster = Cluster::new(3, mode)?;
    let mut servers = cluster.pods.iter().map(Nginx::start).collect::<Result<Vec<_>>>()?;
    for pod in &cluster.pods {
        Nginx::await_answer(&cluster.client, pod.addr())?;
    }
    let agent = Agent::start()?;
    let load = Load::start(&cluster.client, load);
    let method = Method::Drain { agent: &agent, options };
    let restarts = rolling::restart_all(&cluster, &mut servers, method)?;
    let tally = load.finish()?;
    println!("{tally}; {restarts:?}");
    // The log is complete once nginx has ended.
    servers.iter_mut().try_for_each(Nginx::stop)?;
    let mut served = 0;
    for (pod, server) in cluster.pods.iter().zip(&servers) {
        let counts = agent.maps()?.counts(pod.netns.inode(), PORT)?;
        let accepted = counts.map_or(0, |counts| counts.accepted);
        ensure!(accepted >= server.served()?, "the tracker has missed connections");
        served += server.served()?;
    }
    ensure!(tally.ok == served, "clients got {} answers, servers gave {served}", tally.ok);
    Ok((tally, restarts.iter().map(|restart| restart.rejected).sum()))
}

#[test]
fn no_request_fails_behind_iptables_rules() -> Result<()> {
    let (tally, _) = restart(Mode::Iptables, short_connections(), &[])?;
    ensure!(tally.failed() == 0 && tally.ok > 1000, "{tally}");
    Ok(())
}

#[test]
fn no_request_fails_behind_nftables_rules() -> Result<()> {
    let (tally, _) = restart(Mode::Nftables, short_connections(), &[])?;
    ensure!(tally.failed() == 0 && tally.ok > 1000, "{tally}");
    Ok(())
}

#[test]
#[ignore = "needs IPVS in the kernel: cargo xtask vm runs it"]
fn no_request_fails_behind_ipvs() -> Result<()> {
    let (tally, _) = restart(Mode::Ipvs, few_connections(), &PATIENT)?;
    ensure!(tally.failed() == 0 && tally.ok > 100, "{tally}");
    Ok(())
}

#[test]
#[ignore = "needs IPVS in the kernel: cargo xtask vm runs it"]
fn requests_fail_behind_ipvs_where_servers_are_just_terminated() -> Result<()> {
    let cluster = Cluster::new(3, Mode::Ipvs)?;
    let mut servers = cluster.pods.iter().map(Nginx::start).collect::<Result<Vec<_>>>()?;
    for pod in &cluster.pods {
        Nginx::await_answer(&cluster.client, pod.addr())?;
    }
    let load = Load::start(&cluster.client, few_connections());
    rolling::restart_all(&cluster, &mut servers, Method::Terminate)?;
    let tally = load.finish()?;
    ensure!(tally.failed() > 0 && tally.ok > 100, "this load cannot show a failure: {tally}");
    Ok(())
}

#[test]
fn without_settling_requests_fail() -> Result<()> {
    let (tally, rejected) = restart(Mode::Iptables, short_connections(), &["--quiet", "0s"])?;
    ensure!(tally.refused > 0 && rejected > 0, "this load cannot show a failure: {tally}");
    ensure!(rejected >= tally.refused, "refused by somebody else than the gate: {tally}");
    Ok(())
}

#[test]
fn no_request_of_a_slow_load_fails() -> Result<()> {
    let (tally, _) = restart(Mode::Iptables, one_in_three_seconds(), min_settle())?;
    ensure!(tally.failed() == 0 && tally.ok >= 4, "{tally}");
    Ok(())
}

#[test]
fn no_request_of_any_kind_of_client_fails() -> Result<()> {
    // A download whose connection has its turn late is followed by another one.
    restart_under_every_load(&["--spread", "1s"]).map(drop)
}

/// Clients that keep their connections keep those too that the agent carries to a peer, and must be told to leave
/// them: else no drain would end.
#[test]
fn no_request_of_any_kind_of_client_fails_when_new_connections_are_forwarded_at_once() -> Result<()>
{
    let forward = format!("forward={}", SERVICE.ip());
    let carried = restart_under_every_load(&["--quiet", "0s", "--new", &forward])?;
    ensure!(carried > 0, "nothing was carried, so this shows nothing");
    Ok(())
}

/// Returns how many connections were carried.
fn restart_under_every_load(options: &[&str]) -> Result<u64> {
    let cluster = Cluster::new(3, Mode::Iptables)?;
    let mut apps = cluster.pods.iter().map(App::start).collect::<Result<Vec<_>>>()?;
    for pod in &cluster.pods {
        App::await_ready(&cluster.client, pod)?;
    }
    let agent = Agent::start()?;
    let pace = Duration::from_millis(40);
    let scale = Scale { short: (8, pace), kept: (16, pace), slow: 3, channels: 2 };
    let mix = Mix::start(&cluster.client, scale, Entrance::service())?;
    let method = Method::Drain { agent: &agent, options };
    let restarts = rolling::restart_all(&cluster, &mut apps, method)?;
    let rows = mix.finish(&mut apps)?.rows;
    println!("{rows:#?}\n{restarts:?}");
    for Row { name, clients, served } in rows {
        ensure!(clients.failed() == 0 && clients.ok > 0, "{name}: {clients}");
        let counted = served.is_none_or(|served| served == clients.total());
        ensure!(counted, "{name}: served {served:?} of {}", clients.total());
    }
    agent.metric("carried_total")
}

/// The last replica is replaced under a load of one request every 3 s: the drain begins in the middle
/// between two requests, and the rules name the old pod until 2 s later, so that the second one still
/// goes there.
fn replace_last_replica(options: &[&str]) -> Result<(Tally, u64)> {
    let cluster = Cluster::new(2, Mode::Iptables)?;
    let _servers = cluster.pods.iter().map(Nginx::start).collect::<Result<Vec<_>>>()?;
    cluster.set_endpoints(&[0])?;
    let agent = Agent::start()?;
    let ctl = agent.ctl(&cluster.pods[0].netns);
    let load = Load::start(&cluster.client, one_in_three_seconds());
    eventually(LIMIT, "a request was sent", || Ok(load.sent() == 2))?;
    let half = Duration::from_millis(1500);
    thread::sleep(half); // not a wait for a state: to the middle between two requests
    let drain = ctl.start(&[&["drain", "--port", "80"], options].concat())?;
    let late = Duration::from_secs(2);
    thread::sleep(late); // not a wait for a state: this is how late the rules are
    cluster.set_endpoints(&[1])?;
    drain.wait()?.expect(0)?;
    eventually(LIMIT, "a request went to the new pod", || Ok(load.sent() >= 4))?;
    let counts = agent.maps()?.counts(cluster.pods[0].netns.inode(), PORT)?;
    ensure!(counts.is_some_and(|counts| counts.accepted >= 2), "the tracker has counted nothing");
    Ok((load.finish()?, ctl.service(PORT)?.rejected))
}

#[test]
fn quiet_alone_would_close_too_early_for_a_slow_load() -> Result<()> {
    let (tally, rejected) = replace_last_replica(&["--min-settle", "0s", "--quiet", "1s"])?;
    ensure!(tally.refused > 0 && rejected > 0, "this load cannot show a failure: {tally}");
    let (tally, _) = replace_last_replica(min_settle())?;
    ensure!(tally.failed() == 0 && tally.ok >= 4, "{tally}");
    Ok(())
}

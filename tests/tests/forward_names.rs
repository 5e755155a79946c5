//! `--new forward=NAME`: peers that a real DNS server knows.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    cluster::PORT,
    cmd,
    fixture::serve,
    net::connect,
    process::Process,
    wait::{LIMIT, eventually},
    world::World,
};
use tempfile::tempdir;

/// Runs what follows with another resolver than this machine's.
const WITH_RESOLVER: &str = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";

#[test]
fn all_addresses_of_a_name_become_peers() -> Result<()> {
    let mut world = World::new()?;
    let [pod, peer] = [&world.cluster.pods[0], &world.cluster.pods[1]];
    let server = serve(peer, PORT)?;
    let dir = tempdir()?;
    let resolver = dir.path().join("resolv.conf");
    fs::write(&resolver, format!("nameserver {}\n", peer.v4))?;
    let mut command = Command::new("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]);
    command.args(["--user=root", "--pid-file=", "--bind-interfaces", "--local=/test/"]);
    command.arg(format!("--listen-address={}", peer.v4));
    command.arg(format!("--host-record=web-next.test,{},{}", peer.v4, peer.v6));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = peer.netns.run(|| command.spawn().context("start dnsmasq"))?;
    let mut dns = Process::new(child, "dnsmasq");
    eventually(LIMIT, "dnsmasq listens", || {
        ensure!(dns.exited()?.is_none(), "dnsmasq has ended");
        Ok(!peer.netns.run(|| cmd::run("ss", &["-Huln", "sport = :53"]))?.is_empty())
    })?;
    let resolver = resolver.to_str().context("a path of letters")?;
    let under = ["unshare", "--mount", "sh", "-c", WITH_RESOLVER, resolver];
    let ctl = world.agent.ctl(&pod.netns).under(&under);
    let drain = ["drain", "--port=80", "--quiet=0s", "--no-wait", "--retire=none"];
    let forward = |name: &'static str| [&drain[..], &["--new", name]].concat();
    ctl.expect(2, &forward("forward=nobody.test"))?.says("cannot find out the address")?;
    ensure!(world.ctl().service(PORT)?.state == "serving", "nothing was changed");
    ctl.expect(0, &forward("forward=web-next.test"))?;
    // Joined by who asks for the same, in whatever order the server says it.
    ctl.expect(0, &forward("forward=web-next.test"))?;
    for addr in [pod.addr(), pod.addr6()] {
        let client = connect(&world.cluster.client, addr)?;
        drop((client, server.accept().context("the peer got nothing")?));
    }
    let told = world.ctl().expect(0, &["status", "--json"])?.stdout;
    for addr in [peer.v4.to_string(), peer.v6.to_string()] {
        ensure!(told.contains(&addr), "{addr} is not among the peers: {told}");
    }
    world.ensure_nothing_is_left()
}

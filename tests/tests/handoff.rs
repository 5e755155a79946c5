//! `--new handoff`: a server is replaced on one machine, and nobody notices.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT, Pod},
    ctl::Ctl,
    http,
    load::{Load, Manner, Plan},
    net::{self, Attempt, LostAcks},
    netns::Netns,
    nginx::{BODY, Nginx, large},
    ss::Sockets,
    wait::{LIMIT, eventually},
};

/// Where a new server listens that cannot have the old one's port.
const OTHER: u16 = 8081;

/// What a server says who it is, and on which port it was asked.
fn version(client: &Netns, addr: SocketAddr) -> Result<String> {
    let answer = http::get(client, addr, "/version")?;
    Ok(String::from_utf8(answer.body)?.trim_end().to_owned())
}

fn loads(client: &Arc<Netns>, pod: &Pod) -> Vec<Load> {
    let plan = |target, path, body, manner, workers, pace| Plan {
        target,
        path,
        body,
        manner,
        workers,
        pace: Duration::from_millis(pace),
        at_most: u64::MAX,
    };
    [pod.addr(), pod.addr6()]
        .into_iter()
        .flat_map(|addr| {
            [
                plan(addr, "/ok", BODY, Manner::OneRequest, 8, 20),
                plan(addr, "/ok", BODY, Manner::KeepAlive, 8, 20),
                plan(addr, "/large", large(), Manner::SlowReader(4_000_000), 1, 20),
            ]
        })
        .map(|plan| Load::start(client, plan))
        .collect()
}

/// Lets each load send this many more.
fn await_more(loads: &[Load], more: u64) -> Result<()> {
    for load in loads {
        let from = load.sent();
        eventually(LIMIT, "the load goes on", || Ok(load.sent() >= from + more))?;
    }
    Ok(())
}

/// Replaces the old server under load; `handoff` says what is handed over to, given the new one's process id.
fn replace(ports: &[u16], listen: &str, handoff: impl Fn(u32) -> String) -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let mut old = Nginx::start_version(Arc::clone(&pod.netns), &[PORT], listen, "old")?;
    let agent = Agent::start()?;
    let ctl = agent.ctl(&pod.netns);
    let loads = loads(&cluster.client, pod);
    await_more(&loads, 2)?;
    let new = Nginx::start_version(Arc::clone(&pod.netns), ports, listen, "new")?;

    let handoff = handoff(new.pid().context("the new nginx runs")?);
    let mut drain = vec!["drain", "--port", "80", "--new", &handoff, "--timeout", "50s"];
    if ports == [PORT] {
        // While it settles, the kernel gives connections to both, and those of the new server are its own.
        drain.extend(["--min-settle", "1s", "--max-settle", "2s"]);
    }
    ctl.expect(0, &drain)?;
    for addr in [pod.addr(), pod.addr6()] {
        ensure!(version(&cluster.client, addr)? == "new at 80");
    }
    let service = ctl.service(PORT)?;
    let drain = service.drain.clone().context("the drain goes on")?;
    ensure!(service.state == "drained" && service.rejected == 0, "{service:?}");
    ensure!(drain.handed_over > 0 && drain.takers > 0 && service.steered > 0, "{service:?}");
    ctl.expect(0, &["ready", "--port", "80"])?;

    old.stop()?;
    await_more(&loads, 2)?;
    if ports == [PORT] {
        // The port has a server of its own again, and the drain has nothing left to do.
        ctl.await_state(PORT, "serving")?;
        await_more(&loads, 2)?;
    }
    ensure!(new.served()? > 0);
    for load in loads {
        let tally = load.finish()?;
        ensure!(tally.failed() == 0 && tally.ok > 0, "{tally}");
    }
    Ok(())
}

#[test]
fn a_process_beside_the_old_one_takes_over() -> Result<()> {
    replace(&[PORT], "reuseport", |pid| format!("handoff=pid:{pid}"))
}

#[test]
fn whoever_listens_on_another_port_takes_over() -> Result<()> {
    replace(&[OTHER], "", |_| format!("handoff=port:{OTHER}"))
}

#[test]
fn a_process_takes_over_by_its_only_other_port() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let _old = Nginx::start_version(Arc::clone(&pod.netns), &[PORT], "", "old")?;
    let new = Nginx::start_version(Arc::clone(&pod.netns), &[OTHER], "reuseport", "new")?;
    let agent = Agent::start()?;
    let ctl = agent.ctl(&pod.netns);
    let handoff = format!("handoff=pid:{}", new.pid().context("it runs")?);
    ctl.expect(0, &["drain", "--port", "80", "--new", &handoff])?;
    for _ in 0..20 {
        ensure!(version(&cluster.client, pod.addr())? == "new at 80");
    }
    let drain = ctl.service(PORT)?.drain.context("it drains")?;
    ensure!(drain.takers == 4, "two workers, two families: {drain:?}");
    ensure!(drain.handed_over >= 20, "{drain:?}");
    ctl.run(&["status"])?.says("listening sockets")?;
    Ok(())
}

#[test]
fn undrain_gives_the_port_back_and_what_was_handed_over_counts_again() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let _old = Nginx::start_version(Arc::clone(&pod.netns), &[PORT], "", "old")?;
    let _new = Nginx::start_version(Arc::clone(&pod.netns), &[OTHER], "", "new")?;
    let agent = Agent::start()?;
    let ctl = agent.ctl(&pod.netns);
    let mut before = http::Client::connect(&cluster.client, pod.addr())?;
    ensure!(before.get("/ok")?.body == BODY);
    let handoff = format!("handoff=port:{OTHER}");
    ctl.expect(0, &["drain", "--port", "80", "--new", &handoff, "--retire", "none", "--no-wait"])?;
    let mut during = http::Client::connect(&cluster.client, pod.addr())?;
    ensure!(during.get("/version")?.body == b"new at 80\n");
    let service = ctl.await_service(PORT, "one of each", |s| (s.flows, s.steered) == (1, 1))?;
    ensure!(service.state == "rejecting", "{service:?}");
    // Of the old generation there is one, and it ends.
    ensure!(before.get("/version")?.body == b"old at 80\n");
    drop(before);
    ctl.await_state(PORT, "drained")?;

    ctl.expect(0, &["undrain", "--port", "80"])?;
    ensure!(version(&cluster.client, pod.addr())? == "old at 80");
    ensure!(during.get("/version")?.body == b"new at 80\n");
    ctl.await_service(PORT, "it counts", |s| (s.flows, s.steered) == (1, 0))?;
    // And is in the way of the next drain, whoever takes over then.
    let args = ["drain", "--port", "80", "--new", &handoff, "--retire", "none", "--timeout", "1s"];
    ctl.expect(3, &args)?;
    ensure!(ctl.service(PORT)?.flows == 1);
    Ok(())
}

#[test]
fn only_handshakes_that_the_old_server_may_have_begun_are_in_the_way() -> Result<()> {
    let cluster = Cluster::single()?;
    let (pod, client) = (&cluster.pods[0], &cluster.client);
    let _old = Nginx::start_version(Arc::clone(&pod.netns), &[PORT], "", "old")?;
    let _new = Nginx::start_version(Arc::clone(&pod.netns), &[OTHER], "", "new")?;
    let agent = Agent::start()?;
    let ctl = agent.ctl(&pod.netns);
    ensure!(version(client, pod.addr())? == "old at 80");
    let begun = |handshakes| {
        let seen = || Ok(Sockets::of(&pod.netns, PORT)?.syn_recv == handshakes);
        eventually(LIMIT, "SYN_RECV", seen)
    };

    let lost = LostAcks::start(client, PORT)?;
    let before = net::connect(client, pod.addr())?;
    begun(1)?;
    let handoff = format!("handoff=port:{OTHER}");
    let drain = ["drain", "--port", "80", "--new", &handoff, "--quiet", "0s", "--no-wait"];
    ctl.expect(0, &drain)?;
    ctl.await_service(PORT, "it is the old one's", |service| service.handshakes == 1)?;
    let _later = net::connect(client, pod.addr())?;
    begun(2)?;
    ctl.expect(3, &["ready", "--port", "80"])?;
    let service = ctl.service(PORT)?;
    ensure!((service.state.as_str(), service.handshakes) == ("rejecting", 1), "{service:?}");
    drop(lost);
    ctl.await_service(PORT, "one of each", |s| (s.flows, s.steered) == (1, 1))?;
    drop(before);
    ctl.await_state(PORT, "drained")?;

    let _lost = LostAcks::start(client, PORT)?;
    let _new_ones = net::connect(client, pod.addr())?;
    begun(1)?;
    ctl.expect(0, &["ready", "--port", "80"])?;
    let service = ctl.service(PORT)?;
    ensure!((service.state.as_str(), service.handshakes) == ("drained", 0), "{service:?}");
    begun(1)
}

#[test]
fn a_new_server_that_dies_is_shown_and_one_that_comes_back_is_found() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let _old = Nginx::start_version(Arc::clone(&pod.netns), &[PORT], "", "old")?;
    let mut new = Nginx::start_version(Arc::clone(&pod.netns), &[OTHER], "", "new")?;
    let agent = Agent::start()?;
    let ctl = agent.ctl(&pod.netns);
    let mut kept = http::Client::connect(&cluster.client, pod.addr())?;
    ensure!(kept.get("/ok")?.body == BODY);
    let handoff = format!("handoff=port:{OTHER}");
    ctl.expect(0, &["drain", "--port", "80", "--new", &handoff, "--retire", "none", "--no-wait"])?;
    ensure!(version(&cluster.client, pod.addr())? == "new at 80");

    new.crash()?;
    eventually(LIMIT, "clients are refused", || {
        Ok(net::attempt(&cluster.client, pod.addr(), LIMIT)? == Attempt::Refused)
    })?;
    let service = ctl.service(PORT)?;
    ensure!(service.rejected > 0 && service.drain.is_some_and(|drain| drain.takers == 0));
    ctl.run(&["status"])?.says("new connections are refused")?;
    ensure!(kept.get("/ok")?.body == BODY, "the old one goes on");

    new.start_again()?;
    eventually(LIMIT, "the new server is found", || {
        Ok(net::attempt(&cluster.client, pod.addr(), LIMIT)? == Attempt::Connected)
    })?;
    ensure!(version(&cluster.client, pod.addr())? == "new at 80");
    Ok(())
}

#[test]
fn what_cannot_take_over_changes_nothing() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let old = Nginx::start_version(Arc::clone(&pod.netns), &[PORT, 8082], "", "old")?;
    let elsewhere = Nginx::start_on(Arc::clone(&cluster.client), &[PORT])?;
    let agent = Agent::start()?;
    let ctl = agent.ctl(&pod.netns);
    let pid = |nginx: &Nginx| nginx.pid().map(|pid| format!("handoff=pid:{pid}"));
    let (old_pid, elsewhere) = (pid(&old).context("runs")?, pid(&elsewhere).context("runs")?);
    let table = [
        ("handoff=port:8081", 6, "start the new server first"),
        ("handoff=port:80", 2, "to itself"),
        ("handoff=pid:4000000", 6, "no process 4000000"),
        (elsewhere.as_str(), 2, "lives in network namespace"),
        (old_pid.as_str(), 2, "no other server"),
        ("handoff=unit:web", 2, "handoff=port:N"),
    ];
    for (new, code, text) in table {
        ctl.expect(code, &["drain", "--port", "80", "--new", new, "--no-wait"])?.says(text)?;
        let service = ctl.service(PORT)?;
        ensure!(service.state == "serving" && service.drain.is_none(), "{new}: {service:?}");
        ensure!(version(&cluster.client, pod.addr())? == "old at 80");
    }
    // One socket cannot take over two ports: which one's would its connections be?
    let _new = Nginx::start_version(Arc::clone(&pod.netns), &[OTHER], "", "new")?;
    let both = ["drain", "--port", "80,8082", "--new", "handoff=port:8081"];
    ctl.expect(2, &both)?.says("already")?;
    for port in [PORT, 8082] {
        ctl.await_state(port, "serving")?;
        let addr = SocketAddr::new(pod.addr().ip(), port);
        ensure!(version(&cluster.client, addr)? == format!("old at {port}"));
    }
    Ok(())
}

#[test]
fn processes_are_named_as_the_caller_knows_them_and_with_all_their_workers() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let start =
        |version| Nginx::start_version(Arc::clone(&pod.netns), &[PORT], "reuseport", version);
    let (_old, new) = (start("old")?, start("new")?);
    let agent = Agent::start()?;
    let ctl = agent.ctl(&pod.netns);
    let drain = |ctl: &Ctl<'_>, code, pid: u32, text| {
        let new = format!("handoff=pid:{pid}");
        ctl.expect(code, &["drain", "--port", "80", "--new", &new])?.says(text)
    };
    let master = new.pid().context("it runs")?;
    let apart = ctl.clone().under(&["unshare", "--pid", "--fork"]);
    drain(&apart, 6, master, "there is no process")?;
    drain(&apart, 6, 1, "has no listening TCP socket")?; // That is drainctl itself.
    let workers = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?;
    let worker = workers.split_whitespace().next().context("it has workers")?.parse()?;
    drain(&ctl, 2, worker, "shares its listening socket")?;
    ensure!(ctl.service(PORT)?.drain.is_none());
    drain(&ctl, 0, master, "drained")?;
    Ok(())
}

/// Accepts and says one byte, until told to stop; returns how many.
fn answer(listener: TcpListener, byte: u8, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut accepted = 0;
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                stream.write_all(&[byte])?;
                accepted += 1;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if stop.load(Ordering::SeqCst) {
                    return Ok(accepted);
                }
                thread::yield_now();
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[test]
fn no_handshake_is_lost_while_the_port_changes_hands() -> Result<()> {
    let cluster = Cluster::single()?;
    let pod = &cluster.pods[0];
    let listen = |port| pod.netns.run(|| Ok(TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?));
    let (old, new) = (listen(PORT)?, listen(OTHER)?);
    let agent = Agent::start()?;
    let ctl = agent.ctl(&pod.netns);
    let stop = Arc::new(AtomicBool::new(false));
    let close = Arc::new(AtomicBool::new(false));
    let servers: Vec<_> = [(old, b'o'), (new, b'n')]
        .into_iter()
        .map(|(listener, byte)| {
            let close = Arc::clone(&close);
            thread::spawn(move || answer(listener, byte, close))
        })
        .collect();
    let connected = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (netns, connected) = (Arc::clone(&cluster.client), Arc::clone(&connected));
            let (stop, addr) =
                (Arc::clone(&stop), if number % 2 == 0 { pod.addr() } else { pod.addr6() });
            thread::spawn(move || -> Result<()> {
                netns.enter()?;
                while !stop.load(Ordering::SeqCst) {
                    let mut byte = [0];
                    TcpStream::connect(addr)?.read_exact(&mut byte)?;
                    connected[usize::from(byte == *b"n")].fetch_add(1, Ordering::SeqCst);
                }
                Ok(())
            })
        })
        .collect();
    let reached = |index: usize, more: u64| {
        let from = connected[index].load(Ordering::SeqCst);
        eventually(LIMIT, "handshakes go on", || {
            Ok(connected[index].load(Ordering::SeqCst) >= from + more)
        })
    };
    let handoff = format!("handoff=port:{OTHER}");
    for _ in 0..5 {
        reached(0, 400)?;
        ctl.expect(0, &["drain", "--port", "80", "--new", &handoff])?;
        reached(1, 400)?;
        ctl.expect(0, &["undrain", "--port", "80"])?;
    }
    reached(0, 400)?;
    let rejected = ctl.service(PORT)?.rejected;
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().map_err(|_| anyhow!("a client panicked"))??;
    }
    close.store(true, Ordering::SeqCst);
    let mut accepted = Vec::new();
    for server in servers {
        accepted.push(server.join().map_err(|_| anyhow!("a server panicked"))??);
    }
    let connected: Vec<u64> = connected.iter().map(|n| n.load(Ordering::SeqCst)).collect();
    ensure!(accepted == connected && rejected == 0, "{accepted:?} {connected:?} {rejected}");
    Ok(())
}

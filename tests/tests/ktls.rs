//! Servers whose TLS ends in the kernel: their connections are left alone, and everything else of a drain works.
//!
//! Not every machine's kernel can do that, so `cargo xtask vm` runs these, on kernels that can.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT},
    ctl::Ctl,
    leaving::Retire,
    net::{self, Attempt},
    nginx::{self, BODY, Nginx},
    tls::{TlsClient, encrypted_by_kernel},
    wait::LIMIT,
};

/// An nginx that has handed the encryption of its answers to the kernel, its clients, and an agent.
struct World {
    agent: Agent,
    _server: Nginx,
    cluster: Cluster,
}

impl World {
    fn new() -> Result<Self> {
        let cluster = Cluster::single()?;
        let server = Nginx::start_with_kernel_tls(&cluster.pods[0])?;
        Ok(Self { agent: Agent::start()?, _server: server, cluster })
    }

    fn addr(&self) -> SocketAddr {
        self.cluster.pods[0].addr()
    }

    fn ctl(&self) -> Ctl<'_> {
        self.agent.ctl(&self.cluster.pods[0].netns)
    }

    /// A client that has got its first answer.
    fn client(&self) -> Result<TlsClient> {
        let mut client = TlsClient::connect(&self.cluster.client, self.addr())?;
        ensure!(client.get("/ok")?.body == BODY);
        Ok(client)
    }

    /// A client whose first answer the kernel has encrypted.
    fn client_of_kernel(&self) -> Result<TlsClient> {
        let netns = &self.cluster.pods[0].netns;
        let before = encrypted_by_kernel(netns)?;
        let client = self.client()?;
        ensure!(encrypted_by_kernel(netns)? > before, "the server encrypts by itself");
        Ok(client)
    }

    fn retire(&self) -> Result<Retire> {
        self.ctl().retire(PORT)
    }
}

/// Short and long answers, the latter sent by `sendfile`; none says `close`.
fn goes_on(client: &mut TlsClient) -> Result<()> {
    for (path, body) in [("/ok", BODY), ("/large", nginx::large()), ("/ok", BODY)] {
        let answer = client.get(path)?;
        ensure!(answer.body == body, "{path} is not what nginx has");
        ensure!(!answer.head.to_ascii_lowercase().contains("connection: close"), "{}", answer.head);
    }
    Ok(())
}

#[test]
#[ignore = "needs TLS in the kernel: cargo xtask vm runs it"]
fn connections_are_left_alone_and_the_drain_ends_with_the_last() -> Result<()> {
    let world = World::new()?;
    let mut old = world.client_of_kernel()?;
    let drain = world.ctl().start(&[
        "drain",
        "--port",
        "80",
        "--min-settle",
        "30s",
        "--max-settle",
        "31s",
        "--timeout",
        "300s",
        "--spread",
        "0s",
        "--idle-after",
        "100ms",
    ])?;
    world.ctl().await_state(PORT, "settling")?;
    goes_on(&mut old)?;
    // This one joins as it is established, and then the kernel takes no TLS any more: the server encrypts by itself.
    let mut new = world.client()?;
    goes_on(&mut new)?;
    world.ctl().await_state(PORT, "rejecting")?;
    let attempt = net::attempt(&world.cluster.client, world.addr(), LIMIT)?;
    ensure!(attempt == Attempt::Refused, "{attempt:?}");
    goes_on(&mut old)?;
    goes_on(&mut new)?;
    let retire = world.retire()?;
    let told = (retire.told_by_header, retire.told_by_goaway, retire.fin_sent);
    ensure!(told == (0, 0, 0), "{retire:?}");
    ensure!(retire.barriers() == [("ktls", 1), ("tls", 1)], "{retire:?}");
    drop((old, new));
    drain.wait()?.expect(0)?;
    Ok(())
}

#[test]
#[ignore = "needs TLS in the kernel: cargo xtask vm runs it"]
fn a_quiet_one_gets_a_fin_where_that_is_asked_for() -> Result<()> {
    let world = World::new()?;
    let mut client = world.client_of_kernel()?;
    let quiet = ["--retire", "quiet", "--quiet-flow-after", "2s", "--spread", "0s"];
    let drain = ["drain", "--port", "80", "--quiet", "0s", "--timeout", "120s"];
    let drain = world.ctl().start(&[&drain[..], &quiet].concat())?;
    client.await_end()?;
    drop(client);
    drain.wait()?.expect(0)?;
    ensure!(world.retire()?.fin_sent == 1, "{:?}", world.retire()?);
    Ok(())
}

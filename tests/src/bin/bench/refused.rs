//! Refused connections a second: by a closed gate, by the kernel where nobody listens, and by what people use today.

use std::{net::Ipv4Addr, time::Instant};

use anyhow::Result;
use drainctl_tests::{
    agent::Agent,
    cmd,
    net::{Listening, Server},
    netns::Netns,
};

use crate::{
    rows::{PORT, here, ratio, refused},
    stats::interleave,
    table::Row,
};

/// Connection attempts of one measurement.
const ATTEMPTS: usize = 10_000;

/// Each side in a namespace of its own, all of them with a server, but for the one where nobody listens.
pub(crate) fn refused_connects() -> Result<Vec<Row>> {
    let [ours, nobody, iptables, nftables] = [(); 4].map(|()| Netns::new());
    let (ours, nobody, iptables, nftables) = (ours?, nobody?, iptables?, nftables?);
    let mut agent = Agent::start()?;
    agent.be_quiet();
    let mut servers = Vec::new();
    for netns in [&ours, &iptables, &nftables] {
        servers.push(Server::start(netns, Listening::on(Ipv4Addr::LOCALHOST, PORT))?);
    }
    let port = PORT.to_string();
    agent.ctl(&ours).expect(0, &["drain", "--port", &port, "--quiet", "0s"])?;
    reject_by_iptables(&iptables)?;
    reject_by_nftables(&nftables)?;
    let rate = |netns: &Netns| -> Result<f64> {
        let start = Instant::now();
        refused(netns, ATTEMPTS)?;
        Ok(ATTEMPTS as f64 / start.elapsed().as_secs_f64())
    };
    let sides = interleave(&mut [
        Box::new(|| rate(&ours)),
        Box::new(|| rate(&iptables)),
        Box::new(|| rate(&nftables)),
        Box::new(|| rate(&nobody)),
    ])?;
    // Our program ran for each of them.
    let rejected = agent.ctl(&ours).service(PORT)?.rejected;
    anyhow::ensure!(rejected >= (15 * ATTEMPTS) as u64, "{rejected} were refused by the gate");
    Ok(vec![
        ratio("refused connects: gate / nobody listens", &sides, 3, Some(0.97)),
        ratio("refused connects: gate / iptables REJECT", &sides, 1, None),
        ratio("refused connects: gate / nftables reject", &sides, 2, None),
    ])
}

fn reject_by_iptables(netns: &Netns) -> Result<()> {
    let rule =
        format!("-w 5 -A INPUT -p tcp --syn --dport {PORT} -j REJECT --reject-with tcp-reset");
    netns.run(|| cmd::run("iptables", &rule.split(' ').collect::<Vec<_>>())).map(drop)
}

fn reject_by_nftables(netns: &Netns) -> Result<()> {
    let rules = format!(
        "table inet refuse {{\n chain input {{\n type filter hook input priority filter\n \
         tcp flags & (fin|syn|rst|ack) == syn tcp dport {PORT} reject with tcp reset\n }}\n}}\n"
    );
    netns.run(|| cmd::run_with_input("nft", &["-f", "-"], &rules)).map(drop)?;
    // It refuses before it is measured.
    netns.run(|| {
        anyhow::ensure!(std::net::TcpStream::connect(here(PORT)).is_err(), "nftables lets in");
        Ok(())
    })
}

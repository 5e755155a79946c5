//! How long users wait for drainctl itself: at the 99th percentile, beside what it costs at least on this machine.

use std::{
    net::{Ipv4Addr, TcpStream},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    net::{Listening, Server},
    netns::Netns,
    nginx::Nginx,
};
use rustix::event::{PollFd, PollFlags, poll};

use crate::{
    rows::{PORT, here},
    stats::{Bar, Estimate, quantile},
    table::Row,
};

/// Repetitions for a 99th percentile.
const REPEATS: usize = 300;
/// Between two probes of a gate.
const PROBE_EVERY: Duration = Duration::from_micros(100);

/// From the start of `drainctl drain --quiet 0s` to the first refused connection; beside it, the same program that only
/// prints its version.
pub(crate) fn exec_to_closed() -> Result<Vec<Row>> {
    let netns = Arc::new(Netns::new()?);
    let mut agent = Agent::start()?;
    agent.be_quiet();
    // A real server, so that the accept queue never fills: a full one answers a SYN after a second.
    let _nginx = Nginx::start_on(Arc::clone(&netns), &[PORT])?;
    let ctl = agent.ctl(&netns);
    let port = PORT.to_string();
    let (mut samples, mut least) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let start = Instant::now();
        let drain = ctl.start(&["drain", "--port", &port, "--quiet", "0s", "--no-wait"])?;
        let closed = netns.run(|| {
            while TcpStream::connect(here(PORT)).is_ok() {
                thread::sleep(PROBE_EVERY); // not a wait for a state: leaves the CPU to what is measured
            }
            Ok(start.elapsed())
        })?;
        samples.push(milliseconds(closed));
        drain.wait()?.expect(0)?;
        ctl.expect(0, &["undrain", "--port", &port])?;
        let mut version = Command::new(agent.dist().drainctl());
        version.arg("--version").stdout(Stdio::null());
        let start = Instant::now();
        ensure!(version.status()?.success(), "drainctl --version failed");
        least.push(milliseconds(start.elapsed()));
    }
    let name = "`drain --quiet 0s`, exec to gate closed, p99 (other: `drainctl --version`)";
    Ok(rows(name, &samples, &least, 10.0))
}

/// From the end of the last connection to the end of the waiting `drainctl`; beside it, from the end of a pipe to the end
/// of a `cat` that reads it.
pub(crate) fn close_to_exit() -> Result<Vec<Row>> {
    let netns = Netns::new()?;
    let mut agent = Agent::start()?;
    agent.be_quiet();
    let server = Server::start(&netns, Listening::on(Ipv4Addr::LOCALHOST, PORT))?;
    let ctl = agent.ctl(&netns);
    let port = PORT.to_string();
    let (mut samples, mut least) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let pairs = server.pairs(&netns, here(PORT), 1)?;
        let drain = ctl.start(&["drain", "--port", &port, "--quiet", "0s", "--timeout", "60s"])?;
        ctl.await_state(PORT, "rejecting")?;
        ctl.expect(3, &["ready", "--port", &port])?; // The first look is over.
        let exit = drain.exit_fd()?;
        let start = Instant::now();
        drop(pairs);
        // Readable once the process has ended.
        poll(&mut [PollFd::new(&exit, PollFlags::IN)], None)?;
        samples.push(milliseconds(start.elapsed()));
        drain.wait()?.expect(0)?;
        ctl.expect(0, &["undrain", "--port", &port])?;
        least.push(milliseconds(end_of_pipe()?));
    }
    let name = "last close to exit of `drainctl drain`, p99 (other: a pipe and `cat`)";
    Ok(rows(name, &samples, &least, 5.0))
}

fn end_of_pipe() -> Result<Duration> {
    let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut pipe = cat.stdin.take().context("a pipe")?;
    let mut answers = cat.stdout.take().context("a pipe")?;
    // It has started once it has answered.
    std::io::Write::write_all(&mut pipe, b"?")?;
    std::io::Read::read_exact(&mut answers, &mut [0])?;
    let start = Instant::now();
    drop(pipe);
    ensure!(cat.wait()?.success(), "cat failed");
    Ok(start.elapsed())
}

/// The 99th percentile with its bar, and the median, for which nothing is promised.
fn rows(name: &str, samples: &[f64], least: &[f64], bar: f64) -> Vec<Row> {
    let row = |name: &str, ours: Estimate, least: Estimate, bar| Row {
        other: Some(least.value),
        noise: Some(least),
        ..Row::alone(name, "ms", ours, bar)
    };
    let at = |q| (quantile(samples, q), quantile(least, q));
    let ((p99, least_p99), (p50, least_p50)) = (at(0.99), at(0.5));
    vec![
        row(name, p99, least_p99, Some(Bar::AtMost(bar))),
        row("the same, median", p50, least_p50, None),
    ]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

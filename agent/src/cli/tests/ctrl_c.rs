//! Things that happen while `drain` waits: Ctrl-C, and an agent that comes late.

use std::time::Duration;

use clap::Parser;

use super::*;
use crate::cli::{Exit, Streams, args::Cli, dispatch, fake::status, run};
use StateName::{Drained, Rejecting};

#[test]
fn an_agent_that_comes_late_is_waited_for() {
    let fake = draining(vec![Answer::Events(vec![status(service(8080, Drained))], true)]);
    let late = fake.socket().with_file_name("late.sock");
    // The first attempt must fail before the socket is there: the line it writes is the event.
    let mut err = OnFirstWrite(Some(|| std::os::unix::fs::symlink(fake.socket(), &late).unwrap()));
    let mut out = Vec::new();
    let agent = format!("--agent={}", late.display());
    let mut streams = Streams { out: &mut out, err: &mut err, live: false };
    let exit = run(["drainctl", "drain", "--port", "8080", &agent], &mut streams);
    assert_eq!(exit, Exit::Done);
    assert!(err.0.is_none(), "it said that it waits");
}

/// A stream that does something when it is first written to.
struct OnFirstWrite<F>(Option<F>);

impl<F: FnOnce()> std::io::Write for OnFirstWrite<F> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        if let Some(act) = self.0.take() {
            act();
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn ctrl_c_leaves_the_drain_and_prints_the_undrain_line() {
    let rejecting = vec![status(service(8080, Rejecting))];
    let fake = draining(vec![Answer::Events(rejecting, true)]);
    let agent = format!("--agent={}", fake.socket().display());
    let cli =
        Cli::try_parse_from(["drainctl", "drain", "--port", "8080", "--host", &agent]).unwrap();
    let press = &tokio::sync::Notify::new();
    // Pressed when the state's line is written: the drain is under way then.
    let (mut out, mut err) = (Vec::new(), OnFirstWrite(Some(|| press.notify_one())));
    let mut streams = Streams { out: &mut out, err: &mut err, live: false };
    let failure = dispatch(&cli, &mut streams, press.notified()).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Interrupted);
    let line = format!("drainctl undrain --port 8080 --host --agent {}", fake.socket().display());
    assert!(failure.message.ends_with(&line), "{failure}");
    assert!(failure.message.contains("stays in place"), "{failure}");
}

#[tokio::test]
async fn ctrl_c_before_the_agent_answered_says_so() {
    let cli = ["drainctl", "drain", "--port", "8080", "--agent=/nonexistent/a.sock"];
    let cli = Cli::try_parse_from(cli).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut streams = Streams { out: &mut out, err: &mut err, live: false };
    let soon = tokio::time::sleep(Duration::from_millis(1));
    let failure = dispatch(&cli, &mut streams, soon).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Interrupted);
    assert!(failure.message.contains("before the agent answered"), "{failure}");
}

//! Closes an instance, and opens it again.

use std::{io, time::Duration};

use tokio::time::Instant;

use super::{shared::Shared, worker::Worker};
use crate::{
    api::protocol::{ServiceStatus, StateName},
    cli::{
        drain,
        exit::{Exit, Failure},
        follow::patiently,
        ready, services,
        target::Target,
        text::Streams,
        undrain,
    },
};

/// How long an agent that restarts is waited for.
pub(super) const IF_UNREACHABLE: Duration = Duration::from_secs(5);

impl Worker {
    /// Before anything is done to it: what is drained by somebody else is not ours to take over.
    ///
    /// # Errors
    /// A port is not serving (8), or the agent cannot tell.
    pub(super) async fn check_is_serving(&self) -> Result<(), Failure> {
        let target = self.target()?;
        for &port in &self.instance.ports {
            // One that is not there may be what the release is to mend; else the drain says what is wrong.
            if let Some(service) = self.find(&target, port).await? {
                check_serves(&service)?;
            }
        }
        Ok(())
    }

    /// Drains those of its ports that are there, unless they are drained, and has it proven once more. Returns whether
    /// there was any: not, if its command was begun earlier and nothing listens.
    ///
    /// # Errors
    /// It is not drained, or that cannot be told.
    pub(super) async fn close(&self, shared: &Shared) -> Result<bool, Failure> {
        let target = self.target()?;
        let mut ports = Vec::new();
        for &port in &self.instance.ports {
            match self.find(&target, port).await? {
                Some(_) => ports.push(port),
                None if shared.plan(|plan| plan.course(self.at).is_changed()) => {}
                None => return Err(services::nothing(&target, port)),
            }
        }
        if ports.is_empty() {
            return Ok(false);
        }
        // A drain of somebody else that ends when the new version listens would let its traffic in.
        if let (Exit::Done, true) = self.proof(&target, &ports).await? {
            return Ok(true);
        }
        let (mut out, mut err) = (Lines::new(self.at, shared), Lines::new(self.at, shared));
        let mut streams = Streams { out: &mut out, err: &mut err, live: false };
        let args = self.drain_args(&ports);
        let drained =
            drain::run(&args, &self.client, &mut streams, false, std::future::pending()).await?;
        if drained != Exit::Done {
            return Err(Failure::new(drained, format!("it is not drained: {}", err.last_remark)));
        }
        match self.proof(&target, &ports).await?.0 {
            Exit::Done => Ok(true),
            exit => Err(Failure::new(exit, "that it is drained cannot be proven again")),
        }
    }

    /// The service of a port, if there is one.
    async fn find(&self, target: &Target, port: u16) -> Result<Option<ServiceStatus>, Failure> {
        let until = Instant::now() + IF_UNREACHABLE;
        match patiently(until, || services::find(&self.client, target, port)).await {
            Ok(service) => Ok(Some(service)),
            Err(failure) if failure.exit == Exit::NoSuchService => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Whether all these ports are drained, proven now, and whether they stay closed when a new instance listens.
    async fn proof(&self, target: &Target, ports: &[u16]) -> Result<(Exit, bool), Failure> {
        let (mut exit, mut kept) = (Exit::Done, true);
        for &port in ports {
            let until = Instant::now() + IF_UNREACHABLE;
            let (this, service) =
                patiently(until, || ready::ask(&self.client, target, port)).await?;
            kept &= service.drain.is_some_and(|drain| drain.keep_closed);
            exit = if exit == Exit::Done || this == Exit::Unverifiable { this } else { exit };
        }
        Ok((exit, kept))
    }

    /// Lets its traffic in again. A port that fails does not keep the others closed.
    ///
    /// # Errors
    /// The first port that may be closed still.
    pub(super) async fn open(&self, shared: &Shared) -> Result<(), Failure> {
        let target = self.target()?;
        let until = Instant::now() + IF_UNREACHABLE;
        let mut first = None;
        for &port in &self.instance.ports {
            match patiently(until, || undrain::undrain(&self.client, &target, port)).await {
                Ok(undrained) if undrained.was_draining => {}
                Ok(_) => shared.note(Some(self.at), format!("port {port} was serving already")),
                // There is no drain either.
                Err(failure) if failure.exit == Exit::NoSuchService => {}
                Err(failure) => drop(first.get_or_insert(failure)),
            }
        }
        first.map_or(Ok(()), Err)
    }
}

/// # Errors
/// It does not (8).
pub(super) fn check_serves(service: &ServiceStatus) -> Result<(), Failure> {
    if service.state == StateName::Serving {
        return Ok(());
    }
    let message = format!(
        "port {} is {} already; end that drain first, or leave the instance out",
        service.port,
        service.state.as_str()
    );
    Err(Failure::new(Exit::Conflict, message))
}

/// What `drain` prints, as remarks about an instance.
struct Lines<'a> {
    at: usize,
    shared: &'a Shared,
    buffer: Vec<u8>,
    /// The last line that is no part of a table.
    last_remark: String,
}

impl<'a> Lines<'a> {
    fn new(at: usize, shared: &'a Shared) -> Self {
        Self { at, shared, buffer: Vec::new(), last_remark: String::new() }
    }
}

impl io::Write for Lines<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let text = line.trim_end().trim_start_matches("drainctl: ");
            if line.starts_with("drainctl: ") {
                self.last_remark = text.to_owned();
            }
            self.shared.note(Some(self.at), text);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

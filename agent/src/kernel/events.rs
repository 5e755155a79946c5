//! Brings what the kernel programs tell to the rest of the agent: events, and log lines.

use std::{os::fd::AsFd, time::Duration};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use drainctl_common::{class, track};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::mpsc::UnboundedSender;

use super::{Event, EventKind, KernelError};
use crate::drain::{Boot, Service};

/// How often it is looked at least whether anybody still listens.
const WAIT: Duration = Duration::from_secs(10);

/// Starts a thread that waits for the kernel. After each time that it has emptied the ring it also passes on what `lost`
/// returns. It ends when nobody listens.
pub(super) fn forward(
    mut ring: RingBuf<MapData>,
    mut logger: EbpfLogger<&'static dyn log::Log>,
    to: UnboundedSender<Event>,
    mut lost: impl FnMut() -> Vec<Event> + Send + 'static,
) -> Result<(), KernelError> {
    let run = move || {
        while !to.is_closed() {
            wait(&ring, &logger, WAIT);
            logger.flush();
            while let Some(item) = ring.next() {
                if let Some(event) = parse(&item)
                    && to.send(event).is_err()
                {
                    return;
                }
            }
            // Only now is there room again: what is lost before this is noticed, and what comes after is told.
            if lost().into_iter().any(|event| to.send(event).is_err()) {
                return;
            }
        }
    };
    let named = std::thread::Builder::new().name("kernel-events".into());
    named.spawn(run).map(|_| ()).map_err(|e| KernelError::op("start thread", "kernel-events", e))
}

/// Until one of the rings has something, or the time is over.
fn wait(ring: &impl AsFd, logger: &impl AsFd, at_most: Duration) {
    let mut fds = [PollFd::new(ring, PollFlags::IN), PollFd::new(logger, PollFlags::IN)];
    let timeout = Timespec::try_from(at_most).ok();
    // An interrupted wait is a short one.
    let _ = poll(&mut fds, timeout.as_ref());
}

/// `None` for what this agent does not know.
fn parse(bytes: &[u8]) -> Option<Event> {
    let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let netns = word(0)?;
    let port = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let class = u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?);
    let kind = match word(8)? {
        track::Event::EMPTY if class == class::STEERED => EventKind::Unsteered,
        track::Event::EMPTY if class != class::COUNTED => return None,
        track::Event::EMPTY => EventKind::Empty,
        track::Event::ACCEPTED => EventKind::Accepted,
        track::Event::LISTENING => EventKind::Listening,
        track::Event::UNLISTENED => EventKind::Unlistened,
        _ => return None,
    };
    let at = u64::from_ne_bytes(bytes.get(16..24)?.try_into().ok()?);
    Some(Event { service: Service { netns, port }, kind, at: Boot::from_nanos(at) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record as the kernel program writes it.
    fn record(kind: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(4_026_531_840_u32.to_ne_bytes());
        bytes.extend(8080_u16.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(123_456_789_012_u64.to_ne_bytes());
        bytes
    }

    #[test]
    fn records_become_events() {
        for (kind, expected) in [
            (track::Event::EMPTY, EventKind::Empty),
            (track::Event::ACCEPTED, EventKind::Accepted),
            (track::Event::LISTENING, EventKind::Listening),
            (track::Event::UNLISTENED, EventKind::Unlistened),
        ] {
            let event = Event {
                service: Service { netns: 4_026_531_840, port: 8080 },
                kind: expected,
                at: Boot::from_nanos(123_456_789_012),
            };
            assert_eq!(parse(&record(kind)), Some(event));
        }
    }

    #[test]
    fn the_end_of_flows_that_do_not_count_is_something_else() {
        let of_class = |class: u16| {
            let mut bytes = record(track::Event::EMPTY);
            bytes[6..8].copy_from_slice(&class.to_ne_bytes());
            parse(&bytes).map(|event| event.kind)
        };
        assert_eq!(of_class(class::COUNTED), Some(EventKind::Empty));
        assert_eq!(of_class(class::STEERED), Some(EventKind::Unsteered));
        assert_eq!(of_class(class::IGNORED), None);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let whole = record(track::Event::EMPTY);
        assert_eq!(whole.len(), size_of::<track::Event>());
        for kind in [0, 5, u32::MAX] {
            assert_eq!(parse(&record(kind)), None, "kind {kind}");
        }
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None, "{length} bytes");
        }
    }
}

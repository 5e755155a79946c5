//! What a waiting command shows on stderr: on a terminal one line that is rewritten in place; elsewhere one
//! line for each change of state; with `--json` nothing.

use tokio::time::Instant;

use super::{
    leaving,
    text::{self, Streams},
    waiting,
    watched::{self, Watched},
};
use crate::api::protocol::{ServiceStatus, SettledBy, StateName};

/// Widest live line, so that it does not wrap on a terminal of the usual width.
const LIVE_WIDTH: usize = 79;

/// Carriage return, and erase to the end of the line (ECMA-48 EL).
const ERASE: &str = "\r\x1b[K";

/// Progress of one command.
pub(super) struct Progress<'a, 'b> {
    streams: &'a mut Streams<'b>,
    silent: bool,
    drawn: bool,
}

impl<'a, 'b> Progress<'a, 'b> {
    /// Progress on these streams; none at all if `silent`.
    pub(super) fn new(streams: &'a mut Streams<'b>, silent: bool) -> Self {
        Self { streams, silent, drawn: false }
    }

    /// Whether a line is rewritten in place.
    pub(super) fn is_live(&self) -> bool {
        self.streams.live && !self.silent
    }

    /// A remark that stays.
    pub(super) fn note(&mut self, text: &str) {
        self.erase();
        if !self.silent {
            self.streams.note(&format!("drainctl: {text}"));
        }
    }

    /// The state of a service changed.
    pub(super) fn changed(&mut self, service: &ServiceStatus) {
        if !self.is_live() {
            self.note(&state_line(service));
        }
    }

    /// Everything as it is now.
    pub(super) fn redraw(&mut self, watched: &Watched, now: Instant) {
        if self.is_live() {
            let line: String = live_line(watched, now).chars().take(LIVE_WIDTH).collect();
            self.streams.raw(&format!("{ERASE}{line}"));
            self.drawn = true;
        }
    }

    /// Removes the live line. The streams are free for other text then.
    pub(super) fn erase(&mut self) {
        if std::mem::take(&mut self.drawn) {
            self.streams.raw(ERASE);
        }
    }
}

impl Drop for Progress<'_, '_> {
    fn drop(&mut self) {
        self.erase();
    }
}

fn state_line(service: &ServiceStatus) -> String {
    let mut line = format!("port {}: {}", service.port, service.state.as_str());
    if let (StateName::Rejecting, Some(drain)) = (service.state, &service.drain) {
        line += match drain.settled_by {
            Some(SettledBy::MaxSettle) => " (max-settle reached while connections still came)",
            Some(SettledBy::Quiet | SettledBy::AtOnce) | None => "",
        };
    }
    line += &format!("; {}", counts([service].into_iter()));
    if let (StateName::Drained, some @ 1..) = (service.state, watched::carried(service)) {
        line += &format!("; waiting for {}", text::count(some, "carried connection"));
    }
    if let Some(drain) = service.drain.as_ref().filter(|drain| drain.deadline_in_ms > 0) {
        line += &format!("; deadline in {}", text::duration(drain.deadline_in_ms));
    }
    line
}

fn live_line(watched: &Watched, now: Instant) -> String {
    let states: Vec<String> = watched
        .services()
        .map(|service| format!("{} {}", service.port, service.state.as_str()))
        .collect();
    let left = watched.deadline(now).saturating_duration_since(now).as_secs();
    format!("{}: {}; {left}s left", states.join(", "), counts(watched.services()))
}

/// What is left, what was done to make it leave, and what was refused.
fn counts<'a>(services: impl Iterator<Item = &'a ServiceStatus> + Clone) -> String {
    let (told, cut) = leaving::told_and_cut(services.clone());
    let held: Vec<String> = services.clone().flat_map(waiting::reasons).collect();
    let (mut flows, mut handshakes, mut lingering, mut rejected) = (0, 0, 0, 0);
    let carried: u64 = services.clone().map(watched::carried).sum();
    for service in services {
        flows += service.flows;
        handshakes += service.handshakes;
        lingering += service.lingering;
        rejected += service.rejected;
    }
    let mut parts = vec![text::count(flows, "flow")];
    if handshakes > 0 {
        parts.push(text::count(handshakes, "handshake"));
    }
    if lingering > 0 {
        parts.push(format!("{lingering} lingering"));
    }
    if carried > 0 {
        parts.push(format!("{carried} carried"));
    }
    if told > 0 {
        parts.push(format!("{told} told"));
    }
    if cut > 0 {
        parts.push(format!("{cut} cut"));
    }
    parts.extend(held);
    parts.push(format!("{rejected} refused"));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{fake::service, watched::Goal};

    fn written(live: bool, silent: bool) -> String {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { out: &mut out, err: &mut err, live };
        let now = Instant::now();
        let mut status = service(8080, StateName::Rejecting);
        status.flows = 1;
        let retire = &mut status.drain.as_mut().unwrap().retire;
        (retire.told_by_header, retire.told_by_goaway) = (2, 1);
        let watched = Watched::new(Goal::Drain, vec![status.clone()], now);
        {
            let mut progress = Progress::new(&mut streams, silent);
            progress.changed(&status);
            progress.redraw(&watched, now);
        }
        assert!(out.is_empty(), "progress never goes to stdout");
        String::from_utf8(err).unwrap()
    }

    #[test]
    fn a_line_for_each_change_where_there_is_no_terminal() {
        let line = "drainctl: port 8080: rejecting; 1 flow, 3 told, 0 refused; deadline in 25.0s\n";
        assert_eq!(written(false, false), line);
    }

    #[test]
    fn one_line_in_place_on_a_terminal_erased_at_the_end() {
        let line = format!("{ERASE}8080 rejecting: 1 flow, 3 told, 0 refused; 25s left{ERASE}");
        assert_eq!(written(true, false), line);
    }

    #[test]
    fn nothing_with_json() {
        assert_eq!(written(true, true) + &written(false, true), "");
    }
}

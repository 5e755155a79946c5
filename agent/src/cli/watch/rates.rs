//! How many connections came, and how many were refused, in each second of the last while.

use std::{collections::VecDeque, time::Instant};

use crate::api::protocol::ServiceStatus;

/// Rates that are kept.
const MOST: usize = 60;
/// From nothing to the highest.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Of one service.
#[derive(Debug)]
pub(super) struct Rates {
    last: (u64, u64, Instant),
    /// Arrivals a second, oldest first.
    pub(super) arrivals: VecDeque<f64>,
    /// Refusals a second, oldest first.
    pub(super) refusals: VecDeque<f64>,
}

impl Rates {
    pub(super) fn new(service: &ServiceStatus, now: Instant) -> Self {
        let last = (service.accepted, service.rejected, now);
        Self { last, arrivals: VecDeque::new(), refusals: VecDeque::new() }
    }

    /// Takes in what the counts are now. One that has become less was begun anew.
    pub(super) fn add(&mut self, service: &ServiceStatus, now: Instant) {
        let (accepted, rejected, then) = self.last;
        let seconds = now.saturating_duration_since(then).as_secs_f64();
        if seconds == 0.0 {
            return;
        }
        let per = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        push(&mut self.arrivals, per(service.accepted, accepted));
        push(&mut self.refusals, per(service.rejected, rejected));
        self.last = (service.accepted, service.rejected, now);
    }
}

fn push(rates: &mut VecDeque<f64>, rate: f64) {
    if rates.len() == MOST {
        rates.pop_front();
    }
    rates.push_back(rate);
}

/// The newest rates as a line of so many characters, and the newest one as a number.
pub(super) fn spark(rates: &VecDeque<f64>, width: usize) -> (String, String) {
    let newest = rates.iter().skip(rates.len().saturating_sub(width));
    let top = newest.clone().fold(1.0, |top: f64, rate| top.max(*rate));
    let bar = |rate: &f64| BARS[((rate / top) * (BARS.len() - 1) as f64).round() as usize];
    let line: String = newest.map(bar).collect();
    let number = match rates.back() {
        None => "-".into(),
        Some(rate) if *rate < 10.0 => format!("{rate:.1}"),
        Some(rate) => format!("{rate:.0}"),
    };
    (format!("{line:>width$}"), number)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{api::protocol::StateName, cli::fake::service};

    #[test]
    fn rates_are_differences() {
        let start = Instant::now();
        let mut web = service(80, StateName::Serving);
        let mut rates = Rates::new(&web, start);
        for (second, accepted, rate) in [(2, 40, 20.0), (3, 41, 1.0), (4, 0, 0.0)] {
            web.accepted = accepted;
            rates.add(&web, start + Duration::from_secs(second));
            assert_eq!(rates.arrivals.back(), Some(&rate), "after {second} s");
        }
        rates.add(&web, start + Duration::from_secs(4));
        assert_eq!(rates.refusals, [0.0, 0.0, 0.0], "nothing is said of no time");
        assert_eq!(spark(&rates.arrivals, 5), ("  █▁▁".into(), "0.0".into()));
        assert_eq!(spark(&VecDeque::new(), 2), ("  ".into(), "-".into()));
    }
}

//! How much of a pod's grace period a drain may take.

use std::time::Duration;

/// What is left to the server at least, to stop by itself.
const LEAST_MARGIN: Duration = Duration::from_secs(5);
/// What is left to it of a long grace period, in percent.
const MARGIN_PERCENT: u32 = 15;
/// Less than this is no time to drain.
const SHORTEST: Duration = Duration::from_secs(1);

/// With less than this nothing is left to drain.
pub const LEAST_GRACE: Duration = Duration::from_secs(LEAST_MARGIN.as_secs() + SHORTEST.as_secs());

/// The timeout of a drain in a pod whose containers have `grace` left to stop: that time but for the larger of 5 s and
/// 15 %. `None` if less than 1 s would be left to drain.
pub fn timeout_within(grace: Duration) -> Option<Duration> {
    let margin = LEAST_MARGIN.max(grace / 100 * MARGIN_PERCENT);
    grace.checked_sub(margin).filter(|timeout| *timeout >= SHORTEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_keeps_its_own_time() {
        #[rustfmt::skip]
        let table = [
            // Grace and timeout in ms.
            (0, None),
            (1_000, None),
            (5_000, None),
            (5_999, None),
            (6_000, Some(1_000)),
            (10_000, Some(5_000)),
            (30_000, Some(25_000)),
            (33_333, Some(28_333)), // 15 % are just less than 5 s.
            (40_000, Some(34_000)),
            (3_600_000, Some(3_060_000)),
        ];
        for (grace, timeout) in table {
            let got = timeout_within(Duration::from_millis(grace));
            assert_eq!(got.map(|timeout| timeout.as_millis()), timeout, "grace {grace} ms");
        }
        assert!(timeout_within(Duration::MAX).is_some(), "nothing overflows");
    }
}

//! What a series of measurements says, without assuming how noise is distributed.

/// A bar to be met.
#[derive(Clone, Copy, Debug)]
pub enum Bar {
    /// The figure must not be smaller.
    AtLeast(f64),
    /// The figure must not be larger.
    AtMost(f64),
}

/// A figure with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Best guess.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// What an estimate says about a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Met.
    Pass,
    /// The whole interval lies on the wrong side.
    Missed,
    /// The interval is wider than 5 % of the bar, or the figure is on the wrong side and part of the
    /// interval is not: no pass.
    Inconclusive,
}

impl Bar {
    /// The bar's own value.
    pub fn value(self) -> f64 {
        match self {
            Self::AtLeast(bar) | Self::AtMost(bar) => bar,
        }
    }

    /// Judges an estimate. An interval that lies wholly on the right side is a pass however wide it is:
    /// more runs could not change the answer.
    pub fn judge(self, e: Estimate) -> Verdict {
        let (best, worst, value) = match self {
            Self::AtLeast(bar) => (e.high - bar, e.low - bar, e.value - bar),
            Self::AtMost(bar) => (bar - e.low, bar - e.high, bar - e.value),
        };
        if best < 0.0 {
            Verdict::Missed
        } else if worst >= 0.0 {
            Verdict::Pass
        } else if e.high - e.low > 0.05 * self.value() || value < 0.0 {
            Verdict::Inconclusive
        } else {
            Verdict::Pass
        }
    }
}

/// A quantile (0 to 1) of the samples, with the interval that order statistics give at 95 %.
///
/// # Panics
/// Without samples.
pub fn quantile(samples: &[f64], q: f64) -> Estimate {
    assert!(!samples.is_empty(), "no samples");
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    // How many samples lie below the true quantile is binomial(n, q).
    let (mut low, mut high) = (0, n - 1);
    let mut below = 0.0;
    for k in 0..n {
        below += binomial(n, k, q);
        if below <= 0.025 {
            low = k + 1;
        }
        if below >= 0.975 {
            high = k.min(n - 1);
            break;
        }
    }
    let index = ((n as f64 * q).ceil() as usize).clamp(1, n) - 1;
    let value = if q == 0.5 && n.is_multiple_of(2) {
        (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0
    } else {
        sorted[index]
    };
    Estimate { value, low: sorted[low.min(n - 1)].min(value), high: sorted[high].max(value) }
}

/// The median, see [`quantile`].
pub fn median(samples: &[f64]) -> Estimate {
    quantile(samples, 0.5)
}

fn binomial(n: usize, k: usize, p: f64) -> f64 {
    let choose: f64 = (0..k).map(|i| ((n - i) as f64 / (i + 1) as f64).ln()).sum();
    (choose + k as f64 * p.ln() + (n - k) as f64 * (1.0 - p).ln()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_the_median_of_15_is_the_4th_to_the_12th() {
        let samples: Vec<f64> = (1..=15).map(f64::from).collect();
        assert_eq!(median(&samples), Estimate { value: 8.0, low: 4.0, high: 12.0 });
    }

    #[test]
    fn a_bar_is_missed_only_by_the_whole_interval() {
        let e = |value, low, high| Estimate { value, low, high };
        let bar = Bar::AtLeast(0.97);
        assert_eq!(bar.judge(e(0.99, 0.98, 1.0)), Verdict::Pass);
        assert_eq!(bar.judge(e(0.98, 0.96, 1.0)), Verdict::Pass);
        assert_eq!(bar.judge(e(0.96, 0.95, 0.98)), Verdict::Inconclusive);
        assert_eq!(bar.judge(e(0.98, 0.90, 1.1)), Verdict::Inconclusive);
        assert_eq!(bar.judge(e(0.95, 0.94, 0.96)), Verdict::Missed);
        assert_eq!(Bar::AtMost(100.0).judge(e(120.0, 110.0, 130.0)), Verdict::Missed);
        assert_eq!(Bar::AtMost(100.0).judge(e(50.0, 20.0, 80.0)), Verdict::Pass);
    }

    #[test]
    fn an_upper_quantile_has_an_interval_above_it() {
        let samples: Vec<f64> = (1..=1000).map(f64::from).collect();
        let p99 = quantile(&samples, 0.99);
        assert!(p99.low < 990.0 && p99.high > 990.0 && p99.value == 990.0, "{p99:?}");
    }
}

//! What a series of measurements says, without assuming how noise is distributed.

use anyhow::Result;

/// Interleaved rounds of every comparison.
pub(crate) const ROUNDS: usize = 15;

/// A bar to be met.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    /// The figure must not be smaller.
    AtLeast(f64),
    /// The figure must not be larger.
    AtMost(f64),
}

/// A figure with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    /// Best guess.
    pub(crate) value: f64,
    /// Lower end.
    pub(crate) low: f64,
    /// Upper end.
    pub(crate) high: f64,
}

/// What an estimate says about a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
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
    pub(crate) fn value(self) -> f64 {
        match self {
            Self::AtLeast(bar) | Self::AtMost(bar) => bar,
        }
    }

    /// Judges an estimate. An interval that lies wholly on the right side is a pass however wide it is:
    /// more runs could not change the answer.
    pub(crate) fn judge(self, e: Estimate) -> Verdict {
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
pub(crate) fn quantile(samples: &[f64], q: f64) -> Estimate {
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
            low = k;
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
pub(crate) fn median(samples: &[f64]) -> Estimate {
    quantile(samples, 0.5)
}

/// Measures one side, once.
pub(crate) type Side<'a> = Box<dyn FnMut() -> Result<f64> + 'a>;

/// What each side of a comparison came to, round by round.
pub(crate) struct Sides(Vec<Vec<f64>>);

/// Measures all sides in turn, again and again; every other round the other way round, so that a drift of the machine
/// cancels out.
pub(crate) fn interleave(sides: &mut [Side<'_>]) -> Result<Sides> {
    let mut series = vec![Vec::with_capacity(ROUNDS); sides.len()];
    for round in 0..ROUNDS {
        let mut order: Vec<usize> = (0..sides.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for side in order {
            series[side].push(sides[side]()?);
        }
    }
    Ok(Sides(series))
}

impl Sides {
    /// The median of one side.
    pub(crate) fn middle(&self, side: usize) -> f64 {
        median(&self.0[side]).value
    }

    /// What the first side and another one compare to, round by round.
    pub(crate) fn compared(&self, other: usize, with: impl Fn(f64, f64) -> f64) -> Estimate {
        let rounds = self.0[0].iter().zip(&self.0[other]);
        median(&rounds.map(|(ours, other)| with(*ours, *other)).collect::<Vec<_>>())
    }

    /// The noise of the machine: the same comparison of a side with itself. Where the order turns round, one side was
    /// measured twice in a row.
    pub(crate) fn noise(&self, with: impl Fn(f64, f64) -> f64) -> Estimate {
        let turns = (1..ROUNDS).map(|round| {
            let side = if round % 2 == 1 { &self.0[self.0.len() - 1] } else { &self.0[0] };
            with(side[round - 1], side[round])
        });
        median(&turns.collect::<Vec<_>>())
    }
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
    fn noise_is_what_a_side_says_of_itself_in_a_row() {
        let order = &std::cell::RefCell::new(Vec::new());
        let side = |name: f64| -> Side<'_> {
            Box::new(move || {
                let mut order = order.borrow_mut();
                order.push(name);
                Ok(name * 10.0 + order.len() as f64)
            })
        };
        // A machine that gets slower with each measurement.
        let sides = interleave(&mut [side(1.0), side(2.0), side(3.0)]).expect("measured");
        assert_eq!(order.borrow()[..7], [1.0, 2.0, 3.0, 3.0, 2.0, 1.0, 1.0]);
        assert_eq!(
            sides.noise(|one, next| next - one),
            Estimate { value: 1.0, low: 1.0, high: 1.0 }
        );
        assert_eq!(sides.compared(1, |one, other| one - other).value.abs(), 11.0);
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

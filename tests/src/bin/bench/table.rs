//! A row of the table, and how it is printed.

use std::fmt::Write as _;

use crate::stats::{Bar, Estimate, Verdict};

/// A finished row.
pub(crate) struct Row {
    /// What was measured.
    pub(crate) name: String,
    /// Of all figures; empty for a ratio of what has the unit `per`.
    pub(crate) unit: &'static str,
    /// Of both sides.
    pub(crate) per: &'static str,
    /// With drainctl.
    pub(crate) ours: f64,
    /// The other side, in the same run.
    pub(crate) other: Option<f64>,
    /// What is compared with the bar.
    pub(crate) figure: Estimate,
    /// The same figure of the other side against itself.
    pub(crate) noise: Option<Estimate>,
    /// None where nothing is promised.
    pub(crate) bar: Option<Bar>,
}

/// The head of the table.
pub(crate) const HEAD: &str = "\
| what | drainctl | other side | figure | 95 % interval | noise | bar | verdict |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |
";

impl Row {
    /// A row without another side.
    pub(crate) fn alone(
        name: &str,
        unit: &'static str,
        figure: Estimate,
        bar: Option<Bar>,
    ) -> Self {
        let (name, ours) = (name.to_owned(), figure.value);
        Self { name, unit, per: unit, ours, other: None, figure, noise: None, bar }
    }

    /// What the figure says about the bar.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        self.bar.map(|bar| bar.judge(self.figure))
    }

    /// A line of the table.
    pub(crate) fn line(&self) -> String {
        let Self { name, unit, per, ours, other, figure, noise, .. } = self;
        let mut line = format!("| {name} | {} | ", number(*ours, per));
        let other = other.map_or("–".into(), |other| number(other, per));
        let interval = |e: &Estimate| format!("{} … {}", number(e.low, ""), number(e.high, unit));
        let noise = noise.as_ref().map_or("–".into(), interval);
        let bar = match self.bar {
            Some(Bar::AtLeast(bar)) => format!("≥ {} {unit}", bar),
            Some(Bar::AtMost(bar)) => format!("≤ {} {unit}", bar),
            None => "–".into(),
        };
        let verdict = match self.verdict() {
            Some(Verdict::Pass) => "pass",
            Some(Verdict::Missed) => "**missed**",
            Some(Verdict::Inconclusive) => "inconclusive",
            None => "–",
        };
        let figure = (number(figure.value, unit), interval(figure));
        let rest = [other, figure.0, figure.1, noise, bar.trim().to_owned(), verdict.to_owned()];
        // Writing to a string cannot fail.
        let _ = write!(line, "{} |", rest.join(" | "));
        line
    }
}

/// With digits enough to tell a hundredth of a ratio, and the unit.
pub(crate) fn number(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        _ => 3,
    };
    format!("{value:.digits$} {unit}").trim_end().to_owned()
}

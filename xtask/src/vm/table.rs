//! Kernel × test.

use std::{collections::BTreeMap, fmt};

use super::{kernels::Kernel, machine::Machine};

/// What came of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    /// The kernel is known to lack something for it.
    Lacks(String),
    /// It did not run, and nobody said why.
    NotRun,
}

impl Outcome {
    /// Whether it breaks the run.
    pub(super) fn is_bad(&self) -> bool {
        matches!(self, Self::Failed | Self::NotRun)
    }
}

/// One test on one kernel.
pub(super) struct Row {
    pub(super) file: String,
    pub(super) test: String,
    pub(super) outcome: Outcome,
}

/// All tests on all kernels.
#[derive(Default)]
pub(super) struct Table {
    /// Name and release.
    kernels: Vec<(&'static str, String)>,
    cells: BTreeMap<(String, String), BTreeMap<&'static str, Outcome>>,
}

impl Table {
    /// Adds a column.
    pub(super) fn add(&mut self, kernel: &'static Kernel, machine: &Machine, rows: Vec<Row>) {
        self.kernels.push((kernel.name, machine.release().to_owned()));
        for Row { file, test, outcome } in rows {
            self.cells.entry((file, test)).or_default().insert(kernel.name, outcome);
        }
    }

    /// How many cells are bad.
    pub(super) fn broken(&self) -> usize {
        self.cells.values().flat_map(BTreeMap::values).filter(|outcome| outcome.is_bad()).count()
    }
}

/// As Markdown, and under it what is lacking where and the totals.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.kernels.iter().map(|(_, release)| release.as_str()).collect();
        writeln!(f, "\n| test | {} |", names.join(" | "))?;
        writeln!(f, "| --- |{}", " --- |".repeat(names.len()))?;
        let mut reasons: Vec<String> = Vec::new();
        for ((file, test), cells) in &self.cells {
            write!(f, "| {file}::{test} |")?;
            for (kernel, _) in &self.kernels {
                match cells.get(kernel) {
                    Some(Outcome::Passed) => write!(f, " ok |")?,
                    Some(Outcome::Failed) => write!(f, " FAILED |")?,
                    Some(Outcome::NotRun) | None => write!(f, " NOT RUN |")?,
                    Some(Outcome::Lacks(reason)) => {
                        let at = reasons.iter().position(|known| known == reason);
                        let at = at.unwrap_or_else(|| {
                            reasons.push(reason.clone());
                            reasons.len() - 1
                        });
                        write!(f, " lacks {} |", at + 1)?;
                    }
                }
            }
            writeln!(f)?;
        }
        writeln!(f)?;
        for (number, reason) in reasons.iter().enumerate() {
            writeln!(f, "lacks {}: {reason}", number + 1)?;
        }
        self.totals(f)
    }
}

impl Table {
    fn totals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kernel, release) in &self.kernels {
            let of = |wanted: fn(&Outcome) -> bool| {
                let cells = self.cells.values().filter_map(|row| row.get(kernel));
                cells.filter(|outcome| wanted(outcome)).count()
            };
            writeln!(
                f,
                "Linux {release}: {} passed, {} failed, {} not run, {} left out for what it lacks",
                of(|outcome| *outcome == Outcome::Passed),
                of(|outcome| *outcome == Outcome::Failed),
                of(|outcome| *outcome == Outcome::NotRun),
                of(|outcome| matches!(outcome, Outcome::Lacks(_))),
            )?;
        }
        Ok(())
    }
}

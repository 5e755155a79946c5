//! docs/kernels.md: what came of every kernel's last whole run, by test file.
//!
//! A run takes long, so each kernel's results are kept in the target folder until the page is made of all of them, and
//! the page says of which commit they are.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::{
    kernels::{KERNELS, Kernel},
    suite::reason,
    table::{Outcome, Row},
};
use crate::{shell::ask, workspace::Workspace};

/// Everything behind this line of the page is made by us.
const MARK: &str = "<!-- What follows is made by `cargo xtask vm --all --out docs/kernels.md`. -->";

/// Keeps what came of a whole run: a line of tabs for each test.
///
/// # Errors
/// The target folder cannot be written to.
pub(super) fn keep(
    workspace: &Workspace,
    kernel: &Kernel,
    release: &str,
    rows: &[Row],
) -> Result<()> {
    let commit = ask(Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(&workspace.root));
    let mut text = format!("{release}, {}\n", commit.as_deref().unwrap_or("no commit"));
    for Row { file, test, outcome } in rows {
        let word = match outcome {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
            Outcome::Lacks(_) => "lacks",
            Outcome::NotRun => "not run",
        };
        let _ = writeln!(text, "{file}\t{test}\t{word}");
    }
    let path = workspace.target.join("vm").join(kernel.name);
    let place = || format!("write {}", path.display());
    fs::create_dir_all(workspace.target.join("vm")).with_context(place)?;
    fs::write(&path, text).with_context(place)
}

/// Makes the page anew behind its mark.
///
/// # Errors
/// It is not there, or has no mark.
pub(super) fn write(workspace: &Workspace, page: &Path) -> Result<()> {
    let text = fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
    let (ours, _) = text
        .split_once(MARK)
        .with_context(|| format!("{} has no line {MARK:?}", page.display()))?;
    let kept = |kernel: &'static Kernel| {
        let text = fs::read_to_string(workspace.target.join("vm").join(kernel.name)).ok()?;
        Some((kernel, text))
    };
    let texts: Vec<(&'static Kernel, String)> = KERNELS.iter().filter_map(kept).collect();
    let runs: Vec<Run<'_>> =
        texts.iter().map(|(kernel, text)| Run::read(kernel, text)).collect::<Result<_>>()?;
    ensure!(!runs.is_empty(), "no kernel has had a whole run yet");
    let page_text = format!("{ours}{MARK}\n{}", tables(&runs));
    fs::write(page, page_text).with_context(|| format!("write {}", page.display()))
}

/// What came of one kernel.
struct Run<'a> {
    kernel: &'static Kernel,
    /// With the commit.
    release: &'a str,
    /// By file.
    files: BTreeMap<&'a str, Vec<(&'a str, &'a str)>>,
}

impl<'a> Run<'a> {
    fn read(kernel: &'static Kernel, text: &'a str) -> Result<Self> {
        let (release, rows) = text.split_once('\n').context("a run begins with its release")?;
        let mut files: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for row in rows.lines() {
            let mut parts = row.split('\t');
            let mut next = || parts.next().context("a row has three parts");
            let (file, test, word) = (next()?, next()?, next()?);
            files.entry(file).or_default().push((test, word));
        }
        Ok(Self { kernel, release, files })
    }

    /// `12`, or `10, 2 lack`, or `11, 1 failed`.
    fn cell(&self, file: &str) -> String {
        let Some(tests) = self.files.get(file) else { return "–".to_owned() };
        let count = |wanted: &str| tests.iter().filter(|(_, word)| *word == wanted).count();
        let mut cell = match count("passed") {
            0 => String::new(),
            passed => passed.to_string(),
        };
        for word in ["lacks", "failed", "not run"] {
            if count(word) > 0 {
                let comma = if cell.is_empty() { "" } else { ", " };
                let number = count(word);
                let _ = write!(cell, "{comma}{number} {word}");
            }
        }
        cell
    }
}

fn tables(runs: &[Run<'_>]) -> String {
    let mut text = String::from("\n| tests | ");
    let releases: Vec<&str> = runs.iter().map(|run| run.release).collect();
    let _ = writeln!(text, "{} |\n| --- |{}", releases.join(" | "), " --- |".repeat(runs.len()));
    let mut files: Vec<&str> = runs.iter().flat_map(|run| run.files.keys().copied()).collect();
    files.sort_unstable();
    files.dedup();
    for file in files {
        let cells: Vec<String> = runs.iter().map(|run| run.cell(file)).collect();
        let _ = writeln!(text, "| `{file}` | {} |", cells.join(" | "));
    }
    text += "\nNumbers are tests that passed. All others:\n\n";
    for run in runs {
        for (file, tests) in &run.files {
            for (test, word) in tests.iter().filter(|(_, word)| *word != "passed") {
                let why = reason(run.kernel, file, test).unwrap_or("no reason is known");
                let _ =
                    writeln!(text, "- Linux {}, `{file}::{test}` {word}: {why}", run.kernel.name);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_becomes_a_table() {
        let text = "6.1.0\ngate\ta\tpassed\ngate\tb\tpassed\ncount\tc\tfailed\ncount\td\tpassed\n";
        let run = Run::read(&KERNELS[1], text).expect("it is whole");
        let page = tables(&[run]);
        assert!(page.contains("| tests | 6.1.0 |"), "{page}");
        assert!(page.contains("| `gate` | 2 |"), "{page}");
        assert!(page.contains("| `count` | 1, 1 failed |"), "{page}");
        assert!(page.contains("- Linux 6.1, `count::c` failed: no reason is known"), "{page}");
    }
}

//! What came of each test on a kernel when it last ran there, kept beside the page that is made of it (docs/kernels): a run of
//! everything takes long, and what failed is run again by its name.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{
    kernels::Kernel,
    suite::Suite,
    table::{Outcome, Row},
};
use crate::{shell::ask, workspace::Workspace};

/// The word for a test that has not run.
const NOT_RUN: &str = "not run";

/// Of one kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// `uname -r`.
    pub(super) release: String,
    /// Every test that there is.
    pub(super) entries: Vec<Entry>,
}

/// Of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) file: String,
    pub(super) test: String,
    /// `passed`, `failed`, `lacks`, or `not run`.
    pub(super) word: String,
    /// What was built and run.
    pub(super) commit: String,
}

/// The commit that is built and run now.
pub(super) fn commit(workspace: &Workspace) -> String {
    let describe = ["describe", "--always", "--dirty", "--exclude", "*"];
    ask(Command::new("git").args(describe).current_dir(&workspace.root))
        .unwrap_or_else(|| "no commit".to_owned())
}

impl Record {
    /// What is kept of a kernel for this page, if anything is.
    ///
    /// # Errors
    /// It was written by somebody else.
    pub(super) fn read(page: &Path, kernel: &Kernel) -> Result<Option<Self>> {
        match fs::read_to_string(path(page, kernel)) {
            Ok(text) => Self::parse(&text).map(Some),
            Err(_) => Ok(None),
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let (release, rows) = text.split_once('\n').context("a record begins with a release")?;
        let entry = |row: &str| {
            let mut parts = row.split('\t').map(str::to_owned);
            let mut next = || parts.next().context("a row of a record has four parts");
            Ok(Entry { file: next()?, test: next()?, word: next()?, commit: next()? })
        };
        let entries = rows.lines().map(entry).collect::<Result<_>>()?;
        Ok(Self { release: release.to_owned(), entries })
    }

    /// Puts what came of a run, of all tests or some, in the place of what was known of them.
    ///
    /// # Errors
    /// The page's folder cannot be read or written to.
    pub(super) fn keep(
        page: &Path,
        kernel: &Kernel,
        release: &str,
        suite: &Suite,
        rows: &[Row],
    ) -> Result<()> {
        let old = Self::read(page, kernel)?.filter(|old| old.release == release);
        let old = old.map_or_else(Vec::new, |old| old.entries);
        let new: Vec<Entry> = rows.iter().map(|row| entry(row, suite.commit())).collect();
        let record = Self { release: release.to_owned(), entries: merged(suite.all(), &old, new) };
        let path = path(page, kernel);
        let place = || format!("write {}", path.display());
        fs::create_dir_all(page.with_extension("")).with_context(place)?;
        fs::write(&path, record.text()).with_context(place)
    }

    fn text(&self) -> String {
        let row = |entry: &Entry| {
            format!("{}\t{}\t{}\t{}\n", entry.file, entry.test, entry.word, entry.commit)
        };
        let rows: String = self.entries.iter().map(row).collect();
        format!("{}\n{rows}", self.release)
    }
}

/// Of docs/kernels.md, docs/kernels/6.1.txt.
fn path(page: &Path, kernel: &Kernel) -> PathBuf {
    page.with_extension("").join(format!("{}.txt", kernel.name))
}

fn entry(row: &Row, commit: &str) -> Entry {
    let word = match row.outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "failed",
        Outcome::Lacks(_) => "lacks",
        Outcome::NotRun => NOT_RUN,
    };
    let (file, test) = (row.file.clone(), row.test.clone());
    Entry { file, test, word: word.to_owned(), commit: commit.to_owned() }
}

/// Of every test that there is what the new run says if it ran, else what is known, else that it has not run. What a run
/// says of the machine itself is behind them, and stays until a whole run says something better.
fn merged(all: &[(String, String)], old: &[Entry], new: Vec<Entry>) -> Vec<Entry> {
    let ran = |entries: &[Entry], (file, test): &(String, String)| {
        let is = |entry: &&Entry| entry.file == *file && entry.test == *test;
        entries.iter().find(is).filter(|entry| entry.word != NOT_RUN).cloned()
    };
    let never = |(file, test): &(String, String)| Entry {
        file: file.clone(),
        test: test.clone(),
        word: NOT_RUN.to_owned(),
        commit: String::new(),
    };
    let whole = new.len() >= all.len();
    let tests = all
        .iter()
        .map(|test| ran(&new, test).or_else(|| ran(old, test)).unwrap_or_else(|| never(test)));
    let mut entries: Vec<Entry> = tests.collect();
    let kept = old.iter().filter(|_| !whole).cloned();
    for entry in new.into_iter().chain(kept).filter(|entry| entry.file == Suite::MACHINE) {
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(test: &str, word: &str, commit: &str) -> Entry {
        let [file, test, word, commit] = ["gate", test, word, commit].map(str::to_owned);
        Entry { file, test, word, commit }
    }

    fn all(tests: &[&str]) -> Vec<(String, String)> {
        tests.iter().map(|test| ("gate".to_owned(), (*test).to_owned())).collect()
    }

    #[test]
    fn a_run_replaces_what_was_known_of_its_tests_only() {
        let old = [some("a", "passed", "1"), some("b", "failed", "1"), some("gone", "failed", "1")];
        let new = vec![some("a", NOT_RUN, "2"), some("b", "passed", "2")];
        let entries = merged(&all(&["a", "b", "c"]), &old, new);
        assert_eq!(
            entries,
            [some("a", "passed", "1"), some("b", "passed", "2"), some("c", "not run", "")]
        );
    }

    #[test]
    fn a_crash_is_known_until_a_whole_run_has_none() {
        let crash = Entry {
            file: Suite::MACHINE.to_owned(),
            test: "*".to_owned(),
            ..some("", "not run", "1")
        };
        let old = [some("a", "passed", "1"), some("b", "passed", "1"), crash.clone()];
        let part = merged(&all(&["a", "b"]), &old, vec![some("b", "passed", "2")]);
        assert!(part.contains(&crash), "{part:?}");
        let new = vec![some("a", "passed", "2"), some("b", "passed", "2")];
        assert!(!merged(&all(&["a", "b"]), &old, new).contains(&crash));
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let entries = vec![some("a", "passed", "1"), some("b", "not run", "")];
        let record = Record { release: "6.1.0".to_owned(), entries };
        assert_eq!(Record::parse(&record.text()).expect("it is whole"), record);
        assert!(Record::parse("6.1.0\ngate\ta\n").is_err());
    }
}

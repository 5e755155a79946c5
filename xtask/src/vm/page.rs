//! docs/kernels.md: what came of every test on every kernel, by test file.
//!
//! It is made of what is kept of earlier runs ([`Record`]), and says which commits they were of.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    kernels::{KERNELS, Kernel},
    record::{Entry, Record},
    suite::reason,
};

/// Everything behind this line of the page is made by us.
const MARK: &str = "<!-- What follows is made by `cargo xtask vm --all --out docs/kernels.md`. -->";

/// What may come of a test, as it is kept, in the order in which it is told.
const WORDS: [&str; 4] = ["passed", "lacks", "failed", "not run"];

/// Makes the page anew behind its mark.
///
/// # Errors
/// It is not there, or has no mark.
pub(super) fn write(page: &Path) -> Result<()> {
    let text = fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
    let (ours, _) = text
        .split_once(MARK)
        .with_context(|| format!("{} has no line {MARK:?}", page.display()))?;
    let mut runs = Vec::new();
    for kernel in &KERNELS {
        runs.extend(Record::read(page, kernel)?.map(|record| Run::new(kernel, record)));
    }
    ensure!(!runs.is_empty(), "no kernel has run a test yet");
    let page_text = format!("{ours}{MARK}\n{}", tables(&runs));
    fs::write(page, page_text).with_context(|| format!("write {}", page.display()))
}

/// What came of one kernel.
struct Run {
    kernel: &'static Kernel,
    release: String,
    /// By file.
    files: BTreeMap<String, Vec<Entry>>,
}

impl Run {
    fn new(kernel: &'static Kernel, record: Record) -> Self {
        let mut files: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for entry in record.entries {
            files.entry(entry.file.clone()).or_default().push(entry);
        }
        Self { kernel, release: record.release, files }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> + Clone {
        self.files.values().flatten()
    }

    /// `12`, or `10, 2 lacks`, or `11, 1 failed`.
    fn cell(&self, file: &str) -> String {
        self.files
            .get(file)
            .map_or_else(|| "–".to_owned(), |tests| counts(tests.iter()).replace(" passed", ""))
    }

    /// What came of a test, and why, in brackets.
    fn why<'a>(&self, entry: &'a Entry) -> (&'a str, String) {
        let Entry { file, test, word, .. } = entry;
        let why = match (word.as_str(), reason(self.kernel, file, test)) {
            ("passed" | "not run", _) => String::new(),
            (_, Some(reason)) => format!(" ({reason})"),
            (_, None) => " (no reason is known)".into(),
        };
        (word, why)
    }

    /// How many tests ran on which commit.
    fn commits(&self) -> String {
        let mut commits: BTreeMap<&str, usize> = BTreeMap::new();
        let ran = self.entries().filter(|entry| ["passed", "failed"].contains(&&*entry.word));
        ran.for_each(|entry| *commits.entry(&entry.commit).or_default() += 1);
        let mut commits: Vec<(&str, usize)> = commits.into_iter().collect();
        commits.sort_by_key(|(_, tests)| std::cmp::Reverse(*tests));
        let words: Vec<String> =
            commits.iter().map(|(commit, tests)| format!("{tests} on `{commit}`")).collect();
        words.join(", ")
    }
}

/// `12 passed`, `10 passed, 2 lacks`, and so on: what did not happen is left out.
fn counts<'a>(entries: impl Iterator<Item = &'a Entry> + Clone) -> String {
    let count = |word: &str| entries.clone().filter(|entry| entry.word == word).count();
    let words = WORDS.iter().map(|word| (count(word), word)).filter(|(count, _)| *count > 0);
    words.map(|(count, word)| format!("{count} {word}")).collect::<Vec<_>>().join(", ")
}

fn tables(runs: &[Run]) -> String {
    let mut text = String::from("\n| tests | ");
    let row = |cell: &dyn Fn(&Run) -> String| runs.iter().map(cell).collect::<Vec<_>>().join(" | ");
    let _ = writeln!(
        text,
        "{} |\n| --- |{}",
        row(&|run| run.release.clone()),
        " --- |".repeat(runs.len())
    );
    let mut files: Vec<&str> = runs.iter().flat_map(|run| run.files.keys()).map(|f| &**f).collect();
    files.sort_unstable();
    files.dedup();
    for file in files {
        let _ = writeln!(text, "| `{file}` | {} |", row(&|run| run.cell(file)));
    }
    let _ = writeln!(text, "| all | {} |", row(&|run| counts(run.entries())));
    text += "\nNumbers are tests that passed, when they last ran there:\n\n";
    for run in runs {
        let _ = writeln!(text, "- Linux {}: {}", run.kernel.name, run.commits());
    }
    text + &others(runs)
}

/// A line for each reason why tests have not passed, with their names.
fn others(runs: &[Run]) -> String {
    let mut text = String::new();
    for run in runs {
        let mut reasons: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for (file, entries) in &run.files {
            let whys: BTreeSet<_> = entries.iter().map(|entry| run.why(entry)).collect();
            let all_alike = whys.len() == 1;
            for entry in entries.iter().filter(|entry| entry.word != "passed") {
                let test = if all_alike { "*" } else { &entry.test };
                reasons.entry(run.why(entry)).or_default().insert(format!("`{file}::{test}`"));
            }
        }
        for ((word, why), names) in reasons {
            let names = names.into_iter().collect::<Vec<_>>().join(", ");
            let _ = writeln!(text, "- Linux {}, {word}{why}: {names}", run.kernel.name);
        }
    }
    if text.is_empty() { text } else { format!("\nAll others:\n\n{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_becomes_a_table() {
        let text = "6.1.0\ngate\ta\tpassed\t1a\ngate\tb\tpassed\t1a\ncount\tc\tfailed\t2b\n\
                    count\td\tpassed\t1a\ncount\te\tnot run\t\nrun\tf\tnot run\t\nrun\tg\tnot run\t\n";
        let record = Record::parse(text).expect("it is whole");
        let page = tables(&[Run::new(&KERNELS[1], record)]);
        assert!(page.contains("| tests | 6.1.0 |"), "{page}");
        assert!(page.contains("| `gate` | 2 |"), "{page}");
        assert!(page.contains("| `count` | 1, 1 failed, 1 not run |"), "{page}");
        assert!(page.contains("| all | 3 passed, 1 failed, 3 not run |"), "{page}");
        assert!(page.contains("- Linux 6.1: 3 on `1a`, 1 on `2b`\n"), "{page}");
        assert!(page.contains("- Linux 6.1, failed (no reason is known): `count::c`\n"), "{page}");
        assert!(page.contains("- Linux 6.1, not run: `count::e`, `run::*`\n"), "{page}");
    }
}

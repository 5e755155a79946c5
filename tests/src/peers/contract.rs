//! The side of the contract that programs see: sizes, the command line, and the summary at the end.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::Kind;

/// Sizes of `/body/<size>` and `/chunked/<size>` that clients ask for.
pub const SIZES: [usize; 6] = [0, 1, 100, 1000, 10_000, 100_000];

/// Size of `/slow/<size>`, which takes about three seconds.
pub const SLOW: usize = 90_000;

/// Responses before the drain begins, which is also what a pair must have at least.
pub(super) const WARM: u64 = 1000;

/// Byte by byte what a body of this size is.
pub fn body(size: usize) -> Vec<u8> {
    (0..size).map(|index| u8::try_from((index * 31 + size) % 251).unwrap_or_default()).collect()
}

/// A client's command line after `--url`.
pub(super) fn client_args(connections: u32, kinds: &[Kind]) -> Vec<String> {
    let kinds: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    let mut args = vec![format!("--connections={connections}"), format!("--warm={WARM}")];
    if !kinds.is_empty() {
        args.push(format!("--kinds={}", kinds.join(",")));
    }
    args
}

/// The files that servers of files serve: `body/<size>` and `slow/<size>`.
pub(super) fn write_files(root: &Path) -> Result<()> {
    for (folder, sizes) in [("body", &SIZES[..]), ("slow", &[SLOW])] {
        fs::create_dir_all(root.join(folder))?;
        for size in sizes {
            let path = root.join(folder).join(size.to_string());
            fs::write(&path, body(*size)).with_context(|| format!("write {}", path.display()))?;
        }
    }
    Ok(())
}

/// The one JSON line a client prints at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Summary {
    /// Responses that were complete and right.
    pub responses: u64,
    /// The first responses that were complete and not right, in words.
    pub bad: Vec<String>,
    /// How many there were.
    pub bad_count: u64,
    /// The first failures, in words.
    pub errors: Vec<String>,
    /// How many there were.
    pub error_count: u64,
    /// Requests that the client's library says it has never sent, because of a GOAWAY; the client sent
    /// them again.
    #[serde(default)]
    pub refused: u64,
    /// Connections opened after the first of each worker, where the client can tell.
    pub reconnects: u64,
    /// Requests with a side effect.
    pub posts: Posts,
}

/// Requests with a side effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Posts {
    /// Sent, each with an id of its own.
    pub sent: u64,
    /// Answered.
    pub answered: u64,
}

impl Summary {
    /// Finds it in what a client has printed.
    pub(super) fn parse(stdout: &str) -> Result<Self> {
        let line = stdout.lines().rev().find(|line| line.starts_with('{'));
        let Some(line) = line else { bail!("the client printed no summary: {stdout:?}") };
        serde_json::from_str(line).with_context(|| format!("the client's summary: {line}"))
    }
}

/// Whether the client has said that the drain may begin.
pub(super) fn is_warm(stdout: &str) -> bool {
    stdout.lines().any(|line| line == "warm")
}

/// What the servers have executed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Executed {
    /// Different ids.
    pub(super) ids: u64,
    /// Ids that were executed more than once, each with its count.
    pub(super) repeated: Vec<(String, u64)>,
}

impl Executed {
    /// Reads the files to which the servers have written ids.
    pub(super) fn read(files: &[&Path]) -> Result<Self> {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for file in files.iter().filter(|file| file.exists()) {
            for id in fs::read_to_string(file)?.lines() {
                *counts.entry(id.to_owned()).or_default() += 1;
            }
        }
        let ids = counts.len() as u64;
        Ok(Self { ids, repeated: counts.into_iter().filter(|(_, count)| *count > 1).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_tells_its_size_and_every_place_in_it() {
        assert_eq!(body(3), [3, 34, 65]);
        assert_eq!(body(100_000).len(), 100_000);
        assert_ne!(body(1000)[..100], body(100)[..]);
    }

    #[test]
    fn the_summary_is_the_last_line_with_a_brace() {
        let line = r#"{"responses":2,"bad":[],"bad_count":0,"errors":["x"],"error_count":1,"reconnects":3,"posts":{"sent":4,"answered":5}}"#;
        let summary = Summary::parse(&format!("warm\n{line}\n")).expect("a summary");
        assert_eq!((summary.responses, summary.error_count, summary.posts.answered), (2, 1, 5));
        assert!(is_warm("x\nwarm\n") && !is_warm("warmer\n"));
        assert!(Summary::parse("warm\n").is_err());
    }

    #[test]
    fn a_repeated_id_is_found() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (one, two) = (dir.path().join("1"), dir.path().join("2"));
        fs::write(&one, "a\nb\n")?;
        fs::write(&two, "b\nc\n")?;
        let executed = Executed::read(&[&one, &two, &dir.path().join("none")])?;
        assert_eq!(executed, Executed { ids: 3, repeated: vec![("b".into(), 2)] });
        Ok(())
    }
}

//! The journal: one JSON object a line, on the disk before anything is done about it, so that the program may be killed
//! at any moment. Only one may write it at a time.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{
    inventory::Identity,
    plan::{Course, Mark, Pass},
};
use crate::cli::exit::{Exit, Failure};

/// The form of the lines that is written here.
const FORM: u32 = 1;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Entry {
    /// The first line: a rollout of these instances.
    Began { form: u32, instances: Vec<Identity> },
    /// From here on it is undone.
    Undo,
    /// Something is about to be done to an instance, or was.
    Step {
        instance: String,
        pass: Pass,
        mark: Mark,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// The command of an instance runs as this process, which began so long after the machine (in clock ticks).
    Command { instance: String, pid: u32, started: u64 },
    /// The canaries are well.
    Canary,
    /// Everything is done.
    Finished { pass: Pass },
}

/// A line with its time.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// Milliseconds since 1970.
    at_ms: u64,
    #[serde(flatten)]
    entry: Entry,
}

/// A journal that is open, and ours alone.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
}

/// What a journal says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Past {
    pub(super) entries: Vec<Entry>,
}

impl Past {
    pub(super) fn instances(&self) -> &[Identity] {
        match self.entries.first() {
            Some(Entry::Began { instances, .. }) => instances,
            _ => &[],
        }
    }

    pub(super) fn is_undoing(&self) -> bool {
        self.entries.contains(&Entry::Undo)
    }

    pub(super) fn canaries_are_well(&self) -> bool {
        self.entries.contains(&Entry::Canary)
    }

    pub(super) fn is_finished(&self, pass: Pass) -> bool {
        self.entries.contains(&Entry::Finished { pass })
    }

    /// What was done to an instance, and why it failed if that is the last of it.
    pub(super) fn course(&self, name: &str) -> (Course, Option<String>) {
        let (mut course, mut failed) = (Course::default(), None);
        for entry in &self.entries {
            if let Entry::Step { instance, pass, mark, why } = entry
                && instance == name
            {
                course.apply(*pass, *mark);
                failed = if *mark == Mark::Reopened { failed } else { why.clone() };
            }
        }
        (course, failed)
    }

    /// The last command of each instance: its process, and when it began.
    pub(super) fn commands(&self) -> impl Iterator<Item = (&str, u32, u64)> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Command { instance, pid, started } => Some((&**instance, *pid, *started)),
            _ => None,
        })
    }
}

/// How each line begins.
const BEGIN: &str = "{\"at_ms\":";

impl Journal {
    /// Opens it, for us alone, and reads what it says. A line that was not written to its end is dropped: nothing was
    /// done about it.
    ///
    /// # Errors
    /// Another rollout has it (8), or it cannot be read or is no journal (2).
    pub(super) fn open(path: &Path) -> Result<(Self, Past), Failure> {
        let fail = |why: &dyn std::fmt::Display| {
            usage(format!("cannot use the journal {}: {why}", path.display()))
        };
        // A device or a pipe keeps nothing, or never ends.
        if path.metadata().is_ok_and(|file| !file.is_file()) {
            return Err(fail(&"it is no regular file"));
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).mode(0o600).open(path);
        let mut file = file.map_err(|error| fail(&error))?;
        lock(&file, path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(|error| fail(&error))?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let past = parse(&text[..whole]).map_err(|why| fail(&why))?;
        if !may_be_cut(&text[whole..]) {
            return Err(fail(&"it is no journal"));
        }
        if whole < text.len() {
            file.set_len(whole as u64).map_err(|error| fail(&error))?;
        }
        file.seek(std::io::SeekFrom::End(0)).map_err(|error| fail(&error))?;
        let path = path.to_owned();
        Ok((Self { path, file }, past))
    }

    /// Begins a new one: what was there is kept beside it, as `PATH.old`.
    ///
    /// # Errors
    /// The files cannot be renamed or written.
    pub(super) fn begin(self, past: &Past, instances: Vec<Identity>) -> Result<Self, Failure> {
        let mut journal = self;
        let mut old = None;
        if !past.entries.is_empty() {
            let mut name = journal.path.clone().into_os_string();
            name.push(".old");
            std::fs::rename(&journal.path, &name).map_err(|error| {
                usage(format!("cannot rename {}: {error}", journal.path.display()))
            })?;
            old = Some(name);
            journal = Self::open(&journal.path)?.0;
        }
        journal.write_first(instances).map_err(|failure| {
            // What is over can be undone still.
            drop(old.map(|old| std::fs::rename(old, &journal.path)));
            before_anything(failure)
        })?;
        Ok(journal)
    }

    fn write_first(&mut self, instances: Vec<Identity>) -> Result<(), Failure> {
        self.append(&Entry::Began { form: FORM, instances })?;
        // The file itself must be found again, too.
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = File::open(folder.unwrap_or(Path::new(".")));
        folder.and_then(|folder| folder.sync_all()).map_err(|error| self.lost(&error))
    }

    /// From here on it is undone.
    ///
    /// # Errors
    /// It could not be written.
    pub(super) fn begin_undo(mut self) -> Result<Self, Failure> {
        self.append(&Entry::Undo).map_err(before_anything)?;
        Ok(self)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a line, and has it on the disk.
    ///
    /// # Errors
    /// It is not; then what it is about is not to be done.
    pub(super) fn append(&mut self, entry: &Entry) -> Result<(), Failure> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = Line { at_ms: since.as_millis() as u64, entry: entry.clone() };
        let written =
            serde_json::to_vec(&line).map_err(std::io::Error::from).and_then(|mut line| {
                line.push(b'\n');
                whole(&self.file, |mut file| {
                    file.write_all(&line)?;
                    file.sync_data()
                })
            });
        written.map_err(|error| self.lost(&error))
    }

    fn lost(&self, error: &std::io::Error) -> Failure {
        let path = self.path.display();
        Failure::new(Exit::Internal, format!("cannot write the journal {path}: {error}"))
    }
}

/// Writes all, or leaves the file as long as it was: half a line would spoil the one that is written next.
fn whole(file: &File, write: impl FnOnce(&File) -> std::io::Result<()>) -> std::io::Result<()> {
    let before = file.metadata()?.len();
    write(file).inspect_err(|_| {
        // What cannot be taken back either is dropped by who reads it, being half a line at the end.
        let _ = file.set_len(before);
    })
}

fn lock(file: &File, path: &Path) -> Result<(), Failure> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        let error = std::io::Error::from(error);
        if error.kind() == ErrorKind::WouldBlock {
            let path = path.display();
            return Failure::new(
                Exit::Conflict,
                format!(
                    "another rollout is under way with the journal {path}; nothing was changed"
                ),
            );
        }
        usage(format!("cannot lock the journal {}: {error}", path.display()))
    })
}

fn parse(text: &[u8]) -> Result<Past, String> {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).enumerate();
    let entries: Result<Vec<Entry>, String> = lines
        .map(|(at, line)| match serde_json::from_slice::<Line>(line) {
            Ok(line) => Ok(line.entry),
            Err(error) => Err(format!("line {}: {error}", at + 1)),
        })
        .collect();
    let entries = entries?;
    match entries.first() {
        None | Some(Entry::Began { form: FORM, .. }) => Ok(Past { entries }),
        Some(Entry::Began { form, .. }) => {
            Err(format!("it is of form {form}, which is for another drainctl"))
        }
        Some(_) => Err("its first line does not begin a rollout".into()),
    }
}

/// The journal cannot be written from the start.
fn before_anything(failure: Failure) -> Failure {
    usage(failure.message)
}

fn usage(message: String) -> Failure {
    Failure::new(Exit::Usage, format!("{message}; nothing was changed"))
}

/// Whether this may be what is left of a line of a journal that was not written to its end. Where the power failed there may
/// be zeros.
fn may_be_cut(line: &[u8]) -> bool {
    let begin = BEGIN.as_bytes();
    let begins = line.iter().zip(begin).all(|(is, should)| is == should);
    begins || line.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
impl Journal {
    /// One that can only be read.
    pub(super) fn unwritable(path: &Path) -> Self {
        std::fs::write(path, "").unwrap();
        Self { path: path.to_owned(), file: File::open(path).unwrap() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(instance: &str, mark: Mark, why: Option<&str>) -> Entry {
        let (pass, why) = (Pass::Release, why.map(str::to_owned));
        Entry::Step { instance: instance.into(), pass, mark, why }
    }

    #[test]
    fn what_was_written_is_read_and_half_a_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (journal, past) = Journal::open(&path).unwrap();
        assert_eq!(past, Past::default());
        let mut journal = journal.begin(&past, Vec::new()).unwrap();
        journal.append(&step("a", Mark::Running, None)).unwrap();
        journal.append(&step("a", Mark::Failed, Some("no disk"))).unwrap();
        assert_eq!(Journal::open(&path).unwrap_err().exit, Exit::Conflict, "it is ours");
        journal.file.write_all(br#"{"at_ms":1,"event":"can"#).unwrap();
        drop(journal);

        let (mut journal, past) = Journal::open(&path).unwrap();
        assert_eq!(past.entries.len(), 3);
        let (course, why) = past.course("a");
        assert_eq!((course.last(), why.as_deref()), (Some(Mark::Failed), Some("no disk")));
        journal.append(&Entry::Canary).unwrap();
        drop(journal);
        let (journal, past) = Journal::open(&path).unwrap();
        assert!(past.canaries_are_well() && !past.is_undoing());
        // The next rollout keeps it.
        drop(journal.begin(&past, Vec::new()).unwrap());
        assert_eq!(Journal::open(&path).unwrap().1.entries.len(), 1);
        assert_eq!(Journal::open(&dir.path().join("journal.old")).unwrap().1, past);
    }

    #[test]
    fn half_a_line_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (journal, past) = Journal::open(&path).unwrap();
        let mut journal = journal.begin(&past, Vec::new()).unwrap();
        let full = whole(&journal.file, |mut file| {
            file.write_all(br#"{"at_ms":1,"event":"can"#)?;
            Err(ErrorKind::StorageFull.into())
        });
        assert_eq!(full.unwrap_err().kind(), ErrorKind::StorageFull);
        journal.append(&Entry::Canary).unwrap();
        drop(journal);
        assert!(Journal::open(&path).unwrap().1.canaries_are_well());
    }

    #[test]
    fn what_is_no_journal_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        for text in [
            "hello\n",
            "hello",
            "\n\na token",
            "{}\n",
            "{\"at_ms\":1,\"event\":\"canary\"}\n",
            "{\"at_ms\":1,\"event\":\"began\",\"form\":2,\"instances\":[]}\n",
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Journal::open(&path).unwrap_err().exit, Exit::Usage, "{text}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}

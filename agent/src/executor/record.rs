//! What is saved of a drain, for an agent that comes after this one.

use std::collections::BTreeSet;

use drainctl_common::record::Record as Saved;
use serde::{Deserialize, Serialize};

use super::{Owner, entry::Entry, registering::Kept};
use crate::{
    drain::{Boot, RetireReport, Spec, Standing},
    registries,
};

/// Which of the forms below it has. Agents of other versions read it too: fields may be added, with
/// `#[serde(default)]`, and only if the meaning of one changes, this does.
const FORMAT: u32 = 1;

/// Bytes of text.
const ROOM: usize = Saved::ROOM;
/// A listener's cookie, of 20 digits at most, and a comma.
const LONGEST_COOKIE: usize = 21;
/// Everything else, which does not depend on options.
const REST: usize = 1536;
/// Names of registries, each in quotes and with a comma, and that of a pod. A letter may take two bytes.
const REGISTRIES: usize = registries::MOST * (2 * registries::LONGEST_NAME + 3) + 400;

/// Whether a drain with these options can be saved, whatever comes of it; `announces`: there may be registries.
pub(super) fn has_room(spec: &Spec, listeners: usize, announces: bool) -> bool {
    let spec = serde_json::to_vec(spec).map_or(usize::MAX / 2, |text| text.len());
    spec + listeners * LONGEST_COOKIE + REST + if announces { REGISTRIES } else { 0 } <= ROOM
}

/// See the module. JSON, so that `bpftool map dump` shows something that can be read.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    pub(super) standing: Standing,
    pub(super) owner: Owner,
    /// Of the namespace in which the drain began: its inode number may be another one's by now.
    pub(super) netns_cookie: Option<u64>,
    pub(super) listeners: Option<BTreeSet<u64>>,
    pub(super) report: RetireReport,
    /// When that report was made.
    pub(super) reported: Boot,
    #[serde(default, skip_serializing_if = "Kept::is_nothing")]
    pub(super) registries: Kept,
}

impl Record {
    /// `None` if the drain is over.
    pub(super) fn of(entry: &Entry) -> Option<Self> {
        entry.machine.standing().map(|standing| Self {
            format: FORMAT,
            standing,
            owner: entry.owner,
            netns_cookie: entry.netns_cookie,
            listeners: entry.listeners.clone(),
            report: entry.report.clone(),
            reported: entry.reported,
            registries: entry.registrations.kept.clone(),
        })
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is spoilt, or of a form that this agent does not know.
    pub(super) fn read(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        if format != FORMAT {
            return Err(format!("it has format {format}, and this agent knows {FORMAT} only"));
        }
        serde_json::from_slice(text).map_err(|e| e.to_string())
    }

    /// As it is saved. If there is no room for the addresses of those that were cut, they are left out.
    pub(super) fn text(mut self) -> Vec<u8> {
        let text = |record: &Self| serde_json::to_vec(record).unwrap_or_default();
        let whole = text(&self);
        if whole.len() <= ROOM {
            return whole;
        }
        self.report.cut.clear();
        text(&self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Phase;

    /// What the first agent that saved drains wrote. It must be read for ever.
    const FIRST: &str = include_str!("record_first.json");

    #[test]
    fn what_the_first_agents_wrote_is_read() {
        let record = Record::read(FIRST.as_bytes()).expect("it is known");
        assert!(record.standing.closed_until().is_some());
        assert_eq!((record.owner.uid, record.netns_cookie), (1000, Some(77)));
        assert_eq!(record.report.told_by_header, 3);
        let now = Boot::from_nanos(5_000_000_000);
        let (machine, _) = crate::drain::Machine::adopt(record.standing, now);
        assert_eq!(machine.phase(), Phase::Rejecting);
        assert_eq!(machine.spec().timeout().as_secs(), 25);
    }
}

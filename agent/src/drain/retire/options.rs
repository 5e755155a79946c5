//! The options of `drain` about flows that are there already, validated.

use std::{fmt, str::FromStr, time::Duration};

use humantime::format_duration;
use serde::{Deserialize, Serialize};

/// `--idle-after` unless it is given.
pub const IDLE_AFTER: Duration = Duration::from_secs(1);
/// `--linger` unless it is given.
pub const LINGER: Duration = Duration::from_secs(2);

/// What `--retire` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetireKind {
    /// HTTP/1 gets `Connection: close`, HTTP/2 a GOAWAY.
    Http,
    /// HTTP/1 gets `Connection: close`, HTTP/2 is left alone.
    Http1,
    /// Flows proven to be idle get a FIN.
    Idle,
    /// So do flows of which nothing is known but that no bytes move.
    Quiet,
}

/// All that `--retire` names; `none` is the empty set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetireSet {
    /// Tell HTTP/1.
    pub http1: bool,
    /// Tell HTTP/2.
    pub http2: bool,
    /// FIN to idle flows.
    pub idle: bool,
    /// FIN to quiet flows.
    pub quiet: bool,
}

impl RetireSet {
    /// Nothing: flows leave when they want to.
    pub const NONE: Self = Self { http1: false, http2: false, idle: false, quiet: false };

    /// Whether flows are told by header or GOAWAY.
    pub fn tells(self) -> bool {
        self.http1 || self.http2
    }

    /// Whether flows may get a FIN.
    pub fn finishes(self) -> bool {
        self.idle || self.quiet
    }

    /// The words that name it.
    pub fn kinds(self) -> Vec<RetireKind> {
        let http = match (self.http1, self.http2) {
            (true, true) => Some(RetireKind::Http),
            (true, false) => Some(RetireKind::Http1),
            _ => None,
        };
        let idle = self.idle.then_some(RetireKind::Idle);
        let quiet = self.quiet.then_some(RetireKind::Quiet);
        [http, idle, quiet].into_iter().flatten().collect()
    }
}

/// `http,idle`.
impl Default for RetireSet {
    fn default() -> Self {
        Self { http1: true, http2: true, idle: true, quiet: false }
    }
}

impl FromIterator<RetireKind> for RetireSet {
    fn from_iter<I: IntoIterator<Item = RetireKind>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::NONE, |set, kind| match kind {
            RetireKind::Http => Self { http1: true, http2: true, ..set },
            RetireKind::Http1 => Self { http1: true, ..set },
            RetireKind::Idle => Self { idle: true, ..set },
            RetireKind::Quiet => Self { quiet: true, ..set },
        })
    }
}

impl RetireKind {
    /// As on the command line and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http1 => "http1",
            Self::Idle => "idle",
            Self::Quiet => "quiet",
        }
    }
}

/// `http,idle`, or `none`.
impl FromStr for RetireSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::NONE);
        }
        let known = [RetireKind::Http, RetireKind::Http1, RetireKind::Idle, RetireKind::Quiet];
        let kind = |word: &str| known.into_iter().find(|kind| kind.as_str() == word);
        text.split(',').map(kind).collect::<Option<Self>>().ok_or_else(|| {
            "none, or a list of http (or http1), idle and quiet, for example http,idle".into()
        })
    }
}

impl fmt::Display for RetireSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.kinds().into_iter().map(RetireKind::as_str).collect();
        if words.is_empty() { f.write_str("none") } else { f.write_str(&words.join(",")) }
    }
}

/// What happens at the deadline to flows that remain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AtDeadline {
    /// They stay, and the drain has expired.
    #[default]
    Leave,
    /// They are reset.
    Abort,
}

impl AtDeadline {
    /// As on the command line and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leave => "leave",
            Self::Abort => "abort",
        }
    }
}

/// The options as a person or a program gave them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetireRequest {
    /// What is retired, and how. Default `http,idle`.
    pub set: Option<RetireSet>,
    /// How long a flow must have been idle before it gets a FIN. Default 1 s.
    pub idle_after: Option<Duration>,
    /// How long a flow must have been quiet before it gets a FIN; needed with `quiet`, and only there.
    pub quiet_flow_after: Option<Duration>,
    /// How long a flow in FIN_WAIT2 counts. Default 2 s.
    pub linger: Option<Duration>,
    /// Over how long flows are told and finished, one after the other. Default `--min-settle`.
    pub spread: Option<Duration>,
    /// What happens at the deadline to flows that remain.
    pub at_deadline: AtDeadline,
}

/// The options, validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retire {
    /// What is retired, and how.
    pub set: RetireSet,
    /// How long a flow must have been idle before it gets a FIN.
    pub idle_after: Duration,
    /// How long a flow must have been quiet before it gets a FIN; `Some` if and only if `set.quiet`.
    pub quiet_flow_after: Option<Duration>,
    /// How long a flow in FIN_WAIT2 counts at most.
    pub linger: Duration,
    /// Over how long the turns of the flows are spread, from the drain's start.
    pub spread: Duration,
    /// What happens at the deadline to flows that remain.
    pub at_deadline: AtDeadline,
}

/// Why options make no drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetireError {
    /// An option about something that `--retire` does not name.
    #[error("{option} has no effect with --retire {set}: leave it out, or add {needs} to --retire")]
    NoEffect {
        /// The option.
        option: &'static str,
        /// What `--retire` names.
        set: RetireSet,
        /// What it would have to name.
        needs: &'static str,
    },
    /// Cutting quiet flows needs a time.
    #[error(
        "--retire quiet needs --quiet-flow-after, for example --quiet-flow-after 10s: how long a connection of \
        unknown protocol must have been silent before it gets a FIN"
    )]
    NoQuietTime,
    /// The last flow would have its turn after the deadline.
    #[error(
        "--spread {} must be shorter than --timeout {}: lower --spread or raise --timeout",
        format_duration(*.spread), format_duration(*.timeout)
    )]
    SpreadOverTimeout {
        /// `--spread`.
        spread: Duration,
        /// `--timeout`.
        timeout: Duration,
    },
}

impl RetireRequest {
    /// The validated options of a drain that settles for at least `min_settle` and waits for `timeout`.
    ///
    /// # Errors
    /// The options contradict each other.
    pub fn validate(&self, min_settle: Duration, timeout: Duration) -> Result<Retire, RetireError> {
        let set = self.set.unwrap_or_default();
        let check = |option, given: Option<Duration>, works: bool, needs| match given {
            Some(_) if !works => Err(RetireError::NoEffect { option, set, needs }),
            _ => Ok(()),
        };
        check("--idle-after", self.idle_after, set.idle, "idle")?;
        check("--quiet-flow-after", self.quiet_flow_after, set.quiet, "quiet")?;
        check("--spread", self.spread, set != RetireSet::NONE, "http or idle")?;
        if set.quiet && self.quiet_flow_after.is_none() {
            return Err(RetireError::NoQuietTime);
        }
        let spread = self.spread.unwrap_or(min_settle);
        if spread >= timeout {
            return Err(RetireError::SpreadOverTimeout { spread, timeout });
        }
        Ok(Retire {
            set,
            idle_after: self.idle_after.unwrap_or(IDLE_AFTER),
            quiet_flow_after: self.quiet_flow_after,
            linger: self.linger.unwrap_or(LINGER),
            spread,
            at_deadline: self.at_deadline,
        })
    }
}

impl Retire {
    /// Whether there is anything to be done about the flows.
    pub fn is_any(&self) -> bool {
        self.set != RetireSet::NONE || self.at_deadline == AtDeadline::Abort
    }

    /// In what a second request (`other`) contradicts these options, in words: in what is done to flows, not
    /// in how patiently.
    pub(in crate::drain) fn contradictions(&self, other: &Self) -> Vec<String> {
        let quiet =
            |retire: &Self| retire.quiet_flow_after.map(|after| format_duration(after).to_string());
        let words = |retire: &Self| {
            [
                ("--retire", Some(retire.set.to_string())),
                ("--quiet-flow-after", quiet(retire)),
                ("--at-deadline", Some(retire.at_deadline.as_str().to_owned())),
            ]
        };
        let pairs = words(self).into_iter().zip(words(other));
        pairs
            .filter(|((_, ours), (_, theirs))| ours != theirs)
            // Where only one has a quiet time, `--retire` differs too, and says it all.
            .filter_map(|((option, ours), (_, theirs))| Some((option, ours?, theirs?)))
            .map(|(option, ours, theirs)| format!("{option} is {ours}, not {theirs}"))
            .collect()
    }

    /// What two who ask for the same share: the longer of both times that a flow may idle and linger. Turns
    /// stay as they are, since flows are told by them already.
    pub(in crate::drain) fn joined_by(self, other: &Self) -> Self {
        Self {
            idle_after: self.idle_after.max(other.idle_after),
            linger: self.linger.max(other.linger),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(25);
    const SETTLE: Duration = Duration::from_secs(3);

    fn of(words: &str) -> Option<RetireSet> {
        Some(words.parse().expect("a set"))
    }

    #[test]
    fn sets_are_read_and_written_alike() {
        for words in ["none", "http", "http1", "idle", "http,idle", "http1,idle,quiet"] {
            let set: RetireSet = words.parse().expect(words);
            assert_eq!(set.to_string(), words);
            assert_eq!(set.kinds().into_iter().collect::<RetireSet>(), set);
        }
        assert_eq!(RetireSet::default(), "http,idle".parse().expect("a set"));
        for words in ["", "none,idle", "http2", "http,", "HTTP", "http idle"] {
            let error = words.parse::<RetireSet>().expect_err(words);
            assert!(error.contains("for example"), "{error}");
        }
    }

    #[test]
    fn defaults_follow_the_drain() {
        let retire = RetireRequest::default().validate(SETTLE, TIMEOUT).expect("valid");
        assert_eq!(retire.spread, SETTLE);
        assert_eq!((retire.idle_after, retire.linger), (IDLE_AFTER, LINGER));
        assert_eq!(retire.at_deadline, AtDeadline::Leave);
        let at_once = RetireRequest::default().validate(Duration::ZERO, TIMEOUT).expect("valid");
        assert_eq!(at_once.spread, Duration::ZERO, "a drain without settling tells all at once");
    }

    #[test]
    fn options_without_effect_are_refused_with_what_to_do() {
        let none = RetireRequest::default();
        let second = Some(Duration::from_secs(1));
        #[rustfmt::skip]
        let table = [
            (RetireRequest { set: of("http"), idle_after: second, ..none },
             "--idle-after has no effect with --retire http: leave it out, or add idle to --retire"),
            (RetireRequest { quiet_flow_after: second, ..none },
             "--quiet-flow-after has no effect with --retire http,idle: leave it out, or add quiet to --retire"),
            (RetireRequest { set: of("none"), spread: second, ..none },
             "--spread has no effect with --retire none: leave it out, or add http or idle to --retire"),
            (RetireRequest { set: of("quiet"), ..none }, "--retire quiet needs --quiet-flow-after, for example"),
            (RetireRequest { spread: Some(TIMEOUT), ..none },
             "--spread 25s must be shorter than --timeout 25s: lower --spread or raise --timeout"),
        ];
        for (request, expected) in table {
            let error = request.validate(SETTLE, TIMEOUT).expect_err(expected).to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let both = RetireRequest { set: of("idle,quiet"), quiet_flow_after: second, ..none };
        assert_eq!(both.validate(SETTLE, TIMEOUT).expect("valid").quiet_flow_after, second);
    }

    #[test]
    fn what_is_done_to_flows_contradicts_and_how_patiently_does_not() {
        let none = RetireRequest::default();
        let (s1, s9) = (Some(Duration::from_secs(1)), Some(Duration::from_secs(9)));
        let of_quiet = |after| RetireRequest { set: of("quiet"), quiet_flow_after: after, ..none };
        let abort = RetireRequest { at_deadline: AtDeadline::Abort, ..none };
        let patient = RetireRequest { idle_after: s9, linger: s9, spread: s9, ..none };
        #[rustfmt::skip]
        let table = [
            ("the same", none, none, ""),
            ("defaults said", none, RetireRequest { set: of("http,idle"), ..none }, ""),
            ("another set", none, RetireRequest { set: of("none"), ..none }, "--retire is http,idle, not none"),
            ("quiet or not", none, of_quiet(s1), "--retire is http,idle, not quiet"),
            ("another quiet time", of_quiet(s9), of_quiet(s1), "--quiet-flow-after is 9s, not 1s"),
            ("the deadline", none, abort, "--at-deadline is leave, not abort"),
            ("other times", none, patient, ""),
        ];
        for (description, ours, theirs, expected) in table {
            let valid = |request: RetireRequest| request.validate(SETTLE, TIMEOUT).expect("valid");
            let (ours, theirs) = (valid(ours), valid(theirs));
            assert_eq!(ours.contradictions(&theirs).join(", "), expected, "{description}");
        }
        let ours = none.validate(SETTLE, TIMEOUT).expect("valid");
        let patient = patient.validate(SETTLE, TIMEOUT).expect("valid");
        for joined in [ours.joined_by(&patient), patient.joined_by(&ours)] {
            assert_eq!(
                (Some(joined.idle_after), Some(joined.linger)),
                (s9, s9),
                "the longer of both"
            );
        }
        assert_eq!(ours.joined_by(&patient).spread, ours.spread, "the running one");
    }
}

//! What a rollout shows: a line for each step, on a terminal also one line in place for the whole, and a table at the
//! end. With `--json`, one JSON object a line on stdout.

use serde::Serialize;

use super::{
    plan::{Course, Mark, Pass, Plan},
    shared::Shown,
};
use crate::cli::text::{Streams, Table};

/// Carriage return, and erase to the end of the line (ECMA-48 EL).
const ERASE: &str = "\r\x1b[K";
/// Widest live line.
const LIVE_WIDTH: usize = 79;

/// What is shown, and where.
pub(super) struct Report<'a, 'b> {
    streams: &'a mut Streams<'b>,
    json: bool,
    names: Vec<String>,
    /// Why each failed last.
    whys: Vec<Option<String>>,
    drawn: bool,
}

/// A line of `--json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Step { instance: &'a str, pass: Pass, mark: Mark, why: Option<&'a str> },
    Note { instance: Option<&'a str>, text: &'a str },
    Report { outcome: &'a str, exit: u8, instances: Vec<Row<'a>> },
}

/// One instance in the report.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    state: &'static str,
    why: Option<&'a str>,
}

impl<'a, 'b> Report<'a, 'b> {
    pub(super) fn new(
        streams: &'a mut Streams<'b>,
        json: bool,
        names: Vec<String>,
        whys: Vec<Option<String>>,
    ) -> Self {
        Self { streams, json, names, whys, drawn: false }
    }

    /// Shows what has happened.
    pub(super) fn show(&mut self, shown: &Shown, plan: &Plan) {
        match shown {
            Shown::Mark { instance, mark, why } => {
                if *mark == Mark::Closing || why.is_some() {
                    self.whys[*instance].clone_from(why);
                }
                let (name, pass) = (self.names[*instance].clone(), plan.pass());
                if self.json {
                    let line =
                        Line::Step { instance: &name, pass, mark: *mark, why: why.as_deref() };
                    self.streams.say_json(&line);
                } else {
                    let stage = plan.stage(*instance);
                    self.line(&format!(
                        "{name}: {}",
                        sentence(pass, *mark, why.as_deref(), &stage)
                    ));
                }
            }
            Shown::Note { instance, text } => {
                let name = instance.map(|at| self.names[at].clone());
                self.note(name.as_deref(), text);
            }
            // It stays to be seen until it is answered.
            Shown::Ask { question } => return self.ask(question),
        }
        self.redraw(plan);
    }

    /// A remark, also in JSON.
    pub(super) fn note(&mut self, instance: Option<&str>, text: &str) {
        if self.json {
            self.streams.say_json(&Line::Note { instance, text });
        } else {
            let name = instance.map_or_else(String::new, |name| format!("{name}: "));
            self.line(&format!("{name}{text}"));
        }
    }

    /// Why an instance is left in the middle.
    pub(super) fn left(&mut self, at: usize, why: String) {
        self.whys[at] = Some(why);
    }

    /// Asks, on stderr in any case: stdout may be a file.
    pub(super) fn ask(&mut self, question: &str) {
        if self.json {
            self.note(None, question);
        }
        self.erase();
        self.streams.raw(&format!("drainctl: {question} [y/N] "));
    }

    fn line(&mut self, text: &str) {
        self.erase();
        self.streams.note(&format!("drainctl: {text}"));
    }

    /// The live line, where there is one.
    pub(super) fn redraw(&mut self, plan: &Plan) {
        if self.json || !self.streams.live {
            return;
        }
        let (done, out) = plan.counts();
        let text = format!("{done} of {} done, {out} out", self.names.len());
        let text: String = text.chars().take(LIVE_WIDTH).collect();
        self.streams.raw(&format!("{ERASE}{text}"));
        self.drawn = true;
    }

    pub(super) fn erase(&mut self) {
        if std::mem::take(&mut self.drawn) {
            self.streams.raw(ERASE);
        }
    }

    /// Every instance, as the plan leaves it.
    pub(super) fn end(&mut self, plan: &Plan, outcome: &str, exit: u8) {
        self.erase();
        let each = self.names.iter().enumerate().map(|(at, name)| {
            let course = plan.course(at);
            let state = state(course);
            let why = self.whys[at].as_deref().filter(|_| !course.is_done(plan.pass()));
            Row { name, state, why }
        });
        let instances: Vec<Row<'_>> = each.collect();
        if self.json {
            let line = Line::Report { outcome, exit, instances };
            return self.streams.say_json(&line);
        }
        let mut table = Table::new(&["INSTANCE", "STATE", "TRAFFIC", "WHY"]);
        for (at, row) in instances.iter().enumerate() {
            let traffic = match (plan.is_kept_out(at), plan.course(at).is_out()) {
                (true, _) => "kept out",
                (false, true) => "not closed",
                (false, false) => "let in",
            };
            let why = row.why.unwrap_or("").to_owned();
            table.row(vec![row.name.into(), row.state.into(), traffic.into(), why]);
        }
        self.streams.say(&table.render());
    }
}

/// The state of an instance, as the documentation has it.
fn state(course: &Course) -> &'static str {
    match (course.last(), course.is_changed()) {
        (None, _) => "untouched",
        (Some(Mark::Done), true) => "released",
        (Some(Mark::Done), false) => "undone",
        (Some(Mark::Reopened), false) => "put back",
        (Some(Mark::Reopened), true) => "released",
        (Some(Mark::Failed), false) => "not drained",
        (Some(Mark::Failed), true) => "failed",
        (Some(Mark::Closing | Mark::Closed), false) => "draining",
        (Some(_), _) => "half done",
    }
}

fn sentence(pass: Pass, mark: Mark, why: Option<&str>, stage: &str) -> String {
    let command = if pass == Pass::Release { "release" } else { "rollback" };
    match mark {
        Mark::Closing => format!("is drained ({stage})"),
        Mark::Closed => "drained, proven".into(),
        Mark::Running => format!("the {command} command runs"),
        Mark::Ran => format!("the {command} command has ended well; waiting for it to answer"),
        Mark::Healthy => "healthy".into(),
        Mark::Done => "done: its traffic is let in again".into(),
        Mark::Failed => format!("FAILED: {}", why.unwrap_or("for no known reason")),
        Mark::Reopened => "its traffic is let in again, to the version that it had".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_in_words() {
        use Mark::*;
        let table: [(&[(Pass, Mark)], &str); 8] = [
            (&[], "untouched"),
            (&[(Pass::Release, Closing)], "draining"),
            (&[(Pass::Release, Running)], "half done"),
            (&[(Pass::Release, Running), (Pass::Release, Done)], "released"),
            (&[(Pass::Release, Running), (Pass::Release, Failed)], "failed"),
            (&[(Pass::Release, Failed), (Pass::Release, Reopened)], "put back"),
            (&[(Pass::Release, Failed)], "not drained"),
            (&[(Pass::Release, Running), (Pass::Undo, Running), (Pass::Undo, Done)], "undone"),
        ];
        for (marks, expected) in table {
            let mut course = Course::default();
            marks.iter().for_each(|(pass, mark)| course.apply(*pass, *mark));
            assert_eq!(state(&course), expected, "{marks:?}");
        }
    }
}

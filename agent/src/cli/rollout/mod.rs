//! `drainctl rollout`: releases the instances of an inventory, one after the other or a few at a time.
//!
//! `inventory` says which there are, `preflight` whether they are there, `plan` (pure) what to do next, `worker` takes
//! one through its steps (`gate` closes and opens it, `keeper` keeps it closed), `journal` remembers, `drive` has it all happen until `interrupts`
//! ask it to end, and `report` shows it.

mod args;
mod command;
mod drive;
mod gate;
mod interrupts;
mod inventory;
mod journal;
mod keeper;
mod plan;
mod preflight;
mod report;
mod shared;
mod worker;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::mpsc;

pub(super) use self::args::RolloutArgs;
use self::{
    drive::Drive,
    interrupts::Interrupts,
    inventory::{Identity, Instance},
    journal::{Journal, Past},
    plan::{Course, Pass, Plan, Rules},
    report::Report,
    shared::Shared,
    worker::Worker,
};
use super::{
    access::Access,
    agent::{AgentAddress, Way},
    args::Common,
    client::Client,
    exit::{Exit, Failure},
    text::{self, Streams},
};

/// Runs the verb.
///
/// # Errors
/// Something is wrong with what was asked for, and nothing was changed; or the rollout was stopped, and why.
pub(super) async fn run(
    args: &RolloutArgs,
    common: &Common,
    streams: &mut Streams<'_>,
) -> Result<Exit, Failure> {
    let args = Arc::new(args.clone());
    args.check()?;
    let instances = inventory::find(&args.instances, &args.ports, &common.agent)?;
    let names: Vec<String> = instances.iter().map(|instance| instance.name.clone()).collect();
    let identities: Vec<Identity> = instances.iter().map(Instance::identity).collect();
    let workers = workers(instances, &args, &common.access)?;
    if args.check {
        let notes =
            preflight::look(&workers, &vec![Course::default(); names.len()], Pass::Release).await?;
        return Ok(looked(&names, &notes, streams, common.json));
    }
    let (journal, past) = Journal::open(&args.journal_path())?;
    check_commands(&past)?;
    check_past(&args, &past, &identities, journal.path())?;
    if args.goes_on() && past.is_finished(args.pass()) {
        streams.note("drainctl: everything was done already; nothing was changed");
        return Ok(Exit::Done);
    }
    let so_far = if args.goes_on() { past.clone() } else { Past::default() };
    let (courses, whys): (Vec<_>, Vec<_>) = names.iter().map(|name| so_far.course(name)).unzip();
    let notes = preflight::look(&workers, &courses, args.pass()).await?;
    // Until here nothing was touched, and a signal just ends us.
    let interrupts = Interrupts::new()?;
    let journal = args.begin(journal, &past, identities)?;
    let plan = Plan::new(args.rules(names.len()), courses, so_far.canaries_are_well());
    let (show, shown) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::new(names.clone(), plan, journal, show));
    let mut report = Report::new(streams, common.json, names, whys);
    notes.iter().for_each(|note| report.note(None, note));
    let log = args.log_path("canaries");
    Drive::new(shared, workers, args, shown, report, log).run(interrupts).await
}

fn looked(names: &[String], notes: &[String], streams: &mut Streams<'_>, json: bool) -> Exit {
    if json {
        streams.say_json(
            &serde_json::json!({ "event": "checked", "instances": names, "notes": notes }),
        );
    } else {
        notes.iter().for_each(|note| streams.note(&format!("drainctl: {note}")));
        let count = text::count(names.len() as u64, "instance");
        streams.say(&format!(
            "checked: {count}, all there and serving, and their agents let us; nothing was changed"
        ));
    }
    Exit::Done
}

fn workers(
    instances: Vec<Instance>,
    args: &Arc<RolloutArgs>,
    access: &Access,
) -> Result<Vec<Worker>, Failure> {
    let is_remote = |instance: &Instance| matches!(instance.agent, AgentAddress::Url(_));
    // The options are for those that are asked over TCP; for others there must be one at least.
    let any_is_remote = instances.iter().any(is_remote);
    let none = Access::default();
    let worker = |(at, instance): (usize, Instance)| {
        let access = if any_is_remote && !is_remote(&instance) { &none } else { access };
        let client = Client::new(Way::new(&instance.agent, access)?);
        let log = args.log_path(&instance.name);
        Ok(Worker { at, instance, client, args: Arc::clone(args), log })
    };
    instances.into_iter().enumerate().map(worker).collect()
}

/// Whether a command that drainctl did not see end goes on without it.
fn check_commands(past: &Past) -> Result<(), Failure> {
    let running = past.commands().find(|(_, pid, started)| command::runs(*pid, *started));
    let Some((name, pid, _)) = running else { return Ok(()) };
    let message = format!(
        "the command of {name} still runs, as process {pid}, since drainctl was killed; wait for its end, or end it; \
         nothing was changed"
    );
    Err(Failure::new(Exit::Conflict, message))
}

/// Whether the journal goes with what is asked for.
fn check_past(
    args: &RolloutArgs,
    past: &Past,
    instances: &[Identity],
    path: &Path,
) -> Result<(), Failure> {
    let file = path.display();
    if !args.goes_on() {
        let last = if past.is_undoing() { Pass::Undo } else { Pass::Release };
        if past.entries.is_empty() || past.is_finished(last) {
            return Ok(());
        }
        let message = format!(
            "the rollout of {file} has not come to its end: go on with --resume or --undo, or remove that file; nothing \
             was changed"
        );
        return Err(Failure::new(Exit::Conflict, message));
    }
    if past.entries.is_empty() {
        return usage(&format!("there is no rollout in {file} to go on with"));
    }
    if args.pass() == Pass::Release && past.is_undoing() {
        return usage(&format!("the rollout of {file} is being undone; go on with --undo"));
    }
    if past.instances() != instances {
        let other = past.instances().iter().zip(instances).find(|(was, is)| was != is);
        let which = other.map_or("their number".into(), |(was, _)| format!("{:?}", was.name));
        return usage(&format!(
            "the inventory does not have the same instances as {file} any more: {which} differs"
        ));
    }
    Ok(())
}

fn usage(message: &str) -> Result<(), Failure> {
    Err(Failure::new(Exit::Usage, format!("{message}; nothing was changed")))
}

impl RolloutArgs {
    fn check(&self) -> Result<(), Failure> {
        let pace = &self.pace;
        let proof = pace.canary_wait.is_some() || pace.canary_check.is_some() || pace.canary_ask;
        match pace.canary {
            Some(0) => usage("--canary 0 is none: leave it out"),
            Some(_) if !proof => usage(
                "--canary needs what its instances are to prove: --canary-wait, --canary-check or --canary-ask",
            ),
            _ if self.command_timeout.is_zero() => {
                usage("--command-timeout 0s would kill every command")
            }
            _ => Ok(()),
        }
    }

    /// The journal, with what this run begins with.
    fn begin(
        &self,
        journal: Journal,
        past: &Past,
        instances: Vec<Identity>,
    ) -> Result<Journal, Failure> {
        match (self.goes_on(), self.pass()) {
            (false, _) => journal.begin(past, instances),
            (true, Pass::Undo) if !past.is_undoing() => journal.begin_undo(),
            (true, _) => Ok(journal),
        }
    }

    fn pass(&self) -> Pass {
        if self.undo { Pass::Undo } else { Pass::Release }
    }

    /// Whether there is to be a journal already.
    fn goes_on(&self) -> bool {
        self.resume || self.undo
    }

    fn rules(&self, all: usize) -> Rules {
        let batch = self.pace.batch.of(all);
        let max_out = self.pace.max_unavailable.map_or(batch, |share| share.of(all));
        let canary = self.pace.canary.unwrap_or(0);
        Rules { pass: self.pass(), canary, batch, max_out, ask: self.pace.step }
    }

    fn journal_path(&self) -> PathBuf {
        let beside = || match inventory::file(&self.instances) {
            Some(file) => with_end(file, ".journal"),
            None => "drainctl-rollout.journal".into(),
        };
        self.journal.clone().unwrap_or_else(beside)
    }

    /// Where what the commands of an instance print goes.
    fn log_path(&self, name: &str) -> PathBuf {
        with_end(&self.journal_path(), &format!(".{name}.log"))
    }
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

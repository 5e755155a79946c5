//! `drainctl doctor`: what this machine offers to the agent, and what each missing thing costs.

mod checks;
mod facts;

use serde::Serialize;

use super::{
    args::DoctorArgs,
    client::Client,
    exit::{Exit, Failure},
    target::Target,
    text::{Streams, Table},
};
use checks::{Check, evaluate};
use facts::Facts;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Outcome {
    checks: Vec<Check>,
}

/// Runs the verb: 0 if nothing that is required is missing, else 1.
///
/// # Errors
/// The target is not there.
pub(super) async fn run(
    args: &DoctorArgs,
    client: &Client,
    streams: &mut Streams<'_>,
    json: bool,
) -> Result<Exit, Failure> {
    let target = Target::find(&args.target)?;
    let facts = Facts::gather(client, &target).await;
    let checks = evaluate(&facts);
    let missing = checks.iter().any(|check| check.required && check.ok == Some(false));
    if json {
        streams.say_json(&Outcome { checks });
    } else {
        streams.say(&render(&checks));
        streams.say(if missing {
            "\nsomething required is missing: the agent will not work here as this user"
        } else {
            "\nnothing required is missing"
        });
    }
    Ok(if missing { Exit::Internal } else { Exit::Done })
}

/// A table, then the costs.
fn render(checks: &[Check]) -> String {
    let mut table = Table::new(&["CHECK", "RESULT", "FOUND"]);
    for check in checks {
        table.row(vec![check.name.to_owned(), result(check).to_owned(), check.found.clone()]);
    }
    let mut text = table.render();
    for check in checks {
        if let Some(cost) = &check.cost {
            text += &format!("\n\n{}: {}\n    {cost}", check.name, result(check));
        }
    }
    text
}

fn result(check: &Check) -> &'static str {
    match (check.ok, check.required) {
        (Some(true), _) => "ok",
        (Some(false), true) => "MISSING",
        (Some(false), false) => "missing, optional",
        (None, _) => "cannot tell",
    }
}

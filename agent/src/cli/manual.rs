//! `completions` and `man`: what the command line says of itself, for shells and for man(1).

use clap::CommandFactory as _;
use clap_mangen::Man;
use serde_json::json;

use super::{
    args::{Cli, CompletionsArgs, ManArgs},
    exit::{Exit, Failure},
    text::Streams,
};
use crate::flags::Flags;

/// Runs `completions`.
pub(super) fn completions(args: &CompletionsArgs, streams: &mut Streams) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "drainctl", &mut script);
    streams.say(String::from_utf8_lossy(&script).trim_end());
    Exit::Done
}

/// Runs `man`.
///
/// # Errors
/// The folder is not there, or cannot be written to.
pub(super) fn pages(args: &ManArgs, streams: &mut Streams, as_json: bool) -> Result<Exit, Failure> {
    let dir = args.dir.display();
    if !args.dir.is_dir() {
        return Err(Failure::new(Exit::Usage, format!("{dir} is no folder; make it first")));
    }
    let drainctl = Cli::command().disable_help_subcommand(true);
    // A daemon's page is in section 8 (man-pages(7)).
    let agent = Man::new(Flags::command()).section("8");
    let written = clap_mangen::generate_to(drainctl, &args.dir)
        .and_then(|()| agent.generate_to(&args.dir).map(drop));
    written.map_err(|error| {
        Failure::new(Exit::Internal, format!("cannot write manual pages to {dir}: {error}"))
    })?;
    if as_json {
        streams.say(&json!({ "dir": args.dir }).to_string());
    } else {
        streams
            .say(&format!("wrote drainctl(1), a page for each verb, and drain-agent(8) to {dir}"));
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::cli::fake::drainctl;

    #[test]
    fn shells_learn_every_verb() {
        let nowhere = std::path::Path::new("/nonexistent/agent.sock");
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let ran = drainctl(nowhere, &["completions", shell]);
            assert_eq!((ran.exit, &*ran.err), (Exit::Done, ""), "{shell}");
            for verb in Cli::command().get_subcommands() {
                assert!(ran.out.contains(verb.get_name()), "{shell} {}", verb.get_name());
            }
        }
        assert_eq!(drainctl(nowhere, &["completions", "tcsh"]).exit, Exit::Usage);
    }

    #[test]
    fn every_verb_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let nowhere = std::path::Path::new("/nonexistent/agent.sock");
        assert_eq!(drainctl(nowhere, &["man", path]).exit, Exit::Done);
        let page = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(page("drainctl.1").contains("Exit codes:"));
        for verb in Cli::command().get_subcommands() {
            let page = page(&format!("drainctl-{}.1", verb.get_name()));
            assert!(page.starts_with(".ie") && page.contains(".SH SYNOPSIS"), "{page}");
        }
        let ran = drainctl(nowhere, &["man", "/nonexistent"]);
        assert_eq!(ran.exit, Exit::Usage);
        assert!(ran.err.contains("make it first"), "{}", ran.err);
    }
}

//! A terminal that can be looked at: a shell in tmux, in a network namespace of choice.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{
    netns::Netns,
    wait::{LIMIT, eventually_some},
};

/// One window with a shell; gone on drop.
#[derive(Debug)]
pub struct Tmux {
    dir: TempDir,
}

impl Tmux {
    /// A window of this size whose shell, and all it runs, is inside `netns`.
    pub fn start(netns: &Netns, columns: u16, rows: u16) -> Result<Self> {
        let tmux = Self { dir: tempfile::Builder::new().prefix("drainctl-tmux-").tempdir()? };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let shell = "env -u NO_COLOR PS1='$ ' LANG=C.UTF-8 sh";
        netns.run(|| {
            tmux.tell(&["new-session", "-d", "-x", &columns, "-y", &rows, shell]).map(drop)
        })?;
        tmux.await_text(&["$"])?;
        Ok(tmux)
    }

    /// A command of tmux's own; what it prints.
    pub fn tell(&self, args: &[&str]) -> Result<String> {
        let socket: PathBuf = self.dir.path().join("socket");
        let mut command = Command::new("tmux");
        command.arg("-u").arg("-S").arg(socket).args(["-f", "/dev/null"]).args(args);
        let output = command.output().context("run tmux: run `cargo xtask setup`")?;
        if !output.status.success() {
            bail!("tmux {args:?}: {output:?}");
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Types a line.
    pub fn line(&self, text: &str) -> Result<()> {
        self.tell(&["send-keys", "-l", text])?;
        self.keys(&["Enter"])
    }

    /// Presses keys, as tmux names them.
    pub fn keys(&self, keys: &[&str]) -> Result<()> {
        self.tell(&[&["send-keys"], keys].concat()).map(drop)
    }

    /// What is to be seen.
    pub fn text(&self) -> Result<String> {
        self.tell(&["capture-pane", "-p"])
    }

    /// Waits until all of these are to be seen, and returns everything.
    pub fn await_text(&self, wanted: &[&str]) -> Result<String> {
        let mut last = String::new();
        eventually_some(LIMIT, &format!("the terminal shows {wanted:?}"), || {
            last = self.text()?;
            Ok(wanted.iter().all(|words| last.contains(words)).then(|| last.clone()))
        })
        .with_context(|| last)
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.tell(&["kill-server"]);
    }
}

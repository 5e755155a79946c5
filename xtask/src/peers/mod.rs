//! Servers and clients of other projects for demo and tests: what their languages' own package managers fetch
//! and build goes to `target/peers`, with pinned versions, and only when its inputs have changed.

mod golang;
pub(crate) mod java;
mod python;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{setup::Scope, shell::Shell, workspace::Workspace};

pub(crate) use python::{environment, has_venv};

/// Where it all is.
pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("peers")
}

/// Fetches and builds what is missing or old for the peers of this scope.
///
/// # Errors
/// A package manager or a compiler failed.
pub(crate) fn prepare(shell: &Shell, workspace: &Workspace, scope: Scope) -> Result<()> {
    if scope >= Scope::Demo {
        python::prepare(shell, workspace)?;
    }
    if scope >= Scope::Everything {
        golang::prepare(shell, workspace)?;
        python::prepare_openapi(shell, workspace)?;
    }
    if scope >= Scope::Peers {
        java::prepare(shell, workspace)?;
    }
    Ok(())
}

/// The sources, in `tests/peers`.
fn source(workspace: &Workspace) -> PathBuf {
    workspace.root.join("tests/peers")
}

/// Every file below `folder`: its path and its text.
pub(crate) fn texts(folder: &Path) -> Result<String> {
    let list = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut paths = list.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    let mut all = String::new();
    for path in paths {
        if path.is_dir() {
            all += &texts(&path)?;
        } else {
            let text = fs::read_to_string(&path);
            let text = text.with_context(|| format!("read {}", path.display()))?;
            all += &format!("{}\n{text}\n", path.display());
        }
    }
    Ok(all)
}

/// A note of what something was made from, written when it is finished.
pub(crate) struct Stamp {
    path: PathBuf,
    inputs: String,
}

impl Stamp {
    /// For what is in `folder`, made from `inputs`.
    pub(crate) fn new(folder: &Path, inputs: String) -> Self {
        Self { path: folder.join("made-from"), inputs }
    }

    /// Whether it was made from the same.
    pub(crate) fn is_current(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|found| found == self.inputs)
    }

    /// It is finished.
    pub(crate) fn write(&self) -> Result<()> {
        fs::write(&self.path, &self.inputs)
            .with_context(|| format!("write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_current_for_the_same_inputs_only() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("xtask-stamp-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let stamp = |inputs: &str| Stamp::new(&folder, inputs.to_owned());
        assert!(!stamp("a").is_current(), "nothing is made yet");
        stamp("a").write()?;
        assert!(stamp("a").is_current() && !stamp("b").is_current());
        fs::remove_dir_all(&folder)?;
        Ok(())
    }
}

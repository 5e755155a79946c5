//! Where things are.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The folders that the tasks work in.
pub(crate) struct Workspace {
    /// The folder with the workspace's Cargo.toml.
    pub(crate) root: PathBuf,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Finds the workspace that this xtask belongs to.
    ///
    /// # Errors
    /// The folder it was built in is gone.
    pub(crate) fn find() -> Result<Self> {
        // `cargo run` sets the variable; the binary called by hand falls back on where it was built.
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().context("xtask is not inside a workspace")?;
        let root = root.canonicalize().with_context(|| {
            format!("find the workspace {}; run cargo xtask there", root.display())
        })?;
        let target = target_dir(&root, env::var_os("CARGO_TARGET_DIR").map(PathBuf::from));
        Ok(Self { root, target })
    }

    /// What users get.
    pub(crate) fn dist(&self) -> PathBuf {
        self.target.join("dist")
    }

    /// `path` as a person in the workspace would type it.
    pub(crate) fn display<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}

fn target_dir(root: &Path, configured: Option<PathBuf>) -> PathBuf {
    match configured {
        Some(dir) if dir.is_absolute() => dir,
        Some(dir) => root.join(dir),
        None => root.join("target"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_folder_is_absolute() {
        let root = Path::new("/src");
        assert_eq!(target_dir(root, None), Path::new("/src/target"));
        assert_eq!(target_dir(root, Some("out".into())), Path::new("/src/out"));
        assert_eq!(target_dir(root, Some("/out".into())), Path::new("/out"));
    }

    #[test]
    fn paths_in_the_workspace_are_shown_short() {
        let workspace = Workspace { root: "/src".into(), target: "/src/target".into() };
        assert_eq!(workspace.display(&workspace.dist()).to_string(), "target/dist");
        assert_eq!(workspace.display(Path::new("/usr/bin/rustc")).to_string(), "/usr/bin/rustc");
    }
}

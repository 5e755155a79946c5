//! The binaries under test.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

/// The folder with the built `drain-agent` and `drainctl`.
#[derive(Clone, Debug)]
pub struct Dist {
    folder: PathBuf,
}

impl Dist {
    /// Where `cargo xtask` has put them, from `DRAINCTL_DIST`.
    pub fn from_env() -> Result<Self> {
        let Some(folder) = env::var_os("DRAINCTL_DIST") else {
            bail!("DRAINCTL_DIST does not name the binaries: run `cargo xtask test integration`");
        };
        let dist = Self { folder: folder.into() };
        for file in [dist.agent(), dist.drainctl()] {
            if !file.is_file() {
                bail!("{} is missing: run `cargo xtask build`", file.display());
            }
        }
        Ok(dist)
    }

    /// The daemon.
    pub fn agent(&self) -> PathBuf {
        self.file("drain-agent")
    }

    /// The command line.
    pub fn drainctl(&self) -> PathBuf {
        self.file("drainctl")
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(&self.folder).join(name)
    }
}

//! What the kernel says its programs cost: `run_time_ns` and `run_cnt`, as in `/proc/PID/fdinfo`.

use std::{collections::HashMap, fs, path::Path};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf,
    programs::{CgroupAttachMode, SkLookup, SockOps},
};

/// Kinds of programs, as numbered in `enum bpf_prog_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Trackers.
    SockOps = 13,
    /// Gates.
    SkLookup = 30,
}

/// Time and number of runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    ns: u64,
    runs: u64,
}

impl Cost {
    /// What was spent since an earlier reading.
    pub fn since(self, earlier: Self) -> Self {
        Self { ns: self.ns - earlier.ns, runs: self.runs - earlier.runs }
    }

    /// Nanoseconds in all.
    pub fn ns(self) -> f64 {
        self.ns as f64
    }

    /// Nanoseconds for one run.
    ///
    /// # Errors
    /// It never ran.
    pub fn per_run(self) -> Result<f64> {
        if self.runs == 0 {
            bail!("the program never ran: nothing was measured");
        }
        Ok(self.ns() / self.runs as f64)
    }
}

/// What all programs of a kind that process `pid` holds have cost so far.
pub fn cost(pid: u32, kind: Kind) -> Result<Cost> {
    let mut total = Cost::default();
    let mut seen = HashMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let field = |name: &str| -> Option<u64> {
            text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
        };
        let (Some(id), Some(ns), Some(runs)) =
            (field("prog_id"), field("run_time_ns"), field("run_cnt"))
        else {
            continue;
        };
        // Links have a prog_id too, but no prog_type.
        if field("prog_type") == Some(kind as u64) && seen.insert(id, ()).is_none() {
            total = Cost { ns: total.ns + ns, runs: total.runs + runs };
        }
    }
    if seen.is_empty() {
        bail!("process {pid} holds no program of kind {kind:?}");
    }
    Ok(total)
}

/// Our programs that do nothing, from the same build.
pub struct Empty(Ebpf);

impl Empty {
    /// Loads them; attached until dropped.
    pub fn load() -> Result<Self> {
        let dir = std::env::var("DRAINCTL_EBPF_DIR")
            .context("DRAINCTL_EBPF_DIR is not set: run this by `cargo xtask bench`")?;
        Ok(Self(Ebpf::load_file(Path::new(&dir).join("empty"))?))
    }

    /// Attaches the empty `sk_lookup` program to the namespace in this file.
    pub fn attach_lookup(&mut self, netns: &Path) -> Result<()> {
        let program = self.0.program_mut("empty_lookup").context("no empty_lookup")?;
        let program: &mut SkLookup = program.try_into()?;
        program.load()?;
        program.attach(fs::File::open(netns)?)?;
        Ok(())
    }

    /// Attaches the empty `sock_ops` program to the root of cgroup v2.
    pub fn attach_ops(&mut self) -> Result<()> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let root = mounts.lines().filter_map(|l| {
            let mut words = l.split(' ').skip(1);
            let path = words.next()?;
            (words.next()? == "cgroup2").then_some(path)
        });
        let root = root.into_iter().next().context("cgroup v2 is mounted nowhere")?;
        let program = self.0.program_mut("empty_ops").context("no empty_ops")?;
        let program: &mut SockOps = program.try_into()?;
        program.load()?;
        program.attach(fs::File::open(root)?, CgroupAttachMode::Single)?;
        Ok(())
    }
}

//! What a process uses: memory, CPU, and maps of the kernel.

use std::{
    collections::HashSet,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// Ticks a second of times in /proc (`include/asm-generic/param.h`).
const USER_HZ: f64 = 100.0;

/// Reads what the agent uses.
pub(crate) struct Meter {
    pid: u32,
}

impl Meter {
    /// Of the process with this id.
    pub(crate) fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// Prints the memory, and a note.
    pub(crate) fn row(&self, what: &str, note: &str) -> Result<()> {
        println!("{what:44} {:>8.1} MiB resident   {note}", self.resident()?);
        Ok(())
    }

    /// Memory now, MiB.
    pub(crate) fn resident(&self) -> Result<f64> {
        self.status("VmRSS:")
    }

    /// The most that there has been, MiB.
    pub(crate) fn highest(&self) -> Result<f64> {
        self.status("VmHWM:")
    }

    /// From now on, [`Self::highest`] is that from now on.
    pub(crate) fn reset_highest(&self) -> Result<()> {
        // CLEAR_REFS_MM_HIWATER_RSS (proc_pid_clear_refs(5)).
        Ok(fs::write(format!("/proc/{}/clear_refs", self.pid), "5")?)
    }

    /// A field of /proc/PID/status, MiB.
    fn status(&self, field: &str) -> Result<f64> {
        Ok(kib(&format!("/proc/{}/status", self.pid), field)? as f64 / 1024.0)
    }

    fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let after_name = stat.rsplit_once(')').context("stat")?.1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        // utime and stime: fields 14 and 15 of proc(5), of which two are cut off here.
        let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(Duration::from_secs_f64(ticks as f64 / USER_HZ))
    }

    /// How long some work takes, and what CPU time the agent needs meanwhile.
    pub(crate) fn during(&self, work: impl FnOnce() -> Result<()>) -> Result<(Duration, Duration)> {
        let (start, cpu) = (Instant::now(), self.cpu()?);
        work()?;
        Ok((start.elapsed(), self.cpu()? - cpu))
    }

    /// Kernel memory of all maps, MiB; none is counted twice.
    pub(crate) fn maps(&self) -> Result<f64> {
        let (mut seen, mut bytes) = (HashSet::new(), 0);
        for entry in fs::read_dir(format!("/proc/{}/fdinfo", self.pid))? {
            let Ok(info) = fs::read_to_string(entry?.path()) else { continue };
            let field = |name| {
                let line = info.lines().find_map(|line: &str| line.strip_prefix(name))?;
                line.trim().parse::<u64>().ok()
            };
            if let (Some(id), Some(memory)) = (field("map_id:"), field("memlock:"))
                && seen.insert(id)
            {
                bytes += memory;
            }
        }
        Ok(bytes as f64 / (1 << 20) as f64)
    }
}

/// A field of a file like /proc/meminfo, KiB.
pub(crate) fn kib(file: &str, field: &str) -> Result<u64> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let line = line.with_context(|| format!("{field} in {file}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

//! `cargo xtask bpf stats`: what the kernel programs cost on each kernel, beside what they cost when somebody last
//! looked.
//!
//! The kernels are downloaded, so that the numbers are the same on every machine, but for what compilers differ in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::{
    kernels::{KERNELS, Kernel, parse},
    machine::{Machine, Output, quoted_path},
    suite::environment,
};
use crate::{
    build,
    setup::{self, Scope},
    shell::{Shell, host_cargo, require_root},
    workspace::Workspace,
};

/// Options of `cargo xtask bpf`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// What the kernel programs cost on other kernels: instructions, states, stack and memory of maps.
    Stats {
        /// Which kernel; all if left out, and without --accept those that were accepted before.
        #[arg(long = "kernel", value_name = "VERSION", value_parser = parse)]
        kernels: Vec<&'static Kernel>,
        /// Writes what was found to docs/, as what is to be expected from now on.
        #[arg(long)]
        accept: bool,
        /// Takes the programs of the last build as they are.
        #[arg(long)]
        no_build: bool,
    },
}

/// What is measured of a program, and by how much it may grow unnoticed: in hundredths, and at least so much. One
/// release of LLVM chooses other instructions than the next, and a few more make the verifier go on from many more
/// states; a larger stack and a larger map are always somebody's doing.
const MEASURES: [(&str, u64, u64); 4] =
    [("instructions", 10, 16), ("verified", 50, 200), ("states", 50, 20), ("stack", 25, 32)];
/// The same of the bytes of a map: kernels of one series count them alike.
const MAP: (u64, u64) = (5, 4096);

/// Printed by the program that asks.
const MARK: &str = "drainctl-bpf-stats ";
/// What there was, by the name of the kernel.
const KEPT: &str = "docs/bpf-stats.json";
/// The same for people.
const PAGE: &str = "docs/bpf-stats.md";

/// Measures, and compares or accepts.
///
/// # Errors
/// A machine did not boot, or something has grown.
pub(crate) fn run(shell: &Shell, workspace: &Workspace, options: &Options) -> Result<()> {
    let What::Stats { kernels, accept, no_build } = &options.what;
    require_root("virtual machines that share this machine's files", "bpf stats")?;
    setup::peers(shell, workspace, Scope::Machines)?;
    if !no_build {
        build::run(shell, workspace, &build::Options::default())?;
        let mut cargo = host_cargo(&workspace.root);
        cargo.args(["build", "--package", "drainctl-tests", "--bin", "bpf_stats"]);
        shell.run(cargo.args(shell.cargo_flag()))?;
    }
    let mut all: Vec<&'static Kernel> = KERNELS.iter().collect();
    let mut kept = Kept::read(workspace)?;
    let mut grown = Vec::new();
    if kernels.is_empty() && !accept {
        // Of the others nothing is known that could grow.
        all.retain(|kernel| kept.0.contains_key(kernel.name));
    }
    for kernel in if kernels.is_empty() { &all } else { kernels } {
        let machine = super::machine(shell, workspace, kernel)?;
        shell.stage(format_args!("Linux {}: kernel programs", machine.release()));
        let script = environment(workspace) + &command(workspace);
        let found = found(&machine, &machine.run(&script)?)?;
        if *accept {
            kept.accept(kernel, found);
            kept.write(workspace)?;
        } else {
            grown.extend(kept.growth(kernel, &found));
        }
    }
    judge(&grown)
}

/// Has the program run that asks.
pub(super) fn command(workspace: &Workspace) -> String {
    format!("{}\n", quoted_path(&workspace.target.join("debug/bpf_stats")))
}

/// Compares what a machine has said among other things.
///
/// # Errors
/// It has said nothing, or something has grown.
pub(super) fn check(
    workspace: &Workspace,
    kernel: &Kernel,
    machine: &Machine,
    output: &Output,
) -> Result<()> {
    judge(&Kept::read(workspace)?.growth(kernel, &found(machine, output)?))
}

fn judge(grown: &[String]) -> Result<()> {
    ensure!(
        grown.is_empty(),
        "kernel programs cost more than {KEPT} says:\n  {}\nIf that is meant to be, `cargo xtask bpf stats --accept` \
         writes it down; commit the change with the reason",
        grown.join("\n  ")
    );
    Ok(())
}

/// With the kernel's release added.
fn found(machine: &Machine, output: &Output) -> Result<Value> {
    let line = output.lines.iter().find_map(|line| line.strip_prefix(MARK));
    let line = line.context("the program that asks for the costs has failed in the machine")?;
    let mut found: Value = serde_json::from_str(line).context("what was found")?;
    found["release"] = machine.release().into();
    Ok(found)
}

/// What there was, by the name of the kernel.
struct Kept(Map<String, Value>);

impl Kept {
    fn read(workspace: &Workspace) -> Result<Self> {
        let text = fs::read_to_string(workspace.root.join(KEPT)).unwrap_or_else(|_| "{}".into());
        serde_json::from_str(&text).map(Self).with_context(|| format!("read {KEPT}"))
    }

    fn accept(&mut self, kernel: &Kernel, found: Value) {
        self.0.insert(kernel.name.to_owned(), found);
    }

    fn write(&self, workspace: &Workspace) -> Result<()> {
        let json = serde_json::to_string_pretty(&self.0).context("write JSON")? + "\n";
        for (file, text) in [(KEPT, json), (PAGE, self.page())] {
            let path: PathBuf = workspace.root.join(file);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// A sentence for each thing that costs more than it may.
    fn growth(&self, kernel: &Kernel, found: &Value) -> Vec<String> {
        let Some(kept) = self.0.get(kernel.name) else {
            return vec![format!("Linux {}: nothing is kept", kernel.name)];
        };
        let mut grown = Vec::new();
        let mut compare = |what: String, before: &Value, now: &Value, (part, least): (u64, u64)| {
            let limit = before.as_u64().map(|before| before + (before * part / 100).max(least));
            let say = match (limit, now.as_u64()) {
                (Some(limit), Some(now)) if now <= limit => return,
                (Some(limit), Some(now)) => format!("{now} (was {before}, may be {limit})"),
                (None, Some(now)) => format!("{now} (was not there)"),
                // Perhaps it was not loaded, or has another name: nothing is known of what it costs.
                (Some(_), None) => format!("not found (was {before})"),
                (None, None) => return,
            };
            grown.push(format!("Linux {}: {what}: {say}", kernel.name));
        };
        for name in names(kept, found, "programs") {
            for (measure, part, least) in MEASURES {
                let of = |all: &Value| all["programs"][name][measure].clone();
                let what = format!("{measure} of program {name}");
                compare(what, &of(kept), &of(found), (part, least));
            }
        }
        for name in names(kept, found, "maps") {
            let what = format!("bytes of map {name}");
            compare(what, &kept["maps"][name], &found["maps"][name], MAP);
        }
        grown
    }

    /// For people: a table of programs for each measure, and one of maps.
    fn page(&self) -> String {
        let mut page = PREFACE.to_owned();
        let known: Vec<&str> = (KERNELS.iter().map(|kernel| kernel.name))
            .filter(|name| self.0.contains_key(*name))
            .collect();
        let release = |name: &&str| self.0[*name]["release"].as_str().unwrap_or(name).to_owned();
        let releases: Vec<String> = known.iter().map(release).collect();
        for (title, group, measure) in [
            ("Instructions, as the kernel has rewritten them", "programs", "instructions"),
            (
                "Instructions that the verifier went through (it refuses at a million)",
                "programs",
                "verified",
            ),
            ("States that the verifier kept at its peak", "programs", "states"),
            ("Bytes of stack, of all functions together", "programs", "stack"),
            ("Bytes of maps", "maps", ""),
        ] {
            let mut rows: BTreeMap<&str, Vec<String>> = BTreeMap::new();
            for name in
                known.iter().flat_map(|kernel| entries(&self.0[*kernel][group])).map(|(n, _)| n)
            {
                rows.entry(name).or_insert_with(|| {
                    let cell = |kernel: &&str| {
                        let entry = &self.0[*kernel][group][name];
                        let value = if measure.is_empty() { entry } else { &entry[measure] };
                        value.as_u64().map_or_else(|| "–".to_owned(), |number| number.to_string())
                    };
                    known.iter().map(cell).collect()
                });
            }
            let _ = write!(page, "\n## {title}\n\n| | {} |\n", releases.join(" | "));
            let _ = writeln!(page, "| --- |{}", " ---: |".repeat(known.len()));
            for (name, cells) in rows {
                let _ = writeln!(page, "| `{name}` | {} |", cells.join(" | "));
            }
        }
        page
    }
}

const PREFACE: &str = "# What the kernel programs cost

Made by `cargo xtask bpf stats --accept` (root) from what an agent with its defaults has loaded on each kernel, with a
drain that forwards, since one program is there only then. A dash: that kernel does not have it
([kernels.md](kernels.md)). `cargo xtask test smoke` looks again on one of these kernels, and fails if something has grown;
where that is meant to be, the same command accepts it.

*How much may grow unnoticed.* Compilers differ: instructions may be a tenth more, and what the verifier goes through
half as much again, since it depends on single branches. A stack may be a quarter larger (a function that is no longer
inlined has its own), a map hardly at all. Less is always well.

*What the numbers are.* The verifier's own (`BPF_LOG_STATS`), and for maps `memlock` of `/proc/PID/fdinfo`: before
Linux 6.4 that is what the map could take at most, since then what it does take; maps that are filled as needed grow.
`.rodata` and the like are the constants of all objects together.
";

/// What either has of a group.
fn names<'a>(kept: &'a Value, found: &'a Value, group: &str) -> BTreeSet<&'a str> {
    entries(&kept[group]).chain(entries(&found[group])).map(|(name, _)| name).collect()
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kept() -> Kept {
        let mut kept = Kept(Map::new());
        let programs =
            json!({"gate": {"instructions": 200, "verified": 300, "states": 9, "stack": 64}});
        kept.accept(
            &KERNELS[1],
            json!({"release": "6.1.0", "programs": programs, "maps": {"RULES": 8192}}),
        );
        kept
    }

    #[test]
    fn growth_is_seen_and_noise_is_not() {
        let with = |measure: &str, value: u64| {
            let mut found = kept().0["6.1"].clone();
            found["programs"]["gate"][measure] = value.into();
            kept().growth(&KERNELS[1], &found)
        };
        assert!(with("instructions", 220).is_empty(), "a compiler's difference");
        assert!(with("instructions", 150).is_empty(), "less is well");
        let grown = with("instructions", 221);
        assert_eq!(grown, ["Linux 6.1: instructions of program gate: 221 (was 200, may be 220)"]);
        assert_eq!(with("stack", 128).len(), 1);
    }

    #[test]
    fn what_is_new_has_grown() {
        let found =
            json!({"programs": {"new": {"instructions": 1}}, "maps": {"RULES": 8192, "NEW": 1}});
        let grown = kept().growth(&KERNELS[1], &found);
        assert!(
            grown.contains(&"Linux 6.1: instructions of program new: 1 (was not there)".into())
        );
        assert!(grown.contains(&"Linux 6.1: bytes of map NEW: 1 (was not there)".into()));
        assert_eq!(kept().growth(&KERNELS[0], &found).len(), 1, "nothing is known of that kernel");
    }

    #[test]
    fn what_is_not_found_is_said() {
        let found = json!({"programs": {"gate": {"instructions": 200, "verified": 300, "stack": 64}}, "maps": {}});
        let grown = kept().growth(&KERNELS[1], &found);
        assert_eq!(
            grown,
            [
                "Linux 6.1: states of program gate: not found (was 9)",
                "Linux 6.1: bytes of map RULES: not found (was 8192)",
            ]
        );
    }

    #[test]
    fn the_page_has_a_dash_where_a_kernel_has_not_got_it() {
        let mut kept = kept();
        kept.accept(&KERNELS[0], json!({"release": "5.10.0", "programs": {}, "maps": {}}));
        let page = kept.page();
        assert!(page.contains("| | 5.10.0 | 6.1.0 |"), "{page}");
        assert!(page.contains("| `gate` | – | 200 |"), "{page}");
    }
}

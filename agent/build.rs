//! Hands the kernel programs to the agent as `track.o`, `gate.o`, `retire.o` and `hop.o` in `OUT_DIR`.
//!
//! `cargo xtask build` says in `DRAINCTL_EBPF_DIR` where they are. Without it they are empty files, so that
//! `cargo check` and editors need no eBPF toolchain; an agent built that way refuses to start.

use std::{env, error::Error, fs, path::PathBuf};

const PROGRAMS: [&str; 4] = ["track", "gate", "retire", "hop"];

fn main() -> Result<(), Box<dyn Error>> {
    const VARIABLE: &str = "DRAINCTL_EBPF_DIR";
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let programs = env::var_os(VARIABLE).map(PathBuf::from);
    for name in PROGRAMS {
        let object = match &programs {
            Some(folder) => {
                let path = folder.join(name);
                println!("cargo::rerun-if-changed={}", path.display());
                fs::read(&path).map_err(|error| {
                    format!(
                        "{VARIABLE} has no {name} ({}: {error}); run cargo xtask build",
                        path.display()
                    )
                })?
            }
            None => Vec::new(),
        };
        fs::write(out.join(format!("{name}.o")), object)?;
    }
    Ok(())
}

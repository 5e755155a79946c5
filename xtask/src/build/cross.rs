//! What building for another processor takes: Rust's standard library and a C compiler for it. What this machine lacks of it
//! is taken from Debian's packages, unpacked into a folder of our own: nothing is installed, and apt's own lists and
//! architectures stay as they are.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::Processor;
use crate::{
    debs,
    shell::{Shell, ask, find_program, forget_toolchain, host_cargo, path_with},
    toolchain,
    workspace::Workspace,
};

/// Debian's compiler, for which Debian has standard libraries of other processors.
const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";

/// A compiler for another processor, and where what it takes was unpacked.
pub(super) struct Cross {
    root: PathBuf,
    /// Whether Debian's compiler is used, with a standard library from `root`.
    is_debians: bool,
}

impl Cross {
    /// Finds what is here, and fetches what is not.
    ///
    /// # Errors
    /// There is no standard library for the processor, or no C compiler, and Debian's archive has none or is out of reach.
    pub(super) fn find(shell: &Shell, workspace: &Workspace, processor: Processor) -> Result<Self> {
        let root = toolchain::cache(workspace).join(format!("cross-{}", processor.name));
        let is_debians = !has_library(&rustc(), processor.target);
        let this = Self { root, is_debians };
        if is_debians {
            this.fetch_library(shell, processor).with_context(|| {
                format!(
                    "this Rust has no standard library for {0}, and Debian's cannot be had: with rustup, \
                     `rustup target add {0}`",
                    processor.target
                )
            })?;
        }
        if this.program(processor.cross).is_none() {
            let prefix = processor.cross.trim_end_matches("-gcc").replace("x86_64", "x86-64");
            let packages = [format!("gcc-{prefix}"), format!("libc6-dev-{}-cross", processor.name)];
            this.fetch(shell, &packages)
                .with_context(|| format!("there is no {}", processor.cross))?;
        }
        Ok(this)
    }

    /// A cargo that builds for the processor, with `RUSTFLAGS` as far as this needs them.
    pub(super) fn cargo(&self, workspace: &Workspace, processor: Processor) -> Result<Command> {
        let mut command = if self.is_debians {
            let mut command = Command::new(CARGO);
            forget_toolchain(&mut command);
            command.current_dir(&workspace.root).env("RUSTC", RUSTC);
            command
        } else {
            host_cargo(&workspace.root)
        };
        let name = processor.target.replace('-', "_");
        command.env(format!("CARGO_TARGET_{}_LINKER", name.to_uppercase()), processor.cross);
        command.env(format!("CC_{name}"), processor.cross);
        command.env("PATH", path_with(&self.root.join("usr/bin"))?);
        command.env("LD_LIBRARY_PATH", self.libraries());
        Ok(command)
    }

    /// Flags for the compiler.
    pub(super) fn flags(&self) -> String {
        if !self.is_debians {
            return String::new();
        }
        format!(" --sysroot={}", self.root.join("usr").display())
    }

    /// Runs a program that was made, under an emulator, and returns what it prints.
    ///
    /// # Errors
    /// There is no emulator, or the program fails.
    pub(super) fn try_out(
        &self,
        shell: &Shell,
        processor: Processor,
        args: &[&str],
    ) -> Result<String> {
        let name = processor.target.split('-').next().unwrap_or_default();
        let emulator = format!("qemu-{name}-static");
        if self.program(&emulator).is_none() {
            self.fetch(shell, &["qemu-user-static".to_owned()])?;
        }
        let emulator =
            self.program(&emulator).with_context(|| format!("there is no {emulator}"))?;
        let what = args.join(" ");
        ask(Command::new(emulator).args(args))
            .with_context(|| format!("{what} fails when it is run"))
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        let ours = self.root.join("usr/bin").join(name);
        find_program(name).or_else(|| ours.is_file().then_some(ours))
    }

    /// Where the linker's own libraries are.
    fn libraries(&self) -> PathBuf {
        self.root.join(format!("usr/lib/{}-linux-gnu", env::consts::ARCH))
    }

    /// The standard library of exactly the version of Debian's compiler.
    fn fetch_library(&self, shell: &Shell, processor: Processor) -> Result<()> {
        let here = format!("/usr/lib/rustlib/{}-unknown-linux-gnu", env::consts::ARCH);
        let owner = ask(Command::new("dpkg-query").args(["--search", &here]));
        let owner = owner.with_context(|| format!("no Debian package has {here}"))?;
        let names = owner.split([',', ':', ' ']).filter(|name| name.ends_with("-dev"));
        let package = names.into_iter().next().context("Debian's Rust has no package -dev")?;
        let show = ["--show", "--showformat=${Version}", package];
        let version = ask(Command::new("dpkg-query").args(show)).context("dpkg-query failed")?;
        let stamp = self.root.join("standard-library");
        if fs::read_to_string(&stamp).is_ok_and(|unpacked| unpacked == version) {
            return Ok(());
        }
        let _ = fs::remove_dir_all(self.root.join("usr/lib/rustlib"));
        shell.stage(format_args!("Debian's {package} {version} for {}", processor.name));
        self.make_lists(processor)?;
        let library = format!("{package}:{}={version}", processor.name);
        debs::unpack(self.apt(processor), &[library], &self.root)?;
        ensure!(
            self.root.join("usr/lib/rustlib").join(processor.target).is_dir(),
            "{package} has no {}",
            processor.target
        );
        Ok(fs::write(stamp, version)?)
    }

    /// Packages for this machine, with those that they need and that are not installed.
    fn fetch(&self, shell: &Shell, packages: &[String]) -> Result<()> {
        let mut simulate = Command::new("apt-get");
        simulate.args(["--simulate", "--quiet", "--no-install-recommends", "install"]);
        let plan = ask(simulate.args(packages).env("LC_ALL", "C")).with_context(|| {
            format!("apt-get knows no {}: `apt-get update`", packages.join(" or "))
        })?;
        let names = plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
        let names: Vec<String> = names.map(str::to_owned).collect();
        shell.stage(format_args!("Debian's {}, unpacked", names.join(" ")));
        debs::unpack(Command::new("apt-get"), &names, &self.root)
    }

    /// Lists of packages for both processors, from this machine's sources.
    fn make_lists(&self, processor: Processor) -> Result<()> {
        for folder in ["apt/state/lists/partial", "apt/cache/archives/partial"] {
            fs::create_dir_all(self.root.join(folder))?;
        }
        fs::write(self.root.join("apt/status"), "")?;
        // A source that has nothing for that processor is no reason to give up: what is missing is found missing later.
        let _ = ask(self.apt(processor).args(["-q", "update"]));
        Ok(())
    }

    /// An apt-get with this machine's sources and lists of its own, for both processors.
    fn apt(&self, processor: Processor) -> Command {
        let mut command = Command::new("apt-get");
        let folder = |name: &str| self.root.join("apt").join(name).display().to_string();
        for option in [
            format!("APT::Architectures::={}", super::HOST.name),
            format!("APT::Architectures::={}", processor.name),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            format!("Dir::State={}", folder("state")),
            format!("Dir::State::status={}", folder("status")),
            format!("Dir::Cache={}", folder("cache")),
        ] {
            command.args(["-o", &option]);
        }
        command
    }
}

fn has_library(rustc: &Path, target: &str) -> bool {
    let library = ask(Command::new(rustc).args(["--print", "target-libdir", "--target", target]));
    library.is_some_and(|folder| Path::new(&folder).is_dir())
}

/// The compiler that the host's cargo uses.
fn rustc() -> PathBuf {
    env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from)
}

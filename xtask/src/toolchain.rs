//! The compilers that can build the kernel programs, found by asking them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow};

use crate::{
    build::elf,
    shell::{ask, find_program, forget_toolchain},
    workspace::Workspace,
};

/// The oldest compiler that builds this workspace, as in its `rust-version`.
pub(crate) const OLDEST: (u32, u32) = (1, 95);

/// The bpf-linker that setup builds.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

/// What `rustc -vV` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// Major and minor release.
    pub(crate) release: (u32, u32),
    /// Major release of the LLVM inside.
    pub(crate) llvm: u32,
    /// The target it builds for by default.
    pub(crate) host: String,
}

impl Version {
    /// Reads the output of `rustc -vV`.
    ///
    /// # Errors
    /// A line is missing or has another form.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .ok_or_else(|| anyhow!("`rustc -vV` has no line `{name}`"))
        };
        let number = |part: Option<&str>, of: &str| {
            part.and_then(|part| part.parse().ok())
                .ok_or_else(|| anyhow!("`rustc -vV` gives no number in `{of}`"))
        };
        let (release, llvm) = (field("release")?, field("LLVM version")?);
        let mut parts = release.split(['.', '-']);
        Ok(Self {
            release: (number(parts.next(), release)?, number(parts.next(), release)?),
            llvm: number(llvm.split('.').next(), llvm)?,
            host: field("host")?.to_owned(),
        })
    }

    /// Asks a compiler.
    ///
    /// # Errors
    /// It does not run, or says something else than expected.
    pub(crate) fn of(rustc: &Path) -> Result<Self> {
        let mut command = Command::new(rustc);
        forget_toolchain(&mut command);
        let text = ask(command.arg("-vV"))
            .with_context(|| format!("`{} -vV` does not work", rustc.display()))?;
        Self::parse(&text)
    }
}

/// A compiler on this machine, and what it has of what the kernel programs need.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    /// What it is called in messages.
    pub(crate) name: &'static str,
    /// The compiler.
    pub(crate) rustc: PathBuf,
    /// The cargo that belongs to it, if there is one.
    pub(crate) cargo: Option<PathBuf>,
    /// What it says of itself.
    pub(crate) version: Version,
    /// Whether the source of `core` is there, which has to be built for the kernel's target.
    pub(crate) has_src: bool,
    /// A bpf-linker that was seen to work with it.
    pub(crate) linker: Option<PathBuf>,
}

/// All that building the kernel programs takes.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    /// What it is called in messages.
    pub(crate) name: &'static str,
    /// The compiler.
    pub(crate) rustc: PathBuf,
    /// Its cargo.
    pub(crate) cargo: PathBuf,
    /// The linker.
    pub(crate) linker: PathBuf,
    /// What the compiler says of itself.
    pub(crate) version: Version,
}

impl Compiler {
    /// This compiler as a toolchain, if it has everything.
    pub(crate) fn complete(&self) -> Option<Toolchain> {
        if !self.has_src || self.version.release < OLDEST {
            return None;
        }
        Some(Toolchain {
            name: self.name,
            rustc: self.rustc.clone(),
            cargo: self.cargo.clone()?,
            linker: self.linker.clone()?,
            version: self.version.clone(),
        })
    }
}

/// rustup's nightly, if it is installed.
pub(crate) fn rustup_nightly(workspace: &Workspace) -> Option<Compiler> {
    let mut which = Command::new("rustup");
    forget_toolchain(&mut which);
    // Asking must not install.
    which.args(["which", "--toolchain", "nightly", "rustc"]).env("RUSTUP_AUTO_INSTALL", "0");
    let rustc = PathBuf::from(ask(&mut which)?);
    let mut compiler = examine("rustup's nightly", rustc)?;
    if compiler.has_src {
        compiler.linker = linkers_on_path().find(|linker| links(workspace, &compiler, linker));
    }
    Some(compiler)
}

/// The compiler of the distribution, if there is one.
pub(crate) fn system(workspace: &Workspace) -> Option<Compiler> {
    let mut compiler = examine("the system's Rust", "/usr/bin/rustc".into())?;
    let linker = private_linker(workspace, compiler.version.llvm);
    if links(workspace, &compiler, &linker) {
        compiler.linker = Some(linker);
    }
    Some(compiler)
}

/// Where setup puts the bpf-linker for this LLVM: outside of target, so that `cargo clean` and other
/// clones need not build it again, and beside no one else's.
pub(crate) fn private_root(workspace: &Workspace, llvm: u32) -> PathBuf {
    cache(workspace).join(format!("bpf-linker-{LINKER_VERSION}-llvm-{llvm}"))
}

/// What is fetched or built once for all clones.
pub(crate) fn cache(workspace: &Workspace) -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))
        .filter(|cache| cache.is_absolute())
        .unwrap_or_else(|| workspace.target.clone());
    cache.join("drainctl")
}

fn private_linker(workspace: &Workspace, llvm: u32) -> PathBuf {
    private_root(workspace, llvm).join("bin/bpf-linker")
}

fn examine(name: &'static str, rustc: PathBuf) -> Option<Compiler> {
    let version = Version::of(&rustc).ok()?;
    let mut sysroot = Command::new(&rustc);
    forget_toolchain(&mut sysroot);
    let sysroot = PathBuf::from(ask(sysroot.args(["--print", "sysroot"]))?);
    let cargo = rustc.with_file_name("cargo");
    Some(Compiler {
        name,
        has_src: sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file(),
        cargo: cargo.is_file().then_some(cargo),
        linker: None,
        rustc,
        version,
    })
}

fn linkers_on_path() -> impl Iterator<Item = PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let installed = home.map(|home| home.join("bin/bpf-linker")).filter(|file| file.is_file());
    find_program("bpf-linker").into_iter().chain(installed)
}

/// Whether this compiler and this linker make an object for the kernel out of an empty crate. A linker
/// that lost its LLVM, or never was one, is told apart here and not in the middle of a build.
fn links(workspace: &Workspace, compiler: &Compiler, linker: &Path) -> bool {
    linker.is_file() && try_link(workspace, &compiler.rustc, linker).unwrap_or(false)
}

fn try_link(workspace: &Workspace, rustc: &Path, linker: &Path) -> Result<bool> {
    let folder = workspace.target.join("xtask-probe");
    fs::create_dir_all(&folder)?;
    let (source, object) = (folder.join("empty.rs"), folder.join("empty.o"));
    fs::write(&source, "#![feature(no_core)]\n#![no_core]\n#![no_main]\n")?;
    let _ = fs::remove_file(&object);
    let mut command = Command::new(rustc);
    forget_toolchain(&mut command);
    command
        .args(["--edition", "2024", "--crate-type", "cdylib", "-C", "panic=abort"])
        .args(["--target", bpf_target()])
        .arg("-C")
        .arg(format!("linker={}", linker.display()))
        .arg("-o")
        .args([&object, &source])
        .env("RUSTC_BOOTSTRAP", "1");
    Ok(ask(&mut command).is_some() && elf::Header::read(&fs::read(object)?)?.is_bpf())
}

/// The target of the kernel programs: they have the byte order of the machine they run on.
pub(crate) fn bpf_target() -> &'static str {
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
        binary: rustc\ncommit-hash: ac68faa20c58cbccd01ee7208bf3b6e93a7d7f96\n\
        commit-date: 2026-05-25\nhost: x86_64-unknown-linux-gnu\nrelease: 1.96.0\n\
        LLVM version: 22.1.8\n";

    fn compiler() -> Compiler {
        Compiler {
            name: "a compiler",
            rustc: "/r/rustc".into(),
            cargo: Some("/r/cargo".into()),
            version: Version::parse(DEBIAN).expect("it is what rustc prints"),
            has_src: true,
            linker: Some("/l/bpf-linker".into()),
        }
    }

    #[test]
    fn the_version_of_debian_s_rustc_is_read() {
        let version = Version::parse(DEBIAN).expect("it is what rustc prints");
        assert_eq!(version.release, (1, 96));
        assert_eq!(version.llvm, 22);
        assert_eq!(version.host, "x86_64-unknown-linux-gnu");
    }

    #[test]
    fn the_version_of_a_nightly_is_read() {
        let text = "host: aarch64-unknown-linux-gnu\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4";
        let version = Version::parse(text).expect("it is what a nightly prints");
        assert_eq!((version.release, version.llvm), ((1, 97), 22));
    }

    #[test]
    fn what_is_missing_in_a_version_is_named() {
        let error = Version::parse("release: 1.96.0\nhost: x\n").expect_err("no LLVM");
        assert!(error.to_string().contains("LLVM version"), "{error}");
        let error = Version::parse("release: new\nhost: x\nLLVM version: 22.1").expect_err("new");
        assert!(error.to_string().contains("`new`"), "{error}");
    }

    #[test]
    fn a_compiler_is_only_complete_with_all_its_parts() {
        assert!(compiler().complete().is_some());
        assert!(Compiler { has_src: false, ..compiler() }.complete().is_none());
        assert!(Compiler { cargo: None, ..compiler() }.complete().is_none());
        assert!(Compiler { linker: None, ..compiler() }.complete().is_none());
        let version = Version { release: (1, 85), ..compiler().version };
        assert!(Compiler { version, ..compiler() }.complete().is_none());
    }
}

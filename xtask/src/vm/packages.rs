//! Fetching kernels from Debian's archive, with an apt of our own: the machine's own lists and packages are
//! untouched, and nothing is installed. Signatures are checked.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::kernels::Kernel;
use crate::{
    debs,
    shell::{Shell, ask},
};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A kernel, unpacked.
pub(super) struct Files {
    /// `uname -r`.
    pub(super) release: String,
    /// The compressed kernel.
    pub(super) bzimage: PathBuf,
    /// The folder with `lib/modules/RELEASE`.
    pub(super) root: PathBuf,
}

/// The newest kernel of a series, downloaded unless it is there already.
///
/// # Errors
/// The archive cannot be reached, or has no such kernel.
pub(super) fn fetch(shell: &Shell, cache: &Path, kernel: &Kernel) -> Result<Files> {
    let apt = Apt::new(cache, kernel)?;
    let version = match apt.update().and_then(|()| apt.newest(kernel)) {
        Ok(version) => version,
        // What was fetched once will do where the archive is out of reach.
        Err(error) => fetched(cache, kernel)
            .with_context(|| format!("{error:#}, and none was fetched before"))?,
    };
    let root = cache.join(&version);
    if !root.join("complete").exists() {
        shell.stage(format_args!("fetching Linux {version}"));
        apt.download(&version, &root)?;
        fs::write(root.join("complete"), kernel.name).context("note that the kernel is here")?;
    }
    let release = format!("{version}-cloud-amd64");
    let boot = root.join(format!("boot/vmlinuz-{release}"));
    let modules = root.join(format!("lib/modules/{release}"));
    let bzimage = [boot, modules.join("vmlinuz")].into_iter().find(|file| file.is_file());
    let bzimage = bzimage.with_context(|| format!("find the kernel in {}", root.display()))?;
    Ok(Files { release, bzimage, root })
}

/// The version of this series that was fetched last.
fn fetched(cache: &Path, kernel: &Kernel) -> Option<String> {
    let complete = |root: &Path| {
        fs::read_to_string(root.join("complete")).is_ok_and(|name| name == kernel.name)
    };
    let entries = fs::read_dir(cache).ok()?.flatten();
    let roots = entries.map(|entry| entry.path()).filter(|root| complete(root));
    let newest = roots.max_by_key(|root| fs::metadata(root).and_then(|m| m.modified()).ok())?;
    Some(newest.file_name()?.to_string_lossy().into_owned())
}

/// An apt with files of its own.
struct Apt {
    root: PathBuf,
}

impl Apt {
    fn new(cache: &Path, kernel: &Kernel) -> Result<Self> {
        let (label, suite) = kernel.suite;
        let archive = archive(label)?;
        let root = cache.join("apt").join(suite);
        for folder in ["etc/sources.list.d", "state/lists/partial", "cache/archives/partial"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("make the folder {}", folder.display()))?;
        }
        fs::write(root.join("status"), "").context("write an empty package status")?;
        let source = format!("deb [signed-by={KEYRING}] {archive} {suite} main\n");
        fs::write(root.join("etc/sources.list"), source).context("write apt's sources")?;
        Ok(Self { root })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let folder = |name: &str| self.root.join(name).display().to_string();
        command.args(["-o", "APT::Architecture=amd64", "-o", "APT::Architectures=amd64"]);
        // The lists of suites that are archived are never renewed; signatures are still checked.
        command.args(["-o", "Acquire::Check-Valid-Until=false", "-o", "Acquire::Languages=none"]);
        command.args(["-o", "APT::Sandbox::User=root", "-q"]);
        for (option, value) in [
            ("Dir::Etc", folder("etc")),
            ("Dir::State", folder("state")),
            ("Dir::State::status", folder("status")),
            ("Dir::Cache", folder("cache")),
        ] {
            command.args(["-o", &format!("{option}={value}")]);
        }
        command
    }

    fn update(&self) -> Result<()> {
        let done = ask(self.command("apt-get").arg("update"));
        done.map(drop).with_context(|| format!("cannot read the lists of {}", self.root.display()))
    }

    fn newest(&self, kernel: &Kernel) -> Result<String> {
        let names = ask(self.command("apt-cache").args(["pkgnames", "linux-image-"]));
        let names = names.context("apt-cache failed")?;
        let version = kernel.newest(names.lines());
        let missing = || format!("the suite {} has no Linux {}", kernel.suite.1, kernel.name);
        version.map(str::to_owned).with_context(missing)
    }

    /// Downloads and unpacks what makes up this kernel: one package, or since Linux 6.19 three, one of which has nothing
    /// but lists, such as that of the modules that are built in.
    fn download(&self, version: &str, root: &Path) -> Result<()> {
        let name = |kind: &str| format!("linux-{kind}-{version}-cloud-amd64");
        let split = ask(self.command("apt-cache").args(["show", &name("binary")])).is_some();
        let kinds: &[&str] = if split { &["base", "binary", "modules"] } else { &["image"] };
        let packages: Vec<String> = kinds.iter().map(|kind| name(kind)).collect();
        let _ = fs::remove_dir_all(root); // What was begun, and not completed.
        debs::unpack(self.command("apt-get"), &packages, root)?;
        // Kernels since 6.18 have their modules below /usr, where depmod and modprobe do not look.
        let lib = root.join("lib");
        if !lib.exists() {
            std::os::unix::fs::symlink("usr/lib", &lib).context("let lib be usr/lib")?;
        }
        let release = format!("{version}-cloud-amd64");
        let done = ask(Command::new("depmod").arg("-b").arg(root).arg(&release));
        ensure!(done.is_some(), "depmod failed for {release}");
        Ok(())
    }
}

/// Where this machine finds the archive with this label: the mirror that it uses for everything else.
///
/// # Errors
/// Its package sources have no such archive.
fn archive(label: &str) -> Result<String> {
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"]);
    let all = ask(&mut apt).unwrap_or_default();
    let found = all.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix(' '));
    found.map(str::to_owned).with_context(|| {
        format!(
            "this machine's package sources have no archive labelled {label}: run `apt-get update`, or add it to \
             /etc/apt/sources.list"
        )
    })
}

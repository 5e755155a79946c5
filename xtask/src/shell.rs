//! Running other programs, and telling what is being done.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt::{self, Display},
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// How much is said.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Only what went wrong.
    Quiet,
    /// A line for each stage, beside the output of the programs that are run.
    Normal,
    /// Every command as well.
    Verbose,
}

/// Runs commands and says so, on standard error: standard output belongs to the programs that are run.
pub(crate) struct Shell {
    level: Level,
    color: bool,
}

impl Shell {
    /// A shell that is as talkative as `level` says.
    pub(crate) fn new(level: Level) -> Self {
        Self { level, color: std::io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none() }
    }

    /// Announces a stage.
    pub(crate) fn stage(&self, text: impl Display) {
        if self.level != Level::Quiet {
            let (on, off) = self.style("\x1b[1;32m");
            eprintln!("{on}==>{off} {text}");
        }
    }

    /// Adds a line to the stage.
    pub(crate) fn detail(&self, text: impl Display) {
        if self.level != Level::Quiet {
            eprintln!("    {text}");
        }
    }

    /// Says something that must not be missed.
    pub(crate) fn warn(&self, text: impl Display) {
        let (on, off) = self.style("\x1b[1;33m");
        eprintln!("{on}warning:{off} {text}");
    }

    /// Runs a command to its end; its output goes where ours goes.
    ///
    /// # Errors
    /// [`Failed`] if it exits with anything but 0; another error if it cannot be started.
    pub(crate) fn run(&self, command: &mut Command) -> Result<()> {
        self.execute(command, false)
    }

    /// Like [`Shell::run`] for a program that says itself what went wrong, as test runners do.
    ///
    /// # Errors
    /// As [`Shell::run`].
    pub(crate) fn run_runner(&self, command: &mut Command) -> Result<()> {
        self.execute(command, true)
    }

    /// The flag that makes cargo as quiet as we are.
    pub(crate) fn cargo_flag(&self) -> Option<&'static str> {
        (self.level == Level::Quiet).then_some("--quiet")
    }

    fn execute(&self, command: &mut Command, told: bool) -> Result<()> {
        if self.level == Level::Verbose {
            self.detail(format_args!("$ {}", CommandLine(command)));
        }
        let status = command
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("start `{}`", CommandLine(command)))?;
        if status.success() {
            return Ok(());
        }
        let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        Err(Failed { command: CommandLine(command).to_string(), code, told }.into())
    }

    fn style(&self, on: &'static str) -> (&'static str, &'static str) {
        if self.color { (on, "\x1b[0m") } else { ("", "") }
    }
}

/// A program ended with an exit code other than 0.
#[derive(Debug)]
pub(crate) struct Failed {
    command: String,
    /// Its exit code, or 1 if it was killed.
    pub(crate) code: u8,
    /// Whether it has said what went wrong, so that nothing need be added.
    pub(crate) told: bool,
}

impl Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` failed with exit code {}", self.command, self.code)
    }
}

impl std::error::Error for Failed {}

/// A command as one would type it.
pub(crate) struct CommandLine<'a>(pub(crate) &'a Command);

impl Display for CommandLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.0.get_envs() {
            if let Some(value) = value {
                write!(f, "{}={} ", name.display(), quoted(value))?;
            }
        }
        write!(f, "{}", quoted(self.0.get_program()))?;
        self.0.get_args().try_for_each(|arg| write!(f, " {}", quoted(arg)))
    }
}

/// `word`, in quotes if a shell would otherwise take it apart.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What a command prints, if it can be run and succeeds: for questions, where "no" is an answer.
pub(crate) fn ask(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The cargo that runs us, for work on the host's side, without the variables that describe xtask itself.
pub(crate) fn host_cargo(root: &Path) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root);
    forget(&mut command, describes_xtask);
    command
}

/// Takes from a command's environment all that the outer cargo or rustup left there, so that another
/// toolchain can be used in it.
pub(crate) fn forget_toolchain(command: &mut Command) {
    forget(command, |name| describes_xtask(name) || chooses_toolchain(name));
}

fn forget(command: &mut Command, which: impl Fn(&str) -> bool) {
    let names: Vec<OsString> = env::vars_os().map(|(name, _)| name).collect();
    for name in names.iter().filter(|name| name.to_str().is_some_and(&which)) {
        command.env_remove(name);
    }
}

/// Set by `cargo run` for the program it runs.
fn describes_xtask(name: &str) -> bool {
    const NAMES: [&str; 7] = [
        "CARGO",
        "CARGO_BIN_NAME",
        "CARGO_CRATE_NAME",
        "CARGO_MAKEFLAGS",
        "CARGO_PRIMARY_PACKAGE",
        "OUT_DIR",
        "RUST_RECURSION_COUNT",
    ];
    NAMES.contains(&name) || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
}

/// Makes cargo or rustc use another compiler, other flags or another folder.
fn chooses_toolchain(name: &str) -> bool {
    const NAMES: [&str; 10] = [
        "CARGO_ENCODED_RUSTFLAGS",
        "LD_LIBRARY_PATH",
        "RUSTC",
        "RUSTC_BOOTSTRAP",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTDOC",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ];
    const PREFIXES: [&str; 3] = ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_"];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// PATH with `folder` before all others.
///
/// # Errors
/// The folder's name cannot be in PATH.
pub(crate) fn path_with(folder: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = [folder.to_path_buf()].into_iter().chain(env::split_paths(&path));
    env::join_paths(folders).with_context(|| format!("put {} on PATH", folder.display()))
}

/// The first program of this name on PATH, or where administrators' tools are: an ordinary user's PATH
/// lacks those folders on Debian.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Stops a task that an ordinary user cannot do.
///
/// # Errors
/// We are not root; the error says how to be.
pub(crate) fn require_root(what: &str, task: &str) -> Result<()> {
    ensure!(
        is_root(),
        "{what} make network namespaces and load programs into the kernel, which takes root: \
         `sudo -E env PATH=\"$PATH\" cargo xtask {task}`"
    );
    Ok(())
}

/// Whether we are root, as far as the file system is concerned.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    // The owner of /proc/self is the effective user.
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let mut command = Command::new("cargo");
        command.args(["build", "--features", "a b", "it's", ""]).env("RUSTFLAGS", "-C x=+y");
        let expected = r"RUSTFLAGS='-C x=+y' cargo build --features 'a b' 'it'\''s' ''";
        assert_eq!(CommandLine(&command).to_string(), expected);
    }

    #[test]
    fn a_failure_keeps_the_exit_code() {
        let shell = Shell::new(Level::Quiet);
        let error = shell.run(Command::new("sh").args(["-c", "exit 7"])).expect_err("it exits 7");
        assert_eq!(error.downcast_ref::<Failed>().map(|failed| failed.code), Some(7));
        assert!(shell.run(Command::new("sh").args(["-c", "exit 0"])).is_ok());
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let shell = Shell::new(Level::Quiet);
        let error = shell.run(&mut Command::new("no-such-program-here")).expect_err("not there");
        assert!(error.to_string().contains("no-such-program-here"), "{error}");
    }

    #[test]
    fn the_outer_toolchain_is_forgotten_and_the_user_s_settings_are_not() {
        for name in ["RUSTUP_TOOLCHAIN", "RUSTC", "CARGO_BUILD_TARGET", "RUSTFLAGS"] {
            assert!(chooses_toolchain(name), "{name}");
        }
        for name in ["CARGO", "CARGO_PKG_NAME", "CARGO_MANIFEST_DIR"] {
            assert!(describes_xtask(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_TERM_COLOR", "HOME", "PATH"] {
            assert!(!chooses_toolchain(name) && !describes_xtask(name), "{name}");
        }
    }

    #[test]
    fn programs_are_found_by_name() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-here"), None);
    }
}

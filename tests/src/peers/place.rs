//! Where the programs are, and how they are started.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{netns::Netns, process::Process};

/// What a program needs to know to be started.
#[derive(Clone, Debug)]
pub struct Place {
    /// A folder of its own, for its configuration, files and logs.
    pub dir: PathBuf,
    /// For a server: the port to listen on, at any address. For a client: whom to ask.
    pub addr: SocketAddr,
    /// For a server: the file to which each executed POST is written, one id a line.
    pub executed: PathBuf,
    /// For a client: its part of the command line, as the contract has it.
    pub args: Vec<String>,
}

impl Place {
    /// The sources and templates of `tests/peers`.
    pub fn source(&self, path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(path)
    }

    /// What setup has put into `target/peers`: environments, packages and built programs.
    pub fn built(&self, path: &str) -> Result<PathBuf> {
        let folder = env::var_os("DRAINCTL_PEERS")
            .context("DRAINCTL_PEERS does not name the peers: run `cargo xtask test peers`")?;
        let path = PathBuf::from(folder).join(path);
        ensure!(path.exists(), "{} is missing: run `cargo xtask test peers`", path.display());
        Ok(path)
    }

    /// A program of this crate, built beside the one that runs.
    pub fn sibling(&self, name: &str) -> Result<PathBuf> {
        let own = env::current_exe().context("find the program that runs")?;
        // Tests are in a folder below that of programs.
        let found = own.ancestors().skip(1).take(2).map(|dir| dir.join(name));
        found.into_iter().find(|path| path.is_file()).with_context(|| {
            format!("there is no {name} beside {}: build drainctl-tests", own.display())
        })
    }

    /// The same place for another program beside: its files in a folder below, listening on `port`.
    pub fn beside(&self, name: &str, port: u16) -> Result<Self> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir)?;
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        Ok(Self { dir, addr, ..self.clone() })
    }

    /// Fills a template of `tests/peers` in: `@dir@`, `@port@`, `@addr@`, and what is given besides.
    /// Returns the path of the finished file, which has the template's name.
    pub fn fill(&self, template: &str, more: &[(&str, &str)]) -> Result<PathBuf> {
        let source = self.source(template);
        let mut text = fs::read_to_string(&source)
            .with_context(|| format!("read the template {}", source.display()))?;
        let dir = self.dir.to_str().context("a folder name that is not UTF-8")?;
        let (port, addr) = (self.addr.port().to_string(), self.addr.to_string());
        let own = [("dir", dir), ("port", &port), ("addr", &addr)];
        for (name, value) in own.iter().chain(more) {
            text = text.replace(&format!("@{name}@"), value);
        }
        let path = self.dir.join(source.file_name().context("a template has a name")?);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// `program … --port P --executed FILE`, as the contract has it for servers.
    pub fn server(&self, program: impl AsRef<std::ffi::OsStr>, first: &[&Path]) -> Launch {
        let mut command = Command::new(program);
        command.args(first).arg("--port").arg(self.addr.port().to_string());
        command.arg("--executed").arg(&self.executed);
        Launch { command, listens: Some(self.addr.port()) }
    }

    /// `program … --url U --connections C …`, as the contract has it for clients.
    pub fn client(&self, program: impl AsRef<std::ffi::OsStr>, first: &[&Path]) -> Launch {
        let mut command = Command::new(program);
        command.args(first).arg("--url").arg(format!("http://{}", self.addr)).args(&self.args);
        Launch { command, listens: None }
    }
}

/// A program to be started.
#[derive(Debug)]
pub struct Launch {
    /// Program and arguments.
    pub command: Command,
    /// The port it listens on once it is ready.
    pub listens: Option<u16>,
}

impl Launch {
    /// Starts it inside `netns`; what it prints goes to `NAME.out` and `NAME.err` in `dir`.
    pub(super) fn start(mut self, netns: &Netns, dir: &Path, name: &str) -> Result<Running> {
        let (out, err) = (dir.join(format!("{name}.out")), dir.join(format!("{name}.err")));
        let (stdout, stderr) = (fs::File::create(&out)?, fs::File::create(&err)?);
        self.command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = netns.run(|| {
            let program = self.command.get_program().to_string_lossy().into_owned();
            self.command.spawn().with_context(|| format!("start {program}"))
        })?;
        Ok(Running { process: Process::new(child, name), listens: self.listens, out, err })
    }
}

/// A program that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) process: Process,
    pub(super) listens: Option<u16>,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    /// What it has printed.
    pub(super) fn stdout(&self) -> Result<String> {
        fs::read_to_string(&self.out).with_context(|| format!("read {}", self.out.display()))
    }

    /// The end of its messages.
    pub(super) fn complaint(&self) -> String {
        let text = fs::read_to_string(&self.err).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

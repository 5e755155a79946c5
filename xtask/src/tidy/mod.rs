//! `cargo xtask tidy`: house rules that neither the compiler nor clippy knows.

mod code;
mod links;
mod rules;

use std::{fmt, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    shell::{Shell, ask, host_cargo},
    workspace::Workspace,
};

/// A text file of the repository.
pub(crate) struct File {
    /// Its path from the root, with slashes.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_markdown(&self) -> bool {
        self.path.ends_with(".md")
    }
}

/// A rule that is broken, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The file.
    pub(crate) path: String,
    /// The line, from 1.
    pub(crate) line: usize,
    /// What is wrong, and what to do instead.
    pub(crate) message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Checks every file that is, or would be, committed; and the dependencies.
///
/// # Errors
/// A rule is broken.
pub(crate) fn run(shell: &Shell, workspace: &Workspace) -> Result<()> {
    shell.stage("house rules");
    let files = files(&workspace.root)?;
    let mut findings: Vec<Finding> = files
        .iter()
        .flat_map(|file| check(file, |path| workspace.root.join(path).exists()))
        .collect();
    findings.extend(forgotten_tests(&files));
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} house rules are broken; CONTRIBUTING.md has the reasons", findings.len());
    }
    dependencies(shell, workspace)
}

/// All that is wrong in a file; `exists` tells whether a path from the root does.
fn check(file: &File, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = rules::any_file(file);
    if file.is_rust() {
        findings.extend(rules::rust(file));
    }
    if file.is_markdown() {
        findings.extend(links::check(file, exists));
    }
    findings
}

/// Files of tests that the program of integration tests does not name: nobody would compile them.
fn forgotten_tests(files: &[File]) -> Vec<Finding> {
    const FOLDER: &str = "tests/tests/";
    const MAIN: &str = "tests/tests/main.rs";
    let main = files.iter().find(|file| file.path == MAIN).map_or("", |file| &file.text);
    let named = |module: &str| main.lines().any(|line| line == format!("mod {module};"));
    let module = |file: &File| {
        let name = file.path.strip_prefix(FOLDER)?.strip_suffix(".rs")?.to_owned();
        (file.path != MAIN && !name.contains('/') && !named(&name)).then_some(name)
    };
    let finding = |file: &File| {
        let message = format!("not compiled: add `mod {};` to {MAIN}", module(file)?);
        Some(Finding { path: file.path.clone(), line: 1, message })
    };
    files.iter().filter_map(finding).collect()
}

/// The repository's text files: committed, or new and not ignored.
fn files(root: &Path) -> Result<Vec<File>> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let list = ask(&mut git).context("`git ls-files` failed: tidy checks what git would commit")?;
    let paths = list.split('\0').filter(|path| !path.is_empty());
    let text = |path: &str| {
        // Not text, a symbolic link's folder, or deleted and not yet committed: none of our business.
        let text = fs::read_to_string(root.join(path)).ok()?;
        Some(File { path: path.to_owned(), text })
    };
    Ok(paths.filter_map(text).collect())
}

/// Licences, bans and sources, by cargo-deny; advisories are left out since they need a network.
fn dependencies(shell: &Shell, workspace: &Workspace) -> Result<()> {
    let cargo = || host_cargo(&workspace.root);
    if ask(cargo().args(["deny", "--version"])).is_none() {
        shell.warn(
            "dependencies were NOT checked against deny.toml: cargo-deny is not installed \
             (`cargo install cargo-deny --locked`)",
        );
        return Ok(());
    }
    let checks = ["--log-level", "error", "check", "bans", "licenses", "sources"];
    shell.run(cargo().arg("deny").args(checks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_where_it_is() {
        let finding = Finding { path: "a/b.rs".into(), line: 3, message: "no".into() };
        assert_eq!(finding.to_string(), "a/b.rs:3: no");
    }

    #[test]
    fn a_test_that_is_not_compiled_is_found() {
        let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
        let files = [
            file("tests/tests/main.rs", "mod gate;\nmod retiring;\n"),
            file("tests/tests/gate.rs", ""),
            file("tests/tests/retiring/mod.rs", ""),
            file("tests/tests/ate.rs", ""),
        ];
        let findings = forgotten_tests(&files);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].path, "tests/tests/ate.rs");
    }

    #[test]
    fn rust_rules_are_for_rust_and_link_rules_for_markdown() {
        let check = |path: &str| {
            let text = "unsafe { [x](gone.md) }\n".to_owned();
            check(&File { path: path.to_owned(), text }, |_| false)
        };
        assert_eq!(check("agent/src/lib.rs").len(), 1);
        assert_eq!(check("docs/x.md").len(), 1);
        assert!(check("docs/x.txt").is_empty());
    }

    #[test]
    fn the_repository_s_files_are_found_and_read() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
        let files = files(root).expect("git lists the files");
        let this = files.iter().find(|file| file.path == "xtask/src/tidy/mod.rs");
        assert!(this.is_some_and(|file| file.text.contains("fn the_repository_s_files")));
        assert!(!files.iter().any(|file| file.path.starts_with("target/")), "target is ignored");
    }
}

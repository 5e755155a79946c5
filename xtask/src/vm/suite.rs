//! The integration tests as they run in a machine, and what each kernel is known to lack.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::{
    kernels::Kernel,
    machine::{Output, quoted, quoted_path},
    table::{Outcome, Row},
};
use crate::{
    build, kube, peers,
    shell::{Shell, host_cargo},
    workspace::Workspace,
};

/// What a kernel lacks: `KERNEL TEST REASON`, a line each. TEST is `file::name`, or `file::*` for all of a file.
const LACKS: &str = include_str!("../../../tests/kernels.txt");

/// Tests that are about this machine, not about its kernel.
const NOT_HERE: [&str; 4] = ["harness", "page", "peers", "watch"];

/// Tests that run at a time: most of the time of most of them is waiting.
const THREADS: u32 = 3;

/// What shows in a minute or two that a kernel is not out of reach: refusing, telling by header and by GOAWAY, FINs,
/// forwarding, and a new agent that goes on.
const SMOKE: [&str; 6] = [
    "gate::new_connections_are_refused_on_every_path",
    "count::half_closed_connections_count_until_they_end",
    "retire_http1::heads_say_close_once_and_keep_their_other_options",
    "retire_http2::one_goaway_comes_between_two_frames",
    "forward::bytes_half_closes_and_first_words_arrive_over_both_families",
    "survive::a_killed_agent_leaves_drains_to_the_next",
];

/// Built test programs.
pub(super) struct Suite {
    programs: Vec<Program>,
    /// File and name of those that are run of these files; of others, all are.
    only: Vec<(String, String)>,
}

struct Program {
    /// Of the file in tests/tests.
    name: String,
    path: PathBuf,
}

impl Suite {
    /// Builds the tests with these names, of files or `file::test`; all if there are none.
    ///
    /// # Errors
    /// They cannot be built, or there is none of a name.
    pub(super) fn build(shell: &Shell, workspace: &Workspace, names: &[String]) -> Result<Self> {
        Self::build_as("vm", shell, workspace, names)
    }

    /// The few that show that a kernel is not out of reach, as the tests of this machine have been built already.
    ///
    /// # Errors
    /// They cannot be built.
    pub(super) fn smoke(shell: &Shell, workspace: &Workspace) -> Result<Self> {
        Self::build_as("dev", shell, workspace, &SMOKE.map(str::to_owned))
    }

    fn build_as(
        profile: &str,
        shell: &Shell,
        workspace: &Workspace,
        names: &[String],
    ) -> Result<Self> {
        shell.stage("building the tests");
        let mut cargo = host_cargo(&workspace.root);
        cargo.args(["test", "--package", "drainctl-tests", "--no-run"]);
        match names {
            [] => _ = cargo.arg("--tests"),
            // Cargo says so if there is none of a name, and which there are.
            names => {
                let files: BTreeSet<&str> = names.iter().map(|name| file(name)).collect();
                files.iter().for_each(|file| _ = cargo.args(["--test", file]));
            }
        }
        cargo.args(["--profile", profile, "--message-format", "json-render-diagnostics"]);
        cargo.env("DRAINCTL_EBPF_DIR", build::ebpf::objects(workspace));
        let output = cargo.stderr(std::process::Stdio::inherit()).output().context("run cargo")?;
        ensure!(output.status.success(), "the tests cannot be built");
        let text = String::from_utf8_lossy(&output.stdout);
        let all = text.lines().filter_map(program);
        let only = names.iter().filter_map(|name| name.split_once("::"));
        let only = only.map(|(file, test)| (file.to_owned(), test.to_owned())).collect();
        let wanted = |test: &Program| !names.is_empty() || !NOT_HERE.contains(&test.name.as_str());
        Ok(Self { programs: all.filter(wanted).collect(), only })
    }

    /// Whether this file's tests are among them.
    pub(super) fn has(&self, file: &str) -> bool {
        self.programs.iter().any(|program| program.name == file)
    }

    /// What the guest runs: `first`, then all programs, a few tests at a time, without those that the kernel is known to lack
    /// something for.
    pub(super) fn script(&self, workspace: &Workspace, kernel: &Kernel, first: &str) -> String {
        let mut script = environment(workspace) + "failed=0\n" + first;
        for Program { name, path } in &self.programs {
            let lacks: Vec<&Lack> =
                lacks().into_iter().filter(|lack| lack.is(kernel, name)).collect();
            if lacks.iter().any(|lack| lack.test == "*") {
                continue;
            }
            let skips: String =
                lacks.iter().map(|lack| format!(" --skip {}", quoted(lack.test))).collect();
            let only: String = (self.only.iter().filter(|(file, _)| file == name))
                .map(|(_, test)| format!(" {}", quoted(test)))
                .collect();
            // Those that this machine's kernel cannot run are for here.
            let options = format!(
                "--color never --test-threads={THREADS} --include-ignored --exact{only}{skips}"
            );
            script +=
                &format!("echo '{MARK}{name}'\n{} {options} || failed=1\n", quoted_path(path));
        }
        script + "exit $failed"
    }

    /// What came of each test, those that were left out included.
    pub(super) fn results(&self, kernel: &Kernel, output: &Output) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut file = String::new();
        for line in &output.lines {
            if let Some(name) = line.strip_prefix(MARK) {
                name.clone_into(&mut file);
            } else if let Some((test, outcome)) = result(line) {
                rows.push(Row { file: file.clone(), test, outcome });
            }
        }
        for Program { name, .. } in &self.programs {
            for lack in lacks().into_iter().filter(|lack| lack.is(kernel, name)) {
                let (file, test) = (name.clone(), lack.test.to_owned());
                rows.push(Row { file, test, outcome: Outcome::Lacks(lack.reason.to_owned()) });
            }
            if !rows.iter().any(|row| row.file == *name) {
                let row = (name.clone(), "*".to_owned());
                rows.push(Row { file: row.0, test: row.1, outcome: Outcome::NotRun });
            }
        }
        if !output.passed && rows.iter().all(|row| !row.outcome.is_bad()) {
            // The machine crashed, or a test program did.
            rows.push(Row { file, test: "*".into(), outcome: Outcome::NotRun });
        }
        rows
    }
}

/// `gate` of `gate::some_test`.
fn file(name: &str) -> &str {
    name.split_once("::").map_or(name, |(file, _)| file)
}

/// What the tests find their way by.
pub(super) fn environment(workspace: &Workspace) -> String {
    format!(
        "cd {}\nexport DRAINCTL_DIST={} DRAINCTL_EBPF_DIR={} DRAINCTL_PEERS={} \
         DRAINCTL_KUBE_PROXY={} DRAINCTL_SLOW=1\n",
        quoted_path(&workspace.root.join("tests")),
        quoted_path(&workspace.dist()),
        quoted_path(&build::ebpf::objects(workspace)),
        quoted_path(&peers::folder(workspace)),
        quoted_path(&kube::proxy_program(workspace)),
    )
}

/// Printed before each program.
const MARK: &str = "drainctl-vm-program ";

/// `test name ... ok`.
fn result(line: &str) -> Option<(String, Outcome)> {
    let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let outcome = match rest.trim() {
        "ok" => Outcome::Passed,
        // A test that skips itself is none of the list.
        text if text.starts_with("ignored") => Outcome::NotRun,
        _ => Outcome::Failed,
    };
    Some((name.to_owned(), outcome))
}

/// A test program in a line of what cargo prints.
fn program(line: &str) -> Option<Program> {
    let field = |name: &str| {
        let (_, rest) = line.split_once(&format!("\"{name}\":\""))?;
        rest.split_once('"').map(|(value, _)| value)
    };
    let is_test = line.contains("\"kind\":[\"test\"]");
    let path = field("executable").filter(|_| is_test)?;
    let file = field("src_path")?;
    let name = std::path::Path::new(file).file_stem()?.to_string_lossy().into_owned();
    Some(Program { name, path: path.into() })
}

/// One thing that a kernel lacks.
struct Lack {
    kernel: &'static str,
    file: &'static str,
    test: &'static str,
    reason: &'static str,
}

impl Lack {
    fn is(&self, kernel: &Kernel, file: &str) -> bool {
        self.kernel == kernel.name && self.file == file
    }
}

/// Why a test cannot pass on a kernel, if the list says so.
pub(super) fn reason(kernel: &Kernel, file: &str, test: &str) -> Option<&'static str> {
    let of = |lack: &&Lack| lack.is(kernel, file) && [test, "*"].contains(&lack.test);
    lacks().into_iter().find(of).map(|lack| lack.reason)
}

fn lacks() -> Vec<&'static Lack> {
    static ALL: std::sync::LazyLock<Vec<Lack>> = std::sync::LazyLock::new(|| {
        let lines = LACKS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| lack(line).expect("tests/kernels.txt has lines of three parts")).collect()
    });
    ALL.iter().collect()
}

fn lack(line: &'static str) -> Option<Lack> {
    let (kernel, rest) = line.split_once(' ')?;
    let (test, reason) = rest.trim_start().split_once(' ')?;
    let (file, test) = test.split_once("::")?;
    Some(Lack { kernel, file, test, reason: reason.trim() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::kernels::KERNELS;

    #[test]
    fn results_are_read() {
        let passed = Some(("a::b".to_owned(), Outcome::Passed));
        assert_eq!(result("test a::b ... ok"), passed);
        assert_eq!(result("test c ... FAILED"), Some(("c".to_owned(), Outcome::Failed)));
        assert_eq!(result("test d ... ignored, why"), Some(("d".to_owned(), Outcome::NotRun)));
        assert_eq!(result("running 6 tests"), None);
    }

    #[test]
    fn what_kernels_lack_names_kernels_and_tests_that_exist() {
        for lack in lacks() {
            assert!(KERNELS.iter().any(|kernel| kernel.name == lack.kernel), "{}", lack.kernel);
            let file = format!("{}/../tests/tests/{}.rs", env!("CARGO_MANIFEST_DIR"), lack.file);
            let source = std::fs::read_to_string(&file).expect(lack.file);
            let name = lack.test.rsplit("::").next().unwrap_or_default();
            assert!(name == "*" || source.contains(&format!("fn {name}(")), "{}", lack.test);
        }
    }

    #[test]
    fn a_program_is_found_in_what_cargo_prints() {
        let line = r#"{"target":{"kind":["test"],"src_path":"/r/tests/tests/gate.rs"},"executable":"/r/gate-1"}"#;
        let found = program(line).expect("it is one");
        assert_eq!((found.name.as_str(), found.path.to_str()), ("gate", Some("/r/gate-1")));
        assert!(program(&line.replace("test\"]", "lib\"]")).is_none());
    }

    #[test]
    fn a_program_that_did_not_run_is_no_pass() {
        let programs = vec![Program { name: "gate".into(), path: "/gate".into() }];
        let suite = Suite { programs, only: Vec::new() };
        let output = Output { lines: vec![], passed: true };
        let rows = suite.results(&KERNELS[1], &output);
        assert_eq!(rows.len(), 1);
        assert!(rows[0].outcome.is_bad());
    }
}

//! The integration tests as they run in a machine, and what each kernel is known to lack.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    kernels::Kernel,
    machine::{Output, quoted, quoted_path},
    record::commit,
    table::{Outcome, Row},
};
use crate::{
    build, kube, peers,
    shell::{Shell, ask, host_cargo},
    workspace::Workspace,
};

/// What a kernel lacks: `KERNEL TEST REASON`, a line each. TEST is `file::name`, or `file::*` for all of a file.
const LACKS: &str = include_str!("../../../tests/kernels.txt");

/// Tests that are about this machine, not about its kernel.
const NOT_HERE: [&str; 4] = ["harness", "page", "peers", "watch"];

/// Tests that run at a time: most of the time of most of them is waiting.
const THREADS: u32 = 3;

/// Has libtest say how long each test took, which it takes for unstable: a slow test costs ten times as much in a machine.
const TIMES: &str = "-Z unstable-options --report-time";

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

/// The built tests, and which of them are to run.
pub(super) struct Suite {
    program: PathBuf,
    /// Of what it was built.
    commit: String,
    /// Every test that is about kernels, by file and name.
    all: Vec<(String, String)>,
    /// Those that are to run.
    chosen: Vec<(String, String)>,
}

impl Suite {
    /// The file of what is said of the machine itself.
    pub(super) const MACHINE: &str = "machine";

    /// Builds the tests, and chooses those of these names, of files or `FILE::TEST`; all if there are none.
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
        let commit = commit(workspace);
        let mut cargo = host_cargo(&workspace.root);
        cargo.args(["test", "--package", "drainctl-tests", "--no-run", "--test", "integration"]);
        cargo.args(["--profile", profile, "--message-format", "json-render-diagnostics"]);
        cargo.env("DRAINCTL_EBPF_DIR", build::ebpf::objects(workspace));
        let output = cargo.stderr(std::process::Stdio::inherit()).output().context("run cargo")?;
        ensure!(output.status.success(), "the tests cannot be built");
        let text = String::from_utf8_lossy(&output.stdout);
        let program = text.lines().find_map(program).context("cargo has built no tests")?;
        let list = ask(Command::new(&program).args(["--list", "--format", "terse"]));
        let list =
            list.with_context(|| format!("{} does not list its tests", program.display()))?;
        let (all, chosen) = (choose(&list, &[])?, choose(&list, names)?);
        Ok(Self { program, commit, all, chosen })
    }

    /// The commit that it was built of.
    pub(super) fn commit(&self) -> &str {
        &self.commit
    }

    /// Every test that is about kernels, whether it is to run or not.
    pub(super) fn all(&self) -> &[(String, String)] {
        &self.all
    }

    /// Whether one of this file's tests is among them.
    pub(super) fn has(&self, file: &str) -> bool {
        self.chosen.iter().any(|(of, _)| of == file)
    }

    /// What the guest runs: `first`, then the tests, a few at a time, without those that the kernel is known to lack
    /// something for.
    pub(super) fn script(&self, workspace: &Workspace, kernel: &Kernel, first: &str) -> String {
        let run = self.chosen.iter().filter(|(file, test)| reason(kernel, file, test).is_none());
        let names: String =
            run.map(|(file, test)| format!(" {}", quoted(&format!("{file}::{test}")))).collect();
        let mut script = environment(workspace) + "failed=0\n" + first;
        if !names.is_empty() {
            // Those that this machine's kernel cannot run are for here.
            let options =
                format!("--color never --test-threads={THREADS} --include-ignored --exact {TIMES}");
            let program = quoted_path(&self.program);
            script += &format!("RUSTC_BOOTSTRAP=1 {program} {options}{names} || failed=1\n");
        }
        script + "exit $failed"
    }

    /// What came of each test, those that were left out included.
    pub(super) fn results(&self, kernel: &Kernel, output: &Output) -> Vec<Row> {
        let ran: HashMap<(String, String), Outcome> =
            output.lines.iter().filter_map(|line| result(line)).collect();
        let row = |name: &(String, String)| {
            let lacks =
                || reason(kernel, &name.0, &name.1).map(|why| Outcome::Lacks(why.to_owned()));
            let outcome = ran.get(name).cloned().or_else(lacks).unwrap_or(Outcome::NotRun);
            Row { file: name.0.clone(), test: name.1.clone(), outcome }
        };
        let mut rows: Vec<Row> = self.chosen.iter().map(row).collect();
        if !output.passed && rows.iter().all(|row| !row.outcome.is_bad()) {
            // The machine crashed, or the test program did, behind its last test.
            rows.push(Row {
                file: Self::MACHINE.into(),
                test: "*".into(),
                outcome: Outcome::NotRun,
            });
        }
        rows
    }
}

/// Those of the listed tests (`file::test: test`, a line each) that have one of these names.
fn choose(list: &str, names: &[String]) -> Result<Vec<(String, String)>> {
    let all = list.lines().filter_map(|line| split(line.strip_suffix(": test")?));
    let all: Vec<(String, String)> = all.collect();
    if names.is_empty() {
        return Ok(all
            .into_iter()
            .filter(|(file, _)| !NOT_HERE.contains(&file.as_str()))
            .collect());
    }
    let is = |name: &str, (file, test): &(String, String)| {
        name.split_once("::").map_or(name == file, |wanted| wanted == (file, test))
    };
    for name in names {
        let files: BTreeSet<&str> = all.iter().map(|(file, _)| file.as_str()).collect();
        let files = files.into_iter().collect::<Vec<_>>().join(", ");
        ensure!(
            all.iter().any(|test| is(name, test)),
            "there is no test {name}; the files are: {files}"
        );
    }
    Ok(all.into_iter().filter(|test| names.iter().any(|name| is(name, test))).collect())
}

/// File and name of `gate::some_test`.
fn split(name: &str) -> Option<(String, String)> {
    name.split_once("::").map(|(file, test)| (file.to_owned(), test.to_owned()))
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

/// `test file::name ... ok <1.234s>`.
fn result(line: &str) -> Option<((String, String), Outcome)> {
    let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let (rest, _) = rest.split_once(" <").unwrap_or((rest, ""));
    let outcome = match rest.trim() {
        "ok" => Outcome::Passed,
        // A test that skips itself is none of the list.
        text if text.starts_with("ignored") => Outcome::NotRun,
        _ => Outcome::Failed,
    };
    Some((split(name)?, outcome))
}

/// The test program in a line of what cargo prints.
fn program(line: &str) -> Option<PathBuf> {
    let (_, rest) = line.split_once("\"executable\":\"")?;
    let (path, _) = rest.split_once('"')?;
    line.contains("\"kind\":[\"test\"]").then(|| path.into())
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

    fn name(file: &str, test: &str) -> (String, String) {
        (file.to_owned(), test.to_owned())
    }

    #[test]
    fn results_are_read() {
        let passed = Some((name("a", "b::c"), Outcome::Passed));
        assert_eq!(result("test a::b::c ... ok"), passed);
        assert_eq!(result("test a::b::c ... ok <1.234s>"), passed);
        assert_eq!(result("test a::c ... FAILED <0.1s>"), Some((name("a", "c"), Outcome::Failed)));
        assert_eq!(result("test a::d ... ignored, why"), Some((name("a", "d"), Outcome::NotRun)));
        assert_eq!(result("running 6 tests"), None);
    }

    #[test]
    fn tests_are_chosen_by_file_or_name() {
        let list = "gate::a: test\ngate::b: test\nsurvive_gate::a: test\nharness::a: test\n";
        let chosen = |names: &[&str]| {
            choose(list, &names.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let all = [name("gate", "a"), name("gate", "b"), name("survive_gate", "a")];
        assert_eq!(chosen(&[]).unwrap(), all, "but for what is about the machine");
        assert_eq!(chosen(&["gate"]).unwrap(), all[..2]);
        assert_eq!(chosen(&["gate::b"]).unwrap(), all[1..2]);
        let error = chosen(&["gat"]).unwrap_err().to_string();
        assert!(error.contains("no test gat; the files are: gate, harness"), "{error}");
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
    fn the_program_is_found_in_what_cargo_prints() {
        let line = r#"{"target":{"kind":["test"],"src_path":"/r/tests/tests/main.rs"},"executable":"/r/i-1"}"#;
        assert_eq!(program(line), Some("/r/i-1".into()));
        assert_eq!(program(&line.replace("test\"]", "lib\"]")), None);
    }

    #[test]
    fn a_test_that_did_not_run_is_no_pass() {
        let chosen = vec![name("gate", "a"), name("gate", "b")];
        let suite = Suite { program: "/i".into(), commit: String::new(), all: Vec::new(), chosen };
        let output =
            Output { lines: vec!["test gate::a ... ok".to_owned()], passed: true, began: true };
        let rows = suite.results(&KERNELS[1], &output);
        assert_eq!(rows.iter().filter(|row| row.outcome.is_bad()).count(), 1);
        let crashed = Output {
            lines: output.lines.into_iter().chain(["test gate::b ... ok".to_owned()]).collect(),
            passed: false,
            began: true,
        };
        assert!(suite.results(&KERNELS[1], &crashed).iter().any(|row| row.outcome.is_bad()));
    }
}

//! The rules, each with a test that shows it being broken.

use super::{File, Finding, code::only_code};

/// Longer files are to be split: nobody keeps more in the head.
const LONGEST: usize = 400;

/// Where `unsafe` may be: one module a crate, so that it is known where to look.
const UNSAFE: [&str; 5] = [
    "agent-common/src/lib.rs",
    "agent-common/src/pod.rs",
    "agent-ebpf/",
    "agent/src/kernel/",
    "tests/src/",
];

/// What a line in tests/ says that sleeps and yet waits for no state.
const SLEEP_REASON: &str = "// not a wait for a state:";

/// Names of one machine or one network. Each is put together here, or this file would break the rule.
const PRIVATE: [&str; 8] = [
    concat!("/wo", "rk/"),
    concat!("/tmp", "/w-"),
    concat!("deb.deb", "ian.org"),
    concat!("security.deb", "ian.org"),
    concat!("index.cra", "tes.io"),
    concat!("static.cra", "tes.io"),
    concat!("files.python", "hosted.org"),
    concat!("registry.npm", "js.org"),
];

/// Rules for text of any kind.
pub(super) fn any_file(file: &File) -> Vec<Finding> {
    let lines = file.text.lines().enumerate();
    lines
        .flat_map(|(index, line)| {
            let found = PRIVATE.iter().filter(move |name| contains_path(line, name));
            found.map(move |name| {
                finding(file, index, format!("`{name}` is of one machine or network; leave it out"))
            })
        })
        .collect()
}

/// Rules for Rust.
pub(super) fn rust(file: &File) -> Vec<Finding> {
    let code = only_code(&file.text);
    let mut findings = Vec::new();
    let length = file.text.lines().count();
    if length > LONGEST {
        let message = format!("the file has {length} lines; split it, {LONGEST} is the limit");
        findings.push(finding(file, LONGEST, message));
    }
    for (index, (code, line)) in code.lines().zip(file.text.lines()).enumerate() {
        let messages =
            [unsafe_code(file, code), allow(code), unfinished(code), sleep(file, code, line)];
        findings
            .extend(messages.into_iter().flatten().map(|message| finding(file, index, message)));
    }
    findings
}

fn unsafe_code(file: &File, code: &str) -> Option<String> {
    let allowed = UNSAFE.iter().any(|place| file.path.starts_with(place));
    (!allowed && has_word(code, "unsafe"))
        .then(|| format!("`unsafe` may only be in {}", UNSAFE.join(", ")))
}

fn allow(code: &str) -> Option<String> {
    ["#[allow(", "#![allow("].iter().any(|attribute| code.contains(attribute)).then(|| {
        "use `#[expect(…, reason = \"…\")]`, which tells when it is no longer needed".into()
    })
}

fn unfinished(code: &str) -> Option<String> {
    let found = ["todo", "unimplemented", "dbg"].into_iter().find(|name| {
        let calls = code.split(&format!("{name}!")).collect::<Vec<_>>();
        calls.len() > 1 && calls[..calls.len() - 1].iter().any(|before| !ends_in_word(before))
    })?;
    Some(format!("`{found}!` is for work in progress: what is not built is absent"))
}

fn sleep(file: &File, code: &str, line: &str) -> Option<String> {
    let sleeps = has_word(code, "sleep") && code.contains("sleep(");
    (file.path.starts_with("tests/") && sleeps && !line.contains(SLEEP_REASON)).then(|| {
        format!("wait for the event, with a limit; a sleep that is none says `{SLEEP_REASON} …`")
    })
}

fn finding(file: &File, index: usize, message: String) -> Finding {
    Finding { path: file.path.clone(), line: index + 1, message }
}

/// Whether `name` is in the line and is not the end of a longer path or host name.
fn contains_path(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_-.".contains(c))
    })
}

fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let after = code[at + word.len()..].chars().next();
        !ends_in_word(&code[..at]) && !after.is_some_and(is_word)
    })
}

fn ends_in_word(text: &str) -> bool {
    text.chars().next_back().is_some_and(is_word)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    fn broken(path: &str, text: &str) -> Vec<usize> {
        rust(&file(path, text)).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_file_may_have_400_lines() {
        assert_eq!(broken("agent/src/a.rs", &"x\n".repeat(400)), [0_usize; 0]);
        assert_eq!(broken("agent/src/a.rs", &"x\n".repeat(401)), [401]);
    }

    #[test]
    fn unsafe_has_its_places() {
        let source = "fn f() {\n    unsafe { g() }\n}\n";
        assert_eq!(broken("agent/src/cli/a.rs", source), [2]);
        assert_eq!(broken("tests/tests/a.rs", source), [2]);
        for place in ["agent/src/kernel/a.rs", "agent-ebpf/src/gate.rs", "tests/src/netns.rs"] {
            assert_eq!(broken(place, source), [0_usize; 0], "{place}");
        }
        let harmless = "#![deny(unsafe_code)]\n// unsafe { }\nlet s = \"unsafe { }\";\n";
        assert_eq!(broken("agent/src/a.rs", harmless), [0_usize; 0]);
    }

    #[test]
    fn lints_are_expected_and_not_allowed() {
        assert_eq!(broken("agent/src/a.rs", "\n#[allow(dead_code)]\n"), [2]);
        assert_eq!(broken("agent/src/a.rs", "#![allow(dead_code)]\n"), [1]);
        assert_eq!(
            broken("agent/src/a.rs", "#[expect(dead_code, reason = \"x\")]\n"),
            [0_usize; 0]
        );
    }

    #[test]
    fn nothing_is_left_for_later() {
        assert_eq!(
            broken("agent/src/a.rs", "todo!()\nunimplemented!()\nstd::dbg!(x)\n"),
            [1, 2, 3]
        );
        assert_eq!(
            broken("agent/src/a.rs", "my_todo!()\nlet todo = 1;\n\"todo!()\"\n"),
            [0_usize; 0]
        );
    }

    #[test]
    fn tests_do_not_sleep_to_wait() {
        let source = "thread::sleep(d);\ntokio::time::sleep(d).await;\nsleep(d);\n";
        assert_eq!(broken("tests/tests/a.rs", source), [1, 2, 3]);
        assert_eq!(broken("agent/src/a.rs", source), [0_usize; 0], "the rule is for tests");
        let reasoned = "sleep(d); // not a wait for a state: the client's pace\nuse x::sleep;\n";
        assert_eq!(broken("tests/src/a.rs", reasoned), [0_usize; 0]);
    }

    #[test]
    fn machines_and_networks_are_not_named() {
        let lines = |text: &str| -> Vec<usize> {
            any_file(&file("a.md", text)).into_iter().map(|finding| finding.line).collect()
        };
        for name in PRIVATE {
            assert_eq!(lines(&format!("fine\nsee {name}x\n")), [2], "{name}");
            assert_eq!(lines(&format!("see file://{name}x\n")), [1], "{name}");
        }
        let inside = PRIVATE[0].trim_start_matches('/');
        assert_eq!(lines(&format!("target/{inside} home/{inside}\n")), [0_usize; 0]);
    }
}

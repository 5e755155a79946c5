//! Links between documents lead somewhere.

use super::{File, Finding};

/// Finds relative links of a Markdown file that lead nowhere; `exists` tells whether a path from the
/// root does. Text in code blocks and code spans is no link.
pub(super) fn check(file: &File, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut in_block = false;
    for (index, line) in file.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        if in_block || line.starts_with("    ") {
            continue;
        }
        for target in targets(&without_code(line)) {
            let Some(path) = relative(&file.path, &target) else { continue };
            if !exists(&path) {
                let message = format!("the link `{target}` leads nowhere: there is no {path}");
                findings.push(Finding { path: file.path.clone(), line: index + 1, message });
            }
        }
    }
    findings
}

fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("``")
}

/// What the links `[text](target)` and the definitions `[name]: target` of a line lead to.
fn targets(line: &str) -> Vec<String> {
    let inline = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    let definition = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("]: "))
        .and_then(|(_, target)| target.split_whitespace().next());
    inline.chain(definition).map(str::to_owned).collect()
}

/// The path from the root that a link in the file `from` means; none for a link to elsewhere, or within
/// the page.
fn relative(from: &str, target: &str) -> Option<String> {
    let path = target.split('#').next().filter(|path| !path.is_empty())?;
    if path.contains("://") || path.starts_with("mailto:") {
        return None;
    }
    let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
    // A leading slash is the root of the repository, as on its web page.
    let start = if path.starts_with('/') { "" } else { folder };
    let mut parts: Vec<&str> = Vec::new();
    for part in start.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(path: &str, text: &str) -> Vec<usize> {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        let exists = |path: &str| ["README.md", "docs/a.md", "docs"].contains(&path);
        check(&file, exists).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_link_to_nowhere_is_found() {
        assert_eq!(broken("README.md", "fine\n[a](docs/a.md) [b](docs/b.md)\n"), [2]);
        assert_eq!(broken("docs/a.md", "[up](../README.md)\n[b](b.md#part)\n"), [2]);
        assert_eq!(broken("README.md", "[b]: docs/b.md\n"), [1]);
        assert_eq!(broken("docs/a.md", "[root](/docs/b.md)\n"), [1]);
    }

    #[test]
    fn good_links_and_links_to_elsewhere_pass() {
        let text = "[a](docs/a.md#part) [here](#part) [web](https://example.com/x) [d](docs/)\n";
        assert_eq!(broken("README.md", text), [0_usize; 0]);
        assert_eq!(broken("docs/a.md", "[a](a.md \"title\") [root](/README.md)\n"), [0_usize; 0]);
    }

    #[test]
    fn code_has_no_links() {
        assert_eq!(
            broken("README.md", "`[a](b)` and ``x``\n```\n[a](b)\n```\n    [a](b)\n"),
            [0_usize; 0]
        );
    }
}

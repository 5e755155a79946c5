//! docs/benchmarks.md: each command rewrites its own part, between two comments, and leaves the rest alone.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

const PAGE: &str = "benchmarks.md";
/// Beside the page: its pictures.
pub(crate) const PICTURES: &str = "benchmarks";

/// Puts the text into the part of the page in the folder `out`. A page that is not there is begun.
pub(crate) fn put(out: &Path, part: &str, text: &str) -> Result<()> {
    fs::create_dir_all(out.join(PICTURES))?;
    let path = out.join(PAGE);
    let page = if path.exists() { fs::read_to_string(&path)? } else { empty(part) };
    let page = if page.contains(&begin(part)) { page } else { page + &empty(part) };
    let page = replaced(&page, part, text).with_context(|| path.display().to_string())?;
    fs::write(&path, page)?;
    eprintln!("{}: wrote the part {part:?}", path.display());
    Ok(())
}

/// On what it was measured, without saying whose machine that is.
pub(crate) fn machine() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let release = release.trim().split(['.', '-']).take(2).collect::<Vec<_>>().join(".");
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    let cpus = std::thread::available_parallelism()?;
    Ok(format!("Linux {release}, {cpus} CPUs; load average before: {load}.\n"))
}

fn begin(part: &str) -> String {
    format!("<!-- {part}: begin -->")
}

fn end(part: &str) -> String {
    format!("<!-- {part}: end -->")
}

fn empty(part: &str) -> String {
    format!("\n{}\n{}\n", begin(part), end(part))
}

fn replaced(page: &str, part: &str, text: &str) -> Result<String> {
    let (before, rest) = page.split_once(&begin(part)).context("no begin of the part")?;
    let (_, after) = rest.split_once(&end(part)).context("no end of the part")?;
    ensure!(!after.contains(&begin(part)), "two parts {part}");
    let (begin, end) = (begin(part), end(part));
    Ok(format!("{before}{begin}\n\n{}\n\n{end}{after}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_replaced_and_all_others_stay() {
        let out = tempfile::tempdir().expect("a folder");
        let page = out.path().join(PAGE);
        fs::write(&page, format!("Words.\n{}Others.\n", empty("a"))).expect("written");
        for text in ["1", "2", "2"] {
            put(out.path(), "a", text).expect("replaced");
            put(out.path(), "b", "new").expect("added");
        }
        let whole = fs::read_to_string(&page).expect("there");
        let a = "Words.\n\n<!-- a: begin -->\n\n2\n\n<!-- a: end -->\nOthers.\n";
        let b = "\n<!-- b: begin -->\n\nnew\n\n<!-- b: end -->\n";
        assert_eq!(whole, format!("{a}{b}"));
    }

    #[test]
    fn a_page_with_half_a_part_is_left_alone() {
        assert!(replaced("<!-- a: begin -->", "a", "text").is_err());
        assert!(replaced("<!-- a: end -->", "a", "text").is_err());
    }
}

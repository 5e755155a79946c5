//! Text for people: streams, tables, durations, sizes.

use std::io::Write;

/// Where a command writes, and how.
pub struct Streams<'a> {
    /// Results.
    pub out: &'a mut (dyn Write + Send),
    /// Progress and errors.
    pub err: &'a mut (dyn Write + Send),
    /// Whether `err` is a terminal, on which a line may be rewritten in place.
    pub live: bool,
}

impl Streams<'_> {
    /// Writes one line (or several) to stdout. That nobody reads it is no failure: the exit code carries the
    /// verdict, and it must reach the caller even if a pipe is closed.
    pub(super) fn say(&mut self, text: &str) {
        let _ = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
    }

    /// Writes one JSON value to stdout.
    pub(super) fn say_json(&mut self, value: &impl serde::Serialize) {
        // These are our own structs with string keys: they always serialize.
        self.say(&serde_json::to_string(value).unwrap_or_default());
    }

    /// Writes one line to stderr.
    pub(super) fn note(&mut self, text: &str) {
        let _ = writeln!(self.err, "{text}").and_then(|()| self.err.flush());
    }

    /// Writes to stderr as it is, without a line end.
    pub(super) fn raw(&mut self, text: &str) {
        let _ = write!(self.err, "{text}").and_then(|()| self.err.flush());
    }
}

/// Columns as wide as their widest cell, two spaces apart. Numbers are aligned right.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    pub(super) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    /// Adds a row; it has as many cells as the head.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The lines, without a final line end.
    pub(super) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cells = |column| self.rows.iter().filter_map(move |row| row.get(column));
        let widths: Vec<usize> = (0..columns)
            .map(|column| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0))
            .collect();
        let right: Vec<bool> =
            (0..columns).map(|column| cells(column).skip(1).all(is_number)).collect();
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[column] - cell.chars().count());
                let (before, after) = if right[column] { (&*pad, "") } else { ("", &*pad) };
                line.extend([before, cell, after, "  "]);
            }
            line.trim_end().to_owned()
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

fn is_number(cell: impl AsRef<str>) -> bool {
    let cell = cell.as_ref();
    cell == "-" || cell.starts_with(|c: char| c.is_ascii_digit())
}

/// Milliseconds as people say it: `350ms`, `4.2s`, `3m12s`, `2h05m`, `3d04h`.
pub(super) fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms}ms"),
        1..60 => format!("{s}.{}s", ms % 1000 / 100),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

/// Bytes with a binary unit: `512B`, `3.4KiB`, `1.0GiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1}{}", UNITS[unit])
}

/// `1 flow`, `2 flows`.
pub(super) fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// `port 80`, `ports 80, 443`.
pub(super) fn ports(ports: &[u16]) -> String {
    let list: Vec<String> = ports.iter().map(u16::to_string).collect();
    format!("{} {}", if ports.len() == 1 { "port" } else { "ports" }, list.join(", "))
}

/// Text as one word of a POSIX shell.
pub(super) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        let table = [
            (0, "0ms"),
            (999, "999ms"),
            (4_250, "4.2s"),
            (60_000, "1m00s"),
            (7_500_000, "2h05m"),
            (100 * 3_600_000, "4d04h"),
        ];
        for (ms, text) in table {
            assert_eq!(duration(ms), text);
        }
        for (size, text) in [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (1 << 30, "1.0GiB")] {
            assert_eq!(bytes(size), text);
        }
        assert_eq!(bytes(u64::MAX), "16384.0PiB");
    }

    #[test]
    fn tables_align_words_left_and_numbers_right() {
        let mut table = Table::new(&["PORT", "STATE", "FLOWS"]);
        table.row(vec!["80".into(), "serving".into(), "12".into()]);
        table.row(vec!["8080".into(), "drained".into(), "0".into()]);
        let lines = "PORT  STATE    FLOWS\n  80  serving     12\n8080  drained      0";
        assert_eq!(table.render(), lines);
    }

    #[test]
    fn shell_words() {
        assert_eq!(quoted("/run/netns/blue"), "/run/netns/blue");
        assert_eq!(quoted("/tmp/it's here"), r"'/tmp/it'\''s here'");
    }
}

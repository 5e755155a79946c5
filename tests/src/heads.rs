//! Heads of HTTP/1 responses that are told to say `close`, written apart from the agent's own parser: it splits
//! lines and lists, so that it can be checked by reading it.

use anyhow::{Context, Result, ensure};

use crate::wire::difference;

/// What may become of a head that is complete within one message: it says `close` in the documented way. A head
/// that closes as it is, or that must not be touched (1xx), stays as it is.
pub fn closing(head: &[u8]) -> Vec<u8> {
    let lines: Vec<&[u8]> = head.split_inclusive(|byte| *byte == b'\n').collect();
    let status_line = lines[0];
    let fields: Vec<Field<'_>> = connection_fields(&lines);
    let says = |option: &str| fields.iter().any(|field| field.place_of(option).is_some());
    if status_line[9] == b'1' || says("close") {
        return head.to_vec();
    }
    if let Some(at) = fields.iter().find_map(|field| field.place_of("keep-alive")) {
        return [&head[..at], b"     close", &head[at + 10..]].concat();
    }
    match fields.first() {
        _ if status_line.starts_with(b"HTTP/1.0") => head.to_vec(),
        None => insert(head, status_line.len(), b"Connection: close\r\n"),
        Some(field) if field.value.is_empty() => insert(head, field.end, b"close"),
        Some(field) => insert(head, field.start, b"close, "),
    }
}

/// What may become of a head that is written in several pieces: nothing, or the same, or, where the status line
/// has been sent already, a field at the end.
pub fn perhaps_closing(head: &[u8]) -> Vec<Vec<u8>> {
    let mut choices = vec![head.to_vec(), closing(head)];
    if choices[1].len() == head.len() + 19 {
        choices.push(insert(head, head.len() - 2, b"Connection: close\r\n"));
    }
    choices
}

/// What the server wrote, as parts of which some may arrive changed.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    parts: Vec<Vec<Vec<u8>>>,
}

impl Expected {
    /// The head comes next, told or not.
    pub fn head(&mut self, head: &[u8]) {
        self.parts.push(perhaps_closing(head));
    }

    /// This comes next, as it is.
    pub fn same(&mut self, bytes: &[u8]) {
        self.parts.push(vec![bytes.to_vec()]);
    }

    /// How many heads were changed; an error if something arrived that must not have.
    pub fn check(&self, arrived: &[u8]) -> Result<usize> {
        let (mut rest, mut changed) = (arrived, 0);
        for (number, choices) in self.parts.iter().enumerate() {
            let choice = choices.iter().find(|choice| rest.starts_with(choice));
            let choice = choice
                .with_context(|| format!("part {number}: {}", difference(&choices[0], rest)))?;
            rest = &rest[choice.len()..];
            changed += usize::from(*choice != choices[0]);
        }
        ensure!(rest.is_empty(), "{} bytes too many: {}", rest.len(), rest.escape_ascii());
        Ok(changed)
    }
}

/// The value of a Connection field, without whitespace around it, and its place in the head.
struct Field<'a> {
    value: &'a str,
    start: usize,
    /// Where the line ends.
    end: usize,
}

impl Field<'_> {
    /// Where in the head this option is.
    fn place_of(&self, option: &str) -> Option<usize> {
        let mut at = self.start;
        for member in self.value.split(',') {
            let name = member.trim_matches([' ', '\t']);
            if name.eq_ignore_ascii_case(option) {
                return Some(at + (member.len() - member.trim_start_matches([' ', '\t']).len()));
            }
            at += member.len() + 1;
        }
        None
    }
}

fn connection_fields<'a>(lines: &[&'a [u8]]) -> Vec<Field<'a>> {
    let mut fields = Vec::new();
    let mut at = 0;
    for line in lines {
        let text = std::str::from_utf8(line).unwrap_or_default().trim_end_matches(['\r', '\n']);
        if let Some((name, value)) = text.split_once(':')
            && name.eq_ignore_ascii_case("connection")
        {
            let before = value.len() - value.trim_start_matches([' ', '\t']).len();
            let value = value.trim_matches([' ', '\t']);
            fields.push(Field { value, start: at + name.len() + 1 + before, end: at + text.len() });
        }
        at += line.len();
    }
    fields
}

fn insert(head: &[u8], at: usize, what: &[u8]) -> Vec<u8> {
    [&head[..at], what, &head[at..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_say_close_in_the_documented_way() {
        let cases = [
            ("none", "", "Connection: close\r\n"),
            ("keep-alive", "connection:keep-alive\r\n", "connection:     close\r\n"),
            ("in a list", "Connection: a, Keep-Alive ,b\r\n", "Connection: a,      close ,b\r\n"),
            ("another option", "CONNECTION: Upgrade\r\n", "CONNECTION: close, Upgrade\r\n"),
            ("empty", "Connection: \r\n", "Connection: close\r\n"),
            ("already", "Connection: a,CLOSE\r\n", "Connection: a,CLOSE\r\n"),
        ];
        for (what, before, after) in cases {
            let head = |field: &str| format!("HTTP/1.1 200 OK\r\n{field}A: b\r\n\r\n").into_bytes();
            assert_eq!(closing(&head(before)), head(after), "{what}");
        }
        assert_eq!(closing(b"HTTP/1.0 200 OK\r\n\r\n"), b"HTTP/1.0 200 OK\r\n\r\n");
        assert_eq!(closing(b"HTTP/1.1 100 \r\n\r\n"), b"HTTP/1.1 100 \r\n\r\n");
    }
}

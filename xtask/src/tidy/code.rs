//! Rust source without what is not code.

/// `source` with comments, strings and characters blanked out, line for line and byte for byte, so that
/// a word found in it is code. It need not be exact on source that does not compile.
pub(super) fn only_code(source: &str) -> String {
    let mut rest = source;
    let mut code = String::with_capacity(source.len());
    let mut previous = ' ';
    while let Some(first) = rest.chars().next() {
        let blank = blank_length(rest, previous);
        let length = blank.unwrap_or(first.len_utf8());
        let (taken, left) = rest.split_at(length);
        match blank {
            Some(_) => {
                code.extend(taken.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }))
            }
            None => code.push_str(taken),
        }
        previous = if blank.is_some() { ' ' } else { first };
        rest = left;
    }
    code
}

/// The length of the comment, string or character that `rest` begins with.
fn blank_length(rest: &str, previous: char) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    if let Some(inside) = rest.strip_prefix('"') {
        return Some(1 + quoted(inside, '"'));
    }
    if let Some(inside) = rest.strip_prefix('\'') {
        return character(inside).map(|length| 1 + length);
    }
    // A prefix of a raw string is one only at the start of a word.
    if previous.is_alphanumeric() || previous == '_' {
        return None;
    }
    raw_string(rest)
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// Up to and with the closing quote.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The rest of `'x'` or `'\n'`, but not of the lifetime `'a`.
fn character(inside: &str) -> Option<usize> {
    let mut chars = inside.char_indices();
    let (_, first) = chars.next()?;
    if first == '\\' {
        return Some(quoted(inside, '\''));
    }
    let (at, second) = chars.next()?;
    (second == '\'').then_some(at + 1)
}

/// `r"…"`, `r#"…"#`, `br#"…"#`, `cr"…"`.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix(['b', 'c']).unwrap_or(rest).strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let start = rest.len() - body.len();
    Some(body.find(&close).map_or(rest.len(), |at| start + at + close.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<String> {
        let code = only_code(source);
        assert_eq!(code.lines().count(), source.lines().count(), "lines stay: {source}");
        code.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn comments_are_blanked() {
        assert_eq!(words("a // b \" c\nd"), ["a", "d"]);
        assert_eq!(words("a /* b /* c */\n d */ e"), ["a", "e"]);
        assert_eq!(words("/// doc\nfn"), ["fn"]);
        assert_eq!(words("a /* never closed"), ["a"]);
    }

    #[test]
    fn strings_are_blanked() {
        assert_eq!(words(r#"a "b \" c" d"#), ["a", "d"]);
        assert_eq!(words("a r#\"b \" c\n\"# d"), ["a", "d"]);
        assert_eq!(words(r#"a br"b\" d"#), ["a", "d"]);
        assert_eq!(words("a \"// b\" c"), ["a", "c"]);
        assert_eq!(words("over\"r\" r#try x"), ["over", "r#try", "x"]);
    }

    #[test]
    fn characters_are_blanked_and_lifetimes_stay() {
        assert_eq!(words(r"a '\'' '\\' '/' 'é' b"), ["a", "b"]);
        assert_eq!(words("fn f<'a>(x: &'a str) '\"' b"), ["fn", "f<'a>(x:", "&'a", "str)", "b"]);
    }

    #[test]
    fn other_alphabets_do_no_harm() {
        assert_eq!(words("größe /* ß */ \"ß\" x"), ["größe", "x"]);
    }
}

//! The query of a preStop hook, `port=8080&timeout=25s`, as options of `drainctl drain`.

/// Options of `drainctl drain` that a hook cannot have: they name another target than the pod itself, or make sense
/// for a program only.
const NOT_FOR_HOOKS: [&str; 14] = [
    "agent",
    "token-file",
    "ca-file",
    "cert",
    "key",
    "json",
    "pid",
    "netns",
    "pod",
    "container",
    "host",
    "no-wait",
    "if-unreachable",
    "help",
];

/// Why a query makes no options.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    #[error("name the port to be drained: /drain?port=8080")]
    NoPort,
    #[error("{0:?} is no option of a preStop hook")]
    NotForHooks(String),
    #[error("{0:?} cannot be read: behind % come two hexadecimal digits, and all of it is UTF-8")]
    Escape(String),
}

/// The options, each as one word; those that take no value stand alone, or say `=true`.
pub(super) fn options(query: &str) -> Result<Vec<String>, QueryError> {
    let mut options = Vec::new();
    let mut has_port = false;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
        let (name, value) = (decoded(name)?, decoded(value)?);
        let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        if !is_name || name.starts_with('-') || NOT_FOR_HOOKS.contains(&&*name) {
            return Err(QueryError::NotForHooks(name));
        }
        has_port |= name == "port";
        options.push(match &*value {
            "true" => format!("--{name}"),
            _ => format!("--{name}={value}"),
        });
    }
    if has_port { Ok(options) } else { Err(QueryError::NoPort) }
}

/// Without percent encoding (RFC 3986, section 2.1). A plus is a plus: durations and prefixes have none that
/// means a space.
fn decoded(text: &str) -> Result<String, QueryError> {
    let wrong = || QueryError::Escape(text.to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(wrong)?);
        rest = &behind[2..];
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let table: [(&str, Result<&[&str], &str>); 16] = [
            ("port=8080", Ok(&["--port=8080"])),
            ("port=8080,8081&timeout=25s", Ok(&["--port=8080,8081", "--timeout=25s"])),
            ("port=80&port=81", Ok(&["--port=80", "--port=81"])),
            ("port=80&keep-closed", Ok(&["--port=80", "--keep-closed"])),
            ("port=80&keep-closed=true", Ok(&["--port=80", "--keep-closed"])),
            ("port=80&ignore=10.0.0.0%2F8", Ok(&["--port=80", "--ignore=10.0.0.0/8"])),
            ("port=80&new=forward=[::1]:80", Ok(&["--port=80", "--new=forward=[::1]:80"])),
            ("", Err("name the port")),
            ("timeout=5s", Err("name the port")),
            ("port=80&netns=/proc/1/ns/net", Err("no option of a preStop hook")),
            ("port=80&host", Err("no option of a preStop hook")),
            ("port=80&pod=a/b", Err("no option of a preStop hook")),
            ("port=80&no-wait", Err("no option of a preStop hook")),
            ("port=80&-p=1", Err("no option of a preStop hook")),
            ("port=8%0", Err("cannot be read")),
            ("port=80&new=%ff", Err("cannot be read")),
        ];
        for (query, expected) in table {
            match (options(query), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{query}"),
                (Err(error), Err(words)) => {
                    assert!(error.to_string().contains(words), "{query}: {error}");
                }
                (got, _) => panic!("{query}: {got:?}"),
            }
        }
    }
}

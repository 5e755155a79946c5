//! What httparse says about a head, and what an edited head has to be: used by the tests and by fuzz/.

use drainctl_common::http1::{Body, Edit, HeadScanner, Progress, StatusKind, Version};
use httparse::{EMPTY_HEADER, Header, Response, Status};

/// The options of all Connection fields, in lower case.
fn options(fields: &[Header<'_>]) -> Vec<Vec<u8>> {
    named(fields, "connection").flat_map(members).collect()
}

fn named<'a>(fields: &'a [Header<'_>], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let same = move |field: &&Header<'_>| field.name.eq_ignore_ascii_case(name);
    fields.iter().filter(same).map(|field| field.value)
}

fn members(value: &[u8]) -> Vec<Vec<u8>> {
    let trimmed = |member: &[u8]| {
        let visible = |byte: &u8| *byte != b' ' && *byte != b'\t';
        let start = member.iter().position(visible)?;
        let end = member.iter().rposition(visible)?;
        Some(member[start..=end].to_ascii_lowercase())
    };
    value.split(|&byte| byte == b',').filter_map(trimmed).collect()
}

/// Scans until there is an answer.
pub(crate) fn scan(bytes: &[u8]) -> HeadScanner {
    let mut scanner = HeadScanner::new();
    bytes.iter().find(|&&byte| scanner.push(byte) != Progress::More);
    scanner
}

/// Compares the scanner with httparse, and its edit with what it should do.
pub(crate) fn check(bytes: &[u8]) {
    let scanner = scan(bytes);
    let mut fields = vec![EMPTY_HEADER; bytes.len() / 4 + 1];
    let mut head = Response::new(&mut fields);
    let parsed = head.parse(bytes);
    match scanner.progress() {
        Progress::More => assert_eq!(parsed, Ok(Status::Partial), "{}", show(bytes)),
        Progress::End => {
            let length = usize::from(scanner.length());
            assert_eq!(parsed, Ok(Status::Complete(length)), "{}", show(bytes));
            agrees(&scanner, &head, &bytes[..length]);
            edits(&scanner, &head, &bytes[..length]);
        }
        Progress::NotAHead | Progress::GiveUp => {
            assert_eq!(scanner.edit(), Edit::Never);
            if let Ok(Status::Complete(length)) = parsed {
                assert!(is_lenient(&bytes[..length], &head), "{}", show(bytes));
            }
        }
    }
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Whether httparse accepted what RFC 9112 does not let a server send, or what we do not touch.
fn is_lenient(head: &[u8], parsed: &Response<'_, '_>) -> bool {
    let bare_line_feed =
        |place: usize| head[place] == b'\n' && (place == 0 || head[place - 1] != b'\r');
    let lengths: Vec<_> = named(parsed.headers, "content-length").collect();
    head.len() > usize::from(u16::MAX)
        || !head.starts_with(b"HTTP/")
        || head[12] != b' '
        || !(b'1'..=b'5').contains(&head[9])
        || (0..head.len()).any(bare_line_feed)
        || lengths.len() > 1
        || lengths.iter().any(|value| length(value).is_none())
        || (parsed.version == Some(0) && named(parsed.headers, "transfer-encoding").count() > 0)
}

fn length(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    // Numbers that have more than 17 digits before the last one are not followed.
    digits.parse().ok().filter(|length| all_digits && *length < 1_000_000_000_000_000_000)
}

fn agrees(scanner: &HeadScanner, parsed: &Response<'_, '_>, head: &[u8]) {
    let version = if scanner.version() == Version::Http10 { 0 } else { 1 };
    assert_eq!(parsed.version, Some(version));
    assert_eq!(parsed.code, Some(scanner.status()));
    let line = head.iter().position(|&byte| byte == b'\n').expect("a head has a line") + 1;
    assert_eq!(usize::from(scanner.status_line_end()), line);
    let first = named(parsed.headers, "connection").next();
    let range = scanner.connection().map(|(start, end)| &head[start.into()..end.into()]);
    assert_eq!(range, first, "{}", show(head));
    let options = options(parsed.headers);
    let has = |option: &[u8]| options.iter().any(|member| member == option);
    assert_eq!(scanner.says_close(), has(b"close"), "{}", show(head));
    assert_eq!(scanner.says_keep_alive(), has(b"keep-alive"), "{}", show(head));
    assert_eq!(scanner.says_upgrade(), has(b"upgrade"), "{}", show(head));
    assert_eq!(scanner.body(), body(scanner.status(), parsed.headers), "{}", show(head));
}

fn body(status: u16, fields: &[Header<'_>]) -> Body {
    if status < 200 || status == 204 || status == 304 {
        return Body::None;
    }
    let codings: Vec<_> = named(fields, "transfer-encoding").flat_map(members).collect();
    if codings.last().is_some_and(|coding| coding == b"chunked") {
        return Body::Chunked;
    }
    if named(fields, "transfer-encoding").next().is_some() {
        return Body::UntilClose;
    }
    let length = named(fields, "content-length").next().and_then(length);
    length.map_or(Body::UntilClose, Body::Length)
}

/// What the kernel program would send.
pub(crate) fn edited(edit: Edit, head: &[u8]) -> Vec<u8> {
    let insert = |at: u16, bytes: &[u8]| {
        let (before, after) = head.split_at(at.into());
        [before, bytes, after].concat()
    };
    match edit {
        Edit::Never | Edit::Already => head.to_vec(),
        Edit::InsertField(at) => insert(at, &Edit::FIELD),
        Edit::InsertOption(at) => insert(at, &Edit::OPTION),
        Edit::InsertOnlyOption(at) => insert(at, &Edit::ONLY_OPTION),
        Edit::Overwrite(at) => {
            let mut head = head.to_vec();
            let range = usize::from(at)..usize::from(at) + Edit::IN_PLACE.len();
            assert!(head[range.clone()].eq_ignore_ascii_case(b"keep-alive"));
            head[range].copy_from_slice(&Edit::IN_PLACE);
            head
        }
    }
}

fn edits(scanner: &HeadScanner, before: &Response<'_, '_>, head: &[u8]) {
    let edit = scanner.edit();
    if scanner.status_kind() != StatusKind::Final {
        return assert_eq!(edit, Edit::Never);
    }
    let mut expected = options(before.headers);
    let kept = expected.iter().position(|option| option == b"keep-alive");
    if scanner.says_close() || (scanner.version() == Version::Http10 && kept.is_none()) {
        return assert_eq!(edit, Edit::Already);
    }
    kept.map(|place| expected.remove(place));
    expected.push(b"close".to_vec());
    expected.sort();

    let head = edited(edit, head);
    let mut fields = vec![EMPTY_HEADER; head.len() / 4 + 1];
    let mut after = Response::new(&mut fields);
    assert_eq!(after.parse(&head), Ok(Status::Complete(head.len())), "{}", show(&head));
    assert_eq!((after.version, after.code), (before.version, before.code));
    let mut options = options(after.headers);
    options.sort();
    assert_eq!(options, expected, "{}", show(&head));
    let others = |head: &Response<'_, '_>| -> Vec<(String, Vec<u8>)> {
        let of_us = |field: &&Header<'_>| !field.name.eq_ignore_ascii_case("connection");
        let own = |field: &Header<'_>| (field.name.to_owned(), field.value.to_vec());
        head.headers.iter().filter(of_us).map(own).collect()
    };
    assert_eq!(others(&after), others(before), "the rest stays: {}", show(&head));
    if head.len() <= usize::from(u16::MAX) {
        assert_eq!(scan(&head).edit(), Edit::Already, "once is enough: {}", show(&head));
    }
}

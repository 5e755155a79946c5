//! The rules for following responses once more, with all the memory that a kernel program has not: used by
//! the tests and by fuzz/.

use drainctl_common::http1::{
    Body, Followed, HeadScanner, Place, Progress, Responses, StatusKind, Version,
};

/// Whether a message is fresh, and its bytes.
pub(crate) type Message<'a> = (bool, &'a [u8]);

/// Follows a message as the kernel program does. Returns where heads end in it.
pub(crate) fn follow(responses: &mut Responses, (fresh, message): Message<'_>) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    responses.begin(fresh);
    while at < message.len() {
        let skipped = responses.skip((message.len() - at) as u32) as usize;
        at += skipped;
        assert!(at <= message.len(), "no more than there is");
        if skipped == 0 {
            at += 1;
            if responses.push(message[at - 1]) == Followed::HeadEnd {
                let head = usize::from(responses.head().length());
                let here = head - usize::from(responses.head_bytes_before());
                let start = ends.last().copied().unwrap_or(0);
                assert!(here <= at - start, "the head begins in an earlier message, or here");
                ends.push(at);
            }
        }
    }
    responses.end();
    ends
}

/// Compares with the reference after every message.
pub(crate) fn check(from_start: bool, messages: &[Message<'_>]) {
    let mut responses = if from_start { Responses::from_start() } else { Responses::joined() };
    let state = if from_start { State::Between { idle: false } } else { State::Unsure };
    let mut reference = Reference { state, answered: false, pipelines: false, heads: 0 };
    for (count, &message) in messages.iter().enumerate() {
        let show = || format!("message {count} of {}", show(messages));
        assert_eq!(follow(&mut responses, message), reference.follow(message), "{}", show());
        assert_eq!(responses.place(), reference.place(), "{}", show());
        let idle = matches!(reference.state, State::Between { idle: true });
        assert_eq!(responses.is_idle(), idle, "{}", show());
        assert_eq!(responses.pipelines(), reference.pipelines, "{}", show());
    }
}

fn show(messages: &[Message<'_>]) -> String {
    let show = |(fresh, bytes): &Message<'_>| format!("{fresh} {}", bytes.escape_ascii());
    messages.iter().map(show).collect::<Vec<_>>().join("\n")
}

/// The input of the fuzzer: a byte that tells whether the flow is followed from its start, then messages,
/// each behind two bytes: whether it is fresh (the first bit), and its length.
pub(crate) fn check_bytes(bytes: &[u8]) {
    let Some((start, mut rest)) = bytes.split_first() else { return };
    let mut messages = Vec::new();
    while let Some((prefix, after)) = rest.split_first_chunk::<2>() {
        let prefix = u16::from_be_bytes(*prefix);
        let length = usize::from(prefix & 0x7fff).min(after.len());
        messages.push((prefix >> 15 == 1, &after[..length]));
        rest = &after[length..];
    }
    messages.truncate(64); // The reference is quadratic.
    check(start & 1 == 1, &messages);
}

enum State {
    Unsure,
    Between {
        idle: bool,
    },
    /// What came of a head.
    Head(Vec<u8>),
    Length {
        left: u64,
        bare: bool,
        doubt: bool,
    },
    /// All that came behind the head.
    Chunks(Vec<u8>),
    UntilClose,
    Never,
}

struct Reference {
    state: State,
    answered: bool,
    pipelines: bool,
    /// Heads that have ended.
    heads: usize,
}

impl Reference {
    fn place(&self) -> Place {
        match self.state {
            State::Unsure => Place::Unsure,
            State::Between { .. } => Place::Between,
            State::Head(_) => Place::Head,
            State::Length { .. } | State::Chunks(_) => Place::Body,
            State::UntilClose => Place::UntilClose,
            State::Never => Place::Never,
        }
    }

    fn follow(&mut self, (fresh, message): Message<'_>) -> Vec<usize> {
        let mut ends = Vec::new();
        let mut at = 0;
        if fresh {
            self.answered = false;
            at = self.suppose(message, &mut ends);
        }
        while at < message.len() {
            let heads = self.heads;
            at += self.step(&message[at..]);
            if self.heads != heads {
                ends.push(at);
            }
        }
        ends
    }

    /// What may be a head at the beginning of a message: returns how much of it is done with.
    fn suppose(&mut self, message: &[u8], ends: &mut Vec<usize>) -> usize {
        match &mut self.state {
            State::Length { bare: true, doubt, .. } => {
                *doubt = true;
                return 0;
            }
            State::Unsure => {}
            State::Chunks(came) if came.is_empty() && message.starts_with(b"H") => {}
            _ => return 0,
        }
        let head = scan(message);
        let scanned = usize::from(head.length());
        if head.progress() == Progress::End {
            self.state = self.behind(&head);
            ends.push(scanned);
            return scanned;
        }
        self.state = State::Unsure;
        scanned
    }

    /// Takes something of a message: returns how much.
    fn step(&mut self, rest: &[u8]) -> usize {
        let (next, taken) = match &mut self.state {
            State::Unsure | State::UntilClose | State::Never => return rest.len(),
            State::Between { .. } => {
                self.pipelines |= self.answered;
                (State::Head(Vec::new()), 0)
            }
            State::Head(came) => {
                let before = came.len();
                came.extend(rest);
                let head = scan(came);
                match head.progress() {
                    Progress::More => return rest.len(),
                    Progress::End => (self.behind(&head), usize::from(head.length()) - before),
                    Progress::NotAHead | Progress::GiveUp => (State::Unsure, rest.len()),
                }
            }
            State::Length { left, doubt, .. } => {
                let taken = (*left).min(rest.len() as u64);
                (counted(*left - taken, false, *doubt), taken as usize)
            }
            State::Chunks(came) => {
                let before = came.len();
                came.extend(rest);
                match chunks(came) {
                    Ok(None) => return rest.len(),
                    Ok(Some(length)) => (State::Between { idle: true }, length - before),
                    Err(Broken) => (State::Unsure, rest.len()),
                }
            }
        };
        self.state = next;
        taken
    }

    fn behind(&mut self, head: &HeadScanner) -> State {
        self.heads += 1;
        match head.status_kind() {
            StatusKind::Interim => return State::Between { idle: false },
            StatusKind::SwitchingProtocols => return State::Never,
            StatusKind::Final => self.answered = true,
        }
        match head.body() {
            Body::None => State::Between { idle: true },
            Body::Length(length) => counted(length, true, false),
            Body::Chunked => State::Chunks(Vec::new()),
            Body::UntilClose if persists(head) => State::Unsure,
            Body::UntilClose => State::UntilClose,
        }
    }
}

/// Whether the connection goes on behind the response, by its head (RFC 9112 §9.3).
fn persists(head: &HeadScanner) -> bool {
    let asked = head.version() == Version::Http11 || head.says_keep_alive();
    asked && !head.says_close()
}

fn counted(left: u64, bare: bool, doubt: bool) -> State {
    match (left, doubt) {
        (0, true) => State::Unsure,
        (0, false) => State::Between { idle: true },
        _ => State::Length { left, bare, doubt },
    }
}

fn scan(bytes: &[u8]) -> HeadScanner {
    let mut scanner = HeadScanner::new();
    bytes.iter().find(|&&byte| scanner.push(byte) != Progress::More);
    scanner
}

struct Broken;

/// The length of a chunked body with its trailers, if all of it is there (RFC 9112 §7.1).
fn chunks(bytes: &[u8]) -> Result<Option<usize>, Broken> {
    let mut rest = bytes;
    loop {
        let (line, after) = line(rest)?;
        let size = size(line, rest.len() > line.len())?;
        let Some(after) = after else { return Ok(None) };
        if size == 0 {
            rest = after;
            break;
        }
        let Some(data) = after.get(size as usize..) else { return Ok(None) };
        rest = match data {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', rest @ ..] => rest,
            _ => return Err(Broken),
        };
    }
    loop {
        let (line, after) = line(rest)?;
        match after {
            None => return Ok(None),
            Some(after) if line.is_empty() => return Ok(Some(bytes.len() - after.len())),
            Some(after) => rest = after,
        }
    }
}

/// A line without its end, and what is behind it, if all of it is there.
fn line(bytes: &[u8]) -> Result<(&[u8], Option<&[u8]>), Broken> {
    let end = bytes.iter().position(|byte| b"\r\n".contains(byte)).unwrap_or(bytes.len());
    match &bytes[end..] {
        [] | [b'\r'] => Ok((&bytes[..end], None)),
        [b'\r', b'\n', after @ ..] => Ok((&bytes[..end], Some(after))),
        _ => Err(Broken),
    }
}

/// The chunk-size in a line, or in what came of it.
fn size(line: &[u8], is_whole: bool) -> Result<u64, Broken> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let extension = line.get(digits).copied();
    if (digits == 0 && (extension.is_some() || is_whole))
        || extension.is_some_and(|byte| !b"; \t".contains(&byte))
    {
        return Err(Broken);
    }
    let add = |sum: u64, &byte: &u8| {
        let digit = (byte as char).to_digit(16).map_or(0, u64::from);
        Some(sum * 16 + digit).filter(|sum| *sum < 1 << 48)
    };
    line[..digits].iter().try_fold(0, add).ok_or(Broken)
}

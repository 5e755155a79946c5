//! Conversations as data: what is written in one call each, and what is to become of it.

use anyhow::{Result, ensure};

use crate::{
    frames::{self, GOAWAY},
    heads,
    wire::{Wire, difference},
};

/// One step of a conversation.
#[derive(Clone, Debug)]
pub enum Step {
    /// The client sends this, and the server reads it.
    Ask(Vec<u8>),
    /// The server writes this with one call.
    Say(Vec<Piece>),
}

/// A part of what the server writes.
#[derive(Clone, Debug)]
pub enum Piece {
    /// The head of a response, which is to say `close`.
    Head(Vec<u8>),
    /// What is to arrive as it is.
    Same(Vec<u8>),
    /// Not written by the server, and to arrive all the same.
    Added(Vec<u8>),
}

/// The client sends this.
pub fn ask(bytes: impl Into<Vec<u8>>) -> Step {
    Step::Ask(bytes.into())
}

/// The server writes these with one call.
pub fn say(pieces: &[Piece]) -> Step {
    Step::Say(pieces.to_vec())
}

/// This is to arrive as it is.
pub fn same(bytes: impl Into<Vec<u8>>) -> Piece {
    Piece::Same(bytes.into())
}

/// The head of a response, which is to say `close`.
pub fn head(text: impl Into<Vec<u8>>) -> Piece {
    Piece::Head(text.into())
}

/// The agent's GOAWAY is to be here.
pub fn goaway() -> Piece {
    Piece::Added(GOAWAY.into())
}

/// What an HTTP/2 client begins with.
pub fn preface() -> Step {
    ask([frames::PREFACE, &frames::settings()].concat())
}

/// A request of HTTP/2, for a server that need not understand it.
pub fn request() -> Step {
    ask(frames::bare_answer(1))
}

/// A request of HTTP/1.
pub const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
/// The head of an answer, whose body is `ok`.
pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";

/// The head of an answer whose body is in chunks.
pub const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
/// A body that looks like a response.
pub const LOOKALIKE: &str =
    "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n";

/// The head of an answer behind which HTTP/2 is spoken.
pub const H2C: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";

/// A request and an answer that is told.
pub fn told() -> [Step; 2] {
    [ask(GET), say(&[head(OK), same("ok")])]
}

/// A request and an answer that is not told.
pub fn untold() -> [Step; 2] {
    [ask(GET), say(&[same(OK), same("ok")])]
}

impl Piece {
    fn written(&self) -> Vec<u8> {
        match self {
            Self::Head(bytes) | Self::Same(bytes) => bytes.clone(),
            Self::Added(_) => Vec::new(),
        }
    }

    fn expected(&self) -> Vec<u8> {
        match self {
            Self::Head(head) => heads::closing(head),
            Self::Same(bytes) | Self::Added(bytes) => bytes.clone(),
        }
    }
}

/// Carries out the steps; returns what is to arrive at the client.
pub fn play(wire: &mut Wire, steps: &[Step]) -> Result<Vec<u8>> {
    let mut expected = Vec::new();
    for step in steps {
        match step {
            Step::Ask(request) => wire.ask(request)?,
            Step::Say(pieces) => {
                let written: Vec<u8> = pieces.iter().flat_map(Piece::written).collect();
                wire.say(&written)?;
                expected.extend(pieces.iter().flat_map(Piece::expected));
            }
        }
    }
    Ok(expected)
}

/// Carries out the steps, and reads at the client all that they make arrive.
pub fn talk(wire: &mut Wire, steps: &[Step]) -> Result<()> {
    let expected = play(wire, steps)?;
    let arrived = wire.hear(expected.len())?;
    ensure!(arrived == expected, "{}", difference(&expected, &arrived));
    Ok(())
}

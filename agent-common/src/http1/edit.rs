//! What a scanned head says, and how to make it say `close`.

use super::words::{
    CHUNKED, CLOSE, CONNECTION, CONTENT_LENGTH, KEEP_ALIVE, TRANSFER_ENCODING, UPGRADE,
};
use super::{Body, HeadScanner, Progress, StatusKind, Version};

/// The one change that makes a head say `close` and leaves its other options as they are. Nothing is
/// ever removed, so that the kernel program needs room at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Not a head that may be changed: interim, switching protocols, or not scanned to its end.
    Never,
    /// It closes as it is: it says `close`, which wins over `keep-alive` (RFC 9112 §9.3), or it is
    /// HTTP/1.0 without `keep-alive`.
    Already,
    /// Insert [`Edit::FIELD`] here, behind the status line: there is no Connection field.
    InsertField(u16),
    /// Insert [`Edit::OPTION`] here, before the other options.
    InsertOption(u16),
    /// Insert [`Edit::ONLY_OPTION`] here, into an empty Connection field.
    InsertOnlyOption(u16),
    /// Write [`Edit::IN_PLACE`] here, over a `keep-alive`; the length stays.
    Overwrite(u16),
}

impl Edit {
    /// A field of its own.
    pub const FIELD: [u8; 19] = *b"Connection: close\r\n";
    /// The first of several options.
    pub const OPTION: [u8; 7] = *b"close, ";
    /// The only option.
    pub const ONLY_OPTION: [u8; 5] = *b"close";
    /// As long as `keep-alive`. Whitespace before a member of a list is optional, and any amount will do
    /// (RFC 9110 §5.6.1); it stands in front since parsers that forget it there are not in use.
    pub const IN_PLACE: [u8; 10] = *b"     close";
}

/// Answers about a head; they are complete after [`Progress::End`].
impl HeadScanner {
    /// The version in the status line.
    #[inline(always)]
    pub const fn version(&self) -> Version {
        if self.minor == 0 { Version::Http10 } else { Version::Http11 }
    }

    /// The status code, 100 to 599.
    #[inline(always)]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// What the status code means for what follows.
    #[inline(always)]
    pub const fn status_kind(&self) -> StatusKind {
        match self.status {
            101 => StatusKind::SwitchingProtocols,
            0..200 => StatusKind::Interim,
            _ => StatusKind::Final,
        }
    }

    /// Bytes seen: after [`Progress::End`], the length of the head.
    #[inline(always)]
    pub const fn length(&self) -> u16 {
        self.at
    }

    /// Offset of the first byte behind the status line, 0 before it has ended.
    #[inline(always)]
    pub const fn status_line_end(&self) -> u16 {
        self.status_line_end
    }

    /// Start and end offset of the value of the first Connection field, without whitespace around it.
    #[inline(always)]
    pub const fn connection(&self) -> Option<(u16, u16)> {
        if self.found & CONNECTION == 0 {
            return None;
        }
        Some((self.connection_start, self.connection_end))
    }

    /// Whether a Connection field has the option `close`.
    #[inline(always)]
    pub const fn says_close(&self) -> bool {
        self.found & CLOSE != 0
    }

    /// Whether a Connection field has the option `keep-alive`.
    #[inline(always)]
    pub const fn says_keep_alive(&self) -> bool {
        self.found & KEEP_ALIVE != 0
    }

    /// Whether a Connection field has the option `upgrade`.
    #[inline(always)]
    pub const fn says_upgrade(&self) -> bool {
        self.found & UPGRADE != 0
    }

    /// Where the body ends, unless the request was HEAD or CONNECT (RFC 9112 §6.3).
    #[inline(always)]
    pub const fn body(&self) -> Body {
        match self.status {
            0..200 | 204 | 304 => Body::None,
            _ if self.found & CHUNKED != 0 => Body::Chunked,
            _ if self.found & TRANSFER_ENCODING != 0 => Body::UntilClose,
            _ if self.found & CONTENT_LENGTH != 0 => Body::Length(self.content_length),
            _ => Body::UntilClose,
        }
    }

    /// How to make the head say `close`.
    #[inline(always)]
    pub const fn edit(&self) -> Edit {
        if !matches!(self.progress(), Progress::End)
            || !matches!(self.status_kind(), StatusKind::Final)
        {
            return Edit::Never;
        }
        if self.says_close() {
            return Edit::Already;
        }
        if self.says_keep_alive() {
            return Edit::Overwrite(self.keep_alive);
        }
        match (self.version(), self.connection()) {
            (Version::Http10, _) => Edit::Already,
            (_, None) => Edit::InsertField(self.status_line_end),
            (_, Some((start, end))) if start == end => Edit::InsertOnlyOption(start),
            (_, Some((start, _))) => Edit::InsertOption(start),
        }
    }
}

impl Default for HeadScanner {
    fn default() -> Self {
        Self::new()
    }
}

//! The few words that the scanner knows, as tables: two loads a byte, and no branch for a word.
//!
//! A word is recognised by a mask with a bit for each word that is still possible. Each byte of a token
//! clears the bits of the words that do not have this letter at this place; at the end of the token only
//! words of exactly this length are left. Masks and lengths are all the memory it takes.

/// Bits of the masks. Names of fields come first, then what their values may be.
pub(super) const CONNECTION: u8 = 1;
pub(super) const CONTENT_LENGTH: u8 = 1 << 1;
pub(super) const TRANSFER_ENCODING: u8 = 1 << 2;
pub(super) const CLOSE: u8 = 1 << 3;
pub(super) const KEEP_ALIVE: u8 = 1 << 4;
pub(super) const UPGRADE: u8 = 1 << 5;
pub(super) const CHUNKED: u8 = 1 << 6;
/// Every word is still possible.
pub(super) const ANY: u8 = u8::MAX;

const WORDS: [(&[u8], u8); 7] = [
    (b"connection", CONNECTION),
    (b"content-length", CONTENT_LENGTH),
    (b"transfer-encoding", TRANSFER_ENCODING),
    (b"close", CLOSE),
    (b"keep-alive", KEEP_ALIVE),
    (b"upgrade", UPGRADE),
    (b"chunked", CHUNKED),
];

/// What a byte is to the grammar of RFC 9110 §5; the upper three bits of its class.
pub(super) mod kind {
    /// May be part of a token (RFC 9110 §5.6.2).
    pub(crate) const TOKEN: u8 = 0;
    pub(crate) const COLON: u8 = 1;
    pub(crate) const COMMA: u8 = 2;
    /// Space or tab: optional whitespace (RFC 9110 §5.6.3).
    pub(crate) const SPACE: u8 = 3;
    pub(crate) const CR: u8 = 4;
    /// Any other visible character, or obs-text.
    pub(crate) const OTHER: u8 = 5;
    /// What may be neither in a reason phrase nor in a field, line feed and NUL among them.
    pub(crate) const CONTROL: u8 = 6;
}

/// A byte's kind, and which letter it is, without its case.
#[derive(Clone, Copy)]
pub(super) struct Class {
    pub(super) kind: u8,
    letter: u8,
}

impl Class {
    #[inline(always)]
    pub(super) fn of(byte: u8) -> Self {
        let class = CLASSES[byte as usize];
        Self { kind: class >> 5, letter: class & LETTERS }
    }
}

/// The place in a token after which no word is possible; longer tokens stay there.
const TOO_LONG: u8 = 30;
/// The place behind a token that whitespace has ended: nothing may follow but the next comma.
const ENDED: u8 = 31;
const PLACES: usize = 32;
const LETTERS: u8 = 31;

/// The words that the token so far may still become.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    possible: u8,
    place: u8,
}

impl Word {
    /// Before the first byte of a token.
    pub(super) const NEW: Self = Self { possible: ANY, place: 0 };

    #[inline(always)]
    pub(super) const fn is_new(self) -> bool {
        self.place == 0
    }

    #[inline(always)]
    pub(super) const fn has_ended(self) -> bool {
        self.place == ENDED
    }

    /// Takes one more byte of the token.
    #[inline(always)]
    pub(super) fn push(&mut self, class: Class) {
        let place = (self.place as usize) % PLACES;
        self.possible &= LETTER_AT[place * PLACES + (class.letter & LETTERS) as usize];
        if self.place < TOO_LONG {
            self.place += 1;
        }
    }

    /// Takes a byte that no word has.
    #[inline(always)]
    pub(super) fn spoil(&mut self) {
        *self = Self { possible: 0, place: TOO_LONG };
    }

    /// Whitespace came: before a token it is nothing, behind one it ends it.
    #[inline(always)]
    pub(super) fn space(&mut self) {
        if !self.is_new() {
            *self = Self { possible: self.whole(), place: ENDED };
        }
    }

    /// The bit of the word that the whole token is, or 0.
    #[inline(always)]
    pub(super) fn whole(self) -> u8 {
        self.possible & WHOLE_AT[(self.place as usize) % PLACES]
    }
}

static CLASSES: [u8; 256] = classes();
/// By place and letter: the words that have it there.
static LETTER_AT: [u8; PLACES * PLACES] = letters();
/// By place: the words of that length.
static WHOLE_AT: [u8; PLACES] = lengths();

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut byte = 0_usize;
    while byte < 256 {
        classes[byte] = (kind_of(byte as u8) << 5) | letter_of(byte as u8);
        byte += 1;
    }
    classes
}

const fn kind_of(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => kind::TOKEN,
        b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
        | b'`' | b'|' | b'~' => kind::TOKEN,
        b':' => kind::COLON,
        b',' => kind::COMMA,
        b' ' | b'\t' => kind::SPACE,
        b'\r' => kind::CR,
        0x21..=0x7e | 0x80..=0xff => kind::OTHER,
        _ => kind::CONTROL,
    }
}

/// 1 to 26, the hyphen is 27, and everything else is 0, which no word has.
const fn letter_of(byte: u8) -> u8 {
    match byte.to_ascii_lowercase() {
        letter @ b'a'..=b'z' => letter - b'a' + 1,
        b'-' => 27,
        _ => 0,
    }
}

const fn letters() -> [u8; PLACES * PLACES] {
    let mut table = [0; PLACES * PLACES];
    let mut index = 0;
    while index < WORDS.len() {
        let (word, bit) = WORDS[index];
        let mut place = 0;
        while place < word.len() {
            table[place * PLACES + letter_of(word[place]) as usize] |= bit;
            place += 1;
        }
        index += 1;
    }
    table
}

const fn lengths() -> [u8; PLACES] {
    let mut table = [0; PLACES];
    let mut index = 0;
    while index < WORDS.len() {
        let (word, bit) = WORDS[index];
        assert!(!word.is_empty() && word.len() < TOO_LONG as usize);
        table[word.len()] |= bit;
        index += 1;
    }
    table[ENDED as usize] = ANY; // Decided when it ended.
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(token: &[u8]) -> u8 {
        let mut word = Word::NEW;
        for &byte in token {
            word.push(Class::of(byte));
        }
        word.whole()
    }

    #[test]
    fn each_word_is_itself_in_any_case_and_nothing_else_is() {
        for (word, bit) in WORDS {
            assert_eq!(whole(word), bit);
            assert_eq!(whole(&word.to_ascii_uppercase()), bit);
            assert_eq!(whole(&word[..word.len() - 1]), 0, "one letter short");
            assert_eq!(whole(&[word, b"s"].concat()), 0, "one letter too many");
            for place in 0..word.len() {
                for other in 0..=u8::MAX {
                    let mut changed = word.to_vec();
                    changed[place] = other;
                    let same = changed.eq_ignore_ascii_case(word);
                    assert_eq!(whole(&changed), if same { bit } else { 0 }, "{changed:?}");
                }
            }
        }
        assert_eq!(whole(b""), 0);
        assert_eq!(whole(&[b'a'; 1000]), 0);
    }

    #[test]
    fn whitespace_ends_a_token_for_good() {
        let mut word = Word::NEW;
        word.space();
        assert!(word.is_new(), "before a token it is nothing");
        b"close".iter().for_each(|&byte| word.push(Class::of(byte)));
        word.space();
        word.space();
        assert_eq!((word.whole(), word.has_ended()), (CLOSE, true));
        word.push(Class::of(b'd'));
        assert_eq!(word.whole(), 0, "two tokens are no member of a list");
    }
}

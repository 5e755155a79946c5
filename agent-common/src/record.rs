//! The map of drains: what an agent needs to go on with a drain that another one began.
//!
//! Key and value are the same in every [`ABI`](crate::ABI), so that agents of different versions can read each
//! other's drains. No kernel program uses the map.

/// Value of the `DRAINS` map, keyed by [`ServiceKey`](crate::ServiceKey): text of the agent's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// How many bytes of `text` are used, at most [`Record::ROOM`].
    pub length: u32,
    /// JSON; zeros after that.
    pub text: [u8; Self::ROOM],
}

impl Record {
    /// Most bytes of text.
    pub const ROOM: usize = 16 * 1024 - size_of::<u32>();

    /// A record of this text; `None` if it is too long.
    pub fn of(text: &[u8]) -> Option<Self> {
        let mut record = Self { length: text.len() as u32, text: [0; Self::ROOM] };
        record.text.get_mut(..text.len())?.copy_from_slice(text);
        Some(record)
    }

    /// The text.
    pub fn text(&self) -> &[u8] {
        self.text.get(..self.length as usize).unwrap_or(&self.text)
    }
}

const _: () = assert!(size_of::<Record>() == 16 * 1024);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_comes_back_if_there_is_room_for_it() {
        for length in [0, 1, Record::ROOM] {
            let text = vec![b'x'; length];
            assert_eq!(Record::of(&text).map(|record| record.text().to_vec()), Some(text));
        }
        assert!(Record::of(&vec![b'x'; Record::ROOM + 1]).is_none());
        // Whatever somebody else wrote there.
        let spoilt = Record { length: u32::MAX, text: [b'x'; Record::ROOM] };
        assert_eq!(spoilt.text().len(), Record::ROOM);
    }
}

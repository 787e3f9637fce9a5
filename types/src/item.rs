//! An element as a packed encoding holds it: a decimal integer is kept as a number, anything else as bytes.
//!
//! Two items are the same when their text is the same, and only the canonical text of an `i64` (no sign but a leading
//! minus, no leading zeros, no `-0`) is ever kept as a number, so the text of every item survives the round trip.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

/// The number whose canonical form a text is; only such texts are kept as numbers.
pub use crate::entry::canonical_integer as parse_i64;

/// Room for the text of any integer item.
pub type Digits = itoa::Buffer;

#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    Int(i64),
    Bytes(&'a [u8]),
}

impl<'a> Item<'a> {
    /// The item that stands for `text`: a number if `text` is one in canonical form.
    pub fn parse(text: &'a [u8]) -> Self {
        match parse_i64(text) {
            Some(number) => Item::Int(number),
            None => Item::Bytes(text),
        }
    }

    /// The item's text; `digits` is only written to when the item is a number.
    pub fn text<'b>(self, digits: &'b mut Digits) -> &'b [u8]
    where
        'a: 'b,
    {
        match self {
            Item::Int(number) => digits.format(number).as_bytes(),
            Item::Bytes(bytes) => bytes,
        }
    }

    pub fn with_text<R>(self, read: impl FnOnce(&[u8]) -> R) -> R {
        read(self.text(&mut Digits::new()))
    }

    pub fn to_vec(self) -> Vec<u8> {
        self.with_text(<[u8]>::to_vec)
    }

    pub fn append_to(self, out: &mut Vec<u8>) {
        self.with_text(|text| out.extend_from_slice(text));
    }

    /// The number of bytes of the item's text.
    pub fn len(self) -> usize {
        match self {
            Item::Int(number) => {
                let magnitude = number.unsigned_abs();
                magnitude.checked_ilog10().map_or(1, |log| log as usize + 1) + usize::from(number < 0)
            }
            Item::Bytes(bytes) => bytes.len(),
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Compares the texts byte by byte, as `memcmp` does, the shorter first.
    pub fn compare(self, text: &[u8]) -> Ordering {
        self.with_text(|own| own.cmp(text))
    }
}

impl PartialEq for Item<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Item::Int(a), Item::Int(b)) => a == b,
            (Item::Bytes(a), Item::Bytes(b)) => a == b,
            (Item::Int(_), Item::Bytes(bytes)) => self.compare(bytes).is_eq(),
            (Item::Bytes(bytes), Item::Int(_)) => other.compare(bytes).is_eq(),
        }
    }
}

impl Eq for Item<'_> {}

impl Hash for Item<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match *self {
            Item::Int(number) => number.hash(state),
            Item::Bytes(bytes) => match parse_i64(bytes) {
                Some(number) => number.hash(state),
                None => bytes.hash(state),
            },
        }
    }
}

impl PartialEq<[u8]> for Item<'_> {
    fn eq(&self, other: &[u8]) -> bool {
        self.compare(other).is_eq()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_integers_are_numbers() {
        for number in [0, 1, -1, 9, 10, -10, i64::MAX, i64::MIN, i64::MAX - 1, i64::MIN + 1, 1_000_000_000_000_000_000]
        {
            let text = number.to_string();
            assert_eq!(parse_i64(text.as_bytes()), Some(number));
            assert_eq!(Item::Int(number).len(), text.len());
            assert_eq!(Item::Int(number), Item::Bytes(text.as_bytes()));
        }
        for text in [
            "",
            "-",
            "-0",
            "00",
            "01",
            "+1",
            " 1",
            "1 ",
            "1a",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999",
            "1.0",
        ] {
            assert_eq!(parse_i64(text.as_bytes()), None, "{text}");
        }
    }
}

//! A list in one small block, without the overhead of a listpack's entries.
//!
//! ```text
//! | count and total: 4 bytes | body ... | code ... |
//!
//! code 0..=0xEF            body: a text of so many bytes
//! code 0xF0 + n (n <= 8)   body: an integer of n bytes, two's complement, little-endian; n is as small as can be
//! ```
//!
//! An element takes one byte beside its body, where a listpack takes two and seven for all. The codes are side by side, so
//! an element is found from either end by summing them up, without a look at the bodies.
//!
//! A position is an element's index and the offset of its body. This is a form in memory only: what is stored or sent is a
//! listpack.

use super::super::item::Item;
use super::End;
use crate::entry::slab::BLOCK_MAX;
use crate::entry::{Buffer, TOTAL_BYTES};
use crate::listpack;

/// The most bytes of all together: beyond, the overhead is a small part, and blocks have no fine steps.
pub(super) const BYTES_MAX: usize = BLOCK_MAX;
const TEXT_MAX: usize = 0xEF;
const INTEGER: u8 = 0xF0;

/// An element and where its body begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    index: usize,
    offset: usize,
}

impl Spot {
    pub const START: Spot = Spot { index: 0, offset: 0 };

    /// The spot as the number of a position in a chunk.
    #[inline]
    pub fn position(self) -> usize {
        self.index << 16 | self.offset
    }

    #[inline]
    pub fn of(position: usize) -> Self {
        Spot { index: position >> 16, offset: position & 0xFFFF }
    }
}

/// A short list to be read.
#[derive(Clone, Copy)]
pub struct ShortRef<'a> {
    bodies: &'a [u8],
    codes: &'a [u8],
}

/// Whether a buffer has a short list: others are listpacks, or empty.
#[inline]
pub(super) fn is_short(storage: &Buffer) -> bool {
    storage.tag().is_some()
}

/// The bytes of a body by its code.
#[inline(always)]
fn width(code: u8) -> usize {
    usize::from(if code < INTEGER { code } else { code - INTEGER })
}

fn widths(codes: &[u8]) -> usize {
    codes.iter().copied().map(width).sum()
}

impl<'a> ShortRef<'a> {
    /// The list in a buffer that [is short](is_short), or empty.
    #[inline]
    pub(super) fn of(storage: &'a Buffer) -> Self {
        let (body, count) = (storage.body(), usize::from(storage.tag().unwrap_or(0)));
        let (bodies, codes) = body.split_at(body.len() - count);
        ShortRef { bodies, codes }
    }

    #[inline]
    pub fn len(self) -> usize {
        self.codes.len()
    }

    pub fn is_empty(self) -> bool {
        self.codes.is_empty()
    }

    pub(super) fn end(self) -> Spot {
        Spot { index: self.codes.len(), offset: self.bodies.len() }
    }

    /// An element by its index, from the nearer end; the end if there is none.
    pub(super) fn seek(self, index: usize) -> Spot {
        let count = self.codes.len();
        if index >= count {
            return self.end();
        }
        let offset = match index <= count / 2 {
            true => widths(&self.codes[..index]),
            false => self.bodies.len() - widths(&self.codes[index..]),
        };
        Spot { index, offset }
    }

    #[inline]
    pub(super) fn after(self, spot: Spot) -> Spot {
        let width = width(self.codes[spot.index]);
        Spot { index: spot.index + 1, offset: spot.offset + width }
    }

    /// The element before a spot that is not the start.
    #[inline]
    pub(super) fn before(self, spot: Spot) -> Spot {
        let index = spot.index - 1;
        Spot { index, offset: spot.offset - width(self.codes[index]) }
    }

    #[inline]
    pub(super) fn item(self, spot: Spot) -> Item<'a> {
        decode(self.codes[spot.index], &self.bodies[spot.offset..])
    }

    pub fn iter(self) -> impl Iterator<Item = Item<'a>> + Clone {
        self.iter_from(Spot::START)
    }

    /// The elements from a spot on.
    pub(super) fn iter_from(self, spot: Spot) -> impl Iterator<Item = Item<'a>> + Clone {
        let mut bodies = &self.bodies[spot.offset..];
        self.codes[spot.index..].iter().map(move |code| {
            let item = decode(*code, bodies);
            bodies = &bodies[width(*code)..];
            item
        })
    }

    /// The bytes that it would take as a listpack.
    pub(super) fn listpack_bytes(self) -> usize {
        listpack::EMPTY_BYTES + self.iter().map(listpack::encoded_len).sum::<usize>()
    }

    /// At least [`Self::listpack_bytes`], without a look at each element: no entry takes more than twice as much there.
    pub(super) fn listpack_bytes_max(self) -> usize {
        listpack::EMPTY_BYTES + 2 * (self.bodies.len() + self.codes.len())
    }

    /// It as a listpack in Redis's format.
    pub fn to_listpack_bytes(self) -> Vec<u8> {
        listpack::bytes_of(self.iter())
    }
}

fn decode(code: u8, bodies: &[u8]) -> Item<'_> {
    let body = &bodies[..width(code)];
    if code < INTEGER {
        return Item::Bytes(body);
    }
    let mut number = [0; 8];
    number[8 - body.len()..].copy_from_slice(body);
    // Extends the sign; without any byte there is none.
    Item::Int(i64::from_le_bytes(number) >> (64 - 8 * body.len()).min(63))
}

/// An element about to be written.
struct Encoded<'a> {
    code: u8,
    number: [u8; 8],
    text: &'a [u8],
}

impl<'a> Encoded<'a> {
    /// `None`: it is too long. Each item has one encoding, so a text that is an integer's has to come as one.
    fn new(item: Item<'a>) -> Option<Self> {
        match item {
            Item::Int(number) => {
                let bits = 65 - (number ^ (number >> 63)).leading_zeros();
                let width = if number == 0 { 0 } else { bits.div_ceil(8) };
                Some(Encoded { code: INTEGER + width as u8, number: number.to_le_bytes(), text: &[] })
            }
            Item::Bytes(text) if text.len() <= TEXT_MAX => {
                Some(Encoded { code: text.len() as u8, number: [0; 8], text })
            }
            Item::Bytes(_) => None,
        }
    }

    fn body(&self) -> &[u8] {
        if self.code < INTEGER { self.text } else { &self.number[..width(self.code)] }
    }
}

/// The buffer for these items; `None`: they are too long or too many.
pub(super) fn buffer_of<'i>(items: impl Iterator<Item = Item<'i>> + Clone) -> Option<Buffer> {
    let (mut count, mut bytes) = (0, TOTAL_BYTES);
    for item in items.clone() {
        let encoded = Encoded::new(item)?;
        (count, bytes) = (count + 1, bytes + 1 + width(encoded.code));
        if bytes > BYTES_MAX {
            return None;
        }
    }
    let mut storage = Buffer::default();
    if count > 0 {
        storage.resize_tagged(0, bytes, count as u16);
        let (bodies, codes) = storage.body_mut().split_at_mut(bytes - TOTAL_BYTES - count);
        let mut at = 0;
        for (item, code) in items.zip(codes) {
            let encoded = Encoded::new(item)?;
            let body = encoded.body();
            bodies[at..at + body.len()].copy_from_slice(body);
            (*code, at) = (encoded.code, at + body.len());
        }
    }
    Some(storage)
}

/// Replaces the elements from one spot to another by `item`, if there is one. Returns whether there was room; if not,
/// nothing has changed. The buffer is that of a short list, or empty.
pub(super) fn splice(storage: &mut Buffer, from: Spot, to: Spot, item: Option<Item<'_>>) -> bool {
    let fresh = match item.map(Encoded::new) {
        Some(None) => return false,
        Some(fresh) => fresh,
        None => None,
    };
    let (code, body) = fresh.as_ref().map_or((None, &[][..]), |fresh| (Some(fresh.code), fresh.body()));
    let ShortRef { bodies, codes } = ShortRef::of(storage);
    let parts =
        [&bodies[..from.offset], body, &bodies[to.offset..], &codes[..from.index], code.as_slice(), &codes[to.index..]];
    let count = from.index + usize::from(code.is_some()) + codes.len() - to.index;
    if TOTAL_BYTES + from.offset + body.len() + bodies.len() - to.offset + count > BYTES_MAX {
        return false;
    }
    if code.is_some() && to.index == from.index + 1 && to.offset - from.offset == body.len() {
        let at = bodies.len() + from.index;
        let bytes = storage.body_mut();
        bytes[from.offset..to.offset].copy_from_slice(body);
        bytes[at..at + 1].copy_from_slice(code.as_slice());
        return true;
    }
    // Nearly every other change would move it to another block anyway.
    *storage = if count == 0 { Buffer::default() } else { Buffer::tagged(parts, count as u16) };
    true
}

/// Removes up to `count` elements equal to `item`; returns how many. The buffer is that of a short list.
pub(super) fn remove_equal(storage: &mut Buffer, item: Item<'_>, count: usize, from: End) -> usize {
    let mut removed = 0;
    let mut spot = match from {
        End::Head => Spot::START,
        End::Tail => ShortRef::of(storage).end(),
    };
    while removed < count {
        let short = ShortRef::of(storage);
        if spot == (if from == End::Head { short.end() } else { Spot::START }) {
            break;
        }
        if from == End::Tail {
            spot = short.before(spot);
        }
        let after = short.after(spot);
        if short.item(spot) == item {
            splice(storage, spot, after, None);
            removed += 1;
        } else if from == End::Head {
            spot = after;
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_survives_in_as_few_bytes_as_it_needs() {
        let mut numbers = vec![0, i64::MAX, i64::MIN];
        numbers.extend((0..63).flat_map(|bit| [1 << bit, (1 << bit) - 1, -(1 << bit), -(1 << bit) - 1]));
        for number in numbers {
            let encoded = Encoded::new(Item::Int(number)).unwrap();
            let fits = |width: u32| width == 8 || (number << (64 - 8 * width)) >> (64 - 8 * width) == number;
            let expected = if number == 0 { 0 } else { (1..=8).find(|width| fits(*width)).unwrap() };
            assert_eq!(width(encoded.code) as u32, expected, "{number}");
            assert_eq!(decode(encoded.code, encoded.body()), Item::Int(number));
        }
        for len in [0, 1, 63, 64, TEXT_MAX] {
            let text = vec![b'x'; len];
            let encoded = Encoded::new(Item::Bytes(&text)).unwrap();
            assert_eq!((width(encoded.code), encoded.body()), (len, &text[..]));
            assert!(matches!(decode(encoded.code, &text), Item::Bytes(bytes) if bytes == text));
        }
        assert!(Encoded::new(Item::Bytes(&[b'x'; TEXT_MAX + 1])).is_none());
    }

    #[test]
    fn a_listpack_is_at_most_as_large_as_estimated() {
        let texts: Vec<Vec<u8>> = [0, 1, 2, 62, 63, 64, 125, 126, 127, 239].map(|len| vec![b'x'; len]).into();
        let items = texts
            .iter()
            .map(|text| Item::Bytes(text))
            .chain((0..63).flat_map(|bit| [Item::Int(1 << bit), Item::Int(-(1 << bit))]));
        for item in items {
            let storage = buffer_of(std::iter::once(item)).unwrap();
            let short = ShortRef::of(&storage);
            assert!(short.listpack_bytes() <= short.listpack_bytes_max(), "{item:?}");
            assert_eq!(short.to_listpack_bytes().len(), short.listpack_bytes());
        }
    }

    #[test]
    fn no_more_than_one_small_block_is_taken() {
        let texts = vec![[b'x'; 99]; 11];
        let items = |count: usize| texts[..count].iter().map(|text| Item::Bytes(text));
        let mut storage = buffer_of(items(10)).unwrap();
        assert!(buffer_of(items(11)).is_none());
        let end = ShortRef::of(&storage).end();
        // 1,004 bytes are taken.
        assert!(!splice(&mut storage, end, end, Some(Item::Bytes(&[b'y'; 20]))));
        assert!(ShortRef::of(&storage).iter().eq(items(10)));
        assert!(splice(&mut storage, end, end, Some(Item::Bytes(&[b'y'; 19]))));
        assert_eq!((ShortRef::of(&storage).len(), storage.len()), (11, BYTES_MAX));
        let end = ShortRef::of(&storage).end();
        assert!(splice(&mut storage, Spot::START, end, None) && storage.is_empty());
    }
}

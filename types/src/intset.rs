//! A sorted array of integers of one width, like Redis's intset.
//!
//! ```text
//! total bytes u32 LE | 0 u16 | width u16 LE: 2, 4 or 8 | integers, little-endian, ascending      in memory
//! width u32 LE: 2, 4 or 8 | count u32 LE | integers, little-endian, ascending                    Redis's
//! ```
//!
//! In memory the count follows from the total, and the 0 tells an intset from a listpack, which never has a count of 0.
//! The width only grows: the first integer that does not fit widens all of them. An intset without integers has no storage.

use super::Malformed;
use crate::entry::{Buffer, TOTAL_BYTES};

/// The bytes before the integers, in either format.
const HEADER: usize = 8;
const WIDTH_AT: usize = 6;

#[derive(Clone, Default)]
pub struct Intset {
    storage: Buffer,
}

#[derive(Clone, Copy)]
pub struct IntsetRef<'a> {
    storage: &'a [u8],
}

impl Intset {
    pub fn new() -> Self {
        Intset::default()
    }

    /// Copies an intset in Redis's format from outside, after checking its width, its length and its order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        const BAD: Malformed = Malformed("intset");
        let Some((&[a, b, c, d, e, f, g, h], numbers)) = bytes.split_first_chunk() else { return Err(BAD) };
        let (width, len) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        if !matches!(width, 2 | 4 | 8) || numbers.len() as u64 != u64::from(len) * u64::from(width) {
            return Err(BAD);
        }
        let mut intset = Intset::new();
        if !numbers.is_empty() {
            intset.resize(width as usize, 0, numbers.len());
            intset.storage.body_mut()[HEADER - TOTAL_BYTES..].copy_from_slice(numbers);
        }
        let view = intset.view();
        if !(1..view.len()).all(|i| view.at(i - 1) < view.at(i)) {
            return Err(BAD);
        }
        Ok(intset)
    }

    pub(super) fn from_storage(storage: Buffer) -> Self {
        Intset { storage }
    }

    pub(super) fn into_storage(self) -> Buffer {
        self.storage
    }

    pub fn view(&self) -> IntsetRef<'_> {
        IntsetRef { storage: self.storage.bytes() }
    }

    pub fn heap_bytes(&self) -> usize {
        self.storage.heap_bytes()
    }

    /// Returns whether the number is new.
    pub fn insert(&mut self, number: i64) -> bool {
        let index = match self.view().search(number) {
            Ok(_) => return false,
            Err(index) => index,
        };
        let view = self.view();
        let (len, width) = (view.len(), view.width());
        if width_of(number) > width {
            self.widen(width_of(number));
        }
        let width = self.view().width();
        self.resize(width, len * width, (len + 1) * width);
        let numbers = self.numbers_mut();
        numbers.copy_within(index * width..len * width, (index + 1) * width);
        put(numbers, width, index, number);
        true
    }

    /// Returns whether the number existed.
    pub fn remove(&mut self, number: i64) -> bool {
        match self.view().search(number) {
            Ok(index) => {
                self.remove_at(index);
                true
            }
            Err(_) => false,
        }
    }

    pub fn remove_at(&mut self, index: usize) {
        let view = self.view();
        let (len, width) = (view.len(), view.width());
        if len == 1 {
            self.storage = Buffer::default();
            return;
        }
        self.numbers_mut().copy_within((index + 1) * width.., index * width);
        let left = (len - 1) * width;
        self.resize(width, left, left);
    }

    fn widen(&mut self, width: usize) {
        let numbers: Vec<i64> = self.view().iter().collect();
        self.resize(width, 0, numbers.len() * width);
        for (index, &number) in numbers.iter().enumerate() {
            put(self.numbers_mut(), width, index, number);
        }
    }

    /// Makes room for `bytes` bytes of integers, of which the first `kept` survive.
    fn resize(&mut self, width: usize, kept: usize, bytes: usize) {
        self.storage.resize(HEADER + kept, HEADER + bytes);
        let header = &mut self.storage.body_mut()[..HEADER - TOTAL_BYTES];
        header.copy_from_slice(&[0, 0, width as u8, 0]);
    }

    fn numbers_mut(&mut self) -> &mut [u8] {
        &mut self.storage.body_mut()[HEADER - TOTAL_BYTES..]
    }
}

fn put(numbers: &mut [u8], width: usize, index: usize, number: i64) {
    numbers[index * width..][..width].copy_from_slice(&number.to_le_bytes()[..width]);
}

impl std::fmt::Debug for Intset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.view().iter()).finish()
    }
}

impl<'a> IntsetRef<'a> {
    /// The intset that has this storage, if it is not that of a listpack.
    pub(super) fn from_storage(storage: &'a [u8]) -> Option<Self> {
        matches!(storage, [_, _, _, _, 0, 0, ..]).then_some(IntsetRef { storage })
    }

    /// The header of Redis's format; [`Self::numbers`] follow it.
    pub fn header(self) -> [u8; HEADER] {
        let [a, b, c, d] = (self.width() as u32).to_le_bytes();
        let [e, f, g, h] = (self.len() as u32).to_le_bytes();
        [a, b, c, d, e, f, g, h]
    }

    /// The integers as Redis's format has them.
    pub fn numbers(self) -> &'a [u8] {
        self.storage.get(HEADER..).unwrap_or_default()
    }

    fn width(self) -> usize {
        self.storage.get(WIDTH_AT).map_or(2, |&width| usize::from(width))
    }

    pub fn len(self) -> usize {
        self.numbers().len() >> self.width().trailing_zeros()
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    pub fn get(self, index: usize) -> Option<i64> {
        (index < self.len()).then(|| self.at(index))
    }

    fn at(self, index: usize) -> i64 {
        let width = self.width();
        let bytes = &self.storage[HEADER + index * width..][..width];
        match *bytes {
            [a, b] => i64::from(i16::from_le_bytes([a, b])),
            [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
            _ => {
                let mut number = [0; 8];
                number[..width].copy_from_slice(bytes);
                i64::from_le_bytes(number)
            }
        }
    }

    pub fn contains(self, number: i64) -> bool {
        width_of(number) <= self.width() && self.search(number).is_ok()
    }

    /// The index of the number, or where it would be.
    fn search(self, number: i64) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        // Numbers mostly come in ascending order.
        if high > 0 && self.at(high - 1) < number {
            return Err(high);
        }
        while low < high {
            let middle = (low + high) / 2;
            match self.at(middle).cmp(&number) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Ascending.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = i64> + ExactSizeIterator + Clone + use<'a> {
        (0..self.len()).map(move |index| self.at(index))
    }
}

fn width_of(number: i64) -> usize {
    match number {
        -0x8000..=0x7FFF => 2,
        -0x8000_0000..=0x7FFF_FFFF => 4,
        _ => 8,
    }
}

#[cfg(test)]
mod tests;

//! Redis's intset: a sorted array of integers of one width.
//!
//! ```text
//! width u32 LE: 2, 4 or 8 | count u32 LE | integers, little-endian, ascending
//! ```
//!
//! The width only grows: the first integer that does not fit widens all of them. Like a listpack, the storage is as long
//! as the allocator's size class, and an intset without integers has none.

use super::Malformed;
use super::heap;

const HEADER: usize = 8;
const EMPTY: &[u8] = &[2, 0, 0, 0, 0, 0, 0, 0];

#[derive(Clone, Default)]
pub struct Intset {
    storage: Box<[u8]>,
}

#[derive(Clone, Copy)]
pub struct IntsetRef<'a> {
    storage: &'a [u8],
}

impl Intset {
    pub fn new() -> Self {
        Intset::default()
    }

    /// Copies an intset from outside, after checking its width, its length and its order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        const BAD: Malformed = Malformed("intset");
        let view = IntsetRef { storage: bytes };
        if bytes.len() < HEADER
            || !matches!(view.width(), 2 | 4 | 8)
            || bytes.len() - HEADER != view.len() * view.width()
        {
            return Err(BAD);
        }
        if !(1..view.len()).all(|i| view.at(i - 1) < view.at(i)) {
            return Err(BAD);
        }
        let mut intset = Intset::new();
        if !view.is_empty() {
            heap::resize(&mut intset.storage, 0, bytes.len());
            intset.storage[..bytes.len()].copy_from_slice(bytes);
        }
        Ok(intset)
    }

    pub(super) fn from_storage(storage: Box<[u8]>) -> Self {
        Intset { storage }
    }

    pub(super) fn into_storage(self) -> Box<[u8]> {
        self.storage
    }

    pub fn view(&self) -> IntsetRef<'_> {
        IntsetRef { storage: &self.storage }
    }

    pub fn heap_bytes(&self) -> usize {
        heap::allocation(self.storage.len())
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
        let used = HEADER + len * width;
        heap::resize(&mut self.storage, used, used + width);
        let at = HEADER + index * width;
        self.storage.copy_within(at..used, at + width);
        self.set_header(width, len + 1);
        self.put(index, number);
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
            self.storage = Box::default();
            return;
        }
        let used = HEADER + len * width;
        let at = HEADER + index * width;
        self.storage.copy_within(at + width..used, at);
        heap::resize(&mut self.storage, used - width, used - width);
        self.set_header(width, len - 1);
    }

    fn widen(&mut self, width: usize) {
        let numbers: Vec<i64> = self.view().iter().collect();
        let used = self.view().bytes().len().min(self.storage.len());
        heap::resize(&mut self.storage, used, HEADER + numbers.len() * width);
        self.set_header(width, numbers.len());
        for (index, &number) in numbers.iter().enumerate() {
            self.put(index, number);
        }
    }

    fn put(&mut self, index: usize, number: i64) {
        let width = self.view().width();
        let at = HEADER + index * width;
        self.storage[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
    }

    fn set_header(&mut self, width: usize, len: usize) {
        self.storage[..4].copy_from_slice(&(width as u32).to_le_bytes());
        self.storage[4..HEADER].copy_from_slice(&(len as u32).to_le_bytes());
    }
}

impl std::fmt::Debug for Intset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.view().iter()).finish()
    }
}

impl<'a> IntsetRef<'a> {
    pub(super) fn from_storage(storage: &'a [u8]) -> Self {
        IntsetRef { storage }
    }

    /// The intset in Redis's format.
    pub fn bytes(self) -> &'a [u8] {
        if self.storage.is_empty() { EMPTY } else { &self.storage[..HEADER + self.len() * self.width()] }
    }

    fn width(self) -> usize {
        match self.storage {
            [a, b, c, d, ..] => u32::from_le_bytes([*a, *b, *c, *d]) as usize,
            _ => 2,
        }
    }

    pub fn len(self) -> usize {
        match self.storage {
            [_, _, _, _, a, b, c, d, ..] => u32::from_le_bytes([*a, *b, *c, *d]) as usize,
            _ => 0,
        }
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

//! Runs: the few elements of a slice, in one buffer.
//!
//! ```text
//! | owner's bytes | count u8 | offsets u16 LE, ascending | codes u8 | payloads |
//! ```
//!
//! An element is found by its offset, and its payload behind those of the elements before it.

#[cfg(test)]
use super::element::Element;
use super::element::{self, Packing};
use crate::entry::{Buffer, TOTAL_BYTES};

/// The most elements that a run has.
pub(super) const ELEMENTS_MAX: usize = element::TOGETHER_MAX;

/// A buffer with a run behind the owner's `front` bytes, to be read.
#[derive(Clone, Copy)]
pub(super) struct RunRef<'a> {
    body: &'a [u8],
    front: usize,
}

impl<'a> RunRef<'a> {
    /// A run without elements.
    pub const EMPTY: RunRef<'static> = RunRef { body: &[], front: 0 };

    pub fn new(buffer: &'a Buffer, front: usize) -> Self {
        RunRef { body: buffer.body(), front }
    }

    #[inline]
    pub fn len(self) -> usize {
        self.body.get(self.front).map_or(0, |count| usize::from(*count))
    }

    #[inline]
    fn offsets(self) -> &'a [u8] {
        let start = self.front + 1;
        self.body.get(start..start + 2 * self.len()).unwrap_or_default()
    }

    #[inline]
    fn codes(self) -> &'a [u8] {
        let start = self.front + 1 + 2 * self.len();
        self.body.get(start..start + self.len()).unwrap_or_default()
    }

    #[inline]
    fn payloads(self) -> &'a [u8] {
        self.body.get(self.front + 1 + 3 * self.len()..).unwrap_or_default()
    }

    #[inline]
    pub fn offset(self, at: usize) -> u16 {
        let offsets = self.offsets();
        u16::from_le_bytes([offsets[2 * at], offsets[2 * at + 1]])
    }

    /// The place of the element with an offset, or else where it would be.
    #[inline]
    fn search(self, offset: u16) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        // Elements often come in order.
        if high > 0 && self.offset(high - 1) < offset {
            return Err(high);
        }
        while low < high {
            let middle = (low + high) / 2;
            if self.offset(middle) < offset { low = middle + 1 } else { high = middle }
        }
        if low < self.len() && self.offset(low) == offset { Ok(low) } else { Err(low) }
    }

    /// The code and payload of the element at an offset.
    #[inline]
    pub fn get(self, offset: u16) -> Option<(u8, &'a [u8])> {
        let at = self.search(offset).ok()?;
        let codes = self.codes();
        let start = element::lengths(&codes[..at]);
        Some((codes[at], &self.payloads()[start..start + element::length(codes[at])]))
    }

    pub fn last_offset(self) -> Option<u16> {
        self.len().checked_sub(1).map(|last| self.offset(last))
    }

    /// Shows the elements from offset `low` to `high`, in order or in reverse, until `visit` says that it has enough.
    /// Returns whether it does.
    pub fn visit(self, low: u16, high: u16, reverse: bool, mut visit: impl FnMut(u16, u8, &'a [u8]) -> bool) -> bool {
        let (Ok(first) | Err(first)) = self.search(low);
        let end = match self.search(high) {
            Ok(last) => last + 1,
            Err(end) => end,
        };
        let (codes, payloads) = (self.codes(), self.payloads());
        if first >= end {
            return false;
        }
        if reverse {
            let mut behind = element::lengths(&codes[..end]);
            for at in (first..end).rev() {
                let start = behind - element::length(codes[at]);
                if visit(self.offset(at), codes[at], &payloads[start..behind]) {
                    return true;
                }
                behind = start;
            }
        } else {
            let mut start = element::lengths(&codes[..first]);
            for (at, code) in codes.iter().enumerate().take(end).skip(first) {
                let behind = start + element::length(*code);
                if visit(self.offset(at), *code, &payloads[start..behind]) {
                    return true;
                }
                start = behind;
            }
        }
        false
    }
}

/// Sets the element at an offset of a run that has room for it; returns the code of the element before, if there was one.
#[inline]
pub(super) fn put(buffer: &mut Buffer, front: usize, offset: u16, packing: &Packing<'_>) -> Option<u8> {
    put_packed(buffer, front, offset, packing.code, packing.payload())
}

/// The same for a packed element.
pub(super) fn put_packed(buffer: &mut Buffer, front: usize, offset: u16, code: u8, payload: &[u8]) -> Option<u8> {
    if buffer.is_empty() {
        buffer.resize(0, TOTAL_BYTES + front + 1);
        buffer.body_mut().fill(0);
    }
    let run = RunRef::new(buffer, front);
    let count = run.len();
    let first = front + 1;
    match run.search(offset) {
        Ok(at) => {
            let codes = run.codes();
            let (old, before) = (codes[at], element::lengths(&codes[..at]));
            let start = first + 3 * count + before;
            replace(buffer, start, element::length(old), payload);
            buffer.body_mut()[first + 2 * count + at] = code;
            Some(old)
        }
        Err(at) => {
            debug_assert!(count < ELEMENTS_MAX, "a full run is left before");
            let (offset_at, code_at) = (first + 2 * at, first + 2 * count + at);
            let payload_at = first + 3 * count + element::lengths(&run.codes()[..at]);
            let end = run.body.len();
            buffer.resize(TOTAL_BYTES + end, TOTAL_BYTES + end + 3 + payload.len());
            let body = buffer.body_mut();
            body.copy_within(payload_at..end, payload_at + 3 + payload.len());
            body.copy_within(code_at..payload_at, code_at + 3);
            body.copy_within(offset_at..code_at, offset_at + 2);
            body[offset_at..offset_at + 2].copy_from_slice(&offset.to_le_bytes());
            body[code_at + 2] = code;
            body[payload_at + 3..payload_at + 3 + payload.len()].copy_from_slice(payload);
            body[front] += 1;
            None
        }
    }
}

/// Removes the elements from offset `low` to `high`; returns how many there were.
pub(super) fn remove(buffer: &mut Buffer, front: usize, low: u16, high: u16) -> usize {
    let run = RunRef::new(buffer, front);
    let (Ok(first) | Err(first)) = run.search(low);
    let end = match run.search(high) {
        Ok(last) => last + 1,
        Err(end) => end,
    };
    let removed = end.saturating_sub(first);
    if removed == 0 {
        return 0;
    }
    let (count, codes) = (run.len(), run.codes());
    let offsets_at = front + 1;
    let (codes_at, payloads_at) = (offsets_at + 2 * count, offsets_at + 3 * count);
    let from = payloads_at + element::lengths(&codes[..first]);
    let to = from + element::lengths(&codes[first..end]);
    let len = run.body.len();
    let body = buffer.body_mut();
    body.copy_within(offsets_at + 2 * end..codes_at + first, offsets_at + 2 * first);
    body.copy_within(codes_at + end..from, codes_at + first - 2 * removed);
    body.copy_within(to..len, from - 3 * removed);
    body[front] -= removed as u8;
    let left = len - (to - from) - 3 * removed;
    buffer.resize(TOTAL_BYTES + left, TOTAL_BYTES + left);
    removed
}

/// Replaces `before` bytes at `start` of a buffer's body by `bytes`.
pub(super) fn replace(buffer: &mut Buffer, start: usize, before: usize, bytes: &[u8]) {
    if before != bytes.len() {
        let len = buffer.len() - TOTAL_BYTES;
        let total = TOTAL_BYTES + len - before + bytes.len();
        if bytes.len() > before {
            buffer.resize(TOTAL_BYTES + len, total);
            buffer.body_mut().copy_within(start + before..len, start + bytes.len());
        } else {
            buffer.body_mut().copy_within(start + before..len, start + bytes.len());
            buffer.resize(total, total);
        }
    }
    buffer.body_mut()[start..start + bytes.len()].copy_from_slice(bytes);
}

const _: () = assert!(element::INLINE_MAX <= 237, "the code of a text is one byte");

impl<'a> RunRef<'a> {
    /// An element that is not large.
    #[cfg(test)]
    pub fn element(self, offset: u16) -> Option<Element<'a>> {
        self.get(offset).map(|(code, payload)| Element::unpack(code, payload))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fastrand::Rng;

    use super::*;

    #[test]
    fn a_run_does_as_a_map() {
        let mut rng = Rng::with_seed(3);
        for front in [0, 16] {
            let (mut buffer, mut model) = (Buffer::default(), BTreeMap::new());
            for _ in 0..20_000 {
                let offset = rng.u16(..80) * 50;
                if rng.u8(..5) < 3 && (model.len() < ELEMENTS_MAX || model.contains_key(&offset)) {
                    let text = match rng.u8(..3) {
                        0 => rng.i64(..).to_string(),
                        1 => format!("{}.{}", rng.u16(..), rng.u8(..)),
                        _ => "y".repeat(rng.usize(..=element::INLINE_MAX)),
                    };
                    let before = put(&mut buffer, front, offset, &Packing::of(text.as_bytes()));
                    assert_eq!(before.is_some(), model.insert(offset, text).is_some());
                } else {
                    let high = offset + rng.u16(..3) * 50;
                    let removed = remove(&mut buffer, front, offset, high);
                    let len = model.len();
                    model.retain(|other, _| !(offset..=high).contains(other));
                    assert_eq!(removed, len - model.len());
                }
                let run = RunRef::new(&buffer, front);
                assert_eq!((run.len(), run.last_offset()), (model.len(), model.keys().last().copied()));
                let text = run.element(offset).map(Element::to_vec);
                assert_eq!(text.as_deref(), model.get(&offset).map(String::as_bytes));
                let (low, high, reverse) = (rng.u16(..4000), rng.u16(..4000), rng.bool());
                let mut seen = Vec::new();
                run.visit(low, high, reverse, |offset, code, payload| {
                    seen.push((offset, String::from_utf8(Element::unpack(code, payload).to_vec()).expect("text")));
                    false
                });
                let mut expected: Vec<_> = model.iter().map(|(offset, text)| (*offset, text.clone())).collect();
                expected.retain(|(offset, _)| (low..=high).contains(offset));
                if reverse {
                    expected.reverse();
                }
                assert_eq!(seen, expected);
            }
        }
    }
}

//! Arrays: texts at indices from 0 to 2^64 - 2, most of which may be empty.
//!
//! 1. Indices are cut into [slices](slice) of 4,096. Those with elements are found in a [sorted directory](ordered), so an
//!    array takes memory for its elements, wherever they are.
//! 2. A slice packs its elements, [each with its own length](element): few of them in a run, more in blocks of 64.
//! 3. A text of more than [`INLINE_MAX`] bytes has a buffer of its own, in a second directory, by its index. The slice only
//!    knows that there is one.
//! 4. An array with few elements in a single slice is packed: one buffer with the slice's number in front of its run.
//!
//! An array also remembers the index that was last inserted at, from which the next insertion follows.

mod capture;
mod dense;
mod element;
mod ordered;
mod run;
mod slice;
#[cfg(test)]
mod tests;

pub use self::capture::ArrayPart;
use self::capture::Capture;
pub use self::element::{Decimal, Element, ElementText, INLINE_MAX, double_of, text_of_double};
use self::element::{LARGE, NONE, Packing};
use self::ordered::Ordered;
use self::run::{ELEMENTS_MAX, RunRef};
pub use self::slice::SLICE;
use self::slice::{Slice, growth_of_run};
use crate::entry::{Buffer, Form, FormMut, FormRef, packed};
use crate::{heap, pace};

/// The highest index.
pub const INDEX_MAX: u64 = u64::MAX - 1;

/// The index of a last insertion that never was.
const NO_INSERT: u64 = u64::MAX;

/// An array is packed again when it has so few elements.
const PACKED_AGAIN: usize = ELEMENTS_MAX / 2;

#[derive(Default)]
pub struct Array(Form<Small, Sliced>);

packed! {
    /// `| last insertion u64 LE | number of the slice u64 LE | run |`, or nothing.
    struct Small
}

/// Invariants: no slice is empty; `large` has a text for each element whose code says so; `bytes` is that of the slices
/// and of these texts; `count` is the number of elements.
#[derive(Debug)]
struct Sliced {
    count: usize,
    last_insert: u64,
    slices: Ordered<Slice>,
    large: Ordered<Buffer>,
    bytes: usize,
    capture: Option<Box<Capture>>,
}

/// The number of an index's slice, and its offset there.
#[inline]
fn split(index: u64) -> (u64, u16) {
    (index / SLICE, (index % SLICE) as u16)
}

/// The slices of an array, as `ARINFO` shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArrayShape {
    pub dense: usize,
    pub dense_elements: usize,
    /// The elements that the tables of dense slices reach over.
    pub dense_reach: usize,
    pub sparse: usize,
    pub sparse_elements: usize,
    /// The number of the highest slice.
    pub highest: u64,
    /// How many runs of [`GROUP`] slice numbers have slices.
    pub groups: usize,
}

/// Slice numbers that Redis's directories put together.
pub const GROUP: u64 = 2048;

impl Array {
    pub fn new() -> Self {
        Array::default()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(small) => small.run().len(),
            FormRef::Large(sliced) => sliced.count,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn encoding(&self) -> &'static str {
        "sliced-array"
    }

    /// The address of its first allocation: only ever prefetched.
    pub(crate) fn address(&self) -> *const u8 {
        self.0.address()
    }

    pub fn heap_bytes(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(small) => small.storage.heap_bytes(),
            FormRef::Large(sliced) => sliced.heap_bytes(),
        }
    }

    /// Whether it is one small buffer.
    pub fn is_packed(&self) -> bool {
        matches!(self.0.view(), FormRef::Packed(_))
    }

    #[inline]
    pub fn get(&self, index: u64) -> Option<Element<'_>> {
        match self.0.view() {
            FormRef::Packed(small) => {
                let (number, offset) = split(index);
                let (code, payload) = small.run().get(offset).filter(|_| small.number() == number)?;
                Some(Element::unpack(code, payload))
            }
            FormRef::Large(sliced) => sliced.get(index),
        }
    }

    /// The highest index that has an element.
    pub fn highest(&self) -> Option<u64> {
        match self.0.view() {
            FormRef::Packed(small) => Some(small.number() * SLICE + u64::from(small.run().last_offset()?)),
            FormRef::Large(sliced) => {
                let (number, slice) = sliced.slices.last()?;
                Some(number * SLICE + u64::from(slice.last_offset()?))
            }
        }
    }

    /// Sets the element at an index, which is at most [`INDEX_MAX`]; returns whether there was none.
    #[inline]
    pub fn set(&mut self, index: u64, text: &[u8]) -> bool {
        debug_assert!(index <= INDEX_MAX);
        let packing = Packing::of(text);
        let (number, offset) = split(index);
        match self.0.view_mut() {
            FormMut::Large(sliced) => sliced.set(index, &packing, text),
            FormMut::Packed(small) if small.takes(number, offset, packing.code) => small.set(number, offset, &packing),
            FormMut::Packed(_) => self.sliced().set(index, &packing, text),
        }
    }

    /// The bytes that elements at these indices, in ascending order, add at most besides their texts and indices: a slice that
    /// has no room for them in a run becomes dense.
    pub fn growth_for(&self, indices: impl Iterator<Item = u64>) -> usize {
        let (mut indices, mut bytes) = (indices.peekable(), 0usize);
        while let Some(first) = indices.next() {
            let (number, offset) = split(first);
            let (mut count, mut blocks) = (1, Slice::block_bit(offset));
            while let Some(index) = indices.next_if(|index| split(*index).0 == number) {
                count += 1;
                blocks |= Slice::block_bit(split(index).1);
            }
            let slice = match self.0.view() {
                FormRef::Packed(small) if small.number() == number => growth_of_run(small.run(), count, blocks),
                FormRef::Packed(_) => growth_of_run(RunRef::EMPTY, count, blocks),
                FormRef::Large(sliced) => match sliced.slices.get(number) {
                    Some(slice) => slice.growth(count, blocks),
                    None => growth_of_run(RunRef::EMPTY, count, blocks),
                },
            };
            bytes = bytes.saturating_add(slice);
        }
        bytes
    }

    /// Removes the element at an index; returns whether there was one.
    pub fn remove(&mut self, index: u64) -> bool {
        self.remove_range(index, index) == 1
    }

    /// Removes the elements whose indices are from `low` to `high`; returns how many there were.
    pub fn remove_range(&mut self, low: u64, high: u64) -> usize {
        if low > high {
            return 0;
        }
        match self.0.view_mut() {
            FormMut::Packed(small) => {
                let (first, last) = (small.number() * SLICE, small.number() * SLICE + (SLICE - 1));
                if small.storage.is_empty() || high < first || low > last {
                    return 0;
                }
                let (low, high) = ((low.max(first) - first) as u16, (high.min(last) - first) as u16);
                run::remove(&mut small.storage, Small::FRONT, low, high)
            }
            FormMut::Large(sliced) => {
                let removed = sliced.remove_range(low, high);
                self.pack();
                removed
            }
        }
    }

    /// The index that was last inserted at, if any was.
    pub fn last_insert(&self) -> Option<u64> {
        let index = match self.0.view() {
            FormRef::Packed(small) => small.last_insert(),
            FormRef::Large(sliced) => sliced.last_insert,
        };
        (index != NO_INSERT).then_some(index)
    }

    /// Sets the index from which the next insertion follows.
    pub fn set_last_insert(&mut self, index: Option<u64>) {
        let index = index.unwrap_or(NO_INSERT);
        match self.0.view_mut() {
            FormMut::Packed(small) => small.set_last_insert(index),
            FormMut::Large(sliced) => sliced.last_insert = index,
        }
    }

    /// Shows the elements whose indices are from `low` to `high`, in order or in reverse, until `visit` says that it has
    /// enough. Returns whether it does.
    #[inline]
    pub fn visit<'a>(
        &'a self,
        low: u64,
        high: u64,
        reverse: bool,
        mut visit: impl FnMut(u64, Element<'a>) -> bool,
    ) -> bool {
        match self.0.view() {
            FormRef::Large(sliced) => sliced.visit(low, high, reverse, visit),
            FormRef::Packed(small) => {
                let (first, last) = (small.number() * SLICE, small.number() * SLICE + (SLICE - 1));
                if low > high || high < first || low > last {
                    return false;
                }
                let (low, high) = ((low.max(first) - first) as u16, (high.min(last) - first) as u16);
                small.run().visit(low, high, reverse, |offset, code, payload| {
                    visit(first + u64::from(offset), Element::unpack(code, payload))
                })
            }
        }
    }

    /// How many of the latest elements move when a ring of `size` is written to next; `None`: all stay where they are.
    ///
    /// A ring is laid out anew when it shrinks, and when it grows after it has wrapped around. `ARSEEK key 0` says where to
    /// write next, so then a ring that grows stays as it is.
    pub fn ring_moves(&self, size: u64) -> Option<u64> {
        let span = self.highest()? + 1;
        if size < span {
            return Some(size);
        }
        let has_wrapped = self.last_insert().is_some_and(|last| last.saturating_add(1) < span);
        (size > span && has_wrapped).then_some(span)
    }

    /// Lays a ring out anew, from index 0 on: of the elements up to the last one inserted, it keeps `most` at most, back to
    /// the first gap, the oldest first.
    pub fn lay_out_ring(&mut self, most: u64) {
        let Some(highest) = self.highest() else { return };
        let newest =
            self.last_insert().map_or(highest, |last| if last > highest { last % (highest + 1) } else { last });
        let before = |index: u64| index.checked_sub(1).unwrap_or(highest);
        let (mut oldest, mut kept) = (newest, 0);
        let mut at = newest;
        while kept < most && self.get(at).is_some() {
            (oldest, kept) = (at, kept + 1);
            at = before(at);
        }
        let mut ring = Array::new();
        let mut from = oldest;
        for to in 0..kept {
            if let Some(element) = self.get(from) {
                element.with_text(|text| ring.set(to, text));
            }
            pace::step(1);
            from = if from == highest { 0 } else { from + 1 };
        }
        ring.set_last_insert(kept.checked_sub(1));
        if self.captured_id().is_some() {
            let sliced = self.sliced();
            sliced.note_range(0, INDEX_MAX);
            (0..kept).for_each(|index| sliced.note(index));
            let capture = sliced.capture.take();
            ring.sliced().capture = capture;
        }
        *self = ring;
    }

    /// The bytes of the texts of more than [`INLINE_MAX`] bytes whose indices are from `low` to `high`, at most. Where there are
    /// more than `looks` of them, all bytes of the array.
    pub fn large_bytes(&self, low: u64, high: u64, looks: usize) -> usize {
        let FormRef::Large(sliced) = self.0.view() else { return 0 };
        let (mut next, mut bytes) = (sliced.large.from(low), 0);
        for _ in 0..looks {
            let Some(spot) = next else { return bytes };
            let (index, text) = sliced.large.at(spot);
            if index > high {
                return bytes;
            }
            bytes += text.heap_bytes();
            next = sliced.large.after(spot);
        }
        sliced.heap_bytes()
    }

    pub fn shape(&self) -> ArrayShape {
        let mut shape = ArrayShape::default();
        match self.0.view() {
            FormRef::Packed(small) => {
                let len = small.run().len();
                if len > 0 {
                    shape = ArrayShape { sparse: 1, sparse_elements: len, highest: small.number(), groups: 1, ..shape };
                }
            }
            FormRef::Large(sliced) => {
                for (number, slice) in sliced.slices.iter() {
                    pace::step(1);
                    shape.groups += usize::from(shape.groups == 0 || number / GROUP != shape.highest / GROUP);
                    shape.highest = number;
                    if slice.is_dense() {
                        shape.dense += 1;
                        shape.dense_elements += slice.len();
                        shape.dense_reach += slice.reach();
                    } else {
                        shape.sparse += 1;
                        shape.sparse_elements += slice.len();
                    }
                }
            }
        }
        shape
    }

    /// The number of slices that have elements.
    pub fn slices(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(small) => small.run().len().min(1),
            FormRef::Large(sliced) => sliced.slices.len(),
        }
    }

    pub fn dismantle(&mut self, budget: usize) -> bool {
        let is_done = match self.0.view_mut() {
            FormMut::Packed(_) => true,
            FormMut::Large(sliced) => sliced.dismantle(budget),
        };
        if is_done {
            *self = Array::new();
        }
        is_done
    }

    /// Leaves the packed form.
    fn sliced(&mut self) -> &mut Sliced {
        if let FormMut::Packed(small) = self.0.view_mut() {
            let mut sliced = Sliced {
                count: 0,
                last_insert: small.last_insert(),
                slices: Ordered::default(),
                large: Ordered::default(),
                bytes: 0,
                capture: None,
            };
            let run = small.run();
            if run.len() > 0 {
                let mut storage = Buffer::default();
                run.visit(0, u16::MAX, false, |offset, code, payload| {
                    run::put_packed(&mut storage, 0, offset, code, payload);
                    false
                });
                (sliced.count, sliced.bytes) = (run.len(), storage.heap_bytes());
                sliced.slices.insert(small.number(), Slice::of_run(storage));
            }
            self.0 = Form::large(Box::new(sliced));
        }
        match self.0.view_mut() {
            FormMut::Large(sliced) => sliced,
            FormMut::Packed(_) => unreachable!("a packed array has just been made a sliced one"),
        }
    }

    /// Goes back to the packed form if few elements of one slice are left.
    fn pack(&mut self) {
        let FormRef::Large(sliced) = self.0.view() else { return };
        if sliced.count > PACKED_AGAIN
            || sliced.slices.len() > 1
            || !sliced.large.is_empty()
            || sliced.capture.is_some()
        {
            return;
        }
        let mut small = Small::default();
        if let Some((number, slice)) = sliced.slices.last() {
            if slice.is_dense() {
                return;
            }
            small.begin(number);
            slice.visit(0, u16::MAX, false, |offset, code, payload| {
                run::put_packed(&mut small.storage, Small::FRONT, offset, code, payload);
                false
            });
        }
        small.set_last_insert(sliced.last_insert);
        self.0 = Form::packed(small);
    }
}

impl Small {
    const FRONT: usize = 16;

    #[inline]
    fn run(&self) -> RunRef<'_> {
        RunRef::new(&self.storage, Self::FRONT)
    }

    fn word(&self, at: usize) -> Option<u64> {
        self.storage.body().get(at..at + 8).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes)
    }

    fn last_insert(&self) -> u64 {
        self.word(0).unwrap_or(NO_INSERT)
    }

    #[inline]
    fn number(&self) -> u64 {
        self.word(8).unwrap_or(0)
    }

    /// An empty run of a slice.
    fn begin(&mut self, number: u64) {
        let last_insert = self.last_insert();
        let len = crate::entry::TOTAL_BYTES + Self::FRONT + 1;
        self.storage.resize(0, len);
        let body = self.storage.body_mut();
        body[..8].copy_from_slice(&last_insert.to_le_bytes());
        body[8..16].copy_from_slice(&number.to_le_bytes());
        body[16] = 0;
    }

    fn set_last_insert(&mut self, index: u64) {
        if self.storage.is_empty() {
            if index == NO_INSERT {
                return;
            }
            self.begin(0);
        }
        self.storage.body_mut()[..8].copy_from_slice(&index.to_le_bytes());
    }

    /// Whether an element of this kind fits beside the others.
    #[inline]
    fn takes(&self, number: u64, offset: u16, code: u8) -> bool {
        let run = self.run();
        code != LARGE
            && (run.len() == 0 || self.number() == number && (run.len() < ELEMENTS_MAX || run.get(offset).is_some()))
    }

    fn set(&mut self, number: u64, offset: u16, packing: &Packing<'_>) -> bool {
        if self.run().len() == 0 {
            self.begin(number);
        }
        run::put(&mut self.storage, Self::FRONT, offset, packing).is_none()
    }
}

impl Sliced {
    fn heap_bytes(&self) -> usize {
        heap::allocation(size_of::<Sliced>()) + self.bytes + self.slices.heap_bytes() + self.large.heap_bytes()
    }

    #[inline]
    fn get(&self, index: u64) -> Option<Element<'_>> {
        let (number, offset) = split(index);
        let (code, payload) = self.slices.get(number)?.get(offset)?;
        Some(self.element(index, code, payload))
    }

    #[inline]
    fn element<'a>(&'a self, index: u64, code: u8, payload: &'a [u8]) -> Element<'a> {
        if code == LARGE {
            return Element::Text(self.large.get(index).map_or(&[], Buffer::body));
        }
        Element::unpack(code, payload)
    }

    #[inline]
    fn set(&mut self, index: u64, packing: &Packing<'_>, text: &[u8]) -> bool {
        self.note(index);
        let (number, offset) = split(index);
        let (old, grown) = match self.slices.get_mut(number) {
            Some(slice) => slice.put(offset, packing),
            None => {
                let mut slice = Slice::default();
                let outcome = slice.put(offset, packing);
                self.slices.insert(number, slice);
                outcome
            }
        };
        self.bytes = self.bytes.wrapping_add_signed(grown);
        if packing.code == LARGE || old == LARGE {
            self.set_large(index, (packing.code == LARGE).then_some(text));
        }
        self.count += usize::from(old == NONE);
        old == NONE
    }

    fn set_large(&mut self, index: u64, text: Option<&[u8]>) {
        let before = match (self.large.get_mut(index), text) {
            (Some(buffer), Some(text)) => Some(std::mem::replace(buffer, Buffer::of(text))),
            (None, Some(text)) => {
                self.large.insert(index, Buffer::of(text));
                None
            }
            (_, None) => self.large.remove(index),
        };
        self.bytes -= before.map_or(0, |before| before.heap_bytes());
        self.bytes += text.and(self.large.get(index)).map_or(0, Buffer::heap_bytes);
    }

    fn remove_range(&mut self, low: u64, high: u64) -> usize {
        self.note_range(low, high);
        let before = self.count;
        let ((first, low_offset), (last, high_offset)) = (split(low), split(high));
        let both = [Some(first), (last > first).then_some(last)];
        for number in both.into_iter().flatten() {
            let from = if number == first { low_offset } else { 0 };
            let to = if number == last { high_offset } else { (SLICE - 1) as u16 };
            let Some(slice) = self.slices.get_mut(number) else { continue };
            let (removed, bytes) = slice.remove(from, to);
            self.count -= removed;
            self.bytes -= bytes;
            if slice.len() == 0 {
                let slice = self.slices.remove(number);
                self.bytes -= slice.map_or(0, |slice| slice.heap_bytes());
            }
        }
        let Sliced { slices, large, count, bytes, .. } = self;
        if last > first + 1 {
            slices.remove_range(first + 1, last - 1, |_, slice| {
                pace::step(slice.len());
                *count -= slice.len();
                *bytes -= slice.heap_bytes();
            });
        }
        large.remove_range(low, high, |_, text| *bytes -= text.heap_bytes());
        before - self.count
    }

    fn visit<'a>(
        &'a self,
        low: u64,
        high: u64,
        reverse: bool,
        mut visit: impl FnMut(u64, Element<'a>) -> bool,
    ) -> bool {
        let ((first, low_offset), (last, high_offset)) = (split(low), split(high));
        let mut next = if reverse { self.slices.until(last) } else { self.slices.from(first) };
        while let Some(spot) = next {
            let (number, slice) = self.slices.at(spot);
            // What is left matters as little as behind a visitor that has enough.
            if low > high || number < first || number > last || !pace::goes_on(1) {
                return false;
            }
            let from = if number == first { low_offset } else { 0 };
            let to = if number == last { high_offset } else { (SLICE - 1) as u16 };
            let has_enough = slice.visit(from, to, reverse, |offset, code, payload| {
                let index = number * SLICE + u64::from(offset);
                visit(index, self.element(index, code, payload))
            });
            if has_enough {
                return true;
            }
            next = if reverse { self.slices.before(spot) } else { self.slices.after(spot) };
        }
        false
    }

    fn dismantle(&mut self, budget: usize) -> bool {
        let mut freed = 0;
        while freed < budget
            && let Some((number, slice)) = self.slices.last()
        {
            freed += slice.len();
            self.count -= slice.len();
            self.bytes -= slice.heap_bytes();
            self.slices.remove(number);
        }
        while freed < budget
            && let Some((index, text)) = self.large.last()
        {
            freed += 1;
            self.bytes -= text.heap_bytes();
            self.large.remove(index);
        }
        self.slices.is_empty() && self.large.is_empty()
    }
}

impl Clone for Array {
    /// A capture is not copied.
    fn clone(&self) -> Self {
        match self.0.view() {
            FormRef::Packed(small) => Array(Form::packed(small.clone())),
            FormRef::Large(sliced) => {
                let mut copy = Sliced {
                    count: sliced.count,
                    last_insert: sliced.last_insert,
                    slices: Ordered::default(),
                    large: Ordered::default(),
                    bytes: 0,
                    capture: None,
                };
                for (number, slice) in sliced.slices.iter() {
                    pace::step(slice.len());
                    let slice = slice.clone();
                    copy.bytes += slice.heap_bytes();
                    copy.slices.insert(number, slice);
                }
                for (index, text) in sliced.large.iter() {
                    let text = text.clone();
                    copy.bytes += text.heap_bytes();
                    copy.large.insert(index, text);
                }
                Array(Form::large(Box::new(copy)))
            }
        }
    }
}

impl std::fmt::Debug for Array {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut map = f.debug_map();
        self.visit(0, INDEX_MAX, false, |index, element| {
            element.with_text(|text| map.entry(&index, &text.escape_ascii().to_string()));
            false
        });
        map.entry(&"last insert", &self.last_insert()).finish()
    }
}

//! A table of any size: a directory of segments that splits and merges them by itself.

use std::{mem, ops::Range};

use crate::entry::Entry;
use crate::pace;

use super::{
    Segment,
    capture::{Capture, Captured, WriteEntry},
    directory::Directory,
    fraction,
    placement::Placement,
    range::{PREFIX_END, Range53, Ranged, prefix53},
};

/// Entries by key, in the order of their positions. Knows exactly how many bytes it and its entries have allocated.
pub struct Table<E, P> {
    pub(super) segments: Directory<Segment<E>>,
    pub(super) placement: P,
    len: usize,
    /// Of the segments, the stashes and the entries.
    pub(super) bytes: usize,
    /// No segment is longer.
    longest: usize,
    /// The capture in progress, see [`super::capture`].
    capture: Option<Box<Capture<E>>>,
}

impl<E: Entry, P: Placement> Table<E, P> {
    pub fn new(placement: P) -> Self {
        Self::with_capacity(placement, 0)
    }

    /// Room for about `entries`, if they are spread evenly. It is allocated at once, so the number must be trusted.
    pub fn with_capacity(placement: P, entries: usize) -> Self {
        // Filled to between two and four fifths.
        const ENTRIES_EACH: usize = 1200;
        let bits = entries.div_ceil(ENTRIES_EACH).max(1).next_power_of_two().trailing_zeros().min(24);
        let range_bits = Range53::WHOLE.bits - bits as u8;
        let segments: Vec<_> = (0..1u64 << bits)
            .map(|index| {
                Segment::with_capacity(Range53 { start: index << range_bits, bits: range_bits }, entries >> bits)
            })
            .collect();
        let bytes = segments.iter().map(Segment::heap_bytes).sum();
        Self { segments: Directory::new(segments), placement, len: 0, bytes, longest: 0, capture: None }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn placement(&self) -> &P {
        &self.placement
    }

    /// The bytes of the table and of its entries.
    pub fn heap_bytes(&self) -> usize {
        self.bytes + self.segments.heap_bytes()
    }

    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<&E> {
        self.get_at(self.placement.position(key), key)
    }

    /// `get` for a caller that has computed the position.
    #[inline]
    pub fn get_at(&self, position: u64, key: &[u8]) -> Option<&E> {
        self.segment(position).get(position, key)
    }

    #[inline]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    /// Changes an entry, but not its key.
    pub fn update<R>(&mut self, key: &[u8], change: impl FnOnce(&mut E) -> R) -> Option<R> {
        self.update_at(self.placement.position(key), key, change)
    }

    /// `update` for a caller that has computed the position.
    pub fn update_at<R>(&mut self, position: u64, key: &[u8], change: impl FnOnce(&mut E) -> R) -> Option<R> {
        self.before_change(position);
        let index = self.segments.find(prefix53(position));
        let entry = segment_mut(&mut self.segments, index).get_mut(position, key)?;
        let before = entry.heap_bytes();
        let result = change(entry);
        self.bytes = self.bytes - before + entry.heap_bytes();
        Some(result)
    }

    /// Adds an entry. Returns the one with the same key that it has replaced.
    pub fn insert(&mut self, entry: E) -> Option<E> {
        let position = self.placement.position(entry.key());
        self.insert_at(position, entry)
    }

    /// `insert` for a caller that has computed the position.
    pub fn insert_at(&mut self, position: u64, entry: E) -> Option<E> {
        self.before_change(position);
        let mut index = self.segments.find(prefix53(position));
        let segment = segment_mut(&mut self.segments, index);
        self.bytes += entry.heap_bytes();
        if let Some(present) = segment.get_mut(position, entry.key()) {
            let replaced = mem::replace(present, entry);
            self.bytes -= replaced.heap_bytes();
            return Some(replaced);
        }
        let before = segment.heap_bytes();
        segment.insert(position, entry, &self.placement);
        self.bytes = self.bytes - before + segment.heap_bytes();
        self.len += 1;
        self.longest = self.longest.max(segment.len());
        while segment_mut(&mut self.segments, index).wants_split() {
            self.split(index);
            index = self.segments.find(prefix53(position));
        }
        None
    }

    pub fn remove(&mut self, key: &[u8]) -> Option<E> {
        self.remove_at(self.placement.position(key), key)
    }

    /// `remove` for a caller that has computed the position.
    pub fn remove_at(&mut self, position: u64, key: &[u8]) -> Option<E> {
        self.before_change(position);
        let index = self.segments.find(prefix53(position));
        let segment = segment_mut(&mut self.segments, index);
        let before = segment.heap_bytes();
        let removed = segment.remove(position, key, &self.placement)?;
        self.bytes = self.bytes - before + segment.heap_bytes() - removed.heap_bytes();
        self.len -= 1;
        // Looking at the neighbours is cheap, but not free.
        if segment.len().is_multiple_of(8) {
            self.merge_around(index);
        }
        Some(removed)
    }

    /// Visits about `count` entries from `cursor` on, first 0. Returns the cursor to go on with, or 0 when all have
    /// been visited. An entry that exists from the first call to the last is visited exactly once, however others come
    /// and go, and however the table grows and shrinks between calls.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(&E)) -> u64 {
        // As Redis does, to finish in good time even with few entries.
        let mut buckets_left = count.saturating_mul(10).max(1);
        let mut visited = 0;
        let mut from = cursor;
        while from < PREFIX_END && visited < count.max(1) && buckets_left > 0 {
            let index = self.segments.find(from);
            let Some(segment) = self.segments.get(index) else { break };
            from = segment.scan(from, &self.placement, |entry| {
                visited += 1;
                visit(entry);
            });
            buckets_left -= 1;
        }
        if from < PREFIX_END { from } else { 0 }
    }

    /// Visits the entries whose prefixes (see [`prefix53`]) are in `range`.
    pub fn visit_range(&self, range: Range<u64>, mut visit: impl FnMut(&E)) {
        let mut from = range.start;
        while from < range.end {
            let Some(segment) = self.segments.get(self.segments.find(from)) else { break };
            from = segment.scan_within(from..range.end, &self.placement, &mut visit);
        }
    }

    /// An entry at random, each as likely as any other, if `random` gives numbers each as likely as any other.
    pub fn random(&self, random: &mut impl FnMut() -> u64) -> Option<&E> {
        const TRIES: usize = 48;
        const RANKED_MAX: usize = 8;
        if self.is_empty() {
            return None;
        }
        // A segment is taken with a likelihood in proportion to its length, by throwing away.
        if self.segments.len() > RANKED_MAX {
            for _ in 0..TRIES {
                let segment = self.segments.get(fraction(random(), self.segments.len()))?;
                if fraction(random(), self.longest) < segment.len() {
                    return segment.random(random());
                }
            }
        }
        let mut rank = fraction(random(), self.len);
        for segment in self.segments.iter() {
            if rank < segment.len() {
                return segment.random(random());
            }
            rank -= segment.len();
        }
        None
    }

    pub fn iter(&self) -> impl Iterator<Item = &E> {
        self.segments.iter().take_while(|segment| pace::goes_on(segment.len())).flat_map(Segment::iter)
    }

    /// Asks for the bucket that a `get` with this position will read first.
    #[inline]
    pub fn prefetch(&self, position: u64) {
        self.segment(position).prefetch(position);
    }

    /// Asks for the entries that a `get` with this position will compare with, once their bucket has come.
    #[inline]
    pub fn prefetch_entry(&self, position: u64) {
        self.segment(position).prefetch_entry(position);
    }

    /// Takes a segment's worth of entries out, so that a large table can be freed in pieces. Nothing is left when the
    /// answer is empty.
    pub fn take_some(&mut self) -> Vec<E> {
        self.capture = None;
        let Some(index) = self.segments.iter().position(|segment| !segment.is_empty()) else { return Vec::new() };
        let segment = segment_mut(&mut self.segments, index);
        let empty = Segment::new(segment.range());
        let taken = mem::replace(segment, empty);
        self.bytes -= taken.heap_bytes();
        self.len -= taken.len();
        let entries: Vec<E> = taken.into_iter().collect();
        self.bytes -= entries.iter().map(Entry::heap_bytes).sum::<usize>();
        entries
    }

    /// Begins a capture, in place of any other. `id` tells it from others. `cell_bytes`: about what is written before
    /// a change.
    pub fn begin_capture(&mut self, id: u64, cell_bytes: usize, write: WriteEntry<E>) {
        self.capture = Some(Box::new(Capture::new(id, self.heap_bytes(), cell_bytes, write)));
    }

    /// Appends the next entries of capture `id`, until `out` holds about `bytes_max` bytes. `None`: the capture does
    /// not exist.
    pub fn capture_some(&mut self, id: u64, bytes_max: usize, out: &mut Vec<u8>) -> Option<Captured> {
        let mut capture = self.capture.take_if(|capture| capture.id() == id)?;
        let captured = capture.take_some(bytes_max, out, |range, each| self.visit_range(range, each));
        if !captured.is_done {
            self.capture = Some(capture);
        }
        Some(captured)
    }

    /// The capture in progress.
    pub fn captured_id(&self) -> Option<u64> {
        self.capture.as_ref().map(|capture| capture.id())
    }

    /// Bytes that the capture in progress has written aside.
    pub fn aside_bytes(&self) -> usize {
        self.capture.as_ref().map_or(0, |capture| capture.aside_bytes())
    }

    pub fn is_captured(&self) -> bool {
        self.capture.is_some()
    }

    /// Ends whatever capture is in progress.
    pub fn end_capture(&mut self) {
        self.capture = None;
    }

    /// To be called before the entry at `position` is changed by other means than the table's own.
    #[inline]
    pub fn before_change(&mut self, position: u64) {
        if self.capture.is_some() {
            self.put_aside(position);
        }
    }

    #[cold]
    fn put_aside(&mut self, position: u64) {
        let Some(mut capture) = self.capture.take() else { return };
        capture.put_aside(position, |range, each| self.visit_range(range, each));
        self.capture = Some(capture);
    }

    #[inline]
    fn segment(&self, position: u64) -> &Segment<E> {
        let index = self.segments.find(prefix53(position));
        self.segments.get(index).expect("a table's segments cover all positions")
    }

    fn split(&mut self, index: usize) {
        let segment = segment_mut(&mut self.segments, index);
        let range = segment.range();
        let whole = mem::replace(segment, Segment::new(range));
        self.bytes -= whole.heap_bytes();
        let (low, high) = whole.split(&self.placement);
        self.bytes += low.heap_bytes() + high.heap_bytes();
        self.segments.replace(index, [low, high]);
    }

    /// Merges a segment with the other half of the range that they were split from, if both have become small.
    fn merge_around(&mut self, mut index: usize) {
        loop {
            let should_merge = |low: Option<usize>| {
                let low = low?;
                let should = self.segments.get(low)?.should_merge(self.segments.get(low + 1)?);
                should.then_some(low)
            };
            let Some(low) = should_merge(Some(index)).or_else(|| should_merge(index.checked_sub(1))) else { return };
            let [first, second] = [low, low + 1].map(|index| {
                let segment = segment_mut(&mut self.segments, index);
                let range = segment.range();
                mem::replace(segment, Segment::new(range))
            });
            self.bytes -= first.heap_bytes() + second.heap_bytes();
            let merged = first.merge(second, &self.placement);
            self.bytes += merged.heap_bytes();
            self.longest = self.longest.max(merged.len());
            self.segments.splice(low..low + 2, [merged]);
            index = low;
        }
    }
}

fn segment_mut<E: Entry>(segments: &mut Directory<Segment<E>>, index: usize) -> &mut Segment<E> {
    segments.get_mut(index).expect("the index comes from the directory")
}

impl<E: Entry, P: Placement> IntoIterator for Table<E, P> {
    type Item = E;
    type IntoIter = std::iter::FlatMap<
        std::vec::IntoIter<Segment<E>>,
        std::vec::IntoIter<E>,
        fn(Segment<E>) -> std::vec::IntoIter<E>,
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.segments.into_iter().flat_map(Segment::into_iter)
    }
}

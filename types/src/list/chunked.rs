//! The large form of a list: a deque of chunks.
//!
//! A chunk is a listpack of up to 8 KiB (by the settings), or a single larger element. The deque knows the number of
//! elements of every chunk, so an index is found by walking over the chunks from the nearer end and then inside one. An
//! insert in the middle goes into the chunk at that index if it has room, else into a neighbour, else the chunk is cut
//! in two; chunks that have become small are joined with a neighbour when together they fit.
//!
//! A capture (see [`crate::segment`] for that of tables) hands out the chunks as they were at one moment, in steps. It gives
//! each chunk an ordinal; before a chunk that has not been handed out is changed or removed, a copy is put aside.
//!
//! Invariants: no chunk is empty; `len` is the sum of the chunks' counts; `bytes` that of their allocations. During a
//! capture, each ordinal from `next` on is either that of one chunk, which is as it was, or that of one put aside; those of
//! the chunks are ascending.

use std::collections::{BTreeMap, VecDeque};

use smallvec::{SmallVec, smallvec};

use super::super::heap;
use super::super::listpack::ListpackRef;
use super::short::{ShortRef, Spot};
use super::{End, Fill, Item, Listpack};
use crate::entry::Buffer;

/// The largest overhead of an entry, in bytes: encoding and length, back-length (and Redis's estimate too).
const ENTRY_OVERHEAD: usize = 8;

/// Elements that are pushed together, at most.
const TOGETHER_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Chunked {
    chunks: VecDeque<Chunk>,
    len: usize,
    bytes: usize,
    capture: Option<Box<Capture>>,
}

#[derive(Debug)]
struct Capture {
    id: u64,
    /// The ordinal that is handed out next, and the end of the ordinals.
    next: u32,
    end: u32,
    /// No chunk before this index has an ordinal that is still to be handed out.
    index: usize,
    aside: BTreeMap<u32, Chunk>,
}

/// A listpack's storage, or the bytes of a single element.
#[derive(Clone, Debug)]
struct Chunk {
    storage: Buffer,
    count: u32,
    /// During a capture; 0: the chunk is not captured.
    ordinal: Ordinal,
}

/// A chunk's ordinal, and whether it is a single element: in four bytes.
#[derive(Clone, Copy, Debug)]
struct Ordinal(u32);

impl Ordinal {
    const PLAIN: u32 = 1 << 31;

    fn new(plain: bool) -> Self {
        Ordinal(if plain { Self::PLAIN } else { 0 })
    }

    fn is_plain(self) -> bool {
        self.0 & Self::PLAIN != 0
    }

    fn number(self) -> u32 {
        self.0 & !Self::PLAIN
    }

    fn set(&mut self, number: u32) {
        self.0 = self.0 & Self::PLAIN | number;
    }
}

/// A chunk to be read. Positions in it are numbers that have no meaning outside.
#[derive(Clone, Copy)]
pub enum ChunkRef<'a> {
    Packed(ListpackRef<'a>),
    /// All of a small list.
    Short(ShortRef<'a>),
    Plain(&'a [u8]),
}

impl<'a> ChunkRef<'a> {
    #[inline]
    pub(super) fn len(self) -> usize {
        match self {
            ChunkRef::Packed(view) => view.len(),
            ChunkRef::Short(view) => view.len(),
            ChunkRef::Plain(_) => 1,
        }
    }

    /// The position of an element by its index.
    pub(super) fn seek(self, index: usize) -> Option<usize> {
        match self {
            ChunkRef::Packed(view) => view.seek(index),
            ChunkRef::Short(view) => (index < view.len()).then(|| view.seek(index).position()),
            ChunkRef::Plain(_) => Some(0),
        }
    }

    /// The position of the first element.
    pub(super) fn start(self) -> usize {
        match self {
            ChunkRef::Packed(view) => view.start(),
            ChunkRef::Short(_) | ChunkRef::Plain(_) => 0,
        }
    }

    /// The position of the last element of a chunk that is not empty.
    pub(super) fn last(self) -> usize {
        match self {
            ChunkRef::Packed(view) => view.before(view.end()),
            ChunkRef::Short(view) => view.before(view.end()).position(),
            ChunkRef::Plain(_) => 0,
        }
    }

    pub(super) fn next(self, at: usize) -> Option<usize> {
        match self {
            ChunkRef::Packed(view) => view.next(at),
            ChunkRef::Short(view) => {
                let next = view.after(Spot::of(at));
                (next != view.end()).then(|| next.position())
            }
            ChunkRef::Plain(_) => None,
        }
    }

    pub(super) fn previous(self, at: usize) -> Option<usize> {
        match self {
            ChunkRef::Packed(view) => view.previous(at),
            ChunkRef::Short(view) => (at > 0).then(|| view.before(Spot::of(at)).position()),
            ChunkRef::Plain(_) => None,
        }
    }

    #[inline]
    pub(super) fn item(self, at: usize) -> Item<'a> {
        match self {
            ChunkRef::Packed(view) => view.item(at),
            ChunkRef::Short(view) => view.item(Spot::of(at)),
            ChunkRef::Plain(bytes) => Item::Bytes(bytes),
        }
    }

    pub(super) fn view(self) -> Option<ListpackRef<'a>> {
        match self {
            ChunkRef::Packed(view) => Some(view),
            ChunkRef::Short(_) | ChunkRef::Plain(_) => None,
        }
    }
}

impl Chunk {
    fn packed(listpack: Listpack) -> Self {
        let count = listpack.view().len() as u32;
        Chunk { storage: listpack.into_storage(), count, ordinal: Ordinal::new(false) }
    }

    fn plain(value: &[u8]) -> Self {
        Chunk { storage: Buffer::of(value), count: 1, ordinal: Ordinal::new(true) }
    }

    /// The chunk for one new element.
    fn single(value: &[u8], fill: Fill) -> Self {
        if value.len() > fill.bytes_max {
            return Chunk::plain(value);
        }
        let mut listpack = Listpack::new();
        listpack.push_back(Item::parse(value));
        Chunk::packed(listpack)
    }

    fn heap_bytes(&self) -> usize {
        self.storage.heap_bytes()
    }

    fn view(&self) -> ChunkRef<'_> {
        match self.ordinal.is_plain() {
            false => ChunkRef::Packed(ListpackRef::from_storage(self.storage.bytes())),
            true => ChunkRef::Plain(self.storage.body()),
        }
    }

    /// Whether one more element fits.
    fn has_room(&self, value: &[u8], fill: Fill) -> bool {
        let bytes = value.len().saturating_add(ENTRY_OVERHEAD);
        self.view()
            .view()
            .is_some_and(|view| !fill.exceeded(view.bytes_len().saturating_add(bytes), self.count as usize + 1))
    }
}

impl Chunked {
    pub fn new(first: Listpack) -> Self {
        let mut chunked = Chunked { chunks: VecDeque::new(), len: 0, bytes: 0, capture: None };
        if !first.view().is_empty() {
            chunked.append_listpack(first);
        }
        chunked
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn heap_bytes(&self) -> usize {
        heap::allocation(size_of::<Self>()) + heap::allocation(self.chunks.capacity() * size_of::<Chunk>()) + self.bytes
    }

    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    pub fn chunk(&self, index: usize) -> ChunkRef<'_> {
        self.chunks[index].view()
    }

    /// The chunk of the element at `index`, and the element's index inside.
    pub fn seek(&self, index: usize) -> Option<(usize, usize)> {
        if index >= self.len {
            return None;
        }
        if index <= self.len / 2 {
            let mut left = index;
            for (i, chunk) in self.chunks.iter().enumerate() {
                if left < chunk.count as usize {
                    return Some((i, left));
                }
                left -= chunk.count as usize;
            }
        } else {
            let mut left = self.len - index;
            for (i, chunk) in self.chunks.iter().enumerate().rev() {
                if left <= chunk.count as usize {
                    return Some((i, chunk.count as usize - left));
                }
                left -= chunk.count as usize;
            }
        }
        None
    }

    pub fn append_listpack(&mut self, listpack: Listpack) {
        self.add(self.chunks.len(), Chunk::packed(listpack));
    }

    pub fn append_plain(&mut self, value: &[u8]) {
        self.add(self.chunks.len(), Chunk::plain(value));
    }

    pub fn push(&mut self, end: End, value: &[u8], fill: Fill) {
        let last = match end {
            End::Head => 0,
            End::Tail => self.chunks.len().saturating_sub(1),
        };
        if self.chunks.get(last).is_some_and(|chunk| chunk.has_room(value, fill)) {
            self.edit(last, |listpack| match end {
                End::Head => listpack.push_front(Item::parse(value)),
                End::Tail => listpack.push_back(Item::parse(value)),
            });
        } else {
            let index = if end == End::Head { 0 } else { self.chunks.len() };
            self.add(index, Chunk::single(value, fill));
        }
    }

    /// Pushes one value after the other. Those for which a chunk has room are added to it together.
    pub fn push_all<'v>(&mut self, end: End, values: impl Iterator<Item = &'v [u8]>, fill: Fill) {
        let mut values = values.peekable();
        while let Some(value) = values.next() {
            let index = if end == End::Head { 0 } else { self.chunks.len().saturating_sub(1) };
            let Some(chunk) = self.chunks.get(index).filter(|chunk| chunk.has_room(value, fill)) else {
                self.push(end, value, fill);
                continue;
            };
            let (mut bytes, count) = (chunk.storage.len() + value.len() + ENTRY_OVERHEAD, chunk.count as usize);
            let mut run: SmallVec<[Item<'v>; 16]> = smallvec![Item::parse(value)];
            while run.len() < TOGETHER_MAX
                && let Some(value) = values.next_if(|value| {
                    let more = value.len().saturating_add(ENTRY_OVERHEAD);
                    !fill.exceeded(bytes.saturating_add(more), count + run.len() + 1)
                })
            {
                bytes += value.len() + ENTRY_OVERHEAD;
                run.push(Item::parse(value));
            }
            self.edit(index, |listpack| match end {
                End::Head => listpack.insert_all(listpack.view().start(), run.iter().rev().copied()),
                End::Tail => listpack.push_all(run.iter().copied()),
            });
        }
    }

    /// Inserts before the element at position `at` of chunk `index`.
    pub fn insert(&mut self, index: usize, at: usize, value: &[u8], fill: Fill) {
        let item = Item::parse(value);
        if self.chunks[index].has_room(value, fill) {
            self.edit(index, |listpack| {
                listpack.insert(at, item);
            });
            return;
        }
        let first = self.chunk(index).view().is_none_or(|view| at == view.start());
        if first && index > 0 && self.chunks[index - 1].has_room(value, fill) {
            self.edit(index - 1, |listpack| listpack.push_back(item));
        } else if first {
            self.add(index, Chunk::single(value, fill));
        } else {
            self.cut(index, at);
            if self.chunks[index].has_room(value, fill) {
                self.edit(index, |listpack| listpack.push_back(item));
            } else {
                self.add(index + 1, Chunk::single(value, fill));
            }
            self.join_around(index + 1, fill);
            self.join_around(index, fill);
        }
    }

    /// Replaces the element at position `at` of chunk `index`.
    pub fn replace(&mut self, index: usize, at: usize, value: &[u8], fill: Fill) {
        if let ChunkRef::Packed(view) = self.chunk(index) {
            let bytes = view.bytes_len() - (view.after(at) - at) + value.len() + ENTRY_OVERHEAD;
            if bytes <= fill.bytes_max {
                self.edit(index, |listpack| listpack.replace(at, Item::parse(value)));
                self.join_around(index, fill);
                return;
            }
            if view.len() > 1 {
                // The new element does not fit in the old one's room: it goes between the elements before and after
                // that.
                let start = view.start();
                if at > start {
                    self.cut(index, at);
                    self.replace(index + 1, start, value, fill);
                } else {
                    self.edit(index, |listpack| listpack.remove(at, 1));
                    self.add(index, Chunk::single(value, fill));
                }
                self.join_around(index, fill);
                return;
            }
        }
        self.take(index);
        self.add(index, Chunk::single(value, fill));
        self.join_around(index, fill);
    }

    pub fn drop_end(&mut self, end: End, count: usize) {
        let mut left = count.min(self.len);
        while left > 0 {
            let index = if end == End::Head { 0 } else { self.chunks.len() - 1 };
            let held = self.chunks[index].count as usize;
            if held <= left {
                self.take(index);
                left -= held;
                continue;
            }
            self.edit(index, |listpack| {
                let first = if end == End::Head { 0 } else { held - left };
                if let Some(at) = listpack.view().seek(first) {
                    listpack.remove(at, left);
                }
            });
            left = 0;
        }
        self.release_room();
    }

    pub fn remove(&mut self, value: &[u8], count: usize, from: End, fill: Fill) -> usize {
        let item = Item::parse(value);
        let mut removed = 0;
        for step in 0..self.chunks.len() {
            if removed == count {
                break;
            }
            let index = if from == End::Head { step } else { self.chunks.len() - 1 - step };
            match self.chunk(index) {
                ChunkRef::Plain(bytes) if item == *bytes => {
                    self.put_aside(index);
                    // Left in place without elements until the walk is over.
                    let chunk = &mut self.chunks[index];
                    self.bytes -= chunk.heap_bytes();
                    *chunk = Chunk { storage: Buffer::default(), count: 0, ordinal: Ordinal::new(false) };
                    self.len -= 1;
                    removed += 1;
                }
                ChunkRef::Plain(_) | ChunkRef::Short(_) => {}
                // One that is not changed is not put aside.
                ChunkRef::Packed(view) if !view.iter().any(|entry| entry == item) => {}
                ChunkRef::Packed(_) => {
                    let left = count - removed;
                    removed += self.edit(index, |listpack| remove_equal(listpack, item, left, from));
                }
            }
        }
        if removed > 0 {
            self.compact(fill);
        }
        removed
    }

    /// The listpack, if there is just one and it is within the limits.
    pub fn take_only_listpack(&mut self, fill: Fill) -> Option<Listpack> {
        match (self.chunks.front().map(Chunk::view), self.chunks.len()) {
            (None, _) => Some(Listpack::new()),
            (Some(ChunkRef::Packed(view)), 1) if !fill.exceeded(view.bytes_len(), view.len()) => {
                Some(Listpack::from_storage(self.take(0).storage))
            }
            _ => None,
        }
    }

    /// Frees chunks from the tail until `budget` elements are gone.
    pub fn dismantle(&mut self, budget: usize) -> bool {
        let mut freed = 0;
        self.capture = None;
        while freed < budget && !self.chunks.is_empty() {
            freed += self.take(self.chunks.len() - 1).count as usize;
        }
        self.chunks.is_empty()
    }

    fn add(&mut self, index: usize, chunk: Chunk) {
        self.len += chunk.count as usize;
        self.bytes += chunk.heap_bytes();
        if let Some(capture) = &mut self.capture
            && index <= capture.index
        {
            capture.index += 1;
        }
        self.chunks.insert(index, chunk);
    }

    fn take(&mut self, index: usize) -> Chunk {
        self.put_aside(index);
        if let Some(capture) = &mut self.capture
            && index < capture.index
        {
            capture.index -= 1;
        }
        let chunk = self.chunks.remove(index).expect("a chunk is only taken by an index that was just looked up");
        self.len -= chunk.count as usize;
        self.bytes -= chunk.heap_bytes();
        chunk
    }

    /// Changes the listpack of a packed chunk.
    fn edit<R>(&mut self, index: usize, change: impl FnOnce(&mut Listpack) -> R) -> R {
        self.put_aside(index);
        let chunk = &mut self.chunks[index];
        self.len -= chunk.count as usize;
        self.bytes -= chunk.heap_bytes();
        let mut listpack = Listpack::from_storage(std::mem::take(&mut chunk.storage));
        let answer = change(&mut listpack);
        *chunk = Chunk::packed(listpack);
        self.len += chunk.count as usize;
        self.bytes += chunk.heap_bytes();
        answer
    }

    /// Cuts a packed chunk in two before the entry at `at`, which is not its first.
    fn cut(&mut self, index: usize, at: usize) {
        let second = self.edit(index, |listpack| listpack.split_off(at));
        self.add(index + 1, Chunk::packed(second));
    }

    fn fit_together(first: &Chunk, second: &Chunk, fill: Fill) -> bool {
        match (first.view(), second.view()) {
            (ChunkRef::Packed(a), ChunkRef::Packed(b)) => {
                !fill.exceeded(a.bytes_len() + b.bytes_len(), (first.count + second.count) as usize)
            }
            _ => false,
        }
    }

    /// Joins a chunk with its neighbours if they fit together.
    fn join_around(&mut self, index: usize, fill: Fill) {
        for first in [index, index.wrapping_sub(1)] {
            let (Some(a), Some(b)) = (self.chunks.get(first), self.chunks.get(first.wrapping_add(1))) else { continue };
            if Self::fit_together(a, b, fill) {
                let second = self.take(first + 1);
                self.edit(first, |listpack| listpack.append(ListpackRef::from_storage(second.storage.bytes())));
            }
        }
    }

    /// Drops chunks that have become empty and joins those that have become small.
    fn compact(&mut self, fill: Fill) {
        let half = Fill { bytes_max: fill.bytes_max / 2, count_max: fill.count_max / 2 };
        let chunks = std::mem::take(&mut self.chunks);
        (self.len, self.bytes) = (0, 0);
        for mut chunk in chunks {
            if chunk.count == 0 {
                continue;
            }
            let last = self.chunks.len().wrapping_sub(1);
            let joins = self.chunks.back().is_some_and(|back| {
                let small = |chunk: &Chunk| !half.exceeded(chunk.storage.len(), chunk.count as usize);
                (small(back) || small(&chunk)) && Self::fit_together(back, &chunk, fill)
            });
            if joins {
                self.put_chunk_aside(&mut chunk);
                self.edit(last, |listpack| listpack.append(ListpackRef::from_storage(chunk.storage.bytes())));
            } else {
                self.add(self.chunks.len(), chunk);
            }
        }
        if let Some(capture) = &mut self.capture {
            capture.index = 0;
        }
    }

    /// Begins a capture, in place of any other. `id` tells it from others. Returns how many chunks it will hand out.
    pub fn begin_capture(&mut self, id: u64) -> usize {
        let end = self.chunks.len() as u32;
        (0..end).zip(&mut self.chunks).for_each(|(at, chunk)| chunk.ordinal.set(at + 1));
        self.capture = Some(Box::new(Capture { id, next: 1, end: end + 1, index: 0, aside: BTreeMap::new() }));
        end as usize
    }

    /// Shows the next chunks of capture `id` to `visit`, until that says it has enough. `None`: the capture does not
    /// exist.
    pub fn capture_some(&mut self, id: u64, mut visit: impl FnMut(ChunkRef<'_>) -> bool) -> Option<bool> {
        let mut capture = self.capture.take_if(|capture| capture.id == id)?;
        while capture.next < capture.end {
            let has_enough = if let Some(chunk) = capture.aside.remove(&capture.next) {
                visit(chunk.view())
            } else {
                let next = capture.next;
                let behind = self.chunks.range(capture.index..).position(|chunk| chunk.ordinal.number() == next);
                // The invariant says that it exists; else the capture is as good as ended.
                capture.index += behind?;
                visit(self.chunks[capture.index].view())
            };
            capture.next += 1;
            if has_enough {
                break;
            }
        }
        let is_done = capture.next == capture.end;
        if !is_done {
            self.capture = Some(capture);
        }
        Some(is_done)
    }

    pub fn captured_id(&self) -> Option<u64> {
        self.capture.as_ref().map(|capture| capture.id)
    }

    /// Bytes of the chunks that the capture under way has put aside.
    pub fn aside_bytes(&self) -> usize {
        self.capture.iter().flat_map(|capture| capture.aside.values()).map(Chunk::heap_bytes).sum()
    }

    pub fn is_captured(&self) -> bool {
        self.capture.is_some()
    }

    pub fn end_capture(&mut self) {
        self.capture = None;
    }

    /// To be called before the chunk at `index` is changed or removed.
    #[inline]
    fn put_aside(&mut self, index: usize) {
        if let Some(capture) = &mut self.capture {
            capture.put_aside(&mut self.chunks[index]);
        }
    }

    fn put_chunk_aside(&mut self, chunk: &mut Chunk) {
        if let Some(capture) = &mut self.capture {
            capture.put_aside(chunk);
        }
    }

    fn release_room(&mut self) {
        if self.chunks.capacity() > 16 && self.chunks.capacity() / 4 > self.chunks.len() {
            self.chunks.shrink_to(self.chunks.len() * 2);
        }
    }
}

impl Capture {
    #[cold]
    fn put_aside(&mut self, chunk: &mut Chunk) {
        let ordinal = chunk.ordinal.number();
        if (self.next..self.end).contains(&ordinal) && chunk.count > 0 {
            self.aside.insert(ordinal, chunk.clone());
        }
        chunk.ordinal.set(0);
    }
}

impl Clone for Chunked {
    /// Without the capture.
    fn clone(&self) -> Self {
        Chunked { chunks: self.chunks.clone(), len: self.len, bytes: self.bytes, capture: None }
    }
}

/// Removes up to `count` entries equal to `item`; returns how many.
pub(super) fn remove_equal(listpack: &mut Listpack, item: Item<'_>, count: usize, from: End) -> usize {
    let mut removed = 0;
    let mut place = match from {
        End::Head => listpack.view().first(),
        End::Tail => listpack.view().last(),
    };
    while let Some(at) = place
        && removed < count
    {
        let found = listpack.view().item(at) == item;
        if found {
            listpack.remove(at, 1);
            removed += 1;
        }
        let view = listpack.view();
        place = match (from, found) {
            (End::Head, true) => (at < view.end()).then_some(at),
            (End::Head, false) => view.next(at),
            (End::Tail, _) => view.previous(at),
        };
    }
    removed
}

#[cfg(test)]
impl Chunked {
    /// The value of `heap_bytes`, counted; also checks the other invariants.
    pub fn counted_bytes(&self) -> usize {
        assert!(self.chunks.iter().all(|chunk| chunk.count > 0));
        assert_eq!(self.len, self.chunks.iter().map(|chunk| chunk.count as usize).sum::<usize>());
        let chunks: usize = self.chunks.iter().map(Chunk::heap_bytes).sum();
        heap::allocation(size_of::<Self>()) + heap::allocation(self.chunks.capacity() * size_of::<Chunk>()) + chunks
    }
}

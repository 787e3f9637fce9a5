//! Lists: packed while small, else a deque of listpacks.
//!
//! The list is one listpack, or takes [less](short) but is shown as one, up to the size (or count) that `list-max-listpack-size` gives a listpack, and a [`Chunked`]
//! beyond. It goes back to one listpack when a single one is left and that has shrunk to half the limit, so that a list
//! on the border does not change to and fro. All of this is as Redis 7.2 does it, for `OBJECT ENCODING`.
//!
//! Reading works on chunks in both forms: a packed list is a list of one chunk.

mod chunked;
mod packed;
mod short;

pub use chunked::ChunkRef;
use chunked::Chunked;

use self::packed::PackedList;
pub use self::short::ShortRef;
use self::short::Spot;
use super::item::Item;
use super::listpack::Listpack;
use super::{Limits, Malformed};
use crate::entry::{Form, FormMut, FormRef};
use crate::pace;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Head,
    Tail,
}

#[derive(Default)]
pub struct List(Form<PackedList, Chunked>);

/// How much one listpack of a list may hold, from the setting `list-max-listpack-size`.
#[derive(Clone, Copy, Debug)]
struct Fill {
    bytes_max: usize,
    count_max: usize,
}

impl Fill {
    /// The size limit of listpacks that are limited by their count.
    const SAFE_BYTES: usize = 8192;

    fn new(limits: &Limits) -> Self {
        match limits.list_max_listpack_size {
            size @ 0.. => Fill { bytes_max: Self::SAFE_BYTES, count_max: size.clamp(1, 0x7FFF) as usize },
            size => Fill { bytes_max: 4096 << (-1 - size.max(-5)), count_max: usize::MAX },
        }
    }

    /// The size to which a list must shrink before it is packed again: half of the limit that was set.
    fn half(self) -> Self {
        match self.count_max {
            usize::MAX => Fill { bytes_max: self.bytes_max / 2, ..self },
            count_max => Fill { count_max: count_max / 2, ..self },
        }
    }

    fn exceeded(self, bytes: usize, count: usize) -> bool {
        bytes > self.bytes_max || count > self.count_max
    }
}

impl List {
    pub fn new() -> Self {
        List::default()
    }

    pub fn len(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(packed) => packed.len(),
            FormRef::Large(chunked) => chunked.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn encoding(&self) -> &'static str {
        match self.0.view() {
            FormRef::Packed(_) => "listpack",
            FormRef::Large(_) => "quicklist",
        }
    }

    /// The address of its first allocation: only ever prefetched.
    pub(crate) fn address(&self) -> *const u8 {
        self.0.address()
    }

    pub fn heap_bytes(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(packed) => packed.heap_bytes(),
            FormRef::Large(chunked) => chunked.heap_bytes(),
        }
    }

    pub fn push(&mut self, end: End, value: &[u8], limits: &Limits) {
        self.make_room(value.len(), 1, limits);
        match self.0.view_mut() {
            FormMut::Packed(packed) => packed.push(end, Item::parse(value)),
            FormMut::Large(chunked) => chunked.push(end, value, Fill::new(limits)),
        }
    }

    /// Pushes one value after the other. The values are looked at first, so that the form changes at most once.
    pub fn push_all<'v, I>(&mut self, end: End, values: I, limits: &Limits)
    where
        I: IntoIterator<Item = &'v [u8]>,
        I::IntoIter: Clone,
    {
        let values = values.into_iter();
        let (bytes, count) = values.clone().fold((0, 0), |(bytes, count), value| (bytes + value.len(), count + 1));
        self.make_room(bytes, count, limits);
        match self.0.view_mut() {
            FormMut::Packed(packed) => values.for_each(|value| packed.push(end, Item::parse(value))),
            FormMut::Large(chunked) => chunked.push_all(end, values, Fill::new(limits)),
        }
    }

    /// The element at either end.
    pub fn peek(&self, end: End) -> Option<Item<'_>> {
        match end {
            End::Head => self.iter().next(),
            End::Tail => self.iter().next_back(),
        }
    }

    /// Shows the element at one end to `read`, then removes it.
    pub fn pop<R>(&mut self, end: End, limits: &Limits, read: impl FnOnce(Item<'_>) -> R) -> Option<R> {
        let answer = self.peek(end).map(read)?;
        self.drop_end(end, 1, limits);
        Some(answer)
    }

    /// Removes up to `count` elements from one end.
    pub fn drop_end(&mut self, end: End, count: usize, limits: &Limits) {
        match self.0.view_mut() {
            FormMut::Packed(packed) => packed.drop_end(end, count),
            FormMut::Large(chunked) => {
                chunked.drop_end(end, count);
                self.shrink(limits);
            }
        }
    }

    /// Keeps the elements from index `start` to before `end`.
    pub fn trim(&mut self, start: usize, end: usize, limits: &Limits) {
        let len = self.len();
        self.drop_end(End::Tail, len - end.clamp(start.min(len), len), limits);
        self.drop_end(End::Head, start.min(len), limits);
    }

    pub fn get(&self, index: usize) -> Option<Item<'_>> {
        Some(self.place(index)?.item())
    }

    /// Replaces the element at `index`; returns false if it does not exist.
    pub fn set(&mut self, index: usize, value: &[u8], limits: &Limits) -> bool {
        if index >= self.len() {
            return false;
        }
        self.make_room(value.len(), 1, limits);
        if let FormMut::Packed(packed) = self.0.view_mut() {
            packed.replace(index, Item::parse(value));
            return true;
        }
        let Some(Place { index: chunk, at, .. }) = self.place(index) else { return false };
        self.chunked().replace(chunk, at, value, Fill::new(limits));
        self.shrink(limits);
        true
    }

    /// Inserts before the element at `index`; at the end if it does not exist.
    pub fn insert(&mut self, index: usize, value: &[u8], limits: &Limits) {
        if index >= self.len() {
            return self.push(End::Tail, value, limits);
        }
        self.make_room(value.len(), 1, limits);
        if let FormMut::Packed(packed) = self.0.view_mut() {
            return packed.insert(index, Item::parse(value));
        }
        let Some(Place { index: chunk, at, .. }) = self.place(index) else { return };
        self.chunked().insert(chunk, at, value, Fill::new(limits));
    }

    /// The index of the first element equal to `value`.
    pub fn position(&self, value: &[u8]) -> Option<usize> {
        let wanted = Item::parse(value);
        self.iter().position(|item| item == wanted)
    }

    /// Removes up to `count` elements equal to `value`, looking from `from` on. Returns how many were removed.
    pub fn remove(&mut self, value: &[u8], count: usize, from: End, limits: &Limits) -> usize {
        match self.0.view_mut() {
            FormMut::Packed(packed) => packed.remove(Item::parse(value), count, from),
            FormMut::Large(chunked) => {
                let removed = chunked.remove(value, count, from, Fill::new(limits));
                self.shrink(limits);
                removed
            }
        }
    }

    /// All elements, from either end.
    pub fn iter(&self) -> Range<'_> {
        self.range(0, self.len())
    }

    /// The elements from index `start` to before `end`, from either end.
    pub fn range(&self, start: usize, end: usize) -> Range<'_> {
        let end = end.min(self.len());
        Range { list: self, start: start.min(end), end, front: None, back: None }
    }

    /// The chunks in order, to be stored as they are.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = ChunkRef<'_>> {
        let count = match self.0.view() {
            FormRef::Packed(packed) => packed.len().min(1),
            FormRef::Large(chunked) => chunked.chunks(),
        };
        (0..count).map(|index| self.chunk(index))
    }

    /// Appends a listpack from outside. Call [`List::loaded`] after the last one.
    pub fn append_listpack(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let listpack = Listpack::from_bytes(bytes)?;
        if !listpack.view().is_empty() {
            self.chunked().append_listpack(listpack);
        }
        Ok(())
    }

    /// Appends a single element as a chunk of its own. Call [`List::loaded`] after the last one.
    pub fn append_plain(&mut self, value: &[u8]) {
        self.chunked().append_plain(value);
    }

    /// Chooses the form after a list has been loaded chunk by chunk.
    pub fn loaded(&mut self, limits: &Limits) {
        let fill = Fill::new(limits);
        self.pack_within(fill);
    }

    /// Begins a capture of a list of several chunks; returns how many it will hand out. `None`: the list has only one.
    pub fn begin_capture(&mut self, id: u64) -> Option<usize> {
        match self.0.view_mut() {
            FormMut::Packed(_) => None,
            FormMut::Large(chunked) => Some(chunked.begin_capture(id)),
        }
    }

    /// Shows the next chunks of capture `id`, in order, until `visit` says that it has enough. Returns whether that was
    /// all; `None`: the capture does not exist.
    pub fn capture_some(&mut self, id: u64, visit: impl FnMut(ChunkRef<'_>) -> bool) -> Option<bool> {
        match self.0.view_mut() {
            FormMut::Packed(_) => None,
            FormMut::Large(chunked) => chunked.capture_some(id, visit),
        }
    }

    /// The capture in progress.
    pub fn captured_id(&self) -> Option<u64> {
        match self.0.view() {
            FormRef::Packed(_) => None,
            FormRef::Large(chunked) => chunked.captured_id(),
        }
    }

    /// Bytes that it has put aside.
    pub fn aside_bytes(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(_) => 0,
            FormRef::Large(chunked) => chunked.aside_bytes(),
        }
    }

    /// Ends whatever capture is under way.
    pub fn end_capture(&mut self) {
        if let FormMut::Large(chunked) = self.0.view_mut() {
            chunked.end_capture();
        }
    }

    pub fn dismantle(&mut self, budget: usize) -> bool {
        let done = match self.0.view_mut() {
            FormMut::Packed(_) => true,
            FormMut::Large(chunked) => chunked.dismantle(budget),
        };
        if done {
            *self = List::new();
        }
        done
    }

    fn chunked(&mut self) -> &mut Chunked {
        if let FormMut::Packed(packed) = self.0.view_mut() {
            self.0 = Form::large(Box::new(Chunked::new(packed.take_listpack())));
        }
        match self.0.view_mut() {
            FormMut::Large(chunked) => chunked,
            FormMut::Packed(_) => unreachable!("a packed list has just been made a chunked one"),
        }
    }

    /// Leaves the packed form if `count` values of `bytes` bytes would exceed it.
    fn make_room(&mut self, bytes: usize, count: usize, limits: &Limits) {
        if let FormRef::Packed(packed) = self.0.view()
            && packed.would_exceed(Fill::new(limits), bytes, count)
        {
            self.chunked();
        }
    }

    /// Goes back to the packed form if that is at most half full.
    fn shrink(&mut self, limits: &Limits) {
        self.pack_within(Fill::new(limits).half());
    }

    fn pack_within(&mut self, fill: Fill) {
        if let FormMut::Large(chunked) = self.0.view_mut()
            && !chunked.is_captured()
            && let Some(listpack) = chunked.take_only_listpack(fill)
        {
            self.0 = Form::packed(PackedList::of(listpack));
        }
    }

    fn chunk(&self, index: usize) -> ChunkRef<'_> {
        match self.0.view() {
            FormRef::Packed(packed) => packed.view(),
            FormRef::Large(chunked) => chunked.chunk(index),
        }
    }

    #[inline]
    fn place(&self, index: usize) -> Option<Place<'_>> {
        match self.0.view() {
            FormRef::Packed(packed) => {
                let chunk = packed.view();
                Some(Place { index: 0, chunk, at: chunk.seek(index)? })
            }
            FormRef::Large(chunked) => {
                let (chunk, inside) = chunked.seek(index)?;
                let (index, chunk) = (chunk, chunked.chunk(chunk));
                Some(Place { index, chunk, at: chunk.seek(inside)? })
            }
        }
    }

    /// The place after one that is not the last.
    #[inline]
    fn after<'a>(&'a self, place: Place<'a>) -> Place<'a> {
        if let Some(at) = place.chunk.next(place.at) {
            return Place { at, ..place };
        }
        let index = place.index + 1;
        self.pace(index);
        let chunk = self.chunk(index);
        Place { index, chunk, at: chunk.start() }
    }

    /// Says that a chunk is visited.
    fn pace(&self, chunk: usize) {
        pace::step(match self.chunk(chunk) {
            ChunkRef::Plain(bytes) => bytes.len() / pace::BYTES_PER_ELEMENT,
            packed => packed.len(),
        });
    }

    /// The place before one that is not the first.
    #[inline]
    fn before<'a>(&'a self, place: Place<'a>) -> Place<'a> {
        if let Some(at) = place.chunk.previous(place.at) {
            return Place { at, ..place };
        }
        let index = place.index - 1;
        self.pace(index);
        let chunk = self.chunk(index);
        Place { index, chunk, at: chunk.last() }
    }
}

impl Clone for List {
    fn clone(&self) -> Self {
        List(match self.0.view() {
            FormRef::Packed(packed) => Form::packed(packed.clone()),
            FormRef::Large(chunked) => Form::large(Box::new(chunked.clone())),
        })
    }
}

impl std::fmt::Debug for List {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The location of an element: its chunk, with the number of that, and its position there.
#[derive(Clone, Copy)]
struct Place<'a> {
    index: usize,
    chunk: ChunkRef<'a>,
    at: usize,
}

impl<'a> Place<'a> {
    #[inline]
    fn item(self) -> Item<'a> {
        self.chunk.item(self.at)
    }
}

/// Elements in order; see [`List::range`].
#[derive(Clone)]
pub struct Range<'a> {
    list: &'a List,
    start: usize,
    end: usize,
    /// Of the elements given last from either end.
    front: Option<Place<'a>>,
    back: Option<Place<'a>>,
}

impl<'a> Iterator for Range<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        if self.start >= self.end {
            return None;
        }
        let place = match self.front {
            Some(before) => {
                let place = self.list.after(before);
                if place.index != before.index && pace::is_ended() {
                    self.start = self.end;
                    return None;
                }
                place
            }
            None => self.list.place(self.start)?,
        };
        self.front = Some(place);
        self.start += 1;
        Some(place.item())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.end - self.start, Some(self.end - self.start))
    }

    /// Visits chunk by chunk, which takes less than to find each next place.
    fn fold<B, F: FnMut(B, Item<'a>) -> B>(self, init: B, mut visit: F) -> B {
        let mut left = self.end - self.start;
        let first = match self.front {
            _ if left == 0 => None,
            Some(place) => Some(self.list.after(place)),
            None => self.list.place(self.start),
        };
        let Some(Place { index: mut chunk, at, .. }) = first else { return init };
        let (mut folded, mut from) = (init, Some(at));
        while left > 0 {
            self.list.pace(chunk);
            if pace::is_ended() {
                break;
            }
            match self.list.chunk(chunk) {
                ChunkRef::Packed(view) => {
                    for item in view.iter_from(from.take().unwrap_or(view.start())).take(left) {
                        folded = visit(folded, item);
                        left -= 1;
                    }
                }
                ChunkRef::Short(view) => {
                    for item in view.iter_from(Spot::of(from.take().unwrap_or(0))).take(left) {
                        folded = visit(folded, item);
                        left -= 1;
                    }
                }
                ChunkRef::Plain(bytes) => {
                    from = None;
                    folded = visit(folded, Item::Bytes(bytes));
                    left -= 1;
                }
            }
            chunk += 1;
        }
        folded
    }
}

impl DoubleEndedIterator for Range<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.start >= self.end {
            return None;
        }
        let place = match self.back {
            Some(before) => {
                let place = self.list.before(before);
                if place.index != before.index && pace::is_ended() {
                    self.start = self.end;
                    return None;
                }
                place
            }
            None => self.list.place(self.end - 1)?,
        };
        self.back = Some(place);
        self.end -= 1;
        Some(place.item())
    }
}

impl ExactSizeIterator for Range<'_> {}

#[cfg(test)]
mod tests;

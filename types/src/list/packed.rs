//! The packed form of a list: a [short list](super::short), or a listpack beyond.
//!
//! It becomes a listpack when a short list has no room, and a short list again when it has shrunk to half of that, so that a
//! list on the border does not change to and fro. To clients both are listpacks, and a limit on a listpack's bytes
//! is one on those that it would take.

use super::chunked::{self, ChunkRef};
use super::short::{self, ShortRef, Spot};
use super::{End, Fill};
use crate::entry::packed;
use crate::item::Item;
use crate::listpack::{Listpack, ListpackRef};

/// A listpack of this size or less may be a short list.
const TRIED_MAX: usize = 2 * short::BYTES_MAX;
/// A listpack that has shrunk to this size becomes a short list.
const SHORT_AGAIN: usize = short::BYTES_MAX / 2;

packed! {
    /// A list in one buffer: a short one if the buffer is tagged, else a listpack.
    pub(super) struct PackedList
}

impl PackedList {
    /// In the smaller form that has room for it.
    pub fn of(listpack: Listpack) -> Self {
        let mut list = PackedList { storage: listpack.into_storage() };
        list.shorten(TRIED_MAX);
        list
    }

    /// Takes it as a listpack, and is empty.
    pub fn take_listpack(&mut self) -> Listpack {
        if short::is_short(&self.storage) {
            let mut listpack = Listpack::new();
            listpack.push_all(ShortRef::of(&self.storage).iter());
            self.storage = listpack.into_storage();
        }
        Listpack::from_storage(std::mem::take(&mut self.storage))
    }

    #[inline]
    pub fn view(&self) -> ChunkRef<'_> {
        match short::is_short(&self.storage) {
            true => ChunkRef::Short(ShortRef::of(&self.storage)),
            false => ChunkRef::Packed(ListpackRef::from_storage(self.storage.bytes())),
        }
    }

    pub fn len(&self) -> usize {
        self.view().len()
    }

    pub fn heap_bytes(&self) -> usize {
        self.storage.heap_bytes()
    }

    /// Whether one listpack may not hold it with `count` more elements of `bytes` bytes.
    pub fn would_exceed(&self, fill: Fill, bytes: usize, count: usize) -> bool {
        match self.view() {
            ChunkRef::Short(short) => {
                let count = short.len() + count;
                fill.exceeded(short.listpack_bytes_max() + bytes, count)
                    && fill.exceeded(short.listpack_bytes() + bytes, count)
            }
            ChunkRef::Packed(listpack) => fill.exceeded(listpack.bytes_len() + bytes, listpack.len() + count),
            ChunkRef::Plain(_) => unreachable!("a packed list has no plain elements"),
        }
    }

    pub fn push(&mut self, end: End, item: Item<'_>) {
        if let Some(short) = self.short() {
            let at = if end == End::Head { Spot::START } else { short.end() };
            if short::splice(&mut self.storage, at, at, Some(item)) {
                return;
            }
            self.lengthen();
        }
        self.edit(|listpack| match end {
            End::Head => listpack.push_front(item),
            End::Tail => listpack.push_back(item),
        });
    }

    pub fn drop_end(&mut self, end: End, count: usize) {
        if let Some(short) = self.short() {
            let (from, to) = match end {
                End::Head => (Spot::START, short.seek(count)),
                End::Tail => (short.seek(short.len().saturating_sub(count)), short.end()),
            };
            short::splice(&mut self.storage, from, to, None);
            return;
        }
        self.edit(|listpack| {
            let view = listpack.view();
            let first = match end {
                End::Head => view.first(),
                End::Tail => view.seek(view.len().saturating_sub(count)),
            };
            first.into_iter().for_each(|at| listpack.remove(at, count));
        });
        self.shorten(SHORT_AGAIN);
    }

    /// Inserts before the element at `index`.
    pub fn insert(&mut self, index: usize, item: Item<'_>) {
        if let Some(short) = self.short() {
            let at = short.seek(index);
            if short::splice(&mut self.storage, at, at, Some(item)) {
                return;
            }
            self.lengthen();
        }
        self.edit(|listpack| {
            let at = listpack.view().seek(index).unwrap_or(listpack.view().end());
            listpack.insert(at, item);
        });
    }

    /// Replaces the element at `index`, which exists.
    pub fn replace(&mut self, index: usize, item: Item<'_>) {
        if let Some(short) = self.short() {
            let (from, to) = (short.seek(index), short.seek(index + 1));
            if short::splice(&mut self.storage, from, to, Some(item)) {
                return;
            }
            self.lengthen();
        }
        self.edit(|listpack| {
            let at = listpack.view().seek(index);
            at.into_iter().for_each(|at| listpack.replace(at, item));
        });
        self.shorten(SHORT_AGAIN);
    }

    /// Removes up to `count` elements equal to `item`, looking from `from` on. Returns how many were removed.
    pub fn remove(&mut self, item: Item<'_>, count: usize, from: End) -> usize {
        if self.short().is_some() {
            return short::remove_equal(&mut self.storage, item, count, from);
        }
        let removed = self.edit(|listpack| chunked::remove_equal(listpack, item, count, from));
        self.shorten(SHORT_AGAIN);
        removed
    }

    /// The short list that it is, or would become if it is empty.
    #[inline]
    fn short(&self) -> Option<ShortRef<'_>> {
        (self.storage.is_empty() || short::is_short(&self.storage)).then(|| ShortRef::of(&self.storage))
    }

    /// Makes a short list a listpack.
    fn lengthen(&mut self) {
        self.storage = self.take_listpack().into_storage();
    }

    /// Changes the listpack that it is.
    fn edit<R>(&mut self, change: impl FnOnce(&mut Listpack) -> R) -> R {
        let mut listpack = Listpack::from_storage(std::mem::take(&mut self.storage));
        let answer = change(&mut listpack);
        self.storage = listpack.into_storage();
        answer
    }

    /// Makes a listpack of at most `bytes` bytes a short list, if that has room for it.
    fn shorten(&mut self, bytes: usize) {
        if (1..=bytes).contains(&self.storage.len())
            && let ChunkRef::Packed(listpack) = self.view()
            && let Some(storage) = short::buffer_of(listpack.iter())
        {
            self.storage = storage;
        }
    }
}

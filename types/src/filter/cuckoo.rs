//! Cuckoo filters: as a Bloom filter, and items can be counted and deleted.
//!
//! 1. An item has a *fingerprint*, a byte from 1 to 255, and two buckets that may hold it. Each of the two follows from
//!    the other and the fingerprint, so a fingerprint can move without its item.
//! 2. An item goes into a free slot of its buckets. If there is none, it takes the place of a fingerprint, which moves to
//!    its other bucket, where it takes the place of another one, and so on, up to a number of moves. If that finds no free
//!    slot, all moves are taken back.
//! 3. Then the filter gets another *layer*, of as many buckets or more, if it may grow. An item is in the filter if it is
//!    in any layer.
//! 4. When a tenth of the items was deleted, those of later layers move to free slots of earlier ones, and a last layer
//!    that is empty goes.
//!
//! Hashes, sizes and the order of slots are those of RedisBloom, so filters move between servers. The head of a filter,
//! which [`Cuckoo::write_head`] writes and `CF.SCANDUMP` replies first, little-endian:
//!
//! ```text
//! | items u64 | buckets u64 | deleted u64 | layers u64 | bucket size u16 | moves u16 | growth u16 |
//! ```

use super::blocks::Blocks;
use super::{BadFilter, PART_BYTES_MAX, Parts, SHELL_BYTES};
use crate::murmur::murmur64a;
use crate::pace;

/// RedisBloom's defaults.
pub const CAPACITY: u64 = 1024;
pub const BUCKET_SIZE: u16 = 2;
pub const MOVES: u16 = 20;
pub const GROWTH: u16 = 1;

/// The most layers that a filter has when it takes items.
pub const LAYERS_MAX: usize = 32;
/// The most that it has: one request may add more, see [`Cuckoo::layers_for`].
const LAYERS_BOUND: usize = 96;

const EMPTY: u8 = 0;

/// Bytes of the head.
pub const HEAD: usize = 38;

/// The sizes of RedisBloom's structures, for [`Cuckoo::shown_bytes`].
const SHOWN_HEAD: u64 = 40;
const SHOWN_LAYER: u64 = 16;

/// The result of an insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CuckooInserted {
    New,
    /// Of a unique insertion: it may have been there before.
    Known,
    /// There is no room, and the filter does not grow.
    Full,
    /// There is no room, and the next layer would be too large.
    Failed,
}

/// A Cuckoo filter.
#[derive(Debug, Clone)]
pub struct Cuckoo {
    /// Of the first layer: a power of two.
    buckets: u64,
    /// The numbers of items and deletions in a filter from elsewhere are not checked.
    items: u64,
    deleted: u64,
    bucket_size: u16,
    moves: u16,
    /// By how much a layer is larger than the one before: a power of two, or 0.
    growth: u16,
    parts: Parts,
}

impl Default for Cuckoo {
    fn default() -> Self {
        Cuckoo::with_capacity(CAPACITY, BUCKET_SIZE, MOVES, GROWTH).expect("the defaults are those of a small filter")
    }
}

/// Where an item may be.
#[derive(Debug, Clone, Copy)]
struct Fingerprint {
    byte: u8,
    first: u64,
    second: u64,
}

impl Fingerprint {
    fn of(item: &[u8]) -> Self {
        let first = murmur64a(item, 0);
        let byte = (first % 255) as u8 + 1;
        Fingerprint { byte, first, second: other(byte, first) }
    }
}

/// The other of the two buckets of a fingerprint.
#[inline]
fn other(fingerprint: u8, bucket: u64) -> u64 {
    bucket ^ (u64::from(fingerprint) * 0x5bd1_e995)
}

/// The number of buckets of the first layer.
fn buckets_for(items: u64, bucket_size: u16) -> u64 {
    (items / u64::from(bucket_size.max(1))).max(1).checked_next_power_of_two().unwrap_or(1 << 63)
}

impl Cuckoo {
    /// An empty filter.
    ///
    /// # Errors
    /// [`BadFilter`] when it would be too large, or an argument is out of range.
    pub fn with_capacity(items: u64, bucket_size: u16, moves: u16, growth: u16) -> Result<Self, BadFilter> {
        let buckets = buckets_for(items, bucket_size);
        let growth = if growth == 0 { 0 } else { growth.checked_next_power_of_two().ok_or(BadFilter::Invalid)? };
        let mut filter = Cuckoo::from_fields(buckets, (0, 0), bucket_size, moves, growth)?;
        filter.parts.push(Blocks::zeroed(filter.layer_bytes(0)?));
        Ok(filter)
    }

    /// The bytes of the filter that [`Self::with_capacity`] makes, with so many items at most; 0 if it makes none.
    pub fn bytes_for(capacity: u64, bucket_size: u16, growth: u16, items: usize) -> usize {
        let growth = if growth == 0 { Some(0) } else { growth.checked_next_power_of_two() };
        let Some(growth) = growth else { return 0 };
        let filter = Cuckoo::from_fields(buckets_for(capacity, bucket_size), (0, 0), bucket_size, 1, growth);
        let Ok((filter, first)) = filter.and_then(|filter| filter.layer_bytes(0).map(|first| (filter, first))) else {
            return 0;
        };
        // The first items have free slots, whatever they are.
        let more =
            if items > usize::from(bucket_size) && growth > 0 { filter.layers_for(items, (1, first)) } else { 0 };
        filter.bytes_of(0..1 + more).saturating_add(filter.parts.lists_growth(1 + more) + SHELL_BYTES)
    }

    fn from_fields(
        buckets: u64,
        (items, deleted): (u64, u64),
        bucket_size: u16,
        moves: u16,
        growth: u16,
    ) -> Result<Self, BadFilter> {
        if !buckets.is_power_of_two() || !(1..=255).contains(&bucket_size) || moves == 0 {
            return Err(BadFilter::Invalid);
        }
        if growth > 32768 || growth != 0 && !growth.is_power_of_two() {
            return Err(BadFilter::Invalid);
        }
        Ok(Cuckoo { buckets, items, deleted, bucket_size, moves, growth, parts: Parts::default() })
    }

    /// The buckets of a layer: a power of two.
    fn layer_buckets(&self, layer: usize) -> Option<u64> {
        let growth = u64::from(self.growth).checked_pow(u32::try_from(layer).ok()?)?;
        self.buckets.checked_mul(growth).filter(|buckets| *buckets > 0)
    }

    fn layer_bytes(&self, layer: usize) -> Result<usize, BadFilter> {
        let bytes = self.layer_buckets(layer).and_then(|buckets| buckets.checked_mul(self.bucket_size.into()));
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
        bytes.filter(|bytes| *bytes <= PART_BYTES_MAX).ok_or(BadFilter::TooLarge)
    }

    /// How many layers a request with so many items may add to `layers` layers of so many slots: what they need if half of
    /// all slots are taken, and one more. More would only be needed for one item many times. As few items as a bucket has
    /// slots all have room in one layer.
    fn layers_for(&self, items: usize, (layers, slots): (usize, usize)) -> usize {
        if items <= usize::from(self.bucket_size) {
            return 1;
        }
        let wanted = self.items.saturating_add(items as u64).saturating_mul(2);
        let (mut slots, mut added) = (slots as u64, 1);
        while slots < wanted && layers + added < LAYERS_BOUND {
            let Ok(bytes) = self.layer_bytes(layers + added - 1) else { break };
            slots = slots.saturating_add(bytes as u64);
            added += 1;
        }
        added
    }

    /// The bytes of these layers, as far as there may be such.
    fn bytes_of(&self, layers: std::ops::Range<usize>) -> usize {
        let bytes = layers.map_while(|layer| self.layer_bytes(layer).ok());
        bytes.map(Blocks::heap_bytes_for).fold(0, usize::saturating_add)
    }

    /// The bytes that the insertion of these items adds at most.
    pub fn growth_for<'i>(&self, items: impl ExactSizeIterator<Item = &'i [u8]>) -> usize {
        let count = items.len();
        if self.growth == 0 || self.have_room(items) {
            return 0;
        }
        let layers = self.parts.count();
        let added = self.layers_for(count, (layers, self.parts.len()));
        self.bytes_of(layers..layers + added).saturating_add(self.parts.lists_growth(added))
    }

    /// Whether the buckets of each of these items have room for all of them.
    pub fn have_room<'i>(&self, mut items: impl ExactSizeIterator<Item = &'i [u8]>) -> bool {
        let count = items.len();
        // Many items are not looked at one by one: they would take as long as their insertion.
        count <= LOOKED_AT
            && items.all(|item| {
                let fingerprint = Fingerprint::of(item);
                let free = |layer: usize| {
                    let [one, two] = self.starts(layer, &fingerprint);
                    let slots = self.slots(one).chain(self.slots(two).take(if one == two { 0 } else { usize::MAX }));
                    slots.filter(|at| self.parts.get(layer, *at) == EMPTY).count()
                };
                (0..self.parts.count()).map(free).sum::<usize>() >= count
            })
    }

    /// The slots that an item looks at, and those that its moves look at.
    pub fn slots_looked_at(&self) -> (usize, usize) {
        let bucket = usize::from(self.bucket_size);
        (2 * bucket * self.parts.count(), 2 * bucket.max(2) * usize::from(self.moves))
    }

    /// Inserts several items, one after the other, and tells each result.
    pub fn insert<'i>(
        &mut self,
        items: impl ExactSizeIterator<Item = &'i [u8]>,
        is_unique: bool,
        mut tell: impl FnMut(CuckooInserted),
    ) {
        let layers = self.parts.count();
        let layers_max = layers + self.layers_for(items.len(), (layers, self.parts.len()));
        for item in items {
            pace::step(self.parts.count());
            let fingerprint = Fingerprint::of(item);
            if is_unique && self.has(&fingerprint) {
                tell(CuckooInserted::Known);
                continue;
            }
            tell(self.insert_one(&fingerprint, layers_max));
        }
    }

    fn insert_one(&mut self, fingerprint: &Fingerprint, layers_max: usize) -> CuckooInserted {
        loop {
            for layer in (0..self.parts.count()).rev() {
                if let Some(at) = self.find(layer, fingerprint, EMPTY) {
                    self.parts.set(layer, at, fingerprint.byte);
                    self.items = self.items.saturating_add(1);
                    return CuckooInserted::New;
                }
            }
            if self.insert_by_moves(self.parts.count() - 1, fingerprint) {
                self.items = self.items.saturating_add(1);
                return CuckooInserted::New;
            }
            if self.growth == 0 {
                return CuckooInserted::Full;
            }
            match self.layer_bytes(self.parts.count()) {
                Ok(bytes) if self.parts.count() < layers_max => self.parts.push(Blocks::zeroed(bytes)),
                _ => return CuckooInserted::Failed,
            }
        }
    }

    /// Step 2. Returns whether the item found room.
    fn insert_by_moves(&mut self, layer: usize, fingerprint: &Fingerprint) -> bool {
        let (buckets, size) =
            (self.parts.part_len(layer) / usize::from(self.bucket_size), usize::from(self.bucket_size));
        let buckets = buckets as u64;
        let mut byte = fingerprint.byte;
        let (mut bucket, mut slot) = (fingerprint.first % buckets, 0);
        for _ in 0..self.moves {
            // A full filter makes all of them for each item, and takes them back.
            pace::step(1);
            byte = self.swap(layer, bucket as usize * size + slot, byte);
            bucket = other(byte, bucket) % buckets;
            let start = bucket as usize * size;
            if let Some(at) = (start..start + size).find(|at| self.parts.get(layer, *at) == EMPTY) {
                self.parts.set(layer, at, byte);
                return true;
            }
            slot = (slot + 1) % size;
        }
        for _ in 0..self.moves {
            pace::step(1);
            slot = (slot + size - 1) % size;
            bucket = other(byte, bucket) % buckets;
            byte = self.swap(layer, bucket as usize * size + slot, byte);
        }
        false
    }

    fn swap(&mut self, layer: usize, at: usize, byte: u8) -> u8 {
        let before = self.parts.get(layer, at);
        self.parts.set(layer, at, byte);
        before
    }

    /// Whether the item may have been inserted; false: it was not.
    pub fn contains(&self, item: &[u8]) -> bool {
        self.has(&Fingerprint::of(item))
    }

    fn has(&self, fingerprint: &Fingerprint) -> bool {
        (0..self.parts.count()).any(|layer| self.find(layer, fingerprint, fingerprint.byte).is_some())
    }

    /// How often the item may have been inserted.
    pub fn count(&self, item: &[u8]) -> u64 {
        let fingerprint = Fingerprint::of(item);
        let in_layer = |layer: usize| {
            let slots = self.starts(layer, &fingerprint).into_iter().flat_map(|start| self.slots(start));
            slots.filter(|at| self.parts.get(layer, *at) == fingerprint.byte).count() as u64
        };
        (0..self.parts.count()).map(in_layer).sum()
    }

    /// Deletes an item once; returns whether it was there. One that was never inserted may be taken for one that was.
    pub fn delete(&mut self, item: &[u8]) -> bool {
        let fingerprint = Fingerprint::of(item);
        for layer in (0..self.parts.count()).rev() {
            let Some(at) = self.find(layer, &fingerprint, fingerprint.byte) else { continue };
            self.parts.set(layer, at, EMPTY);
            self.items = self.items.saturating_sub(1);
            self.deleted = self.deleted.saturating_add(1);
            if self.parts.count() > 1 && self.is_to_be_compacted(self.deleted, self.items) {
                self.compact();
            }
            return true;
        }
        false
    }

    /// Whether a deletion may move items of all layers.
    pub fn may_compact(&self) -> bool {
        self.parts.count() > 1 && self.is_to_be_compacted(self.deleted.saturating_add(1), self.items.saturating_sub(1))
    }

    fn is_to_be_compacted(&self, deleted: u64, items: u64) -> bool {
        deleted as f64 > items as f64 * 0.10
    }

    /// Step 4.
    fn compact(&mut self) {
        for layer in (1..self.parts.count()).rev() {
            let is_empty = self.empty_layer(layer);
            if is_empty && layer == self.parts.count() - 1 {
                self.parts.pop();
            }
            if !is_empty {
                break;
            }
        }
        self.deleted = 0;
    }

    /// Moves the fingerprints of a layer to earlier ones; returns whether none is left.
    fn empty_layer(&mut self, layer: usize) -> bool {
        let size = usize::from(self.bucket_size);
        let mut is_empty = true;
        for at in 0..self.parts.part_len(layer) {
            if at.is_multiple_of(pace::BYTES_PER_ELEMENT) {
                pace::step(1);
            }
            let byte = self.parts.get(layer, at);
            if byte == EMPTY {
                continue;
            }
            // An earlier layer has no more buckets, so this bucket's number says enough.
            let first = (at / size) as u64;
            let fingerprint = Fingerprint { byte, first, second: other(byte, first) };
            let found = (0..layer).find_map(|to| Some((to, self.find(to, &fingerprint, EMPTY)?)));
            match found {
                Some((to, slot)) => {
                    self.parts.set(to, slot, byte);
                    self.parts.set(layer, at, EMPTY);
                }
                None => is_empty = false,
            }
        }
        is_empty
    }

    /// The first slots of a fingerprint's two buckets.
    #[inline]
    fn starts(&self, layer: usize, fingerprint: &Fingerprint) -> [usize; 2] {
        let size = usize::from(self.bucket_size);
        let buckets = (self.parts.part_len(layer) / size) as u64;
        [fingerprint.first, fingerprint.second].map(|hash| (hash % buckets) as usize * size)
    }

    fn slots(&self, start: usize) -> std::ops::Range<usize> {
        start..start + usize::from(self.bucket_size)
    }

    /// The first slot of the fingerprint's buckets that holds `byte`.
    #[inline]
    fn find(&self, layer: usize, fingerprint: &Fingerprint, byte: u8) -> Option<usize> {
        let mut slots = self.starts(layer, fingerprint).into_iter().flat_map(|start| self.slots(start));
        slots.find(|at| self.parts.get(layer, *at) == byte)
    }

    pub fn items(&self) -> u64 {
        self.items
    }

    /// Items that were deleted since the layers were last compacted.
    pub fn deleted(&self) -> u64 {
        self.deleted
    }

    pub fn buckets(&self) -> u64 {
        self.buckets
    }

    pub fn bucket_size(&self) -> u16 {
        self.bucket_size
    }

    pub fn moves(&self) -> u16 {
        self.moves
    }

    pub fn growth(&self) -> u16 {
        self.growth
    }

    pub fn layers(&self) -> usize {
        self.parts.count()
    }

    /// The bytes that RedisBloom would take for it.
    pub fn shown_bytes(&self) -> u64 {
        SHOWN_HEAD + SHOWN_LAYER * self.parts.count() as u64 + self.parts.len() as u64
    }

    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    pub fn parts_mut(&mut self) -> &mut Parts {
        &mut self.parts
    }

    pub fn heap_bytes(&self) -> usize {
        self.parts.heap_bytes()
    }

    /// Appends everything but the slots.
    pub fn write_head(&self, out: &mut Vec<u8>) {
        for number in [self.items, self.buckets, self.deleted, self.parts.count() as u64] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.bucket_size, self.moves, self.growth] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// A filter whose slots are still to be [loaded](Parts::load), from its head.
    ///
    /// # Errors
    /// [`BadFilter`] when it is not the head of a filter, or that would be too large.
    pub fn from_head(head: &[u8]) -> Result<Self, BadFilter> {
        let head: &[u8; HEAD] = head.try_into().map_err(|_| BadFilter::Invalid)?;
        let (words, rest) = head.as_chunks::<8>();
        let [items, buckets, deleted, layers] = words else { return Err(BadFilter::Invalid) };
        let [items, buckets, deleted, layers] = [items, buckets, deleted, layers].map(|word| u64::from_le_bytes(*word));
        let (shorts, _) = rest.as_chunks::<2>();
        let [bucket_size, moves, growth] = shorts else { return Err(BadFilter::Invalid) };
        let [bucket_size, moves, growth] = [bucket_size, moves, growth].map(|short| u16::from_le_bytes(*short));
        Cuckoo::from_module((buckets, layers), (items, deleted), bucket_size, moves, growth)
    }

    /// The same from what a module's value in RDB has.
    ///
    /// # Errors
    /// As there.
    pub fn from_module(
        (buckets, layers): (u64, u64),
        counts: (u64, u64),
        bucket_size: u16,
        moves: u16,
        growth: u16,
    ) -> Result<Self, BadFilter> {
        let mut filter = Cuckoo::from_fields(buckets, counts, bucket_size, moves, growth)?;
        let layers = usize::try_from(layers).unwrap_or(usize::MAX);
        if layers == 0 || layers > LAYERS_BOUND || growth == 0 && layers > 1 {
            return Err(BadFilter::Invalid);
        }
        let lens = (0..layers).map(|layer| filter.layer_bytes(layer)).collect::<Result<Vec<usize>, BadFilter>>()?;
        filter.parts = Parts::to_load(lens.into_iter());
        Ok(filter)
    }

    pub(super) fn begin_capture(&mut self, id: u64, cell_bytes: usize) -> usize {
        let mut head = Vec::with_capacity(HEAD);
        self.write_head(&mut head);
        self.parts.begin_capture(id, cell_bytes, head)
    }
}

/// See [`Cuckoo::have_room`].
const LOOKED_AT: usize = 8;

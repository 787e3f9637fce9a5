//! A place: one segment of a keyspace, in memory or only in the store.

use std::sync::Arc;

use dormouse_storage::replay::Stored;
use dormouse_types::ObjectRef;
use dormouse_types::record::{Entry, Record, Value};
use dormouse_types::segment::{Placement, Range53, Ranged, Segment, SlotPlacement};

/// The keys of one range of positions.
///
/// Invariant: `bytes` is the sum of `heap_bytes` of the resident segment's records, `expiring` the number of those with
/// an expiry, `soonest` no later than the earliest of them. `expiring_hashes` is the number of hashes whose fields expire,
/// `soonest_field` no later than the first of those fields. For a stored place they are as the manifest says, which says
/// nothing of fields.
pub struct Place {
    pub range: Range53,
    pub holding: Holding,
    /// The part of it that the store does not have.
    pub dirty: Dirty,
    pub bytes: usize,
    pub expiring: u32,
    pub soonest: u64,
    pub expiring_hashes: u32,
    pub soonest_field: u64,
}

/// A moment before which no field of a record's hash expires, if one does at all.
#[inline]
pub fn field_expiry(record: &Record) -> Option<u64> {
    match record.value() {
        Value::Object(ObjectRef::Hash(hash)) => Some(hash.soonest()).filter(|soonest| *soonest < u64::MAX),
        _ => None,
    }
}

pub enum Holding {
    Resident(Segment<Record>),
    Stored(Arc<Stored>),
}

/// How many changed keys a place remembers before it counts as changed altogether.
const DIRTY_KEYS_MAX: usize = 64;

/// The changes in a place since it was last written to the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Dirty {
    #[default]
    Clean,
    /// These keys only, with their positions.
    Keys(Box<Vec<(u64, Box<[u8]>)>>),
    Whole,
}

impl Dirty {
    /// Notes that `key` was changed.
    #[inline]
    pub fn note(&mut self, position: u64, key: &[u8]) {
        if !matches!(self, Self::Whole) {
            self.note_key(position, key);
        }
    }

    fn note_key(&mut self, position: u64, key: &[u8]) {
        match self {
            Self::Clean => *self = Self::Keys(Box::new(vec![(position, key.into())])),
            Self::Keys(keys) => {
                if keys.iter().any(|(known, other)| *known == position && **other == *key) {
                    return;
                }
                if keys.len() == DIRTY_KEYS_MAX {
                    *self = Self::Whole;
                } else {
                    keys.push((position, key.into()));
                }
            }
            Self::Whole => {}
        }
    }

    /// Notes that the store has every key, but not the counts.
    pub fn note_counts(&mut self) {
        if self.is_clean() {
            *self = Self::Keys(Box::default());
        }
    }

    /// Notes that `records` have been removed.
    pub fn note_many(&mut self, records: &[Record], placement: &SlotPlacement) {
        if records.len() > DIRTY_KEYS_MAX {
            *self = Self::Whole;
        }
        for record in records {
            if matches!(self, Self::Whole) {
                return;
            }
            self.note_key(placement.position(record.key()), record.key());
        }
    }

    pub fn is_clean(&self) -> bool {
        matches!(self, Self::Clean)
    }
}

impl Ranged for Place {
    fn range(&self) -> Range53 {
        self.range
    }
}

impl Place {
    pub fn empty(range: Range53) -> Self {
        Self::resident(Segment::new(range), Dirty::Clean)
    }

    /// Takes the counts of `segment` by looking at each record.
    pub fn resident(segment: Segment<Record>, dirty: Dirty) -> Self {
        let (mut bytes, mut expiring, mut soonest) = (0, 0, u64::MAX);
        let (mut expiring_hashes, mut soonest_field) = (0, u64::MAX);
        for record in segment.iter() {
            bytes += record.heap_bytes();
            if let Some(at) = record.expiry() {
                expiring += 1;
                soonest = soonest.min(at);
            }
            if let Some(at) = field_expiry(record) {
                expiring_hashes += 1;
                soonest_field = soonest_field.min(at);
            }
        }
        let (range, holding) = (segment.range(), Holding::Resident(segment));
        Self { range, holding, dirty, bytes, expiring, soonest, expiring_hashes, soonest_field }
    }

    pub fn segment(&self) -> Option<&Segment<Record>> {
        match &self.holding {
            Holding::Resident(segment) => Some(segment),
            Holding::Stored(_) => None,
        }
    }

    pub fn segment_mut(&mut self) -> Option<&mut Segment<Record>> {
        match &mut self.holding {
            Holding::Resident(segment) => Some(segment),
            Holding::Stored(_) => None,
        }
    }

    pub fn stored(&self) -> Option<&Arc<Stored>> {
        match &self.holding {
            Holding::Resident(_) => None,
            Holding::Stored(stored) => Some(stored),
        }
    }

    pub fn records(&self) -> usize {
        match &self.holding {
            Holding::Resident(segment) => segment.len(),
            Holding::Stored(stored) => stored.records as usize,
        }
    }

    /// Bytes of memory that it takes beyond its entry in the directory.
    pub fn resident_bytes(&self) -> usize {
        match &self.holding {
            Holding::Resident(segment) => self.bytes + segment.heap_bytes(),
            Holding::Stored(_) => 0,
        }
    }

    /// Approximate bytes that the next checkpoint has to write for it.
    pub fn dirty_bytes(&self) -> usize {
        match &self.dirty {
            Dirty::Clean => 0,
            Dirty::Keys(keys) => keys.len() * (self.bytes / self.records().max(1)),
            Dirty::Whole => self.resident_bytes(),
        }
    }
}

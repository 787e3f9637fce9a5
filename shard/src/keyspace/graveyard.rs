//! Dropped values, to be freed away from the shard's lock, in steps.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use dormouse_storage::codec::value::pieces::{self, take};
use dormouse_types::record::{Entry, Record, Value};
use dormouse_types::segment::Captured;
use dormouse_types::{Object, ObjectRef};
use parking_lot::Mutex;

use super::BURY_ABOVE;
use super::index::Index;
use super::place::{Holding, Place};
use crate::lane::Waste;

/// Elements that are freed in one step.
const STEP_ELEMENTS: usize = 4096;

/// A dropped object that may be large.
pub enum Dead {
    Record(Record),
    Object(Object),
    Index(Box<Index>),
    /// The remains of the moment that a value remembered.
    Rest {
        moment: u64,
        bytes: Vec<u8>,
        elements: usize,
    },
}

impl Dead {
    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Record(record) => match record.value() {
                Value::Object(object) => record.heap_bytes() + pieces::aside_bytes(object),
                Value::Int(_) | Value::Raw(_) => record.heap_bytes(),
            },
            Self::Object(object) => object.as_ref().heap_bytes() + pieces::aside_bytes(object.as_ref()),
            Self::Index(index) => index.bytes(),
            Self::Rest { bytes, .. } => bytes.capacity(),
        }
    }
}

/// Whether a record holds a collection that is large. A long string is one allocation, as is a document of JSON.
pub fn takes_long_to_free(record: &Record) -> bool {
    match record.value() {
        Value::Object(ObjectRef::Text(_) | ObjectRef::Json(_)) | Value::Int(_) | Value::Raw(_) => false,
        Value::Object(object) => object.heap_bytes() > BURY_ABOVE,
    }
}

#[derive(Default)]
pub struct Graveyard {
    dead: Vec<Dead>,
    /// The object that is being freed.
    ruins: Ruins,
    bytes: usize,
}

impl Graveyard {
    /// Takes in a dropped object.
    pub fn bury(&mut self, dead: Dead) {
        self.bytes += dead.bytes();
        self.dead.push(dead);
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.dead.len()
    }

    pub fn is_empty(&self) -> bool {
        self.dead.is_empty()
    }
}

impl Waste for Graveyard {
    fn free_some(&mut self) -> bool {
        let mut left = STEP_ELEMENTS;
        loop {
            if self.ruins.free(&mut left) {
                match self.dead.pop() {
                    None => return true,
                    Some(Dead::Record(record)) => self.ruins.records = vec![record].into_iter(),
                    Some(Dead::Object(object)) => self.ruins.object = Some(object),
                    Some(Dead::Rest { .. }) => {}
                    Some(Dead::Index(index)) => self.ruins.places = index.into_places().into_iter(),
                }
            }
            if left == 0 {
                return false;
            }
        }
    }
}

/// Dropped values that a checkpoint of one moment still has to write.
///
/// While it is open, dropped values that remember the moment are kept here, however small they have become. Values that
/// are not written from memory any more do not remember it, nor do later ones. An index that is flushed is kept whole
/// if it is older than the moment. So no more is kept than existed at the moment, and it counts in the memory of the
/// database.
#[derive(Default)]
pub struct Parked {
    is_open: AtomicBool,
    /// The first number that values which are to be written may remember, and the first keyspace that is not written.
    moment: AtomicU64,
    keyspace: AtomicU32,
    bytes: AtomicUsize,
    dead: Mutex<Vec<Dead>>,
}

impl Parked {
    /// `moment`: the first number that values remember from now on; `keyspace`: the first keyspace that comes later.
    ///
    /// Called under all locks of the database.
    pub fn open(&self, moment: u64, keyspace: u32) {
        self.moment.store(moment, Ordering::Relaxed);
        self.keyspace.store(keyspace, Ordering::Relaxed);
        self.is_open.store(true, Ordering::SeqCst);
    }

    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// Whether a checkpoint still writes this object in its earlier state.
    pub fn wants(&self, object: ObjectRef<'_>) -> bool {
        self.is_open() && pieces::remembered(object).is_some_and(|moment| moment >= self.moment.load(Ordering::Relaxed))
    }

    pub fn wants_record(&self, record: &Record) -> bool {
        self.is_open() && matches!(record.value(), Value::Object(object) if self.wants(object))
    }

    /// Whether a checkpoint may still write something of this index.
    pub fn wants_index(&self, index: &Index) -> bool {
        self.is_open() && index.id < self.keyspace.load(Ordering::Relaxed)
    }

    /// Keeps an object until the checkpoint has ended, and counts it in `used`. Returns it if the checkpoint has ended
    /// since the caller asked: otherwise it would never be freed.
    pub fn park(&self, dead: Dead, used: &AtomicUsize) -> Option<Dead> {
        let mut parked = self.dead.lock();
        if !self.is_open() {
            return Some(dead);
        }
        let bytes = dead.bytes();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        used.fetch_add(bytes, Ordering::Relaxed);
        parked.push(dead);
        None
    }

    /// Returns all parked objects, to be freed, and how many bytes they were counted as. No lock of the database is
    /// needed.
    pub fn close(&self) -> (Graveyard, usize) {
        let mut graveyard = Graveyard::default();
        let mut dead = self.dead.lock();
        self.is_open.store(false, Ordering::SeqCst);
        dead.drain(..).for_each(|dead| graveyard.bury(dead));
        (graveyard, self.bytes.swap(0, Ordering::Relaxed))
    }

    /// Appends the next elements of a value that remembers `moment`, as [`take`] does.
    pub fn take(
        &self,
        (keyspace, position, key): (u32, u64, &[u8]),
        moment: u64,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> Option<Captured> {
        self.dead.lock().iter_mut().find_map(|dead| match dead {
            Dead::Record(record) => take(record.object_mut()?, moment, bytes_max, out),
            Dead::Object(object) => take(object.as_mut(), moment, bytes_max, out),
            Dead::Index(index) if index.id != keyspace || !index.covers(position >> 11) => None,
            Dead::Index(index) => take(index.get_mut(position, key)?.object_mut()?, moment, bytes_max, out),
            Dead::Rest { moment: other, bytes, elements } if *other == moment => {
                out.append(bytes);
                Some(Captured { entries: std::mem::take(elements), is_done: true })
            }
            Dead::Rest { .. } => None,
        })
    }
}

impl std::fmt::Debug for Parked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parked").field("is_open", &self.is_open).finish_non_exhaustive()
    }
}

/// A half-freed object: the object, records behind it, and places behind those.
struct Ruins {
    object: Option<Object>,
    records: std::vec::IntoIter<Record>,
    places: std::vec::IntoIter<Place>,
}

impl Default for Ruins {
    fn default() -> Self {
        Ruins { object: None, records: Vec::new().into_iter(), places: Vec::new().into_iter() }
    }
}

impl Ruins {
    /// Frees about `left` elements and subtracts them. Returns whether nothing is left.
    fn free(&mut self, left: &mut usize) -> bool {
        while *left > 0 {
            if let Some(object) = &mut self.object {
                if object.as_mut().dismantle(*left) {
                    self.object = None;
                    *left = left.saturating_sub(1);
                } else {
                    *left = 0;
                }
            } else if let Some(mut record) = self.records.next() {
                self.object = record.take_object();
                *left -= 1;
            } else if let Some(place) = self.places.next() {
                if let Holding::Resident(segment) = place.holding {
                    self.records = segment.into_iter();
                }
                *left -= 1;
            } else {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use dormouse_types::segment::{Placement, SlotPlacement};
    use dormouse_types::{Collection, Hash, Limits};

    use super::*;

    fn hash(fields: usize) -> Object {
        let mut hash = Hash::new();
        for at in 0..fields {
            hash.set(&at.to_le_bytes(), b"v", &Limits::default());
        }
        hash.into_object()
    }

    #[test]
    fn what_is_dropped_after_the_checkpoint_is_not_parked() {
        let (parked, used) = (Parked::default(), AtomicUsize::new(0));
        parked.open(1, 16);
        assert!(parked.park(Dead::Object(hash(100)), &used).is_none());
        let (graveyard, bytes) = parked.close();
        assert_eq!((graveyard.len(), bytes), (1, used.load(Ordering::Relaxed)));
        // The caller asked while it was open.
        let left = parked.park(Dead::Object(hash(100)), &used);
        assert!(left.is_some() && used.load(Ordering::Relaxed) == bytes);
        assert!(parked.close().0.is_empty());
    }

    #[test]
    fn everything_is_freed_in_bounded_steps() {
        let placement = SlotPlacement { seed: 1 };
        let mut index = Index::empty(0, 0, 16384);
        for key in 0..6000u32 {
            let key = key.to_le_bytes();
            index.insert(placement.position(&key), Record::new_raw(&key, b"value", None), &placement);
        }
        let key = b"large";
        index.insert(placement.position(key), Record::new_object(key, hash(20_000), None), &placement);
        let mut graveyard = Graveyard::default();
        graveyard.bury(Dead::Record(Record::new_object(b"r", hash(30_000), None)));
        graveyard.bury(Dead::Object(hash(10_000)));
        graveyard.bury(Dead::Index(Box::new(index)));
        assert!(graveyard.len() == 3 && graveyard.bytes() > 66_000 * 16);
        let mut steps = 1;
        while !graveyard.free_some() {
            steps += 1;
        }
        // 66,001 entries, a table's by whole segments.
        assert!((12..=20).contains(&steps), "{steps}");
        assert!(graveyard.free_some());
    }
}

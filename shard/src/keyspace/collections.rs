//! Collections in the keyspace: read, looked at without a trace, changed in place.

use dormouse_types::record::{Record, Value};
use dormouse_types::{Collection, Kind, Limits, ObjectRef};

use super::changes::{EventClass, KeyEvent};
use super::{Keyspace, Text};
use crate::error::{Error, Result};

/// Whether a change changed anything, with its result.
#[derive(Debug, Clone, Copy)]
pub enum Change<R> {
    Yes(R),
    /// Something changed beside the elements, such as the groups of a stream. As in Redis, transactions that watch the key go on, and
    /// clients that have it cached keep it.
    Beside(R),
    No(R),
}

impl<R> Change<R> {
    pub fn when(changed: bool, result: R) -> Self {
        if changed { Self::Yes(result) } else { Self::No(result) }
    }

    pub fn beside_when(changed: bool, result: R) -> Self {
        if changed { Self::Beside(result) } else { Self::No(result) }
    }

    pub fn map<T>(self, map: impl FnOnce(R) -> T) -> Change<T> {
        match self {
            Self::Yes(result) => Change::Yes(map(result)),
            Self::Beside(result) => Change::Beside(map(result)),
            Self::No(result) => Change::No(map(result)),
        }
    }

    /// Returns whether anything has changed, and the result.
    pub(super) fn split(self) -> (bool, R) {
        match self {
            Self::Yes(result) | Self::Beside(result) => (true, result),
            Self::No(result) => (false, result),
        }
    }
}

impl Keyspace<'_> {
    pub fn read<T: Collection>(&mut self, key: &[u8]) -> Result<Option<&T>> {
        match self.read_record(key).map(Record::value) {
            None => Ok(None),
            Some(Value::Object(object)) => T::as_object(object).map(Some).ok_or(Error::WrongType),
            Some(_) => Err(Error::WrongType),
        }
    }

    /// As [`Self::read`], for a command that looks at what it is about to change: no read is counted.
    pub fn read_to_change<T: Collection>(&mut self, key: &[u8]) -> Result<Option<&T>> {
        self.reads_to_change();
        self.read(key)
    }

    /// The next read looks at what the command is about to change: it is not counted.
    pub fn reads_to_change(&mut self) {
        self.is_unread = true;
    }

    /// The values under several keys at once.
    pub fn values<'k>(
        &mut self,
        keys: impl Iterator<Item = &'k [u8]> + Clone,
    ) -> impl Iterator<Item = Option<Value<'_>>> {
        // Expired keys are removed first, which needs the keyspace exclusively.
        for key in keys.clone() {
            let _ = self.read_record(key);
        }
        let seen: &Self = self;
        keys.map(move |key| seen.peek(key))
    }

    /// Number of elements of the collection under `key`, 0 if it does not exist or is not in memory. Looking leaves no
    /// trace: no access clock, no hit or miss, no fault.
    pub fn cardinality(&self, key: &[u8]) -> usize {
        match self.peek(key) {
            Some(Value::Object(ObjectRef::Text(_))) => 0,
            Some(Value::Object(object)) => object.len(),
            _ => 0,
        }
    }

    /// The bytes of the collection under `key`, 0 if it does not exist or is not in memory; no trace either.
    pub fn collection_bytes(&self, key: &[u8]) -> usize {
        match self.peek(key) {
            Some(Value::Object(object)) => object.heap_bytes(),
            _ => 0,
        }
    }

    /// The bytes of any value under `key`, 0 if it does not exist or is not in memory; no trace either.
    pub fn value_bytes(&self, key: &[u8]) -> usize {
        match self.peek(key) {
            Some(Value::Object(object)) => object.heap_bytes(),
            Some(Value::Raw(bytes)) => bytes.len(),
            Some(Value::Int(_)) | None => 0,
        }
    }

    /// The collection under `key`, if it is one of this kind and in memory. Looking leaves no trace, as above.
    pub fn peek_collection<T: Collection>(&self, key: &[u8]) -> Option<&T> {
        match self.peek(key)? {
            Value::Object(object) => T::as_object(object),
            _ => None,
        }
    }

    /// Length in bytes of the string under `key`, 0 if it does not exist or is not in memory; no trace either.
    pub fn string_length(&self, key: &[u8]) -> usize {
        match self.peek(key) {
            Some(Value::Int(n)) => Text::Int(n).len(),
            Some(Value::Raw(bytes)) => bytes.len(),
            Some(Value::Object(ObjectRef::Text(bytes))) => bytes.len(),
            Some(Value::Object(_)) | None => 0,
        }
    }

    pub(super) fn peek(&self, key: &[u8]) -> Option<Value<'_>> {
        let position = self.position(key);
        let shard = &self.shards[self.shard_at(position)];
        // A malformed request is looked at before it is refused, and routing does not take its words for keys.
        shard.covers((position >> 50) as u16).then_some(())?;
        let record = shard.index(self.select)?.get(position, key)?;
        record.expiry().is_none_or(|at| at > self.horizon()).then(|| record.value())
    }

    /// Changes the collection under `key`: created when absent, deleted when emptied, unless it [may be
    /// empty](Collection::MAY_BE_EMPTY).
    pub fn update<T: Collection, R>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut T, &Limits) -> Change<R>,
    ) -> Result<R> {
        let position = self.position(key);
        let mut change = Some(change);
        if let Some(result) = self.change_existing(key, position, &mut change)? {
            return Ok(result);
        }
        let change = change.expect("where there is no record, nothing was asked to change it");
        let mut made = T::new();
        let (changed, result) = change(&mut made, &self.settings.limits).split();
        if !made.is_empty() || T::MAY_BE_EMPTY && changed {
            self.add(position, Record::new_object(key, made.into_object(), None));
        }
        Ok(result)
    }

    /// Changes the collection under `key` if it exists; deleted when emptied.
    pub fn update_existing<T: Collection, R>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut T, &Limits) -> Change<R>,
    ) -> Result<Option<R>> {
        self.change_existing(key, self.position(key), &mut Some(change))
    }

    /// Takes `change` and runs it if the key exists.
    pub(super) fn change_existing<T: Collection, R, F: FnOnce(&mut T, &Limits) -> Change<R>>(
        &mut self,
        key: &[u8],
        position: u64,
        change: &mut Option<F>,
    ) -> Result<Option<R>> {
        self.reads_objects(true);
        let (select, uses, placement) = (self.select, self.uses, self.shared.placement);
        let Some(at) = self.ready(position, key) else { return Ok(None) };
        let Some(index) = self.shards[at].index_mut(select) else { return Ok(None) };
        let (limits, random) = (&self.settings.limits, &mut self.random);
        let outcome = index.update(position, key, &placement, |record| {
            let Some(collection) = record.object_mut().and_then(T::as_object_mut) else {
                return (false, Err(Error::WrongType));
            };
            let change = change.take().expect("a record is updated once");
            let change = change(collection, limits);
            let is_beside = matches!(change, Change::Beside(_));
            let (changed, result) = change.split();
            let empty = collection.is_empty() && !T::MAY_BE_EMPTY;
            record.set_access(uses.written(record.access(), changed, || random.u64(..)));
            (changed, Ok((changed, is_beside, empty, result)))
        });
        let Some(outcome) = outcome else { return Ok(None) };
        let (changed, is_beside, empty, result) = outcome?;
        if empty {
            let record = index.remove(position, key, true, &placement);
            self.bury(record);
        }
        if is_beside && !empty {
            self.changed_beside(key);
        } else if changed || empty {
            self.changed(self.event, key);
        }
        // A module of other servers tells of its own event only, and that of vector sets of none.
        let is_of_module = self.event.is_some_and(|event| event.class == EventClass::Module);
        if empty && !is_of_module && T::KIND != Kind::VectorSet {
            self.tell(KeyEvent::DEL, key);
        }
        Ok(Some(result))
    }

    /// Sets `key` to `object`, replacing any value; an empty one deletes it, unless it may be empty. The expiry is `expiry` or none.
    pub fn put<T: Collection>(&mut self, key: &[u8], object: T, expiry: Option<u64>) {
        if object.is_empty() && !T::MAY_BE_EMPTY {
            self.delete(key);
        } else {
            self.replace(key, Record::new_object(key, object.into_object(), expiry));
        }
    }

    /// As [`Self::put`], for a result that is made of other keys.
    ///
    /// # Errors
    /// [`Error::ValueTooLarge`] when it is larger than the operator allows.
    pub fn put_result<T: Collection>(&mut self, key: &[u8], object: T) -> Result<()> {
        if object.heap_bytes() > self.settings.records.value_bytes_max {
            return Err(Error::ValueTooLarge);
        }
        self.put(key, object, None);
        Ok(())
    }
}

//! The keyspace: positions, places, records, expiry, eviction, memory accounting. It knows nothing of replies.
//!
//! A command is handed a [`Keyspace`]: one logical index of a database, seen through the shards whose locks are held. It
//! finds its record like this:
//!
//! 1. the key's position (slot and keyed hash) says which of the held shards,
//! 2. the shard's [`Index`] finds the place in its directory,
//! 3. the place's segment finds the record: home bucket, neighbour, stash.
//!
//! Invariants:
//! - Time and chance come from the keyspace, never from the system: a log replays exactly.
//! - Every change goes through a method here, which marks the place dirty, tells of the change ([`changes`]) and records the
//!   effect. A command that forgets nothing needs to remember nothing.
//! - A place that is not resident is never mistaken for an empty one: the keyspace notes a [`Fault`], and the caller loads
//!   the place and runs the command again. Commands with named keys are checked before they run, so that a fault can only
//!   come from one that has not changed anything.

pub mod changes;
pub mod contents;
pub mod eviction;
pub mod expiry;
pub mod graveyard;
pub mod index;
pub mod place;
mod restored;
pub mod settings;
pub mod staging;
mod strings;
#[cfg(test)]
pub(crate) mod testing;
mod whole;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::Request;
use dormouse_storage::codec::value::pieces;
use dormouse_storage::effect;
use dormouse_storage::log::{self, Lsn};
use dormouse_types::record::{Entry, Record, Value, access_clock};
use dormouse_types::segment::Placement;
use dormouse_types::{Collection, Kind, Object};
use smallvec::SmallVec;

pub use contents::{Contents, Load};
pub use graveyard::{Dead, Graveyard};
pub use index::Index;
pub use settings::{EngineSettings, Eviction, Shared};

pub use dormouse_storage::shown::{ALL_INDEXES, INDEXES, Shown};
pub use dormouse_types::Limits;

use crate::error::{Error, Result};
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::index::prefix;

/// Objects with more heap than this are freed in pieces on the slow lane.
const BURY_ABOVE: usize = 64 << 10;

/// A string's bytes as they are stored.
#[derive(Debug, Clone, Copy)]
pub enum Text<'a> {
    Int(i64),
    Raw(&'a [u8]),
}

impl Text<'_> {
    pub fn len(&self) -> usize {
        match self {
            Self::Int(n) => itoa::Buffer::new().format(*n).len(),
            Self::Raw(bytes) => bytes.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the bytes, of which an integer's are only made for it.
    pub fn with_bytes<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Self::Int(n) => read(itoa::Buffer::new().format(*n).as_bytes()),
            Self::Raw(bytes) => read(bytes),
        }
    }

    pub fn to_vec(&self) -> Vec<u8> {
        self.with_bytes(<[u8]>::to_vec)
    }
}

/// What happens to the expiry of a key whose value is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    None,
    Keep,
    /// Unix milliseconds.
    At(u64),
}

/// Whether a change changed anything, with its result.
#[derive(Debug, Clone, Copy)]
pub enum Change<R> {
    Yes(R),
    No(R),
}

impl<R> Change<R> {
    pub fn when(changed: bool, result: R) -> Self {
        if changed { Self::Yes(result) } else { Self::No(result) }
    }

    fn split(self) -> (bool, R) {
        match self {
            Self::Yes(result) => (true, result),
            Self::No(result) => (false, result),
        }
    }
}

/// A place that must be loaded before the command can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub select: u8,
    pub prefix: u64,
}

/// The value and expiry of a key that was taken out.
#[derive(Debug)]
pub struct Taken {
    record: Record,
}

/// What a batch has left in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// What must be durable before the replies may leave; 0: nothing.
    pub awaited: Lsn,
    /// Behind its own entry; 0: it wrote nothing.
    pub written: Lsn,
}

/// How the effects of the command that runs are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recording {
    /// Nobody keeps them.
    Off,
    /// The wrapper records the command verbatim if it changed anything.
    Verbatim,
    /// The primitives record each key.
    ByKey,
}

/// One logical index of a database, over the shards that are held.
pub struct Keyspace<'a> {
    /// In slot order; together they cover every key that the command names.
    shards: SmallVec<[&'a mut Contents; 1]>,
    shared: &'a Shared,
    settings: Arc<EngineSettings>,
    select: u8,
    /// See [`Shared::followed`].
    followed: u32,
    /// Whether keys of a followed index that have expired are still there for the command that runs.
    sees_expired: bool,
    now_ms: u64,
    random: u64,
    /// The access clock of records read or written now, 24 bits: seconds.
    clock: u32,
    recording: Recording,
    /// What the commands so far have done, as items of the log.
    items: Vec<u8>,
    /// What replies must wait for before they leave.
    awaited: Lsn,
    strict: bool,
    changes: u64,
    /// What the changes of the command that runs are called.
    event: Option<KeyEvent>,
    fault: Option<Fault>,
    /// A key, and its position.
    expected: (&'a [u8], u64),
    graveyard: Graveyard,
    pub hits: u64,
    pub misses: u64,
    keep_access: bool,
    /// What `keep_access` is at the beginning of each command.
    no_touch: bool,
}

impl<'a> Keyspace<'a> {
    /// `now_ms`: unix milliseconds; `seed`: chance for this batch.
    pub fn new(
        shards: impl IntoIterator<Item = &'a mut Contents>,
        shared: &'a Shared,
        select: u8,
        now_ms: u64,
        seed: u64,
    ) -> Self {
        Self {
            shards: shards.into_iter().collect(),
            shared,
            settings: shared.settings.load_full(),
            select,
            followed: shared.followed.load(Ordering::Relaxed),
            sees_expired: true,
            now_ms,
            random: seed | 1,
            clock: access_clock(now_ms),
            recording: Recording::Off,
            items: Vec::new(),
            awaited: 0,
            strict: shared.journal.is_strict(),
            changes: 0,
            event: None,
            fault: None,
            expected: (&[], 0),
            graveyard: Graveyard::default(),
            hits: 0,
            misses: 0,
            keep_access: false,
            no_touch: false,
        }
    }

    pub fn now(&self) -> u64 {
        self.now_ms
    }

    /// Uniform 64 bits.
    pub fn random(&mut self) -> u64 {
        split_mix(&mut self.random)
    }

    /// Numbers like those of [`Self::random`], to be taken while a value is borrowed.
    pub fn randoms(&mut self) -> impl FnMut() -> u64 + use<> {
        let mut state = self.random();
        move || split_mix(&mut state)
    }

    pub fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    pub fn settings(&self) -> &EngineSettings {
        &self.settings
    }

    pub fn shared(&self) -> &'a Shared {
        self.shared
    }

    pub fn selected(&self) -> u8 {
        self.select
    }

    /// Chooses the logical index that the following calls see.
    pub fn select(&mut self, select: u8) {
        self.select = select;
    }

    /// The access clock is left alone: `TOUCH`-less reads such as `OBJECT IDLETIME`.
    pub fn without_access(&mut self, keep: bool) {
        self.keep_access = keep;
    }

    /// `CLIENT NO-TOUCH`: only `TOUCH` itself changes access clocks.
    pub fn no_touch(&mut self, on: bool) {
        self.no_touch = on;
    }

    // ---- one command ------------------------------------------------------------------------------------------------

    /// Before each command. `by_key`: its primitives record its effects. `writes`: it is there to change keys.
    pub(crate) fn begin(&mut self, by_key: bool, writes: bool) {
        self.changes = 0;
        self.sees_expired = writes;
        self.keep_access = self.no_touch;
        self.recording = match (self.shared.journal.is_recording(), by_key) {
            (false, _) => Recording::Off,
            (true, false) => Recording::Verbatim,
            (true, true) => Recording::ByKey,
        };
    }

    /// Leaves what was done to the log, as one entry, while the locks are held. Dropping does the same, for whoever holds
    /// no replies back.
    pub fn finish(&mut self) -> Left {
        if self.items.is_empty() {
            return Left { awaited: self.awaited, written: 0 };
        }
        let items = std::mem::take(&mut self.items);
        let lsn = self.shared.journal.append(&self.shared.sequence, self.now_ms, &items);
        if self.strict {
            self.note_unflushed(&items, lsn);
            self.shared.tell(lsn);
            self.awaited = lsn;
        } else if self.shared.journal.is_behind(lsn) {
            self.awaited = lsn;
        }
        give_items(items);
        Left { awaited: self.awaited, written: lsn }
    }

    fn note_unflushed(&mut self, items: &[u8], lsn: Lsn) {
        let flushed = self.shared.journal.log().map_or(0, |log| log.flushed());
        self.shards.iter_mut().for_each(|shard| shard.unflushed.settle(flushed));
        let mut reader = dormouse_storage::codec::Reader::new(items);
        while let Ok(item) = log::format::read_item(&mut reader) {
            match item {
                log::format::LogItem::Effect { position, .. } => self.shard(position).unflushed.note(position, lsn),
                log::format::LogItem::Ids(_) => self.shards.iter_mut().for_each(|shard| shard.unflushed.note_all(lsn)),
            }
        }
    }

    /// Before each command of a database whose loss window is zero: its reply tells of these keys, so it waits for what was
    /// written to them. `keys`: none where it finds its keys by itself.
    pub(crate) fn depend_on<'k>(&mut self, keys: Option<impl Iterator<Item = &'k [u8]>>) {
        if self.shards.iter().all(|shard| shard.unflushed.is_empty()) {
            return;
        }
        let flushed = self.shared.journal.log().map_or(0, |log| log.flushed());
        let mut awaited = 0;
        match keys {
            Some(keys) => {
                for key in keys {
                    let position = self.position(key);
                    awaited = awaited.max(self.shards[self.shard_at(position)].unflushed.of(position));
                }
            }
            None => awaited = self.shards.iter().map(|shard| shard.unflushed.last()).max().unwrap_or(0),
        }
        if awaited > flushed {
            self.awaited = self.awaited.max(awaited);
        }
    }

    /// Whether so much has gathered that an entry of the log should end here.
    pub fn is_laden(&self) -> bool {
        self.items.len() > ITEMS_BYTES_MAX
    }

    /// What is told by a reply that looks at no key, but at what others have done to some.
    pub fn depend_on_all(&mut self) {
        if self.strict {
            self.depend_on(None::<std::iter::Empty<&[u8]>>);
        }
    }

    /// Whether replies wait for what they tell of to be durable.
    pub(crate) fn is_strict(&self) -> bool {
        self.strict
    }

    /// After each command: whether it has changed something and is its own effect.
    pub(crate) fn is_to_record(&self) -> bool {
        self.recording == Recording::Verbatim && self.changes > 0
    }

    /// Records `request`, whose first key is its argument number `key`.
    pub(crate) fn record_verbatim(&mut self, request: Request<'_>, key: usize) {
        self.record(request.arg(key), |body| effect::verbatim(body, request));
    }

    /// How many changes the command made.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    pub fn take_fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }

    /// Whether a place that was looked at must be loaded: what it seemed to hold means nothing, and nothing may be changed.
    /// For commands that look where their keys don't say, in another index.
    pub fn has_fault(&self) -> bool {
        self.fault.is_some()
    }

    /// Big values and whole indexes that were dropped, to be freed elsewhere.
    pub fn take_graveyard(&mut self) -> Graveyard {
        std::mem::take(&mut self.graveyard)
    }

    /// Records what a command did to `key` where it differs from the command itself: `db.effect(key, &[b"SREM", key, member])`.
    pub fn effect(&mut self, key: &[u8], args: &[&[u8]]) {
        if self.recording == Recording::ByKey {
            self.record(key, |body| effect::command(body, args.iter().copied()));
        }
    }

    fn record(&mut self, key: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        let position = self.position(key);
        let select = usize::from(self.select);
        let keyspace = self.shard(position).ids[select];
        let keyspace = self.marked(keyspace);
        self.take_items();
        log::format::write_effect(&mut self.items, keyspace, position, write);
    }

    /// Records the value that `key` has now, or that it is gone.
    fn record_value(&mut self, key: &[u8]) {
        let (position, select) = (self.position(key), self.select);
        self.take_items();
        let shard = &self.shards[self.shard_at(position)];
        let keyspace = self.marked(shard.ids[usize::from(select)]);
        let record = shard.index(select).and_then(|index| index.get(position, key));
        log::format::write_effect(&mut self.items, keyspace, position, |body| match record {
            Some(record) => effect::value(body, record),
            None => effect::delete(body, key),
        });
    }

    /// Records which keyspaces the logical indexes show from now on.
    fn record_ids(&mut self) {
        if self.recording != Recording::Off {
            self.take_items();
            let next = self.shared.next_id.load(Ordering::SeqCst);
            let shown = Shown { ids: self.shards[0].ids, followed: self.followed, next };
            log::format::write_ids(&mut self.items, &shown);
        }
    }

    /// A buffer with room, at the first effect of a batch.
    fn take_items(&mut self) {
        if self.items.capacity() == 0 {
            self.items = SPARE_ITEMS.take();
        }
    }

    // ---- finding ------------------------------------------------------------------------------------------------------

    pub fn position(&self, key: &[u8]) -> u64 {
        if std::ptr::eq(key, self.expected.0) {
            return self.expected.1;
        }
        self.shared.placement.position(key)
    }

    /// Says where the key of the next command is, where the caller has computed it already. `key` is recognised by its
    /// address, so it must outlive this view unchanged.
    pub fn expect(&mut self, key: &'a [u8], position: u64) {
        self.expected = (key, position);
    }

    fn shard(&mut self, position: u64) -> &mut Contents {
        let at = self.shard_at(position);
        self.shards[at]
    }

    fn shard_at(&self, position: u64) -> usize {
        if self.shards.len() == 1 {
            return 0;
        }
        let slot = (position >> 50) as u16;
        self.shards.partition_point(|shard| shard.end_slot <= slot).min(self.shards.len() - 1)
    }

    /// The shard to look for `key` in, where its place is resident. If `key` has expired, it is removed first, unless the
    /// index is followed: then a command that writes finds it, and one that reads does not.
    fn ready(&mut self, position: u64, key: &[u8]) -> Option<usize> {
        let (select, now) = (self.select, self.now_ms);
        let at = self.shard_at(position);
        let index = self.shards[at].index(select)?;
        if !index.is_resident(position) {
            self.fault.get_or_insert(Fault { select, prefix: prefix(position) });
            return None;
        }
        if index.may_have_expired(position, now)
            && index.get(position, key)?.expiry().is_some_and(|expiry| expiry <= now)
        {
            if self.is_followed() {
                // Its source says when it goes.
                return self.sees_expired.then_some(at);
            }
            let placement = self.shared.placement;
            // The stored copy finds by itself that it has expired, but a later write of an earlier time would not.
            let dirty = self.shared.journal.is_recording();
            let record = self.shards[at].index_mut(select)?.remove(position, key, dirty, &placement);
            self.shared.expired.fetch_add(1, Ordering::Relaxed);
            self.shared.changed(Some(KeyEvent::EXPIRED), select, key);
            self.bury(record);
            if self.shared.journal.is_recording() {
                // A later command's time may be before this one's, as it waited or another worker's clock is behind:
                // replay must not find the key again.
                self.record(key, |body| effect::delete(body, key));
            }
            return None;
        }
        Some(at)
    }

    /// The record of `key`, unless it has expired.
    fn find(&mut self, position: u64, key: &[u8]) -> Option<&mut Record> {
        let at = self.ready(position, key)?;
        self.shards[at].index_mut(self.select)?.get_mut(position, key)
    }

    fn read_record(&mut self, key: &[u8]) -> Option<&Record> {
        let position = self.position(key);
        let (clock, keep, select) = (self.clock, self.keep_access, self.select);
        let found = match self.ready(position, key) {
            Some(at) => self.shards[at].index_mut(select).and_then(|index| index.get_mut(position, key)),
            None => None,
        };
        let Some(record) = found else {
            self.misses += 1;
            return None;
        };
        self.hits += 1;
        if !keep && record.access() != clock {
            record.set_access(clock);
        }
        Some(record)
    }

    fn bury(&mut self, record: Option<Record>) {
        let Some(record) = record else { return };
        let bytes = record.heap_bytes();
        if bytes > BURY_ABOVE || self.shared.parked.is_open() && bytes > self.settings.sizes.large_bytes {
            let at = self.shard_at(self.position(record.key()));
            self.lay_down(at, Dead::Record(record));
        }
    }

    /// For a value that gets another key: a checkpoint that writes it looks for it under the one that it had.
    fn forget_moment(&mut self, object: &mut Object) {
        let Some(moment) = pieces::remembered(object) else { return };
        if self.shared.parked.is_open() {
            let mut bytes = Vec::new();
            let rest = pieces::take(object, moment, usize::MAX, &mut bytes);
            let elements = rest.map_or(0, |captured| captured.entries);
            self.shared.parked.park(Dead::Rest { moment, bytes, elements });
        }
        pieces::end(object);
    }

    /// Takes in what the held shard number `at` has dropped, for a checkpoint that still writes it, or to be freed.
    fn lay_down(&mut self, at: usize, dead: Dead) {
        self.shards[at].buried_bytes += dead.bytes();
        match self.shared.parked.is_open() {
            true => self.shared.parked.park(dead),
            false => self.graveyard.bury(dead),
        }
    }

    /// Calls the changes that follow `event`, except those that delete a key.
    pub fn call_changes(&mut self, event: impl Into<Option<KeyEvent>>) {
        self.event = event.into();
    }

    /// After every change of `key`: the place is dirty already.
    fn changed(&mut self, event: Option<KeyEvent>, key: &[u8]) {
        self.changes += 1;
        self.shared.changed(event, self.select, key);
    }

    /// Tells that `event` has happened to `key` too, beside what the change itself is called.
    pub fn tell(&mut self, event: KeyEvent, key: &[u8]) {
        self.shared.changed(Some(event), self.select, key);
    }

    // ---- keys -----------------------------------------------------------------------------------------------------------

    pub fn exists(&mut self, key: &[u8]) -> bool {
        self.read_record(key).is_some()
    }

    /// Whether a write would find `key` there: no read is counted.
    pub fn contains(&mut self, key: &[u8]) -> bool {
        let position = self.position(key);
        self.find(position, key).is_some()
    }

    pub fn kind(&mut self, key: &[u8]) -> Option<Kind> {
        self.read_record(key).map(kind_of)
    }

    /// The record itself, for `OBJECT`, `MEMORY USAGE`, `DUMP`.
    pub fn record_of(&mut self, key: &[u8]) -> Option<&Record> {
        self.read_record(key)
    }

    pub fn delete(&mut self, key: &[u8]) -> bool {
        self.take_out(key, Some(KeyEvent::DEL)).map(|taken| self.bury(Some(taken.record))).is_some()
    }

    /// Takes `key` out with its value and expiry.
    pub fn take(&mut self, key: &[u8]) -> Option<Taken> {
        self.take_out(key, self.event)
    }

    fn take_out(&mut self, key: &[u8], event: Option<KeyEvent>) -> Option<Taken> {
        let (position, select, placement) = (self.position(key), self.select, self.shared.placement);
        let at = self.ready(position, key)?;
        let record = self.shards[at].index_mut(select)?.remove(position, key, true, &placement)?;
        self.changed(event, key);
        if self.recording == Recording::ByKey {
            self.record(key, |body| effect::delete(body, key));
        }
        Some(Taken { record })
    }

    /// Puts what was taken (or copied) under `key`, replacing what is there. Its expiry comes along.
    pub fn put_taken(&mut self, key: &[u8], taken: Taken) {
        let Taken { mut record } = taken;
        let expiry = record.expiry();
        let moved = match record.take_object() {
            Some(mut object) => {
                self.forget_moment(&mut object);
                Record::new_object(key, object, expiry)
            }
            None => match record.value() {
                Value::Int(n) => Record::new_raw(key, itoa::Buffer::new().format(n).as_bytes(), expiry),
                Value::Raw(bytes) => Record::new_string(key, bytes, record.origin(), expiry),
                Value::Object(_) => unreachable!("take_object answered None"),
            },
        };
        self.replace(key, moved);
    }

    /// A copy of `key`'s value and expiry.
    pub fn copy_of(&mut self, key: &[u8]) -> Option<Taken> {
        let record = self.read_record(key)?;
        let expiry = record.expiry();
        let record = match record.value() {
            Value::Int(n) => Record::new_raw(key, itoa::Buffer::new().format(n).as_bytes(), expiry),
            Value::Raw(bytes) => Record::new_string(key, bytes, record.origin(), expiry),
            Value::Object(object) => Record::new_object(key, object.clone(), expiry),
        };
        Some(Taken { record })
    }

    /// Unix milliseconds; `None`: no such key; `Some(None)`: it never expires.
    pub fn expiry(&mut self, key: &[u8]) -> Option<Option<u64>> {
        self.read_record(key).map(Record::expiry)
    }

    /// As [`Self::expiry`], for a write: no read is counted.
    pub fn expiry_unread(&mut self, key: &[u8]) -> Option<Option<u64>> {
        let position = self.position(key);
        self.find(position, key).map(|record| record.expiry())
    }

    /// Sets or removes the expiry. False: no such key, or nothing to remove.
    pub fn set_expiry(&mut self, key: &[u8], expiry: Option<u64>) -> bool {
        let position = self.position(key);
        let (select, at, placement) = (self.select, self.ready(position, key), self.shared.placement);
        let index = at.and_then(|at| self.shards[at].index_mut(select));
        let changed = index.and_then(|index| {
            index.update(position, key, &placement, |record| {
                let changed = record.expiry().is_some() || expiry.is_some();
                if changed {
                    record.set_expiry(expiry);
                }
                (changed, changed)
            })
        });
        if changed != Some(true) {
            return false;
        }
        self.changed(self.event, key);
        if self.recording == Recording::ByKey {
            self.record(key, |body| effect::expiry(body, key, expiry));
        }
        true
    }

    // ---- collections ------------------------------------------------------------------------------------------------------

    pub fn read<T: Collection>(&mut self, key: &[u8]) -> Result<Option<&T>> {
        match self.read_record(key).map(Record::value) {
            None => Ok(None),
            Some(Value::Object(object)) => T::as_object(object).map(Some).ok_or(Error::WrongType),
            Some(_) => Err(Error::WrongType),
        }
    }

    /// The values under several keys at once.
    pub fn values<'k>(
        &mut self,
        keys: impl Iterator<Item = &'k [u8]> + Clone,
    ) -> impl Iterator<Item = Option<Value<'_>>> {
        // What has expired goes first, which needs the keyspace for itself.
        for key in keys.clone() {
            let _ = self.read_record(key);
        }
        let seen: &Self = self;
        keys.map(move |key| seen.peek(key))
    }

    /// How many elements the collection under `key` has, 0 where there is none or it is not in memory. Looking leaves no
    /// trace: no access clock, no hit or miss, no fault.
    pub fn cardinality(&self, key: &[u8]) -> usize {
        match self.peek(key) {
            Some(Value::Object(Object::Text(_))) => 0,
            Some(Value::Object(object)) => object.len(),
            _ => 0,
        }
    }

    /// The bytes of the collection under `key`, 0 where there is none or it is not in memory; no trace either.
    pub fn collection_bytes(&self, key: &[u8]) -> usize {
        match self.peek(key) {
            Some(Value::Object(object)) => object.heap_bytes(),
            _ => 0,
        }
    }

    /// The bytes of whatever is under `key`, 0 where there is nothing or it is not in memory; no trace either.
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

    /// How many bytes the string under `key` has, 0 where there is none or it is not in memory; no trace either.
    pub fn string_length(&self, key: &[u8]) -> usize {
        match self.peek(key) {
            Some(Value::Int(n)) => Text::Int(n).len(),
            Some(Value::Raw(bytes)) => bytes.len(),
            Some(Value::Object(Object::Text(bytes))) => bytes.len(),
            Some(Value::Object(_)) | None => 0,
        }
    }

    fn peek(&self, key: &[u8]) -> Option<Value<'_>> {
        let position = self.position(key);
        let shard = &self.shards[self.shard_at(position)];
        // A malformed request is looked at before it is refused, and its words are no keys to those who route it.
        shard.covers((position >> 50) as u16).then_some(())?;
        let record = shard.index(self.select)?.get(position, key)?;
        record.expiry().is_none_or(|at| at > self.horizon()).then(|| record.value())
    }

    /// Changes the collection under `key`: made when absent, deleted when emptied.
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
        let (_, result) = change(&mut made, &self.settings.limits).split();
        if !made.is_empty() {
            self.add(position, Record::new_object(key, made.into_object(), None));
        }
        Ok(result)
    }

    /// Changes the collection under `key` if there is one; deleted when emptied.
    pub fn update_existing<T: Collection, R>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut T, &Limits) -> Change<R>,
    ) -> Result<Option<R>> {
        self.change_existing(key, self.position(key), &mut Some(change))
    }

    /// Takes `change` and runs it if there is such a key.
    fn change_existing<T: Collection, R, F: FnOnce(&mut T, &Limits) -> Change<R>>(
        &mut self,
        key: &[u8],
        position: u64,
        change: &mut Option<F>,
    ) -> Result<Option<R>> {
        let (select, clock, placement) = (self.select, self.clock, self.shared.placement);
        let Some(at) = self.ready(position, key) else { return Ok(None) };
        let Some(index) = self.shards[at].index_mut(select) else { return Ok(None) };
        let limits = &self.settings.limits;
        let outcome = index.update(position, key, &placement, |record| {
            let Some(collection) = record.object_mut().and_then(T::as_object_mut) else {
                return (false, Err(Error::WrongType));
            };
            let change = change.take().expect("a record is updated once");
            let (changed, result) = change(collection, limits).split();
            let empty = collection.is_empty();
            record.set_access(clock);
            (changed, Ok((changed, empty, result)))
        });
        let Some(outcome) = outcome else { return Ok(None) };
        let (changed, empty, result) = outcome?;
        if empty {
            let record = index.remove(position, key, true, &placement);
            self.bury(record);
        }
        if changed || empty {
            self.changed(self.event, key);
        }
        if empty {
            self.tell(KeyEvent::DEL, key);
        }
        Ok(Some(result))
    }

    /// Sets `key` to `object`, whatever it was; an empty one deletes it. The expiry is `expiry` or none.
    pub fn put(&mut self, key: &[u8], object: impl Collection, expiry: Option<u64>) {
        if object.is_empty() {
            self.delete(key);
        } else {
            self.replace(key, Record::new_object(key, object.into_object(), expiry));
        }
    }

    /// Whether what [`Self::effect`] is given is kept.
    pub fn records_by_key(&self) -> bool {
        self.recording == Recording::ByKey
    }

    /// Records the value that `key` has now as the effect: for a change by `update` in a command that records by key.
    pub fn effect_value(&mut self, key: &[u8]) {
        if self.recording == Recording::ByKey {
            self.record_value(key);
        }
    }

    pub(crate) fn replace(&mut self, key: &[u8], record: Record) {
        let (position, select, placement) = (self.position(key), self.select, self.shared.placement);
        if let Some(at) = self.ready(position, key) {
            let old = self.shards[at].index_mut(select).and_then(|index| index.remove(position, key, true, &placement));
            self.bury(old);
        }
        self.add(position, record);
    }

    fn add(&mut self, position: u64, mut record: Record) {
        let (select, placement) = (self.select, self.shared.placement);
        record.set_access(self.clock);
        self.changed(self.event, record.key());
        if self.recording == Recording::ByKey {
            let keyspace = self.shard(position).ids[usize::from(select)];
            let keyspace = self.marked(keyspace);
            self.take_items();
            log::format::write_effect(&mut self.items, keyspace, position, |body| effect::value(body, &record));
        }
        self.shard(position).index_or_new(select).insert(position, record, &placement);
    }

    fn after_write(&mut self, key: &[u8]) {
        self.changed(self.event, key);
        if self.recording == Recording::ByKey {
            self.record_value(key);
        }
    }

    // ---- prefetching ----------------------------------------------------------------------------------------------------------

    /// Asks for the bucket that a look-up will read.
    pub fn prefetch(&self, position: u64) {
        if let Some(index) = self.shards[self.shard_at(position)].index(self.select) {
            index.prefetch(position);
        }
    }

    /// Asks for the records that a look-up will compare with, once their bucket has come.
    pub fn prefetch_record(&self, position: u64) {
        if let Some(index) = self.shards[self.shard_at(position)].index(self.select) {
            index.prefetch_record(position);
        }
    }

    /// Whether every key at `positions` can be looked at; else the first place that cannot.
    pub fn missing(&self, position: u64) -> Option<Fault> {
        self.missing_in(self.select, position)
    }

    /// The same in another logical index.
    pub fn missing_in(&self, select: u8, position: u64) -> Option<Fault> {
        let index = self.shards[self.shard_at(position)].index(select)?;
        (!index.is_resident(position)).then(|| Fault { select, prefix: prefix(position) })
    }

    /// A place of the selected index that is not in memory, if there is one.
    pub fn any_missing(&self) -> Option<Fault> {
        let index = self.shards.iter().filter_map(|shard| shard.index(self.select)).find(|index| index.stored() > 0)?;
        let place = index.places().iter().find(|place| place.stored().is_some())?;
        Some(Fault { select: self.select, prefix: place.range.start })
    }

    /// Removes `key` if it has expired; whoever watches it is told.
    pub fn expire(&mut self, key: &[u8]) {
        self.find(self.position(key), key);
        // A place that is not resident keeps what has expired until it is loaded.
        self.fault = None;
    }

    /// Whether all that is held is in memory.
    pub fn is_resident(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_resident())
    }
}

impl Taken {
    pub fn expiry(&self) -> Option<u64> {
        self.record.expiry()
    }
}

impl Drop for Keyspace<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}

thread_local! {
    /// The buffer of the last batch, for the next.
    static SPARE_ITEMS: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A pipeline leaves an entry when it has done so much; a transaction is one, however large.
const ITEMS_BYTES_MAX: usize = 4 << 20;

/// A larger buffer is not kept for the next batch.
const SPARE_ITEMS_BYTES_MAX: usize = 256 << 10;

fn give_items(mut items: Vec<u8>) {
    if items.capacity() <= SPARE_ITEMS_BYTES_MAX {
        items.clear();
        SPARE_ITEMS.set(items);
    }
}

/// SplitMix64.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub fn kind_of(record: &Record) -> Kind {
    match record.value() {
        Value::Int(_) | Value::Raw(_) => Kind::String,
        Value::Object(object) => object.kind(),
    }
}

fn text_of(record: &Record) -> Result<Text<'_>> {
    match record.value() {
        Value::Int(n) => Ok(Text::Int(n)),
        Value::Raw(bytes) => Ok(Text::Raw(bytes)),
        Value::Object(Object::Text(bytes)) => Ok(Text::Raw(bytes)),
        Value::Object(_) => Err(Error::WrongType),
    }
}

#[cfg(test)]
mod tests;

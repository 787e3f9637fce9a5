//! The keyspace: positions, places, records, expiry, eviction, memory accounting. It knows nothing of replies.
//!
//! A command is handed a [`Keyspace`]: one logical index of a database, seen through the shards whose locks are held.
//! It finds its record like this:
//!
//! 1. the key's position (slot and keyed hash) says which of the held shards,
//! 2. the shard's [`Index`] finds the place in its directory,
//! 3. the place's segment finds the record: home bucket, neighbour, stash.
//!
//! Invariants:
//! - Time and chance come from the keyspace, never from the system: a log replays exactly.
//! - Every change goes through a method here, which marks the place dirty, reports the change ([`changes`]) and records
//!   the effect. So a command cannot forget any of this.
//! - A place that is not resident is never mistaken for an empty one: the keyspace notes a [`Fault`], and the caller
//!   loads the place and runs the command again. Commands with named keys are checked before they run, so that a fault
//!   can only come from one that has not changed anything.

pub mod access;
pub mod changes;
mod collections;
pub mod contents;
pub mod damage;
pub mod detached;
pub mod eviction;
pub mod expiry;
pub mod field_sets;
pub mod fields;
pub mod foreseen;
pub mod functions;
pub mod graveyard;
pub mod index;
mod keys;
pub mod notices;
pub mod outbox;
mod outbox_records;
pub mod place;
pub mod receipts;
mod recording;
mod restored;
mod scripted;
pub mod scripts;
pub mod settings;
pub mod staging;
pub mod strings;
#[cfg(test)]
pub(crate) mod testing;
mod text;
pub mod tracking;
pub mod waiting;
mod whole;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_storage::codec::value::pieces;
use dormouse_storage::effect;
use dormouse_storage::log::{self, Lsn};
use dormouse_types::record::{Entry, Record, Value};
use dormouse_types::segment::Placement;
use dormouse_types::{Kind, Object};
use fastrand::Rng;
use smallvec::SmallVec;

pub use collections::Change;
pub use contents::{Contents, Load};
pub use detached::DetachedKeyspace;
pub use foreseen::Foreseen;
pub use graveyard::{Dead, Graveyard};
pub use index::Index;
pub use keys::Taken;
pub use recording::Left;
pub use settings::{EngineSettings, Eviction, LfuSettings, RecordLimits, Shared};
pub use strings::Rewrite;
pub use text::{Text, kind_of};
pub use waiting::{Asked, Offer, ReadyKey, Wait};

pub use dormouse_storage::shown::{ALL_INDEXES, INDEXES, Shown};
pub use dormouse_types::Limits;
pub use dormouse_types::stream::Idempotency;

use self::access::Uses;
use self::changes::KeyEvent;
use self::field_sets::{FieldSet, FieldSets};
use self::index::prefix;
use self::notices::Noted;
use self::recording::Recording;
use self::scripts::{Published, ScriptTrace, ScriptUser};
use self::tracking::Tracker;

/// Objects with more heap than this, one of them or all that one turn drops, are freed in pieces on the slow lane.
const BURY_ABOVE: usize = 64 << 10;

/// The fate of the expiry of a key whose value is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    None,
    Keep,
    /// Unix milliseconds.
    At(u64),
}

impl Expiry {
    /// The expiry of a key that had `before`.
    fn after(self, before: Option<u64>) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Keep => before,
            Self::At(at) => Some(at),
        }
    }
}

/// A place that must be loaded before the command can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub select: u8,
    pub prefix: u64,
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
    /// Whether expired keys of a followed index still exist for the command that runs.
    sees_expired: bool,
    now_ms: u64,
    random: Rng,
    /// The mark that a use leaves in records that are read or written now.
    uses: Uses,
    recording: Recording,
    /// The effects of the commands so far, as items of the log.
    items: Vec<u8>,
    /// The end in the log that replies must wait for before they leave.
    awaited: Lsn,
    strict: bool,
    /// Whether commands need more than to run: see [`Self::is_attentive`].
    is_attentive: bool,
    changes: u64,
    /// The event of changes by the command that runs.
    event: Option<KeyEvent>,
    fault: Option<Fault>,
    foreseen: Foreseen,
    graveyard: Option<Graveyard>,
    freed_bytes: usize,
    /// Messages of scripts.
    published: Vec<Published>,
    /// Events for subscribers, since the last entry of the log.
    noted: Noted,
    /// How the client of the commands that run tracks keys.
    tracker: Tracker,
    tracked: Option<Box<tracking::TrackedChanges>>,
    tells_in_line: bool,
    /// The calls of the script that runs, or has run last.
    trace: Option<Box<ScriptTrace>>,
    /// One that is no longer needed, for its allocations.
    spare_trace: Option<Box<ScriptTrace>>,
    must_finish: bool,
    /// Changes that are not counted in the database's number yet.
    change_count: u64,
    has_changed: bool,
    pub hits: u64,
    pub misses: u64,
    asked: Asked,
    /// The last command waits.
    wait: Option<Box<Wait>>,
    /// Keys that have changed and are waited for.
    ready: Vec<ReadyKey>,
    keep_access: bool,
    /// The next read of a key is made to change it: it is not counted.
    is_unread: bool,
    /// If the next read of a key finds none, no event is told.
    is_silent: bool,
    /// The value of `keep_access` at the beginning of each command.
    no_touch: bool,
    /// Of the scripts that run.
    script_user: Option<Arc<dyn ScriptUser>>,
    /// The command that runs, if it is suspended.
    suspended: Option<Box<dyn Any + Send>>,
    /// The cost of commands beyond their estimates.
    spent: usize,
    /// The fields that the command names as a set.
    bound_fields: Option<Arc<FieldSet>>,
    /// Those that a script has named.
    field_sets: Option<Box<FieldSets>>,
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
        let settings = shared.settings.load_full();
        let strict = shared.journal.is_strict();
        Self {
            shards: shards.into_iter().collect(),
            shared,
            uses: Uses::new(&settings, now_ms),
            settings,
            select,
            followed: shared.followed.load(Ordering::Relaxed),
            sees_expired: true,
            now_ms,
            random: Rng::with_seed(seed),
            recording: Recording::Off,
            items: Vec::new(),
            awaited: 0,
            strict,
            is_attentive: strict,
            changes: 0,
            event: None,
            fault: None,
            foreseen: Foreseen::default(),
            graveyard: None,
            freed_bytes: 0,
            published: Vec::new(),
            noted: Noted::default(),
            tracker: Tracker::default(),
            tracked: None,
            tells_in_line: false,
            trace: None,
            spare_trace: None,
            must_finish: false,
            change_count: 0,
            has_changed: false,
            hits: 0,
            misses: 0,
            asked: Asked::Now,
            wait: None,
            ready: Vec::new(),
            keep_access: false,
            is_unread: false,
            is_silent: false,
            no_touch: false,
            script_user: None,
            suspended: None,
            spent: 0,
            bound_fields: None,
            field_sets: None,
        }
    }

    pub fn now(&self) -> u64 {
        self.now_ms
    }

    /// Uniform 64 bits.
    pub fn random(&mut self) -> u64 {
        self.random.u64(..)
    }

    /// Numbers like those of [`Self::random`], to be taken while a value is borrowed.
    pub fn randoms(&mut self) -> impl FnMut() -> u64 + use<> {
        let mut random = self.random.fork();
        move || random.u64(..)
    }

    pub fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    /// The mark for records that are used now.
    pub fn uses(&self) -> Uses {
        self.uses
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

    /// Sets the user on whose behalf scripts run; `None`: one who may do everything.
    pub fn set_script_user(&mut self, user: Option<Arc<dyn ScriptUser>>) {
        self.script_user = user;
    }

    pub fn script_user(&self) -> Option<&Arc<dyn ScriptUser>> {
        self.script_user.as_ref()
    }

    pub fn is_no_touch(&self) -> bool {
        self.no_touch
    }

    // ---- one command ------------------------------------------------------------------------------------------------

    /// How many changes the command made.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether any command of the batch has changed a key.
    pub fn has_changed(&self) -> bool {
        self.has_changed
    }

    /// Notes that what counts as one change of a key consists of `more` further ones.
    pub fn count_further(&mut self, more: u64) {
        self.change_count += more;
    }

    /// Counts a change.
    fn count_change(&mut self) {
        self.changes += 1;
        self.change_count += 1;
        self.has_changed = true;
    }

    pub fn take_fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }

    /// Whether a place that was looked at must be loaded: then its apparent contents mean nothing, and nothing may be
    /// changed. For commands that look at another index, at keys that their arguments don't name.
    pub fn has_fault(&self) -> bool {
        self.fault.is_some()
    }

    /// Bytes of the objects that were dropped so far and are not in the graveyard.
    pub const fn freed_bytes(&self) -> usize {
        self.freed_bytes
    }

    /// Takes the big values and whole indexes that were dropped, if any, to be freed elsewhere.
    pub fn take_graveyard(&mut self) -> Option<Graveyard> {
        self.graveyard.take()
    }

    // ---- finding ------------------------------------------------------------------------------------------------------

    #[inline]
    pub fn position(&self, key: &[u8]) -> u64 {
        self.foreseen.position(key).unwrap_or_else(|| self.shared.placement.position(key))
    }

    fn shard(&mut self, position: u64) -> &mut Contents {
        let at = self.shard_at(position);
        self.shards[at]
    }

    #[inline]
    fn shard_at(&self, position: u64) -> usize {
        if self.shards.len() == 1 {
            return 0;
        }
        let slot = (position >> 50) as u16;
        self.shards.partition_point(|shard| shard.end_slot <= slot).min(self.shards.len() - 1)
    }

    /// The shard to look for `key` in, if its place is resident. If `key` has expired, it is removed first, unless the
    /// index is followed: then a command that writes finds it, and one that reads does not. While the database is still,
    /// a command that reads leaves it.
    #[inline]
    fn ready(&mut self, position: u64, key: &[u8]) -> Option<usize> {
        let at = self.shard_at(position);
        let index = self.shards[at].index(self.select)?;
        if index.is_resident_for_ever() { Some(at) } else { self.ready_now(at, position, key) }
    }

    fn ready_now(&mut self, at: usize, position: u64, key: &[u8]) -> Option<usize> {
        let (select, now) = (self.select, self.now_ms);
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
            if !self.sees_expired && self.shared.is_still(now) {
                return None;
            }
            let placement = self.shared.placement;
            // The stored copy finds by itself that it has expired, but a later write of an earlier time would not.
            let dirty = self.shared.journal.is_recording();
            let record = self.shards[at].index_mut(select)?.remove(position, key, dirty, &placement);
            self.shared.expired.fetch_add(1, Ordering::Relaxed);
            self.shared.changed(&mut self.noted, Some(KeyEvent::EXPIRED), select, key);
            self.untrack(key);
            self.note_ready(key);
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
        let (uses, keep, select) = (self.uses, self.keep_access, self.select);
        let is_unread = std::mem::take(&mut self.is_unread);
        let is_silent = std::mem::take(&mut self.is_silent);
        let found = match self.ready(position, key) {
            Some(at) => self.shards[at].index_mut(select).and_then(|index| index.get_mut(position, key)),
            None => None,
        };
        let Some(record) = found else {
            if is_unread {
                return None;
            }
            self.misses += 1;
            if self.fault.is_none() && !is_silent {
                self.shared.tell_event(&mut self.noted, KeyEvent::KEY_MISS, select, key);
            }
            return None;
        };
        self.hits += u64::from(!is_unread);
        self.foreseen.reads_objects = matches!(record.value(), Value::Object(_));
        if !keep {
            let next = uses.next(record.access(), || self.random.u64(..));
            if record.access() != next {
                record.set_access(next);
            }
        }
        Some(record)
    }

    fn bury(&mut self, record: Option<Record>) {
        let Some(record) = record else { return };
        if self.shared.parked.wants_record(&record) {
            let at = self.shard_at(self.position(record.key()));
            if let Some(dead) = self.shared.park(Dead::Record(record)) {
                self.lay_down(at, dead);
            }
            return;
        }
        let bytes = record.heap_bytes();
        let is_object = matches!(record.value(), Value::Object(_));
        if bytes > BURY_ABOVE || is_object && self.freed_bytes + bytes > BURY_ABOVE {
            let at = self.shard_at(self.position(record.key()));
            self.lay_down(at, Dead::Record(record));
        } else if is_object {
            self.freed_bytes += bytes;
        }
    }

    /// For a value that moves to another key: a checkpoint that writes it looks for it under its old key.
    fn forget_moment(&mut self, object: &mut Object) {
        let Some(moment) = pieces::remembered(object.as_ref()) else { return };
        if self.shared.parked.wants(object.as_ref()) {
            let mut bytes = Vec::new();
            let rest = pieces::take(object.as_mut(), moment, usize::MAX, &mut bytes);
            let elements = rest.map_or(0, |captured| captured.entries);
            // A rest that no checkpoint writes any more is dropped.
            drop(self.shared.park(Dead::Rest { moment, bytes, elements }));
        }
        pieces::end(object.as_mut());
    }

    /// Takes in an object that the held shard number `at` has dropped, to be freed.
    fn lay_down(&mut self, at: usize, dead: Dead) {
        self.shards[at].buried_bytes += dead.bytes();
        self.graveyard.get_or_insert_default().bury(dead);
    }

    /// The same of a whole index, which a checkpoint may still write.
    fn lay_down_index(&mut self, at: usize, index: Box<Index>) {
        let dead = match self.shared.parked.wants_index(&index) {
            true => self.shared.park(Dead::Index(index)),
            false => Some(Dead::Index(index)),
        };
        dead.into_iter().for_each(|dead| self.lay_down(at, dead));
    }

    /// Names the changes that follow `event`, except those that delete a key.
    pub fn call_changes(&mut self, event: impl Into<Option<KeyEvent>>) {
        self.event = event.into();
    }

    /// Called after every change of `key`: the place is dirty already.
    fn changed(&mut self, event: Option<KeyEvent>, key: &[u8]) {
        self.count_change();
        self.shared.changed(&mut self.noted, event, self.select, key);
        self.untrack(key);
        self.note_ready(key);
    }

    /// Called after a change of `key` that leaves its elements as they were.
    fn changed_beside(&mut self, key: &[u8]) {
        self.count_change();
        if let Some(event) = self.event {
            self.tell(event, key);
        }
        self.note_ready(key);
    }

    /// Reports `event` for `key` too, beside the event of the change itself.
    pub fn tell(&mut self, event: KeyEvent, key: &[u8]) {
        self.shared.tell_event(&mut self.noted, event, self.select, key);
    }

    /// Names the fields of the hash under `key` that its last `event` is about. Subscribers may ask for them.
    #[inline]
    pub fn tell_fields<'f>(&mut self, event: KeyEvent, key: &[u8], fields: impl Iterator<Item = &'f [u8]>) {
        if self.shared.notices.wants_fields() {
            self.shared.notices.name_fields(&mut self.noted, (event, self.select, key), fields);
        }
    }

    /// The same for a command of which only some fields have changed: it collects them only if this is true.
    pub fn wants_fields(&self) -> bool {
        self.shared.notices.wants_fields()
    }

    /// Reports that a value of kind `old` under `key` was replaced as a whole.
    #[cold]
    fn tell_overwritten(&mut self, old: Kind, new: Kind, key: &[u8]) {
        self.shared.note_only(&mut self.noted, KeyEvent::OVERWRITTEN, self.select, key);
        if old != new {
            self.shared.note_only(&mut self.noted, KeyEvent::TYPE_CHANGED, self.select, key);
        }
    }

    /// Reports once more that `key` was read in vain.
    pub fn tell_missed(&mut self, key: &[u8]) {
        self.shared.tell_event(&mut self.noted, KeyEvent::KEY_MISS, self.select, key);
    }

    /// Reports that `key` comes into being.
    pub fn tell_new(&mut self, key: &[u8]) {
        self.shared.tell_event(&mut self.noted, KeyEvent::NEW, self.select, key);
    }

    pub(crate) fn replace(&mut self, key: &[u8], record: Record) {
        self.put_record(key, record, true);
    }

    /// Puts `record` under `key`, replacing any value there. `tells_new`: whether it reports a key that was not there; the
    /// caller has done so otherwise.
    pub(super) fn put_record(&mut self, key: &[u8], record: Record, tells_new: bool) {
        let (position, select, placement) = (self.position(key), self.select, self.shared.placement);
        let (mut access, mut is_new) = (self.uses.first(), tells_new);
        let mut overwritten = None;
        if let Some(at) = self.ready(position, key) {
            let old = self.shards[at].index_mut(select).and_then(|index| index.remove(position, key, true, &placement));
            if let Some(old) = &old {
                is_new = false;
                access = self.uses.written(old.access(), true, || self.random.u64(..));
                if self.shared.notices.wants_overwrites() {
                    overwritten = Some((kind_of(old), kind_of(&record)));
                }
            }
            self.bury(old);
        }
        if is_new {
            self.tell_new(key);
        }
        // Where the caller tells of the key itself, Redis does so before.
        if let Some((old, new)) = overwritten.filter(|_| tells_new) {
            self.tell_overwritten(old, new, key);
        }
        self.add_used(position, record, access);
        if let Some((old, new)) = overwritten.filter(|_| !tells_new) {
            self.tell_overwritten(old, new, key);
        }
    }

    fn add(&mut self, position: u64, record: Record) {
        self.tell_new(record.key());
        self.add_used(position, record, self.uses.first());
    }

    fn add_used(&mut self, position: u64, mut record: Record, access: u32) {
        let (select, placement) = (self.select, self.shared.placement);
        record.set_access(access);
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

    /// The place of the key at `position`, if it must be loaded before the key can be looked at.
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

    /// Removes `key` if it has expired; its watchers are told.
    pub fn expire(&mut self, key: &[u8]) {
        self.find(self.position(key), key);
        // A place that is not resident keeps expired keys until it is loaded.
        self.fault = None;
    }

    /// Whether all held shards are in memory.
    pub fn is_resident(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_resident())
    }
}

impl Drop for Keyspace<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests;

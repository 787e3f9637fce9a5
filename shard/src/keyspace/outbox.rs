//! The outbox: events of keys that triggers have yet to deliver, as hidden data of the database.
//!
//! 1. A keyspace, or a slice of upkeep, *captures* each event that a [`TriggerQueue`] wants, in a buffer of its own.
//! 2. Before its effects get into the log, it *keeps* what it has captured: for each trigger a record of the hidden index
//!    [`OUTBOX`], whose effect is an item of the same entry. So a crash keeps the change and its event, or neither.
//! 3. While it still has the locks, it queues the numbers of the records, in memory, with the end of the log that must be
//!    durable before they are delivered. A key's events are queued under the lock of its shard, so in their order.
//! 4. The server reads records, delivers them, and then deletes them (`crate::outbox`). What was not deleted is delivered
//!    again after a crash: a wake lists the records once, ordered by their numbers ([`Outbox::list`]).
//!
//! A record is in a slot of its shard, so it splits, sleeps and is recovered as keys are. A wake loads the whole index, so
//! that a record can be inserted at any time; it is bounded, and empty as long as deliveries keep up.
//!
//! Each trigger has a bound on what waits for it. When it is reached, events are *lost* rather than writes refused. A *gap* is
//! queued, with a record of its own, in place of the first lost event, and counts them. Events are kept again once a quarter
//! of the room is free.
//!
//! The key of a record is 20 bytes, of which the tag decides the slot:
//!
//! ```text
//! | { tag u8[2] } | trigger u64 BE | number u64 BE |
//! ```
//!
//! Its value:
//!
//! ```text
//! +-------+ 0
//! | kind  | u8: 1 events, 2 a gap
//! | time  | u64 LE, unix milliseconds
//! | salt  | u64 LE, differs from process to process
//! +-------+ 17
//! | events, each:
//! |   index u8 | name with its length, u8 | key with its length, u16 LE
//! +-------+
//! ```

pub mod filter;

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use dormouse_storage::log::Lsn;
use dormouse_storage::shown::{INDEXES, OUTBOX};
use dormouse_types::ObjectRef;
use dormouse_types::record::{Record, Value};
use dormouse_types::segment::{SLOTS, slot_of};
use parking_lot::Mutex;

use self::filter::TriggerFilter;
use super::changes::KeyEvent;

pub(super) const SELECT: u8 = OUTBOX as u8;

/// Events of longer keys are not captured.
pub const KEY_BYTES_MAX: usize = 8 << 10;
/// Most events of one record, and the bytes from which on it takes no more.
const RECORD_EVENTS_MAX: u32 = 256;
const RECORD_BYTES_MAX: usize = 16 << 10;
/// Bytes of an event beside its key, about.
const EVENT_BYTES: usize = 16;
/// Memory that a record takes beside its events.
pub(super) const RECORD_BYTES: usize = 128;
/// Bytes that one batch captures, over all triggers.
pub(super) const CAPTURED_BYTES_MAX: usize = 8 << 20;

pub(super) const EVENTS: u8 = 1;
pub(super) const GAP: u8 = 2;
pub(super) const HEAD_BYTES: usize = 17;
const KEY_BYTES: usize = 20;

/// The outbox of a database: its triggers, and what waits for them.
#[derive(Debug)]
pub struct Outbox {
    present: ArcSwap<Present>,
    /// The number of the last record.
    last: AtomicU64,
    pub(super) salt: u64,
    /// The records that earlier processes have left are queued.
    is_listed: AtomicBool,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            present: ArcSwap::default(),
            last: AtomicU64::new(0),
            salt: RandomState::new().hash_one(0),
            is_listed: AtomicBool::new(false),
        }
    }
}

/// The triggers that are in force.
#[derive(Debug, Default)]
struct Present {
    triggers: Vec<Arc<TriggerQueue>>,
    letters: Vec<Letters>,
}

/// A stream of events that were not delivered. Only a trigger that names it gets its events. If the trigger that fills the
/// stream names one itself, none does: two triggers whose receivers fail would fill each other's for ever.
#[derive(Debug)]
struct Letters {
    key: Box<[u8]>,
    is_told: bool,
}

impl Present {
    fn new(triggers: Vec<Arc<TriggerQueue>>) -> Self {
        let mut letters: Vec<Letters> = Vec::new();
        for filter in triggers.iter().map(|trigger| &trigger.filter) {
            let is_of_another = |key: &&[u8]| *key != filter.letters();
            let mut others = triggers.iter().map(|other| other.filter.letters()).filter(is_of_another);
            let is_told = !others.any(|key| filter.names(key));
            match letters.iter_mut().find(|letters| *letters.key == *filter.letters()) {
                Some(shared) => shared.is_told &= is_told,
                None => letters.push(Letters { key: filter.letters().into(), is_told }),
            }
        }
        Self { triggers, letters }
    }
}

/// The events that wait for one trigger.
pub struct TriggerQueue {
    /// Never reused.
    pub id: u64,
    pub filter: TriggerFilter,
    pub(super) waiting: Mutex<Waiting>,
    /// Called when something was queued and nothing waited before, perhaps under the locks of shards.
    arrived: Box<dyn Fn() + Send + Sync>,
}

#[derive(Debug, Default)]
pub(super) struct Waiting {
    entries: VecDeque<OutboxEntry>,
    pub(super) bytes: usize,
    events: u64,
    pub(super) gaps: VecDeque<Gap>,
    /// Events are lost until there is room again.
    pub(super) is_full: bool,
    /// The trigger is gone.
    pub(super) is_closed: bool,
    /// Events that were lost since the start.
    pub(super) lost: u64,
}

/// One record that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxEntry {
    /// Those of a key's events ascend.
    pub number: u64,
    pub(super) slot: u16,
    pub(super) is_gap: bool,
    pub events: u32,
    pub bytes: u32,
    /// The end of the log that must be durable before it is delivered.
    pub awaited: Lsn,
}

/// Events that were lost because too many waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub(super) number: u64,
    /// `None`: the process that has counted them is gone.
    pub events: Option<u64>,
    /// Of the first and the last of them, unix milliseconds.
    pub from_ms: u64,
    pub until_ms: u64,
}

/// A record, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboxRecord {
    Events { number: u64, time_ms: u64, salt: u64, events: Vec<OutboxEvent> },
    Gap { number: u64, salt: u64, gap: Gap },
}

/// An event as a record has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEvent {
    pub select: u8,
    pub name: Box<str>,
    pub key: Box<[u8]>,
}

/// How much waits for a trigger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventBacklog {
    pub events: u64,
    pub bytes: usize,
    /// Events lost since the start, because too many waited.
    pub lost: u64,
}

impl TriggerQueue {
    /// `arrived` is called when something was queued and nothing waited before.
    pub fn new(id: u64, filter: TriggerFilter, arrived: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { id, filter, waiting: Mutex::default(), arrived: Box::new(arrived) })
    }

    /// The first entries, with about so many events and bytes at most, but at least one.
    pub fn first(&self, events_max: u64, bytes_max: usize) -> Vec<OutboxEntry> {
        let waiting = self.waiting.lock();
        let (mut events, mut bytes, mut found) = (0, 0, Vec::new());
        for entry in &waiting.entries {
            events += u64::from(entry.events);
            bytes += entry.bytes as usize;
            if !found.is_empty() && (events > events_max || bytes > bytes_max) {
                break;
            }
            found.push(*entry);
        }
        found
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.lock().entries.is_empty()
    }

    pub fn backlog(&self) -> EventBacklog {
        let waiting = self.waiting.lock();
        EventBacklog { events: waiting.events, bytes: waiting.bytes, lost: waiting.lost }
    }

    /// The gap with a number. From now on its count is known to the caller, so later losses are another gap.
    pub(super) fn gap(&self, number: u64, time_ms: u64) -> Gap {
        let mut waiting = self.waiting.lock();
        match waiting.gaps.iter().position(|gap| gap.number == number) {
            Some(at) => {
                if at + 1 == waiting.gaps.len() {
                    waiting.is_full = false;
                }
                waiting.gaps[at]
            }
            None => Gap { number, events: None, from_ms: time_ms, until_ms: time_ms },
        }
    }

    /// Takes everything out, and takes nothing in any more.
    pub(crate) fn close(&self) -> Vec<OutboxEntry> {
        let mut waiting = self.waiting.lock();
        let entries = std::mem::take(&mut waiting.entries).into();
        *waiting = Waiting { is_closed: true, lost: waiting.lost, ..Waiting::default() };
        entries
    }

    /// Takes out what was delivered: the first entries.
    pub(crate) fn forget(&self, delivered: &[OutboxEntry]) {
        let mut waiting = self.waiting.lock();
        for entry in delivered {
            // Batches that hold other shards may queue a later number before an earlier one.
            if waiting.entries.front().is_some_and(|first| first.number == entry.number) {
                waiting.entries.pop_front();
                waiting.events -= u64::from(entry.events);
                waiting.bytes -= entry.bytes as usize;
                waiting.gaps.retain(|gap| gap.number != entry.number);
            }
        }
    }
}

impl fmt::Debug for TriggerQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TriggerQueue({})", self.id)
    }
}

impl Waiting {
    /// Takes an entry in. Its bytes are counted already. Returns whether it is the only one.
    fn push(&mut self, entry: OutboxEntry) -> bool {
        self.events += u64::from(entry.events);
        self.entries.push_back(entry);
        self.entries.len() == 1
    }
}

/// Events of one trigger that are not kept yet.
#[derive(Debug)]
pub(super) struct Captured {
    pub queue: Arc<TriggerQueue>,
    pub slot: u16,
    pub count: u32,
    pub events: Vec<u8>,
    /// There was no room: they are only counted.
    pub is_lost: bool,
}

/// Events that are not kept yet, in their order for each trigger.
#[derive(Debug, Default)]
pub(super) struct CapturedEvents {
    pub list: Vec<Captured>,
    bytes: usize,
}

impl CapturedEvents {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// A record that is to be queued when the log has it.
pub(super) struct Kept {
    pub queue: Arc<TriggerQueue>,
    pub entry: OutboxEntry,
}

impl Outbox {
    /// Replaces the triggers. One that stays is given as before. Returns a bit for each class of events that any wants.
    pub fn set(&self, triggers: Vec<Arc<TriggerQueue>>) -> u32 {
        let interest = triggers.iter().fold(0, |bits, trigger| bits | trigger.filter.interest());
        self.present.store(Arc::new(Present::new(triggers)));
        interest
    }

    /// Number of triggers.
    pub(super) fn len(&self) -> usize {
        self.present.load().triggers.len()
    }

    /// Differs from process to process.
    #[cfg(test)]
    pub(crate) fn salt(&self) -> u64 {
        self.salt
    }

    /// Whether the records of earlier processes are queued.
    pub(crate) fn is_listed(&self) -> bool {
        self.is_listed.load(Ordering::SeqCst)
    }

    /// Notes an event for the triggers that want it.
    #[cold]
    pub(super) fn capture(&self, captured: &mut CapturedEvents, event: KeyEvent, select: u8, key: &[u8]) {
        // Staged indexes are no client's.
        if usize::from(select) >= INDEXES || key.len() > KEY_BYTES_MAX {
            return;
        }
        let present = self.present.load();
        let letters = present.letters.iter().find(|letters| *letters.key == *key);
        let is_told = |queue: &TriggerQueue| letters.is_none_or(|letters| letters.is_told && queue.filter.names(key));
        for queue in present.triggers.iter().filter(|queue| queue.filter.wants(event, key) && is_told(queue)) {
            let is_lost = captured.bytes > CAPTURED_BYTES_MAX;
            let last = captured.list.iter_mut().rev().find(|captured| Arc::ptr_eq(&captured.queue, queue));
            let has_room = |last: &&mut Captured| {
                let is_small = last.count < RECORD_EVENTS_MAX && last.events.len() < RECORD_BYTES_MAX;
                last.is_lost == is_lost && (is_lost || is_small)
            };
            let last = match last.filter(has_room) {
                Some(last) => last,
                None => {
                    let (queue, slot) = (Arc::clone(queue), slot_of(key));
                    let events = Vec::with_capacity(if is_lost { 0 } else { 64 });
                    captured.list.push(Captured { queue, slot, count: 0, events, is_lost });
                    let at = captured.list.len() - 1;
                    &mut captured.list[at]
                }
            };
            last.count = last.count.saturating_add(1);
            if !is_lost {
                captured.bytes += key.len() + EVENT_BYTES;
                let bytes = &mut last.events;
                bytes.extend_from_slice(&[select, event.name.len() as u8]);
                bytes.extend_from_slice(event.name.as_bytes());
                bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
                bytes.extend_from_slice(key);
            }
        }
    }

    pub(super) fn next_number(&self, now_ms: u64) -> u64 {
        // Numbers begin with the time, so that those of a process follow those of the one before it.
        self.last.fetch_max(now_ms << 20, Ordering::Relaxed);
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Queues the records that earlier processes have left, once. Returns the keys of those whose trigger is gone. To be
    /// called before the first event is captured.
    pub(crate) fn list<'a>(&self, records: impl Iterator<Item = &'a Record>) -> Vec<Box<[u8]>> {
        if self.is_listed.swap(true, Ordering::SeqCst) {
            return Vec::new();
        }
        let (present, mut gone, mut found) = (self.present.load(), Vec::new(), Vec::new());
        for record in records {
            let read = read_key(record.key());
            let queue = read.and_then(|(_, trigger, _)| present.triggers.iter().find(|queue| queue.id == trigger));
            let (Some((slot, _, number)), Some(queue)) = (read, queue) else {
                gone.push(record.key().into());
                continue;
            };
            let value = bytes_of(record.value());
            let (is_gap, events) = match decode(number, value) {
                Some(OutboxRecord::Events { events, .. }) => (false, events.len() as u32),
                Some(OutboxRecord::Gap { .. }) | None => (true, 0),
            };
            let bytes = (value.len() + RECORD_BYTES) as u32;
            found.push((queue, OutboxEntry { number, slot, is_gap, events, bytes, awaited: 0 }));
        }
        found.sort_by_key(|(_, entry)| entry.number);
        if let Some((_, last)) = found.last() {
            self.last.fetch_max(last.number, Ordering::Relaxed);
        }
        for (queue, entry) in found {
            let mut waiting = queue.waiting.lock();
            waiting.bytes += entry.bytes as usize;
            let is_first = waiting.push(entry);
            drop(waiting);
            if is_first {
                (queue.arrived)();
            }
        }
        gone
    }

    /// Queues what was kept, to be delivered when the log is durable up to `awaited`. Called under the locks.
    pub(super) fn queue(kept: Vec<Kept>, awaited: Lsn) {
        for Kept { queue, entry } in kept {
            let mut waiting = queue.waiting.lock();
            let is_first = !waiting.is_closed && waiting.push(OutboxEntry { awaited, ..entry });
            drop(waiting);
            if is_first {
                (queue.arrived)();
            }
        }
    }
}

/// The key of an entry's record.
pub(crate) fn key_of_entry(trigger: u64, entry: &OutboxEntry) -> [u8; KEY_BYTES] {
    key_of(entry.slot, trigger, entry.number)
}

pub(super) fn key_of(slot: u16, trigger: u64, number: u64) -> [u8; KEY_BYTES] {
    let [high, low] = TAGS[usize::from(slot % SLOTS)];
    let mut key = [0; KEY_BYTES];
    key[..4].copy_from_slice(&[b'{', high, low, b'}']);
    key[4..12].copy_from_slice(&trigger.to_be_bytes());
    key[12..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Slot, trigger and number of a record's key; `None` if it is none.
fn read_key(key: &[u8]) -> Option<(u16, u64, u64)> {
    let key: &[u8; KEY_BYTES] = key.try_into().ok()?;
    let (trigger, number) = key[4..].split_first_chunk()?;
    let number = number.try_into().ok()?;
    Some((slot_of(key), u64::from_be_bytes(*trigger), u64::from_be_bytes(number)))
}

/// Two bytes for each slot that are in it, as a hash tag.
static TAGS: LazyLock<Box<[[u8; 2]]>> = LazyLock::new(|| {
    let mut tags = vec![[0; 2]; usize::from(SLOTS)].into_boxed_slice();
    for tag in (0..=u16::MAX).map(u16::to_be_bytes).filter(|tag| !tag.contains(&b'}')) {
        tags[usize::from(slot_of(&tag))] = tag;
    }
    tags
});

pub(super) fn bytes_of(value: Value<'_>) -> &[u8] {
    match value {
        Value::Raw(bytes) => bytes,
        Value::Object(ObjectRef::Text(bytes)) => bytes,
        // It is none, and cannot be decoded as one.
        _ => &[],
    }
}

/// `None`: the bytes are no record.
pub(super) fn decode(number: u64, value: &[u8]) -> Option<OutboxRecord> {
    let (kind, rest) = value.split_first()?;
    let (time, rest) = rest.split_first_chunk()?;
    let (salt, mut rest) = rest.split_first_chunk()?;
    let (time_ms, salt) = (u64::from_le_bytes(*time), u64::from_le_bytes(*salt));
    match *kind {
        GAP => {
            let gap = Gap { number, events: None, from_ms: time_ms, until_ms: time_ms };
            Some(OutboxRecord::Gap { number, salt, gap })
        }
        EVENTS => {
            let mut events = Vec::new();
            while let Some((select, after)) = rest.split_first() {
                let (length, after) = after.split_first()?;
                let (name, after) = after.split_at_checked(usize::from(*length))?;
                let (length, after) = after.split_first_chunk()?;
                let (key, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
                let name = std::str::from_utf8(name).ok()?.into();
                events.push(OutboxEvent { select: *select, name, key: key.into() });
                rest = after;
            }
            Some(OutboxRecord::Events { number, time_ms, salt, events })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;

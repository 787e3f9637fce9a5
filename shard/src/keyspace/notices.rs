//! Notices: what subscribers are to be told about changes of keys, on its way from the keyspace to the server.
//!
//! 1. A keyspace, or a slice of upkeep, notes each event that somebody listens to in a buffer of its own ([`Noted`]).
//! 2. When its effects are in the log, and while it still has the locks, it hands the buffer over ([`Notices::hand_over`])
//!    with the position in the log that must be durable before a subscriber may know of it.
//! 3. The server takes the batches in order ([`Notices::first`], [`Notices::take`]) and tells subscribers without a lock.
//!
//! A message that is published while notices wait joins the queue, so that subscribers see it after the changes before it.
//!
//! The memory of notices is bounded and charged ([`Charge`]). What does not fit is lost, and the batch says so
//! ([`PendingBatch::is_cut`]): a listener that has missed events must not go on as if it had not.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use dormouse_storage::log::Lsn;
use dormouse_storage::shown::INDEXES;
use parking_lot::Mutex;

use super::changes::{EventClass, KeyEvent};
use super::outbox::CapturedEvents;

/// Most bytes of the notices of one database that wait.
const BYTES_MAX: usize = 32 << 20;
/// Bytes that a notice takes beside its words.
const NOTICE_BYTES: usize = size_of::<PendingMessage>();

/// How many notices may have come since an event whose fields are named: the end of its key, and of a key that expired.
const NAMED_AMONG: usize = 4;

/// The classes of the letter `A`, in the order in which Redis writes their own letters.
pub const CLASSES_OF_ALL: [EventClass; 11] = [
    EventClass::Generic,
    EventClass::String,
    EventClass::List,
    EventClass::Set,
    EventClass::Hash,
    EventClass::SortedSet,
    EventClass::Expired,
    EventClass::Evicted,
    EventClass::Stream,
    EventClass::Module,
    EventClass::Array,
];

/// The classes that `A` leaves out and that are written behind it, in this order. [`EventClass::KeyMiss`] comes later.
pub const CLASSES_BESIDE_ALL: [EventClass; 3] = [EventClass::New, EventClass::Overwritten, EventClass::TypeChanged];

/// A set of classes of events, and of the kinds of channels that tell them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Classes(u64);

impl Classes {
    pub const NONE: Self = Self(0);
    /// The letter `A`: all classes except [`EventClass::KeyMiss`] and [`CLASSES_BESIDE_ALL`].
    pub const ALL: Self = Self::of(&CLASSES_OF_ALL);
    /// Events are told in `__keyspace@N__:key`.
    pub const KEYSPACE: Self = Self(1 << 60);
    /// Events are told in `__keyevent@N__:event`.
    pub const KEYEVENT: Self = Self(1 << 61);
    /// Events of fields are told in `__subkeyspace@N__:key`.
    pub const SUBKEYSPACE: Self = Self(1 << 56);
    /// Events of fields are told in `__subkeyevent@N__:event`.
    pub const SUBKEYEVENT: Self = Self(1 << 57);
    /// Events of fields are told in `__subkeyspaceitem@N__:key`, a line feed, and the field.
    pub const SUBKEYSPACE_ITEM: Self = Self(1 << 58);
    /// Events of fields are told in `__subkeyspaceevent@N__:event|key`.
    pub const SUBKEYSPACE_EVENT: Self = Self(1 << 59);

    /// The kinds of channels that name fields.
    const OF_FIELDS: Self =
        Self::SUBKEYSPACE.with(Self::SUBKEYEVENT).with(Self::SUBKEYSPACE_ITEM).with(Self::SUBKEYSPACE_EVENT);
    /// All kinds of channels. Without any of them nothing is told.
    const CHANNELS: Self = Self::KEYSPACE.with(Self::KEYEVENT).with(Self::OF_FIELDS);

    /// The bits of the classes that triggers want are so much higher than those of classes that are told.
    const TRIGGER_SHIFT: u32 = 24;
    const TRIGGERS: u64 = 0xff_ffff << Self::TRIGGER_SHIFT;
    const TOLD: u64 = !Self::TRIGGERS;

    pub const fn of(classes: &[EventClass]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < classes.len() {
            bits |= 1 << classes[at] as u32;
            at += 1;
        }
        Self(bits)
    }

    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn has(self, all: Self) -> bool {
        self.0 & all.0 == all.0
    }
}

/// Something to tell subscribers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PendingMessage {
    Event {
        event: KeyEvent,
        select: u8,
        key: Box<[u8]>,
        /// The fields of a hash that it is about, if a subscriber may want to know them.
        fields: Box<[Box<[u8]>]>,
    },
    Message {
        channel: Box<[u8]>,
        message: Box<[u8]>,
        is_sharded: bool,
    },
}

impl PendingMessage {
    fn bytes(&self) -> usize {
        NOTICE_BYTES
            + match self {
                Self::Event { key, fields, .. } => {
                    key.len() + fields.iter().map(|field| bytes_of(field)).sum::<usize>()
                }
                Self::Message { channel, message, .. } => channel.len() + message.len(),
            }
    }
}

/// The bytes of a field in an event.
fn bytes_of(field: &[u8]) -> usize {
    size_of::<Box<[u8]>>() + field.len()
}

/// The memory that notices are charged to, and what is woken by them.
pub trait Charge: Send + Sync {
    /// Charges `bytes`; false if they do not fit.
    fn take(&self, bytes: usize) -> bool;
    fn give(&self, bytes: usize);
    /// A batch was handed over.
    fn arrived(&self);
}

/// Notices of a keyspace that are not handed over yet, in their order.
#[derive(Debug, Default)]
pub struct Noted {
    notices: Vec<PendingMessage>,
    bytes: usize,
    is_cut: bool,
    /// Events for triggers.
    pub(super) captured: CapturedEvents,
}

impl Noted {
    pub(super) fn take_captured(&mut self) -> CapturedEvents {
        std::mem::take(&mut self.captured)
    }
}

/// Notices that wait for one position in the log.
#[derive(Debug)]
pub struct PendingBatch {
    pub notices: Vec<PendingMessage>,
    /// The log position that must be durable before they are sent; 0: none.
    pub awaited: Lsn,
    /// Whether later notices were lost for want of memory.
    pub is_cut: bool,
    /// The classes that were chosen when it was queued.
    pub classes: Classes,
    /// Its number: they ascend by one.
    pub number: u64,
    bytes: usize,
}

/// The notices of a database.
#[derive(Default)]
pub struct Notices {
    /// The chosen [`Classes`], none if none is told, and a bit for each class that [triggers](super::outbox) want.
    classes: AtomicU64,
    /// Number of channels and patterns that events may be told to.
    pub listeners: Arc<AtomicUsize>,
    /// Bytes that wait, those that are not handed over yet included.
    bytes: AtomicUsize,
    queue: Mutex<Queue>,
    charge: OnceLock<Box<dyn Charge>>,
}

#[derive(Default)]
struct Queue {
    batches: VecDeque<PendingBatch>,
    /// Number of the last batch.
    last: u64,
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notices")
    }
}

impl Notices {
    /// Chooses what is told from now on.
    pub fn choose(&self, classes: Classes) {
        let is_told = classes.0 & Classes::CHANNELS.0 != 0;
        self.replace(Classes::TOLD, if is_told { classes.0 } else { 0 });
    }

    /// Chooses what triggers want from now on: a bit for each class.
    pub fn choose_for_triggers(&self, classes: u32) {
        self.replace(Classes::TRIGGERS, u64::from(classes) << Classes::TRIGGER_SHIFT);
    }

    fn replace(&self, mask: u64, bits: u64) {
        let replaced = |before: u64| Some(before & !mask | bits & mask);
        // It never refuses.
        let _ = self.classes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, replaced);
    }

    pub fn chosen(&self) -> Classes {
        Classes(self.classes.load(Ordering::Relaxed) & Classes::TOLD)
    }

    /// Whether a subscriber or a trigger may want to know of events of this class.
    #[inline]
    pub(super) fn is_followed(&self, class: EventClass) -> bool {
        self.classes.load(Ordering::Relaxed) & (1 | 1 << Classes::TRIGGER_SHIFT) << class as u32 != 0
    }

    /// Whether a trigger wants events of this class.
    pub(super) fn is_triggering(&self, class: EventClass) -> bool {
        self.classes.load(Ordering::Relaxed) >> Classes::TRIGGER_SHIFT & 1 << class as u32 != 0
    }

    /// Charges notices to `charge` from now on. The first call counts.
    pub fn charge_to(&self, charge: Box<dyn Charge>) {
        drop(self.charge.set(charge));
    }

    /// Whether somebody wants to know of events of this class.
    #[inline]
    pub fn wants(&self, class: EventClass) -> bool {
        self.classes.load(Ordering::Relaxed) & 1 << class as u32 != 0 && self.listeners.load(Ordering::Relaxed) > 0
    }

    /// Whether a subscriber wants to know that values are replaced as a whole.
    #[inline]
    pub fn wants_overwrites(&self) -> bool {
        self.wants(EventClass::Overwritten) || self.wants(EventClass::TypeChanged)
    }

    /// Whether subscribers may want to know which fields of a hash an event is about.
    #[inline]
    pub fn wants_fields(&self) -> bool {
        self.classes.load(Ordering::Relaxed) & Classes::OF_FIELDS.0 != 0 && self.listeners.load(Ordering::Relaxed) > 0
    }

    /// Whether any event is told to anybody.
    pub fn is_on(&self) -> bool {
        self.chosen() != Classes::NONE && self.listeners.load(Ordering::Relaxed) > 0
    }

    /// Notes an event that is [wanted](Self::wants).
    #[cold]
    pub(super) fn note(&self, noted: &mut Noted, event: KeyEvent, select: u8, key: &[u8]) {
        // Staged indexes are no client's.
        if usize::from(select) < INDEXES && self.makes_room(noted, NOTICE_BYTES + key.len()) {
            noted.notices.push(PendingMessage::Event { event, select, key: key.into(), fields: Box::default() });
        }
    }

    /// Adds the fields that the event of `key` is about, which was noted a moment ago if it is wanted.
    #[cold]
    pub(super) fn name_fields<'f>(
        &self,
        noted: &mut Noted,
        (named, select, key): (KeyEvent, u8, &[u8]),
        fields: impl Iterator<Item = &'f [u8]>,
    ) {
        let is_it = |notice: &PendingMessage| {
            matches!(notice, PendingMessage::Event { event, select: of, key: about, .. }
                if *event == named && *of == select && **about == *key)
        };
        let first = noted.notices.len().saturating_sub(NAMED_AMONG);
        let Some(at) = noted.notices[first..].iter().rposition(is_it).map(|at| first + at) else { return };
        let mut kept = Vec::new();
        for field in fields {
            if !self.makes_room(noted, bytes_of(field)) {
                return;
            }
            kept.push(Box::from(field));
        }
        if let PendingMessage::Event { fields, .. } = &mut noted.notices[at] {
            *fields = kept.into();
        }
    }

    /// Notes a message among the events. False if it does not fit.
    pub(super) fn note_message(&self, noted: &mut Noted, message: PendingMessage) -> bool {
        let fits = self.makes_room(noted, message.bytes());
        if fits {
            noted.notices.push(message);
        }
        fits
    }

    fn makes_room(&self, noted: &mut Noted, bytes: usize) -> bool {
        noted.is_cut = noted.is_cut || !self.take_bytes(bytes);
        if !noted.is_cut {
            noted.bytes += bytes;
        }
        !noted.is_cut
    }

    fn take_bytes(&self, bytes: usize) -> bool {
        let waiting = self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let fits = waiting <= BYTES_MAX && self.charge.get().is_none_or(|charge| charge.take(bytes));
        if !fits {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    /// Queues what was noted, to be told when the log is durable up to `awaited`.
    #[inline]
    pub(super) fn hand_over(&self, noted: &mut Noted, awaited: Lsn) {
        if !noted.notices.is_empty() || noted.is_cut {
            self.push(std::mem::take(noted), awaited);
        }
    }

    /// Queues a message behind the notices that wait. False if it does not fit.
    pub fn follow(&self, message: PendingMessage, awaited: Lsn) -> bool {
        let bytes = message.bytes();
        if !self.take_bytes(bytes) {
            return false;
        }
        self.push(Noted { notices: vec![message], bytes, is_cut: false, captured: CapturedEvents::default() }, awaited);
        true
    }

    #[cold]
    fn push(&self, noted: Noted, awaited: Lsn) {
        let Noted { notices, bytes, is_cut, .. } = noted;
        let mut queue = self.queue.lock();
        queue.last += 1;
        let number = queue.last;
        // A message may be asked for with less than the events before it wait for.
        let awaited = queue.batches.back().map_or(awaited, |last| last.awaited.max(awaited));
        queue.batches.push_back(PendingBatch { notices, awaited, is_cut, classes: self.chosen(), number, bytes });
        drop(queue);
        if let Some(charge) = self.charge.get() {
            charge.arrived();
        }
    }

    /// Whether notices wait to be told, or are being told.
    pub fn is_waiting(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > 0
    }

    /// The number of the last batch that can be told when the log is durable up to `lsn`.
    pub fn last_until(&self, lsn: Lsn) -> u64 {
        let queue = self.queue.lock();
        let later = queue.batches.len() - queue.batches.partition_point(|batch| batch.awaited <= lsn);
        queue.last - later as u64
    }

    /// The log position that the first batch waits for.
    pub fn first(&self) -> Option<Lsn> {
        self.queue.lock().batches.front().map(|batch| batch.awaited)
    }

    /// Takes the first batch. It is charged until [`Self::told`].
    pub fn take(&self) -> Option<PendingBatch> {
        self.queue.lock().batches.pop_front()
    }

    /// A batch was told, or dropped.
    pub fn told(&self, batch: &PendingBatch) {
        self.bytes.fetch_sub(batch.bytes, Ordering::Relaxed);
        if let Some(charge) = self.charge.get() {
            charge.give(batch.bytes);
        }
    }
}

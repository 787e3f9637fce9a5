//! The history of a stream's producers: the messages that they have sent lately. One that is sent again is recognised, and the
//! entry that it has become is named instead of adding another.
//!
//! 1. A message is known by its producer and its own name. It is remembered under the id of its entry, in [`Blocks`] over all
//!    producers: so the oldest are found at the front.
//! 2. A producer has the ids of its messages, and beside them a tag of four bytes for each, made of the message's name. A
//!    message is looked for by its tag: there are a hundred of them by default and [`Idempotency::SIZE_MAX`] at most, which
//!    are compared several at a time.
//! 3. A message is forgotten when its producer has sent as many later ones as are remembered, or some time after its entry was
//!    added. Those whose time is over are hidden at once, and removed a few at a time.
//!
//! Invariants: each message is among the ids of its producer; a producer without messages goes, unless a moment is remembered
//! that may have some. What is removed late changes nothing that is shown.

use std::collections::VecDeque;

use super::StreamId;
use super::blocks::{Blocks, Keyed};
use super::moment::{Moment, Sequence};
use crate::{Limits, Malformed, heap};

/// For how long a stream remembers messages, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// Seconds after an entry was added.
    pub duration_s: u32,
    /// Messages of one producer.
    pub size_max: u32,
}

impl Idempotency {
    /// The defaults of Redis 8.6.
    pub const REDIS: Idempotency = Idempotency { duration_s: 100, size_max: 100 };

    pub const DURATION_MAX_S: u32 = 86_400;
    pub const SIZE_MAX: u32 = 10_000;

    /// The settings of a new stream.
    pub fn of(limits: &Limits) -> Self {
        Idempotency { duration_s: limits.stream_idmp_duration_s, size_max: limits.stream_idmp_maxsize }
    }

    /// # Errors
    /// When a number is out of its range.
    pub fn checked(duration_s: u64, size_max: u64) -> Result<Self, Malformed> {
        const BAD: Malformed = Malformed("settings of a stream's producers");
        let within = |number: u64, max: u32| u32::try_from(number).ok().filter(|number| (1..=max).contains(number));
        let duration_s = within(duration_s, Self::DURATION_MAX_S).ok_or(BAD)?;
        Ok(Idempotency { duration_s, size_max: within(size_max, Self::SIZE_MAX).ok_or(BAD)? })
    }
}

/// Counts of a stream's messages and producers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounts {
    pub producers: usize,
    pub messages: usize,
    /// Messages that were ever added.
    pub added: u64,
    /// Messages that were sent again.
    pub repeated: u64,
}

/// Messages are in the order of their entries' ids. Several may be bound to one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MessageKey {
    id: StreamId,
    nth: u32,
}

impl Sequence for MessageKey {
    const MIN: Self = MessageKey { id: StreamId::MIN, nth: 0 };

    fn next(self) -> Option<Self> {
        match self.nth.checked_add(1) {
            Some(nth) => Some(MessageKey { nth, ..self }),
            None => Some(MessageKey { id: self.id.next()?, nth: 0 }),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Message {
    key: MessageKey,
    /// The slot of its producer.
    producer: u32,
    name: Box<[u8]>,
}

impl Keyed for Message {
    type Key = MessageKey;

    fn key(&self) -> MessageKey {
        self.key
    }
}

#[derive(Clone, Debug)]
struct Producer {
    name: Box<[u8]>,
    tags: VecDeque<u32>,
    keys: VecDeque<MessageKey>,
}

impl Producer {
    fn heap_bytes(&self) -> usize {
        heap::allocation(self.name.len())
            + heap::allocation(self.tags.capacity() * size_of::<u32>())
            + heap::allocation(self.keys.capacity() * size_of::<MessageKey>())
    }
}

#[derive(Debug)]
pub(super) struct History {
    pub settings: Idempotency,
    pub added: u64,
    pub repeated: u64,
    messages: Blocks<Message>,
    /// The allocations of the messages' names.
    name_bytes: usize,
    producers: Vec<Option<Producer>>,
    /// The slots of the producers in the order of their names.
    names: Vec<u32>,
    free: Vec<u32>,
    /// The allocations of the producers.
    producer_bytes: usize,
    moment: Option<Box<HistoryMoment>>,
}

#[derive(Debug)]
struct HistoryMoment {
    messages: Moment<Message, MessageKey>,
    /// The slots of producers that have lost their last message since.
    emptied: Vec<u32>,
}

/// Messages that are removed with each that is added, if their time is over.
const FORGOTTEN_AT_ONCE: usize = 16;
/// Tags that are compared together.
const TAGS_TOGETHER: usize = 16;

impl History {
    pub fn new(settings: Idempotency) -> Self {
        History {
            settings,
            added: 0,
            repeated: 0,
            messages: Blocks::default(),
            name_bytes: 0,
            producers: Vec::new(),
            names: Vec::new(),
            free: Vec::new(),
            producer_bytes: 0,
            moment: None,
        }
    }

    /// The number of messages and producers that take memory.
    pub fn parts(&self) -> usize {
        self.messages.len() + self.names.len()
    }

    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn producer_len(&self) -> usize {
        self.names.len()
    }

    pub fn heap_bytes(&self) -> usize {
        heap::allocation(size_of::<Self>())
            + self.messages.heap_bytes()
            + self.name_bytes
            + heap::allocation(self.producers.capacity() * size_of::<Option<Producer>>())
            + heap::allocation(self.names.capacity() * size_of::<u32>())
            + heap::allocation(self.free.capacity() * size_of::<u32>())
            + self.producer_bytes
    }

    /// The entry that a message has become.
    pub fn find(&self, producer: &[u8], message: &[u8], now_ms: u64) -> Option<StreamId> {
        let slot = self.names[self.search(producer).ok()?];
        let producer = self.producers[slot as usize].as_ref()?;
        let (tag, over) = (tag_of(message), self.over(now_ms));
        let (front, back) = producer.tags.as_slices();
        let places = places_of(front, tag).chain(places_of(back, tag).map(|place| front.len() + place));
        let found = places.filter_map(|place| {
            let key = producer.keys[place];
            let is_it = self.messages.get(key).is_some_and(|found| *found.name == *message);
            (is_it && over.is_none_or(|over| key.id.ms > over)).then_some(key.id)
        });
        found.last()
    }

    /// Remembers the entry that a message has become, which [`Self::find`] does not find.
    pub fn add(&mut self, producer: &[u8], message: &[u8], id: StreamId, now_ms: u64) {
        self.forget_some(now_ms);
        if self.over(now_ms).is_none_or(|over| id.ms > over) {
            self.insert(producer, message, id);
        }
        self.added = self.added.wrapping_add(1);
    }

    /// Adds a message from outside. One that is there already stays as it is.
    pub fn load(&mut self, producer: &[u8], message: &[u8], id: StreamId) {
        if self.find(producer, message, 0).is_none() {
            self.insert(producer, message, id);
        }
    }

    fn insert(&mut self, producer: &[u8], message: &[u8], id: StreamId) {
        let slot = match self.search(producer) {
            Ok(at) => self.names[at],
            Err(at) => self.add_producer(at, producer),
        };
        // There is hardly ever one with this id.
        let mut nth = 0;
        if self.messages.last().is_some_and(|last| last.key.id >= id) {
            let bound = self.messages.from(MessageKey { id, nth: 0 }).take_while(|message| message.key.id == id);
            nth = bound.last().map_or(0, |last| last.key.nth.saturating_add(1));
        }
        let key = MessageKey { id, nth };
        if let Some(moment) = &mut self.moment {
            moment.messages.note(key, || None);
        }
        self.name_bytes += heap::allocation(message.len());
        self.messages.insert(Message { key, producer: slot, name: message.into() });
        let tag = tag_of(message);
        self.edit(slot, |producer| {
            let at = match producer.keys.back() {
                Some(last) if *last > key => producer.keys.partition_point(|other| *other < key),
                _ => producer.keys.len(),
            };
            producer.keys.insert(at, key);
            producer.tags.insert(at, tag);
        });
        let oldest = self.producers[slot as usize].as_ref().map(|producer| (producer.keys.len(), producer.keys[0]));
        if let Some((len, oldest)) = oldest
            && len > self.settings.size_max as usize
        {
            self.forget(oldest);
        }
    }

    /// Removes some of the messages whose time is over.
    pub fn forget_some(&mut self, now_ms: u64) {
        let Some(over) = self.over(now_ms) else { return };
        for _ in 0..FORGOTTEN_AT_ONCE {
            match self.messages.first().map(|first| first.key) {
                Some(key) if key.id.ms <= over => self.forget(key),
                _ => return,
            }
        }
    }

    /// Messages with ids of up to so many milliseconds are forgotten.
    fn over(&self, now_ms: u64) -> Option<u64> {
        now_ms.checked_sub(u64::from(self.settings.duration_s) * 1000)
    }

    fn forget(&mut self, key: MessageKey) {
        let Some(message) = self.messages.remove(key) else { return };
        self.name_bytes -= heap::allocation(message.name.len());
        let slot = message.producer;
        if let Some(moment) = &mut self.moment {
            moment.messages.note(key, || Some(message));
        }
        let is_empty = self.edit(slot, |producer| {
            if let Ok(at) = producer.keys.binary_search(&key) {
                producer.keys.remove(at);
                producer.tags.remove(at);
            }
            producer.keys.is_empty()
        });
        if is_empty == Some(true) {
            match &mut self.moment {
                Some(moment) => moment.emptied.push(slot),
                None => self.remove_producer(slot),
            }
        }
    }

    /// Forgets all messages.
    pub fn clear(&mut self) {
        if self.moment.is_none() {
            *self = History { added: self.added, repeated: self.repeated, ..History::new(self.settings) };
            return;
        }
        while let Some(key) = self.messages.first().map(|first| first.key) {
            self.forget(key);
        }
    }

    pub fn counts(&self, now_ms: u64) -> MessageCounts {
        let over = self.over(now_ms);
        let is_shown = |key: MessageKey| over.is_none_or(|over| key.id.ms > over);
        let gone = self.messages.from(MessageKey::MIN).take_while(|message| !is_shown(message.key)).count();
        let producers = match (gone, &self.moment) {
            (0, None) => self.names.len(),
            _ => self.producers().filter(|producer| producer.keys.back().is_some_and(|last| is_shown(*last))).count(),
        };
        let (added, repeated) = (self.added, self.repeated);
        MessageCounts { producers, messages: self.messages.len() - gone, added, repeated }
    }

    fn producers(&self) -> impl Iterator<Item = &Producer> {
        self.names.iter().filter_map(|slot| self.producers[*slot as usize].as_ref())
    }

    /// The producers that have messages, in the order of their names, each with its messages in the order of their ids.
    pub fn shown(&self) -> impl Iterator<Item = (&[u8], impl ExactSizeIterator<Item = (&[u8], StreamId)>)> {
        self.producers().filter(|producer| !producer.keys.is_empty()).map(|producer| {
            let messages = producer.keys.iter().map(|key| {
                let name = self.messages.get(*key).map_or(&[][..], |message| &message.name);
                (name, key.id)
            });
            (&*producer.name, messages)
        })
    }

    fn search(&self, name: &[u8]) -> Result<usize, usize> {
        self.names.binary_search_by(|slot| {
            let producer = self.producers[*slot as usize].as_ref();
            producer.map_or(&[][..], |producer| &producer.name).cmp(name)
        })
    }

    fn add_producer(&mut self, at: usize, name: &[u8]) -> u32 {
        let producer = Producer { name: name.into(), tags: VecDeque::new(), keys: VecDeque::new() };
        self.producer_bytes += producer.heap_bytes();
        let slot = match self.free.pop() {
            Some(slot) => {
                self.producers[slot as usize] = Some(producer);
                slot
            }
            None => {
                self.producers.push(Some(producer));
                self.producers.len() as u32 - 1
            }
        };
        self.names.insert(at, slot);
        slot
    }

    fn remove_producer(&mut self, slot: u32) {
        let Some(Some(producer)) = self.producers.get_mut(slot as usize).map(Option::take) else { return };
        self.producer_bytes -= producer.heap_bytes();
        // The name is gone from its slot, so its place is found by its neighbours' names.
        let at = self.names.partition_point(|other| {
            self.producers[*other as usize].as_ref().is_some_and(|other| other.name < producer.name)
        });
        if self.names.get(at) == Some(&slot) {
            self.names.remove(at);
        }
        self.free.push(slot);
        if self.names.is_empty() {
            (self.producers, self.names, self.free) = (Vec::new(), Vec::new(), Vec::new());
        }
    }

    fn edit<R>(&mut self, slot: u32, change: impl FnOnce(&mut Producer) -> R) -> Option<R> {
        let producer = self.producers.get_mut(slot as usize)?.as_mut()?;
        let before = producer.heap_bytes();
        let answer = change(producer);
        self.producer_bytes = self.producer_bytes - before + producer.heap_bytes();
        Some(answer)
    }

    /// Remembers the messages as they are now. Returns how many there are.
    pub fn begin_moment(&mut self) -> usize {
        self.end_moment();
        let messages = Moment::new(self.messages.last().map(|last| last.key));
        self.moment = Some(Box::new(HistoryMoment { messages, emptied: Vec::new() }));
        self.messages.len()
    }

    /// Shows the next message of the moment that is remembered; returns whether there is one.
    pub fn step(&mut self, visit: impl FnOnce(&[u8], &[u8], StreamId)) -> bool {
        let Some(moment) = &mut self.moment else { return false };
        let (messages, producers) = (&self.messages, &self.producers);
        let live = |key| messages.from(key).next().map(|message| (message.key, message));
        moment.messages.step(live, |key, message| {
            let producer = producers.get(message.producer as usize).and_then(Option::as_ref);
            visit(producer.map_or(&[], |producer| &producer.name), &message.name, key.id);
        })
    }

    pub fn end_moment(&mut self) {
        let Some(moment) = self.moment.take() else { return };
        for slot in moment.emptied {
            let is_empty = |producer: &Producer| producer.keys.is_empty();
            if self.producers.get(slot as usize).and_then(Option::as_ref).is_some_and(is_empty) {
                self.remove_producer(slot);
            }
        }
    }

    pub fn aside_bytes(&self) -> usize {
        let Some(moment) = &self.moment else { return 0 };
        let bytes = |message: Option<&Message>| {
            size_of::<(MessageKey, Option<Message>)>()
                + message.map_or(0, |message| heap::allocation(message.name.len()))
        };
        moment.messages.aside().map(bytes).sum::<usize>() + moment.emptied.capacity() * size_of::<u32>()
    }

    /// Frees messages, then producers, about `budget` of them; returns how many were freed.
    pub fn dismantle(&mut self, budget: usize) -> usize {
        self.moment = None;
        let mut freed = 0;
        while freed < budget
            && let Some(block) = self.messages.take_last()
        {
            freed += block.len();
            self.name_bytes -= block.iter().map(|message| heap::allocation(message.name.len())).sum::<usize>();
        }
        while freed < budget
            && let Some(last) = self.producers.pop()
        {
            self.producer_bytes -= last.as_ref().map_or(0, Producer::heap_bytes);
            freed += 1;
        }
        freed
    }

    pub fn is_dismantled(&self) -> bool {
        self.messages.len() == 0 && self.producers.is_empty()
    }
}

impl Clone for History {
    /// Without the moment that it remembers, and the producers that stay for it.
    fn clone(&self) -> Self {
        let (producers, names, free) = (self.producers.clone(), self.names.clone(), self.free.clone());
        let producer_bytes = producers.iter().flatten().map(Producer::heap_bytes).sum();
        let History { settings, added, repeated, name_bytes, .. } = *self;
        let messages = self.messages.clone();
        let mut copy = History {
            settings,
            added,
            repeated,
            messages,
            name_bytes,
            producers,
            names,
            free,
            producer_bytes,
            moment: None,
        };
        let emptied = self.moment.as_ref().map_or(&[][..], |moment| &moment.emptied);
        for slot in emptied {
            if copy.producers[*slot as usize].as_ref().is_some_and(|producer| producer.keys.is_empty()) {
                copy.remove_producer(*slot);
            }
        }
        copy
    }
}

fn tag_of(message: &[u8]) -> u32 {
    rapidhash::v3::rapidhash_v3(message) as u32
}

/// The places of a tag among others.
fn places_of(tags: &[u32], tag: u32) -> impl Iterator<Item = usize> {
    tags.chunks(TAGS_TOGETHER).enumerate().flat_map(move |(chunk, tags)| {
        // Without a way out of this loop several are compared at once.
        let any = tags.iter().fold(false, |any, other| any | (*other == tag));
        let tags = if any { tags } else { &[] };
        let places = tags.iter().enumerate().filter(move |(_, other)| **other == tag);
        places.map(move |(at, _)| chunk * TAGS_TOGETHER + at)
    })
}

/// The name of a message that a producer does not name: a hash of its fields and values, in any order. Redis makes the same,
/// so a history from there goes on here.
pub fn name_of_message<'a>(pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> [u8; 16] {
    let (mut sums, mut both) = ([0u64; 2], [0u64; 2]);
    let mut bytes = smallvec::SmallVec::<[u8; 256]>::new();
    for (field, value) in pairs {
        bytes.clear();
        bytes.extend_from_slice(field);
        bytes.extend_from_slice(&(field.len() as u64).to_le_bytes());
        bytes.extend_from_slice(value);
        let hash = twox_hash::XxHash3_128::oneshot(&bytes);
        for (at, half) in [hash as u64, (hash >> 64) as u64].into_iter().enumerate() {
            sums[at] = sums[at].wrapping_add(half);
            both[at] ^= half;
        }
    }
    let mut name = [0; 16];
    name[..8].copy_from_slice(&(sums[0] ^ both[1].rotate_left(1)).to_le_bytes());
    name[8..].copy_from_slice(&(sums[1] ^ both[0].rotate_left(1)).to_le_bytes());
    name
}

#[cfg(test)]
impl History {
    /// The value of `heap_bytes`, counted; also checks the other invariants.
    pub fn counted_bytes(&self) -> usize {
        let mut of_producers = 0;
        for slot in &self.names {
            let producer = self.producers[*slot as usize].as_ref().expect("a producer has its slot");
            assert!(!producer.keys.is_empty() || self.moment.is_some());
            assert!(producer.keys.len() <= self.settings.size_max as usize);
            assert!(producer.keys.iter().zip(producer.keys.iter().skip(1)).all(|(a, b)| a < b));
            for (key, tag) in producer.keys.iter().zip(&producer.tags) {
                let message = self.messages.get(*key).expect("a producer's message exists");
                assert_eq!((message.producer, tag_of(&message.name)), (*slot, *tag));
            }
            of_producers += producer.keys.len();
        }
        assert_eq!(of_producers, self.messages.len());
        let names: Vec<&[u8]> = self.producers().map(|producer| &*producer.name).collect();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]));
        heap::allocation(size_of::<Self>())
            + self.messages.counted_bytes()
            + self.messages.from(MessageKey::MIN).map(|message| heap::allocation(message.name.len())).sum::<usize>()
            + heap::allocation(self.producers.capacity() * size_of::<Option<Producer>>())
            + heap::allocation(self.names.capacity() * size_of::<u32>())
            + heap::allocation(self.free.capacity() * size_of::<u32>())
            + self.producers.iter().flatten().map(Producer::heap_bytes).sum::<usize>()
    }
}

//! The history of a stream's producers: the messages that they have sent lately. One that is sent again is recognised, and the
//! entry that it has become is named instead of adding another.
//!
//! 1. A producer is found by a tag of four bytes, made of its name, in a list that is sorted by tags.
//! 2. A producer has its messages in the order of their entries' ids, and beside them a tag for each, made of the message's
//!    name. A message is looked for by its tag: there are a hundred of them by default and [`Idempotency::SIZE_MAX`] at most,
//!    which are compared several at a time.
//! 3. A message is forgotten when its producer has sent as many later ones as are remembered, or some time after its entry was
//!    added. Either way it is the first of its producer, so messages go from one end of a ring and come at the other.
//! 4. Messages whose time is over are hidden at once. Rounds over all producers remove them, a few producers with each entry that
//!    is added. A round ends with the age of the oldest message that it has seen, and the next one begins when that is over.
//!
//! Invariants: a producer without messages goes, unless a moment is remembered that may have some; no message is older than
//! `oldest_ms`; `len` is the number of all messages. What is removed late changes nothing that is shown.

use std::collections::VecDeque;

use super::StreamId;
use super::moment::Moment;
use super::producer::{Message, MessageKey, Producer, StoredName, tag_of};
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

#[derive(Debug)]
pub(super) struct History {
    pub settings: Idempotency,
    pub added: u64,
    pub repeated: u64,
    len: usize,
    /// No message has an id with a lower time.
    oldest_ms: u64,
    /// The slot at which the round over the producers goes on, and the lowest time of an id that it has seen.
    hand: usize,
    round_oldest_ms: u64,
    producers: Vec<Option<Producer>>,
    /// The tags and slots of the producers, in the order of tags and names.
    names: Vec<(u32, u32)>,
    free: Vec<u32>,
    /// The allocations of the producers, and of their messages' names.
    producer_bytes: usize,
    moment: Option<Box<HistoryMoment>>,
}

#[derive(Debug)]
struct HistoryMoment {
    messages: Moment<Message, MessageKey>,
    /// The slots of producers that have lost their last message since.
    emptied: Vec<u32>,
}

/// Messages that are removed with each that is added, if their time is over, and producers that are looked at for that.
const FORGOTTEN_AT_ONCE: usize = 16;

impl History {
    pub fn new(settings: Idempotency) -> Self {
        History {
            settings,
            added: 0,
            repeated: 0,
            len: 0,
            oldest_ms: u64::MAX,
            hand: 0,
            round_oldest_ms: u64::MAX,
            producers: Vec::new(),
            names: Vec::new(),
            free: Vec::new(),
            producer_bytes: 0,
            moment: None,
        }
    }

    /// The number of messages and producers that take memory.
    pub fn parts(&self) -> usize {
        self.len + self.names.len()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn producer_len(&self) -> usize {
        self.names.len()
    }

    pub fn heap_bytes(&self) -> usize {
        heap::allocation(size_of::<Self>())
            + heap::allocation(self.producers.capacity() * size_of::<Option<Producer>>())
            + heap::allocation(self.names.capacity() * size_of::<(u32, u32)>())
            + heap::allocation(self.free.capacity() * size_of::<u32>())
            + self.producer_bytes
    }

    /// The entry that a message has become.
    pub fn find(&self, producer: &[u8], message: &[u8], now_ms: u64) -> Option<StreamId> {
        let (_, slot) = self.names[self.search(tag_of(producer), producer).ok()?];
        let id = self.producers[slot as usize].as_ref()?.find(message, tag_of(message))?.id;
        // Of several with its name it is the last one, so the time of the others is over if that of this one is.
        self.over(now_ms).is_none_or(|over| id.ms > over).then_some(id)
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
        let tag = tag_of(producer);
        let slot = match self.search(tag, producer) {
            Ok(at) => self.names[at].1,
            Err(at) => self.add_producer(at, tag, producer),
        };
        let size_max = self.settings.size_max as usize;
        let Some(sender) = self.producers.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let is_full = sender.messages.len() >= size_max;
        if is_full && sender.messages.front().is_some_and(|first| first.id > id) {
            // It would be forgotten at once.
            return;
        }
        if is_full {
            self.take_first(slot);
        }
        let Some(sender) = self.producers.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        // There is hardly ever one with this id or a later one.
        let (mut at, mut nth) = (sender.messages.len(), 0);
        if sender.messages.back().is_some_and(|last| last.id >= id) {
            at = sender.messages.partition_point(|message| message.id <= id);
            let before = at.checked_sub(1).map(|before| &sender.messages[before]);
            nth = before.filter(|before| before.id == id).map_or(0, |before| before.nth.saturating_add(1));
        }
        if let Some(moment) = &mut self.moment {
            moment.messages.note(MessageKey { slot, id, nth }, || None);
        }
        let name = StoredName::of(message);
        self.producer_bytes += name.heap_bytes();
        self.producer_bytes += sender.grow(size_max);
        sender.messages.insert(at, Message { id, nth, name });
        sender.tags.insert(at, tag_of(message));
        self.len += 1;
        self.oldest_ms = self.oldest_ms.min(id.ms);
        self.round_oldest_ms = self.round_oldest_ms.min(id.ms);
    }

    /// Removes some of the messages whose time is over.
    #[inline]
    pub fn forget_some(&mut self, now_ms: u64) {
        if let Some(over) = self.over(now_ms)
            && self.oldest_ms <= over
        {
            self.forget_until(over);
        }
    }

    fn forget_until(&mut self, over: u64) {
        let mut left = FORGOTTEN_AT_ONCE;
        for _ in 0..FORGOTTEN_AT_ONCE {
            if self.hand >= self.producers.len() {
                (self.oldest_ms, self.round_oldest_ms, self.hand) = (self.round_oldest_ms, u64::MAX, 0);
                if self.oldest_ms > over {
                    return;
                }
            }
            while let Some(first) = self.first_of(self.hand) {
                if first.id.ms > over {
                    self.round_oldest_ms = self.round_oldest_ms.min(first.id.ms);
                    break;
                }
                if left == 0 {
                    return;
                }
                left -= 1;
                self.forget_first(self.hand as u32);
            }
            self.hand += 1;
        }
    }

    fn first_of(&self, slot: usize) -> Option<&Message> {
        self.producers.get(slot)?.as_ref()?.messages.front()
    }

    /// Messages with ids of up to so many milliseconds are forgotten.
    fn over(&self, now_ms: u64) -> Option<u64> {
        now_ms.checked_sub(u64::from(self.settings.duration_s) * 1000)
    }

    /// Forgets the first message of a producer, which goes if it has no other.
    fn forget_first(&mut self, slot: u32) {
        if self.take_first(slot) == Some(0) {
            match &mut self.moment {
                Some(moment) => moment.emptied.push(slot),
                None => self.remove_producer(slot),
            }
        }
    }

    /// Removes the first message of a producer; returns how many it has left.
    fn take_first(&mut self, slot: u32) -> Option<usize> {
        let producer = self.producers.get_mut(slot as usize)?.as_mut()?;
        let message = producer.messages.pop_front()?;
        producer.tags.pop_front();
        let left = producer.messages.len();
        self.len -= 1;
        self.producer_bytes -= message.name.heap_bytes() + producer.shrink();
        if let Some(moment) = &mut self.moment {
            moment.messages.note(message.key(slot), || Some(message));
        }
        Some(left)
    }

    /// Forgets all messages.
    pub fn clear(&mut self) {
        if self.moment.is_none() {
            *self = History { added: self.added, repeated: self.repeated, ..History::new(self.settings) };
            return;
        }
        for slot in 0..self.producers.len() {
            while self.first_of(slot).is_some() {
                self.forget_first(slot as u32);
            }
        }
    }

    pub fn counts(&self, now_ms: u64) -> MessageCounts {
        let (added, repeated) = (self.added, self.repeated);
        let over = self.over(now_ms).filter(|over| self.oldest_ms <= *over);
        if over.is_none() && self.moment.is_none() {
            return MessageCounts { producers: self.names.len(), messages: self.len, added, repeated };
        }
        let shown = self.producers().map(|producer| {
            let gone = over.map_or(0, |over| producer.messages.partition_point(|message| message.id.ms <= over));
            producer.messages.len() - gone
        });
        let (mut producers, mut messages) = (0, 0);
        for shown in shown.filter(|shown| *shown > 0) {
            producers += 1;
            messages += shown;
        }
        MessageCounts { producers, messages, added, repeated }
    }

    fn producers(&self) -> impl Iterator<Item = &Producer> {
        self.names.iter().filter_map(|(_, slot)| self.producers[*slot as usize].as_ref())
    }

    /// The producers that have messages, in the order of their names, each with its messages in the order of their ids.
    pub fn shown(&self) -> Vec<ShownProducer<'_>> {
        let producers = self.producers().filter(|producer| !producer.messages.is_empty());
        let mut shown: Vec<_> = producers.map(ShownProducer).collect();
        shown.sort_unstable_by_key(ShownProducer::name);
        shown
    }

    fn search(&self, tag: u32, name: &[u8]) -> Result<usize, usize> {
        self.names.binary_search_by(|(other, slot)| {
            other.cmp(&tag).then_with(|| {
                let producer = self.producers[*slot as usize].as_ref();
                producer.map_or(&[][..], |producer| &producer.name).cmp(name)
            })
        })
    }

    fn add_producer(&mut self, at: usize, tag: u32, name: &[u8]) -> u32 {
        let producer = Producer { name: name.into(), tags: VecDeque::new(), messages: VecDeque::new() };
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
        self.names.insert(at, (tag, slot));
        slot
    }

    fn remove_producer(&mut self, slot: u32) {
        let Some(Some(producer)) = self.producers.get(slot as usize) else { return };
        if let Ok(at) = self.search(tag_of(&producer.name), &producer.name) {
            self.names.remove(at);
        }
        if let Some(producer) = self.producers[slot as usize].take() {
            self.producer_bytes -= producer.heap_bytes();
        }
        self.free.push(slot);
        if self.names.is_empty() {
            (self.producers, self.names, self.free) = (Vec::new(), Vec::new(), Vec::new());
        }
    }

    /// Remembers the messages as they are now. Returns how many there are.
    pub fn begin_moment(&mut self) -> usize {
        self.end_moment();
        let last =
            self.producers.iter().enumerate().rev().find_map(|(slot, producer)| {
                producer.as_ref()?.messages.back().map(|message| message.key(slot as u32))
            });
        self.moment = Some(Box::new(HistoryMoment { messages: Moment::new(last), emptied: Vec::new() }));
        self.len
    }

    /// Shows the next message of the moment that is remembered; returns whether there is one.
    pub fn step(&mut self, visit: impl FnOnce(&[u8], &[u8], StreamId)) -> bool {
        let Some(moment) = &mut self.moment else { return false };
        let producers = &self.producers;
        let live = |next: MessageKey, last: MessageKey| {
            let slots = producers.iter().enumerate().take(last.slot as usize + 1).skip(next.slot as usize);
            slots.filter_map(|(slot, producer)| Some((slot as u32, producer.as_ref()?))).find_map(|(slot, producer)| {
                let at = match slot == next.slot {
                    true => producer.messages.partition_point(|message| message.key(slot) < next),
                    false => 0,
                };
                producer.messages.get(at).map(|message| (message.key(slot), message))
            })
        };
        moment.messages.step(live, |key, message| {
            let producer = producers.get(key.slot as usize).and_then(Option::as_ref);
            visit(producer.map_or(&[], |producer| &producer.name), message.name.bytes(), key.id);
        })
    }

    pub fn end_moment(&mut self) {
        let Some(moment) = self.moment.take() else { return };
        for slot in moment.emptied {
            let is_empty = |producer: &Producer| producer.messages.is_empty();
            if self.producers.get(slot as usize).and_then(Option::as_ref).is_some_and(is_empty) {
                self.remove_producer(slot);
            }
        }
    }

    pub fn aside_bytes(&self) -> usize {
        let Some(moment) = &self.moment else { return 0 };
        let bytes = |message: Option<&Message>| {
            size_of::<(MessageKey, Option<Message>)>() + message.map_or(0, |message| message.name.heap_bytes())
        };
        moment.messages.aside().map(bytes).sum::<usize>() + moment.emptied.capacity() * size_of::<u32>()
    }

    /// Frees about `budget` messages and producers; returns how many were freed.
    pub fn dismantle(&mut self, budget: usize) -> usize {
        self.moment = None;
        let mut freed = 0;
        while freed < budget
            && let Some(last) = self.producers.last_mut()
        {
            if let Some(producer) = last {
                let kept = producer.messages.len().saturating_sub(budget - freed);
                let names = producer.messages.range(kept..).map(|message| message.name.heap_bytes());
                self.producer_bytes -= names.sum::<usize>();
                self.len -= producer.messages.len() - kept;
                freed += producer.messages.len() - kept;
                producer.messages.truncate(kept);
                producer.tags.truncate(kept);
                if kept > 0 {
                    break;
                }
                self.producer_bytes -= producer.heap_bytes();
            }
            self.producers.pop();
            freed += 1;
        }
        freed
    }

    pub fn is_dismantled(&self) -> bool {
        self.len == 0 && self.producers.is_empty()
    }
}

/// A producer as it is shown.
#[derive(Debug)]
pub(super) struct ShownProducer<'a>(&'a Producer);

impl<'a> ShownProducer<'a> {
    pub fn name(&self) -> &'a [u8] {
        &self.0.name
    }

    pub fn messages(&self) -> impl ExactSizeIterator<Item = (&'a [u8], StreamId)> + use<'a> {
        self.0.messages.iter().map(|message| (message.name.bytes(), message.id))
    }
}

impl Clone for History {
    /// Without the moment that it remembers, and the producers that stay for it.
    fn clone(&self) -> Self {
        let (producers, names, free) = (self.producers.clone(), self.names.clone(), self.free.clone());
        let producer_bytes = producers.iter().flatten().map(Producer::heap_bytes).sum();
        let History { settings, added, repeated, len, oldest_ms, hand, round_oldest_ms, .. } = *self;
        let mut copy = History {
            settings,
            added,
            repeated,
            len,
            oldest_ms,
            hand,
            round_oldest_ms,
            producers,
            names,
            free,
            producer_bytes,
            moment: None,
        };
        let emptied = self.moment.as_ref().map_or(&[][..], |moment| &moment.emptied);
        for slot in emptied {
            let is_empty = |producer: &Producer| producer.messages.is_empty();
            if copy.producers.get(*slot as usize).and_then(Option::as_ref).is_some_and(is_empty) {
                copy.remove_producer(*slot);
            }
        }
        copy
    }
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
        let mut len = 0;
        for (tag, slot) in &self.names {
            let producer = self.producers[*slot as usize].as_ref().expect("a producer has its slot");
            assert_eq!(*tag, tag_of(&producer.name));
            assert!(!producer.messages.is_empty() || self.moment.is_some());
            assert!(producer.messages.len() <= self.settings.size_max as usize);
            let keys: Vec<MessageKey> = producer.messages.iter().map(|message| message.key(*slot)).collect();
            assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(keys.iter().all(|key| key.id.ms >= self.oldest_ms));
            let tags = producer.messages.iter().map(|message| tag_of(message.name.bytes()));
            assert!(tags.eq(producer.tags.iter().copied()));
            len += producer.messages.len();
        }
        assert_eq!(len, self.len);
        assert_eq!(self.names.len(), self.producers.iter().flatten().count());
        let names: Vec<(u32, &[u8])> =
            self.names.iter().map(|(tag, _)| *tag).zip(self.producers().map(|producer| &*producer.name)).collect();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]));
        heap::allocation(size_of::<Self>())
            + heap::allocation(self.producers.capacity() * size_of::<Option<Producer>>())
            + heap::allocation(self.names.capacity() * size_of::<(u32, u32)>())
            + heap::allocation(self.free.capacity() * size_of::<u32>())
            + self.producers.iter().flatten().map(Producer::heap_bytes).sum::<usize>()
    }
}

//! A producer of a [history](super::history): its messages in two rings, one of them of tags.

use std::collections::VecDeque;

use super::StreamId;
use super::moment::Sequence;
use crate::heap;

/// Tags that are compared together.
const TAGS_TOGETHER: usize = 16;
/// Messages whose room a producer keeps.
const ROOM_KEPT: usize = 16;
/// The longest name that is kept beside its message's id: a UUID as text, or a hash of 16 bytes.
const SHORT_MAX: usize = 38;

/// Messages are in the order of their producers' slots and of their entries' ids. Several may be bound to one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MessageKey {
    pub slot: u32,
    pub id: StreamId,
    pub nth: u32,
}

impl Sequence for MessageKey {
    const MIN: Self = MessageKey { slot: 0, id: StreamId::MIN, nth: 0 };

    fn next(self) -> Option<Self> {
        if let Some(nth) = self.nth.checked_add(1) {
            return Some(MessageKey { nth, ..self });
        }
        match self.id.next() {
            Some(id) => Some(MessageKey { id, nth: 0, ..self }),
            None => Some(MessageKey { slot: self.slot.checked_add(1)?, ..Self::MIN }),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum StoredName {
    Short(u8, [u8; SHORT_MAX]),
    Long(Box<[u8]>),
}

impl StoredName {
    #[inline]
    pub fn of(name: &[u8]) -> Self {
        if name.len() > SHORT_MAX {
            return StoredName::Long(name.into());
        }
        let mut bytes = [0; SHORT_MAX];
        bytes[..name.len()].copy_from_slice(name);
        StoredName::Short(name.len() as u8, bytes)
    }

    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match self {
            StoredName::Short(len, bytes) => &bytes[..usize::from(*len)],
            StoredName::Long(name) => name,
        }
    }

    #[inline]
    pub fn heap_bytes(&self) -> usize {
        match self {
            StoredName::Short(..) => 0,
            StoredName::Long(name) => heap::allocation(name.len()),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Message {
    pub id: StreamId,
    /// The number of messages of its producer that were bound to the same entry before.
    pub nth: u32,
    pub name: StoredName,
}

const _: () = assert!(size_of::<Message>() == 64, "a message is one line of the cache");

impl Message {
    pub fn key(&self, slot: u32) -> MessageKey {
        MessageKey { slot, id: self.id, nth: self.nth }
    }
}

/// Invariant: each message has its tag at the same place.
#[derive(Clone, Debug)]
pub(super) struct Producer {
    pub name: Box<[u8]>,
    pub tags: VecDeque<u32>,
    pub messages: VecDeque<Message>,
}

impl Producer {
    fn ring_bytes(&self) -> usize {
        heap::allocation(self.tags.capacity() * size_of::<u32>())
            + heap::allocation(self.messages.capacity() * size_of::<Message>())
    }

    pub fn heap_bytes(&self) -> usize {
        let names = self.messages.iter().map(|message| message.name.heap_bytes());
        heap::allocation(self.name.len()) + self.ring_bytes() + names.sum::<usize>()
    }

    /// The last of the messages with a name.
    #[inline]
    pub fn find(&self, message: &[u8], tag: u32) -> Option<&Message> {
        let (front, back) = self.tags.as_slices();
        let mut end = self.tags.len();
        for tags in [back, front] {
            end -= tags.len();
            for (chunk, tags) in tags.chunks(TAGS_TOGETHER).enumerate().rev() {
                // Without a way out of this loop several are compared at once.
                if !tags.iter().fold(false, |any, other| any | (*other == tag)) {
                    continue;
                }
                for (at, _) in tags.iter().enumerate().rev().filter(|(_, other)| **other == tag) {
                    let found = &self.messages[end + chunk * TAGS_TOGETHER + at];
                    if found.name.bytes() == message {
                        return Some(found);
                    }
                }
            }
        }
        None
    }

    /// Makes room for another message, but not for more of them than are remembered. Returns how many bytes that takes.
    #[inline]
    pub fn grow(&mut self, size_max: usize) -> usize {
        let len = self.messages.len();
        if len < self.messages.capacity() && len < self.tags.capacity() {
            return 0;
        }
        let before = self.ring_bytes();
        let more = len.min(size_max.saturating_sub(len)).max(1);
        self.messages.reserve_exact(more);
        self.tags.reserve_exact(more);
        self.ring_bytes() - before
    }

    /// Gives the room back that most messages have left. Returns how many bytes that were.
    #[inline]
    pub fn shrink(&mut self) -> usize {
        let (len, room) = (self.messages.len(), self.messages.capacity());
        if room <= ROOM_KEPT || len > room / 4 {
            return 0;
        }
        let before = self.ring_bytes();
        self.messages.shrink_to(2 * len);
        self.tags.shrink_to(2 * len);
        before - self.ring_bytes()
    }
}

/// The tag of a message or a producer.
pub(super) fn tag_of(name: &[u8]) -> u32 {
    rapidhash::v3::rapidhash_v3(name) as u32
}

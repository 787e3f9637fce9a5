//! Captures: a stream as it was at one moment, in parts.

use std::collections::{BTreeMap, VecDeque};

use super::group::{Group, Owner, Pending};
use super::history::Idempotency;
use super::moment::Moment;
use super::{Body, Head, Stream, StreamId};
use crate::listpack::ListpackRef;

/// A part of a captured stream. Consumers and pending entries belong to the group before them.
#[derive(Clone, Copy)]
pub enum StreamPart<'a> {
    Head {
        head: Head,
        len: u64,
    },
    /// Only of a stream whose producers have sent messages, or that has settings of its own.
    Producers {
        settings: Idempotency,
        added: u64,
        repeated: u64,
    },
    Message {
        producer: &'a [u8],
        message: &'a [u8],
        id: StreamId,
    },
    Node {
        first: StreamId,
        listpack: ListpackRef<'a>,
    },
    Group {
        name: &'a [u8],
        last: StreamId,
        read: Option<u64>,
    },
    Consumer {
        owner: Owner,
        name: &'a [u8],
        seen_ms: i64,
        active_ms: Option<i64>,
    },
    Pending(Pending),
}

/// A capture under way.
#[derive(Debug)]
pub(super) struct Capture {
    id: u64,
    /// Until it has been handed out.
    head: Option<(Head, u64)>,
    producers: Option<(Idempotency, u64, u64)>,
    /// The groups that have not been handed out whole, and the number of the first of them.
    groups: VecDeque<GroupHead>,
    number: usize,
    /// Groups of the moment that have been removed since, by their numbers.
    gone: BTreeMap<usize, Group>,
}

#[derive(Debug)]
struct GroupHead {
    name: Box<[u8]>,
    last: StreamId,
    read: Option<u64>,
    is_shown: bool,
    consumers: VecDeque<ConsumerHead>,
}

#[derive(Debug)]
struct ConsumerHead {
    owner: Owner,
    name: Box<[u8]>,
    seen_ms: i64,
    active_ms: Option<i64>,
}

impl Capture {
    /// Keeps a removed group that has not been handed out.
    pub fn keep(&mut self, group: Group) {
        if let Some(moment) = &group.moment
            && moment.0 >= self.number
        {
            self.gone.insert(moment.0, group);
        }
    }

    fn aside_bytes(&self) -> usize {
        self.gone.values().map(Group::heap_bytes).sum()
    }
}

impl Stream {
    /// Begins a capture, in place of any other. `id` tells it from others. Returns how many parts it will hand out.
    pub fn begin_capture(&mut self, id: u64) -> usize {
        let body = &mut *self.0;
        body.entries.begin_moment();
        let mut parts = 1 + body.entries.node_count();
        let history = body.history.as_deref_mut();
        let producers = history.map(|history| {
            parts += 1 + history.begin_moment();
            (history.settings, history.added, history.repeated)
        });
        let mut heads = VecDeque::with_capacity(body.groups.len());
        for (number, group) in body.groups.iter_mut().enumerate() {
            let end = group.pending_bounds().map(|(_, last)| last);
            group.moment = Some(Box::new((number, Moment::new(end))));
            parts += 1 + group.consumer_len() + group.pending_len();
            let consumers = group.consumers().map(|(owner, consumer)| ConsumerHead {
                owner,
                name: consumer.name().into(),
                seen_ms: consumer.seen_ms(),
                active_ms: consumer.active_ms(),
            });
            let (name, last, read) = (group.name().into(), group.last(), group.read());
            heads.push_back(GroupHead { name, last, read, is_shown: false, consumers: consumers.collect() });
        }
        let head = Some((body.entries.head(), body.entries.len() as u64));
        body.capture = Some(Box::new(Capture { id, head, producers, groups: heads, number: 0, gone: BTreeMap::new() }));
        parts
    }

    /// Shows the next parts of capture `id`, in order, until `visit` says that it has enough. Returns whether that was
    /// all; `None`: the capture does not exist.
    pub fn capture_some(&mut self, id: u64, mut visit: impl FnMut(StreamPart<'_>) -> bool) -> Option<bool> {
        let mut capture = self.0.capture.take_if(|capture| capture.id == id)?;
        loop {
            match self.capture_one(&mut capture, &mut visit) {
                Some(false) => {}
                Some(true) => break,
                None => {
                    self.0.end_moments();
                    return Some(true);
                }
            }
        }
        self.0.capture = Some(capture);
        Some(false)
    }

    /// Shows one part; `None`: there is none.
    fn capture_one(&mut self, capture: &mut Capture, visit: &mut impl FnMut(StreamPart<'_>) -> bool) -> Option<bool> {
        if let Some((head, len)) = capture.head.take() {
            return Some(visit(StreamPart::Head { head, len }));
        }
        if let Some((settings, added, repeated)) = capture.producers.take() {
            return Some(visit(StreamPart::Producers { settings, added, repeated }));
        }
        let mut has_enough = false;
        if let Some(history) = &mut self.0.history
            && history.step(|producer, message, id| has_enough = visit(StreamPart::Message { producer, message, id }))
        {
            return Some(has_enough);
        }
        if self.0.entries.step(|first, listpack| has_enough = visit(StreamPart::Node { first, listpack })) {
            return Some(has_enough);
        }
        loop {
            let head = capture.groups.front_mut()?;
            if !head.is_shown {
                head.is_shown = true;
                return Some(visit(StreamPart::Group { name: &head.name, last: head.last, read: head.read }));
            }
            if let Some(ConsumerHead { owner, name, seen_ms, active_ms }) = head.consumers.pop_front() {
                return Some(visit(StreamPart::Consumer { owner, name: &name, seen_ms, active_ms }));
            }
            let group = match capture.gone.get_mut(&capture.number) {
                Some(group) => Some(group),
                None => {
                    let at = self.search(&head.name).ok();
                    at.map(|at| &mut self.0.groups[at])
                }
            };
            if group.is_some_and(|group| group.step(|pending| has_enough = visit(StreamPart::Pending(pending)))) {
                return Some(has_enough);
            }
            capture.gone.remove(&capture.number);
            capture.groups.pop_front();
            capture.number += 1;
        }
    }

    /// The capture in progress.
    pub fn captured_id(&self) -> Option<u64> {
        self.0.capture.as_ref().map(|capture| capture.id)
    }

    /// Bytes that it has put aside.
    pub fn aside_bytes(&self) -> usize {
        let Some(capture) = &self.0.capture else { return 0 };
        let nodes = self.0.entries.moment.iter().map(|moment| moment.aside_bytes());
        let groups = self.0.groups.iter().filter_map(|group| group.moment.as_ref());
        let pending = groups.map(|moment| moment.1.aside().count() * size_of::<(StreamId, Option<Pending>)>());
        let messages = self.0.history.iter().map(|history| history.aside_bytes());
        capture.aside_bytes() + nodes.chain(pending).chain(messages).sum::<usize>()
    }

    /// Ends whatever capture is under way.
    pub fn end_capture(&mut self) {
        self.0.capture = None;
        self.0.end_moments();
    }
}

impl Body {
    fn end_moments(&mut self) {
        self.entries.moment = None;
        self.groups.iter_mut().for_each(|group| group.moment = None);
        if let Some(history) = &mut self.history {
            history.end_moment();
        }
    }
}

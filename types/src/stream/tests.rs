use std::collections::BTreeMap;

use super::*;
use crate::item::Item;
use crate::limits::NODE_ENTRIES_MAX;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A stream as plain maps.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    entries: BTreeMap<StreamId, Pairs>,
    head: Head,
    groups: BTreeMap<Vec<u8>, ModelGroup>,
    /// The settings for messages, and those of each producer in the order of their ids.
    size_max: usize,
    messages: BTreeMap<Vec<u8>, Vec<(StreamId, Vec<u8>)>>,
    added: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct ModelGroup {
    last: StreamId,
    read: Option<u64>,
    /// Owner, time and number of deliveries.
    pending: BTreeMap<StreamId, (Vec<u8>, i64, u64)>,
    consumers: BTreeMap<Vec<u8>, (i64, Option<i64>)>,
    /// In the order in which they were released.
    released: Vec<StreamId>,
}

/// The owner of released entries.
const RELEASED: &[u8] = b"released";

/// Messages are remembered for a second.
const DURATION_S: u32 = 1;

fn pairs_of(entry: &StreamEntry<'_>) -> Pairs {
    entry.fields().map(|(field, value)| (field.to_vec(), value.to_vec())).collect()
}

fn shown(stream: &Stream) -> Model {
    let mut model = Model { head: stream.entries().head(), ..Model::default() };
    model.entries = stream.entries().iter().map(|entry| (entry.id, pairs_of(&entry))).collect();
    for group in stream.groups() {
        let name = |owner| match owner {
            Owner::RELEASED => RELEASED.to_vec(),
            owner => group.consumer(owner).expect("an owner exists").name().to_vec(),
        };
        let pending = group.pending_from(StreamId::MIN);
        let pending = pending.map(|p| (p.id, (name(p.owner), p.delivered_ms, p.deliveries))).collect();
        let consumers = group.consumers().map(|(_, c)| (c.name().to_vec(), (c.seen_ms(), c.active_ms()))).collect();
        let (last, read, released) = (group.last(), group.read(), group.released());
        let shown = ModelGroup { last, read, pending, consumers, released };
        model.groups.insert(group.name().to_vec(), shown);
    }
    for (producer, messages) in stream.producers() {
        let messages = messages.map(|(message, id)| (id, message.to_vec())).collect();
        model.messages.insert(producer.to_vec(), messages);
    }
    (model.size_max, model.added) = (stream.idempotency().size_max as usize, stream.messages_ever().0);
    model
}

/// The stream that the parts of a capture describe.
#[derive(Default)]
struct Rebuilt {
    model: Model,
    nodes: Stream,
    len: u64,
    group: Vec<u8>,
    owners: BTreeMap<Owner, Vec<u8>>,
    released: BTreeMap<Vec<u8>, Vec<(u32, StreamId)>>,
    parts: usize,
}

impl Rebuilt {
    fn take(&mut self, part: StreamPart<'_>) {
        self.parts += 1;
        match part {
            StreamPart::Head { head, len } => (self.model.head, self.len) = (head, len),
            StreamPart::Producers { settings, added, .. } => {
                (self.model.size_max, self.model.added) = (settings.size_max as usize, added);
            }
            StreamPart::Message { producer, message, id } => {
                self.model.messages.entry(producer.to_vec()).or_default().push((id, message.to_vec()));
            }
            StreamPart::Node { first, listpack } => self.nodes.load_node(first, listpack.bytes()).unwrap(),
            StreamPart::Group { name, last, read } => {
                self.group = name.to_vec();
                self.owners = [(Owner::RELEASED, RELEASED.to_vec())].into();
                self.model.groups.insert(name.to_vec(), ModelGroup { last, read, ..ModelGroup::default() });
            }
            StreamPart::Consumer { owner, name, seen_ms, active_ms } => {
                self.owners.insert(owner, name.to_vec());
                let group = self.model.groups.get_mut(&self.group).unwrap();
                group.consumers.insert(name.to_vec(), (seen_ms, active_ms));
            }
            StreamPart::Pending(pending) => {
                let group = self.model.groups.get_mut(&self.group).unwrap();
                let owner = self.owners[&pending.owner].clone();
                if pending.is_released() {
                    self.released.entry(self.group.clone()).or_default().push((pending.turn(), pending.id));
                }
                group.pending.insert(pending.id, (owner, pending.delivered_ms, pending.deliveries));
            }
        }
    }

    fn finish(mut self) -> Model {
        self.nodes.loaded(self.model.head, self.len).unwrap();
        self.model.entries = self.nodes.entries().iter().map(|entry| (entry.id, pairs_of(&entry))).collect();
        for (name, mut released) in self.released {
            released.sort();
            let group = self.model.groups.get_mut(&name).unwrap();
            group.released = released.into_iter().map(|(_, id)| id).collect();
        }
        if self.model.size_max == 0 {
            self.model.size_max = Idempotency::REDIS.size_max as usize;
        }
        self.model
    }
}

fn text(random: &mut fastrand::Rng) -> Vec<u8> {
    match random.u8(..10) {
        0 => random.i64(..).to_string().into_bytes(),
        1 => random.i8(..).to_string().into_bytes(),
        2 => vec![b'x'; random.usize(..600)],
        _ => format!("v{}", random.u8(..20)).into_bytes(),
    }
}

fn pairs(random: &mut fastrand::Rng) -> Pairs {
    let count = if random.u8(..3) > 0 { 2 } else { random.usize(1..5) };
    (0..count).map(|at| (format!("f{at}").into_bytes(), text(random))).collect()
}

fn append(stream: &mut Stream, id: StreamId, pairs: &Pairs) {
    stream.append(id, pairs.iter().map(|(field, value)| (&field[..], &value[..])), &Limits::REDIS);
}

impl Model {
    fn append(&mut self, id: StreamId, pairs: Pairs) {
        self.entries.insert(id, pairs);
        self.head.last = id;
        self.head.added += 1;
        self.find_first();
    }

    fn find_first(&mut self) {
        self.head.first = self.entries.keys().next().copied().unwrap_or_default();
    }

    fn keep(&mut self, kept: impl Fn(usize, StreamId) -> bool) {
        let len = self.entries.len();
        let mut at = 0;
        self.entries.retain(|id, _| {
            at += 1;
            kept(len + 1 - at, *id)
        });
        self.find_first();
    }

    /// Without messages that are not remembered any more.
    fn at(mut self, now_ms: u64) -> Self {
        let is_over = |id: StreamId| now_ms.checked_sub(u64::from(DURATION_S) * 1000).is_some_and(|over| id.ms <= over);
        self.messages.values_mut().for_each(|messages| messages.retain(|(id, _)| !is_over(*id)));
        self.messages.retain(|_, messages| !messages.is_empty());
        self
    }

    /// Takes an entry from the released ones of a group.
    fn take_released(group: &mut ModelGroup, id: StreamId) {
        group.released.retain(|other| *other != id);
    }

    fn some_id(&self, random: &mut fastrand::Rng) -> StreamId {
        match self.entries.keys().nth(random.usize(..self.entries.len().max(1))) {
            Some(id) if random.u8(..5) > 0 => *id,
            _ => StreamId::new(random.u64(..2000), random.u64(..3)),
        }
    }
}

fn step(stream: &mut Stream, model: &mut Model, random: &mut fastrand::Rng, now: i64) {
    let group = vec![b'g', b'0' + random.u8(..3)];
    let consumer = vec![b'c', b'0' + random.u8(..4)];
    let exists = model.groups.contains_key(&group);
    let id = model.some_id(random);
    match random.u8(..24) {
        16..24 => step_newer(stream, model, random, now),
        0..5 => {
            for _ in 0..random.usize(1..12) {
                let last = model.head.last;
                let gap = [0, 0, 1, 7, 5000][random.usize(..5)];
                let id = if gap == 0 { last.next().unwrap() } else { StreamId::new(last.ms + gap, random.u64(..3)) };
                let pairs = pairs(random);
                append(stream, id, &pairs);
                model.append(id, pairs);
            }
        }
        5 | 6 => {
            let ids: Vec<StreamId> = (0..random.usize(1..9)).map(|_| model.some_id(random)).collect();
            let mut deleted = 0;
            for id in &ids {
                if model.entries.remove(id).is_some() {
                    deleted += 1;
                    model.head.max_deleted = model.head.max_deleted.max(*id);
                }
            }
            model.find_first();
            assert_eq!(stream.delete(ids.into_iter()), deleted);
        }
        7 => {
            let (before, keep) = (model.entries.len(), random.usize(..400));
            let removed = stream.trim(Trim { until: Until::Length(keep), is_approximate: false, limit: 0 });
            model.keep(|rank, _| rank <= keep);
            assert_eq!(removed, before.saturating_sub(keep));
        }
        8 => {
            let before = model.entries.len();
            let removed = stream.trim(Trim { until: Until::Id(id), is_approximate: false, limit: 0 });
            model.keep(|_, other| other >= id);
            assert_eq!(removed, before - model.entries.len());
        }
        9 => {
            let (before, keep, limit) = (model.entries.len(), random.usize(..400), random.usize(..200));
            let removed = stream.trim(Trim { until: Until::Length(keep), is_approximate: true, limit });
            assert!(removed == 0 || before - removed >= keep && (limit == 0 || removed <= limit));
            model.keep(|rank, _| rank <= before - removed);
        }
        10 => {
            let read = random.bool().then_some(7);
            let added = stream.add_group(&group, id, read);
            assert_eq!(added, !exists);
            let fresh = ModelGroup { last: id, read, ..ModelGroup::default() };
            model.groups.entry(group).or_insert(fresh);
        }
        11 if random.u8(..4) == 0 => assert_eq!(stream.remove_group(&group), model.groups.remove(&group).is_some()),
        11 => {
            let Some(found) = model.groups.get_mut(&group) else { return };
            let deleted = stream.change_group(&group, |_, group| group.delete_consumer(&consumer)).unwrap();
            let before = found.pending.len();
            found.pending.retain(|_, (owner, ..)| *owner != consumer);
            assert_eq!(deleted, found.consumers.remove(&consumer).map(|_| before - found.pending.len()));
        }
        12 | 13 => {
            let Some(found) = model.groups.get_mut(&group) else { return };
            let count = random.usize(1..20);
            let from = found.last;
            let read = stream.change_group(&group, |entries, group| {
                let (owner, _) = group.owner_or_new(&consumer, now);
                group.see(owner, now);
                let start = group.last().next().unwrap();
                let ids: Vec<StreamId> =
                    entries.range(start, StreamId::MAX).take(count).map(|entry| entry.id).collect();
                ids.iter().for_each(|id| group.deliver(entries, *id, Some(owner), now));
                (ids, group.read())
            });
            let (ids, read) = read.unwrap();
            let expected: Vec<StreamId> = model.entries.keys().filter(|id| **id > from).take(count).copied().collect();
            assert_eq!(ids, expected);
            let state = found.consumers.entry(consumer.clone()).or_default();
            state.0 = now;
            for id in ids {
                state.1 = Some(now);
                found.last = found.last.max(id);
                found.released.retain(|other| *other != id);
                found.pending.insert(id, (consumer.clone(), now, 1));
            }
            found.read = read;
        }
        14 => {
            let Some(found) = model.groups.get_mut(&group) else { return };
            let pending: Vec<StreamId> = found.pending.keys().copied().collect();
            let id = if pending.is_empty() { id } else { pending[random.usize(..pending.len())] };
            let was = stream.change_group(&group, |_, group| group.acknowledge(id)).unwrap();
            assert_eq!(was, found.pending.remove(&id).is_some());
            Model::take_released(found, id);
        }
        _ => {
            let Some(found) = model.groups.get_mut(&group) else { return };
            let (is_forced, counts) = (random.bool(), random.bool());
            let idle_min_ms = random.i64(..20);
            let claimed = stream.change_group(&group, |entries, group| {
                let (owner, _) = group.owner_or_new(&consumer, now);
                let (now_ms, delivered_ms) = (now, now - 1);
                let claim = Claim { owner, now_ms, idle_min_ms, delivered_ms, deliveries: None, counts, is_forced };
                group.claim(entries, id, &claim)
            });
            let state = found.consumers.entry(consumer.clone()).or_insert((now, None));
            let before = found.pending.get(&id).cloned();
            let is_idle = before
                .as_ref()
                .map_or(is_forced, |(owner, at, _)| idle_min_ms == 0 || owner == RELEASED || now - at >= idle_min_ms);
            let expected = if !model.entries.contains_key(&id) {
                Model::take_released(found, id);
                if found.pending.remove(&id).is_some() { Claimed::Gone } else { Claimed::Not }
            } else if is_idle {
                let deliveries = before.map_or(1, |(.., deliveries)| deliveries);
                let deliveries =
                    if deliveries == Deliveries::MOST { deliveries } else { deliveries + u64::from(counts) };
                found.released.retain(|other| *other != id);
                found.pending.insert(id, (consumer, now - 1, deliveries));
                state.1 = Some(now);
                Claimed::Taken
            } else {
                Claimed::Not
            };
            assert_eq!(claimed, Some(expected));
        }
    }
}

/// The commands that Redis 8 has added.
fn step_newer(stream: &mut Stream, model: &mut Model, random: &mut fastrand::Rng, now: i64) {
    let group = vec![b'g', b'0' + random.u8(..3)];
    let consumer = vec![b'c', b'0' + random.u8(..4)];
    let now_ms = now as u64 * 2000;
    let id = model.some_id(random);
    match random.u8(..8) {
        0..3 => {
            let producer = vec![b'p'; random.usize(1..5)];
            let message = format!("message {}", random.u8(..20)).into_bytes();
            *model = std::mem::take(model).at(now_ms);
            let messages = model.messages.entry(producer.clone()).or_default();
            let known = messages.iter().find(|(_, name)| *name == message).map(|(id, _)| *id);
            assert_eq!(stream.message(&producer, &message, now_ms), known);
            let id = if random.u8(..4) > 0 { StreamId::new(now_ms, model.added) } else { id };
            if known.is_none() {
                stream.add_message(&producer, &message, id, now_ms);
                let at = messages.partition_point(|(other, _)| *other <= id);
                messages.insert(at, (id, message));
                if messages.len() > model.size_max {
                    messages.remove(0);
                }
                model.added += 1;
            }
            *model = std::mem::take(model).at(now_ms);
            let counts = stream.message_counts(now_ms);
            let messages = model.messages.values().map(Vec::len).sum();
            assert_eq!((counts.producers, counts.messages), (model.messages.len(), messages));
        }
        3 if random.u8(..4) == 0 => {
            let size_max = random.usize(1..12);
            let settings = Idempotency { duration_s: DURATION_S, size_max: size_max as u32 };
            if stream.set_idempotency(settings) {
                model.messages.clear();
            }
            model.size_max = size_max;
        }
        3 | 4 => {
            let Some(found) = model.groups.get_mut(&group) else { return };
            let pending: Vec<StreamId> = found.pending.keys().copied().collect();
            let id = if pending.is_empty() { id } else { pending[random.usize(..pending.len())] };
            let count = [Deliveries::Undone, Deliveries::Kept, Deliveries::Most, Deliveries::Exactly(7)];
            let (count, is_forced) = (count[random.usize(..4)], random.bool());
            let released =
                stream.change_group(&group, |entries, group| group.release(entries, id, count, is_forced)).unwrap();
            let before = found.pending.get(&id).map(|(.., deliveries)| *deliveries);
            let before = before.or((is_forced && model.entries.contains_key(&id)).then_some(0));
            assert_eq!(released, before.is_some());
            let Some(before) = before else { return };
            let deliveries = match count {
                Deliveries::Undone => before.saturating_sub(1),
                Deliveries::Kept => before,
                Deliveries::Most => Deliveries::MOST,
                Deliveries::Exactly(count) => count,
            };
            found.pending.insert(id, (RELEASED.to_vec(), 0, deliveries));
            Model::take_released(found, id);
            found.released.push(id);
        }
        5 | 6 => {
            let Some(found) = model.groups.get_mut(&group) else { return };
            let (count, idle_min_ms) = (random.usize(1..5), random.u64(..20));
            let mut claimed = Vec::new();
            stream.change_group(&group, |entries, group| {
                let (owner, _) = group.owner_or_new(&consumer, now);
                let claim = DueClaim { owner, now_ms: now, idle_min_ms };
                group.claim_due(entries, claim, |entry, before| {
                    claimed.push((entry.id, before.delivered_ms, before.deliveries));
                    claimed.len() < count
                });
            });
            let exists = |id: &StreamId| model.entries.contains_key(id);
            // Those have waited since the time 0.
            let released = found.released.iter().copied().filter(|id| exists(id) && now as u64 >= idle_min_ms);
            let mut due: Vec<(i64, StreamId)> = (found.pending.iter())
                .filter(|(id, (owner, at, _))| exists(id) && owner != RELEASED && (now - at) as u64 >= idle_min_ms)
                .map(|(id, (_, at, _))| (*at, *id))
                .collect();
            due.sort();
            // Those of one time come in the order of their deliveries, which the model does not know.
            let times: Vec<i64> =
                released.clone().map(|_| 0).chain(due.iter().map(|(at, _)| *at)).take(count).collect();
            assert_eq!(claimed.iter().map(|(_, at, _)| *at).collect::<Vec<_>>(), times);
            let first: Vec<StreamId> = released.take(count).collect();
            assert_eq!(claimed.iter().map(|(id, ..)| *id).take(first.len()).collect::<Vec<_>>(), first);
            let state = found.consumers.entry(consumer.clone()).or_insert((now, None));
            for (id, at, before) in claimed {
                let pending = found.pending.get_mut(&id).unwrap();
                assert_eq!((pending.1, pending.2), (at, before));
                let deliveries = if before == Deliveries::MOST { before } else { before + 1 };
                *pending = (consumer.clone(), now, deliveries);
                found.released.retain(|other| *other != id);
                state.1 = Some(now);
            }
        }
        _ => {
            let references = [References::Respect, References::Delete][random.usize(..2)];
            let (keep, mut removed) = (random.usize(..400), Vec::new());
            let until = if random.bool() { Until::Length(keep) } else { Until::Id(id) };
            stream.trim_with(Trim { until, is_approximate: false, limit: 0 }, references, &mut removed);
            assert!(removed.windows(2).all(|pair| pair[0] < pair[1]));
            let Some(last) = removed.last().copied() else { return };
            let is_referred_to =
                |id: StreamId| model.groups.values().any(|group| group.last < id || group.pending.contains_key(&id));
            let expected = model.entries.range(..=last).map(|(id, _)| *id);
            let expected: Vec<StreamId> =
                expected.filter(|id| references == References::Delete || !is_referred_to(*id)).collect();
            assert_eq!(removed, expected);
            match until {
                Until::Length(keep) => assert!(model.entries.len() - removed.len() >= keep),
                Until::Id(first) => assert!(last < first),
            }
            for id in removed {
                model.entries.remove(&id);
                if references == References::Delete {
                    for group in model.groups.values_mut() {
                        group.pending.remove(&id);
                        Model::take_released(group, id);
                    }
                }
            }
            model.find_first();
        }
    }
}

/// A stream and its model, whose messages are remembered for as long as in the other tests.
fn new_pair() -> (Stream, Model) {
    let (mut stream, settings) = (Stream::new(), Idempotency { duration_s: DURATION_S, size_max: 5 });
    stream.set_idempotency(settings);
    (stream, Model { size_max: 5, ..Model::default() })
}

fn check_ranges(stream: &Stream, model: &Model, random: &mut fastrand::Rng) {
    let (start, end) = (model.some_id(random), model.some_id(random));
    if start <= end {
        let expected: Vec<StreamId> = model.entries.range(start..=end).map(|(id, _)| *id).collect();
        let forward: Vec<StreamId> = stream.entries().range(start, end).map(|entry| entry.id).collect();
        let mut back: Vec<StreamId> = stream.entries().range_back(start, end).map(|entry| entry.id).collect();
        back.reverse();
        assert_eq!(forward, expected);
        assert_eq!(back, expected);
    } else {
        assert_eq!(stream.entries().range(start, end).count(), 0);
        assert_eq!(stream.entries().range_back(start, end).count(), 0);
    }
    assert_eq!(stream.entries().get(start).map(|entry| pairs_of(&entry)), model.entries.get(&start).cloned());
    assert_eq!(stream.entries().last_existing(), model.entries.keys().next_back().copied());
    assert_eq!(stream.len(), model.entries.len());
}

#[test]
fn a_stream_is_like_its_model() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut stream, mut model) = new_pair();
        for now in 0..300 {
            step(&mut stream, &mut model, &mut random, now);
            check_ranges(&stream, &model, &mut random);
            if now % 16 == 0 {
                let now_ms = now as u64 * 2000;
                model = model.at(now_ms);
                assert_eq!(shown(&stream).at(now_ms), model, "seed {seed}");
                assert_eq!(stream.heap_bytes(), stream.counted_bytes(), "seed {seed}");
                let copy = stream.clone();
                assert_eq!(shown(&copy).at(now_ms), model);
                assert_eq!(copy.heap_bytes(), copy.counted_bytes());
            }
        }
        while !stream.dismantle(10) {}
        assert_eq!(stream.heap_bytes(), Stream::new().heap_bytes());
    }
}

#[test]
fn a_capture_shows_one_moment() {
    for seed in 0..120 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut stream, mut model) = new_pair();
        (0..150).for_each(|now| step(&mut stream, &mut model, &mut random, now));
        let then = shown(&stream);
        let parts = stream.begin_capture(9);
        let (mut rebuilt, mut is_done, mut now) = (Rebuilt::default(), false, 150);
        while !is_done {
            let mut left = random.usize(1..30);
            is_done = stream
                .capture_some(9, |part| {
                    rebuilt.take(part);
                    left -= 1;
                    left == 0
                })
                .expect("the capture is under way");
            for _ in 0..random.usize(..12) {
                step(&mut stream, &mut model, &mut random, now);
                now += 1;
            }
            if random.u8(..20) == 0 && !model.entries.is_empty() {
                // Ids may begin anew in an empty stream.
                stream.trim(Trim { until: Until::Length(0), is_approximate: false, limit: 0 });
                model.keep(|_, _| false);
                let head = Head { last: StreamId::MIN, max_deleted: StreamId::MIN, ..stream.entries().head() };
                stream.set_head(head);
                model.head = head;
            }
        }
        assert_eq!(rebuilt.parts, parts, "seed {seed}");
        assert_eq!(rebuilt.finish(), then, "seed {seed}");
        assert_eq!(stream.captured_id(), None);
        assert_eq!(stream.capture_some(9, |_| true), None);
        let now_ms = now as u64 * 2000;
        assert_eq!(shown(&stream).at(now_ms), model.at(now_ms), "seed {seed}");
    }
}

#[test]
fn nodes_are_cut_where_redis_cuts_them() {
    let mut stream = Stream::new();
    for seq in 1..=250 {
        stream.append(StreamId::new(1, seq), [(&b"a"[..], &b"1"[..])].into_iter(), &Limits::REDIS);
    }
    let firsts: Vec<u64> = stream.entries().nodes().map(|(first, _)| first.seq).collect();
    assert_eq!(firsts, [1, 101, 201]);
    let large = vec![b'x'; 3000];
    stream.append(StreamId::new(1, 251), [(&b"a"[..], &large[..])].into_iter(), &Limits::REDIS);
    stream.append(StreamId::new(1, 252), [(&b"a"[..], &large[..])].into_iter(), &Limits::REDIS);
    assert_eq!(stream.entries().nodes().len(), 4);
}

#[test]
fn an_entry_of_two_small_fields_takes_little_beside_its_listpack() {
    let mut stream = Stream::new();
    for n in 0..100_000u64 {
        let value = (n % 100).to_string();
        let pairs = [(&b"a"[..], value.as_bytes()), (&b"b"[..], &b"xy"[..])];
        stream.append(StreamId::new(1_700_000_000_000 + n, 0), pairs.into_iter(), &Limits::REDIS);
        if n % 5000 == 0 {
            // The nodes take no more room than they need, up to the allocator's size class: 40 bytes each.
            let listpacks = stream.entries().nodes().map(|(_, listpack)| heap::allocation(listpack.bytes_len()));
            let beside = stream.heap_bytes() - listpacks.sum::<usize>();
            let expected = heap::allocation(40 * stream.entries().nodes().len());
            assert!((expected..expected + 300).contains(&beside), "{beside} bytes, and not {expected}, after {n}");
        }
    }
}

#[test]
fn malformed_nodes_are_refused() {
    let mut stream = Stream::new();
    for seq in 1..5 {
        let field = format!("field {}", seq / 2);
        stream.append(StreamId::new(1, seq), [(field.as_bytes(), &b"value"[..])].into_iter(), &Limits::REDIS);
    }
    stream.delete([StreamId::new(1, 2)].into_iter());
    let (first, listpack) = stream.entries().nodes().next().unwrap();
    let bytes = listpack.bytes().to_vec();
    assert_eq!(Stream::new().load_node(first, &bytes), Ok(()));
    let mut twice = Stream::new();
    twice.load_node(first, &bytes).unwrap();
    assert!(twice.load_node(first, &bytes).is_err(), "the same entries twice");
    let items: Vec<Item<'_>> = listpack.iter().collect();
    let load = |items: &[Item<'_>]| {
        let mut listpack = crate::listpack::Listpack::new();
        listpack.push_all(items.iter().copied());
        Stream::new().load_node(first, listpack.view().bytes())
    };
    assert_eq!(load(&items), Ok(()));
    for at in 0..items.len() {
        assert!(load(&items[..at]).is_err(), "cut at {at}");
        if let Item::Int(number) = items[at] {
            for wrong in [number - 1, number + 8, i64::MAX, i64::MIN] {
                let mut items = items.clone();
                items[at] = Item::Int(wrong);
                // An id may be another one, as long as the order stays.
                let loaded = load(&items);
                assert!(loaded.is_err() || (5..).contains(&at), "item {at} is {wrong}");
            }
        }
    }
}

/// Each look into such a node would walk over all of it.
#[test]
fn a_node_from_outside_that_is_too_large_is_divided() {
    const COUNT: i64 = 30_000;
    const DEAD: i64 = COUNT / 10;
    let is_dead = |n: i64| n % 10 == 0;
    // Without fields, so that there are as many entries as possible.
    let head = [COUNT - DEAD, DEAD, 0, 0].into_iter();
    let entries = (0..COUNT).flat_map(|n| [2 | i64::from(is_dead(n)), 0, n, 3]);
    let mut listpack = crate::listpack::Listpack::new();
    listpack.push_all(head.chain(entries).map(Item::Int));
    let (first, last) = (StreamId::new(5, 0), StreamId::new(5, COUNT as u64 - 1));
    let mut stream = Stream::new();
    stream.load_node(first, listpack.view().bytes()).unwrap();
    let head = Head { last, added: COUNT as u64, ..Head::default() };
    stream.loaded(head, (COUNT - DEAD) as u64).unwrap();
    assert_eq!(stream.entries().node_count(), (COUNT - DEAD) as usize / NODE_ENTRIES_MAX);
    assert_eq!(stream.entries().head(), Head { first: StreamId::new(5, 1), ..head });
    let ids = (0..COUNT).filter(|n| !is_dead(*n)).map(|n| StreamId::new(5, n as u64));
    assert!(stream.entries().iter().map(|entry| entry.id).eq(ids));
    assert_eq!(stream.heap_bytes(), stream.counted_bytes());
    assert_eq!(
        stream.trim(Trim { until: Until::Length(1), is_approximate: false, limit: 0 }),
        (COUNT - DEAD) as usize - 1
    );
}

/// Approximate trimming is replayed onto it, and must find the same borders.
#[test]
fn a_node_stays_as_it_is_however_many_bytes_it_has() {
    let mut stream = Stream::new();
    for seq in 1..=50 {
        stream.append(StreamId::new(1, seq), [(&b"field"[..], &b"value"[..])].into_iter(), &Limits::REDIS);
    }
    stream.delete((10..20).map(|seq| StreamId::new(1, seq)));
    // The bytes of fields and values count, and not their overhead.
    stream.append(StreamId::new(1, 51), vec![(&b""[..], &b""[..]); 50_000].into_iter(), &Limits::REDIS);
    assert_eq!(stream.entries().node_count(), 1);
    let mut again = Stream::new();
    stream.entries().nodes().for_each(|(first, node)| again.load_node(first, node.bytes()).unwrap());
    again.loaded(stream.entries().head(), 41).unwrap();
    let bytes = |stream: &Stream| stream.entries().nodes().map(|(_, node)| node.bytes().to_vec()).collect::<Vec<_>>();
    assert_eq!(bytes(&again), bytes(&stream));
    assert!(again.entries().excess_bytes() > 100_000 && stream.entries().excess_bytes() > 100_000);
}

#[test]
fn a_message_is_known_by_its_producer_and_its_name() {
    let mut stream = Stream::new();
    assert_eq!(stream.message(b"p", b"m", 0), None);
    stream.add_message(b"p", b"m", StreamId::new(5000, 1), 5000);
    stream.add_message(b"q", b"m", StreamId::new(5000, 2), 5000);
    assert_eq!(stream.message(b"p", b"m", 5000), Some(StreamId::new(5000, 1)));
    assert_eq!(stream.message(b"q", b"m", 5000), Some(StreamId::new(5000, 2)));
    assert_eq!(stream.message(b"p", b"n", 5000), None);
    assert_eq!(stream.message(b"p", b"m", 104_999), Some(StreamId::new(5000, 1)));
    assert_eq!(stream.message(b"p", b"m", 105_000), None, "after a hundred seconds");
    assert_eq!(stream.message_counts(105_000).messages, 0);
    assert!(!stream.set_idempotency(Idempotency::REDIS));
    assert!(stream.set_idempotency(Idempotency { size_max: 2, ..Idempotency::REDIS }));
    assert_eq!(stream.message(b"q", b"m", 5000), None, "other settings forget all");
    for n in 0..3 {
        stream.add_message(b"p", &[n], StreamId::new(6000, n.into()), 6000);
    }
    let known: Vec<bool> = (0..3).map(|n| stream.message(b"p", &[n], 6000).is_some()).collect();
    assert_eq!(known, [false, true, true]);
    assert_eq!(stream.heap_bytes(), stream.counted_bytes());
}

/// Producers that send one message each would take memory for ever.
#[test]
fn producers_go_with_their_messages() {
    let mut stream = Stream::new();
    let mut most = 0;
    for n in 0..20_000u64 {
        let now_ms = 1_000_000 + n * 1000;
        stream.add_message(format!("producer {n}").as_bytes(), b"m", StreamId::new(now_ms, 0), now_ms);
        most = most.max(stream.message_len().1);
    }
    assert_eq!(stream.message_counts(20_999_000).producers, 100);
    assert!(most < 110, "a round over all producers is soon done: {most}");
    assert_eq!(stream.heap_bytes(), stream.counted_bytes());
    assert!(stream.heap_bytes() < 64 << 10, "{}", stream.heap_bytes());
}

/// As Redis 8.10 names the message of `XADD s IDMPAUTO p * a 1 b 2`, with its fields in any order.
#[test]
fn a_message_is_named_by_its_fields_in_any_order() {
    let pairs: [(&[u8], &[u8]); 2] = [(b"a", b"1"), (b"b", b"2")];
    let name = name_of_message(pairs.into_iter());
    assert_eq!(u128::from_be_bytes(name), 0xc5b2_8293_5f77_a531_23e1_ff7a_302a_11f2);
    assert_eq!(name, name_of_message(pairs.into_iter().rev()));
    assert_ne!(name, name_of_message([(&b"a"[..], &b"2"[..]), (b"b", b"1")].into_iter()));
    assert_ne!(
        name_of_message([(&b"ab"[..], &b"c"[..])].into_iter()),
        name_of_message([(&b"a"[..], &b"bc"[..])].into_iter())
    );
}

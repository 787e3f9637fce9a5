//! Consumer groups: what was delivered to whom, and is not acknowledged yet.
//!
//! An entry that was delivered is *pending*. The group has one record of each pending entry, with its owner; each consumer
//! has the ids of its own. Consumers are known by the number of their slot, which a later one may get when it is free. An entry
//! that its owner has released is pending without one, until another consumer claims it.
//!
//! Invariants: every pending entry has an owner, and is among the ids of that one alone, or it is released.

use super::StreamId;
use super::blocks::{Blocks, Keyed};
use super::due::{Due, order_of};
use super::entries::StreamEntries;
use super::moment::Moment;
use super::node::StreamEntry;
use crate::{Malformed, heap};

/// A delivered entry that is not acknowledged yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    pub id: StreamId,
    /// Unix milliseconds of the last delivery.
    pub delivered_ms: i64,
    pub deliveries: u64,
    pub owner: Owner,
    /// Its place among the deliveries of its group.
    pub(super) turn: u32,
}

impl Pending {
    /// Whether its owner has released it, so that it has none.
    pub fn is_released(&self) -> bool {
        self.owner == Owner::RELEASED
    }

    /// Its place among those that may be claimed.
    fn due(&self) -> Due {
        let delivered_ms = Some(self.delivered_ms).filter(|_| !self.is_released());
        Due::new(delivered_ms, self.turn, self.id)
    }

    /// Later deliveries of the group have higher turns.
    pub fn turn(&self) -> u32 {
        self.turn
    }

    /// Milliseconds since its last delivery. A released entry has waited since 1970.
    pub fn idle_ms(&self, now_ms: i64) -> i64 {
        now_ms.wrapping_sub(self.delivered_ms)
    }
}

/// The number of a consumer in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner(pub(super) u32);

impl Owner {
    /// Only while a group is loaded.
    const NONE: Owner = Owner(u32::MAX);
    /// That of a released entry.
    pub const RELEASED: Owner = Owner(u32::MAX - 1);

    pub fn number(self) -> u32 {
        self.0
    }
}

impl Keyed for Pending {
    type Key = StreamId;

    fn key(&self) -> StreamId {
        self.id
    }
}

#[derive(Debug)]
pub struct Group {
    name: Box<[u8]>,
    /// The id of the entry that was delivered last.
    last: StreamId,
    /// How many entries were added up to `last`, where that is known.
    read: Option<u64>,
    pending: Blocks<Pending>,
    /// How many of them are released.
    released: usize,
    /// The turn of the last delivery.
    turn: u32,
    /// The order in which entries may be claimed, once it has been asked for. Entries that do not exist any more may lack.
    due: Option<Blocks<Due>>,
    slots: Vec<Option<Consumer>>,
    /// The slots of the consumers in the order of their names.
    names: Vec<u32>,
    free: Vec<u32>,
    /// The allocations of the consumers.
    consumer_bytes: usize,
    /// The number of the group in the capture that is under way, and the pending entries of its moment.
    pub(super) moment: Option<Box<(usize, Moment<Pending>)>>,
}

#[derive(Clone, Debug)]
pub struct Consumer {
    name: Box<[u8]>,
    seen_ms: i64,
    active_ms: Option<i64>,
    pending: Blocks<StreamId>,
}

impl Consumer {
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Unix milliseconds of its last attempt to read or claim.
    pub fn seen_ms(&self) -> i64 {
        self.seen_ms
    }

    /// Unix milliseconds of its last successful read or claim.
    pub fn active_ms(&self) -> Option<i64> {
        self.active_ms
    }

    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// The ids of its pending entries from `id` on.
    pub fn pending_from(&self, id: StreamId) -> impl Iterator<Item = StreamId> {
        self.pending.from(id).copied()
    }

    fn heap_bytes(&self) -> usize {
        heap::allocation(self.name.len()) + self.pending.heap_bytes()
    }
}

/// How an entry is claimed.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pub owner: Owner,
    pub now_ms: i64,
    /// StreamEntries that were delivered less than this ago stay with their owner.
    pub idle_min_ms: i64,
    /// Unix milliseconds that count as its delivery.
    pub delivered_ms: i64,
    /// The number of its deliveries from now on; else `counts` says whether this is one more.
    pub deliveries: Option<u64>,
    pub counts: bool,
    /// Whether an entry that is not pending becomes so.
    pub is_forced: bool,
}

/// How entries are claimed that have been pending for long.
#[derive(Clone, Copy, Debug)]
pub struct DueClaim {
    pub owner: Owner,
    pub now_ms: i64,
    pub idle_min_ms: u64,
}

/// The number of deliveries of an entry that is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deliveries {
    /// The last one counts no more.
    Undone,
    Kept,
    /// So many that it looks undeliverable, and stays so.
    Most,
    Exactly(u64),
}

impl Deliveries {
    /// As Redis counts them: no delivery is counted beyond it.
    pub const MOST: u64 = i64::MAX as u64;

    fn after(self, deliveries: u64) -> u64 {
        match self {
            Deliveries::Undone => deliveries.saturating_sub(1),
            Deliveries::Kept => deliveries,
            Deliveries::Most => Self::MOST,
            Deliveries::Exactly(count) => count,
        }
    }

    /// One more.
    fn next(deliveries: u64) -> u64 {
        if deliveries == Self::MOST { deliveries } else { deliveries.wrapping_add(1) }
    }
}

/// The outcome of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The entry has a new owner.
    Taken,
    /// It is not pending, or was delivered too recently.
    Not,
    /// It does not exist any more, so it is not pending any more either.
    Gone,
}

impl Group {
    /// A group without consumers, which has read the first `read` entries, up to `last`.
    pub fn new(name: &[u8], last: StreamId, read: Option<u64>) -> Self {
        Group {
            name: name.into(),
            last,
            read,
            pending: Blocks::default(),
            released: 0,
            turn: 0,
            due: None,
            slots: Vec::new(),
            names: Vec::new(),
            free: Vec::new(),
            consumer_bytes: 0,
            moment: None,
        }
    }

    pub fn name(&self) -> &[u8] {
        &self.name
    }

    pub fn last(&self) -> StreamId {
        self.last
    }

    pub fn read(&self) -> Option<u64> {
        self.read
    }

    /// The number of entries that the group has not read, where that is known.
    pub fn lag(&self, entries: &StreamEntries) -> Option<i64> {
        let read = match self.read {
            _ if entries.added == 0 => return Some(0),
            Some(read) if !entries.has_tombstones_after(self.last) => read,
            _ => entries.added_up_to(self.last)?,
        };
        Some(entries.added.wrapping_sub(read) as i64)
    }

    pub fn set(&mut self, last: StreamId, read: Option<u64>) {
        (self.last, self.read) = (last, read);
    }

    /// Sets the id that was delivered last if it is higher; returns whether it is.
    pub fn raise_last(&mut self, last: StreamId) -> bool {
        let is_higher = last > self.last;
        self.last = self.last.max(last);
        is_higher
    }

    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// How many of the pending entries are released.
    pub fn released_len(&self) -> usize {
        self.released
    }

    /// The released entries in the order in which they were released.
    pub fn released(&self) -> Vec<StreamId> {
        let mut released: Vec<(u32, StreamId)> = match self.released {
            0 => Vec::new(),
            _ => self.pending_from(StreamId::MIN).filter(|p| p.is_released()).map(|p| (p.turn, p.id)).collect(),
        };
        released.sort_unstable();
        released.into_iter().map(|(_, id)| id).collect()
    }

    /// The pending entries from `id` on.
    pub fn pending_from(&self, id: StreamId) -> impl Iterator<Item = &Pending> {
        self.pending.from(id)
    }

    pub fn pending(&self, id: StreamId) -> Option<&Pending> {
        self.pending.get(id)
    }

    /// The lowest and the highest pending id.
    pub fn pending_bounds(&self) -> Option<(StreamId, StreamId)> {
        Some((self.pending.first()?.id, self.pending.last()?.id))
    }

    /// The number of the group itself, its consumers and pending entries.
    pub(super) fn parts(&self) -> usize {
        1 + self.consumer_len() + self.pending_len()
    }

    pub fn consumer_len(&self) -> usize {
        self.names.len()
    }

    /// The consumers in the order of their names.
    pub fn consumers(&self) -> impl Iterator<Item = (Owner, &Consumer)> {
        self.names.iter().filter_map(|slot| Some((Owner(*slot), self.slots[*slot as usize].as_ref()?)))
    }

    pub fn consumer(&self, owner: Owner) -> Option<&Consumer> {
        self.slots.get(owner.0 as usize)?.as_ref()
    }

    pub fn owner(&self, name: &[u8]) -> Option<Owner> {
        self.search(name).ok().map(|at| Owner(self.names[at]))
    }

    /// The index of a name among the names, or where it would be.
    fn search(&self, name: &[u8]) -> Result<usize, usize> {
        self.names.binary_search_by(|slot| {
            let consumer = self.slots[*slot as usize].as_ref();
            consumer.map_or(&[][..], |consumer| &consumer.name).cmp(name)
        })
    }

    /// The consumer of a name, and whether it was created.
    pub fn owner_or_new(&mut self, name: &[u8], now_ms: i64) -> (Owner, bool) {
        match self.search(name) {
            Ok(at) => (Owner(self.names[at]), false),
            Err(at) => (self.add_consumer(at, name, now_ms, None), true),
        }
    }

    fn add_consumer(&mut self, at: usize, name: &[u8], seen_ms: i64, active_ms: Option<i64>) -> Owner {
        let consumer = Consumer { name: name.into(), seen_ms, active_ms, pending: Blocks::default() };
        self.consumer_bytes += consumer.heap_bytes();
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(consumer);
                slot
            }
            None => {
                self.slots.push(Some(consumer));
                self.slots.len() as u32 - 1
            }
        };
        self.names.insert(at, slot);
        Owner(slot)
    }

    /// Removes a consumer; its pending entries are pending no more. Returns how many those were.
    pub fn delete_consumer(&mut self, name: &[u8]) -> Option<usize> {
        let at = self.search(name).ok()?;
        let slot = self.names.remove(at);
        let consumer = self.slots[slot as usize].take()?;
        self.consumer_bytes -= consumer.heap_bytes();
        self.free.push(slot);
        for id in consumer.pending.from(StreamId::MIN) {
            self.note(*id);
            let before = self.pending.remove(*id);
            self.reorder(before, None);
        }
        Some(consumer.pending.len())
    }

    /// Notes that a consumer tries to read or claim.
    pub fn see(&mut self, owner: Owner, now_ms: i64) {
        self.edit(owner, |consumer| consumer.seen_ms = now_ms);
    }

    /// Delivers an entry. With an owner it becomes that one's, and pending.
    pub fn deliver(&mut self, entries: &StreamEntries, id: StreamId, owner: Option<Owner>, now_ms: i64) {
        if id > self.last {
            self.read = match self.read {
                Some(read) if !entries.has_tombstones_after(id) => Some(read.wrapping_add(1)),
                _ if entries.added > 0 => entries.added_up_to(id),
                read => read,
            };
            self.last = id;
        }
        if let Some(owner) = owner {
            self.put(Pending { id, delivered_ms: now_ms, deliveries: 1, owner, turn: 0 });
            self.edit(owner, |consumer| consumer.active_ms = Some(now_ms));
        }
    }

    /// Delivers a pending entry again to its owner.
    pub fn deliver_again(&mut self, id: StreamId, now_ms: i64) {
        if let Some(pending) = self.pending.get(id) {
            self.put(Pending { delivered_ms: now_ms, deliveries: Deliveries::next(pending.deliveries), ..*pending });
        }
    }

    /// Acknowledges an entry. Returns whether it was pending.
    pub fn acknowledge(&mut self, id: StreamId) -> bool {
        self.note(id);
        let Some(pending) = self.pending.remove(id) else { return false };
        self.reorder(Some(pending), None);
        self.edit(pending.owner, |consumer| _ = consumer.pending.remove(id));
        true
    }

    /// Takes a pending entry from its owner, so that any consumer may claim it at once. With `is_forced`, one that exists and
    /// is not pending becomes so. Returns whether it is released.
    pub fn release(&mut self, entries: &StreamEntries, id: StreamId, count: Deliveries, is_forced: bool) -> bool {
        let deliveries = match self.pending.get(id) {
            Some(pending) => pending.deliveries,
            None if is_forced && entries.contains(id) => 0,
            None => return false,
        };
        let deliveries = count.after(deliveries);
        self.put(Pending { id, delivered_ms: 0, deliveries, owner: Owner::RELEASED, turn: 0 });
        true
    }

    pub fn claim(&mut self, entries: &StreamEntries, id: StreamId, claim: &Claim) -> Claimed {
        let before = self.pending.get(id).copied();
        if !entries.contains(id) {
            return if self.acknowledge(id) { Claimed::Gone } else { Claimed::Not };
        }
        let is_idle = |before: Pending| {
            claim.idle_min_ms == 0 || before.is_released() || before.idle_ms(claim.now_ms) >= claim.idle_min_ms
        };
        if !before.map_or(claim.is_forced, is_idle) {
            return Claimed::Not;
        }
        // One that a client forces has been delivered once, as in Redis.
        let deliveries = before.map_or(1, |before| before.deliveries);
        let counted = if claim.counts { Deliveries::next(deliveries) } else { deliveries };
        let deliveries = claim.deliveries.unwrap_or(counted);
        self.put(Pending { id, delivered_ms: claim.delivered_ms, deliveries, owner: claim.owner, turn: 0 });
        self.edit(claim.owner, |consumer| consumer.active_ms = Some(claim.now_ms));
        Claimed::Taken
    }

    /// Claims entries that exist and have been pending for so long, or are released, in their order. `visit` sees each as it was
    /// before, and says whether it wants another.
    pub fn claim_due(
        &mut self,
        entries: &StreamEntries,
        claim: DueClaim,
        mut visit: impl FnMut(&StreamEntry<'_>, &Pending) -> bool,
    ) {
        let DueClaim { owner, now_ms, idle_min_ms } = claim;
        let (first_turn, mut claimed, mut from) = (self.turn.wrapping_add(1), 0, Due::MIN);
        while let Some((pending, entry)) = self.next_due(entries, from) {
            let is_idle = pending.idle_ms(now_ms).cast_unsigned() >= idle_min_ms;
            // Those that were just claimed come last.
            if !is_idle || pending.turn.wrapping_sub(first_turn) < claimed && pending.owner == owner {
                return;
            }
            from = pending.due();
            let wants_more = visit(&entry, &pending);
            let deliveries = Deliveries::next(pending.deliveries);
            self.put(Pending { delivered_ms: now_ms, deliveries, owner, ..pending });
            self.edit(owner, |consumer| consumer.active_ms = Some(now_ms));
            claimed += 1;
            if !wants_more {
                return;
            }
        }
    }

    /// The pending entry that may be claimed first of all.
    pub fn first_due(&mut self, entries: &StreamEntries) -> Option<Pending> {
        self.next_due(entries, Due::MIN).map(|(pending, _)| pending)
    }

    /// The first entry that may be claimed from `from` on. Those before it that do not exist leave the order: they come back
    /// only if the stream's last id is set to a lower one.
    fn next_due<'e>(&mut self, entries: &'e StreamEntries, mut from: Due) -> Option<(Pending, StreamEntry<'e>)> {
        let due = self.due.get_or_insert_with(|| order_of(self.pending.from(StreamId::MIN).map(Pending::due)));
        loop {
            let first = *due.from(from).next()?;
            if let Some(pending) = self.pending.get(first.id)
                && let Some(entry) = entries.get(first.id)
            {
                return Some((*pending, entry));
            }
            match first.id > entries.last {
                true => from = first.next()?,
                false => _ = due.remove(first),
            }
        }
    }

    /// The number of entries that looking for those to claim may pass over, and whether their order has to be made first.
    pub fn due_len(&self) -> (usize, bool) {
        match &self.due {
            Some(due) => (due.len(), false),
            None => (self.pending.len(), true),
        }
    }

    /// Forgets the order, which lacks entries that may come back now.
    pub(super) fn forget_order(&mut self) {
        self.due = None;
    }

    fn reorder(&mut self, before: Option<Pending>, after: Option<Pending>) {
        let is_released = |pending: Option<Pending>| usize::from(pending.is_some_and(|pending| pending.is_released()));
        self.released = self.released + is_released(after) - is_released(before);
        if let Some(due) = &mut self.due {
            if let Some(before) = before {
                due.remove(before.due());
            }
            if let Some(after) = after {
                due.insert(after.due());
            }
        }
    }

    /// Makes an entry pending, in place of what was known of it.
    fn put(&mut self, pending: Pending) {
        self.note(pending.id);
        self.turn = self.turn.wrapping_add(1);
        let pending = Pending { turn: self.turn, ..pending };
        let before = self.pending.insert(pending);
        self.reorder(before, Some(pending));
        let before = before.map(|before| before.owner);
        if before == Some(pending.owner) {
            return;
        }
        if let Some(before) = before {
            self.edit(before, |consumer| _ = consumer.pending.remove(pending.id));
        }
        self.edit(pending.owner, |consumer| _ = consumer.pending.insert(pending.id));
    }

    fn edit(&mut self, owner: Owner, change: impl FnOnce(&mut Consumer)) {
        if let Some(Some(consumer)) = self.slots.get_mut(owner.0 as usize) {
            let before = consumer.heap_bytes();
            change(consumer);
            self.consumer_bytes = self.consumer_bytes - before + consumer.heap_bytes();
        }
    }

    #[inline]
    fn note(&mut self, id: StreamId) {
        if let Some(moment) = &mut self.moment {
            moment.1.note(id, || self.pending.get(id).copied());
        }
    }

    /// Shows the next pending entry of the moment that is remembered; returns whether there is one.
    pub(super) fn step(&mut self, visit: impl FnOnce(Pending)) -> bool {
        let Some(moment) = &mut self.moment else { return false };
        let pending = &self.pending;
        moment
            .1
            .step(|id, _| pending.from(id).next().map(|pending| (pending.id, pending)), |_, pending| visit(*pending))
    }

    /// Adds a pending entry from outside; its owner follows with [`Group::load_owner`].
    ///
    /// # Errors
    /// When it is there already.
    pub fn load_pending(&mut self, id: StreamId, delivered_ms: i64, deliveries: u64) -> Result<(), Malformed> {
        self.turn = self.turn.wrapping_add(1);
        let pending = Pending { id, delivered_ms, deliveries, owner: Owner::NONE, turn: self.turn };
        self.pending.insert(pending).map_or(Ok(()), |_| Err(Malformed("pending entry twice")))
    }

    /// Adds a consumer from outside. Until [`Group::loaded`] the consumers are in the order in which they came, and are not
    /// found by their names: names in any order must not take longer than sorted ones.
    pub fn load_consumer(&mut self, name: &[u8], seen_ms: i64, active_ms: Option<i64>) -> Owner {
        self.add_consumer(self.names.len(), name, seen_ms, active_ms)
    }

    /// Gives a pending entry from outside to its consumer.
    ///
    /// # Errors
    /// When it is not pending, or has an owner already.
    pub fn load_owner(&mut self, id: StreamId, owner: Owner) -> Result<(), Malformed> {
        let pending = self.pending.get_mut(id).filter(|pending| pending.owner == Owner::NONE);
        pending.ok_or(Malformed("owner of a pending entry"))?.owner = owner;
        self.edit(owner, |consumer| _ = consumer.pending.insert(id));
        Ok(())
    }

    /// Marks a pending entry from outside as released, after those that were released before it.
    ///
    /// # Errors
    /// When it is not pending, or has an owner.
    pub fn load_released(&mut self, id: StreamId) -> Result<(), Malformed> {
        self.turn = self.turn.wrapping_add(1);
        let pending = self.pending.get_mut(id).filter(|pending| pending.owner == Owner::NONE);
        let pending = pending.ok_or(Malformed("released entry"))?;
        (pending.owner, pending.delivered_ms, pending.turn) = (Owner::RELEASED, 0, self.turn);
        self.released += 1;
        Ok(())
    }

    /// Ends the loading of a group.
    ///
    /// # Errors
    /// When two consumers have the same name, or a pending entry that is not released has no owner.
    pub fn loaded(&mut self) -> Result<(), Malformed> {
        let slots = &self.slots;
        let name = |slot: &u32| slots[*slot as usize].as_ref().map(Consumer::name);
        self.names.sort_unstable_by(|one, other| name(one).cmp(&name(other)));
        if self.names.windows(2).any(|pair| name(&pair[0]) == name(&pair[1])) {
            return Err(Malformed("consumer twice"));
        }
        let owned: usize = self.consumers().map(|(_, consumer)| consumer.pending.len()).sum();
        if owned + self.released == self.pending.len() {
            Ok(())
        } else {
            Err(Malformed("pending entry without an owner"))
        }
    }

    /// The allocated bytes, besides the group itself.
    pub(super) fn heap_bytes(&self) -> usize {
        heap::allocation(self.name.len())
            + self.pending.heap_bytes()
            + self.due.as_ref().map_or(0, Blocks::heap_bytes)
            + heap::allocation(self.slots.capacity() * size_of::<Option<Consumer>>())
            + heap::allocation(self.names.capacity() * size_of::<u32>())
            + heap::allocation(self.free.capacity() * size_of::<u32>())
            + self.consumer_bytes
    }

    /// Frees pending entries, then consumers, about `budget` of them; returns how many were freed.
    pub(super) fn dismantle(&mut self, budget: usize) -> usize {
        self.due = None;
        let mut freed = self.pending.dismantle(budget);
        while freed < budget
            && let Some(last) = self.slots.last_mut()
        {
            if let Some(consumer) = last {
                let bytes = consumer.heap_bytes();
                freed += consumer.pending.dismantle(budget - freed);
                self.consumer_bytes -= bytes - consumer.heap_bytes();
                if consumer.pending.len() > 0 {
                    break;
                }
                self.consumer_bytes -= consumer.heap_bytes();
            }
            self.slots.pop();
            freed += 1;
        }
        freed
    }

    pub(super) fn is_dismantled(&self) -> bool {
        self.pending.len() == 0 && self.slots.is_empty()
    }
}

impl Clone for Group {
    /// Without the moment that it remembers, and the order of its pending entries.
    fn clone(&self) -> Self {
        let mut copy = Group {
            name: self.name.clone(),
            last: self.last,
            read: self.read,
            pending: self.pending.clone(),
            released: self.released,
            turn: self.turn,
            due: None,
            slots: self.slots.clone(),
            names: self.names.clone(),
            free: self.free.clone(),
            consumer_bytes: 0,
            moment: None,
        };
        copy.consumer_bytes = copy.slots.iter().flatten().map(Consumer::heap_bytes).sum();
        copy
    }
}

#[cfg(test)]
impl Group {
    pub fn counted_bytes(&self) -> usize {
        let mut owned = 0;
        for (owner, consumer) in self.consumers() {
            owned += consumer.pending.len();
            assert!(
                consumer.pending_from(StreamId::MIN).all(|id| self.pending.get(id).is_some_and(|p| p.owner == owner))
            );
        }
        let released: Vec<&Pending> = self.pending_from(StreamId::MIN).filter(|p| p.is_released()).collect();
        assert!(released.iter().all(|pending| pending.delivered_ms == 0));
        assert_eq!(self.released, released.len());
        assert_eq!(owned + self.released, self.pending.len());
        if let Some(due) = &self.due {
            let mut places = due.from(Due::MIN);
            assert!(places.all(|due| self.pending(due.id).is_some_and(|pending| pending.due() == *due)));
        }
        let consumers = self.slots.iter().flatten();
        let due = |due: fn(&Blocks<Due>) -> usize| self.due.as_ref().map_or(0, due);
        self.heap_bytes() - self.consumer_bytes - self.pending.heap_bytes() - due(Blocks::heap_bytes)
            + due(Blocks::counted_bytes)
            + self.pending.counted_bytes()
            + consumers.map(|c| heap::allocation(c.name.len()) + c.pending.counted_bytes()).sum::<usize>()
    }
}

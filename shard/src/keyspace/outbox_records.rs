//! Keeping captured events in the [outbox](super::outbox), under the locks of their shards, and reading and deleting them
//! there.

use dormouse_storage::shown::OUTBOX_KEYSPACE;
use dormouse_storage::{effect, log};
use dormouse_types::record::Record;
use dormouse_types::segment::Placement;

use super::outbox::{
    Captured, CapturedEvents, EVENTS, GAP, Gap, HEAD_BYTES, Kept, OutboxEntry, OutboxRecord, RECORD_BYTES, SELECT,
    TriggerQueue, bytes_of, decode, key_of,
};
use super::{Contents, Keyspace, Shared};

/// Most bytes that wait for one trigger; less if the database has a limit on its memory.
pub(super) const TRIGGER_BYTES_MAX: usize = 8 << 20;
pub(super) const TRIGGER_BYTES_MIN: usize = 64 << 10;
/// The parts of the database's memory that wait for one trigger, and for all of them, at most.
pub(super) const TRIGGER_SHARE: usize = 16;
pub(super) const OUTBOX_SHARE: usize = 4;
/// Gaps of which the number of events is known.
const GAPS_MAX: usize = 64;

impl Contents {
    /// Keeps events that were captured under the lock of this shard alone. `items`: where effects go, if they are recorded.
    pub(super) fn keep_captured(
        &mut self,
        shared: &Shared,
        now_ms: u64,
        captured: CapturedEvents,
        mut items: Option<&mut Vec<u8>>,
    ) -> Vec<Kept> {
        let keep = |captured: Captured| keep(captured, self, shared, now_ms, items.as_deref_mut());
        captured.list.into_iter().filter_map(keep).collect()
    }
}

impl Keyspace<'_> {
    /// Keeps the events that were captured since the last entry of the log.
    #[cold]
    pub(super) fn keep_captured(&mut self) -> Vec<Kept> {
        let captured = self.noted.take_captured().list;
        let mut kept = Vec::with_capacity(captured.len());
        let records = self.shared.journal.is_recording();
        if records {
            self.take_items();
        }
        for captured in captured {
            let at = self.shard_at(u64::from(captured.slot) << 50);
            let items = records.then_some(&mut self.items);
            kept.extend(keep(captured, self.shards[at], self.shared, self.now_ms, items));
        }
        kept
    }

    /// The records of some entries of a trigger, whose shards are held.
    pub(crate) fn outbox_records(&self, queue: &TriggerQueue, entries: &[OutboxEntry]) -> Vec<OutboxRecord> {
        let read = |entry: &OutboxEntry| {
            let key = key_of(entry.slot, queue.id, entry.number);
            let position = self.shared.placement.position(&key);
            let index = self.shards[self.shard_at(position)].index(SELECT);
            let value = index.and_then(|index| index.get(position, &key)).map(|record| bytes_of(record.value()));
            match value.and_then(|value| decode(entry.number, value)) {
                Some(OutboxRecord::Gap { number, salt, gap }) => {
                    Some(OutboxRecord::Gap { number, salt, gap: queue.gap(number, gap.from_ms) })
                }
                // Its place could not be read, so there is no record.
                None if entry.is_gap => {
                    let gap = queue.gap(entry.number, self.now_ms);
                    Some(OutboxRecord::Gap { number: entry.number, salt: self.shared.outbox.salt, gap })
                }
                read => read,
            }
        };
        entries.iter().filter_map(read).collect()
    }

    /// Deletes records, whose shards are held.
    pub(crate) fn delete_outbox_records<'k>(&mut self, keys: impl Iterator<Item = &'k [u8]>) {
        let records = self.shared.journal.is_recording();
        for key in keys {
            let (position, placement) = (self.shared.placement.position(key), self.shared.placement);
            let Some(index) = self.shard(position).index_mut(SELECT) else { continue };
            if index.remove(position, key, true, &placement).is_some() && records {
                self.take_items();
                log::format::write_effect(&mut self.items, OUTBOX_KEYSPACE, position, |body| effect::delete(body, key));
            }
        }
    }
}

/// Puts the events into a record of `contents`, which has their slot, or counts them as lost. `items` gets the effect if
/// there is one.
fn keep(
    captured: Captured,
    contents: &mut Contents,
    shared: &Shared,
    now_ms: u64,
    items: Option<&mut Vec<u8>>,
) -> Option<Kept> {
    let Captured { queue, slot, count, events, is_lost } = captured;
    let memory_max = shared.settings.load().memory_max;
    let limit = match memory_max {
        0 => TRIGGER_BYTES_MAX,
        max => {
            let share = TRIGGER_SHARE.max(OUTBOX_SHARE * shared.outbox.len());
            (max / share).clamp(TRIGGER_BYTES_MIN, TRIGGER_BYTES_MAX)
        }
    };
    let number = shared.outbox.next_number(now_ms);
    let key = key_of(slot, queue.id, number);
    let position = shared.placement.position(&key);
    // It is unless its place could not be read.
    let is_resident = contents.index(SELECT).is_none_or(|index| index.is_resident(position));
    let bytes = events.len() + HEAD_BYTES + RECORD_BYTES;
    let mut waiting = queue.waiting.lock();
    if waiting.is_closed {
        return None;
    }
    let room = if waiting.is_full { limit - limit / 4 } else { limit };
    let fits = is_resident && !is_lost && waiting.bytes + bytes <= room;
    if !fits {
        waiting.lost += u64::from(count);
        if waiting.is_full
            && let Some(gap) = waiting.gaps.back_mut()
        {
            gap.events = gap.events.map(|events| events + u64::from(count));
            gap.until_ms = now_ms;
            return None;
        }
        if waiting.gaps.len() == GAPS_MAX {
            waiting.gaps.pop_front();
        }
        waiting.gaps.push_back(Gap { number, events: Some(count.into()), from_ms: now_ms, until_ms: now_ms });
    }
    waiting.is_full = !fits;
    let (count, bytes) = if fits { (count, bytes) } else { (0, HEAD_BYTES + RECORD_BYTES) };
    // The batch may keep more before this is queued.
    waiting.bytes += bytes;
    drop(waiting);
    let mut value = Vec::with_capacity(HEAD_BYTES + if fits { events.len() } else { 0 });
    value.push(if fits { EVENTS } else { GAP });
    value.extend_from_slice(&now_ms.to_le_bytes());
    value.extend_from_slice(&shared.outbox.salt.to_le_bytes());
    if fits {
        value.extend_from_slice(&events);
    }
    if is_resident {
        if let Some(items) = items {
            log::format::write_effect(items, OUTBOX_KEYSPACE, position, |body| {
                effect::text(body, &key, None, &value);
            });
        }
        let record = Record::new_raw(&key, &value, None);
        contents.index_or_new(SELECT).insert(position, record, &shared.placement);
    }
    let entry = OutboxEntry { number, slot, is_gap: !fits, events: count, bytes: bytes as u32, awaited: 0 };
    Some(Kept { queue, entry })
}

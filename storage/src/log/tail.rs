//! The effects that the log holds of one database beyond its manifest, by segment.
//!
//! 1. The entries after the manifest's sequence number are taken in order, up to one that says that writes before it
//!    were not logged: it and what follows belong to a manifest that was never committed. If a later process has gone
//!    on from there all the same, it says so, and its entries are next.
//! 2. Their effects are dealt out by keyspace and slot. When a segment is loaded, those of its range are put in order and
//!    replayed onto it, as far as they are younger than what it has seen.
//!
//! Invariant: all numbers from the manifest's on are present, at least up to its cut. A database whose log lacks one is
//! refused, as it would be served without something that was acknowledged.

use dormouse_types::segment::{Range53, SLOTS, prefix53};

use super::format::{EntryKind, LogItem, read_item};
use super::recovery::{Entries, LogEntry};
use crate::codec::Reader;
use crate::shown::FOLLOWED_TIME;
use crate::shown::Shown;
use crate::tail::TailRecord;

/// The bits of a prefix below its slot.
const SLOT_SHIFT: u32 = 39;

/// The location of an effect. A log has very many, so each is small: it is read again when its place is loaded. Effects of
/// one position are ordered as they were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    keyspace: u32,
    position: u64,
    entry: u32,
    /// Where the item begins in the entry.
    start: usize,
}

impl Place {
    fn slot(&self) -> u32 {
        slot_of(prefix53(self.position))
    }
}

/// The slot of a prefix.
fn slot_of(prefix: u64) -> u32 {
    (prefix >> SLOT_SHIFT) as u32
}

/// Effects of a database that are in the log only.
#[derive(Debug, Default)]
pub struct LogTail {
    entries: Vec<LogEntry>,
    /// In the order of keyspaces and slots; those of a [crowded](CROWDED) slot in full order.
    effects: Vec<Place>,
    /// How many entries count.
    used: usize,
    /// The number of the last entry; the manifest's if it has none.
    pub sequence: u64,
    /// The highest number that was used, by entries that were left out too.
    pub highest: u64,
    /// Which keyspaces the logical indexes show, if that has changed.
    pub shown: Option<Shown>,
}

/// The number of the entry that a process has gone on from.
fn continues(entry: &LogEntry) -> Option<u64> {
    Some(u64::from_le_bytes(entry.items[..].try_into().ok()?))
}

impl LogTail {
    /// `floor` and `cut`: the manifest's sequence numbers; 0 without a manifest.
    ///
    /// # Errors
    /// A text that says what is missing or damaged.
    pub fn new(recovered: Entries, floor: u64, cut: u64) -> Result<Self, String> {
        if let Some(damage) = recovered.damage {
            return Err(format!("{damage}; `dormouse check` tells more"));
        }
        let (tail, problem) = Self::prefix(recovered.entries, floor);
        if let Some(problem) = problem {
            return Err(problem);
        }
        if tail.sequence < cut {
            return Err(format!(
                "the log ends at write {}, but the newest manifest was made for one that goes on to {cut}",
                tail.sequence
            ));
        }
        Ok(tail)
    }

    /// As much as can be replayed after the manifest's sequence number `floor`, and why it is not all of them.
    pub fn prefix(mut entries: Vec<LogEntry>, floor: u64) -> (Self, Option<String>) {
        let highest = entries.last().map_or(floor, |last| last.sequence.max(floor));
        entries.drain(..entries.partition_point(|entry| entry.sequence <= floor));
        let effects = Vec::with_capacity(entries.len());
        let mut tail = LogTail { effects, sequence: floor, highest, ..LogTail::default() };
        let problem = tail.append(&entries).err();
        deal(&mut tail.effects);
        tail.entries = entries;
        (tail, problem)
    }

    fn append(&mut self, entries: &[LogEntry]) -> Result<(), String> {
        let mut at = 0;
        while let Some(entry) = entries.get(at) {
            if entry.kind == EntryKind::Resume {
                let goes_on =
                    |later: &LogEntry| later.kind == EntryKind::Continue && continues(later) == Some(self.sequence);
                match entries[at..].iter().position(goes_on) {
                    Some(later) => at += later,
                    None => break,
                }
                self.sequence = entries[at].sequence;
                at += 1;
                continue;
            }
            if Some(entry.sequence) != self.sequence.checked_add(1) {
                let (from, to) = (self.sequence.saturating_add(1), entry.sequence.saturating_sub(1));
                return Err(match to.checked_sub(from) {
                    Some(_) => format!("the log lacks writes {from} to {to}"),
                    None => format!("the log has write {} twice", entry.sequence),
                });
            }
            let before = (self.effects.len(), self.shown);
            if entry.kind == EntryKind::Effects {
                if let Err(problem) = self.read(at, entry) {
                    // An entry counts whole or not at all.
                    self.effects.truncate(before.0);
                    self.shown = before.1;
                    return Err(problem);
                }
                self.used += 1;
            }
            self.sequence = entry.sequence;
            at += 1;
        }
        Ok(())
    }

    fn read(&mut self, at: usize, entry: &LogEntry) -> Result<(), String> {
        let number = u32::try_from(at).map_err(|_| "the log has too many writes".to_owned())?;
        let malformed = |error| format!("write {} in the log is malformed: {error}", entry.sequence);
        let mut reader = Reader::new(&entry.items);
        while !reader.is_empty() {
            let start = entry.items.len() - reader.remaining();
            match read_item(&mut reader).map_err(malformed)? {
                LogItem::Effect { keyspace, position, .. } => {
                    self.effects.push(Place { keyspace, position, entry: number, start });
                }
                LogItem::Ids(shown) => self.shown = Some(shown),
            }
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Whether it has effects on keys of this range.
    pub fn touches(&self, keyspace: u32, range: Range53) -> bool {
        self.of(keyspace, range).next().is_some()
    }

    /// The number of effects on keys of this range.
    pub fn count_of(&self, keyspace: u32, range: Range53) -> usize {
        self.of(keyspace, range).count()
    }

    /// The number of positions in this range that effects are on.
    pub fn positions(&self, keyspace: u32, range: Range53) -> usize {
        let mut positions: Vec<u64> = self.of(keyspace, range).map(|place| place.position).collect();
        positions.sort_unstable();
        positions.dedup();
        positions.len()
    }

    /// The effects on the keys of one segment that come after `sequence`, in their order.
    pub fn effects(&self, keyspace: u32, range: Range53, sequence: u64) -> Vec<TailRecord> {
        let mut found: Vec<&Place> = self.of(keyspace, range).collect();
        found.sort_unstable_by_key(|place| (place.entry, place.start));
        found.into_iter().filter_map(|place| self.effect(place, sequence)).collect()
    }

    /// The effect there, if its entry comes after `sequence`.
    fn effect(&self, place: &Place, sequence: u64) -> Option<TailRecord> {
        let LogEntry { sequence: at, now_ms, items, .. } = &self.entries[place.entry as usize];
        // It was read before, so it is well-formed.
        let item = read_item(&mut Reader::new(items.get(place.start..)?)).ok().filter(|_| *at > sequence)?;
        let LogItem::Effect { keyspace, followed, position, body } = item else { return None };
        let now_ms = if followed { now_ms | FOLLOWED_TIME } else { *now_ms };
        Some(TailRecord { sequence: *at, now_ms, keyspace, position, body: items.slice_ref(body) })
    }

    fn of(&self, keyspace: u32, range: Range53) -> impl Iterator<Item = &Place> {
        // Ranges are aligned, so this one consists of slots or is a part of one.
        let (first, end) = (slot_of(range.start), slot_of(range.end() - 1) + 1);
        let start = self.effects.partition_point(|place| (place.keyspace, place.slot()) < (keyspace, first));
        let slots = &self.effects[start..];
        let mut found = &slots[..slots.partition_point(|place| (place.keyspace, place.slot()) < (keyspace, end))];
        if found.len() > CROWDED && end - first == 1 {
            let start = found.partition_point(|place| prefix53(place.position) < range.start);
            let len = found[start..].partition_point(|place| prefix53(place.position) < range.end());
            found = &found[start..start + len];
        }
        found.iter().filter(move |place| range.contains(prefix53(place.position)))
    }

    /// The number of effects.
    pub fn len(&self) -> usize {
        self.effects.len()
    }
}

/// Fewer effects than this are sorted.
const DEALT_MIN: usize = 1 << 12;
/// Keyspaces that are told apart when effects are dealt out.
const DEALT_KEYSPACES_MAX: usize = 32;
/// A slot with more effects than this is searched, any other one is looked through.
const CROWDED: usize = 64;

/// Orders effects by keyspace and slot, and those of crowded slots in full. Positions are spread evenly over the slots, so
/// few are crowded. Sorting the others too would cost more than all loads save by it.
fn deal(effects: &mut Vec<Place>) {
    let mut keyspaces: Vec<u32> = Vec::new();
    for place in &*effects {
        if keyspaces.last() != Some(&place.keyspace) && !keyspaces.contains(&place.keyspace) {
            keyspaces.push(place.keyspace);
        }
        if keyspaces.len() > DEALT_KEYSPACES_MAX {
            break;
        }
    }
    if effects.len() < DEALT_MIN || keyspaces.len() > DEALT_KEYSPACES_MAX {
        effects.sort_unstable();
        return;
    }
    keyspaces.sort_unstable();
    let rank = |place: &Place| keyspaces.partition_point(|keyspace| *keyspace < place.keyspace);
    let hand = |place: &Place| rank(place) * usize::from(SLOTS) + place.slot() as usize;
    let mut ends = vec![0u32; keyspaces.len() * usize::from(SLOTS)];
    effects.iter().for_each(|place| ends[hand(place)] += 1);
    let mut before = 0;
    // The next free place of each hand.
    let mut next = ends.clone();
    for (next, end) in next.iter_mut().zip(&mut ends) {
        *next = before;
        before += *end;
        *end = before;
    }
    let mut start = 0;
    for (own, end) in ends.into_iter().enumerate() {
        // In place, since fresh memory costs more than the exchanges.
        while next[own] < end {
            let at = next[own] as usize;
            let other = hand(&effects[at]);
            effects.swap(at, next[other] as usize);
            next[other] += 1;
        }
        let dealt = &mut effects[start..end as usize];
        if dealt.len() > CROWDED {
            dealt.sort_unstable();
        }
        start = end as usize;
    }
}

#[cfg(test)]
mod tests;

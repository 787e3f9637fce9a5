//! Checkpoints: what changed since the last one becomes chunks and a manifest, while writes go on.
//!
//! 1. *Begin*, under all locks, briefly: from here on every effect is kept (each shard's recorder).
//! 2. *Visit* each dirty place under its shard's lock, for as long as it takes to encode it: it is clean from here on, and
//!    stamped with the sequence number of the last effect. Compression and writing happen without the lock.
//! 3. *Cut*, under all locks, briefly: the recorders are taken. That moment, after the last effect of some sequence number
//!    and before any of the next, is what the checkpoint restores to: each segment's body, and on top of it the tail's
//!    effects with higher numbers than its stamp.
//! 4. *Commit* by creating the next manifest. Only now anything that went before may be deleted.
//!
//! Invariant: until step 4 has succeeded, the store's newest manifest is valid and nothing that it names was touched. When
//! anything fails the visited places are dirty again, so nothing is forgotten.
//!
//! The manifest lists stored segments, not places: a place that splits after it was visited does not matter, as the tail
//! covers it. A place that was split since the last checkpoint is dirty in both halves, and ranges are aligned, so a new
//! segment replaces every stored one that it overlaps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::chunk::{ChunkEntry, ChunkWriter, SegmentLocation};
use crate::codec::segment::RawSegment;
use crate::database::{Database, store_error};
use crate::error::{Error, Result};
use crate::keyspace::contents::INDEXES;
use crate::keyspace::effect::Effect;
use crate::manifest::{self, ChunkInfo, Manifest, Names, SegmentInfo, TailInfo};
use crate::segment::{Range53, prefix53};
use crate::shard::{HeldShard, ShardGate};
use crate::stopwatch::Stopwatch;
use crate::store::StoreError;
use crate::tail::{Tail, TailRecord, encode_tail};
use crate::topology::{Topology, hold};

/// Fuzzy checkpoints before a database that will not stop being written to is held for the last one.
const SLEEP_ATTEMPTS: usize = 3;

/// What a checkpoint wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    pub segments: usize,
    pub keys: usize,
    pub bytes: u64,
    pub effects: usize,
}

/// A place that was encoded.
struct Visited {
    keyspace: u32,
    range: Range53,
    /// The last effect that it had seen.
    sequence: u64,
    /// `None`: it was empty.
    written: Option<Written>,
}

struct Written {
    entry: ChunkEntry,
    /// Which of this checkpoint's chunks.
    chunk: usize,
    expiring: u32,
    heap_bytes: u64,
}

/// A place that could not be loaded, with effects in the tail.
struct Unloaded {
    keyspace: u32,
    range: Range53,
    sequence: u64,
}

/// The state of the database at the cut.
struct Cut {
    sequence: u64,
    ids: [u32; INDEXES],
    next_id: u32,
    effects: Vec<Effect>,
}

impl Database {
    /// Writes what changed. Nothing is written where nothing changed.
    ///
    /// # Errors
    /// When the store refuses: everything is as before, and the text says what failed.
    pub async fn checkpoint(self: &Arc<Self>) -> Result<Report> {
        let database = Arc::clone(self);
        let done = self.engine.background.spawn(async move {
            let _transition = database.transition.lock().await;
            let done = database.checkpoint_with(None).await;
            database.stop_if_overtaken().await;
            done
        });
        done.await
            .map_err(|error| Error::Store(format!("the checkpoint of database {} failed: {error}", self.name())))?
    }

    /// Writes what changed, gives the memory back and leaves the database asleep. False: it was asleep already.
    ///
    /// # Errors
    /// As [`Self::checkpoint`]; the database stays awake.
    pub async fn sleep(self: &Arc<Self>) -> Result<bool> {
        let database = Arc::clone(self);
        let done = self.engine.background.spawn(async move {
            let _transition = database.transition.lock().await;
            let done = database.fall_asleep().await;
            database.stop_if_overtaken().await;
            done
        });
        done.await.map_err(|error| Error::Store(format!("the sleep of database {} failed: {error}", self.name())))?
    }

    async fn fall_asleep(self: &Arc<Self>) -> Result<bool> {
        if !self.is_awake() {
            return Ok(false);
        }
        let started = Stopwatch::start();
        let Some(held) = self.write_everything().await? else { return Ok(false) };
        let contents = self.retire(&held);
        self.publish(None);
        drop(held);
        self.collect_superseded().await;
        *self.manifest.lock() = None;
        *self.tail.lock() = None;
        self.counters.sleeps.fetch_add(1, Ordering::Relaxed);
        let (sender, freed) = futures::channel::oneshot::channel();
        self.engine.lane.run(move || {
            drop(contents);
            let _ = sender.send(());
        });
        // Whoever asked for the sleep is told when the memory is free.
        let _ = freed.await;
        (self.engine.give_back)();
        self.counters.sleep_us_last.store(started.us(), Ordering::Relaxed);
        Ok(true)
    }

    /// Writes everything, the last of it under all locks, which are handed back: the store has what was acknowledged until
    /// they are let go. None where it sleeps.
    pub(crate) async fn write_everything(self: &Arc<Self>) -> Result<Option<Vec<HeldShard>>> {
        if !self.is_awake() {
            return Ok(None);
        }
        for _ in 0..SLEEP_ATTEMPTS {
            if self.checkpoint_with(None).await?.segments == 0 {
                break;
            }
        }
        let Some((_, held)) = self.hold_all().await else { return Ok(None) };
        // Under all locks there is nothing left, or the little that was written since.
        self.checkpoint_with(Some(&held)).await?;
        Ok(Some(held))
    }

    /// `held`: all locks, where the caller holds them.
    async fn checkpoint_with(self: &Arc<Self>, held: Option<&[HeldShard]>) -> Result<Report> {
        let Some(topology) = self.topology() else { return Ok(Report::default()) };
        let started = Stopwatch::start();
        if held.is_none() {
            // What cannot be loaded keeps its effects: one damaged object must not keep all the rest from being written.
            if let Err(error) = self.load_tailed().await {
                tracing::error!(database = self.name(), %error, "a part of the database cannot be loaded");
            }
        }
        self.counters.checkpoint_running.store(1, Ordering::Relaxed);
        let mut visited = Vec::new();
        let outcome = self.write(&topology, held, &mut visited).await;
        self.counters.checkpoint_running.store(0, Ordering::Relaxed);
        match outcome {
            Ok(report) => {
                self.counters.checkpoint_failed.store(false, Ordering::Relaxed);
                if report != Report::default() {
                    self.counters.checkpoints.fetch_add(1, Ordering::Relaxed);
                    self.counters.checkpoint_us_last.store(started.us(), Ordering::Relaxed);
                    self.counters.checkpoint_keys_last.store(report.keys as u64, Ordering::Relaxed);
                }
                Ok(report)
            }
            Err(error) => {
                self.undo(&topology, held, &visited).await;
                self.counters.checkpoint_failed.store(true, Ordering::Relaxed);
                self.counters.checkpoint_errors.fetch_add(1, Ordering::Relaxed);
                tracing::error!(database = self.name(), %error, "checkpoint failed; the database stays awake and the last one stays valid");
                Err(error)
            }
        }
    }

    async fn write(
        self: &Arc<Self>,
        topology: &Topology,
        held: Option<&[HeldShard]>,
        visited: &mut Vec<Visited>,
    ) -> Result<Report> {
        let before = self.manifest.lock().clone();
        let (ids, dirty, unloaded) = self.begin(topology, held).await;
        let unchanged = before.as_ref().map_or(ids == std::array::from_fn(|id| id as u32), |manifest| {
            manifest.keyspaces == ids && manifest.shard_cuts == cuts(topology) && manifest.tail.is_none()
        });
        // The last one before a sleep keeps the meters, also of a database that was only read.
        let meters = held.is_some() && before.is_some();
        if !dirty && unchanged && !meters {
            self.take_cut(topology, held).await;
            return Ok(Report::default());
        }
        let mut manifest = self.next_manifest(before.as_deref());
        let names = Names::new(self.name()).map_err(store_error)?;
        let mut chunks = Vec::new();
        let mut writer = ChunkWriter::new();
        let mut report = Report::default();
        for (at, gate) in topology.shards.iter().enumerate() {
            for id in ids {
                let mut from = 0;
                while let Some((mut seen, raw, next)) =
                    self.visit(gate, held.map(|held| &held[at]), id, from, chunks.len()).await
                {
                    from = next;
                    if let Some(raw) = raw {
                        let body = raw.seal();
                        let entry = writer.push(id, seen.range, &body);
                        report.keys += entry.records as usize;
                        if let Some(written) = &mut seen.written {
                            written.entry = entry;
                        }
                    }
                    report.segments += 1;
                    visited.push(seen);
                    if writer.is_full() {
                        self.put_chunk(&mut manifest, &names, &mut writer, &mut chunks, &mut report).await?;
                    }
                    if held.is_none() {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
        if !writer.is_empty() {
            self.put_chunk(&mut manifest, &names, &mut writer, &mut chunks, &mut report).await?;
        }
        let cut = self.take_cut(topology, held).await;
        manifest.sequence = cut.sequence;
        manifest.cut = cut.sequence;
        manifest.keyspaces = cut.ids;
        manifest.next_keyspace = cut.next_id;
        manifest.shard_cuts = cuts(topology);
        let seen = last_seen(visited);
        replace_segments(&mut manifest, &seen, chunks);
        let carried = self.carried(&unloaded)?;
        let keeps = !carried.is_empty();
        // A place may have been loaded after all, and visited.
        let mut effects: Vec<Effect> = carried.into_iter().chain(cut.effects).collect();
        effects.retain(|effect| comes_after(&seen, effect));
        let tail = self.put_tail(&mut manifest, &names, effects).await?;
        report.effects = manifest.tail.as_ref().map_or(0, |tail| tail.effects as usize);
        report.bytes += manifest.tail.as_ref().map_or(0, |tail| tail.bytes);
        manifest::commit(&self.engine.store, &mut manifest).await.map_err(|error| self.note_overtaken(error))?;
        self.committed(manifest, tail.filter(|_| keeps));
        // Where the caller holds the locks, it collects when it has let them go.
        if held.is_none() {
            self.collect_superseded().await;
        }
        Ok(report)
    }

    /// Step 1. Answers the keyspaces, whether any place is dirty, and the places that still need the present tail.
    async fn begin(&self, topology: &Topology, held: Option<&[HeldShard]>) -> ([u32; INDEXES], bool, Vec<Unloaded>) {
        let record = |held: &[HeldShard]| {
            let mut dirty = false;
            let mut ids = [0; INDEXES];
            let mut unloaded = Vec::new();
            for shard in held {
                let mut contents = shard.contents();
                contents.recorder = Some(Vec::new());
                ids = contents.ids;
                dirty |= contents.indexes().any(|(_, index)| index.is_dirty());
                for (_, index) in contents.indexes().filter(|(_, index)| index.stored() > 0) {
                    let stored = index.places().iter().filter_map(|place| Some((place.range, place.stored()?)));
                    unloaded.extend(stored.filter(|(_, stored)| stored.tailed).map(|(range, stored)| Unloaded {
                        keyspace: index.id,
                        range,
                        sequence: stored.sequence,
                    }));
                }
            }
            (ids, dirty, unloaded)
        };
        match held {
            Some(held) => record(held),
            None => record(&hold(topology.shards.clone()).await),
        }
    }

    /// The effects of the present tail that places need when they are loaded at last.
    fn carried(&self, unloaded: &[Unloaded]) -> Result<Vec<Effect>> {
        let Some(tail) = self.tail.lock().clone() else { return Ok(Vec::new()) };
        let mut carried = Vec::new();
        for Unloaded { keyspace, range, sequence } in unloaded {
            let records = tail.effects(*keyspace, *range, *sequence).map_err(store_error)?;
            carried.extend(records.into_iter().map(|TailRecord { sequence, now_ms, keyspace, position, body }| {
                Effect { sequence, now_ms, keyspace, position, body: body.to_vec().into() }
            }));
        }
        Ok(carried)
    }

    /// Step 2 for the next dirty place of one keyspace in one shard, from prefix `from` on: what was seen, its records
    /// encoded, and where to go on.
    async fn visit(
        &self,
        gate: &ShardGate,
        held: Option<&HeldShard>,
        keyspace: u32,
        from: u64,
        chunk: usize,
    ) -> Option<(Visited, Option<RawSegment>, u64)> {
        let shared = &self.shared;
        let encode = |held: &HeldShard| {
            let mut contents = held.contents();
            let from = from.max(u64::from(contents.first_slot) << 39);
            if from >= u64::from(contents.end_slot) << 39 {
                return None;
            }
            let place = contents.by_id(keyspace)?.next_dirty(from)?;
            place.dirty = false;
            let range = place.range;
            let (expiring, heap_bytes) = (place.expiring, place.resident_bytes() as u64);
            let segment = place.segment()?;
            let raw = (!segment.is_empty()).then(|| RawSegment::collect(segment.iter(), heap_bytes as usize));
            let sequence = shared.sequence.load(Ordering::SeqCst);
            let empty = ChunkEntry { keyspace, range, offset: 0, len: 0, raw_len: 0, records: 0, crc: 0 };
            let written = raw.is_some().then_some(Written { entry: empty, chunk, expiring, heap_bytes });
            Some((Visited { keyspace, range, sequence, written }, raw, range.end()))
        };
        match held {
            Some(held) => encode(held),
            None => encode(hold(vec![Arc::clone(gate)]).await.first()?),
        }
    }

    /// Step 3.
    async fn take_cut(&self, topology: &Topology, held: Option<&[HeldShard]>) -> Cut {
        let take = |held: &[HeldShard]| {
            let mut effects = Vec::new();
            let mut ids = [0; INDEXES];
            for shard in held {
                let mut contents = shard.contents();
                ids = contents.ids;
                effects.append(&mut contents.recorder.take().unwrap_or_default());
            }
            let sequence = self.shared.sequence.load(Ordering::SeqCst);
            Cut { sequence, ids, next_id: self.shared.next_id.load(Ordering::SeqCst), effects }
        };
        match held {
            Some(held) => take(held),
            None => take(&hold(topology.shards.clone()).await),
        }
    }

    fn next_manifest(&self, before: Option<&Manifest>) -> Manifest {
        let mut manifest = match before {
            Some(manifest) => manifest.clone(),
            None => Manifest::new(self.name(), self.shared.placement.seed, self.engine.writer, (self.engine.clock)()),
        };
        if manifest.writer != self.engine.writer {
            manifest.writer = self.engine.writer;
            manifest.epoch += 1;
        }
        manifest.meters = (self.meters.lock())();
        manifest
    }

    /// A number for an object's name that no checkpoint of this process has used, not even one that failed.
    fn take_number(&self, manifest: &mut Manifest) -> u64 {
        let number = self.next_object.fetch_max(manifest.next_object, Ordering::SeqCst).max(manifest.next_object);
        self.next_object.store(number + 1, Ordering::SeqCst);
        manifest.next_object = number + 1;
        number
    }

    async fn put_chunk(
        &self,
        manifest: &mut Manifest,
        names: &Names,
        writer: &mut ChunkWriter,
        chunks: &mut Vec<ChunkInfo>,
        report: &mut Report,
    ) -> Result<()> {
        let name = names.chunk(manifest.epoch, manifest.writer, self.take_number(manifest));
        let bytes = writer.finish();
        let info = ChunkInfo { name, bytes: bytes.len() as u64 };
        report.bytes += info.bytes;
        self.engine.store.put_new(&info.name, bytes).await.map_err(store_error)?;
        chunks.push(info);
        Ok(())
    }

    /// Writes the effects that some segment's body does not have yet, and answers what it wrote.
    async fn put_tail(&self, manifest: &mut Manifest, names: &Names, effects: Vec<Effect>) -> Result<Option<Tail>> {
        let needed = |effect: &Effect| {
            let segments = manifest.segments_of(effect.keyspace);
            let prefix = prefix53(effect.position);
            let after = segments.partition_point(|segment| segment.range.start <= prefix);
            let segment = segments[..after].last().filter(|segment| segment.range.contains(prefix));
            manifest.keyspaces.contains(&effect.keyspace)
                && segment.is_none_or(|segment| segment.sequence < effect.sequence)
        };
        let records: Vec<TailRecord> = effects
            .into_iter()
            .filter(needed)
            .map(|Effect { sequence, now_ms, keyspace, position, body }| TailRecord {
                sequence,
                now_ms,
                keyspace,
                position,
                body: Vec::from(body).into(),
            })
            .collect();
        let count = records.len();
        manifest.tail = None;
        if let Some(first) = records.iter().map(|record| record.sequence).min() {
            let name = names.tail(manifest.epoch, manifest.writer, self.take_number(manifest));
            let object = encode_tail(records);
            let info = TailInfo { name, bytes: object.len() as u64, effects: count as u64, from_sequence: first - 1 };
            let tail = Tail::decode(&info.name, object.clone()).map_err(store_error)?;
            self.engine.store.put_new(&info.name, object).await.map_err(store_error)?;
            manifest.tail = Some(info);
            return Ok(Some(tail));
        }
        Ok(None)
    }

    /// After step 4. `tail`: what places that are still in the store only need of the new one.
    fn committed(&self, manifest: Manifest, tail: Option<Tail>) {
        self.counters.saved_ms.store((self.engine.clock)(), Ordering::Relaxed);
        self.note_manifest(&manifest);
        *self.manifest.lock() = Some(Arc::new(manifest));
        *self.tail.lock() = tail.map(Arc::new);
    }

    pub(crate) fn note_overtaken(&self, error: StoreError) -> Error {
        let is_fenced = matches!(error, StoreError::Fenced { .. });
        let error = store_error(error);
        if is_fenced {
            // The first one says it.
            let _ = self.overtaken.set(error.clone());
        }
        error
    }

    /// What is in memory when another process writes the database can be written by nobody: from here on every command
    /// is answered with the error, so that nothing more is acknowledged.
    pub(crate) async fn stop_if_overtaken(&self) {
        if self.overtaken.get().is_none() {
            return;
        }
        let Some((_, held)) = self.hold_all().await else { return };
        let contents = self.retire(&held);
        self.publish(None);
        drop(held);
        *self.manifest.lock() = None;
        *self.tail.lock() = None;
        self.engine.lane.run(move || drop(contents));
    }

    /// After a failure: what was visited is dirty again, and nobody records.
    async fn undo(&self, topology: &Topology, held: Option<&[HeldShard]>, visited: &[Visited]) {
        let own;
        let held = match held {
            Some(held) => held,
            None => {
                own = hold(topology.shards.clone()).await;
                &own[..]
            }
        };
        for shard in held {
            let mut contents = shard.contents();
            contents.recorder = None;
            for seen in visited {
                if let Some(index) = contents.by_id(seen.keyspace) {
                    index.mark_dirty(seen.range);
                }
            }
        }
    }
}

fn cuts(topology: &Topology) -> Vec<u16> {
    topology.firsts[1..].to_vec()
}

/// Puts the visited places in the stead of the stored segments that they overlap, and drops keyspaces that are gone and
/// chunks that nothing refers to.
fn replace_segments(manifest: &mut Manifest, seen: &Seen<'_>, added: Vec<ChunkInfo>) {
    let first_added = manifest.chunks.len();
    manifest.chunks.extend(added);
    let alive = manifest.keyspaces;
    manifest
        .segments
        .retain(|old| alive.contains(&old.keyspace) && overlapping(seen, old.keyspace, old.range).is_none());
    for visited in seen.values().filter(|visited| alive.contains(&visited.keyspace)) {
        let Some(written) = &visited.written else { continue };
        manifest.segments.push(SegmentInfo {
            keyspace: visited.keyspace,
            range: visited.range,
            location: SegmentLocation {
                chunk: (first_added + written.chunk) as u32,
                offset: written.entry.offset,
                len: written.entry.len,
            },
            records: written.entry.records,
            expiring: written.expiring,
            heap_bytes: written.heap_bytes,
            sequence: visited.sequence,
            crc: written.entry.crc,
        });
    }
    manifest.segments.sort_by_key(|segment| (segment.keyspace, segment.range.start));
    drop_unused_chunks(manifest);
}

/// Visited places by keyspace and the prefix53 that they begin with; none overlaps another.
type Seen<'a> = BTreeMap<(u32, u64), &'a Visited>;

/// What was visited twice, because it merged in between, counts as it was seen last.
fn last_seen(visited: &[Visited]) -> Seen<'_> {
    let mut seen = Seen::new();
    for visited in visited {
        while let Some(key) = overlapping(&seen, visited.keyspace, visited.range) {
            seen.remove(&key);
        }
        seen.insert((visited.keyspace, visited.range.start), visited);
    }
    seen
}

/// Whether what was seen of the effect's place does not have it yet. A place that was seen empty has a stamp like any
/// other: what had emptied it would, replayed onto nothing, not always end with nothing.
fn comes_after(seen: &Seen<'_>, effect: &Effect) -> bool {
    let position = Range53 { start: prefix53(effect.position), bits: 0 };
    let place = overlapping(seen, effect.keyspace, position).and_then(|key| seen.get(&key));
    place.is_none_or(|place| place.sequence < effect.sequence)
}

/// The key of some visited place that shares positions with `range`.
fn overlapping(seen: &Seen<'_>, keyspace: u32, range: Range53) -> Option<(u32, u64)> {
    let before = seen.range(..(keyspace, range.end())).next_back()?;
    (before.0.0 == keyspace && before.1.range.end() > range.start).then_some(*before.0)
}

fn drop_unused_chunks(manifest: &mut Manifest) {
    let mut used = vec![false; manifest.chunks.len()];
    manifest.segments.iter().for_each(|segment| used[segment.location.chunk as usize] = true);
    let mut moved = Vec::with_capacity(used.len());
    let mut kept = 0;
    for &used in &used {
        moved.push(kept);
        kept += u32::from(used);
    }
    let mut keep = used.iter();
    manifest.chunks.retain(|_| keep.next().copied().unwrap_or(false));
    manifest.segments.iter_mut().for_each(|segment| segment.location.chunk = moved[segment.location.chunk as usize]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::effect;

    #[test]
    fn a_place_that_was_seen_empty_keeps_no_earlier_effect() {
        let (left, right) = Range53::WHOLE.halves();
        let visit = |range, sequence| Visited { keyspace: 3, range, sequence, written: None };
        // Seen in two halves, and again when they had merged.
        let visited = [visit(left, 4), visit(right, 5), visit(Range53::WHOLE, 6)];
        let effect = |keyspace, sequence, position| Effect {
            sequence,
            now_ms: 0,
            keyspace,
            position,
            body: effect::delete(b"k"),
        };
        for (visited, keyspace, sequence, position, expected) in [
            (&visited[..1], 3, 4, 0, false),
            (&visited[..1], 3, 5, 0, true),
            (&visited[..1], 3, 4, u64::MAX, true),
            (&visited[..2], 3, 5, u64::MAX, false),
            (&visited[..], 3, 6, 0, false),
            (&visited[..], 3, 6, u64::MAX, false),
            (&visited[..], 3, 7, u64::MAX, true),
            (&visited[..], 2, 1, 0, true),
            (&visited[..], 4, 1, 0, true),
        ] {
            let after = comes_after(&last_seen(visited), &effect(keyspace, sequence, position));
            assert_eq!(after, expected, "{} visited, {keyspace} {sequence} {position}", visited.len());
        }
    }
}

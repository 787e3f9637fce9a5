//! Checkpoints: the changes since the last one become chunks, a tail and a manifest, while writes go on.
//!
//! 1. *Begin*, under all locks, briefly: the number of the last entry in the log is the manifest's `sequence`. A
//!    database that is not logged (loss window `none`) is logged from here on.
//! 2. *Visit* each dirty place under its shard's lock, for as long as it takes to encode it: it is clean from here on,
//!    and stamped with the number of the last entry. Where few keys have changed, their values are taken, for the tail;
//!    else all of it, for a chunk. Compression and writing happen without the lock. Large values remember the moment of
//!    the visit and are written in steps, see [`large`].
//! 3. *Cut*: the number of the last entry that any place can have seen. The log must be durable up to there. Then the
//!    store's data, with the log from `sequence` on replayed onto each place as far as it has not seen it, is the state
//!    after the last entry that survives. That is one moment, whatever each place had seen.
//! 4. *Commit* by creating the next manifest. Only now may anything older be deleted, in the store and in the log.
//!
//! Before a sleep, and for a branch, the last one is of *one moment*: all dirty places that the fuzzy ones before it
//! have left are encoded under all locks. No lock is held while it is written. If clients have written to the database
//! meanwhile, it is saved again or stays awake; else the store has all of it, and it is retired.
//!
//! Invariant: until step 4 has succeeded, the store's newest manifest is valid and nothing that it needs was touched.
//! When anything fails the visited places are dirty again, so nothing is forgotten.
//!
//! The manifest lists stored segments, not places: a place that splits after it was visited does not matter, as the log
//! covers it. A place that was split since the last checkpoint is dirty in both halves, and ranges are aligned, so a
//! new segment replaces every stored one that it overlaps.
//!
//! Tails are merged like the runs of a log-structured tree. When they have outgrown their part of what is stored, the
//! places that they tell of are written whole. Chunks of which little is used are copied together.

mod assembly;
mod damage;
mod full;
mod history;
mod large;
mod objects;
mod overtaken;
mod seen;
mod sleep;
mod sparse;
mod visit;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_storage::chunk::SegmentLocation;
use dormouse_storage::log::{Lsn, Window};
use dormouse_storage::manifest::{Manifest, Names, SegmentInfo};
use dormouse_storage::replay::Replay;
use dormouse_storage::shown::{ALL_INDEXES, Ids, first_ids};
use dormouse_storage::stopwatch::Stopwatch;
use dormouse_storage::tail::TailRecord;
use dormouse_types::segment::Range53;
use tracing::Instrument;

use self::assembly::{drop_superseded_tails, is_outgrown, last_seen, prune, replace_segments};
use self::objects::Output;
use self::seen::{InChunk, Visited, Written};
pub use self::sleep::SleepOutcome;
use self::visit::{AtOnce, Contents as Found, Look};
use crate::database::{Database, store_error};
use crate::error::{Error, Result};
use crate::health::ConditionKind;
use crate::keyspace::Contents;
use crate::pinned::AtMoment;
use crate::places::stored;
use crate::shard::{HeldShard, ShardGate};
use crate::timings::{SPANS, TIMINGS};
use crate::topology::Topology;

/// Bytes of changed values that one checkpoint puts into its tail; places that changed beyond that are written whole.
const TAIL_BYTES_MAX: usize = 32 << 20;

/// How often the meters of a database are written that is woken for brief looks only.
const METERS_EVERY_MS: u64 = 60_000;

/// The volume that a checkpoint wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    pub segments: usize,
    pub keys: usize,
    pub bytes: u64,
    pub effects: usize,
}

/// The extent of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Each place as it is when its turn comes; the log has the rest.
    Fuzzy,
    /// All of it as it is at one moment, and the meters.
    Moment,
    /// The same, and the database serves no client from that moment on.
    Last,
}

/// The pace at which a checkpoint writes objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writes {
    /// It gives way to clients.
    Patient,
    Prompt,
}

/// The state at the start of a checkpoint.
struct Beginning {
    sequence: u64,
    ids: Ids,
    followed: u32,
    next_id: u32,
    /// Whether there is anything to write.
    needed: bool,
    /// The log's end.
    end: Lsn,
    /// Unix milliseconds.
    now_ms: u64,
    /// Places with effects only in the log that could not be loaded.
    unloaded: Vec<(u32, Range53, u64)>,
}

/// The result of what a checkpoint does first, under all locks.
struct Moment {
    begun: Beginning,
    /// The places of a checkpoint of one moment.
    seen: Vec<(Visited, Found)>,
    retired: Option<Vec<Contents>>,
}

impl Database {
    /// Writes the changes since the last checkpoint. Writes nothing if nothing changed.
    ///
    /// # Errors
    /// When the store refuses: everything is as before, and the text says what failed.
    pub async fn checkpoint(self: &Arc<Self>) -> Result<Report> {
        let database = Arc::clone(self);
        // It gives way to clients: no client waits for it, and it keeps nothing in memory however long it takes.
        let span = tracing::info_span!(target: SPANS, "checkpoint", dormouse.database = self.name());
        let checkpoint = async move {
            let _transition = database.transition.lock().await;
            let done = match database.check_promise().await {
                Ok(()) => database.checkpoint_as_room_allows().await,
                Err(error) => Err(error),
            };
            database.stop_if_overtaken().await;
            done
        };
        let done = self.patient.drive(checkpoint.instrument(span));
        let failed = || Error::Store(format!("the checkpoint of database {} failed", self.name()));
        done.await.unwrap_or_else(|undone| Err(undone.error(failed)))
    }

    /// Makes a checkpoint; on a full disk, one that keeps changes as they were logged.
    async fn checkpoint_as_room_allows(self: &Arc<Self>) -> Result<Report> {
        let log = self.engine.log.as_ref();
        // The usual one was tried before and found no room. Until there is more, only the log is emptied.
        if log.is_some_and(|log| log.relies_on_tails() && log.needs_checkpoints())
            && let Some(topology) = self.topology()
            && let Ok(report) = self.put_log_into_tail(&topology).await
        {
            return Ok(report);
        }
        let done = self.checkpoint_with(Extent::Fuzzy, Writes::Patient).await.map(|(report, _)| report);
        match (&done, self.topology()) {
            (Ok(_), _) => {
                log.inspect(|log| _ = log.rely_on_tails(false));
                done
            }
            (Err(error), Some(topology)) if error.is_full() => self.put_log_into_tail(&topology).await.or(done),
            _ => done,
        }
    }

    /// Returns the volume written, and the retired contents.
    async fn checkpoint_with(
        self: &Arc<Self>,
        extent: Extent,
        writes: Writes,
    ) -> Result<(Report, Option<Vec<Contents>>)> {
        self.checkpoint_at(extent, writes, &mut None).await
    }

    /// The same. Runs `at` under all locks, when it is certain what is written.
    async fn checkpoint_at(
        self: &Arc<Self>,
        extent: Extent,
        writes: Writes,
        at: &mut Option<AtMoment>,
    ) -> Result<(Report, Option<Vec<Contents>>)> {
        let Some(topology) = self.topology() else { return Ok((Report::default(), None)) };
        let started = Stopwatch::start();
        self.counters.checkpoint_running.fetch_add(1, Ordering::Relaxed);
        let (mut visited, mut output) = (Vec::new(), Output::default());
        output.is_patient = writes == Writes::Patient;
        let outcome = match self.prepare(&topology, extent).await {
            Ok(()) => self.write(&topology, (extent, at), &mut visited, &mut output).await,
            Err(error) => Err(error),
        };
        self.free(self.shared.unpark());
        self.counters.checkpoint_running.fetch_sub(1, Ordering::Relaxed);
        match outcome {
            Ok(report) => {
                if self.counters.checkpoint_failed.swap(false, Ordering::Relaxed) {
                    tracing::info!(database = self.name(), "checkpoints succeed again");
                }
                self.forget_damage();
                self.health.resolve(ConditionKind::Store);
                self.health.resolve(ConditionKind::Full);
                if report != Report::default() {
                    self.counters.checkpoints.fetch_add(1, Ordering::Relaxed);
                    self.counters.checkpoint_us_last.store(started.us(), Ordering::Relaxed);
                    TIMINGS.checkpoints.add(started.elapsed());
                    self.counters.checkpoint_keys_last.store(report.keys as u64, Ordering::Relaxed);
                    self.counters.checkpoint_bytes.fetch_add(report.bytes, Ordering::Relaxed);
                }
                Ok((report, output.retired))
            }
            Err(error) => {
                if let Some(retired) = output.retired.take() {
                    self.put_back(&topology, retired).await?;
                }
                self.undo(&topology, visited).await?;
                self.take_back(output).await;
                self.note_damage(&error);
                self.counters.checkpoint_errors.fetch_add(1, Ordering::Relaxed);
                if self.refused.get().is_none() {
                    let kind = if error.is_full() { ConditionKind::Full } else { ConditionKind::Store };
                    self.health.report(kind, error.detail());
                }
                // Repeated failures are reported by the caller that retries.
                if !self.counters.checkpoint_failed.swap(true, Ordering::Relaxed) {
                    tracing::error!(database = self.name(), %error, "checkpoint failed; the database stays awake and the last one stays valid");
                }
                Err(error)
            }
        }
    }

    /// Serves contents again that were retired for a failed checkpoint.
    ///
    /// # Errors
    /// When the process ends.
    async fn put_back(self: &Arc<Self>, topology: &Arc<Topology>, retired: Vec<Contents>) -> Result<()> {
        let (database, again) = (Arc::clone(self), Arc::clone(topology));
        self.under(topology.shards.clone(), move |held| {
            for (shard, contents) in held.iter().zip(retired) {
                *shard.contents() = contents;
            }
            database.publish_again(&again);
        })
        .await
    }

    /// Prepares places so that each stands for one segment.
    ///
    /// # Errors
    /// When a page of a shown keyspace cannot be read: it is unknown which of its segments must stay in the next
    /// manifest.
    async fn prepare(self: &Arc<Self>, topology: &Topology, extent: Extent) -> Result<()> {
        self.read_pages(topology).await?;
        match extent {
            Extent::Fuzzy => self.load_what_is_rewritten(topology).await,
            Extent::Moment | Extent::Last => Ok(()),
        }
    }

    /// Loads places with effects only in the log, so that they can be written. Where the tails have outgrown their
    /// part, also loads the places that they cover, which are dirty then.
    async fn load_what_is_rewritten(self: &Arc<Self>, topology: &Topology) -> Result<()> {
        let before = self.manifest_before(topology).await?;
        // A tail that cannot be read is not needed when every place that it covers is written whole.
        let was_damaged = self.shared.damage.is_known();
        let compacts = before.as_ref().is_some_and(|manifest| was_damaged || is_outgrown(manifest));
        // A place that cannot be loaded keeps its effects: one damaged object must not keep all the rest from being
        // written.
        if let Err(error) = self.load_where(move |stored| stored.logged || compacts && stored.tailed).await {
            tracing::error!(database = self.name(), %error, "failed to load a part of the database");
        }
        let Some(manifest) = before.filter(|_| compacts) else { return Ok(()) };
        for gate in &topology.shards {
            let manifest = Arc::clone(&manifest);
            let mark = move |held: &[HeldShard]| {
                for mut contents in held.iter().map(HeldShard::contents) {
                    for segment in manifest.segments.iter().filter(|segment| segment.seen > segment.sequence) {
                        if let Some(index) = contents.by_id(segment.keyspace) {
                            index.mark_dirty(segment.range);
                        }
                    }
                }
            };
            self.under(vec![Arc::clone(gate)], mark).await?;
        }
        Ok(())
    }

    async fn write(
        self: &Arc<Self>,
        topology: &Arc<Topology>,
        (extent, at_moment): (Extent, &mut Option<AtMoment>),
        visited: &mut Vec<Visited>,
        output: &mut Output,
    ) -> Result<Report> {
        let before = self.manifest_before(topology).await?;
        // The last one before a sleep keeps the meters, also of a database that was only read; those of brief looks wait.
        let saved_ms = self.counters.saved_ms.load(Ordering::Relaxed);
        let is_soon = self.is_brief() && (self.engine.clock)().saturating_sub(saved_ms) < METERS_EVERY_MS;
        let meters = extent != Extent::Fuzzy && before.is_some() && !is_soon;
        // Records seen at one moment wait here until the locks are released.
        let Moment { begun, seen: seen_at_once, retired } = {
            let (database, its) = (Arc::clone(self), Arc::clone(topology));
            let (before, at_moment) = (before.clone(), at_moment.take());
            let see = move |held: &[HeldShard]| database.begin_and_see(&its, held, before, extent, at_moment);
            self.under(topology.shards.clone(), see).await?
        };
        output.retired = retired;
        // They are all clean from here on, so all must be known if one cannot be written.
        visited.extend(seen_at_once.iter().map(|(seen, _)| Visited { written: Written::Empty, ..*seen }));
        if !begun.needed && !meters {
            if is_soon {
                self.lacks_meters.store(true, Ordering::SeqCst);
            }
            return Ok(Report::default());
        }
        let mut manifest = self.manifest_after(before.as_deref());
        // Chunks say which keyspaces were shown when they were written.
        manifest.keyspaces = begun.ids;
        manifest.meters = (self.meters.lock())();
        self.lacks_meters.store(false, Ordering::SeqCst);
        let names = Names::new(self.name()).map_err(store_error)?;
        let mut changes: Vec<TailRecord> = Vec::new();
        let mut changed_bytes = 0;
        let mut seen_at_once = seen_at_once.into_iter();
        let fuzzy = if extent == Extent::Fuzzy { &topology.shards[..] } else { &[] };
        let mut places = fuzzy.iter().flat_map(|gate| begun.ids.map(|id| (gate, id)));
        let mut at = places.next().map(|(gate, id)| (gate, id, 0));
        loop {
            let visit = match (&mut at, seen_at_once.next()) {
                (_, Some(seen)) => Some(seen),
                (None, None) => break,
                (Some((gate, id, from)), None) => {
                    let whole = changed_bytes > TAIL_BYTES_MAX;
                    let look = Look { before: before.clone(), whole, at_once: AtOnce::Nothing };
                    let visit = self.visit(gate, *id, *from, look).await?;
                    tokio::task::yield_now().await;
                    match visit {
                        Some((seen, found, next)) => {
                            *from = next;
                            Some((seen, found))
                        }
                        None => {
                            at = places.next().map(|(gate, id)| (gate, id, 0));
                            None
                        }
                    }
                }
            };
            let Some((mut seen, found)) = visit else { continue };
            output.report.segments += 1;
            match found {
                Found::Body(mut raw, large) => {
                    // It is clean from here on, so it must be known if a piece cannot be written.
                    visited.push(Visited { written: Written::Empty, ..seen });
                    let gate = &topology.shards[topology.of_slot((seen.range.start >> 39) as u16)];
                    let output_of = (&mut manifest, &names, &mut *output);
                    let is_moment = extent != Extent::Fuzzy;
                    let pieces = self.write_large((gate, is_moment), &seen, large, &mut raw, output_of).await?;
                    visited.pop();
                    let Some(pieces) = pieces else { continue };
                    let body = raw.seal();
                    let entry = output.writer.push(seen.keyspace, seen.range, seen.sequence, &body);
                    output.report.keys += entry.records as usize;
                    (seen.records, seen.expiring) = (entry.records, body.expiring);
                    seen.written = Written::Body { body: InChunk { entry, chunk: output.chunks.len() }, pieces };
                }
                Found::Keys(records) => {
                    output.report.keys += records.len();
                    changed_bytes += records.iter().map(|record| record.body.len()).sum::<usize>();
                    changes.extend(records);
                }
                Found::Empty => {}
            }
            visited.push(seen);
            if output.writer.is_full() {
                self.put_chunk(&mut manifest, &names, output).await?;
            }
        }
        self.put_chunk(&mut manifest, &names, output).await?;
        let unkept_bytes = self.shared.journal.unkept_bytes();
        let (cut, cut_ms) = self.cut(topology, &begun, extent).await?;
        manifest.sequence = begun.sequence;
        manifest.cut = cut;
        manifest.keyspaces = begun.ids;
        manifest.followed = begun.followed;
        manifest.next_keyspace = begun.next_id;
        manifest.shard_cuts = cuts(topology);
        replace_segments(&mut manifest, &last_seen(visited), std::mem::take(&mut output.chunks));
        if let Some(before) = &before {
            drop_superseded_tails(&mut manifest, &before.segments);
        }
        changes.extend(self.carry(&mut manifest, &begun.unloaded));
        let mut moved = self.copy_sparse_chunks(&mut manifest, &names, output).await?;
        moved.extend(begun.unloaded.iter().map(|(keyspace, range, _)| (*keyspace, *range)));
        self.put_tail(&mut manifest, &names, changes, output).await?;
        self.finish_put(output).await?;
        prune(&mut manifest);
        manifest.drop_unused_chunks();
        self.extend_history(&mut manifest, before.as_deref(), cut_ms, output).await?;
        output.report.effects = manifest.tails.iter().map(|tail| tail.effects as usize).sum();
        output.report.bytes += manifest.encode().len() as u64;
        self.commit_with_reserve(&mut manifest, output).await.map_err(|error| self.note_refused(error))?;
        self.is_declared_unsure.store(false, Ordering::SeqCst);
        self.committed(manifest, topology, &moved).await;
        self.shared.journal.keep_bytes(unkept_bytes);
        // Before a sleep and for a branch the caller collects at the end.
        if extent == Extent::Fuzzy {
            self.collect_superseded().await;
        }
        Ok(output.report)
    }

    /// Step 1, and for a checkpoint of one moment all of what it sees, under all locks.
    fn begin_and_see(
        &self,
        topology: &Topology,
        held: &[HeldShard],
        before: Option<Arc<Manifest>>,
        extent: Extent,
        at_moment: Option<AtMoment>,
    ) -> Moment {
        let begun = self.begin(topology, held, before.as_deref(), extent);
        let mut seen_at_once = Vec::new();
        if extent != Extent::Fuzzy && begun.needed {
            let at_once = if extent == Extent::Last { AtOnce::Everything } else { AtOnce::Runs };
            let look = Look { before, whole: false, at_once };
            // Values dropped from here on may still have to be written.
            self.shared.parked.open(large::next_moment(), self.shared.next_id.load(Ordering::SeqCst));
            for (shard, id) in held.iter().flat_map(|shard| begun.ids.map(|id| (shard, id))) {
                let mut from = 0;
                while let Some((seen, found, next)) = self.see(shard, id, from, &look) {
                    from = next;
                    seen_at_once.push((seen, found));
                }
            }
        }
        if let Some(at_moment) = at_moment {
            at_moment(&begun.ids);
        }
        let retired = (extent == Extent::Last).then(|| {
            let retired = self.retire(held);
            self.publish(None);
            retired
        });
        Moment { begun, seen: seen_at_once, retired }
    }

    /// Determines what to write, under all locks.
    fn look(&self, topology: &Topology, held: &[HeldShard], before: Option<&Manifest>) -> Beginning {
        let shared = &self.shared;
        let mut dirty = false;
        let mut ids = [0; ALL_INDEXES];
        let mut unloaded = Vec::new();
        for shard in held {
            let contents = shard.contents();
            ids = contents.ids;
            dirty |= contents.indexes().any(|(_, index)| index.is_dirty());
            for (_, index) in contents.indexes().filter(|(_, index)| index.stored() > 0) {
                let stored = index.places().iter().filter_map(|place| Some((place.range, place.stored()?)));
                let logged = stored.filter(|(_, stored)| stored.logged);
                unloaded.extend(logged.map(|(range, stored)| (index.id, range, stored.seen)));
            }
        }
        let sequence = shared.sequence.load(Ordering::SeqCst);
        let followed = shared.followed.load(Ordering::Relaxed);
        let unchanged = match before {
            None => sequence == 0 && ids == first_ids(),
            Some(manifest) => {
                manifest.keyspaces == ids
                    && manifest.followed == followed
                    && manifest.shard_cuts == cuts(topology)
                    && manifest.sequence == sequence
            }
        };
        let is_stale = self.is_declared_unsure.load(Ordering::SeqCst) || self.is_history_stale(before);
        let needed = dirty || !unchanged || is_stale;
        let next_id = shared.next_id.load(Ordering::SeqCst);
        Beginning { sequence, ids, followed, next_id, needed, end: 0, now_ms: (self.engine.clock)(), unloaded }
    }

    /// Step 1.
    fn begin(&self, topology: &Topology, held: &[HeldShard], before: Option<&Manifest>, extent: Extent) -> Beginning {
        let (shared, journal) = (&self.shared, &self.shared.journal);
        let mut begun = self.look(topology, held, before);
        if begun.needed && !journal.is_logging() {
            // Earlier writes took no numbers: later states must be distinguishable from earlier ones.
            if extent == Extent::Fuzzy && journal.log().is_some() {
                journal.resume(&shared.sequence, (self.engine.clock)());
                journal.record(true);
            } else {
                // A state seen at one moment needs no log.
                shared.sequence.fetch_add(1, Ordering::SeqCst);
                self.waiters.number_skipped();
            }
        }
        begun.sequence = shared.sequence.load(Ordering::SeqCst);
        begun.end = journal.log().map_or(0, |log| log.end());
        begun
    }

    /// Step 3. Returns the cut, and its time.
    ///
    /// # Errors
    /// When the log cannot be made durable.
    async fn cut(self: &Arc<Self>, topology: &Topology, begun: &Beginning, extent: Extent) -> Result<(u64, u64)> {
        let journal = &self.shared.journal;
        let (mut cut, mut cut_ms, mut end) = (begun.sequence, begun.now_ms, begun.end);
        if extent == Extent::Fuzzy {
            if journal.window() == Window::None {
                self.stop_recording(topology.shards.clone()).await?;
            }
            // Read first: no later entry is older.
            cut_ms = (self.engine.clock)();
            cut = self.shared.sequence.load(Ordering::SeqCst);
            end = journal.log().map_or(0, |log| log.end());
        }
        if let Some(log) = journal.log() {
            // Needed even if everything was visited and this database needs no log: a crash must not keep its effects
            // and lose an earlier effect of another database.
            log.durable_or_failed(end).await.map_err(|error| self.note_refused(error))?;
        }
        Ok((cut, cut_ms))
    }

    /// Ends the recording of a database that is logged during checkpoints only.
    async fn stop_recording(self: &Arc<Self>, gates: Vec<ShardGate>) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        self.under(gates, move |_| {
            // Another window may have been declared while the locks were asked for.
            if shared.journal.window() == Window::None {
                shared.journal.record(false);
            }
        })
        .await
    }

    /// Puts the logged effects of places that could not be loaded into the tail, so that the log is not kept for them.
    fn carry(&self, manifest: &mut Manifest, unloaded: &[(u32, Range53, u64)]) -> Vec<TailRecord> {
        let mut carried = Vec::new();
        let Some(log) = self.recovered.lock().clone() else { return carried };
        for (keyspace, range, seen) in unloaded {
            // A client may have had it loaded after all, and then it was visited.
            let visited = manifest.segment(*keyspace, range.start).map_or(0, |segment| segment.seen);
            if visited > *seen && manifest.segment(*keyspace, range.start).is_none_or(|found| found.range != *range) {
                continue;
            }
            let effects = log.effects(*keyspace, *range, (*seen).max(visited));
            let Some(last) = effects.last().map(|effect| effect.sequence) else { continue };
            match manifest.segments.iter_mut().find(|segment| segment.keyspace == *keyspace && segment.range == *range)
            {
                Some(segment) => segment.seen = last,
                None => manifest.segments.push(SegmentInfo {
                    keyspace: *keyspace,
                    range: *range,
                    location: SegmentLocation { chunk: 0, offset: 0, len: 0 },
                    records: 0,
                    expiring: 0,
                    heap_bytes: 0,
                    sequence: 0,
                    seen: last,
                    crc: 0,
                }),
            }
            carried.extend(effects);
        }
        manifest.segments.sort_by_key(|segment| (segment.keyspace, segment.range.start));
        carried
    }

    /// After step 4.
    async fn committed(self: &Arc<Self>, manifest: Manifest, topology: &Topology, moved: &[(u32, Range53)]) {
        self.counters.saved_ms.store((self.engine.clock)(), Ordering::Relaxed);
        let manifest = Arc::new(manifest);
        let known = Arc::new(Arc::clone(&manifest).into());
        self.note_manifest(&known);
        let mut moved = moved.to_vec();
        moved.append(&mut self.unmoved.lock());
        if let Err(error) = self.relocate(&manifest, topology, &moved).await {
            // The next checkpoint tells them; until then they are found at their old location.
            *self.unmoved.lock() = moved;
            tracing::error!(database = self.name(), %error, "failed to read a tail that was just written");
        } else {
            *self.recovered.lock() = None;
        }
        *self.goes_on_after.lock() = None;
        self.shared.journal.cover(self.shared.journal.is_logging());
        if let Some(log) = self.shared.journal.log() {
            log.settled(&self.identity, manifest.sequence);
        }
        *self.manifest.lock() = Some(known);
    }

    /// Updates the location of places that are not in memory.
    async fn relocate(&self, manifest: &Arc<Manifest>, topology: &Topology, moved: &[(u32, Range53)]) -> Result<()> {
        if moved.is_empty() {
            return Ok(());
        }
        let replay = Arc::new(Replay::read(&self.engine.store, manifest, None).await.map_err(store_error)?);
        let moved: Arc<[(u32, Range53)]> = moved.into();
        for gate in &topology.shards {
            let (manifest, moved, replay) = (Arc::clone(manifest), Arc::clone(&moved), Arc::clone(&replay));
            let tell = move |held: &[HeldShard]| {
                for mut contents in held.iter().map(HeldShard::contents) {
                    for (keyspace, range) in &*moved {
                        let segment = manifest.segment(*keyspace, range.start);
                        if let Some(segment) = segment.filter(|segment| segment.range == *range)
                            && let Some(index) = contents.by_id(*keyspace)
                            && index.covers(range.start)
                        {
                            index.relocate(*range, stored(&manifest, segment, &replay), segment.expiring);
                        }
                    }
                }
            };
            self.under(vec![Arc::clone(gate)], tell).await?;
        }
        Ok(())
    }

    /// After a failure: the visited places are dirty again, and with loss window `none` recording stops.
    ///
    /// # Errors
    /// When the process ends.
    async fn undo(self: &Arc<Self>, topology: &Topology, visited: Vec<Visited>) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        self.under(topology.shards.clone(), move |held| {
            if shared.journal.window() == Window::None {
                shared.journal.record(false);
            }
            for mut contents in held.iter().map(HeldShard::contents) {
                for seen in &visited {
                    if let Some(index) = contents.by_id(seen.keyspace) {
                        index.mark_dirty(seen.range);
                    }
                }
            }
        })
        .await
    }
}

fn cuts(topology: &Topology) -> Vec<u16> {
    topology.firsts[1..].to_vec()
}

//! A checkpoint for a disk that is too full for the usual one: the database's effects in the log become a tail.
//!
//! The usual checkpoint writes a place whole where many of its keys have changed, which may take as much room as all
//! stored data. A tail of the effects takes no more than the log does, and the reserve covers the log. So the log can
//! always go.
//!
//! 1. *Begin*, under all locks, briefly: the number of the last entry, and what each *part* holds. A part is a place,
//!    or as much of one as a single stored segment covers, or none: places may have been merged since they were stored.
//! 2. The log is made durable that far, and what it has of the database is read as after a crash.
//! 3. Of each segment, the effects that neither its body nor a tail has yet are put into one tail, and it has been seen
//!    up to the number from step 1. A part that no segment covers becomes a segment without a body.
//! 4. *Commit*, as any checkpoint does.
//!
//! Invariant: segments cover each effect up to the number from step 1, and the tail has what their bodies and the tails
//! before lack. So the log is needed no more, however places have been split and merged meanwhile.
//!
//! Places in memory stay dirty: the next usual checkpoint writes them, and drops their part of the tail.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_storage::chunk::SegmentLocation;
use dormouse_storage::log::Log;
use dormouse_storage::log::recovery::Entries;
use dormouse_storage::log::tail::LogTail;
use dormouse_storage::manifest::{Manifest, Names, SegmentInfo};
use dormouse_storage::shown::{ALL_INDEXES, Ids};
use dormouse_storage::store::StoreError;
use dormouse_storage::tail::TailRecord;
use dormouse_types::segment::{Range53, SlotPlacement};
use futures::channel::oneshot;

use super::assembly::prune;
use super::{Output, Report, cuts};
use crate::database::{Database, store_error};
use crate::error::{Error, Result};
use crate::keyspace::place::Place;
use crate::topology::Topology;

/// The counts of a part.
struct Counted {
    keyspace: u32,
    range: Range53,
    records: u32,
    expiring: u32,
    heap_bytes: u64,
    is_resident: bool,
}

/// The result of step 1.
struct Moment {
    sequence: u64,
    ids: Ids,
    followed: u32,
    next_id: u32,
    parts: Vec<Counted>,
}

/// The effects that step 3 takes from the log.
struct Taken {
    /// Records for the tail.
    changes: Vec<TailRecord>,
    /// The places that are not in memory and must learn of their new location.
    moved: Vec<(u32, Range53)>,
}

impl Database {
    /// Puts this database's effects in the log into a tail.
    ///
    /// # Errors
    /// When the store refuses, or the log lacks effects that were written: everything is as before.
    pub(super) async fn put_log_into_tail(self: &Arc<Self>, topology: &Topology) -> Result<Report> {
        let log = self.shared.journal.log().filter(|_| self.shared.journal.is_logging());
        let log = Arc::clone(log.ok_or_else(|| Error::text("ERR the database is not logged"))?);
        let mut output = Output::default();
        let done = self.write_tail_of_log(&log, topology, &mut output).await;
        if let Err(error) = &done {
            tracing::debug!(database = self.name(), %error, "a tail of what the log has could not be put");
            self.take_back(output).await;
            return done;
        }
        self.forget_damage();
        if log.rely_on_tails(true) {
            tracing::info!(
                database = self.name(),
                "there is no room for a whole checkpoint: changes are kept as they were logged"
            );
        }
        self.collect_superseded().await;
        done
    }

    async fn write_tail_of_log(
        self: &Arc<Self>,
        log: &Arc<Log>,
        topology: &Topology,
        output: &mut Output,
    ) -> Result<Report> {
        self.read_pages(topology).await?;
        let before = self.manifest_before(topology).await?;
        let unkept_bytes = self.shared.journal.unkept_bytes();
        let moment = self.count(topology, before.clone()).await?;
        log.durable_or_failed(log.end()).await.map_err(|error| self.note_refused(error))?;
        let floor = before.as_ref().map_or(0, |manifest| manifest.sequence);
        let entries = self.read_log_back(log, floor).await?;
        let logged = LogTail::new(entries, floor, moment.sequence).map_err(Error::Store)?;
        let mut manifest = self.manifest_after(before.as_deref());
        manifest.meters = (self.meters.lock())();
        manifest.sequence = moment.sequence;
        manifest.cut = manifest.cut.max(moment.sequence);
        manifest.keyspaces = moment.ids;
        manifest.followed = moment.followed;
        manifest.next_keyspace = moment.next_id;
        self.give_up_history(&mut manifest);
        let Taken { changes, moved } = bring_up_to(&mut manifest, &moment, &logged);
        // Those that go through a stored segment are left out when it is read.
        manifest.shard_cuts = cuts(topology);
        let names = Names::new(self.name()).map_err(store_error)?;
        self.put_new_tail(&mut manifest, &names, changes, output).await?;
        prune(&mut manifest);
        manifest.drop_unused_chunks();
        output.report.effects = manifest.tails.iter().map(|tail| tail.effects as usize).sum();
        output.report.bytes += manifest.encode().len() as u64;
        self.commit_with_reserve(&mut manifest, output).await.map_err(|error| self.note_refused(error))?;
        self.committed(manifest, topology, &moved).await;
        self.shared.journal.keep_bytes(unkept_bytes);
        Ok(output.report)
    }

    /// Reads the database's entries beyond `floor` from the log, which must be durable that far.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) async fn read_log_back(&self, log: &Arc<Log>, floor: u64) -> Result<Entries> {
        let (of, identity) = (Arc::clone(log), self.identity.clone());
        // This takes up at most one thread of the loader: clients' loads need the others.
        let turn = log.turn_to_read_back().await;
        let (sender, receiver) = oneshot::channel();
        let queued = self.loader.run(move || drop(sender.send(of.read_back(&identity, floor))));
        queued.map_err(|not_run| not_run.error(|| Error::Store("the log could not be read back".to_owned())))?;
        let unread = |_| StoreError::LogFailed("the log could not be read back".into());
        let entries = receiver.await.map_err(unread).flatten().map_err(store_error)?;
        drop(turn);
        Ok(entries)
    }

    /// Step 1.
    ///
    /// # Errors
    /// When the process ends.
    async fn count(&self, topology: &Topology, before: Option<Arc<Manifest>>) -> Result<Moment> {
        let shared = Arc::clone(&self.shared);
        let counted = self.under(topology.shards.clone(), move |held| {
            let (mut ids, mut parts) = ([0; ALL_INDEXES], Vec::new());
            for shard in held {
                let contents = shard.contents();
                ids = contents.ids;
                for (_, index) in contents.indexes() {
                    let segments = before.as_ref().map_or(&[][..], |manifest| manifest.segments_of(index.id));
                    for place in index.places().iter() {
                        count_parts(index.id, place, segments, &shared.placement, &mut parts);
                    }
                }
            }
            let sequence = shared.sequence.load(Ordering::SeqCst);
            let followed = shared.followed.load(Ordering::Relaxed);
            let next_id = shared.next_id.load(Ordering::SeqCst);
            Moment { sequence, ids, followed, next_id, parts }
        });
        let mut moment = counted.await?;
        moment.parts.sort_by_key(|part| (part.keyspace, part.range.start));
        Ok(moment)
    }
}

/// Adds the parts of one place. `segments`: the stored ones of its keyspace.
fn count_parts(
    keyspace: u32,
    place: &Place,
    segments: &[SegmentInfo],
    placement: &SlotPlacement,
    parts: &mut Vec<Counted>,
) {
    let whole = Counted {
        keyspace,
        range: place.range,
        records: place.records() as u32,
        expiring: place.expiring,
        heap_bytes: place.resident_bytes() as u64,
        is_resident: place.segment().is_some(),
    };
    let Some(segment) = place.segment().filter(|_| is_merged(segments, place.range)) else {
        parts.push(whole);
        return;
    };
    // No record is looked at, as all locks are held: expiries and bytes are divided in proportion to the records. The sums are
    // those of the place.
    let mut left = whole;
    divide(segments, place.range, &mut |range| {
        let records = segment.len_within(range, placement) as u32;
        let share = |of: u64| (of * u64::from(records)).checked_div(u64::from(left.records)).unwrap_or(0);
        let (expiring, heap_bytes) = (share(u64::from(left.expiring)) as u32, share(left.heap_bytes));
        parts.push(Counted { keyspace, range, records, expiring, heap_bytes, is_resident: true });
        left.records -= records;
        left.expiring -= expiring;
        left.heap_bytes -= heap_bytes;
    });
}

/// The segments that share positions with `range`.
fn overlapping(segments: &[SegmentInfo], range: Range53) -> &[SegmentInfo] {
    let from = segments.partition_point(|segment| segment.range.end() <= range.start);
    let len = segments[from..].partition_point(|segment| segment.range.start < range.end());
    &segments[from..from + len]
}

/// Whether a place of this range was merged from several since they were stored: ranges are aligned, so one contains the other.
fn is_merged(segments: &[SegmentInfo], range: Range53) -> bool {
    overlapping(segments, range).first().is_some_and(|segment| segment.range.bits < range.bits)
}

/// Divides `range` into the ranges of segments and those between them, in order.
fn divide(segments: &[SegmentInfo], range: Range53, each: &mut impl FnMut(Range53)) {
    if is_merged(segments, range) {
        let (low, high) = range.halves();
        divide(segments, low, each);
        divide(segments, high, each);
    } else {
        each(range);
    }
}

/// Step 3.
fn bring_up_to(manifest: &mut Manifest, moment: &Moment, logged: &LogTail) -> Taken {
    let (mut changes, mut moved, mut added) = (Vec::new(), Vec::new(), Vec::new());
    manifest.segments.retain(|segment| moment.ids.contains(&segment.keyspace));
    manifest.pieces.retain(|piece| moment.ids.contains(&piece.keyspace));
    let mut effects = |keyspace, range, seen| {
        let found = logged.effects(keyspace, range, seen).into_iter();
        let before = changes.len();
        changes.extend(found.filter(|effect| effect.sequence <= moment.sequence));
        changes.len() > before
    };
    for segment in &mut manifest.segments {
        if !effects(segment.keyspace, segment.range, segment.seen) {
            continue;
        }
        segment.seen = moment.sequence;
        let inside = within(&moment.parts, segment.keyspace, segment.range);
        // A part that is only stored keeps its counts; its effects in the log are unknown before it is loaded.
        if inside.iter().all(|part| part.is_resident) {
            segment.records = inside.iter().map(|part| part.records).sum();
            segment.expiring = inside.iter().map(|part| part.expiring).sum();
            segment.heap_bytes = inside.iter().map(|part| part.heap_bytes).sum();
        }
        moved.extend(inside.iter().filter(|part| !part.is_resident).map(|_| (segment.keyspace, segment.range)));
    }
    for part in moment.parts.iter().filter(|part| moment.ids.contains(&part.keyspace)) {
        let is_stored = !overlapping(manifest.segments_of(part.keyspace), part.range).is_empty();
        if is_stored || !effects(part.keyspace, part.range, 0) {
            continue;
        }
        added.push(SegmentInfo {
            keyspace: part.keyspace,
            range: part.range,
            location: SegmentLocation { chunk: 0, offset: 0, len: 0 },
            records: part.records,
            expiring: part.expiring,
            heap_bytes: part.heap_bytes,
            sequence: 0,
            seen: moment.sequence,
            crc: 0,
        });
        moved.extend((!part.is_resident).then_some((part.keyspace, part.range)));
    }
    manifest.segments.append(&mut added);
    manifest.segments.sort_by_key(|segment| (segment.keyspace, segment.range.start));
    Taken { changes, moved }
}

/// The parts inside a stored segment.
fn within(parts: &[Counted], keyspace: u32, range: Range53) -> &[Counted] {
    let from = parts.partition_point(|part| (part.keyspace, part.range.end()) <= (keyspace, range.start));
    let to = parts[from..].partition_point(|part| (part.keyspace, part.range.start) < (keyspace, range.end()));
    &parts[from..from + to]
}

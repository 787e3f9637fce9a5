//! A checkpoint for a disk that is too full for the usual one: what the log has of the database becomes a tail.
//!
//! The usual checkpoint writes a place whole where many of its keys have changed, which may take as much room as all that is
//! stored. A tail of the effects takes no more than the log does, and the reserve covers the log. So the log can always go.
//!
//! 1. *Begin*, under all locks, briefly: the number of the last entry, and what each place holds.
//! 2. The log is made durable that far, and read as after a crash.
//! 3. Of each place, the effects that neither its body nor a tail has yet are put into one tail. The place has been seen up
//!    to the number from step 1.
//! 4. *Commit*, as any checkpoint does.
//!
//! Places in memory stay dirty: the next usual checkpoint writes them, and drops their part of the tail.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_storage::chunk::SegmentLocation;
use dormouse_storage::log::Log;
use dormouse_storage::log::tail::LogTail;
use dormouse_storage::manifest::{Manifest, Names, SegmentInfo};
use dormouse_storage::shown::{ALL_INDEXES, Ids};
use dormouse_storage::store::StoreError;
use dormouse_storage::tail::TailRecord;
use dormouse_types::segment::Range53;
use futures::channel::oneshot;

use super::assembly::{drop_unused_chunks, prune};
use super::{Output, Report, cuts};
use crate::database::{Database, store_error};
use crate::error::{Error, Result};
use crate::topology::{Topology, hold};

/// What a place holds.
struct Counted {
    keyspace: u32,
    range: Range53,
    records: u32,
    expiring: u32,
    heap_bytes: u64,
    is_resident: bool,
}

/// What step 1 has found.
struct Moment {
    sequence: u64,
    ids: Ids,
    followed: u32,
    next_id: u32,
    places: Vec<Counted>,
}

/// What step 3 takes from the log.
struct Taken {
    /// What goes into the tail.
    changes: Vec<TailRecord>,
    /// The places that are not in memory and have to be told.
    moved: Vec<(u32, Range53)>,
}

impl Database {
    /// Puts what the log has of this database into a tail.
    ///
    /// # Errors
    /// When the store refuses, when the log does not have all that was written, and when places were merged since the last
    /// checkpoint: everything is as before.
    pub(super) async fn put_log_into_tail(self: &Arc<Self>, topology: &Topology) -> Result<Report> {
        let log = self.shared.journal.log().filter(|_| self.shared.journal.is_recording());
        let log = Arc::clone(log.ok_or_else(|| Error::text("ERR the database is not logged"))?);
        let mut output = Output::default();
        let done = self.write_tail_of_log(&log, topology, &mut output).await;
        if let Err(error) = &done {
            tracing::debug!(database = self.name(), %error, "a tail of what the log has could not be put");
            self.take_back(output).await;
            return done;
        }
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
        let before = self.whole_manifest().await?;
        let moment = self.count(topology).await;
        log.durable_or_failed(log.end()).await.map_err(|error| self.note_refused(error))?;
        let of = Arc::clone(log);
        // On a thread that may wait.
        let (sender, receiver) = oneshot::channel();
        let queued = self.loader.run(move || drop(sender.send(of.read_back())));
        queued.map_err(|not_run| not_run.error(|| Error::Store("the log could not be read back".to_owned())))?;
        let unread = |_| StoreError::LogFailed("the log could not be read back".into());
        let recovered = receiver.await.map_err(unread).flatten().map_err(store_error)?;
        let floor = before.as_ref().map_or(0, |manifest| manifest.sequence);
        let logged =
            LogTail::new(recovered.entries_of(&self.identity), floor, moment.sequence).map_err(Error::Store)?;
        let mut manifest = self.manifest_after(before.as_deref());
        manifest.meters = (self.meters.lock())();
        manifest.sequence = moment.sequence;
        manifest.cut = manifest.cut.max(moment.sequence);
        manifest.keyspaces = moment.ids;
        manifest.followed = moment.followed;
        manifest.next_keyspace = moment.next_id;
        manifest.shard_cuts = cuts(topology);
        let Taken { changes, moved } = bring_up_to(&mut manifest, &moment, &logged)?;
        let names = Names::new(self.name()).map_err(store_error)?;
        self.put_new_tail(&mut manifest, &names, changes, output).await?;
        prune(&mut manifest);
        drop_unused_chunks(&mut manifest);
        output.report.effects = manifest.tails.iter().map(|tail| tail.effects as usize).sum();
        output.report.bytes += manifest.encode().len() as u64;
        self.commit_with_reserve(&mut manifest, output).await.map_err(|error| self.note_refused(error))?;
        self.committed(manifest, topology, &moved).await;
        Ok(output.report)
    }

    /// Step 1.
    async fn count(&self, topology: &Topology) -> Moment {
        let shared = &self.shared;
        let (mut ids, mut places) = ([0; ALL_INDEXES], Vec::new());
        let held = hold(topology.shards.clone()).await;
        for shard in &held {
            let contents = shard.contents();
            ids = contents.ids;
            for (_, index) in contents.indexes() {
                places.extend(index.places().iter().map(|place| Counted {
                    keyspace: index.id,
                    range: place.range,
                    records: place.records() as u32,
                    expiring: place.expiring,
                    heap_bytes: place.resident_bytes() as u64,
                    is_resident: place.segment().is_some(),
                }));
            }
        }
        let sequence = shared.sequence.load(Ordering::SeqCst);
        let followed = shared.followed.load(Ordering::Relaxed);
        let next_id = shared.next_id.load(Ordering::SeqCst);
        drop(held);
        places.sort_by_key(|place: &Counted| (place.keyspace, place.range.start));
        Moment { sequence, ids, followed, next_id, places }
    }
}

/// Step 3.
fn bring_up_to(manifest: &mut Manifest, moment: &Moment, logged: &LogTail) -> Result<Taken> {
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
        let inside = within(&moment.places, segment.keyspace, segment.range)?;
        // What is only stored keeps its counts; what the log has of it is not known before it is loaded.
        if inside.iter().all(|place| place.is_resident) {
            segment.records = inside.iter().map(|place| place.records).sum();
            segment.expiring = inside.iter().map(|place| place.expiring).sum();
            segment.heap_bytes = inside.iter().map(|place| place.heap_bytes).sum();
        }
        moved.extend(inside.iter().filter(|place| !place.is_resident).map(|_| (segment.keyspace, segment.range)));
    }
    for place in moment.places.iter().filter(|place| moment.ids.contains(&place.keyspace)) {
        let segments = manifest.segments_of(place.keyspace);
        let from = segments.partition_point(|segment| segment.range.end() <= place.range.start);
        let is_stored = segments.get(from).is_some_and(|segment| segment.range.start < place.range.end());
        if is_stored || !effects(place.keyspace, place.range, 0) {
            continue;
        }
        added.push(SegmentInfo {
            keyspace: place.keyspace,
            range: place.range,
            location: SegmentLocation { chunk: 0, offset: 0, len: 0 },
            records: place.records,
            expiring: place.expiring,
            heap_bytes: place.heap_bytes,
            sequence: 0,
            seen: moment.sequence,
            crc: 0,
        });
        moved.extend((!place.is_resident).then_some((place.keyspace, place.range)));
    }
    manifest.segments.append(&mut added);
    manifest.segments.sort_by_key(|segment| (segment.keyspace, segment.range.start));
    Ok(Taken { changes, moved })
}

/// The places that a stored segment has become.
///
/// # Errors
/// When it is only a part of one.
fn within(places: &[Counted], keyspace: u32, range: Range53) -> Result<&[Counted]> {
    let from = places.partition_point(|place| (place.keyspace, place.range.end()) <= (keyspace, range.start));
    let rest = &places[from..];
    let to = rest.partition_point(|place| (place.keyspace, place.range.start) < (keyspace, range.end()));
    let inside = &rest[..to];
    let is_whole = inside.iter().all(|place| range.start <= place.range.start && place.range.end() <= range.end());
    if is_whole { Ok(inside) } else { Err(Error::text("ERR places were merged since the last checkpoint")) }
}

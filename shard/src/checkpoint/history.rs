//! History: a checkpoint leaves the time since the one before it as a stretch of the database's
//! [`Timeline`](dormouse_storage::manifest::Timeline), before it commits.
//!
//! 1. The log is read back, from the manifest before up to the cut: it is durable that far, and no file with these
//!    entries is deleted before the next manifest is committed.
//! 2. The manifest before and these entries become a stretch. If the last stretch is short they are added to it instead:
//!    so the number of stretches is bounded, however often a client asks for a checkpoint.
//! 3. The objects that the next manifest does not name any more are noted as dropped.
//! 4. Stretches that have become too old are forgotten. Their age is counted from the end of the timeline before this
//!    checkpoint, if the clock is ahead of that: a clock that jumps once does not cost the history.
//!
//! Invariant: the entries of a stretch reach at least up to the cut of the manifest after it, so stretches follow each other
//! without a gap. If the log cannot be read that far, the timeline begins again.
//!
//! A full disk ends the history, and so does a checkpoint of the log's effects ([`super::full`]): what it has taken is free
//! for the data then. The reserve is not used for it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_storage::log::Log;
use dormouse_storage::log::recovery::Entries;
use dormouse_storage::manifest::{DroppedObject, Manifest, Names, Stretch, Timeline};
use dormouse_storage::store::StoreError;
use dormouse_storage::stretch::StretchContents;

use super::Output;
use crate::database::{Database, store_error};
use crate::error::Result;
use crate::history::HistoryState;

/// The history is divided into about this many stretches at most, as far as they are small.
const STRETCHES: u64 = 2048;
/// A stretch with more bytes is not added to.
const STRETCH_BYTES: u64 = 4 << 20;
/// Bytes of entries after which a database that keeps its history needs a checkpoint: they are in memory together.
const UNKEPT_BYTES_MAX: u64 = 64 << 20;

impl Database {
    /// Sets for how many milliseconds the database keeps its history from the next checkpoint on; 0: none.
    pub fn keep_history(&self, ms: u64) {
        self.history_ms.store(ms, Ordering::Relaxed);
        self.shared.journal.count_bytes(ms > 0);
    }

    /// For how many milliseconds the database keeps its history; 0: none.
    pub fn history_ms(&self) -> u64 {
        self.history_ms.load(Ordering::Relaxed)
    }

    /// The history as the newest manifest has it.
    pub fn history(&self) -> HistoryState {
        *self.history.lock()
    }

    /// Whether so much was written since the last checkpoint that the history needs another one.
    pub(crate) fn has_much_history(&self) -> bool {
        self.history_ms() > 0 && self.is_awake() && self.shared.journal.unkept_bytes() > UNKEPT_BYTES_MAX
    }

    /// Whether the newest manifest keeps history although it should not, or the other way round.
    pub(super) fn is_history_stale(&self, before: Option<&Manifest>) -> bool {
        let keeps = self.history_ms() > 0 && self.shared.journal.log().is_some();
        before.is_some_and(|before| keeps == (before.timeline == Timeline::default()))
    }

    /// Brings the timeline up to the manifest that is about to be committed. `cut_ms`: the moment that it shows, unix
    /// milliseconds.
    ///
    /// # Errors
    /// When the log cannot be read, or the store refuses.
    pub(super) async fn extend_history(
        &self,
        manifest: &mut Manifest,
        before: Option<&Manifest>,
        cut_ms: u64,
        output: &mut Output,
    ) -> Result<()> {
        let keep_ms = self.history_ms();
        let log = self.shared.journal.log().filter(|_| keep_ms > 0);
        let Some(log) = log.map(Arc::clone) else {
            manifest.timeline = Timeline::default();
            return Ok(());
        };
        let before = before.map_or_else(|| self.first_manifest(), Manifest::clone);
        let lost = dropped_objects(&before, manifest);
        let until_ms = manifest.timeline.until_ms;
        if manifest.cut > before.cut {
            self.put_stretch((manifest, before, lost), &log, (keep_ms, cut_ms), output).await?;
        } else if let Some(last) = manifest.timeline.stretches.last_mut() {
            last.dropped.extend(lost);
        }
        manifest.timeline.until_ms = cut_ms;
        manifest.timeline.forget_before(cut_ms.min(until_ms).saturating_sub(keep_ms));
        Ok(())
    }

    /// Steps 1 to 3.
    async fn put_stretch(
        &self,
        (manifest, before, lost): (&mut Manifest, Manifest, Vec<DroppedObject>),
        log: &Arc<Log>,
        (keep_ms, cut_ms): (u64, u64),
        output: &mut Output,
    ) -> Result<()> {
        let Entries { mut entries, damage } = self.read_log_back(log, before.sequence).await?;
        if let Some(damage) = damage {
            tracing::error!(database = self.name(), damage, "the history begins again, as the log is damaged");
            manifest.timeline = Timeline::default();
            return Ok(());
        }
        entries.retain(|entry| entry.sequence > before.sequence && entry.sequence <= manifest.cut);
        entries.dedup_by_key(|entry| entry.sequence);
        let shown = entries.partition_point(|entry| entry.sequence <= before.cut);
        let is_set_back = manifest.timeline.until_ms > cut_ms;
        let from_ms = match manifest.timeline.from_ms() {
            Some(_) if !is_set_back => manifest.timeline.until_ms,
            // It begins again with the first entry since then.
            Some(_) => entries.get(shown).map_or(cut_ms, |entry| entry.now_ms),
            // The base of the first stretch is as old as the last entry that it shows, if that is still known.
            None => entries[..shown].last().or(entries.first()).map_or(cut_ms, |entry| entry.now_ms),
        };
        let is_short = |last: &&Stretch| {
            let age_ms = cut_ms.saturating_sub(last.from_ms);
            !is_set_back && last.bytes < STRETCH_BYTES && age_ms < keep_ms / STRETCHES
        };
        let short = match manifest.timeline.stretches.last().filter(is_short) {
            Some(last) => self.read_stretch(&last.name).await?,
            None => None,
        };
        let (contents, from_ms, dropped) = match short {
            Some(mut contents) => {
                contents.extend(entries);
                let last = manifest.timeline.stretches.pop();
                let (from_ms, mut dropped) = last.map_or((from_ms, Vec::new()), |last| (last.from_ms, last.dropped));
                let is_of_base = |object: &DroppedObject| contents.base.data().any(|(name, _)| name == object.name);
                dropped.extend(lost.into_iter().filter(is_of_base));
                (contents, from_ms, dropped)
            }
            None => {
                let base = Manifest { timeline: Timeline::default(), meters: Vec::new(), ..before };
                (StretchContents { base, entries }, from_ms, lost)
            }
        };
        let names = Names::new(self.name()).map_err(store_error)?;
        let name = names.stretch(manifest.epoch, manifest.writer, self.take_number(manifest));
        let object = contents.encode();
        let bytes = object.len() as u64;
        output.objects.push(name.clone());
        match self.engine.store.put_new(&name, object).await {
            Ok(()) => {
                output.report.bytes += bytes;
                manifest.timeline.stretches.push(Stretch { name, bytes, from_ms, dropped });
                Ok(())
            }
            Err(StoreError::Full { .. }) => {
                self.give_up_history(manifest);
                Ok(())
            }
            Err(error) => Err(store_error(error)),
        }
    }

    /// Forgets the history, which takes the room that is missing.
    pub(super) fn give_up_history(&self, manifest: &mut Manifest) {
        if !manifest.timeline.is_empty() {
            tracing::warn!(database = self.name(), "the history is given up, as the store has no room for it");
        }
        manifest.timeline = Timeline::default();
    }

    /// `None` for one that is damaged: another one begins after it.
    async fn read_stretch(&self, name: &str) -> Result<Option<StretchContents>> {
        match StretchContents::read(&self.engine.store, name).await {
            Ok(contents) => Ok(Some(contents)),
            Err(error @ (StoreError::Corrupt { .. } | StoreError::Missing { .. })) => {
                tracing::error!(database = self.name(), %error, "a part of the history cannot be read");
                Ok(None)
            }
            Err(error) => Err(store_error(error)),
        }
    }
}

/// The objects of `before` that `after` does not name any more.
fn dropped_objects(before: &Manifest, after: &Manifest) -> Vec<DroppedObject> {
    let named: HashSet<&str> = after.data().map(|(name, _)| name).collect();
    let dropped = before.data().filter(|(name, _)| !named.contains(name));
    dropped.map(|(name, bytes)| DroppedObject { name: name.to_owned(), bytes }).collect()
}

//! Sleep: a database is written until the store has all of it, and its memory is given back.
//!
//! 1. *Save*: fuzzy checkpoints leave little to the one that is of one moment. Clients are served meanwhile.
//! 2. *Retire*, under all locks: if the store has everything, the database sleeps from here on. If clients have written on, it is
//!    saved again, and after a few times it stays awake.
//!
//! Step 1 gives way to clients, except when the sleep makes room or ends the process. Step 2 does not: clients wait for the locks,
//! and a command that arrives just after it waits for the end of the transition, to wake the database again. So objects that
//! the store needs no more are deleted in step 1.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_storage::stopwatch::Stopwatch;
use tracing::Instrument;

use super::{Extent, Writes};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::keyspace::{Contents, Graveyard};
use crate::lane::Waste;
use crate::pinned::AtMoment;
use crate::timings::SPANS;

/// Fuzzy checkpoints before the rest is written as of one moment.
const FUZZY_MAX: usize = 3;
/// Number of times that a database under writes is saved before it stays awake.
const SLEEP_ATTEMPTS: usize = 4;
/// Those of them in which splits and merges of shards get a turn between the two steps. Each of them is a change.
const SLEEP_ATTEMPTS_APART: usize = 2;

/// How a sleep has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SleepOutcome {
    FellAsleep,
    WasAsleep,
    /// Clients wrote to it all the while. Data written before the sleep was requested is in the store.
    InUse,
}

impl Database {
    /// Writes the changes, frees the memory and leaves the database asleep. Clients are served meanwhile, and wait for
    /// nothing: a database that they go on writing to stays awake.
    ///
    /// # Errors
    /// As [`Self::checkpoint`]; the database stays awake.
    pub async fn sleep(self: &Arc<Self>) -> Result<SleepOutcome> {
        let database = Arc::clone(self);
        let done = self.patient.drive(async move { database.sleep_at(Writes::Patient).await });
        let failed = || Error::Store(format!("the sleep of database {} failed", self.name()));
        done.await.unwrap_or_else(|undone| Err(undone.error(failed)))
    }

    /// The same at the priority of clients, who wait for the memory or for the end of the process.
    ///
    /// # Errors
    /// As [`Self::sleep`].
    pub async fn sleep_promptly(self: &Arc<Self>) -> Result<SleepOutcome> {
        let database = Arc::clone(self);
        let done = self.engine.background.spawn(async move { database.sleep_at(Writes::Prompt).await });
        done.await.map_err(|error| Error::Store(format!("the sleep of database {} failed: {error}", self.name())))?
    }

    async fn sleep_at(self: &Arc<Self>, writes: Writes) -> Result<SleepOutcome> {
        let span = tracing::info_span!(target: SPANS, "sleep", dormouse.database = self.name());
        self.fall_asleep(writes).instrument(span).await
    }

    async fn fall_asleep(self: &Arc<Self>, writes: Writes) -> Result<SleepOutcome> {
        let started = Stopwatch::start();
        for attempt in 0..SLEEP_ATTEMPTS {
            if attempt >= SLEEP_ATTEMPTS_APART {
                let database = Arc::clone(self);
                match self.promptly(async move { database.save_and_fall_asleep(started).await }).await?? {
                    SleepOutcome::InUse => continue,
                    outcome => return Ok(outcome),
                }
            }
            if !self.save(writes).await? {
                return Ok(SleepOutcome::WasAsleep);
            }
            let database = Arc::clone(self);
            if self.promptly(async move { database.fall_asleep_if_saved(started).await }).await?? {
                return Ok(SleepOutcome::FellAsleep);
            }
        }
        if self.is_closed() || self.is_leaving() {
            return self.fall_asleep_for_good(writes, started).await;
        }
        Ok(SleepOutcome::InUse)
    }

    /// Step 1. False: it sleeps.
    async fn save(self: &Arc<Self>, writes: Writes) -> Result<bool> {
        let _transition = self.transition.lock().await;
        let done = match self.check_promise().await {
            Ok(()) if !self.is_awake() => Ok(false),
            Ok(()) => self.write_all(writes, &mut None).await.map(|()| true),
            Err(error) => Err(error),
        };
        if matches!(done, Ok(true)) {
            self.collect_superseded().await;
        }
        self.stop_if_overtaken().await;
        done
    }

    /// Step 2. False: clients have written on.
    async fn fall_asleep_if_saved(self: &Arc<Self>, started: Stopwatch) -> Result<bool> {
        let _transition = self.transition.lock().await;
        self.check_promise().await?;
        let Some(contents) = self.retire_if_saved().await else { return Ok(false) };
        self.fell_asleep(contents, started);
        Ok(true)
    }

    /// Both steps, while no shard is split or merged.
    async fn save_and_fall_asleep(self: &Arc<Self>, started: Stopwatch) -> Result<SleepOutcome> {
        let _transition = self.transition.lock().await;
        self.check_promise().await?;
        if !self.is_awake() {
            return Ok(SleepOutcome::WasAsleep);
        }
        let done = self.write_all(Writes::Prompt, &mut None).await;
        let retired = if done.is_ok() { self.retire_if_saved().await } else { None };
        if done.is_ok() {
            self.collect_superseded().await;
        }
        self.stop_if_overtaken().await;
        done?;
        let Some(contents) = retired else { return Ok(SleepOutcome::InUse) };
        self.fell_asleep(contents, started);
        Ok(SleepOutcome::FellAsleep)
    }

    /// The same for a database that serves no client from here on, whatever was written.
    async fn fall_asleep_for_good(self: &Arc<Self>, writes: Writes, started: Stopwatch) -> Result<SleepOutcome> {
        let _transition = self.transition.lock().await;
        let done = self.checkpoint_with(Extent::Last, writes).await;
        if let Ok((_, Some(_))) = &done {
            self.collect_superseded().await;
        }
        self.stop_if_overtaken().await;
        let Some(contents) = done?.1 else { return Ok(SleepOutcome::WasAsleep) };
        self.fell_asleep(contents, started);
        Ok(SleepOutcome::FellAsleep)
    }

    /// Writes the meters of a database that sleeps, if the store has not the last ones.
    pub(crate) async fn save_meters(self: &Arc<Self>) -> Result<()> {
        let database = Arc::clone(self);
        let saved = self.promptly(async move {
            let _transition = database.transition.lock().await;
            if !database.lacks_meters.swap(false, Ordering::SeqCst) || database.is_awake() {
                return Ok(());
            }
            database.commit_meters().await
        });
        saved.await?
    }

    fn fell_asleep(&self, contents: Vec<Contents>, started: Stopwatch) {
        self.note_asleep();
        *self.manifest.lock() = None;
        *self.recovered.lock() = None;
        self.counters.sleeps.fetch_add(1, Ordering::Relaxed);
        let give_back = self.engine.give_back;
        // No client waits for it: freeing a gigabyte of small records takes a third of a second.
        let mut graveyard = Graveyard::default();
        contents.into_iter().for_each(|contents| contents.bury_in(&mut graveyard));
        self.lane.free_in_steps(graveyard.bytes(), Asleep { graveyard, give_back });
        self.counters.sleep_us_last.store(started.us(), Ordering::Relaxed);
    }

    /// Writes everything that was acknowledged until now: the newest manifest is the database as it was at one moment. Nothing
    /// is written where it sleeps. At that moment, under all locks, `at` is taken and run.
    pub(crate) async fn write_everything(self: &Arc<Self>, at: &mut Option<AtMoment>) -> Result<()> {
        self.write_all(Writes::Patient, at).await
    }

    async fn write_all(self: &Arc<Self>, writes: Writes, at: &mut Option<AtMoment>) -> Result<()> {
        for _ in 0..FUZZY_MAX {
            if self.checkpoint_with(Extent::Fuzzy, writes).await?.0.segments == 0 {
                break;
            }
        }
        // Under all locks, at most the few latest writes are left to encode.
        self.checkpoint_at(Extent::Moment, writes, at).await.map(drop)
    }

    /// Retires the database's contents if the store has all of it.
    async fn retire_if_saved(&self) -> Option<Vec<Contents>> {
        let before = self.whole_manifest().await.ok()?;
        let (topology, held) = self.hold_all().await?;
        if self.look(&topology, &held, before.as_deref()).needed {
            return None;
        }
        let contents = self.retire(&held);
        self.publish(None);
        self.waiters.fell_asleep();
        Some(contents)
    }
}

/// The memory of a database that has fallen asleep: when it is freed, the system gets it back.
struct Asleep {
    graveyard: Graveyard,
    give_back: fn(),
}

impl Waste for Asleep {
    fn free_some(&mut self) -> bool {
        let is_done = self.graveyard.free_some();
        if is_done {
            (self.give_back)();
        }
        is_done
    }
}

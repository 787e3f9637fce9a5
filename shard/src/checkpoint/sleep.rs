//! Sleep: a database is written until the store has all of it, and its memory is given back.
//!
//! Clients are served meanwhile. Fuzzy checkpoints leave little to the one that is of one moment; if clients write on all the
//! while, the database stays awake. A sleep gives way to clients, except one that makes room or ends the process.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_storage::stopwatch::Stopwatch;

use super::{Extent, Writes};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::keyspace::{Contents, Graveyard};
use crate::lane::Waste;
use crate::pinned::AtMoment;

/// Fuzzy checkpoints before the rest is written as of one moment.
const FUZZY_MAX: usize = 3;
/// Number of times that a database under writes is saved before it stays awake.
const SLEEP_ATTEMPTS: usize = 3;

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
        let _transition = self.transition.lock().await;
        let done = match self.check_promise().await {
            Ok(()) => self.fall_asleep(writes).await,
            Err(error) => Err(error),
        };
        self.stop_if_overtaken().await;
        done
    }

    async fn fall_asleep(self: &Arc<Self>, writes: Writes) -> Result<SleepOutcome> {
        if !self.is_awake() {
            return Ok(SleepOutcome::WasAsleep);
        }
        let started = Stopwatch::start();
        let mut retired = None;
        for _ in 0..SLEEP_ATTEMPTS {
            self.write_all(writes, &mut None).await?;
            retired = self.retire_if_saved().await;
            if retired.is_some() {
                break;
            }
        }
        if retired.is_none() && self.is_closed() {
            retired = self.checkpoint_with(Extent::Last, writes).await?.1;
        }
        let Some(contents) = retired else { return Ok(SleepOutcome::InUse) };
        self.collect_superseded().await;
        *self.manifest.lock() = None;
        *self.recovered.lock() = None;
        self.counters.sleeps.fetch_add(1, Ordering::Relaxed);
        let give_back = self.engine.give_back;
        // No client waits for it: freeing a gigabyte of small records takes a third of a second.
        let mut graveyard = Graveyard::default();
        contents.into_iter().for_each(|contents| contents.bury_in(&mut graveyard));
        self.lane.free_in_steps(graveyard.bytes(), Asleep { graveyard, give_back });
        self.counters.sleep_us_last.store(started.us(), Ordering::Relaxed);
        Ok(SleepOutcome::FellAsleep)
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

//! The usage ledger of the node: closed usage windows of all databases, on their way to the store and back.
//!
//! 1. Each database keeps its closed windows ([`crate::metering`]). Those of a minute are closed together.
//! 2. The keeper writes those of all databases as one object ([`dormouse_storage::ledger`]), then they are forgotten. While
//!    the store refuses, they wait. A database in which nothing happens has nothing to write, so a node that sleeps
//!    writes nothing.
//! 3. Once an hour the objects of the hour before are merged, and hours that are older than `--ledger-keep` are deleted.
//! 4. A database that is opened goes on with the meters in its manifest, which may be older than the ledger. So the node
//!    reads the last hours of the ledger when it starts, and remembers the last window of each database from then on:
//!    what the ledger has is taken out of those meters ([`Recorded`]).
//!
//! A crash loses the usage since the last write: that of the open minute, of the second until the keeper looks, and of a
//! write that is under way. It is never billed. An orderly end writes the open minute too; if the store refuses, the
//! manifests keep what waits.

mod followed;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dormouse_storage::ledger::{self, LedgerWindow, LedgerWriter};
use dormouse_storage::retry::Notice;
use dormouse_storage::store::{Store, StoreError};
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore};

use self::followed::Changes;
pub use self::followed::LedgerLook;
use crate::metering::{DatabaseMeters, Recorded, UsageWindow};
use crate::options::owner_and_branch;
use crate::saving::Attempts;

const SECOND_MS: u64 = 1000;
const HOUR_MS: u64 = 3_600_000;
pub const DAY_MS: u64 = 24 * HOUR_MS;
/// Hours of the ledger that are read at the start.
const HOURS_READ: usize = 2;
/// Longest periods that are read at once: by minutes, and by hours.
const MINUTES_DAYS_MAX: u64 = 7;
const HOURS_DAYS_MAX: u64 = 40;
/// Windows that deleted branches of one owner leave for one write; beyond that they are added up, so that a tenant who makes
/// and deletes branches cannot make the ledger large.
const LEFT_MAX: usize = 64;
/// Readers at the same time.
const READERS_MAX: usize = 2;

pub struct UsageLedger {
    store: Arc<Store>,
    clock: fn() -> u64,
    writer: Arc<AsyncMutex<LedgerWriter>>,
    memory: Mutex<Memory>,
    readers: Semaphore,
    changes: Changes,
}

#[derive(Default)]
struct Memory {
    /// The era and the end (Unix ms) of the last window of each database that was used since the hours that were read, or in
    /// the last hours.
    last: HashMap<Box<str>, (u32, u64)>,
    seen_from_ms: u64,
    /// Windows of databases that were deleted, and how many of the first were offered to the store: they do not change any
    /// more.
    left: Vec<UsageWindow>,
    left_offered: usize,
    attempts: Attempts,
    /// The hour whose objects are not merged yet, and those before it.
    merged_to: u64,
}

/// The fineness of what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageStep {
    /// The windows as they are.
    Minutes,
    /// The sums of the windows that ended in each hour.
    Hours,
}

impl UsageStep {
    /// Days of the longest period that is read at once.
    pub fn days_max(self) -> u64 {
        match self {
            Self::Minutes => MINUTES_DAYS_MAX,
            Self::Hours => HOURS_DAYS_MAX,
        }
    }
}

/// A period to read: the windows that end after `from_ms`, and not after `to_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    pub from_ms: u64,
    pub to_ms: u64,
    pub step: UsageStep,
}

impl Period {
    /// # Errors
    /// The problem with it.
    pub fn new(from_ms: u64, to_ms: u64, step: UsageStep) -> Result<Self, String> {
        let days_max = step.days_max();
        match to_ms.checked_sub(from_ms) {
            None | Some(0) => Err("invalid period: it must end after it begins".to_owned()),
            Some(length_ms) if length_ms > days_max * DAY_MS => {
                let name = if step == UsageStep::Minutes { "minutes" } else { "hours" };
                Err(format!("the period is too long: by {name} at most {days_max} days are read at once"))
            }
            Some(_) => Ok(Self { from_ms, to_ms, step }),
        }
    }

    fn has(&self, end_ms: u64) -> bool {
        self.from_ms < end_ms && end_ms <= self.to_ms
    }
}

impl UsageLedger {
    /// Reads what the store has of the last hours. `writer`: the number of this process.
    pub async fn open(store: &Arc<Store>, writer: u64, clock: fn() -> u64) -> Arc<Self> {
        let mut memory = Memory::default();
        match last_hours(store).await {
            Ok((windows, seen_from_ms)) => {
                memory.seen_from_ms = seen_from_ms;
                memory.note(&windows);
            }
            Err(error) => {
                tracing::error!(%error, "failed to read the usage ledger; usage that it may have is not billed again");
                memory.seen_from_ms = clock();
            }
        }
        Arc::new(Self {
            store: Arc::clone(store),
            clock,
            writer: Arc::new(AsyncMutex::new(LedgerWriter::new(store, writer))),
            memory: Mutex::new(memory),
            readers: Semaphore::new(READERS_MAX),
            changes: Changes::default(),
        })
    }

    /// What it has of a database that is being opened.
    pub fn recorded(&self, database: &str) -> Recorded {
        let memory = self.memory.lock();
        Recorded { last: memory.last.get(database).copied(), seen_from_ms: memory.seen_from_ms }
    }

    /// Takes the last windows of a database that was deleted. They are written with the next ones.
    pub fn take_leave(&self, meters: &DatabaseMeters) {
        let windows = meters.close_for_good((self.clock)());
        let mut memory = self.memory.lock();
        if let Some(last) = windows.last() {
            memory.last.insert(meters.database().into(), (last.era, last.end_ms));
        }
        windows.into_iter().for_each(|window| memory.keep_left(window));
    }

    /// Whether something is to be written now. Then the caller has the turn to do it.
    pub fn turn(&self, mut all: impl Iterator<Item = Arc<DatabaseMeters>>) -> Option<LedgerTurn> {
        let memory = self.memory.lock();
        let is_due = !memory.left.is_empty() || all.any(|meters| meters.is_due());
        if !is_due || !memory.attempts.is_due() {
            return None;
        }
        Arc::clone(&self.writer).try_lock_owned().ok().map(LedgerTurn)
    }

    /// Writes what is due, and tidies hours that are over. Failures are logged, and repeated later.
    pub async fn take_turn(&self, turn: LedgerTurn, all: &[Arc<DatabaseMeters>], keep_ms: Option<u64>) {
        let mut writer = turn.0;
        let written = self.write(&mut writer, all).await;
        let notice = self.memory.lock().attempts.note(written.is_ok());
        match (&written, notice) {
            (Ok(()), _) => self.tidy(&mut writer, keep_ms).await,
            (Err(_), Notice::Silent) => {}
            (Err(error), _) => tracing::error!(%error, "failed to write the usage ledger; its windows wait"),
        }
    }

    /// Writes the windows of databases that leave memory.
    ///
    /// # Errors
    /// When the store refuses. The windows wait.
    pub async fn record(&self, some: &[Arc<DatabaseMeters>]) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        self.write(&mut writer, some).await
    }

    async fn write(&self, writer: &mut LedgerWriter, some: &[Arc<DatabaseMeters>]) -> Result<(), StoreError> {
        let due: Vec<&Arc<DatabaseMeters>> = some.iter().filter(|meters| meters.is_due()).collect();
        let left = {
            let mut memory = self.memory.lock();
            memory.left_offered = memory.left.len();
            memory.left.clone()
        };
        let offered = due.iter().flat_map(|meters| meters.offer_windows());
        let windows: Vec<LedgerWindow> = offered.chain(left.iter().cloned()).map(stored).collect();
        if windows.is_empty() {
            return Ok(());
        }
        self.changes.will_write(windows.iter().map(|window| ledger::hour_of(window.end_s)));
        writer.write(&windows, (self.clock)() / SECOND_MS).await?;
        self.changes.wrote();
        due.iter().for_each(|meters| _ = meters.windows_taken());
        let mut memory = self.memory.lock();
        memory.left.drain(..left.len());
        memory.left_offered = 0;
        memory.note(&windows);
        Ok(())
    }

    async fn tidy(&self, writer: &mut LedgerWriter, keep_ms: Option<u64>) {
        let now_ms = (self.clock)();
        let hour = now_ms / HOUR_MS;
        let (first, to) = {
            let mut memory = self.memory.lock();
            // At first those that an earlier process has left. A clock that was set leaves hours as they are.
            let first = memory.merged_to.max(hour.saturating_sub(HOURS_READ as u64));
            // An hour whose end a reader has yet to see would come to it again as a whole.
            let to = (first..hour).find(|over| self.changes.is_unread(*over)).unwrap_or(hour);
            if std::mem::replace(&mut memory.merged_to, to) == to {
                return;
            }
            (first, to)
        };
        self.memory.lock().forget_before(now_ms.saturating_sub(HOURS_READ as u64 * HOUR_MS));
        for over in first..to {
            match writer.merge(over, now_ms / SECOND_MS).await {
                Ok(merged) => _ = merged.map(|merged| self.changes.has_merged(merged)),
                Err(error) => tracing::warn!(hour = over, %error, "failed to merge an hour of the usage ledger"),
            }
        }
        let Some(keep_ms) = keep_ms else { return };
        let kept = self.changes.forgettable(now_ms.saturating_sub(keep_ms) / HOUR_MS);
        if let Err(error) = writer.forget_before(kept).await {
            tracing::warn!(%error, "failed to delete old hours of the usage ledger");
        }
    }

    /// The windows of a database that are closed, in the order in which they ended.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn windows(&self, meters: &DatabaseMeters, period: Period) -> Result<Vec<UsageWindow>, StoreError> {
        // Before the store: the ledger may take them meanwhile.
        let waiting = meters.closed_windows();
        // It is never closed.
        let _place = self.readers.acquire().await;
        let first = ledger::hour_of(period.from_ms / SECOND_MS + 1);
        let last = ledger::hour_of(period.to_ms / SECOND_MS);
        let mut found: BTreeMap<(u64, u32, u64), UsageWindow> = BTreeMap::new();
        let mut add = |window: UsageWindow| {
            if !period.has(window.end_ms) {
                return;
            }
            match period.step {
                UsageStep::Minutes => {
                    found.entry((window.end_ms, window.era, window.start_ms)).or_insert(window);
                }
                UsageStep::Hours => {
                    let start_ms = (window.end_ms - 1) / HOUR_MS * HOUR_MS;
                    let end_ms = start_ms + HOUR_MS;
                    let hour = || UsageWindow::of(meters.database(), 0, start_ms, end_ms, &[]);
                    found.entry((end_ms, 0, start_ms)).or_insert_with(hour).add(&window);
                }
            }
        };
        for hour in ledger::hours(&self.store).await?.into_iter().filter(|hour| (first..=last).contains(hour)) {
            for window in ledger::read_hour(&self.store, hour, |name| name == meters.database()).await? {
                // Its answer may have been lost, so it still waits.
                let of = (window.era, window.start_s * SECOND_MS);
                if !waiting.iter().any(|window| (window.era, window.start_ms) == of) {
                    add(shown(&window));
                }
            }
        }
        waiting.into_iter().for_each(add);
        Ok(found.into_values().collect())
    }

    /// The usage of an owner and its branches by hours, by their names, in windows that ended after `from_ms`. `in_memory`:
    /// those of them that are, each with the moment until which its windows are wanted.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn hours_of_owner(
        &self,
        owner: &str,
        in_memory: &[(&DatabaseMeters, u64)],
        from_ms: u64,
    ) -> Result<BTreeMap<String, Vec<UsageWindow>>, StoreError> {
        // Before the store, as in `windows`.
        let mut waiting: Vec<UsageWindow> = in_memory.iter().flat_map(|(meters, _)| meters.closed_windows()).collect();
        waiting.extend(self.memory.lock().left.iter().filter(|window| owner_of(&window.database) == owner).cloned());
        let until_ms =
            |name: &str| in_memory.iter().find(|(meters, _)| meters.database() == name).map(|(_, until)| *until);
        let mut found: BTreeMap<String, BTreeMap<u64, UsageWindow>> = BTreeMap::new();
        let mut add = |window: UsageWindow| {
            if window.end_ms <= from_ms || until_ms(&window.database).is_some_and(|until_ms| window.end_ms > until_ms) {
                return;
            }
            let start_ms = (window.end_ms - 1) / HOUR_MS * HOUR_MS;
            let hours = found.entry(window.database.clone()).or_default();
            let hour = || UsageWindow::of(&window.database, 0, start_ms, start_ms + HOUR_MS, &[]);
            hours.entry(start_ms).or_insert_with(hour).add(&window);
        };
        // It is never closed.
        let _place = self.readers.acquire().await;
        let first = ledger::hour_of(from_ms / SECOND_MS + 1);
        for hour in ledger::hours(&self.store).await?.into_iter().filter(|hour| *hour >= first) {
            let is_wanted = |name: &str| owner_of(name) == owner || until_ms(name).is_some();
            for window in ledger::read_hour(&self.store, hour, is_wanted).await? {
                let of = (window.era, window.start_s * SECOND_MS);
                let waits =
                    |other: &UsageWindow| *other.database == *window.database && (other.era, other.start_ms) == of;
                if !waiting.iter().any(waits) {
                    add(shown(&window));
                }
            }
        }
        waiting.into_iter().for_each(add);
        Ok(found.into_iter().map(|(name, hours)| (name, hours.into_values().collect())).collect())
    }
}

/// The right to write to the ledger.
pub struct LedgerTurn(OwnedMutexGuard<LedgerWriter>);

impl Memory {
    fn keep_left(&mut self, window: UsageWindow) {
        let owner = |window: &UsageWindow| owner_of(&window.database).to_owned();
        let its = owner(&window);
        let mut others = self.left[self.left_offered..].iter_mut().filter(|other| owner(other) == its);
        match others.nth(LEFT_MAX - 1) {
            Some(last) => last.append(&window),
            None => self.left.push(window),
        }
    }

    /// Forgets databases that were not used since a moment: a tenant may make and delete any number of branches. It is as if the
    /// hours since then had just been read.
    fn forget_before(&mut self, since_ms: u64) {
        if since_ms > self.seen_from_ms {
            self.seen_from_ms = since_ms;
            self.last.retain(|_, (_, end_ms)| *end_ms > since_ms);
        }
    }

    fn note(&mut self, windows: &[LedgerWindow]) {
        for window in windows {
            let end = (window.era, window.end_s * SECOND_MS);
            let last = self.last.entry(window.database.clone()).or_insert(end);
            *last = (*last).max(end);
        }
    }
}

fn owner_of(database: &str) -> &str {
    owner_and_branch(database).map_or(database, |(owner, _)| owner)
}

/// Reads the last hours. Returns their windows, and the moment (Unix ms) after which no other window ended.
async fn last_hours(store: &Store) -> Result<(Vec<LedgerWindow>, u64), StoreError> {
    let hours = ledger::hours(store).await?;
    let (earlier, last) = hours.split_at(hours.len().saturating_sub(HOURS_READ));
    let mut windows = Vec::new();
    for hour in last {
        windows.extend(ledger::read_hour(store, *hour, |_| true).await?);
    }
    let seen_from_ms = last.first().filter(|_| !earlier.is_empty()).map_or(0, |hour| hour * HOUR_MS);
    Ok((windows, seen_from_ms))
}

fn stored(window: UsageWindow) -> LedgerWindow {
    LedgerWindow {
        database: window.database.as_str().into(),
        era: window.era,
        start_s: window.start_ms / SECOND_MS,
        end_s: window.end_ms / SECOND_MS,
        quantities: window.numbered(),
    }
}

/// A window of the ledger by this build's meters.
pub fn shown(window: &LedgerWindow) -> UsageWindow {
    let (start_ms, end_ms) = (window.start_s * SECOND_MS, window.end_s * SECOND_MS);
    UsageWindow::of(&window.database, window.era, start_ms, end_ms, &window.quantities)
}

#[cfg(test)]
mod tests;

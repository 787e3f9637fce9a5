//! Metering: exact usage of each database, at almost no cost where commands run.
//!
//! 1. A worker counts a batch of commands in a [`Batch`], a plain value of its own.
//! 2. At the end of the batch it commits the batch to its [`Writer`] for that database. A writer owns a block of
//!    counters that no other writer touches, on cache lines of its own. A count is therefore a load and a store, not a
//!    locked instruction, and no increment can be lost; the cells are atomic only so that others can read them.
//! 3. A reader ([`DatabaseMeters::totals`]) sums the blocks. When a writer is dropped, its block is folded into the
//!    permanent sum, under the lock that readers hold, so it is never seen twice, nor missed.
//!
//! Bytes are those on the connection, with the protocol's framing: of requests, replies and delivered messages, also of
//! requests that are refused or never arrive whole.
//!
//! Rare events (a sleep, a split, a change of the number of bytes) go to the [`DatabaseMeters`] directly.
//!
//! The steady clock measures durations, so that bytes over time are billed right when the system's clock is set; the
//! system's clock names the windows. A closed window is kept, and saved, until the [ledger](crate::ledger) has it.
//!
//! The clock is read once a batch. Its time is shared evenly among the batch's commands, except for those that were
//! timed by themselves because they were expected to be slow.

mod batch;
mod departed;
pub mod export;
mod histogram;
pub mod prices;
mod saved;
mod totals;
mod usage;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use self::batch::Block;
pub use self::batch::{Batch, Writer};
pub use self::departed::Departed;
pub use self::histogram::Histogram;
pub use self::saved::{Recorded, SavedMetersError};
use self::saved::{Saved, decode, encode};
pub use self::totals::{CommandTotals, METERS, Meter, Totals};
use self::usage::{ByteTime, Closed, Moment, OpenWindow};
pub use self::usage::{CLOSED_MAX, Event, UsageWindow, era_of};

/// Bytes that one request unit pays for.
pub const REQUEST_UNIT_BYTES: u64 = 1024;

/// The length of a usage window.
pub const WINDOW_MS: u64 = 60_000;

/// Returns the request units of a request that moved this many bytes.
pub fn request_units(bytes_in: u64, bytes_out: u64) -> u64 {
    (bytes_in + bytes_out).div_ceil(REQUEST_UNIT_BYTES).max(1)
}

/// Formats Unix milliseconds in UTC, down to the second.
pub fn rfc3339(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(chrono::DateTime::from_timestamp_millis);
    time.map_or_else(String::new, |time| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}

/// Counted commands, by their index in the command table.
#[derive(Debug)]
pub struct CountedCommands {
    pub names: Vec<&'static str>,
}

/// The meters of a database at one moment.
#[derive(Debug, Clone, Copy)]
pub struct MeterMark {
    /// Unix milliseconds.
    pub at_ms: u64,
    meters: [u128; METERS],
}

/// The meters of one database, shared by all workers.
#[derive(Debug)]
pub struct DatabaseMeters {
    database: String,
    /// Length of the command table.
    commands: usize,
    /// Reads a clock that is never set, in milliseconds.
    steady_ms: Option<fn() -> u64>,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    /// Counts of finished writers, rare events, and restored counts.
    folded: Totals,
    /// CPU time counted by finished writers, in nanoseconds, so that many short batches add up.
    folded_cpu_ns: u128,
    blocks: Vec<Arc<Block>>,
    memory: ByteTime,
    store: ByteTime,
    window: OpenWindow,
    closed: Closed,
    /// Totals when statistics were last reset.
    statistics_from: Totals,
    /// By command: counts of finished writers, and counts when statistics were last reset.
    histograms: BTreeMap<usize, Histogram>,
    histograms_from: BTreeMap<usize, Histogram>,
}

impl DatabaseMeters {
    /// Creates meters at zero. `commands` is the length of the command table. `recorded`: what the ledger has of an earlier database of that name.
    pub fn new(database: &str, commands: usize, now_ms: u64, recorded: &Recorded) -> Arc<DatabaseMeters> {
        let totals = Totals::default();
        let mut window = OpenWindow::new(WINDOW_MS, now_ms, &totals);
        if let Some(last) = recorded.last.filter(|last| (window.era, window.start_ms) < *last) {
            (window.era, window.start_ms) = last;
        }
        let store = ByteTime { at: Moment { unix_ms: now_ms, steady_ms: None }, ..ByteTime::default() };
        let saved = Saved { totals, window, store, closed: Closed::default(), is_of_ledger: true };
        Arc::new(DatabaseMeters::from_saved(database, commands, now_ms, saved))
    }

    /// Makes the meters measure by a clock that is never set.
    pub fn measured_by(meters: Arc<DatabaseMeters>, steady_ms: fn() -> u64) -> Arc<DatabaseMeters> {
        let mut meters = meters;
        if let Some(meters) = Arc::get_mut(&mut meters) {
            meters.steady_ms = Some(steady_ms);
        }
        meters
    }

    /// Continues from the output of [`DatabaseMeters::save`]. Data stayed in the store in between, so its bytes are
    /// counted from the moment of the save on. `names` is the command table's: the name at each index. Windows that the
    /// ledger has are left out.
    pub fn restore(
        database: &str,
        saved: &[u8],
        names: &[&str],
        now_ms: u64,
        recorded: &Recorded,
    ) -> Result<Arc<DatabaseMeters>, SavedMetersError> {
        Ok(Arc::new(DatabaseMeters::from_saved(database, names.len(), now_ms, decode(saved, names, recorded)?)))
    }

    fn from_saved(database: &str, commands: usize, now_ms: u64, saved: Saved) -> DatabaseMeters {
        let counts = Counts {
            statistics_from: saved.totals.clone(),
            folded: saved.totals,
            folded_cpu_ns: 0,
            blocks: Vec::new(),
            memory: ByteTime { at: Moment { unix_ms: now_ms, steady_ms: None }, ..ByteTime::default() },
            store: saved.store,
            window: saved.window,
            closed: saved.closed,
            histograms: BTreeMap::new(),
            histograms_from: BTreeMap::new(),
        };
        DatabaseMeters { database: database.to_string(), commands, steady_ms: None, counts: Mutex::new(counts) }
    }

    fn moment(&self, unix_ms: u64) -> Moment {
        Moment { unix_ms, steady_ms: self.steady_ms.map(|steady_ms| steady_ms()) }
    }

    /// Saves all counts, for [`DatabaseMeters::restore`] after a sleep or a restart.
    pub fn save(&self, names: &[&str], now_ms: u64) -> Vec<u8> {
        let mut counts = self.counts.lock();
        let totals = counts.totals(self.moment(now_ms));
        let (window, closed) = (counts.window.clone(), counts.closed.clone());
        encode(&Saved { totals, window, store: counts.store, closed, is_of_ledger: true }, names)
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    /// Creates a writer for one worker. Its counts are kept when it is dropped.
    pub fn writer(self: &Arc<Self>) -> Writer {
        let block = Arc::new(Block::new(self.commands));
        self.counts.lock().blocks.push(block.clone());
        Writer::new(self.clone(), block)
    }

    /// Counts an event outside of batches.
    pub fn count(&self, meter: Meter, more: u64) {
        self.counts.lock().folded[meter] += u128::from(more);
    }

    /// Sets the memory that the data takes from now on.
    pub fn observe_memory(&self, now_ms: u64, bytes: u64) {
        self.counts.lock().memory.observe(self.moment(now_ms), bytes);
    }

    /// Sets the bytes that the store holds from now on.
    pub fn observe_store(&self, now_ms: u64, bytes: u64) {
        self.counts.lock().store.observe(self.moment(now_ms), bytes);
    }

    /// Every meter since the database was created.
    pub fn totals(&self, now_ms: u64) -> Totals {
        self.counts.lock().totals(self.moment(now_ms))
    }

    /// Every meter since the process started or statistics were reset, as `INFO` shows them.
    pub fn statistics(&self, now_ms: u64) -> Totals {
        let mut counts = self.counts.lock();
        counts.totals(self.moment(now_ms)).since(&counts.statistics_from)
    }

    /// Starts statistics from zero again (`CONFIG RESETSTAT`). Billed counts are kept.
    pub fn reset_statistics(&self, now_ms: u64) {
        let mut counts = self.counts.lock();
        counts.statistics_from = counts.totals(self.moment(now_ms));
        counts.histograms_from = counts.all_histograms();
    }

    /// Durations of each command's calls, by its index in the table, since the process started or statistics were
    /// reset.
    pub fn histograms(&self) -> BTreeMap<usize, Histogram> {
        let counts = self.counts.lock();
        let mut histograms = counts.all_histograms();
        for (command, earlier) in &counts.histograms_from {
            if let Some(histogram) = histograms.get_mut(command) {
                *histogram = histogram.since(earlier);
            }
        }
        histograms
    }

    /// Usage so far in the open window.
    pub fn usage(&self, now_ms: u64) -> UsageWindow {
        let mut counts = self.counts.lock();
        let totals = counts.totals(self.moment(now_ms));
        counts.window.window(&self.database, &totals)
    }

    /// The closed windows that the ledger does not have yet, the oldest first.
    pub fn closed_windows(&self) -> Vec<UsageWindow> {
        self.counts.lock().closed.windows(&self.database)
    }

    /// Whether the ledger should have some of them now.
    pub fn is_due(&self) -> bool {
        self.counts.lock().closed.is_due()
    }

    /// Whether everything that was used is in the ledger.
    pub fn is_settled(&self, now_ms: u64) -> bool {
        let mut counts = self.counts.lock();
        let totals = counts.totals(self.moment(now_ms));
        !counts.closed.is_due() && counts.window.is_idle(&totals)
    }

    /// The closed windows to be written to the ledger. They stay the same until [`Self::windows_taken`].
    pub fn offer_windows(&self) -> Vec<UsageWindow> {
        self.counts.lock().closed.offer(&self.database)
    }

    /// Forgets the windows that were offered. Returns the era and the end (Unix ms) of the last of them.
    pub fn windows_taken(&self) -> Option<(u32, u64)> {
        self.counts.lock().closed.taken()
    }

    /// The meters now.
    pub fn mark(&self, now_ms: u64) -> MeterMark {
        MeterMark { at_ms: now_ms, meters: self.totals(now_ms).meters }
    }

    /// The meters at the beginning of the open window, which is where the closed ones end.
    pub fn mark_of_window(&self, now_ms: u64) -> MeterMark {
        let counts = self.counts.lock();
        MeterMark { at_ms: counts.window.start_ms.min(now_ms), meters: counts.window.at_start }
    }

    /// What was used since a mark.
    pub fn used_since(&self, mark: &MeterMark, now_ms: u64) -> UsageWindow {
        let totals = self.totals(now_ms);
        let more: Vec<(u32, u128)> =
            (0..).zip(totals.meters.iter().zip(mark.meters).map(|(now, before)| now.saturating_sub(before))).collect();
        UsageWindow::of(&self.database, 0, mark.at_ms, now_ms, &more)
    }

    /// Closes the open window, whose database is deleted. Returns everything that the ledger does not have yet.
    pub fn close_for_good(&self, now_ms: u64) -> Vec<UsageWindow> {
        let mut counts = self.counts.lock();
        let totals = counts.totals(self.moment(now_ms));
        let window = counts.window.close_early(&self.database, now_ms, &totals);
        counts.closed.keep(&window);
        counts.closed.windows(&self.database)
    }

    /// Closes the open window before its time is over, if it has counted anything, for a process that ends.
    pub fn close_window_early(&self, now_ms: u64) {
        let mut counts = self.counts.lock();
        let totals = counts.totals(self.moment(now_ms));
        if !counts.window.is_idle(&totals) {
            let window = counts.window.close_early(&self.database, now_ms, &totals);
            counts.closed.keep(&window);
        }
    }

    /// Closes the open window if its time is over, and opens the next. To be called every few seconds: events between a
    /// window's end and this call still count for the old window.
    pub fn close_window(&self, now_ms: u64) -> Option<UsageWindow> {
        let mut counts = self.counts.lock();
        if !counts.window.is_over(now_ms) {
            return None;
        }
        let totals = counts.totals(self.moment(now_ms));
        let window = counts.window.close(&self.database, WINDOW_MS, now_ms, &totals);
        counts.closed.keep(&window);
        Some(window)
    }

    fn fold(&self, block: &Arc<Block>) {
        let mut counts = self.counts.lock();
        block.add_to(&mut counts.folded);
        block.histograms().for_each(|(command, more)| counts.histograms.entry(command).or_default().add(&more));
        counts.histograms.retain(|_, histogram| histogram.calls() > 0);
        counts.folded_cpu_ns += block.cpu_ns();
        counts.blocks.retain(|other| !Arc::ptr_eq(other, block));
    }
}

impl Counts {
    fn all_histograms(&self) -> BTreeMap<usize, Histogram> {
        let mut histograms = self.histograms.clone();
        for (command, more) in self.blocks.iter().flat_map(|block| block.histograms()) {
            if more.calls() > 0 {
                histograms.entry(command).or_default().add(&more);
            }
        }
        histograms
    }

    fn totals(&mut self, now: Moment) -> Totals {
        for (time, meter) in
            [(&mut self.memory, Meter::MemoryByteMilliseconds), (&mut self.store, Meter::StoreByteMilliseconds)]
        {
            time.advance(now);
            self.folded[meter] = self.folded[meter].saturating_add(std::mem::take(&mut time.byte_milliseconds));
        }
        let mut totals = self.folded.clone();
        for block in &self.blocks {
            block.add_to(&mut totals);
        }
        let cpu_ns = self.folded_cpu_ns + self.blocks.iter().map(|block| block.cpu_ns()).sum::<u128>();
        totals[Meter::CpuMicroseconds] += cpu_ns / 1000;
        totals
    }
}

#[cfg(test)]
mod tests;

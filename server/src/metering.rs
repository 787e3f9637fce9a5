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
//! system's clock names the windows. A closed window is kept, and saved, until it is taken.
//!
//! The clock is read once a batch. Its time is shared evenly among the batch's commands, except for those that were
//! timed by themselves because they were expected to be slow.

mod batch;
mod histogram;
mod saved;
mod totals;
mod usage;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use self::batch::Block;
pub use self::batch::{Batch, Writer};
pub use self::histogram::Histogram;
pub use self::saved::SavedMetersError;
use self::saved::{Saved, decode, encode};
pub use self::totals::{CommandTotals, METERS, Meter, Totals};
use self::usage::{ByteTime, Closed, Moment, OpenWindow};
pub use self::usage::{CLOSED_MAX, Event, UsageWindow};

/// Bytes that one request unit pays for.
pub const REQUEST_UNIT_BYTES: u64 = 1024;

/// The length of a usage window.
pub const WINDOW_MS: u64 = 3_600_000;

/// Returns the request units of a request that moved this many bytes.
pub fn request_units(bytes_in: u64, bytes_out: u64) -> u64 {
    (bytes_in + bytes_out).div_ceil(REQUEST_UNIT_BYTES).max(1)
}

/// Counted commands, by their index in the command table.
#[derive(Debug)]
pub struct CountedCommands {
    pub names: Vec<&'static str>,
}

/// The meters of one database, shared by all workers.
#[derive(Debug)]
pub struct DatabaseMeters {
    database: String,
    /// Length of the command table.
    commands: usize,
    /// Reads a clock that is never set, in milliseconds.
    steady_ms: Option<fn() -> u64>,
    ledger: Mutex<Ledger>,
}

#[derive(Debug)]
struct Ledger {
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
    /// Creates meters at zero. `commands` is the length of the command table.
    pub fn new(database: &str, commands: usize, now_ms: u64) -> Arc<DatabaseMeters> {
        let totals = Totals::default();
        let window = OpenWindow::new(WINDOW_MS, now_ms, &totals);
        let store = ByteTime { at: Moment { unix_ms: now_ms, steady_ms: None }, ..ByteTime::default() };
        let saved = Saved { totals, window, store, closed: Closed::default() };
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
    /// counted from the moment of the save on. `names` is the command table's: the name at each index.
    pub fn restore(
        database: &str,
        saved: &[u8],
        names: &[&str],
        now_ms: u64,
    ) -> Result<Arc<DatabaseMeters>, SavedMetersError> {
        Ok(Arc::new(DatabaseMeters::from_saved(database, names.len(), now_ms, decode(saved, names)?)))
    }

    fn from_saved(database: &str, commands: usize, now_ms: u64, saved: Saved) -> DatabaseMeters {
        let ledger = Ledger {
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
        DatabaseMeters { database: database.to_string(), commands, steady_ms: None, ledger: Mutex::new(ledger) }
    }

    fn moment(&self, unix_ms: u64) -> Moment {
        Moment { unix_ms, steady_ms: self.steady_ms.map(|steady_ms| steady_ms()) }
    }

    /// Saves all counts, for [`DatabaseMeters::restore`] after a sleep or a restart.
    pub fn save(&self, names: &[&str], now_ms: u64) -> Vec<u8> {
        let mut ledger = self.ledger.lock();
        let totals = ledger.totals(self.moment(now_ms));
        let (window, closed) = (ledger.window.clone(), ledger.closed.clone());
        encode(&Saved { totals, window, store: ledger.store, closed }, names)
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    /// Creates a writer for one worker. Its counts are kept when it is dropped.
    pub fn writer(self: &Arc<Self>) -> Writer {
        let block = Arc::new(Block::new(self.commands));
        self.ledger.lock().blocks.push(block.clone());
        Writer::new(self.clone(), block)
    }

    /// Counts an event outside of batches.
    pub fn count(&self, meter: Meter, more: u64) {
        self.ledger.lock().folded[meter] += u128::from(more);
    }

    /// Sets the memory that the data takes from now on.
    pub fn observe_memory(&self, now_ms: u64, bytes: u64) {
        self.ledger.lock().memory.observe(self.moment(now_ms), bytes);
    }

    /// Sets the bytes that the store holds from now on.
    pub fn observe_store(&self, now_ms: u64, bytes: u64) {
        self.ledger.lock().store.observe(self.moment(now_ms), bytes);
    }

    /// Every meter since the database was created.
    pub fn totals(&self, now_ms: u64) -> Totals {
        self.ledger.lock().totals(self.moment(now_ms))
    }

    /// Every meter since the process started or statistics were reset, as `INFO` shows them.
    pub fn statistics(&self, now_ms: u64) -> Totals {
        let mut ledger = self.ledger.lock();
        ledger.totals(self.moment(now_ms)).since(&ledger.statistics_from)
    }

    /// Starts statistics from zero again (`CONFIG RESETSTAT`). Billed counts are kept.
    pub fn reset_statistics(&self, now_ms: u64) {
        let mut ledger = self.ledger.lock();
        ledger.statistics_from = ledger.totals(self.moment(now_ms));
        ledger.histograms_from = ledger.all_histograms();
    }

    /// Durations of each command's calls, by its index in the table, since the process started or statistics were
    /// reset.
    pub fn histograms(&self) -> BTreeMap<usize, Histogram> {
        let ledger = self.ledger.lock();
        let mut histograms = ledger.all_histograms();
        for (command, earlier) in &ledger.histograms_from {
            if let Some(histogram) = histograms.get_mut(command) {
                *histogram = histogram.since(earlier);
            }
        }
        histograms
    }

    /// Usage so far in the open window.
    pub fn usage(&self, now_ms: u64) -> UsageWindow {
        let mut ledger = self.ledger.lock();
        let totals = ledger.totals(self.moment(now_ms));
        ledger.window.window(&self.database, &totals)
    }

    /// The closed windows that were not taken yet, the oldest first.
    pub fn closed_windows(&self) -> Vec<UsageWindow> {
        self.ledger.lock().closed.windows(&self.database)
    }

    /// Forgets the closed windows that end by `end_ms`, as they were taken. Returns their number.
    pub fn forget_windows(&self, end_ms: u64) -> usize {
        self.ledger.lock().closed.forget(end_ms)
    }

    /// Closes the open window if its time is over, and opens the next. To be called every few seconds: events between a
    /// window's end and this call still count for the old window.
    pub fn close_window(&self, now_ms: u64) -> Option<UsageWindow> {
        let mut ledger = self.ledger.lock();
        if !ledger.window.is_over(now_ms) {
            return None;
        }
        let totals = ledger.totals(self.moment(now_ms));
        let window = ledger.window.closed(&self.database, now_ms, &totals);
        ledger.closed.keep(&window);
        ledger.window = OpenWindow::new(WINDOW_MS, now_ms, &totals);
        Some(window)
    }

    fn fold(&self, block: &Arc<Block>) {
        let mut ledger = self.ledger.lock();
        block.add_to(&mut ledger.folded);
        block.histograms().for_each(|(command, more)| ledger.histograms.entry(command).or_default().add(&more));
        ledger.histograms.retain(|_, histogram| histogram.calls() > 0);
        ledger.folded_cpu_ns += block.cpu_ns();
        ledger.blocks.retain(|other| !Arc::ptr_eq(other, block));
    }
}

impl Ledger {
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

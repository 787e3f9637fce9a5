//! The hot half of metering: counts of a worker while commands run.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use dormouse_shard::keyspace::scripts::CalledCommand;

use super::histogram::{Cells, Histogram, bump, step_of};
use super::totals::{CommandTotals, METERS, Meter, Totals};
use super::{DatabaseMeters, request_units};

/// Counts of one worker for one database during a batch of commands. Plain numbers: counting is adding.
#[derive(Debug, Default)]
pub struct Batch {
    requests: u64,
    request_units: u64,
    /// Bytes taken from the connection.
    pub bytes_in: u64,
    bytes_out: u64,
    pub keyspace_hits: u64,
    pub keyspace_misses: u64,
    pub expired_keys: u64,
    pub evicted_keys: u64,
    /// The part of the counts above that is not billed.
    unbilled: Traffic,
    /// The different commands of the batch. A pipeline mostly repeats one or two. The allocation is reused for every
    /// batch.
    commands: Vec<CommandCount>,
    /// Index there of the command that was counted last.
    last: usize,
    /// The calls that were timed by themselves, as the command, its step in the histogram, and their number.
    timed: Vec<(usize, usize, u64)>,
    /// Time of the calls of scripts, which is a part of the scripts' time.
    nested_ns: u64,
}

/// Requests, and what they move.
#[derive(Debug, Default)]
struct Traffic {
    requests: u64,
    request_units: u64,
    bytes_in: u64,
    bytes_out: u64,
}

#[derive(Debug, Default)]
struct CommandCount {
    command: usize,
    totals: CommandTotals,
    /// Number of calls that were timed by themselves; `totals.nanoseconds` is their time.
    timed: u64,
    /// The step of the other calls.
    step: usize,
}

impl Batch {
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Counts a command that ran: its index in the command table, the bytes of its request and of its reply. Those of
    /// the request are added to [`Self::bytes_in`] by the caller, which knows them for many requests at once.
    #[inline]
    pub fn request(&mut self, command: usize, bytes_in: u64, bytes_out: u64) {
        self.queued(bytes_in, bytes_out);
        self.called(command);
    }

    /// Counts a request whose command runs later, if at all: in a transaction.
    #[inline]
    pub fn queued(&mut self, bytes_in: u64, bytes_out: u64) {
        self.requests += 1;
        self.refused(bytes_in, bytes_out);
    }

    /// Counts bytes that moved for no command: of a refused request, or of one that never arrived whole. They take
    /// units, but are no request.
    #[inline]
    pub fn refused(&mut self, bytes_in: u64, bytes_out: u64) {
        self.request_units += request_units(bytes_in, bytes_out);
        self.bytes_out += bytes_out;
    }

    /// Marks a request that [`Batch::request`] or [`Batch::queued`] has counted as not billed.
    #[inline]
    pub fn unbill(&mut self, command: usize, bytes_in: u64, bytes_out: u64) {
        self.unbilled.requests += 1;
        self.unbill_refused(command, bytes_in, bytes_out);
    }

    /// The same for one that [`Batch::refused`] has counted.
    pub fn unbill_refused(&mut self, command: usize, bytes_in: u64, bytes_out: u64) {
        self.unbilled.request_units += request_units(bytes_in, bytes_out);
        self.unbilled.bytes_in += bytes_in;
        self.unbilled.bytes_out += bytes_out;
        self.command(command).totals.unbilled += 1;
    }

    /// The same for bytes that [`Batch::moved`] has counted.
    pub fn unbill_moved(&mut self, bytes_in: u64, bytes_out: u64) {
        self.unbilled.bytes_in += bytes_in;
        self.unbilled.bytes_out += bytes_out;
    }

    /// Marks everything that was counted so far as not billed.
    pub fn unbill_all(&mut self) {
        let Batch { requests, request_units, bytes_in, bytes_out, .. } = *self;
        self.unbilled = Traffic { requests, request_units, bytes_in, bytes_out };
    }

    /// Whether a request or a message in it is billed.
    pub fn is_billed(&self) -> bool {
        self.request_units > self.unbilled.request_units
    }

    /// Counts messages of other clients that were delivered to this one.
    pub fn delivered(&mut self, units: u64, bytes: u64) {
        self.request_units += units;
        self.bytes_out += bytes;
    }

    /// Counts bytes of a connection that are not a part of one request: those of HTTP.
    pub fn moved(&mut self, bytes_in: u64, bytes_out: u64) {
        self.bytes_in += bytes_in;
        self.bytes_out += bytes_out;
    }

    /// Forgets the bytes, not the units: they are counted where they are read and written.
    pub fn forget_bytes(&mut self) {
        (self.bytes_in, self.bytes_out) = (0, 0);
        (self.unbilled.bytes_in, self.unbilled.bytes_out) = (0, 0);
    }

    /// Counts the command of such a request when it runs.
    #[inline]
    pub fn called(&mut self, command: usize) {
        self.command(command).totals.calls += 1;
    }

    /// Counts an error reply of a command that [`Batch::request`] counts too.
    pub fn failed(&mut self, command: usize) {
        self.command(command).totals.failed += 1;
    }

    /// Counts a command that was refused before it ran; [`Self::refused`] counts its bytes.
    pub fn rejected(&mut self, command: usize) {
        self.command(command).totals.rejected += 1;
    }

    /// Counts the time of a single call that [`Batch::request`] counts too.
    pub fn timed(&mut self, command: usize, nanoseconds: u64) {
        let count = self.command(command);
        count.totals.nanoseconds += nanoseconds;
        count.timed += 1;
        self.timed.push((command, step_of(nanoseconds), 1));
    }

    /// Counts the calls of one command by a script. Their time is a part of the script's.
    pub fn called_by_script(&mut self, counts: &CalledCommand) {
        let CalledCommand { command, calls, nanoseconds, rejected, failed } = *counts;
        let totals = &mut self.command(command).totals;
        totals.calls += calls;
        totals.rejected += rejected;
        totals.failed += failed;
        totals.nanoseconds += nanoseconds;
        self.command(command).timed += calls;
        self.nested_ns += nanoseconds;
        if let Some(each) = nanoseconds.checked_div(calls) {
            self.timed.push((command, step_of(each), calls));
        }
    }

    /// Number of calls that were not timed by themselves.
    pub fn untimed(&self) -> u64 {
        self.commands.iter().map(CommandCount::untimed).sum()
    }

    /// Time of the calls that were timed by themselves.
    pub fn timed_ns(&self) -> u64 {
        self.commands.iter().map(|count| count.totals.nanoseconds).sum::<u64>().saturating_sub(self.nested_ns)
    }

    /// Requests counted since the last commit.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    #[inline]
    fn command(&mut self, command: usize) -> &mut CommandCount {
        if self.commands.get(self.last).is_none_or(|count| count.command != command) {
            self.find(command);
        }
        &mut self.commands[self.last]
    }

    #[cold]
    fn find(&mut self, command: usize) {
        let found = self.commands.iter().position(|count| count.command == command);
        self.last = found.unwrap_or_else(|| {
            self.commands.push(CommandCount { command, ..CommandCount::default() });
            self.commands.len() - 1
        });
    }

    /// Shares the time beyond that of the timed calls evenly among the others. The shares' sum is the batch's time.
    fn share_time(&mut self, elapsed_ns: u64) -> u64 {
        let timed_ns = self.timed_ns();
        let mut calls: u64 = self.commands.iter().map(CommandCount::untimed).sum();
        let mut left = elapsed_ns.saturating_sub(timed_ns);
        for count in self.commands.iter_mut().filter(|count| count.untimed() > 0) {
            let share = match count.untimed() {
                // Mostly the batch has one kind of command; dividing 128 bits would cost more than the rest of the
                // batch.
                untimed if untimed == calls => left,
                untimed => {
                    let share = u128::from(left) * u128::from(untimed) / u128::from(calls);
                    u64::try_from(share).expect("a share is at most the whole")
                }
            };
            calls -= count.untimed();
            left -= share;
            count.totals.nanoseconds += share;
            count.step = step_of(share / count.untimed());
        }
        elapsed_ns.max(timed_ns)
    }
}

impl CommandCount {
    fn untimed(&self) -> u64 {
        self.totals.calls.saturating_sub(self.timed)
    }
}

/// One worker's access to the meters of one database. It can move to another thread, but not be shared: each block of
/// counters has one writer.
#[derive(Debug)]
pub struct Writer {
    meters: Arc<DatabaseMeters>,
    block: Arc<Block>,
    one_thread: PhantomData<Cell<()>>,
}

impl Writer {
    pub(super) fn new(meters: Arc<DatabaseMeters>, block: Arc<Block>) -> Writer {
        Writer { meters, block, one_thread: PhantomData }
    }

    pub fn meters(&self) -> &Arc<DatabaseMeters> {
        &self.meters
    }

    /// Whether it counts for exactly these meters.
    pub fn counts_for(&self, meters: &Arc<DatabaseMeters>) -> bool {
        Arc::ptr_eq(&self.meters, meters)
    }

    /// Adds a batch that took `elapsed_ns`, and empties it for the next.
    pub fn commit(&self, batch: &mut Batch, elapsed_ns: u64) {
        let cpu_ns = batch.share_time(elapsed_ns);
        self.add(batch, cpu_ns);
    }

    /// The same for a batch that had a processor for `cpu_ns` of the time that it took.
    pub fn commit_billed(&self, batch: &mut Batch, elapsed_ns: u64, cpu_ns: u64) {
        batch.share_time(elapsed_ns);
        self.add(batch, cpu_ns);
    }

    fn add(&self, batch: &mut Batch, cpu_ns: u64) {
        let block = &*self.block;
        for (meter, more) in [
            (Meter::Requests, batch.requests),
            (Meter::RequestUnits, batch.request_units),
            (Meter::BytesIn, batch.bytes_in),
            (Meter::BytesOut, batch.bytes_out),
            (Meter::CpuMicroseconds, cpu_ns),
            (Meter::KeyspaceHits, batch.keyspace_hits),
            (Meter::KeyspaceMisses, batch.keyspace_misses),
            (Meter::ExpiredKeys, batch.expired_keys),
            (Meter::EvictedKeys, batch.evicted_keys),
            (Meter::UnbilledRequests, batch.unbilled.requests),
            (Meter::UnbilledRequestUnits, batch.unbilled.request_units),
            (Meter::UnbilledBytesIn, batch.unbilled.bytes_in),
            (Meter::UnbilledBytesOut, batch.unbilled.bytes_out),
        ] {
            if more > 0 {
                bump(&block.meters[meter as usize], more);
            }
        }
        for count in &batch.commands {
            block.count_command(count);
        }
        for &(command, step, calls) in &batch.timed {
            block.count_timed(command, step, calls);
        }
        let (mut commands, mut timed) = (std::mem::take(&mut batch.commands), std::mem::take(&mut batch.timed));
        commands.clear();
        timed.clear();
        *batch = Batch { commands, timed, ..Batch::default() };
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.meters.fold(&self.block);
    }
}

/// Counters of one writer. They are allocated 16 commands at a time: most databases use few commands.
#[derive(Debug)]
#[repr(align(128))] // two cache lines, since processors fetch them in pairs
pub(super) struct Block {
    /// By `Meter`; the CPU time is in nanoseconds.
    meters: [AtomicU64; METERS],
    commands: Box<[OnceLock<Box<Page>>]>,
}

const PAGE: usize = 16;

type Page = [CommandCells; PAGE];

#[derive(Debug, Default)]
struct CommandCells {
    calls: AtomicU64,
    nanoseconds: AtomicU64,
    rejected: AtomicU64,
    failed: AtomicU64,
    unbilled: AtomicU64,
    times: Cells,
}

impl Block {
    pub fn new(commands: usize) -> Block {
        let commands = (0..commands.div_ceil(PAGE)).map(|_| OnceLock::new()).collect();
        Block { meters: Default::default(), commands }
    }

    fn cells(&self, command: usize) -> Option<&CommandCells> {
        debug_assert!(command / PAGE < self.commands.len(), "command {command} is not in the table");
        Some(&self.commands.get(command / PAGE)?.get_or_init(Box::default)[command % PAGE])
    }

    fn count_timed(&self, command: usize, step: usize, calls: u64) {
        if let Some(cells) = self.cells(command) {
            cells.times.count(step, calls);
        }
    }

    fn count_command(&self, count: &CommandCount) {
        let Some(cells) = self.cells(count.command) else { return };
        let more = &count.totals;
        cells.times.count(count.step, count.untimed());
        bump(&cells.calls, more.calls);
        bump(&cells.nanoseconds, more.nanoseconds);
        if more.rejected | more.failed | more.unbilled != 0 {
            bump(&cells.rejected, more.rejected);
            bump(&cells.failed, more.failed);
            bump(&cells.unbilled, more.unbilled);
        }
    }

    /// Histograms of the commands that were called.
    pub fn histograms(&self) -> impl Iterator<Item = (usize, Histogram)> {
        let pages = self.commands.iter().enumerate().filter_map(|(index, page)| Some((index, page.get()?)));
        pages.flat_map(|(index, page)| {
            page.iter().enumerate().map(move |(offset, cells)| (index * PAGE + offset, cells.times.read()))
        })
    }

    pub fn cpu_ns(&self) -> u128 {
        u128::from(self.meters[Meter::CpuMicroseconds as usize].load(Ordering::Relaxed))
    }

    /// Adds everything but the CPU time, which has another unit here.
    pub fn add_to(&self, totals: &mut Totals) {
        for meter in Meter::ALL.into_iter().filter(|meter| *meter != Meter::CpuMicroseconds) {
            totals[meter] += u128::from(self.meters[meter as usize].load(Ordering::Relaxed));
        }
        for (index, page) in self.commands.iter().enumerate() {
            for (offset, cells) in page.get().into_iter().flat_map(|page| page.iter().enumerate()) {
                let command = CommandTotals {
                    calls: cells.calls.load(Ordering::Relaxed),
                    nanoseconds: cells.nanoseconds.load(Ordering::Relaxed),
                    rejected: cells.rejected.load(Ordering::Relaxed),
                    failed: cells.failed.load(Ordering::Relaxed),
                    unbilled: cells.unbilled.load(Ordering::Relaxed),
                };
                totals.add_command(index * PAGE + offset, command);
            }
        }
    }
}

//! The log: an ordered record of the effects since the manifests, one log per node, shared by all its databases.
//!
//! 1. A batch of commands runs under its shard's lock and leaves items in a buffer of its own. Before the lock is let
//!    go the buffer is appended to the log's, in memory, with the database's next sequence number
//!    ([`Journal::append`]): one short critical section per batch. So the order of the log is the order of cause and
//!    effect, over all shards and databases, and any prefix of it that survives is a state that a client could have
//!    seen.
//! 2. The flusher ([`flusher`]) takes the buffer, writes it as one frame and syncs it ([`Log::flush`]): for all
//!    databases at once. While it does, the next frame fills up.
//! 3. A caller that must not answer before its write is durable waits for the frame ([`Log::durable`]).
//! 4. After a crash the frames are read once ([`recovery`]), and each database gets what its manifest does not hold
//!    ([`tail`]), to be replayed onto its segments as they are loaded.
//! 5. When every database that a file mentions has a manifest which holds what the file says of it, the file is deleted
//!    ([`ledger`]).
//! 6. A node of a fleet takes over the logs of nodes that have died, beside all else ([`adoption`]).
//!
//! Invariants:
//! - What was appended is kept in memory until it is durable. After an error it is written again, into another file.
//! - A sequence number of a database is given to one entry only, and without gaps: a reader knows what is missing.
//! - `flushed` only grows; everything before it is durable.
//! - The clock is handed in. It only measures how long something has waited, so it must never be set back: a monotonic one.

mod adoption;
mod doubt;
pub mod flusher;
pub mod format;
mod gathered;
mod journal;
mod ledger;
mod recovered;
pub mod recovery;
mod registry;
mod reserve;
pub mod sink;
pub mod tail;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod trouble;
mod waiters;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use dormouse_types::pace;
use dormouse_types::record::{CACHE_LINE, prefetch_to_write};
use futures::executor::block_on;
use futures::lock::{Mutex as AsyncMutex, MutexGuard as AsyncGuard};
use parking_lot::{Condvar, Mutex};

use self::adoption::Adoptions;
use self::format::{
    Around, CHECKSUM_BYTES, EntryHead, EntryKind, FileHead, HEADER_BYTES, Identity, NamedDatabase, frame_around,
    frame_head_bytes, sealed_frame_around,
};
use self::gathered::Gathered;
pub use self::journal::{Journal, LogRefusal, Tap, Window};
use self::ledger::{Ledger, Unneeded};
use self::recovery::{Entries, ReadLog, Recovered};
use self::registry::{Outstanding, Registry, Touched};
use self::reserve::Reserve;
use self::sink::{Files, Objects, Remover, Sink};
use self::trouble::{FULL, LOST, STUFFED};
use self::waiters::{Wait, Waiters};
use crate::durations::Durations;
use crate::owner::Ownership;
use crate::stopwatch::Stopwatch;
use crate::store::encryption::{LogCipher, LogKeys, SEALED_FRAME_BYTES};
use crate::store::{Store, StoreError};

/// A place in this process's log: bytes of entries before it.
pub type Lsn = u64;

/// Entries are flushed early when this many bytes wait.
const FLUSH_BYTES: usize = 1 << 20;
/// When more waits for the disk, the databases that have written much of it are refused until some of it is durable; when
/// twice as much does, all are.
const KEPT_BYTES_MAX: u64 = 256 << 20;
/// The items of an entry of at least this size are not copied under the lock.
const APART_BYTES_MIN: usize = 256 << 10;
/// The most room after an entry that is prefetched before the next one comes.
const AHEAD_BYTES: usize = 4 << 10;
/// A buffer that grew larger is not used again.
const SPARE_BYTES_MAX: usize = 16 << 20;
/// How often an idle log looks whether another process has taken the store over.
const SEAL_EVERY_MS: u64 = 2_000;

/// The log of one process.
pub struct Log {
    writer: u64,
    /// The proof that this process owns a store without a lock.
    owner: Option<Arc<Ownership>>,
    /// Of a node of a fleet.
    adoptions: Adoptions,
    /// It is in a store without a lock.
    shared: bool,
    /// Set in an encrypted store.
    keys: Option<LogKeys>,
    /// Set as soon as the store has its key: on a full disk not at once.
    cipher: OnceLock<LogCipher>,
    clock: fn() -> u64,
    limits: Limits,
    active: Mutex<Active>,
    /// Notified when the flusher has something to do.
    work: Condvar,
    flushed: AtomicU64,
    /// Everything before it was written and synced. Beyond `flushed` only where a file was lost.
    written: AtomicU64,
    /// When the oldest entry that is not durable was appended, by the log's clock; `u64::MAX`: all are durable.
    oldest_ms: AtomicU64,
    /// Why writes are refused: bits of [`trouble`].
    refusing: AtomicU8,
    /// Files of this process that another program has removed or truncated, and that are needed.
    lost: Mutex<Vec<u64>>,
    /// Room reserved for writes on a full disk; `None`: the store is no folder.
    reserve: Mutex<Option<Reserve>>,
    /// Bytes of the existing files of this process.
    kept_bytes: AtomicU64,
    /// Bytes that checkpoints of all databases would write now, as far as is known.
    dirty_bytes: AtomicU64,
    /// Bytes of all databases in memory, as far as is known: no checkpoint writes more.
    resident_bytes: AtomicU64,
    /// The last checkpoint found room for no more than a tail of the log's entries.
    tails_only: AtomicBool,
    /// When it was last logged that the store is full, or has room again.
    room_logged: Mutex<Option<Stopwatch>>,
    /// Log the next time that the store has room again.
    room_end_is_due: AtomicBool,
    waiters: Mutex<Waiters>,
    output: Mutex<Output>,
    /// The bytes of frames in each existing file of this process.
    sizes: Mutex<BTreeMap<u64, u64>>,
    /// Reads back what was written.
    reader: Mutex<Box<dyn Sink>>,
    /// Callers that read back wait here, so that no thread waits for `reader`.
    reading_back: AsyncMutex<()>,
    ledger: Mutex<Ledger>,
    /// Notified when some files may no longer be needed.
    untidy: Condvar,
    remover: Remover,
    /// The threads must end.
    closing: AtomicBool,
    /// The last error of the sink, until a flush succeeds.
    problem: Mutex<Option<Arc<str>>>,
    /// Flushes that failed.
    failures: AtomicU64,
    /// Another process has taken the store over: nothing more can be written.
    sealed: AtomicBool,
    pub counters: LogCounters,
}

/// How much may wait for the disk.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Of all databases together.
    kept: u64,
    /// Of one database: beyond it, that one is refused. Enough for a large value or two.
    own: u64,
    /// Of one database: beyond it, its batches end and wait.
    share: u64,
    /// A database that has written no more is not refused because others have written much.
    small: u64,
}

impl Limits {
    fn of(kept: u64) -> Self {
        Self { kept, own: kept / 2, share: kept / 32, small: kept / 256 }
    }
}

/// Counters of the log since the process started.
#[derive(Debug, Default)]
pub struct LogCounters {
    pub entries: AtomicU64,
    pub bytes: AtomicU64,
    pub flushes: AtomicU64,
    /// Time of the flushes that have written something.
    pub flush_times: Durations,
    pub files: AtomicU64,
}

/// The entries appended since the last flush.
#[derive(Default)]
struct Active {
    entries: Gathered,
    /// The databases that they are of, and all others.
    registry: Registry,
    end: Lsn,
    oldest_ms: u64,
    /// The flusher must come this soon after the first entry.
    within_ms: u64,
    /// It flushes by itself this soon after it has fallen asleep; `u64::MAX`: only when it is told.
    nap_ms: u64,
    /// A caller waits.
    urgent: bool,
    /// A buffer to be used again.
    spare: Vec<u8>,
    /// The probable offset of the next frame's entries in its file.
    begins_at: usize,
}

/// A frame to be written.
struct Pending {
    names: Vec<NamedDatabase>,
    entries: Gathered,
    end: Lsn,
    oldest_ms: u64,
    /// In the order of the names.
    touched: Vec<Touched>,
    /// Set once the entries are encrypted. Each attempt to write them is for the same bytes.
    sealed: Option<Around>,
}

struct Output {
    sink: Box<dyn Sink>,
    /// Of the file that is written, with its bytes; none: the next frame begins one.
    file: Option<(u64, u64)>,
    next_number: u64,
    /// The file that the last write failed in.
    failed: Option<u64>,
    synced: Lsn,
    pending: VecDeque<Pending>,
}

impl Output {
    /// Whether the next frame begins a file.
    fn begins_file(&self, bytes: u64) -> bool {
        bytes >= self.sink.file_bytes().max(1)
    }

    /// The offset, in its file, of the entries of the frame after the next one, if its head is as long as that of the
    /// next.
    fn next_entries_at(&self, head_bytes: usize, entries_bytes: usize) -> usize {
        let begin = self.file.map(|(_, bytes)| bytes).filter(|bytes| !self.begins_file(*bytes));
        let end = begin.unwrap_or(HEADER_BYTES as u64) + (head_bytes + entries_bytes + CHECKSUM_BYTES) as u64;
        let next = if self.begins_file(end) { HEADER_BYTES as u64 } else { end };
        next as usize + head_bytes
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("writer", &self.writer).finish_non_exhaustive()
    }
}

/// The bytes around the entries of a frame at `(lsn, synced)`, which are encrypted if there is a cipher.
fn around(
    cipher: Option<&LogCipher>,
    (lsn, synced): (Lsn, Lsn),
    names: &[NamedDatabase],
    entries: &mut [u8],
) -> Result<Around, StoreError> {
    match cipher {
        Some(cipher) => sealed_frame_around(cipher, lsn, synced, names, entries)
            .map_err(|problem| StoreError::LogFailed(format!("a frame of the log cannot be encrypted: {problem}"))),
        None => Ok(frame_around(lsn, synced, names, entries)),
    }
}

impl Log {
    /// Opens the log that fits the store, and reads what earlier processes left in it. Where the store has no lock, it
    /// is taken first, at a time of `unix_ms`. `None`: a store that keeps nothing beyond the process has no use for a
    /// log. The caller must start the flusher.
    ///
    /// # Errors
    /// When an earlier log cannot be read; [`StoreError::Taken`] and [`StoreError::LogSealed`] when another process owns the
    /// store.
    pub fn open(
        store: &Arc<Store>,
        writer: u64,
        clock: fn() -> u64,
        unix_ms: fn() -> u64,
    ) -> Result<Option<(Arc<Log>, Recovered)>, StoreError> {
        let sink: Box<dyn Sink> = match store.folder() {
            Some(folder) => Box::new(Files::writing(&folder, store)),
            None if store.is_volatile() => return Ok(None),
            None => Box::new(Objects::take(Arc::clone(store), writer, unix_ms)?),
        };
        let (began, takes_over) = (Stopwatch::start(), !sink.predecessors().is_empty());
        let opened = Self::over(sink, writer, clock)?;
        if takes_over {
            tracing::info!(
                ms = began.us() / 1000,
                "the store is taken over: the logs of earlier processes are sealed and read"
            );
        }
        if let Some(folder) = store.folder() {
            opened.0.reserve_in(&folder);
        }
        Ok(Some(opened))
    }

    /// Takes a store without a lock for a process that writes no log: seals and reads the logs of earlier processes.
    /// Returns the ownership to be released at its end, and the entries of all databases.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn take(
        store: &Arc<Store>,
        writer: u64,
        unix_ms: fn() -> u64,
    ) -> Result<(Option<Arc<Ownership>>, Recovered), StoreError> {
        if store.folder().is_some() || store.is_volatile() {
            return Ok((None, Self::look(store)?));
        }
        let mut sink = Objects::take(Arc::clone(store), writer, unix_ms)?;
        let (recovered, _) = recovery::take_over(&mut sink)?;
        Ok((sink.owner(), recovered))
    }

    /// Returns the entries of all databases, read-only, perhaps beside the process that writes the log.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn look(store: &Arc<Store>) -> Result<Recovered, StoreError> {
        Self::read(store).map(recovery::collect)
    }

    /// The same, log by log, with the damage of each.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn read(store: &Arc<Store>) -> Result<Vec<ReadLog>, StoreError> {
        match store.folder() {
            Some(folder) => recovery::look(&mut Files::of(&folder, store)),
            // Another process's memory cannot be seen, but a test looks at its own.
            None => recovery::look(&mut Objects::new(Arc::clone(store))),
        }
    }

    /// Waits until no other caller reads back.
    pub async fn turn_to_read_back(&self) -> AsyncGuard<'_, ()> {
        self.reading_back.lock().await
    }

    /// Reads back the entries of a database beyond its entry `floor`, of this process and those before it: the files
    /// that mention it, one after the other. It takes a thread, so a [turn](Self::turn_to_read_back) comes first.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_back(&self, database: &Identity, floor: u64) -> Result<Entries, StoreError> {
        let mut reader = self.reader.lock();
        let mut attempt = 1;
        loop {
            let files = self.ledger.lock().mentioning(database, floor);
            // Bytes that are being written behind the end must not be taken for a part of the file.
            let end = |(writer, number): (u64, u64)| {
                let frames = self.sizes.lock().get(&number).copied().filter(|_| writer == self.writer && !self.shared);
                frames.map_or(usize::MAX, |frames| HEADER_BYTES + frames as usize)
            };
            let files: Vec<_> = files.into_iter().map(|file| (file, end(file))).collect();
            let (entries, vanished) = recovery::read_of(&mut **reader, &files, database)?;
            // A file that has gone was restated by another one, or is needed no more.
            if !vanished || attempt == recovery::LOOKS_MAX {
                return Ok(entries);
            }
            attempt += 1;
        }
    }

    /// As [`Self::open`], over any sink.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn over(mut sink: Box<dyn Sink>, writer: u64, clock: fn() -> u64) -> Result<(Arc<Log>, Recovered), StoreError> {
        let (recovered, files) = recovery::take_over(&mut *sink)?;
        let mut ledger = Ledger::new(files);
        let mut next_number = 1;
        let keys = sink.keys();
        let cipher = OnceLock::new();
        match keys.as_ref().map_or(Ok(None), |keys| keys.begin(writer)) {
            Ok(made) => made.into_iter().for_each(|made| drop(cipher.set(made))),
            Err(error @ StoreError::Full { .. }) => tracing::warn!(%error, "the log has no key yet"),
            Err(error) => return Err(error),
        }
        if sink.file_bytes() == 0 {
            // A process that takes the store over from us must find a log to seal, even if we have not written yet.
            sink.begin(writer, next_number, &FileHead { writer, number: next_number, lsn: 0 }.encode())?;
            let (head, sum) = around(cipher.get(), (0, 0), &[], &mut [])?;
            sink.append(&[&head, &sum])?;
            ledger.begun(writer, next_number);
            next_number += 1;
        }
        let owner = sink.owner();
        if let Some(owner) = &owner {
            block_on(owner.look())?;
        }
        let log = Log {
            writer,
            owner,
            adoptions: Adoptions::default(),
            shared: sink.file_bytes() == 0,
            keys,
            cipher,
            clock,
            limits: Limits::of(KEPT_BYTES_MAX),
            active: Mutex::new(Active {
                within_ms: u64::MAX,
                nap_ms: u64::MAX,
                oldest_ms: u64::MAX,
                ..Active::default()
            }),
            work: Condvar::new(),
            flushed: AtomicU64::new(0),
            written: AtomicU64::new(0),
            oldest_ms: AtomicU64::new(u64::MAX),
            refusing: AtomicU8::new(0),
            lost: Mutex::default(),
            reserve: Mutex::default(),
            kept_bytes: AtomicU64::new(0),
            dirty_bytes: AtomicU64::new(0),
            resident_bytes: AtomicU64::new(0),
            tails_only: AtomicBool::new(false),
            room_logged: Mutex::default(),
            room_end_is_due: AtomicBool::new(false),
            waiters: Mutex::default(),
            remover: sink.remover(),
            sizes: Mutex::default(),
            reader: Mutex::new(sink.reader()),
            reading_back: AsyncMutex::default(),
            output: Mutex::new(Output {
                sink,
                file: None,
                next_number,
                failed: None,
                synced: 0,
                pending: VecDeque::new(),
            }),
            ledger: Mutex::new(ledger),
            untidy: Condvar::new(),
            closing: AtomicBool::new(false),
            problem: Mutex::default(),
            failures: AtomicU64::new(0),
            sealed: AtomicBool::new(false),
            counters: LogCounters::default(),
        };
        Ok((Arc::new(log), recovered))
    }

    /// Returns the number that stands for a database in this process's log, until it is released.
    fn register(&self, identity: &Identity) -> (u32, Outstanding) {
        self.active.lock().registry.register(identity)
    }

    fn release(&self, number: u32) {
        self.active.lock().registry.release(number);
    }

    /// Appends an entry with the next number of `sequence`, and returns the lsn after it.
    fn append(
        &self,
        database: u32,
        sequence: &AtomicU64,
        kind: EntryKind,
        now_ms: u64,
        items: &[u8],
        within_ms: u64,
    ) -> Lsn {
        let apart = (items.len() >= APART_BYTES_MIN).then(|| pace::copied(items));
        let mut active = self.active.lock();
        let sequence = sequence.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        let was_empty = active.entries.is_empty();
        if was_empty {
            active.entries = Gathered::begin(std::mem::take(&mut active.spare), active.begins_at);
            // The batch's own time may be long ago, where it has waited for something.
            let appended_ms = (self.clock)();
            active.oldest_ms = appended_ms;
            // Entries that are being flushed are older.
            let _ = self.oldest_ms.compare_exchange(u64::MAX, appended_ms, Ordering::SeqCst, Ordering::SeqCst);
        }
        let before = active.entries.len();
        EntryHead { database, kind, sequence, now_ms, items_bytes: items.len() as u64 }.write(active.entries.end());
        match apart {
            Some(items) => active.entries.append_apart(items),
            None => active.entries.end().extend_from_slice(items),
        }
        let bytes = (active.entries.len() - before) as u64;
        active.end += bytes;
        active.registry.touch(database, sequence, bytes);
        active.within_ms = active.within_ms.min(within_ms);
        let sooner = within_ms < active.nap_ms;
        if sooner {
            active.nap_ms = within_ms;
        }
        let large = before < FLUSH_BYTES && active.entries.len() >= FLUSH_BYTES;
        let end = active.end;
        let room = active.entries.end().spare_capacity_mut();
        let (room, ahead) = (room.as_ptr().cast::<u8>(), room.len().min(items.len()).min(AHEAD_BYTES));
        let kept = active.end - self.flushed.load(Ordering::Relaxed);
        if kept > self.limits.kept {
            let why = if kept > 2 * self.limits.kept { FULL | STUFFED } else { FULL };
            self.refusing.fetch_or(why, Ordering::SeqCst);
        }
        drop(active);
        // The buffer is larger than the near caches: copying the next entry would wait for each of its lines.
        (0..ahead).step_by(CACHE_LINE).for_each(|at| prefetch_to_write(room.wrapping_add(at)));
        if sooner || large {
            self.work.notify_one();
        }
        self.counters.entries.fetch_add(1, Ordering::Relaxed);
        end
    }

    /// The lsn after everything that was appended.
    pub fn end(&self) -> Lsn {
        self.active.lock().end
    }

    /// Everything before it is durable.
    pub fn flushed(&self) -> Lsn {
        self.flushed.load(Ordering::Acquire)
    }

    /// Everything before it was written. Beyond [`Self::flushed`] only where a file was lost.
    fn written(&self) -> Lsn {
        self.written.load(Ordering::Acquire)
    }

    /// Whether other processes may write to the same store.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Whether another process has taken the store over.
    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::SeqCst) || self.owner.as_ref().is_some_and(|owner| owner.is_lost())
    }

    /// The proof that this process owns a store without a lock.
    pub fn owner(&self) -> Option<&Arc<Ownership>> {
        self.owner.as_ref()
    }

    fn seal(&self) {
        self.sealed.store(true, Ordering::SeqCst);
        self.owner.iter().for_each(|owner| owner.lose());
    }

    /// For how long the oldest entry that is not durable has waited, milliseconds.
    pub fn lag_ms(&self, now_ms: u64) -> u64 {
        match self.oldest_ms.load(Ordering::Relaxed) {
            u64::MAX => 0,
            oldest => now_ms.saturating_sub(oldest),
        }
    }

    /// The same at the clock's present time. The clock is not read where nothing waits.
    #[inline]
    pub fn lag_ms_now(&self) -> u64 {
        match self.oldest_ms.load(Ordering::Relaxed) {
            u64::MAX => 0,
            oldest => (self.clock)().saturating_sub(oldest),
        }
    }

    /// Why the last flush failed, or why writes are refused without that.
    pub fn problem(&self) -> Option<Arc<str>> {
        let failed = self.problem.lock().clone();
        failed.or_else(|| self.trouble().map(Into::into))
    }

    /// Waits until everything before `lsn` is durable, however long that takes.
    ///
    /// # Errors
    /// When the log was sealed: it never will be.
    pub fn durable(&self, lsn: Lsn) -> impl Future<Output = Result<(), StoreError>> + Unpin {
        self.wait(lsn, None)
    }

    /// Waits until everything before `lsn` was written, but no longer than until a flush fails. For checkpoints: after the loss
    /// of a file only they make what follows durable.
    ///
    /// # Errors
    /// Why it failed.
    pub fn durable_or_failed(&self, lsn: Lsn) -> impl Future<Output = Result<(), StoreError>> + Unpin {
        self.wait(lsn, Some(self.failures.load(Ordering::SeqCst)))
    }

    fn wait(&self, lsn: Lsn, failures: Option<u64>) -> Wait<'_> {
        Wait::new(self, lsn, failures)
    }

    /// Wakes the flusher at once, as a caller waits.
    fn hurry(&self) {
        let mut active = self.active.lock();
        if !active.urgent {
            active.urgent = true;
            drop(active);
            self.work.notify_one();
        }
    }

    /// Wakes all waiting tasks, so that each sees for itself.
    fn wake_all(&self) {
        let waiting = self.waiters.lock().all();
        waiting.into_iter().for_each(Waker::wake);
    }

    /// One turn of the flusher: writes the entries that were appended or failed before, and wakes the waiting tasks.
    ///
    /// # Errors
    /// When the sink refuses: everything is kept for the next turn.
    pub fn flush(&self) -> Result<(), StoreError> {
        let mut output = self.output.lock();
        self.collect(&mut output);
        let started = Stopwatch::start();
        let writes = !output.pending.is_empty();
        let mut outcome = Ok(());
        let mut losses = 0;
        while let Some(mut pending) = output.pending.pop_front() {
            match self.write(&mut output, &mut pending) {
                Ok(()) => self.advance(&mut output, pending),
                Err(error) => {
                    let bytes = pending.entries.len() as u64;
                    output.pending.push_front(pending);
                    losses += usize::from(matches!(error, StoreError::LogLost { .. }));
                    if losses <= 1 && self.relieve(&output, &error, bytes) {
                        continue;
                    }
                    outcome = Err(error);
                    break;
                }
            }
        }
        self.publish_oldest(&output);
        if writes && outcome.is_ok() {
            self.counters.flush_times.add(started.elapsed());
        }
        if outcome.is_ok() {
            self.keep_room();
        }
        if let Err(error) = &outcome {
            *self.problem.lock() = Some(error.to_string().into());
            self.failures.fetch_add(1, Ordering::SeqCst);
            if matches!(error, StoreError::LogSealed) {
                self.seal();
            }
            self.wake_all();
        }
        outcome
    }

    /// Makes a frame of the appended entries.
    fn collect(&self, output: &mut Output) {
        let (entries, at, touched, names, end, oldest_ms) = {
            let mut active = self.active.lock();
            active.urgent = false;
            if active.entries.is_empty() {
                return;
            }
            active.nap_ms = std::mem::replace(&mut active.within_ms, u64::MAX);
            let oldest_ms = std::mem::replace(&mut active.oldest_ms, u64::MAX);
            let (touched, names) = active.registry.take();
            let at = active.begins_at;
            let head_bytes = frame_head_bytes(&names) + self.keys.as_ref().map_or(0, |_| SEALED_FRAME_BYTES);
            active.begins_at = output.next_entries_at(head_bytes, active.entries.len());
            (std::mem::take(&mut active.entries), at, touched, names, active.end, oldest_ms)
        };
        let entries = entries.joined(at);
        output.pending.push_back(Pending { names, entries, end, oldest_ms, touched, sealed: None });
    }

    fn write(&self, output: &mut Output, pending: &mut Pending) -> Result<(), StoreError> {
        if self.is_sealed() {
            return Err(StoreError::LogSealed);
        }
        let lsn = pending.end - pending.entries.len() as u64;
        let cipher = self.cipher()?;
        let full = output.sink.file_bytes();
        let begun = output.file.is_none_or(|(_, bytes)| output.begins_file(bytes));
        if begun {
            let number = output.next_number;
            let head = FileHead { writer: self.writer, number, lsn }.encode();
            output.file = None;
            // A number that was begun is not begun again if a part of its file may exist.
            if full > 0 {
                output.next_number += 1;
            }
            output.sink.begin(self.writer, number, &head).inspect_err(|_| self.take_back(output, number))?;
            output.file = Some((number, head.len() as u64));
        }
        let Some((number, bytes)) = output.file else { return Ok(()) };
        // Only now: a frame that waited for others to be written must say that they are durable.
        let (head, sum) = match pending.sealed.take() {
            Some(around) => around,
            None => around(cipher, (lsn, output.synced), &pending.names, pending.entries.entries_mut())?,
        };
        if let Err(error) = output.sink.append_gathered(&head, &mut pending.entries, &sum) {
            (output.file, output.failed) = (None, Some(number));
            pending.sealed = cipher.is_some().then_some((head, sum));
            if begun {
                self.take_back(output, number);
            }
            return Err(error);
        }
        let frame_bytes = (head.len() + pending.entries.len() + sum.len()) as u64;
        self.counters.bytes.fetch_add(frame_bytes, Ordering::Relaxed);
        self.counters.files.fetch_add(u64::from(begun), Ordering::Relaxed);
        output.file = Some((number, bytes + frame_bytes));
        *self.sizes.lock().entry(number).or_default() += frame_bytes;
        self.kept_bytes.fetch_add(frame_bytes, Ordering::Relaxed);
        if full == 0 {
            output.file = None;
            output.next_number = number + 1;
        }
        let mut ledger = self.ledger.lock();
        for (touched, NamedDatabase { identity, .. }) in pending.touched.iter().zip(&pending.names) {
            match touched.sequence {
                0 => ledger.gone(self.writer, number, identity),
                sequence => ledger.mention(self.writer, number, identity, sequence),
            }
        }
        ledger.restated(self.writer, output.sink.restated(), number);
        if begun {
            // The one before may be needed no more.
            ledger.look_again();
            self.untidy.notify_one();
        }
        Ok(())
    }

    /// The cipher of this log; none if the store is not encrypted.
    fn cipher(&self) -> Result<Option<&LogCipher>, StoreError> {
        if let (Some(keys), None) = (&self.keys, self.cipher.get())
            && let Some(made) = keys.begin(self.writer)?
        {
            // No other thread writes.
            let _ = self.cipher.set(made);
        }
        Ok(self.cipher.get())
    }

    /// Removes a file that was begun and in which nothing could be written, so that failures leave nothing behind. Its
    /// number is used again where it is gone: the next frame begins the next file at the same lsn, and a power cut leaves one
    /// of the two, see [`sink`].
    fn take_back(&self, output: &mut Output, number: u64) {
        if output.sink.file_bytes() > 0 && (self.remover)(&[(self.writer, number)]).is_ok() {
            output.next_number = number;
        }
    }

    /// `pending` is durable.
    fn advance(&self, output: &mut Output, pending: Pending) {
        output.synced = pending.end;
        self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        self.written.store(pending.end, Ordering::SeqCst);
        if !self.is_refusing(LOST) {
            self.flushed.store(pending.end, Ordering::SeqCst);
        }
        *self.problem.lock() = None;
        let mut spare = pending.entries.into_spare();
        {
            let mut active = self.active.lock();
            for Touched { bytes, outstanding, .. } in &pending.touched {
                outstanding.store(outstanding.load(Ordering::Relaxed) - bytes, Ordering::Relaxed);
            }
            if active.end - pending.end <= self.limits.kept / 2 {
                self.refusing.fetch_and(!(FULL | STUFFED), Ordering::SeqCst);
            }
            if spare.capacity() <= SPARE_BYTES_MAX
                && spare.len() >= spare.capacity() / 8
                && active.spare.capacity() == 0
            {
                spare.clear();
                active.spare = spare;
            }
        }
        let reached = self.waiters.lock().reached(pending.end);
        reached.into_iter().for_each(Waker::wake);
    }

    fn publish_oldest(&self, output: &Output) {
        let active = self.active.lock();
        let oldest = output.pending.front().map_or(u64::MAX, |pending| pending.oldest_ms);
        self.oldest_ms.store(oldest.min(active.oldest_ms), Ordering::SeqCst);
    }

    /// Notes that a manifest of this database holds everything up to `sequence`. A thread of its own deletes unneeded
    /// files.
    pub fn settled(&self, database: &Identity, sequence: u64) {
        if self.ledger.lock().settled(database, sequence) {
            self.untidy.notify_one();
        }
    }

    /// Records that the database is deleted: its entries are no longer needed, and a reader must know.
    pub fn forget(&self, database: &Identity, now_ms: u64) {
        let (number, _) = self.register(database);
        // Sequence number 0 belongs to no effect.
        let none = AtomicU64::new(u64::MAX);
        self.append(number, &none, EntryKind::Gone, now_ms, &[], SEAL_EVERY_MS);
        self.release(number);
        self.settled(database, u64::MAX);
    }

    /// Deletes the files that no database needs. Returns how many.
    ///
    /// # Errors
    /// When the store refuses: they are tried again.
    pub fn remove_settled(&self) -> Result<usize, StoreError> {
        let unneeded = {
            // A flush that begins a file meanwhile waits: that file is not among those that were looked at.
            let mut output = self.output.lock();
            self.look_for_lost(&mut output);
            // The last object stays, so that a later process can seal the log.
            let last = (output.sink.file_bytes() == 0).then(|| output.next_number.saturating_sub(1));
            let current = output.file.map(|(number, _)| number).or(last).map(|number| (self.writer, number));
            let mut ledger = self.ledger.lock();
            if let Some(current) = current.filter(|_| last.is_none() && self.needs_checkpoints())
                && ledger.unneeded(None).has(current)
            {
                // Its room is needed: the next frame begins another one.
                output.file = None;
                output.sink.end();
                ledger.unneeded(None)
            } else {
                ledger.unneeded(current)
            }
        };
        self.remove(&unneeded)
    }

    fn remove(&self, unneeded: &Unneeded) -> Result<usize, StoreError> {
        for files in unneeded.steps() {
            (self.remover)(files)?;
            {
                let mut ledger = self.ledger.lock();
                files.iter().for_each(|(writer, number)| ledger.removed(*writer, *number));
            }
            let own = files.iter().filter(|(writer, _)| *writer == self.writer);
            let mut sizes = self.sizes.lock();
            let freed = own.filter_map(|(_, number)| sizes.remove(number)).sum();
            self.kept_bytes.fetch_sub(freed, Ordering::Relaxed);
        }
        self.forget_keys(unneeded)?;
        self.recover_from_loss();
        Ok(unneeded.len())
    }

    /// Deletes the keys of earlier logs whose last files were removed.
    fn forget_keys(&self, removed: &Unneeded) -> Result<(), StoreError> {
        let Some(keys) = &self.keys else { return Ok(()) };
        let writers: BTreeSet<u64> = removed.steps().flatten().map(|(writer, _)| *writer).collect();
        for writer in writers {
            if writer != self.writer && self.ledger.lock().of(writer).is_empty() {
                // A file must not come back without its key.
                self.reader.lock().settle()?;
                keys.forget(writer)?;
            }
        }
        Ok(())
    }

    /// Files that are kept, for metrics.
    pub fn files(&self) -> usize {
        self.ledger.lock().len()
    }

    /// Flushes, deletes the last file too if no database needs it, and releases the store; a node of a fleet only if no
    /// database needs any file.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub fn finish(&self) -> Result<(), StoreError> {
        self.flush()?;
        self.output.lock().file = None;
        let unneeded = self.ledger.lock().unneeded(None);
        self.remove(&unneeded)?;
        if let Some(keys) = self.keys.as_ref().filter(|_| self.files() == 0) {
            self.reader.lock().settle()?;
            keys.forget(self.writer)?;
        }
        match &self.owner {
            Some(owner) if owner.node().is_some() => self.release_node(owner),
            Some(owner) => block_on(owner.release()),
            None => Ok(()),
        }
    }

    /// Deletes old owners' records from the store. Returns how many.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn collect_owners(&self) -> Result<usize, StoreError> {
        self.owner.as_ref().map_or(Ok(0), |owner| block_on(owner.collect()))
    }

    /// Checks whether another process has taken the store over.
    fn look_for_seal(&self) {
        let mut output = self.output.lock();
        let last = output.next_number.saturating_sub(1);
        if matches!(output.sink.is_sealed(self.writer, last), Ok(true)) {
            self.seal();
            *self.problem.lock() = Some(StoreError::LogSealed.to_string().into());
            drop(output);
            self.wake_all();
        }
    }
}

//! Ownership of a store that has no lock: one process at a time, decided by numbered objects that are created only if
//! absent.
//!
//! 1. A process that starts lists `owner/` and creates the record with the next number, before it does anything else.
//!    Of two that start at the same moment one finds the number taken, and ends before it has sealed or served
//!    anything.
//! 2. The record with the highest number is the owner's. So a later start takes the store over.
//! 3. The owner lists the logs, and looks whether it still is the owner: then none of them is of a later process. It
//!    reads and seals the log of each process before it: of those that have a log, and of those that earlier records
//!    name and that have none yet ([`crate::log::recovery`]). All that an earlier process has acknowledged precedes its
//!    seal, and nothing can be added after the seal.
//! 4. It creates the first object of its own log, looks at the owner once more, and serves.
//! 5. While it serves it looks whether the next record exists: beside its flushes, before each manifest is committed, before
//!    a database wakes, and now and then while it is idle. If it does, the process has been overtaken: it begins no
//!    other log object, so the new owner seals a log that hardly grows, however much is written. It answers nothing more.
//! 6. A process that ends in order creates the next record itself, with writer 0: the store is *released*. Its log needs no
//!    seal, and the process that comes next need not fear it.
//!
//! Acknowledgements do not rest on these looks, but on log objects and seals: both are created only if absent, so a
//! flush that succeeded precedes the seal. The looks end a process that was overtaken soon, and keep what it reads from
//! being told for long.
//!
//! A day after a record was followed by another one, a process that starts deletes the seal of its writer, if nothing
//! else is left of that log, and then the record, oldest first. A process that was stopped for a day would find neither
//! the seal nor its successor's record. So one that has not looked for a minute looks for its own record too, before it
//! writes, and what took it that long to write is not acknowledged before it has looked again.
//!
//! ```text
//! owner/000000000007:
//! | "DMOWN\n\n\n"  | 8 bytes
//! | format version | u32 LE, 1
//! | number         | u64 LE, as in the name
//! | writer         | u64 LE, as in the name of its log; 0: released
//! | since          | u64 LE, unix milliseconds by the writer's clock
//! | length         | varint, of the text that follows
//! | program        | the version of the writer's program
//! | checksum       | u64 LE, CRC-64 of all before
//! ```

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::{BoxFuture, Either, select};
use futures::{FutureExt, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::codec::reader::write_bytes;
use crate::codec::{CodecError, Reader, checksum, read_header, write_header};
use crate::seal;
use crate::store::{self, Store, StoreError};

/// The folder of the records.
pub const FOLDER: &str = "owner";

const MAGIC: &[u8; 8] = b"DMOWN\n\n\n";
const VERSION: u32 = 1;
const CHECKSUM_BYTES: usize = 8;
/// Of the process that has released the store.
const NOBODY: u64 = 0;
/// Records that are read at once.
const READS_TOGETHER: usize = 64;
/// Flushes that follow each other look so seldom.
const LOOK_EVERY_MS: u64 = 50;
/// A process whose last look is older than this looks for its own record too.
const STALE_MS: u64 = 60_000;
/// A record is collected this long after the next one was created: much longer than [`STALE_MS`].
const COLLECT_AFTER_MS: i64 = 24 * 3_600_000;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerRecord {
    pub number: u64,
    pub writer: u64,
    /// Unix milliseconds.
    pub since_ms: u64,
    /// The version of the program that wrote it.
    pub program: String,
}

impl OwnerRecord {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_header(&mut out, MAGIC, VERSION);
        for field in [self.number, self.writer, self.since_ms] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        write_bytes(&mut out, self.program.as_bytes());
        let sum = checksum(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// # Errors
    /// When the bytes are no record that this build reads.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        read_header(&mut Reader::new(bytes), MAGIC, "owner record", VERSION)?;
        let at = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(CodecError::Truncated)?;
        let (body, mut sum) = (&bytes[..at], Reader::new(&bytes[at..]));
        let (stored, computed) = (sum.u64_le()?, checksum(body));
        if stored != computed {
            return Err(CodecError::Checksum { stored, computed });
        }
        let mut reader = Reader::new(body);
        read_header(&mut reader, MAGIC, "owner record", VERSION)?;
        let (number, writer, since_ms) = (reader.u64_le()?, reader.u64_le()?, reader.u64_le()?);
        let program = reader.text()?.to_owned();
        reader.finish()?;
        Ok(Self { number, writer, since_ms, program })
    }

    /// Whether it says that the owner before has ended.
    pub fn is_release(&self) -> bool {
        self.writer == NOBODY
    }
}

/// The name of a record.
pub fn name(number: u64) -> String {
    format!("{FOLDER}/{number:012}")
}

fn parse(name: &str) -> Option<u64> {
    let number = name.strip_prefix(FOLDER)?.strip_prefix('/')?;
    if number.len() == 12 { number.parse().ok() } else { None }
}

/// The records that a process finds when it takes a store.
#[derive(Debug, Default)]
pub struct Predecessors {
    /// Earlier records, in the order of their numbers.
    pub records: Vec<OwnerRecord>,
}

impl Predecessors {
    /// The processes that may be alive: those that have not released the store.
    pub fn alive(&self) -> impl Iterator<Item = &OwnerRecord> {
        let released = |at: usize| self.records.get(at + 1).is_some_and(OwnerRecord::is_release);
        let all = self.records.iter().enumerate();
        all.filter(move |(at, record)| !record.is_release() && !released(*at)).map(|(_, record)| record)
    }

    /// Whether this process has released the store.
    pub fn has_ended(&self, writer: u64) -> bool {
        self.records.iter().any(|record| record.writer == writer) && self.alive().all(|record| record.writer != writer)
    }
}

/// This process's knowledge of its ownership.
pub struct Ownership {
    store: Arc<Store>,
    number: u64,
    writer: u64,
    clock: fn() -> u64,
    lost: AtomicBool,
    told: Notify,
    watch: Mutex<Watch>,
}

struct Watch {
    /// A look that outlasted the flush beside which it began.
    pending: Option<BoxFuture<'static, ()>>,
    /// When the last look began, by the clock; of those that have said something, `good_ms`.
    began_ms: u64,
    good_ms: u64,
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, writer, .. } = self;
        f.debug_struct("Ownership").field("number", number).field("writer", writer).finish_non_exhaustive()
    }
}

impl Ownership {
    /// Takes the store for the process that writes as `writer`.
    ///
    /// # Errors
    /// [`StoreError::Taken`] if another process took the store at the same moment. Others when the store refuses; it
    /// may have been taken all the same.
    pub async fn take(
        store: &Arc<Store>,
        writer: u64,
        clock: fn() -> u64,
    ) -> Result<(Arc<Self>, Predecessors), StoreError> {
        let listed = store.list(FOLDER).await?;
        let numbers: Vec<u64> = listed.iter().filter_map(|object| parse(&object.name)).collect();
        // Before the owner is disturbed: what cannot be read ends the start.
        let read = futures::stream::iter(numbers.clone()).map(|number| read(store, number)).buffered(READS_TOGETHER);
        let records: Vec<Option<OwnerRecord>> = read.try_collect().await?;
        let now_ms = clock();
        let number = numbers.last().map_or(1, |last| last + 1);
        let record = OwnerRecord { number, writer, since_ms: now_ms, program: env!("CARGO_PKG_VERSION").to_owned() };
        if !create(store, &record).await? {
            return Err(StoreError::Taken { number });
        }
        let ownership = Self {
            store: Arc::clone(store),
            number,
            writer,
            clock,
            lost: AtomicBool::new(false),
            told: Notify::new(),
            watch: Mutex::new(Watch { pending: None, began_ms: now_ms, good_ms: now_ms }),
        };
        Ok((Arc::new(ownership), Predecessors { records: records.into_iter().flatten().collect() }))
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn writer(&self) -> u64 {
        self.writer
    }

    /// Whether another process is known to have taken the store over.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }

    /// Notes that another process has taken the store over.
    pub fn lose(&self) {
        if !self.lost.swap(true, Ordering::SeqCst) {
            tracing::error!(number = self.number, "another process has taken the store over");
        }
        self.told.notify_waiters();
    }

    /// Until another process is known to have taken the store over.
    pub async fn until_lost(&self) {
        loop {
            let told = self.told.notified();
            if self.is_lost() {
                return;
            }
            told.await;
        }
    }

    /// Looks whether another process has taken the store over since.
    ///
    /// # Errors
    /// [`StoreError::LogSealed`] if one has. Others when the store cannot be asked.
    pub async fn look(&self) -> Result<(), StoreError> {
        if self.is_lost() {
            return Err(StoreError::LogSealed);
        }
        let (began_ms, good_ms) = self.begin_look();
        let lost = look(&self.store, self.number, is_stale(began_ms, good_ms)).await?;
        self.looked(began_ms, lost);
        if lost { Err(StoreError::LogSealed) } else { Ok(()) }
    }

    fn begin_look(&self) -> (u64, u64) {
        let now_ms = (self.clock)();
        let mut watch = self.watch.lock();
        watch.began_ms = now_ms;
        (now_ms, watch.good_ms)
    }

    fn looked(&self, began_ms: u64, lost: bool) {
        if lost {
            self.lose();
        } else {
            self.watch.lock().good_ms = began_ms;
        }
    }

    /// Whether the last look is too old to write anything before the next one.
    fn is_stale(&self) -> bool {
        is_stale((self.clock)(), self.watch.lock().good_ms)
    }

    /// Writes an object of the log, and meanwhile looks at the owner if a look is due. The look does not delay the
    /// write: one that takes longer ends beside the next write.
    ///
    /// # Errors
    /// [`StoreError::LogSealed`] when another process has taken the store over: then nothing was written, or it must not be
    /// acknowledged. Else what `write` fails with.
    pub async fn beside(
        self: &Arc<Self>,
        write: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        if self.is_lost() {
            return Err(StoreError::LogSealed);
        }
        if self.is_stale() {
            self.look().await?;
        }
        let pending = self.watch.lock().pending.take();
        let mut pending = pending.or_else(|| self.is_due().then(|| self.look_later()));
        if pending.as_mut().is_some_and(|look| look.now_or_never().is_some()) {
            pending = None;
            if self.is_lost() {
                return Err(StoreError::LogSealed);
            }
        }
        let written = match pending {
            None => write.await,
            Some(pending) => match select(Box::pin(write), pending).await {
                Either::Left((written, pending)) => {
                    self.watch.lock().pending = Some(pending);
                    written
                }
                Either::Right(((), write)) => write.await,
            },
        };
        // It precedes the seal, if there is one. But if this process was stopped meanwhile, the seal may have come and
        // gone.
        if written.is_ok() && self.is_stale() {
            self.look().await?;
        }
        written
    }

    fn is_due(&self) -> bool {
        let now_ms = (self.clock)();
        let began_ms = self.watch.lock().began_ms;
        now_ms.checked_sub(began_ms).is_none_or(|since| since >= LOOK_EVERY_MS)
    }

    fn look_later(self: &Arc<Self>) -> BoxFuture<'static, ()> {
        let (began_ms, good_ms) = self.begin_look();
        let (of, store, number) = (Arc::downgrade(self), Arc::clone(&self.store), self.number);
        async move {
            // If the store cannot be asked, the write beside it finds that out.
            let Ok(lost) = look(&store, number, is_stale(began_ms, good_ms)).await else { return };
            if let Some(of) = of.upgrade() {
                of.looked(began_ms, lost);
            }
        }
        .boxed()
    }

    /// Says that this process has ended: it will write nothing more.
    ///
    /// # Errors
    /// [`StoreError::LogSealed`] when another process has taken the store over.
    pub async fn release(&self) -> Result<(), StoreError> {
        if self.is_lost() {
            return Err(StoreError::LogSealed);
        }
        let program = env!("CARGO_PKG_VERSION").to_owned();
        let record = OwnerRecord { number: self.number + 1, writer: NOBODY, since_ms: (self.clock)(), program };
        if create(&self.store, &record).await? {
            return Ok(());
        }
        self.lose();
        Err(StoreError::LogSealed)
    }

    /// Deletes the records that no process needs any more, and the seals of their writers. To be called when the logs
    /// of all earlier processes are sealed. Returns how many records it deleted.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn collect(&self) -> Result<usize, StoreError> {
        let mut found: Vec<(u64, i64)> = Vec::new();
        for object in self.store.list(FOLDER).await? {
            found.extend(parse(&object.name).map(|number| (number, object.modified_ms)));
        }
        let now_ms = found.iter().find(|(number, _)| *number == self.number).map(|(_, modified_ms)| *modified_ms);
        let Some(now_ms) = now_ms else { return Ok(0) };
        store::collect_probes(&self.store, now_ms).await?;
        let mut collected = 0;
        for pair in found.windows(2) {
            let ((number, _), (next, followed_ms)) = (pair[0], pair[1]);
            // The oldest first: if a record is missing, those before it are missing too.
            if next > self.number || now_ms.saturating_sub(followed_ms) < COLLECT_AFTER_MS {
                break;
            }
            if let Some(record) = read(&self.store, number).await?
                && !record.is_release()
                && !seal::delete_seal(&self.store, record.writer).await?
            {
                break;
            }
            self.store.delete(&name(number)).await?;
            collected += 1;
        }
        Ok(collected)
    }
}

/// The clock may have been set back as well.
fn is_stale(now_ms: u64, good_ms: u64) -> bool {
    now_ms.abs_diff(good_ms) >= STALE_MS
}

/// Whether another record follows `number`. `thorough`: it may have been collected already, and then `number` was too, before
/// it.
async fn look(store: &Store, number: u64, thorough: bool) -> Result<bool, StoreError> {
    match store.size(&name(number + 1)).await {
        Ok(_) => return Ok(true),
        Err(error) if error.is_missing() => {}
        Err(error) => return Err(error),
    }
    if !thorough {
        return Ok(false);
    }
    match store.size(&name(number)).await {
        Ok(_) => Ok(false),
        Err(error) if error.is_missing() => Ok(true),
        Err(error) => Err(error),
    }
}

/// Creates a record; false if its number belongs to another process. A gateway between this process and the store may
/// repeat a request, so a record of this process can be the reason for a refusal.
async fn create(store: &Store, record: &OwnerRecord) -> Result<bool, StoreError> {
    match store.put_new(&name(record.number), record.encode()).await {
        Ok(()) => Ok(true),
        Err(StoreError::Exists { .. }) => Ok(read(store, record.number).await?.as_ref() == Some(record)),
        Err(error) => Err(error),
    }
}

/// A record; none if it was collected meanwhile.
async fn read(store: &Store, number: u64) -> Result<Option<OwnerRecord>, StoreError> {
    let name = name(number);
    let bytes = match store.get(&name).await {
        Err(error) if error.is_missing() => return Ok(None),
        bytes => bytes?,
    };
    let record = OwnerRecord::decode(&bytes).map_err(|error| StoreError::corrupt(&name, error))?;
    if record.number != number {
        return Err(StoreError::corrupt(&name, format!("it is record {}", record.number)));
    }
    Ok(Some(record))
}

#[cfg(test)]
mod tests;

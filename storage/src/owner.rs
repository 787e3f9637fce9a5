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
//! # Nodes of a fleet
//!
//! 1. Each node has a run of its own, `nodes/NAME`, in which all of the above holds: for its processes, and for the logs that
//!    they inherit.
//! 2. A node that has died is *adopted*: a survivor creates the next record of its run, with its own name and writer. Of
//!    several survivors one finds the number free. Processes of the dead node are overtaken by that.
//! 3. The log of a writer belongs to the process at the end of its [line](runs): that one seals it, reads it, and keeps its
//!    files until manifests hold everything. So another process takes such a log over with the run of the adopter, however far
//!    the adopter had come, and a node that was adopted starts again with an empty log.
//! 4. A node releases its run only when no database needs its log, or one that it has inherited. So the databases of a writer
//!    that has released its run are [free](Heir::Free).
//! 5. A node that starts adopts the run `owner` too, unless a node has before. So a lone process is overtaken, and its logs
//!    are inherited; an earlier version of the program, which knows no nodes, refuses the record. A lone process refuses to
//!    start unless all nodes have released their runs. Both look for the other after they have created their own record, so
//!    one of them finds the other.
//!
//! A record is collected only when its log has no files, and no record is left whose log its writer has adopted. The last
//! record of a run stays.

mod heirs;
mod record;
mod runs;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::{BoxFuture, Either, select};
use futures::{FutureExt, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::sync::Notify;

pub use self::heirs::{Heir, Heirs, Inherited, heir_of};
pub use self::record::{FOLDER, NODES, OwnerRecord, OwnerRun, is_node_name};
use self::record::{create, read};
use self::runs::{End, Known, READS_TOGETHER, Runs};
use crate::seal;
use crate::store::{self, Store, StoreError};

/// Flushes that follow each other look so seldom.
const LOOK_EVERY_MS: u64 = 50;
/// A process whose last look is older than this looks for its own record too.
const STALE_MS: u64 = 60_000;
/// A record is collected this long after the next one was created: much longer than [`STALE_MS`].
const COLLECT_AFTER_MS: i64 = 24 * 3_600_000;
/// A node adopts the run `owner` at its start. Each further attempt follows a record of another process.
const ADOPT_ATTEMPTS: usize = 100;

/// The records that a process finds when it takes a store.
#[derive(Debug, Default)]
pub struct Predecessors {
    /// Earlier records, in the order of their numbers; those since the last adoption of the run.
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
    run: OwnerRun,
    number: u64,
    writer: u64,
    clock: fn() -> u64,
    heirs: Heirs,
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
        let Self { run, number, writer, .. } = self;
        f.debug_struct("Ownership")
            .field("run", run)
            .field("number", number)
            .field("writer", writer)
            .finish_non_exhaustive()
    }
}

impl Ownership {
    /// Takes the store for the process that writes as `writer`, and is no node of a fleet.
    ///
    /// # Errors
    /// [`StoreError::Taken`] if another process took the store at the same moment, [`StoreError::OfFleet`] if it belongs to a
    /// fleet. Others when the store refuses; it may have been taken all the same.
    pub async fn take(
        store: &Arc<Store>,
        writer: u64,
        clock: fn() -> u64,
    ) -> Result<(Arc<Self>, Predecessors), StoreError> {
        refuse_fleet(store).await?;
        let (ownership, mut before) = Self::take_run(store, OwnerRun::Lone, writer, clock).await?;
        // A node that has started meanwhile may not have seen this process.
        if let Err(refused) = refuse_fleet(store).await {
            if let Err(error) = ownership.release().await {
                tracing::debug!(%error, "failed to give the store back to its fleet");
            }
            return Err(refused);
        }
        let adopted = before.records.iter().rposition(|record| OwnerRun::Lone.is_adopted_by(record));
        before.records.drain(..adopted.map_or(0, |last| last + 1));
        Ok((ownership, before))
    }

    /// Takes the run of a node for the process that writes as `writer`, and adopts the run of lone processes if no node has.
    ///
    /// # Errors
    /// [`StoreError::Taken`] if another process of this node took its run at the same moment. Others when the store refuses; it
    /// may have been taken all the same.
    pub async fn take_node(
        store: &Arc<Store>,
        node: &str,
        writer: u64,
        clock: fn() -> u64,
    ) -> Result<(Arc<Self>, Predecessors), StoreError> {
        let (ownership, before) = Self::take_run(store, OwnerRun::node(node)?, writer, clock).await?;
        for _ in 0..ADOPT_ATTEMPTS {
            let runs = ownership.heirs.runs().await?;
            if !runs.is_lone() {
                return Ok((ownership, before));
            }
            let last = runs.entries(&OwnerRun::Lone).last().map_or(0, |last| last.record.number);
            ownership.adopt(&OwnerRun::Lone, last + 1).await?;
        }
        Err(StoreError::Taken { number: ownership.number })
    }

    async fn take_run(
        store: &Arc<Store>,
        run: OwnerRun,
        writer: u64,
        clock: fn() -> u64,
    ) -> Result<(Arc<Self>, Predecessors), StoreError> {
        let listed = store.list(&run.folder()).await?;
        let numbers: Vec<u64> = listed.iter().filter_map(|object| number_in(&run, &object.name)).collect();
        // Before the owner is disturbed: what cannot be read ends the start.
        let read =
            futures::stream::iter(numbers.clone()).map(|number| read(store, &run, number)).buffered(READS_TOGETHER);
        let records: Vec<Option<OwnerRecord>> = read.try_collect().await?;
        let now_ms = clock();
        let number = numbers.last().map_or(1, |last| last + 1);
        let ownership = Self {
            store: Arc::clone(store),
            run,
            number,
            writer,
            clock,
            heirs: Heirs::asked_by(Arc::clone(store), writer),
            lost: AtomicBool::new(false),
            told: Notify::new(),
            watch: Mutex::new(Watch { pending: None, began_ms: now_ms, good_ms: now_ms }),
        };
        let record = OwnerRecord::of(number, writer, now_ms, ownership.node());
        if !create(store, &ownership.run, &record).await? {
            return Err(StoreError::Taken { number });
        }
        Ok((Arc::new(ownership), Predecessors { records: records.into_iter().flatten().collect() }))
    }

    /// The name of this process's node; none of a lone process.
    pub fn node(&self) -> Option<&str> {
        match &self.run {
            OwnerRun::Lone => None,
            OwnerRun::Node(node) => Some(node),
        }
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// A reader of the runs of the fleet, for this process.
    pub fn heirs(&self) -> &Heirs {
        &self.heirs
    }

    /// The logs that this process has to take over, as of now.
    ///
    /// # Errors
    /// When the store refuses, or a record cannot be read.
    pub async fn inherited(&self) -> Result<Vec<Inherited>, StoreError> {
        self.heirs.inherited_by(self.writer).await
    }

    /// The number of the record that would adopt the run of a dead node; none if it needs no adoption, was adopted, or has
    /// another last process than `dead`.
    ///
    /// # Errors
    /// When the store refuses, or a record cannot be read.
    pub(crate) async fn adoptable(&self, run: &OwnerRun, dead: Option<u64>) -> Result<Option<u64>, StoreError> {
        let runs = self.heirs.runs().await?;
        let Some((last, false)) = runs.last_writer(run).filter(|_| *run != self.run) else { return Ok(None) };
        let is_its_own =
            runs.line(last).is_some_and(|line| matches!(line.end, End::Writer { writer, .. } if writer == last));
        let is_dead = is_its_own && dead.is_none_or(|dead| dead == last);
        Ok(runs.entries(run).last().filter(|_| is_dead).map(|entry| entry.record.number + 1))
    }

    /// Creates the record that adopts a run; false if its number belongs to another process.
    ///
    /// # Errors
    /// When the store refuses; the run may have been adopted all the same.
    pub(crate) async fn adopt(&self, run: &OwnerRun, number: u64) -> Result<bool, StoreError> {
        create(&self.store, run, &OwnerRecord::of(number, self.writer, (self.clock)(), self.node())).await
    }

    /// Whether a run has a record of this number or a later one.
    ///
    /// # Errors
    /// When the store refuses.
    pub(crate) async fn reaches(&self, run: &OwnerRun, number: u64) -> Result<bool, StoreError> {
        let listed = self.store.list(&run.folder()).await?;
        Ok(listed.iter().filter_map(|object| number_in(run, &object.name)).any(|other| other >= number))
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
            match self.node() {
                None => tracing::error!(number = self.number, "another process has taken the store over"),
                Some(node) => {
                    tracing::error!(node, number = self.number, "another process has taken this node's log over")
                }
            }
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
        let lost = look(&self.store, &self.run, self.number, is_stale(began_ms, good_ms)).await?;
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
        let (of, store, run, number) = (Arc::downgrade(self), Arc::clone(&self.store), self.run.clone(), self.number);
        async move {
            // If the store cannot be asked, the write beside it finds that out.
            let Ok(lost) = look(&store, &run, number, is_stale(began_ms, good_ms)).await else { return };
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
        let record = OwnerRecord::release(self.number + 1, (self.clock)(), self.node());
        if create(&self.store, &self.run, &record).await? {
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
        match self.run {
            OwnerRun::Lone => self.collect_lone().await,
            OwnerRun::Node(_) => self.collect_fleet(COLLECT_AFTER_MS).await,
        }
    }

    async fn collect_lone(&self) -> Result<usize, StoreError> {
        let mut found: Vec<(u64, i64)> = Vec::new();
        for object in self.store.list(FOLDER).await? {
            found.extend(number_in(&self.run, &object.name).map(|number| (number, object.modified_ms)));
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
            if let Some(record) = read(&self.store, &self.run, number).await?
                && !record.is_release()
                && !seal::delete_seal(&self.store, record.writer).await?
            {
                break;
            }
            self.store.delete(&self.run.record(number)).await?;
            collected += 1;
        }
        Ok(collected)
    }

    /// The same in all runs: the node of another one may never start again.
    pub(crate) async fn collect_fleet(&self, after_ms: i64) -> Result<usize, StoreError> {
        let runs = self.heirs.runs().await?;
        let own = runs.entries(&self.run).iter().find(|entry| entry.record.number == self.number);
        let Some(now_ms) = own.map(|own| own.modified_ms) else { return Ok(0) };
        store::collect_probes(&self.store, now_ms).await?;
        let mut collected = 0;
        for (run, entries) in runs.iter() {
            for pair in entries.windows(2) {
                let (record, next) = (&pair[0].record, &pair[1]);
                let is_old = now_ms.saturating_sub(next.modified_ms) >= after_ms;
                if !is_old || !self.is_needless(&runs, run, record).await? {
                    break;
                }
                self.store.delete(&run.record(record.number)).await?;
                collected += 1;
            }
        }
        Ok(collected)
    }

    /// Whether the first record of a run is needed no more; then its writer's seal is deleted.
    async fn is_needless(&self, runs: &Runs, run: &OwnerRun, record: &OwnerRecord) -> Result<bool, StoreError> {
        // All that was adopted by it came before it, and is gone.
        if record.is_release() || run.is_adopted_by(record) {
            return Ok(true);
        }
        if runs.is_adopter(record.writer) || self.has_unrecorded(runs, record.writer).await? {
            return Ok(false);
        }
        seal::delete_seal(&self.store, record.writer).await
    }

    /// Whether the writer has adopted the run `owner`, and a log of a lone process without a record may be left.
    async fn has_unrecorded(&self, runs: &Runs, writer: u64) -> Result<bool, StoreError> {
        let adopted = runs.entries(&OwnerRun::Lone).last();
        if adopted.is_none_or(|last| last.record.writer != writer) {
            return Ok(false);
        }
        let logs = seal::writers(&self.store).await?;
        let mut unrecorded = logs.into_iter().filter(|writer| !runs.mentions(*writer));
        Ok(unrecorded.next().is_some())
    }
}

/// Refuses a lone process as long as a node has not released its run, or needs to take over a log.
async fn refuse_fleet(store: &Store) -> Result<(), StoreError> {
    if store.list_folders(NODES).await?.is_empty() {
        return Ok(());
    }
    let runs = Runs::read(store, &mut Known::default()).await?;
    for (run, entries) in runs.iter() {
        let OwnerRun::Node(node) = run else { continue };
        let own = entries.iter().map(|entry| &entry.record).filter(|record| !run.is_adopted_by(record));
        for writer in own.filter(|record| !record.is_release()).map(|record| record.writer) {
            let Some(line) = runs.line(writer) else { return Err(StoreError::OfFleet { node: node.clone() }) };
            match line.end {
                // It has adopted late, and ended without the log: it must start again.
                End::Released { node } if line.passes_release && seal::has_files(store, writer).await? => {
                    return Err(StoreError::OfFleet { node });
                }
                End::Released { .. } => {}
                End::Writer { node, .. } => return Err(StoreError::OfFleet { node }),
                End::Lone => return Err(StoreError::OfFleet { node: node.clone() }),
            }
        }
    }
    Ok(())
}

fn number_in(run: &OwnerRun, name: &str) -> Option<u64> {
    OwnerRun::parse(name).filter(|(other, _)| other == run).map(|(_, number)| number)
}

/// The clock may have been set back as well.
fn is_stale(now_ms: u64, good_ms: u64) -> bool {
    now_ms.abs_diff(good_ms) >= STALE_MS
}

/// Whether another record follows `number`. `thorough`: it may have been collected already, and then `number` was too, before
/// it.
async fn look(store: &Store, run: &OwnerRun, number: u64, thorough: bool) -> Result<bool, StoreError> {
    match store.size(&run.record(number + 1)).await {
        Ok(_) => return Ok(true),
        Err(error) if error.is_missing() => {}
        Err(error) => return Err(error),
    }
    if !thorough {
        return Ok(false);
    }
    match store.size(&run.record(number)).await {
        Ok(_) => Ok(false),
        Err(error) if error.is_missing() => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;

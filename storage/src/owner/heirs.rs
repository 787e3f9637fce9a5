//! Which process has the log of a writer now: the end of its [line](super::runs).
//!
//! 1. A process whose manifest is the newest of a database may be gone. Its heir has read its log, or is about to, so the
//!    heir alone may serve the database.
//! 2. A writer without an heir needs none: manifests hold everything. That is so if its line ends with a release, and if no
//!    record of it is left and neither is its log.
//! 3. In doubt there is no answer but an error.
//!
//! Each answer comes from a list that began after the question, except for one that cannot change any more. Questions that
//! come together share a list.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::lock::Mutex as AsyncMutex;
use parking_lot::Mutex;

use super::record::OwnerRun;
use super::runs::{End, Entry, Known, Line, Runs};
use crate::seal;
use crate::store::{Store, StoreError};

/// The process that has the log of a writer now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heir {
    /// The last process of this node decides. It may be dead: the coordinator knows.
    Writer { node: String, writer: u64 },
    /// No process needs the log: any node may take the writer's databases.
    Free,
}

/// A log that a process has to take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inherited {
    pub writer: u64,
    /// The writer may be alive, even if its log has no object yet. None of one without a record.
    pub may_begin: bool,
    /// The writer has ended in order, so its log needs no seal.
    pub has_ended: bool,
}

/// A reader of the runs of a fleet, which remembers records.
#[derive(Debug)]
pub struct Heirs {
    store: Arc<Store>,
    /// The process that asks.
    writer: Option<u64>,
    /// How many lists have begun.
    begun: AtomicU64,
    reading: AsyncMutex<Reading>,
    latest: Mutex<Arc<Runs>>,
}

#[derive(Debug, Default)]
struct Reading {
    known: Known,
    /// The number of the latest list that has ended.
    ended: u64,
}

/// The heir of a writer, as one question.
///
/// # Errors
/// As [`Heirs::heir_of`].
pub async fn heir_of(store: &Arc<Store>, writer: u64) -> Result<Heir, StoreError> {
    Heirs::new(Arc::clone(store)).heir_of(writer).await
}

impl Heirs {
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, writer: None, begun: AtomicU64::new(0), reading: AsyncMutex::default(), latest: Mutex::default() }
    }

    /// For the process that writes as `writer`.
    pub(super) fn asked_by(store: Arc<Store>, writer: u64) -> Self {
        Self { writer: Some(writer), ..Self::new(store) }
    }

    /// All runs, by lists that begin after this call.
    pub(super) async fn runs(&self) -> Result<Arc<Runs>, StoreError> {
        let before = self.begun.load(Ordering::SeqCst);
        let mut reading = self.reading.lock().await;
        if reading.ended > before {
            return Ok(Arc::clone(&self.latest.lock()));
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let runs = Arc::new(Runs::read(&self.store, &mut reading.known).await?);
        reading.ended = number;
        *self.latest.lock() = Arc::clone(&runs);
        Ok(runs)
    }

    /// Whether the last writer of a run leads to the process that asks, by the latest list. It does so for good then.
    pub(crate) fn is_known_to_lead_here(&self, run: &OwnerRun) -> bool {
        let runs = Arc::clone(&self.latest.lock());
        let line = runs.last_writer(run).filter(|(_, released)| !released).and_then(|(last, _)| runs.line(last));
        line.is_some_and(|line| matches!(line.end, End::Writer { writer, .. } if Some(writer) == self.writer))
    }

    /// The heir of a writer.
    ///
    /// # Errors
    /// [`StoreError::NoHeir`] when the log of the writer has entries and no node has it. Others when the store refuses.
    pub async fn heir_of(&self, writer: u64) -> Result<Heir, StoreError> {
        let known = self.latest.lock().line(writer);
        if let Some(heir) = known.and_then(|line| self.settled(&line)) {
            return Ok(heir);
        }
        let runs = self.runs().await?;
        let refused = |why: &str| StoreError::NoHeir { writer, why: why.to_owned() };
        let line = match runs.line(writer) {
            Some(line) => line,
            None if !seal::has_files(&self.store, writer).await? => return Ok(Heir::Free),
            None => runs.line_of_unrecorded().ok_or(refused("no record names it"))?,
        };
        if let Some(heir) = self.settled(&line) {
            return Ok(heir);
        }
        if line.passes_release && !seal::has_files(&self.store, writer).await? {
            return Ok(Heir::Free);
        }
        match line.end {
            End::Writer { node, writer } => Ok(Heir::Writer { node, writer }),
            End::Lone => Err(refused("a process without --cluster has it")),
            End::Released { node } => {
                Err(refused(&format!("node `{node}` has adopted it and ended, and must start again")))
            }
        }
    }

    /// The answer, if no request can change it.
    fn settled(&self, line: &Line) -> Option<Heir> {
        match &line.end {
            _ if line.passes_release => None,
            End::Released { .. } => Some(Heir::Free),
            End::Writer { node, writer } if Some(*writer) == self.writer => {
                Some(Heir::Writer { node: node.clone(), writer: *writer })
            }
            _ => None,
        }
    }

    /// The nodes whose last process has neither released its run nor been adopted, with its writer. It may be alive, or dead.
    ///
    /// # Errors
    /// When the store refuses, or a record cannot be read.
    pub async fn holders(&self) -> Result<Vec<(String, u64)>, StoreError> {
        let runs = self.runs().await?;
        let holder = |(run, entries): &(OwnerRun, Vec<Entry>)| {
            let OwnerRun::Node(node) = run else { return None };
            let last = &entries.last()?.record;
            (!last.is_release() && !run.is_adopted_by(last)).then(|| (node.clone(), last.writer))
        };
        Ok(runs.iter().filter_map(holder).collect())
    }

    /// The logs that `heir` has to take over, in the order of their writers.
    ///
    /// # Errors
    /// When the store refuses, or a record cannot be read.
    pub(super) async fn inherited_by(&self, heir: u64) -> Result<Vec<Inherited>, StoreError> {
        let is_own = |line: &Line| matches!(&line.end, End::Writer { writer, .. } if *writer == heir);
        let mut runs = self.runs().await?;
        let mut unrecorded = Vec::new();
        if runs.line_of_unrecorded().as_ref().is_some_and(is_own) {
            // A node's record comes before its log, so what is in this list and then in no record is not a node's.
            let logs = seal::writers(&self.store).await?;
            runs = self.runs().await?;
            unrecorded = logs.into_iter().filter(|writer| !runs.mentions(*writer)).collect();
        }
        let own = runs.writers().filter(|writer| *writer != heir && runs.line(*writer).as_ref().is_some_and(is_own));
        let recorded = own.map(|writer| {
            let has_ended = runs.has_released(writer);
            Inherited { writer, may_begin: !has_ended, has_ended }
        });
        let unrecorded = unrecorded.into_iter().map(|writer| Inherited { writer, may_begin: false, has_ended: false });
        let mut all: Vec<Inherited> = recorded.chain(unrecorded).collect();
        all.sort_unstable_by_key(|inherited| inherited.writer);
        Ok(all)
    }
}

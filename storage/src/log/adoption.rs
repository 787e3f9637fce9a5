//! Taking over the logs of other nodes of a fleet while this one serves.
//!
//! 1. The record that adopts a dead node's run is created ([`crate::owner`]). From then on the logs of that run, and those
//!    that it had inherited, belong to this process, or to the one that takes its run.
//! 2. They are sealed and read, as at a start ([`super::recovery`]).
//! 3. Their files go into the ledger of this log. They are deleted when manifests hold what they say, and can be read back
//!    until then.
//! 4. The caller gets their entries. Only then the logs count as read: a database whose manifest is by one of their writers
//!    may be loaded.
//!
//! A crash after 1. leaves what a crash after 4. leaves: logs that the next process of this node, or its adopter, finds by
//! their lines, and reads.
//!
//! Invariant: this process does not release its run while a log belongs to it that it has not read, or while it does not know
//! whether it has adopted a run. Its lock is held during requests, so nothing else may wait for it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::executor::block_on;
use parking_lot::Mutex;

use super::Log;
use super::recovery::{self, Recovered};
use super::sink::Objects;
use crate::owner::{OwnerRun, Ownership};
use crate::stopwatch::Stopwatch;
use crate::store::{Store, StoreError};

/// The logs of other processes that this one has taken over.
#[derive(Debug, Default)]
pub(super) struct Adoptions {
    /// Held during an adoption.
    turn: Mutex<Turn>,
    /// The writers of the logs that were read, and whose entries the caller has.
    read: Mutex<HashSet<u64>>,
}

#[derive(Debug, Default)]
struct Turn {
    /// Adoptions to which the store has not answered, with the numbers of their records: they may be carried out yet.
    doubtful: BTreeMap<OwnerRun, u64>,
    /// The log is ending: nothing is adopted any more.
    closed: bool,
}

impl Log {
    /// Opens the log of a node of a fleet, as [`Self::open`] does that of a lone process: only logs that belong to this node
    /// are sealed and read.
    ///
    /// # Errors
    /// [`StoreError::NotShared`] for a folder or memory. [`StoreError::NodeName`] when no node can have that name. Others as
    /// [`Self::open`].
    pub fn open_node(
        store: &Arc<Store>,
        node: &str,
        writer: u64,
        clock: fn() -> u64,
        unix_ms: fn() -> u64,
    ) -> Result<(Arc<Log>, Recovered), StoreError> {
        if store.folder().is_some() || store.is_volatile() {
            return Err(StoreError::NotShared);
        }
        let began = Stopwatch::start();
        let sink = Objects::take_node(Arc::clone(store), node, writer, unix_ms)?;
        let inherited: HashSet<u64> = sink.inherited().collect();
        let logs = inherited.len();
        let opened = Self::over(Box::new(sink), writer, clock)?;
        opened.0.adoptions.read.lock().extend(inherited);
        if logs > 0 {
            tracing::info!(ms = began.us() / 1000, node, logs, "earlier logs of this node are sealed and read");
        }
        Ok(opened)
    }

    /// Adopts the run of a node that has died, and takes over the logs that belong to it. Returns whether they belong to this
    /// process now: otherwise another node has adopted them, or the node needs no log. It may be called again after an error,
    /// and again for the same node. It takes a thread for as long as the logs are long.
    ///
    /// `dead` is the process that has died, by its writer: if the node has started again since, it is left alone. Without it
    /// the node's last process is overtaken, whichever it is.
    ///
    /// `take` gets the entries of logs that were read. It may be called even if the run is not adopted.
    ///
    /// # Errors
    /// [`StoreError::LogSealed`] when this process was overtaken itself, or is ending. Others when the store refuses, or a log
    /// cannot be read.
    pub fn adopt(&self, node: &str, dead: Option<u64>, take: &mut dyn FnMut(Recovered)) -> Result<bool, StoreError> {
        let (owner, run) = (self.node_owner()?, OwnerRun::node(node)?);
        let mut turn = self.adoptions.turn.lock();
        turn.check_open()?;
        block_on(owner.look())?;
        if let Some(number) = block_on(owner.adoptable(&run, dead))? {
            turn.doubtful.insert(run.clone(), number);
            if block_on(owner.adopt(&run, number))? {
                tracing::info!(node, number, "adopted a node that has died");
            }
            turn.doubtful.remove(&run);
        }
        self.take_inherited(owner, take)?;
        Ok(owner.heirs().is_known_to_lead_here(&run))
    }

    /// Takes over the logs that belong to this process and that it has not read: those that an earlier process of this node, or
    /// an adopted one, has adopted late. To be called when this process is the heir of a writer whose log it
    /// [has not read](Self::has_read_log_of).
    ///
    /// # Errors
    /// As [`Self::adopt`].
    pub fn inherit(&self, take: &mut dyn FnMut(Recovered)) -> Result<(), StoreError> {
        let owner = self.node_owner()?;
        let turn = self.adoptions.turn.lock();
        turn.check_open()?;
        self.take_inherited(owner, take)
    }

    /// Whether this process of a node has the entries of a writer's log, or is that writer.
    pub fn has_read_log_of(&self, writer: u64) -> bool {
        writer == self.writer || self.adoptions.read.lock().contains(&writer)
    }

    fn node_owner(&self) -> Result<&Arc<Ownership>, StoreError> {
        self.owner.as_ref().filter(|owner| owner.node().is_some()).ok_or(StoreError::NotShared)
    }

    /// Under the turn.
    fn take_inherited(&self, owner: &Arc<Ownership>, take: &mut dyn FnMut(Recovered)) -> Result<(), StoreError> {
        block_on(owner.look())?;
        let mut inherited = block_on(owner.inherited())?;
        inherited.retain(|log| !self.has_read_log_of(log.writer));
        if inherited.is_empty() {
            return Ok(());
        }
        let began = Stopwatch::start();
        let mut sink = Objects::inheriting(Arc::clone(owner), inherited);
        let (recovered, files) = recovery::take_over(&mut sink)?;
        // Before the entries: no file may go whose entries a database reads back.
        self.ledger.lock().add(files);
        take(recovered);
        let logs = {
            let mut read = self.adoptions.read.lock();
            let before = read.len();
            read.extend(sink.inherited());
            read.len() - before
        };
        self.untidy.notify_one();
        tracing::info!(ms = began.us() / 1000, logs, "the logs of other processes are sealed and read");
        Ok(())
    }

    /// Ends a node's run, unless its log or an inherited one is needed: then the heir of this process reads it.
    ///
    /// # Errors
    /// [`StoreError::LogSealed`] when this process was overtaken. Others when the store refuses.
    pub(super) fn release_node(&self, owner: &Arc<Ownership>) -> Result<(), StoreError> {
        // An adoption is under way: its logs are not read yet.
        let Some(mut turn) = self.adoptions.turn.try_lock() else { return Ok(()) };
        turn.closed = true;
        block_on(owner.look())?;
        let files = self.files();
        if files > 0 {
            tracing::info!(
                files,
                "databases need the log: it is left to the next process of this node, or to its adopter"
            );
            return Ok(());
        }
        for (run, number) in &turn.doubtful {
            if !block_on(owner.reaches(run, *number))? {
                return Ok(());
            }
        }
        // The adoption may have been carried out after all.
        if block_on(owner.inherited())?.iter().any(|log| !self.has_read_log_of(log.writer)) {
            return Ok(());
        }
        block_on(owner.release())
    }
}

impl Turn {
    fn check_open(&self) -> Result<(), StoreError> {
        if self.closed { Err(StoreError::LogSealed) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;

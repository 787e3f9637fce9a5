//! One run of steps with several writers: the nodes of a fleet.
//!
//! 1. A node decides with the records that it has in memory, and creates the step after the last one that it knows. If it
//!    succeeds, no other step came between, so the decision was made with the newest records.
//! 2. If the number is taken, another node was first. Nothing was written. The node reads the steps up to the last one,
//!    decides again, and tries the next number ([`DirectoryCommit::Overtaken`]).
//! 3. A step whose write failed is written again under its number before any other. If another node has the number, the
//!    own step does not exist and never will. Its caller was told of the failure, so it is dropped.
//! 4. A node *follows*: it reads the steps after the last one that it knows.
//! 5. Any node writes snapshots, and deletes the steps that they replace. So a node that was away for long may find a number
//!    free that was taken once, or take the end of what is left for the end of the run. Therefore neither a step that was
//!    created nor the end of a run counts before the node has looked whether later steps were deleted. If so, it reads
//!    everything again.
//!
//! For the last point each node remembers a snapshot before its last step, the *anchor*. Snapshots before the older of the two
//! that are kept are deleted before any step that this one replaces. So no step after the anchor was deleted while the
//! anchor is there. A node that was away while it wrote a snapshot may write one that was deleted before. Such a
//! snapshot has another writer, and is older than the two that are kept; the node checks both before it takes an anchor, and the
//! writer whenever it looks at it. Without an anchor it lists the objects: a step may be deleted only if the older of the
//! two newest snapshots has its number or a later one.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::format::{self, DirectoryChange, DirectoryKind};
use super::news::{DirectoryCommit, DirectoryNews};
use super::{DirectoryLog, DirectoryObjects, DirectoryWriters, READS_TOGETHER};
use super::{read_contents, snapshot_name, step_name};
use crate::store::{Store, StoreError};

/// The bytes of an object up to its writer.
const HEADER_BYTES: u64 = 8 + 4 + 1 + 8 + 8;
/// Each time, so many times as many steps are read at once, since there were more.
const READS_GROW: u64 = 4;

impl DirectoryLog {
    /// Reads the steps that other nodes have written since, at least up to `heard` if that exists. Returns their changes. A
    /// sole writer knows all of them.
    ///
    /// # Errors
    /// When the store refuses: nothing has changed.
    pub async fn follow(&mut self, heard: u64) -> Result<DirectoryNews, StoreError> {
        match self.writers {
            DirectoryWriters::Sole => Ok(DirectoryNews::default()),
            DirectoryWriters::Shared => self.read_on(heard).await,
        }
    }

    /// Whether a snapshot is needed even if other nodes may have written one.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn snapshot_is_due(&mut self) -> Result<bool, StoreError> {
        if self.writers == DirectoryWriters::Shared && self.needs_snapshot() {
            let newest = DirectoryObjects::list(&self.store).await?.snapshots.last().copied();
            if let Some(newest) = newest.filter(|newest| newest + self.steps > self.number) {
                (self.steps, self.bytes) = (self.number.saturating_sub(newest), 0);
            }
        }
        Ok(self.needs_snapshot())
    }

    pub(super) async fn settle_shared(&mut self) -> Result<DirectoryNews, StoreError> {
        if !self.is_unsure() {
            return Ok(DirectoryNews::default());
        }
        match self.attempt(false).await {
            Ok(Some(changes)) => Ok(changes.into()),
            Ok(None) => self.read_on(0).await,
            Err(error) if error.is_missing() => self.read_on(0).await,
            Err(error) => Err(error),
        }
    }

    pub(super) async fn commit_shared(&mut self, changes: Vec<DirectoryChange>) -> Result<DirectoryCommit, StoreError> {
        let news = self.settle_shared().await?;
        if !news.is_empty() {
            return Ok(DirectoryCommit::Overtaken(news));
        }
        self.unsure = Some((self.encode(&changes), changes));
        match self.attempt(true).await? {
            Some(changes) => Ok(DirectoryCommit::Made { news, changes }),
            None => Ok(DirectoryCommit::Overtaken(self.read_on(0).await?)),
        }
    }

    /// Writes the unsure step. Returns its changes if they are durable. Else it does not exist, and never will.
    /// `is_first`: whether it cannot exist yet.
    ///
    /// # Errors
    /// When the store refuses: the step is as unsure as before. [`StoreError::Missing`]: this node was away for so long that
    /// another attempt would not tell more, until it has read everything again.
    async fn attempt(&mut self, is_first: bool) -> Result<Option<Vec<DirectoryChange>>, StoreError> {
        let Some((bytes, _)) = &self.unsure else { return Ok(None) };
        let (name, bytes) = (step_name(self.number + 1), bytes.clone());
        let is_own = match self.store.put_new(&name, bytes.clone()).await {
            Ok(()) => true,
            // If it is the same, an earlier attempt has succeeded. One that was deleted meanwhile may have been the own one.
            Err(StoreError::Exists { .. }) => self.store.get(&name).await? == bytes,
            Err(error) => {
                // A full store has written nothing.
                self.unsure.take_if(|_| is_first && matches!(error, StoreError::Full { .. }));
                return Err(error);
            }
        };
        self.look().await?;
        if !is_own {
            self.unsure = None;
            return Ok(None);
        }
        if !self.is_in_run().await? {
            // Either the number was free because a step was deleted, or the own one was made, and replaced since.
            return Err(StoreError::Missing { name });
        }
        let changes = self.unsure.take().map(|(_, changes)| changes).unwrap_or_default();
        self.note(bytes.len());
        Ok(Some(changes))
    }

    async fn read_on(&mut self, heard: u64) -> Result<DirectoryNews, StoreError> {
        let mut found: Vec<(usize, Vec<DirectoryChange>)> = Vec::new();
        let mut together = heard.saturating_sub(self.number).clamp(1, READS_TOGETHER as u64);
        loop {
            let from = self.number + 1 + found.len() as u64;
            let numbers = futures::stream::iter(from..from + together);
            let read = numbers.map(|number| read_step(&self.store, number)).buffered(READS_TOGETHER);
            let steps: Vec<Option<(usize, Vec<DirectoryChange>)>> = read.try_collect().await?;
            let is_end = steps.iter().any(Option::is_none);
            found.extend(steps.into_iter().map_while(|step| step));
            if is_end {
                break;
            }
            together = (together * READS_GROW).min(READS_TOGETHER as u64);
        }
        if !self.is_in_run().await? {
            return self.read_again().await;
        }
        if !found.is_empty() {
            // It is the first of them, or its number is taken.
            self.unsure = None;
        }
        let mut changes = Vec::new();
        for (bytes, step) in found {
            self.note(bytes);
            changes.extend(step);
        }
        Ok(changes.into())
    }

    /// Reads everything, because steps after the last one that is known were deleted.
    async fn read_again(&mut self) -> Result<DirectoryNews, StoreError> {
        let contents = read_contents(&self.store).await?;
        if contents.objects.last() <= self.number {
            return Err(StoreError::Missing { name: step_name(self.number + 1) });
        }
        (self.unsure, self.anchor) = (None, None);
        Ok(DirectoryNews { is_whole: true, changes: self.adopt(contents) })
    }

    /// Whether no step after the last one that is known was deleted.
    async fn is_in_run(&mut self) -> Result<bool, StoreError> {
        if let Some((number, header)) = self.anchor.take()
            && read_header(&self.store, number).await?.is_some_and(|found| found == header)
        {
            self.anchor = Some((number, header));
            return Ok(true);
        }
        let mut objects = DirectoryObjects::list(&self.store).await?;
        let mut anchor = None;
        if let Some(&number) = objects.snapshots.range(..=self.number).next_back() {
            anchor = read_header(&self.store, number).await?.map(|header| (number, header));
            // If it is one of the kept ones after it was read, it was never deleted before.
            objects = DirectoryObjects::list(&self.store).await?;
        }
        let kept = objects.kept().unwrap_or(0);
        if kept > self.number {
            return Ok(false);
        }
        self.anchor = anchor.filter(|(number, _)| *number >= kept);
        Ok(true)
    }
}

/// Reads a step, if it exists, and its length in bytes.
async fn read_step(store: &Store, number: u64) -> Result<Option<(usize, Vec<DirectoryChange>)>, StoreError> {
    let name = step_name(number);
    let bytes = match store.get(&name).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error),
    };
    let changes = format::decode(&bytes, DirectoryKind::Changes, number);
    changes.map(|changes| Some((bytes.len(), changes))).map_err(|error| StoreError::corrupt(&name, error))
}

/// Reads the first bytes of a snapshot, if it exists.
async fn read_header(store: &Store, number: u64) -> Result<Option<Bytes>, StoreError> {
    match store.get_range(&snapshot_name(number), 0..HEADER_BYTES).await {
        Ok(bytes) => Ok(Some(bytes)),
        // One that is damaged is no anchor.
        Err(StoreError::Missing { .. } | StoreError::Corrupt { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;

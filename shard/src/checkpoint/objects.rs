//! The objects of a checkpoint: chunks and tails that its manifest will name.
//!
//! Invariants: no two checkpoints of a process use one name, not even if one has failed; a failed checkpoint deletes what it has
//! put, unless its manifest may have been committed. On a full disk the reserve is used.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use dormouse_storage::chunk::ChunkWriter;
use dormouse_storage::manifest::{ChunkInfo, Manifest, Names, TailInfo};
use dormouse_storage::store::StoreError;
use dormouse_storage::tail::{Tail, TailRecord, encode_tail};
use futures::channel::oneshot;

use super::Report;
use super::assembly::{needed_only, tails_to_merge};
use crate::database::{Database, read_error, store_error};
use crate::error::{Error, Result};
use crate::keyspace::Contents;

/// The output of a checkpoint, written or about to be.
#[derive(Default)]
pub(super) struct Output {
    pub(super) writer: ChunkWriter,
    pub(super) chunks: Vec<ChunkInfo>,
    pub(super) report: Report,
    /// The last chunk, while the next one is filled.
    putting: Option<Putting>,
    /// Names of all objects that it has put, or has tried to.
    pub(super) objects: Vec<String>,
    /// The manifest may have been committed.
    is_doubtful: bool,
    /// Contents that serve no client any more.
    pub(super) retired: Option<Vec<Contents>>,
    /// No client waits for the checkpoint.
    pub(super) is_patient: bool,
}

/// A chunk that is being put.
pub(super) struct Putting {
    name: String,
    bytes: Bytes,
    done: oneshot::Receiver<std::result::Result<(), StoreError>>,
}

impl Database {
    pub(super) async fn put_chunk(&self, manifest: &mut Manifest, names: &Names, output: &mut Output) -> Result<()> {
        if output.writer.is_empty() {
            return Ok(());
        }
        let name = names.chunk(manifest.epoch, manifest.writer, self.take_number(manifest));
        let bytes = output.writer.finish(&manifest.origin());
        let info = ChunkInfo { name, bytes: bytes.len() as u64 };
        output.report.bytes += info.bytes;
        self.finish_put(output).await?;
        output.objects.push(info.name.clone());
        let (store, object) = (Arc::clone(&self.engine.store), (info.name.clone(), bytes.clone()));
        let put = async move { store.put_new(&object.0, object.1).await };
        let done = if output.is_patient { self.patient.begin_write(put).await } else { self.in_background(put) };
        output.putting = Some(Putting { name: info.name.clone(), bytes, done });
        output.chunks.push(info);
        Ok(())
    }

    /// Waits until the chunk that is being put is in the store. On a full disk the reserve is used.
    pub(super) async fn finish_put(&self, output: &mut Output) -> Result<()> {
        let Some(Putting { name, bytes, done }) = output.putting.take() else { return Ok(()) };
        match done.await {
            Ok(Err(StoreError::Full { .. })) if self.makes_room(bytes.len()) => self.put(&name, bytes).await,
            Ok(put) => put.map_err(store_error),
            Err(_) => Err(Error::Store(format!("chunk {name} was not written"))),
        }
    }

    fn in_background<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        self.engine.background.spawn(async move { drop(sender.send(work.await)) });
        receiver
    }

    /// Writes a tail of the changes in places that were not written whole, merged with the newest earlier tails.
    pub(super) async fn put_tail(
        &self,
        manifest: &mut Manifest,
        names: &Names,
        mut records: Vec<TailRecord>,
        output: &mut Output,
    ) -> Result<()> {
        needed_only(manifest, &mut records);
        if records.is_empty() {
            return Ok(());
        }
        let bytes = records.iter().map(|record| record.body.len() as u64 + 16).sum();
        for info in tails_to_merge(manifest, bytes) {
            let tail = Tail::read(&self.engine.store, &info.name).await.map_err(read_error)?;
            // Older ones first: a value that was seen later may bear the number of the last effect that it holds.
            records.splice(..0, tail.all().map_err(read_error)?);
        }
        self.put_new_tail(manifest, names, records, output).await
    }

    /// Writes the same as a tail of its own, beside the earlier ones.
    pub(super) async fn put_new_tail(
        &self,
        manifest: &mut Manifest,
        names: &Names,
        mut records: Vec<TailRecord>,
        output: &mut Output,
    ) -> Result<()> {
        needed_only(manifest, &mut records);
        if records.is_empty() {
            return Ok(());
        }
        let count = records.len() as u64;
        let first = records.iter().map(|record| record.sequence).min().unwrap_or(1);
        let name = names.tail(manifest.epoch, manifest.writer, self.take_number(manifest));
        let object = encode_tail(records);
        let info =
            TailInfo { name, bytes: object.len() as u64, effects: count, from_sequence: first.saturating_sub(1) };
        output.report.bytes += info.bytes;
        output.objects.push(info.name.clone());
        self.put(&info.name, object).await?;
        manifest.tails.push(info);
        Ok(())
    }

    /// Step 4 itself. On a full disk the reserve is used.
    pub(super) async fn commit_with_reserve(
        &self,
        manifest: &mut Manifest,
        output: &mut Output,
    ) -> std::result::Result<(), StoreError> {
        loop {
            match self.commit(manifest).await {
                Err(StoreError::Full { .. }) if self.makes_room(0) => {}
                Err(error) => {
                    // Without an answer it may be committed all the same, and name the written objects.
                    output.is_doubtful = !matches!(error, StoreError::Full { .. });
                    return Err(error);
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Deletes the objects of a failed checkpoint, as no manifest will ever name them.
    pub(super) async fn take_back(&self, mut output: Output) {
        if let Some(putting) = output.putting.take() {
            // Whether or not it succeeds, it is not under way any more when it is deleted.
            let _ = putting.done.await;
        }
        if output.is_doubtful || output.objects.is_empty() {
            return;
        }
        if let Err(error) = self.engine.store.delete_many(&output.objects).await {
            // The next collection finds it.
            tracing::debug!(database = self.name(), %error, "failed to delete the objects of a failed checkpoint");
        }
    }

    /// Puts an object that the manifest will name. On a full disk the reserve is used.
    pub(super) async fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        loop {
            match self.engine.store.put_new(name, bytes.clone()).await {
                Err(StoreError::Full { .. }) if self.makes_room(bytes.len()) => {}
                put => return put.map_err(store_error),
            }
        }
    }

    fn makes_room(&self, bytes: usize) -> bool {
        self.engine.log.as_ref().is_some_and(|log| log.make_room(bytes as u64))
    }

    /// A number for an object's name that no checkpoint of this process has used, not even one that failed.
    pub(super) fn take_number(&self, manifest: &mut Manifest) -> u64 {
        let number = self.next_object.fetch_max(manifest.next_object, Ordering::SeqCst).max(manifest.next_object);
        self.next_object.store(number + 1, Ordering::SeqCst);
        manifest.next_object = number + 1;
        number
    }
}

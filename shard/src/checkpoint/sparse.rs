//! Sparse chunks: a checkpoint copies the segments that it still needs of them together, in stored form.

use bytes::Bytes;
use dormouse_storage::chunk::{SegmentLocation, read_segment};
use dormouse_storage::codec::segment::SegmentBody;
use dormouse_storage::manifest::{Manifest, Names};
use dormouse_types::segment::Range53;

use super::assembly::sparse_chunks;
use super::objects::Output;
use crate::database::Database;
use crate::error::Result;

/// Bytes of segments that one checkpoint copies out of sparse chunks.
const COPIED_BYTES_MAX: u64 = 32 << 20;

impl Database {
    /// Copies the segments of chunks that are hardly used into new ones, some at a time, and returns the copied ones.
    /// Places that are not in memory are told their new location.
    pub(super) async fn copy_sparse_chunks(
        &self,
        manifest: &mut Manifest,
        names: &Names,
        output: &mut Output,
    ) -> Result<Vec<(u32, Range53)>> {
        let sparse = sparse_chunks(manifest);
        let mut copied = Vec::new();
        let mut bytes = 0;
        for at in 0..manifest.segments.len() {
            let old = manifest.segments[at];
            if !old.has_body() || !sparse.contains(&old.location.chunk) || bytes > COPIED_BYTES_MAX {
                continue;
            }
            // A damaged or missing one stays where it is, so that it can be repaired.
            let Some(body) = self.read_sealed(manifest, old.location, old.range, old.crc).await else { continue };
            let Ok(body) = SegmentBody::of_sealed(&body) else { continue };
            bytes += old.location.len;
            let entry = output.writer.push(old.keyspace, old.range, old.sequence, &body);
            let chunk = (manifest.chunks.len() + output.chunks.len()) as u32;
            manifest.segments[at].location = SegmentLocation { chunk, ..entry.location() };
            copied.push((old.keyspace, old.range));
            if output.writer.is_full() {
                self.put_chunk(manifest, names, output).await?;
            }
        }
        for at in 0..manifest.pieces.len() {
            let old = manifest.pieces[at];
            if !sparse.contains(&old.location.chunk) || bytes > COPIED_BYTES_MAX {
                continue;
            }
            let Some(owner) = manifest.segment(old.keyspace, old.start).copied() else { continue };
            let Some(piece) = self.read_sealed(manifest, old.location, owner.range, old.crc).await else { continue };
            let Ok(piece) = SegmentBody::of_sealed_piece(&piece) else { continue };
            bytes += old.location.len;
            let entry = output.writer.push_piece(old.keyspace, owner.range, owner.sequence, old.number, &piece);
            let chunk = (manifest.chunks.len() + output.chunks.len()) as u32;
            manifest.pieces[at].location = SegmentLocation { chunk, ..entry.location() };
            copied.push((old.keyspace, owner.range));
            if output.writer.is_full() {
                self.put_chunk(manifest, names, output).await?;
            }
        }
        copied.dedup();
        self.put_chunk(manifest, names, output).await?;
        manifest.chunks.append(&mut output.chunks);
        Ok(copied)
    }

    /// A body or piece as it is stored; none where it cannot be read.
    async fn read_sealed(
        &self,
        manifest: &Manifest,
        location: SegmentLocation,
        range: Range53,
        crc: u64,
    ) -> Option<Bytes> {
        let chunk = &manifest.chunks[location.chunk as usize].name;
        let bytes = location.offset..location.offset + location.len;
        read_segment(&self.engine.store, chunk, bytes, range, crc).await.ok()
    }
}

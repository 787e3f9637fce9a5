//! Pages: the segments of one aligned range of positions. [`super::paged`] says what they are for.

use std::ops::Range;

use dormouse_types::segment::Range53;

use super::{ChunkInfo, PieceInfo, SegmentInfo, check_segments};

/// Segments of one page at most.
pub(super) const PAGE_SEGMENTS: usize = 32;

/// The root's description of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageInfo {
    pub keyspace: u32,
    /// This range contains the ranges of all its segments.
    pub range: Range53,
    pub segments: u32,
    pub records: u32,
    /// How many of the records have an expiry.
    pub expiring: u32,
    /// Whether tails hold effects for some of its segments.
    pub is_tailed: bool,
    /// Its location in the object.
    pub(super) bytes: Range<u64>,
    pub(super) crc: u64,
}

/// The segments of one page, and their pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub segments: Vec<SegmentInfo>,
    pub pieces: Vec<PieceInfo>,
}

impl PageInfo {
    /// Of segments that are `bytes` of the object.
    pub(super) fn of(segments: &[SegmentInfo], range: Range53, bytes: Range<u64>, crc: u64) -> PageInfo {
        PageInfo {
            keyspace: segments.first().map_or(0, |segment| segment.keyspace),
            range,
            segments: segments.len() as u32,
            // They fit, see `cut`.
            records: segments.iter().map(|segment| segment.records).fold(0, u32::wrapping_add),
            expiring: segments.iter().map(|segment| segment.expiring).fold(0, u32::wrapping_add),
            is_tailed: segments.iter().any(|segment| segment.seen > segment.sequence),
            bytes,
            crc,
        }
    }
}

impl Page {
    /// Returns the page's fault, if it has one.
    pub(super) fn check(&self, info: &PageInfo, chunks: &[ChunkInfo]) -> Result<(), &'static str> {
        let Some(last) = self.segments.last() else { return Err("a page without segments") };
        let is_inside =
            |segment: &SegmentInfo| segment.keyspace == info.keyspace && segment.range.start >= info.range.start;
        if !self.segments.iter().all(is_inside) || last.range.end() > info.range.end() {
            return Err("a segment outside of its page");
        }
        check_segments(chunks, &self.segments, &self.pieces)?;
        if !fits_counts(&self.segments)
            || PageInfo::of(&self.segments, info.range, info.bytes.clone(), info.crc) != *info
        {
            return Err("a page with other segments than its manifest says");
        }
        Ok(())
    }
}

/// The pages of segments in order: the range of each, and its segments.
pub(super) fn cut<'s>(mut segments: &'s [SegmentInfo], shard_cuts: &[u16]) -> Vec<(Range53, &'s [SegmentInfo])> {
    let mut pages = Vec::with_capacity(segments.len() / (PAGE_SEGMENTS / 2) + 1);
    while let Some(first) = segments.first() {
        let len = segments.partition_point(|segment| segment.keyspace == first.keyspace);
        cut_range(Range53::WHOLE, &segments[..len], shard_cuts, &mut pages);
        segments = &segments[len..];
    }
    pages
}

fn cut_range<'s>(
    range: Range53,
    segments: &'s [SegmentInfo],
    shard_cuts: &[u16],
    pages: &mut Vec<(Range53, &'s [SegmentInfo])>,
) {
    let Some(first) = segments.first() else { return };
    let is_whole = first.range.bits >= range.bits;
    let is_small = segments.len() <= PAGE_SEGMENTS && fits_counts(segments);
    if is_whole || is_small && !shard_cuts.iter().any(|cut| is_inside(range, *cut)) {
        pages.push((range, segments));
        return;
    }
    let (left, right) = range.halves();
    let (before, after) = segments.split_at(segments.partition_point(|segment| segment.range.start < right.start));
    cut_range(left, before, shard_cuts, pages);
    cut_range(right, after, shard_cuts, pages);
}

/// Whether the counts of all of them fit where a page's counts do.
fn fits_counts(segments: &[SegmentInfo]) -> bool {
    segments.iter().map(|segment| u64::from(segment.records)).sum::<u64>() <= u64::from(u32::MAX)
}

/// Whether a slot begins inside a range, rather than with it.
pub(super) fn is_inside(range: Range53, slot: u16) -> bool {
    let start = u64::from(slot) << 39;
    range.start < start && start < range.end()
}

/// Those of `pieces`, which are in order, that belong to segments that follow each other.
pub(super) fn pieces_of<'p>(pieces: &'p [PieceInfo], segments: &[SegmentInfo]) -> &'p [PieceInfo] {
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else { return &[] };
    let owner = |segment: &SegmentInfo| (segment.keyspace, segment.range.start);
    let start = pieces.partition_point(|piece| piece.owner() < owner(first));
    let len = pieces[start..].partition_point(|piece| piece.owner() <= owner(last));
    &pieces[start..start + len]
}

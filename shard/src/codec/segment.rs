//! The records of one segment, as they lie in a chunk.

/// One encoded segment, ready for a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentBody {
    /// A sealed block, see [`super::block`].
    pub bytes: Vec<u8>,
    /// Bytes before compression.
    pub raw_len: u64,
    pub records: u32,
    /// How many of the records have an expiry.
    pub expiring: u32,
    /// The checksum that `bytes` ends with.
    pub crc: u64,
}

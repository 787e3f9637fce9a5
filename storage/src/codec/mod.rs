//! How values and records become bytes and back.
//!
//! | module | holds |
//! | --- | --- |
//! | [`reader`] | a cursor over untrusted bytes |
//! | [`block`] | compressed, checksummed runs of bytes, of which all durable objects consist |
//! | [`string`], [`lzf`] | RDB's strings and the compression that some have |
//! | [`ziplist`] | the format in which Redis packed collections before listpacks |
//! | [`value`] | RDB's encodings of values: for chunks, `DUMP` and `RESTORE`, RDB files |
//! | [`dump`] | a value on its own, the payload of `DUMP` |
//! | [`segment`] | the records of one segment |
//!
//! Everything here reads bytes that may have been damaged or forged. The rules: a length is compared with what is left
//! before anything is allocated for it, nothing panics, nothing recurses, and whatever is not exactly what a writer
//! would have written (unsorted, repeated, trailing) is an error rather than a guess.

pub mod block;
pub mod dump;
pub mod functions;
pub mod lzf;
pub mod reader;
pub mod segment;
pub mod string;
pub mod value;
pub mod ziplist;

pub use self::reader::Reader;

use std::ops::Range;

use dormouse_types::segment::{PREFIX_BITS, PREFIX_END, Range53};

/// The reason why bytes could not be decoded, as text for a message that names the object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("ends too early")]
    Truncated,
    #[error("checksum mismatch (stored {stored:016x}, computed {computed:016x})")]
    Checksum { stored: u64, computed: u64 },
    #[error("not a {0}")]
    Magic(&'static str),
    #[error("{what} of format version {version}, which this build cannot read")]
    Version { what: &'static str, version: u32 },
    #[error("value of type {0}, which this build cannot read")]
    Type(u8),
    #[error("malformed: {0}")]
    Malformed(&'static str),
}

/// CRC-64 of Jones, as Redis has it, used in RDB files, in `DUMP` payloads and in all of our objects.
///
/// Its initial value is zero, so a run of zero bytes has the checksum zero. Contents sealed with it must therefore
/// never be valid as all zeros, which a file system may leave after a power cut.
pub fn checksum(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Redis, bytes)
}

/// The same of parts, one after the other.
pub fn checksum_of(parts: &[&[u8]]) -> u64 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Redis);
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize()
}

/// The first 12 bytes of every durable object: 8 that name the format, then its version, u32 LE.
pub const HEADER_BYTES: usize = 12;

pub(crate) fn write_header(out: &mut Vec<u8>, magic: &[u8; 8], version: u32) {
    out.extend_from_slice(magic);
    out.extend_from_slice(&version.to_le_bytes());
}

/// Checks the header; returns the version, which is at least 1 and at most `newest`.
pub(crate) fn read_header(
    reader: &mut Reader<'_>,
    magic: &[u8; 8],
    what: &'static str,
    newest: u32,
) -> Result<u32, CodecError> {
    if reader.take(8).ok() != Some(magic) {
        return Err(CodecError::Magic(what));
    }
    match reader.u32_le()? {
        0 => Err(CodecError::Malformed("format version 0")),
        version if version > newest => Err(CodecError::Version { what, version }),
        version => Ok(version),
    }
}

/// A range of positions: its start as a varint, then its bits. It must be aligned.
pub(crate) fn read_range(reader: &mut Reader<'_>) -> Result<Range53, CodecError> {
    let (start, bits) = (reader.varint()?, reader.u8()?);
    checked_range(start, bits)
}

pub(crate) fn checked_range(start: u64, bits: u8) -> Result<Range53, CodecError> {
    if u32::from(bits) > PREFIX_BITS || start >= PREFIX_END || start & ((1 << bits) - 1) != 0 {
        return Err(CodecError::Malformed("range of positions"));
    }
    Ok(Range53 { start, bits })
}

const TRAILER_BYTES: usize = 16;

/// Ends an object that has an index: the index as a sealed block, its length on disk, u64 LE, and 8 bytes that tell a
/// complete object.
pub(crate) fn write_trailer(object: &mut Vec<u8>, index: &[u8], end_magic: &[u8; 8]) {
    let start = object.len();
    block::seal_into(index, object);
    let length = (object.len() - start) as u64;
    object.extend_from_slice(&length.to_le_bytes());
    object.extend_from_slice(end_magic);
}

/// The location of the index in an object of `size` bytes that ends with `end`.
pub(crate) fn read_trailer(
    end: &[u8],
    size: u64,
    end_magic: &[u8; 8],
    what: &'static str,
) -> Result<Range<u64>, CodecError> {
    let trailer = end.last_chunk::<TRAILER_BYTES>().ok_or(CodecError::Truncated)?;
    let mut reader = Reader::new(trailer);
    let length = reader.u64_le()?;
    if reader.take(8)? != end_magic {
        return Err(CodecError::Magic(what));
    }
    let index_end = size - TRAILER_BYTES as u64;
    match index_end.checked_sub(length) {
        Some(start) if start >= HEADER_BYTES as u64 => Ok(start..index_end),
        _ => Err(CodecError::Malformed("length of the index")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Hands every truncation and every changed bit of `bytes` to `refused`, which must say that it is.
    pub(crate) fn for_each_damage(bytes: &[u8], refused: impl Fn(&[u8]) -> bool) {
        for length in 0..bytes.len() {
            assert!(refused(&bytes[..length]), "the first {length} of {} bytes were accepted", bytes.len());
        }
        let mut damaged = bytes.to_vec();
        for bit in 0..bytes.len() * 8 {
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(&damaged), "a change of bit {bit} was accepted");
            damaged[bit / 8] ^= 1 << (bit % 8);
        }
        damaged.push(0);
        assert!(refused(&damaged), "a trailing byte was accepted");
    }

    #[test]
    fn the_checksum_is_redis_own() {
        assert_eq!(checksum(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        assert_eq!(checksum(b""), 0);
    }
}

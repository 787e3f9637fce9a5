//! Compressed, checksummed runs of bytes, of which all durable objects consist.
//!
//! ```text
//! +--------+------------+-----------------+------------------------------+
//! | method | raw length | payload         | CRC-64 of all before, u64 LE |
//! | u8     | varint     |                 |                              |
//! +--------+------------+-----------------+------------------------------+
//! method 1: the payload is the raw bytes        2: it is one LZ4 block
//! ```
//!
//! The checksum covers the bytes on disk, so it is checked before anything is decompressed. There is no method 0: a
//! block of zeros, whose checksum would be right, is none.

use std::borrow::Cow;

use dormouse_types::pace;

use super::{CodecError, Reader, checksum, reader::write_varint};

const STORED: u8 = 1;
const LZ4: u8 = 2;
const CHECKSUM_BYTES: usize = 8;

/// LZ4 works on at most 2 GiB; larger blocks are stored uncompressed.
const COMPRESSED_RAW_MAX: usize = 1 << 30;
/// Below this size LZ4 does not pay.
const COMPRESSED_RAW_MIN: usize = 32;
/// Of a block with more than one such stretch, the first bytes of each are compressed as a sample.
const STRETCH: usize = 32 << 10;
const SAMPLE: usize = 4 << 10;
/// A sample that shrinks by less than one part in this many does not pay.
const GAIN_FRACTION: usize = 8;
/// Bytes that are compressed in about the time of one element looked at.
const COMPRESSED_PER_STEP: usize = 32;
/// The largest expansion of LZ4: a byte stands for at most 255 bytes.
const LZ4_RATIO_MAX: u64 = 255;

/// The checksum that a sealed block ends with, or zero for something too short to be one.
pub fn stored_checksum(block: &[u8]) -> u64 {
    block.last_chunk().copied().map_or(0, u64::from_le_bytes)
}

/// Compresses (unless that would not make it smaller) and seals `raw`.
pub fn seal(raw: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    seal_into(raw, &mut block);
    block
}

/// Like [`seal`], appended to `out`.
pub fn seal_into(raw: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    if !compress_into(raw, out) {
        out.truncate(start);
        out.reserve(raw.len() + 1 + 10 + CHECKSUM_BYTES);
        out.push(STORED);
        write_varint(out, raw.len() as u64);
        out.extend_from_slice(raw);
    }
    let sum = checksum(&out[start..]);
    out.extend_from_slice(&sum.to_le_bytes());
}

/// Appends everything but the checksum; false when it does not pay, with `out` in disorder.
fn compress_into(raw: &[u8], out: &mut Vec<u8>) -> bool {
    if !(COMPRESSED_RAW_MIN..=COMPRESSED_RAW_MAX).contains(&raw.len()) {
        return false;
    }
    out.push(LZ4);
    write_varint(out, raw.len() as u64);
    let payload = out.len();
    if raw.len() > STRETCH && !shrinks(raw, out) {
        return false;
    }
    pace::step(raw.len() / COMPRESSED_PER_STEP);
    out.resize(payload + lz4_flex::block::get_maximum_output_size(raw.len()), 0);
    match lz4_flex::block::compress_into(raw, &mut out[payload..]) {
        Ok(length) if length < raw.len() => {
            out.truncate(payload + length);
            true
        }
        _ => false,
    }
}

/// Whether a sample of `raw` shrinks enough. Most of the work of a checkpoint would be the compression, and a good part
/// of a load's the opposite, even if the values do not shrink. `out`: the sample is compressed behind its end.
fn shrinks(raw: &[u8], out: &mut Vec<u8>) -> bool {
    let end = out.len();
    out.resize(end + lz4_flex::block::get_maximum_output_size(SAMPLE), 0);
    let (mut before, mut after) = (0, 0);
    for stretch in raw.chunks(STRETCH) {
        let sample = &stretch[..stretch.len().min(SAMPLE)];
        before += sample.len();
        after += lz4_flex::block::compress_into(sample, &mut out[end..]).unwrap_or(sample.len());
    }
    after <= before - before / GAIN_FRACTION
}

/// Checks a sealed block without decompressing it; returns its checksum.
pub fn verify(block: &[u8]) -> Result<u64, CodecError> {
    let (body, stored) = block.split_last_chunk::<CHECKSUM_BYTES>().ok_or(CodecError::Truncated)?;
    let (stored, computed) = (u64::from_le_bytes(*stored), checksum(body));
    if stored == computed { Ok(stored) } else { Err(CodecError::Checksum { stored, computed }) }
}

/// Checks and decompresses a whole sealed block.
pub fn open(block: &[u8]) -> Result<Cow<'_, [u8]>, CodecError> {
    verify(block)?;
    let body = &block[..block.len() - CHECKSUM_BYTES];
    let mut reader = Reader::new(body);
    let method = reader.u8()?;
    let raw_length = reader.varint()?;
    let payload = reader.rest();
    match method {
        STORED if raw_length == payload.len() as u64 => Ok(Cow::Borrowed(payload)),
        STORED => Err(CodecError::Malformed("length of a stored block")),
        LZ4 => {
            if raw_length > COMPRESSED_RAW_MAX as u64 || raw_length > payload.len() as u64 * LZ4_RATIO_MAX {
                return Err(CodecError::Malformed("length of a compressed block"));
            }
            match lz4_flex::block::decompress(payload, raw_length as usize) {
                Ok(raw) if raw.len() as u64 == raw_length => Ok(Cow::Owned(raw)),
                _ => Err(CodecError::Malformed("compressed block")),
            }
        }
        _ => Err(CodecError::Malformed("unknown compression")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_survive(raw in proptest::collection::vec(0u8..4, 0..5000), before in 0usize..3) {
            let mut out = vec![7; before];
            seal_into(&raw, &mut out);
            prop_assert_eq!(open(&out[before..]).unwrap(), &raw[..]);
            prop_assert_eq!(stored_checksum(&out), checksum(&out[before..out.len() - 8]));
        }

        #[test]
        fn noise_is_no_block(bytes: Vec<u8>) {
            prop_assert!(open(&bytes).is_err());
        }
    }

    #[test]
    fn what_does_not_shrink_is_stored() {
        let noise: Vec<u8> = (0u64..500).flat_map(|i| checksum(&i.to_le_bytes()).to_le_bytes()).collect();
        assert_eq!(seal(&noise).len(), noise.len() + 3 + 8);
        assert!(seal(&[b'x'; 4000]).len() < 60);
    }

    #[test]
    fn damage_and_zeros_are_refused() {
        for raw in [vec![], vec![b'a'; 1000], (0..40).collect()] {
            let block = seal(&raw);
            for length in 0..block.len() {
                assert!(open(&block[..length]).is_err());
            }
            for bit in 0..block.len() * 8 {
                let mut damaged = block.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(open(&damaged).is_err());
            }
        }
        assert!(open(&[0; 64]).is_err());
    }

    #[test]
    fn a_forged_length_allocates_nothing() {
        for (method, length) in [(LZ4, u64::MAX), (LZ4, 1 << 29), (STORED, 5), (3, 1), (0, 0)] {
            let mut block = vec![method];
            write_varint(&mut block, length);
            block.push(0);
            block.extend_from_slice(&checksum(&block).to_le_bytes());
            assert!(matches!(open(&block), Err(CodecError::Malformed(_))), "{method} {length}");
        }
    }
}

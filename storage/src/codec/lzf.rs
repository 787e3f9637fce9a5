//! LZF, which Redis compresses strings with. We only read it.
//!
//! A control byte below 32 is followed by that many literal bytes and one more. Any other says: copy from what has been
//! written; its high 3 bits are the length less 2 (7: another byte is added), its low 5 bits and the next byte how far
//! back, less 1.

use super::{CodecError, Reader};

/// A control byte, a length byte and a distance byte stand for at most 264 bytes.
const RATIO_MAX: u64 = 88;

/// Decompresses to exactly `length` bytes.
pub fn decompress(compressed: &[u8], length: u64) -> Result<Vec<u8>, CodecError> {
    const BROKEN: CodecError = CodecError::Malformed("compressed string");
    if length > (compressed.len() as u64).saturating_mul(RATIO_MAX) {
        return Err(BROKEN);
    }
    let length = length as usize;
    let mut out = Vec::with_capacity(length);
    let mut reader = Reader::new(compressed);
    while !reader.is_empty() {
        let control = usize::from(reader.u8()?);
        if control < 32 {
            out.extend_from_slice(reader.take(control + 1)?);
        } else {
            let mut copied = control >> 5;
            if copied == 7 {
                copied += usize::from(reader.u8()?);
            }
            let copied = copied + 2;
            let back = (control & 31) << 8 | usize::from(reader.u8()?);
            let from = out.len().checked_sub(back + 1).ok_or(BROKEN)?;
            if out.len() + copied > length {
                return Err(BROKEN);
            }
            if back + 1 >= copied {
                out.extend_from_within(from..from + copied);
            } else {
                // The copy overlaps what it writes.
                for at in from..from + copied {
                    out.push(out[at]);
                }
            }
        }
        if out.len() > length {
            return Err(BROKEN);
        }
    }
    if out.len() == length { Ok(out) } else { Err(BROKEN) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_redis_writes() {
        // `SET key aaaa...` (100 times) and `abcabc...` as redis-server dumps them.
        assert_eq!(decompress(&[1, b'a', b'a', 0xe0, 0x57, 0, 1, b'a', b'a'], 100).unwrap(), [b'a'; 100]);
        let text = decompress(&[2, b'a', b'b', b'c', 0xe0, 12, 2, 1, b'b', b'c'], 26).unwrap();
        assert_eq!(text, b"abcabcabcabcabcabcabcabcbc");
    }

    #[test]
    fn lies_about_the_length_are_refused() {
        for (bytes, length) in
            [(&[0, b'a'][..], 2), (&[0, b'a'], 0), (&[5, b'a'], 1), (&[0x20, 0], 3), (&[0xe0], 9), (&[], 1)]
        {
            assert!(decompress(bytes, length).is_err(), "{bytes:?}");
        }
        assert!(decompress(&[0, b'a'], u64::MAX).is_err());
    }

    proptest! {
        #[test]
        fn noise_does_no_harm(bytes: Vec<u8>, length in 0u64..4000) {
            if let Ok(out) = decompress(&bytes, length) {
                prop_assert_eq!(out.len() as u64, length);
            }
        }
    }
}

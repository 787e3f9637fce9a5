//! A cursor over untrusted bytes.
//!
//! Our own formats write integers as *varints*: 7 bits a byte, low bits first, the high bit set on all but the last.
//! RDB has lengths of its own, see [`Reader::rdb_length`].

use super::CodecError;

type Result<T> = std::result::Result<T, CodecError>;

/// Reads from the front of the rest.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

/// RDB's length field: a length, or the number of a special string encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RdbLength {
    Length(u64),
    Encoding(u8),
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    #[inline]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns the rest.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Returns an error unless everything has been read.
    pub fn finish(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::Malformed("trailing bytes")) }
    }

    #[inline]
    pub fn take(&mut self, bytes: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub fn u8(&mut self) -> Result<u8> {
        let (&byte, rest) = self.rest.split_first().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(byte)
    }

    #[inline]
    pub fn u16_le(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub fn u32_le(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    pub fn u64_le(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    #[inline]
    pub fn varint(&mut self) -> Result<u64> {
        match self.rest.split_first() {
            Some((&byte, rest)) if byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(CodecError::Malformed("number over 64 bits"));
            }
            value |= bits << shift;
            if byte < 0x80 {
                return if byte == 0 { Err(CodecError::Malformed("overlong number")) } else { Ok(value) };
            }
        }
        Err(CodecError::Malformed("number over 64 bits"))
    }

    pub fn varint_u32(&mut self) -> Result<u32> {
        u32::try_from(self.varint()?).map_err(|_| CodecError::Malformed("number over 32 bits"))
    }

    pub fn zigzag(&mut self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A varint length, then that many bytes.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.varint()?;
        self.take_u64(length)
    }

    #[inline]
    pub fn take_u64(&mut self, bytes: u64) -> Result<&'a [u8]> {
        self.take(usize::try_from(bytes).map_err(|_| CodecError::Truncated)?)
    }

    /// A varint count of things that take at least `bytes_each` bytes: it cannot be more than what is left can hold.
    pub fn count(&mut self, bytes_each: usize) -> Result<usize> {
        let count = self.varint()?;
        self.check_count(count, bytes_each)
    }

    /// See [`Reader::count`].
    pub fn check_count(&self, count: u64, bytes_each: usize) -> Result<usize> {
        match usize::try_from(count) {
            Ok(count) if count <= self.remaining() / bytes_each.max(1) => Ok(count),
            _ => Err(CodecError::Truncated),
        }
    }

    pub fn text(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| CodecError::Malformed("text is not UTF-8"))
    }

    /// RDB's length: its first two bits tell 6 bits, 14 bits, or what the rest of the byte says (32 or 64 bits
    /// big-endian), or that no length but a special encoding follows.
    #[inline]
    pub fn rdb_length(&mut self) -> Result<RdbLength> {
        let first = self.u8()?;
        Ok(RdbLength::Length(match (first >> 6, first & 0x3f) {
            (0, low) => u64::from(low),
            (1, low) => u64::from(low) << 8 | u64::from(self.u8()?),
            (2, 0) => u64::from(u32::from_be_bytes(self.array()?)),
            (2, 1) => u64::from_be_bytes(self.array()?),
            (2, _) => return Err(CodecError::Malformed("unknown kind of length")),
            (_, encoding) => return Ok(RdbLength::Encoding(encoding)),
        }))
    }

    /// RDB's length where a special encoding is not allowed.
    pub fn rdb_plain_length(&mut self) -> Result<u64> {
        match self.rdb_length()? {
            RdbLength::Length(length) => Ok(length),
            RdbLength::Encoding(_) => Err(CodecError::Malformed("string encoding in place of a length")),
        }
    }

    /// RDB's count of elements, each of which takes at least `bytes_each` bytes.
    pub fn rdb_count(&mut self, bytes_each: usize) -> Result<usize> {
        let count = self.rdb_plain_length()?;
        self.check_count(count, bytes_each)
    }
}

#[inline]
pub fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn write_zigzag(out: &mut Vec<u8>, value: i64) {
    write_varint(out, (value << 1 ^ value >> 63) as u64);
}

#[inline]
pub fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A receiver of bytes: memory, a stream, or a counter.
pub trait ByteSink {
    fn push(&mut self, byte: u8);
    fn extend_from_slice(&mut self, bytes: &[u8]);
}

impl ByteSink for Vec<u8> {
    #[inline]
    fn push(&mut self, byte: u8) {
        Vec::push(self, byte);
    }

    #[inline]
    fn extend_from_slice(&mut self, bytes: &[u8]) {
        Vec::extend_from_slice(self, bytes);
    }
}

/// Counts bytes and forgets them.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByteCount(pub u64);

impl ByteSink for ByteCount {
    #[inline]
    fn push(&mut self, _: u8) {
        self.0 += 1;
    }

    #[inline]
    fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.0 += bytes.len() as u64;
    }
}

#[inline]
pub fn write_rdb_length(out: &mut impl ByteSink, length: u64) {
    match length {
        0..0x40 => out.push(length as u8),
        0x40..0x4000 => out.extend_from_slice(&(0x4000 | length as u16).to_be_bytes()),
        0x4000..0x1_0000_0000 => {
            out.push(0x80);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_survive(value: u64, shift in 0u32..64) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            write_varint(&mut bytes, value);
            write_zigzag(&mut bytes, value as i64);
            write_rdb_length(&mut bytes, value);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.zigzag(), Ok(value as i64));
            prop_assert_eq!(reader.rdb_length(), Ok(RdbLength::Length(value)));
            prop_assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn lengths_are_as_short_as_rdb_has_them() {
        for (length, expected) in [
            (63, &[63][..]),
            (64, &[0x40, 64]),
            (0x3fff, &[0x7f, 0xff]),
            (0x4000, &[0x80, 0, 0, 0x40, 0]),
            (0x1_0000_0000, &[0x81, 0, 0, 0, 1, 0, 0, 0, 0]),
        ] {
            let mut bytes = Vec::new();
            write_rdb_length(&mut bytes, length);
            assert_eq!(bytes, expected);
        }
    }

    #[test]
    fn malformed_numbers_are_refused() {
        for bytes in [
            &[0x80][..],
            &[0x80, 0],
            &[0xff; 10],
            &[0xff; 11],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        ] {
            assert!(Reader::new(bytes).varint().is_err(), "{bytes:?}");
        }
        assert_eq!(Reader::new(&[200, 1, 0]).count(1), Err(CodecError::Truncated));
        assert_eq!(Reader::new(&[0x82]).rdb_length(), Err(CodecError::Malformed("unknown kind of length")));
        assert_eq!(Reader::new(&[5, b'a']).bytes(), Err(CodecError::Truncated));
    }
}

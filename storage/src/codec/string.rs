//! RDB's strings: a length and that many bytes, an integer of 8, 16 or 32 bits, or bytes compressed with LZF.

use dormouse_types::{Digits, Item, parse_i64};

use super::{
    CodecError, Reader, lzf,
    reader::{ByteSink, RdbLength, write_rdb_length},
};

/// Redis refuses longer strings.
pub const STRING_BYTES_MAX: u64 = 512 << 20;

/// The text of no 32-bit integer is longer.
const INTEGER_TEXT_MAX: usize = 11;

/// A string that has been read.
#[derive(Debug)]
pub enum RdbString<'a> {
    Int(i64),
    Bytes(&'a [u8]),
    Inflated(Vec<u8>),
}

impl RdbString<'_> {
    /// The string's bytes; `digits` is only written to if the string is an integer.
    #[inline]
    pub fn bytes<'b>(&'b self, digits: &'b mut Digits) -> &'b [u8] {
        match self {
            RdbString::Int(number) => digits.format(*number).as_bytes(),
            RdbString::Bytes(bytes) => bytes,
            RdbString::Inflated(bytes) => bytes,
        }
    }

    pub fn with_bytes<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        read(self.bytes(&mut Digits::new()))
    }

    pub fn into_vec(self) -> Vec<u8> {
        match self {
            RdbString::Inflated(bytes) => bytes,
            other => other.with_bytes(<[u8]>::to_vec),
        }
    }
}

#[inline]
pub fn read_string<'a>(reader: &mut Reader<'a>) -> Result<RdbString<'a>, CodecError> {
    match reader.rdb_length()? {
        RdbLength::Length(length) => reader.take_u64(length).map(RdbString::Bytes),
        RdbLength::Encoding(encoding) => read_encoded(reader, encoding),
    }
}

/// Skips a string and returns its length.
pub fn skip_string(reader: &mut Reader<'_>) -> Result<usize, CodecError> {
    let length = match reader.rdb_length()? {
        RdbLength::Length(length) => reader.take_u64(length).map(|_| length)?,
        RdbLength::Encoding(3) => {
            let (compressed, length) = (reader.rdb_plain_length()?, reader.rdb_plain_length()?);
            check_length(length)?;
            reader.take_u64(compressed)?;
            length
        }
        RdbLength::Encoding(encoding) => return read_encoded(reader, encoding).map(|_| INTEGER_TEXT_MAX),
    };
    Ok(usize::try_from(length).unwrap_or(usize::MAX))
}

fn check_length(length: u64) -> Result<(), CodecError> {
    if length > STRING_BYTES_MAX { Err(CodecError::Malformed("string over 512 MiB")) } else { Ok(()) }
}

fn read_encoded<'a>(reader: &mut Reader<'a>, encoding: u8) -> Result<RdbString<'a>, CodecError> {
    Ok(match encoding {
        0 => RdbString::Int(i64::from(i8::from_le_bytes(reader.array()?))),
        1 => RdbString::Int(i64::from(i16::from_le_bytes(reader.array()?))),
        2 => RdbString::Int(i64::from(i32::from_le_bytes(reader.array()?))),
        3 => {
            let compressed = reader.rdb_plain_length()?;
            let length = reader.rdb_plain_length()?;
            check_length(length)?;
            RdbString::Inflated(lzf::decompress(reader.take_u64(compressed)?, length)?)
        }
        _ => return Err(CodecError::Malformed("unknown string encoding")),
    })
}

/// Writes a string as short as it gets without compression.
#[inline]
pub fn write_string(out: &mut impl ByteSink, bytes: &[u8]) {
    if bytes.len() <= INTEGER_TEXT_MAX
        && let Some(number) = parse_i64(bytes)
        && write_small_integer(out, number)
    {
        return;
    }
    write_plain_string(out, bytes);
}

/// Writes a string as it is.
#[inline]
pub fn write_plain_string(out: &mut impl ByteSink, bytes: &[u8]) {
    write_rdb_length(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Writes the decimal text of an integer.
pub fn write_integer(out: &mut impl ByteSink, number: i64) {
    if !write_small_integer(out, number) {
        write_plain_string(out, Digits::new().format(number).as_bytes());
    }
}

pub fn write_item(out: &mut impl ByteSink, item: Item<'_>) {
    match item {
        Item::Int(number) => write_integer(out, number),
        Item::Bytes(bytes) => write_string(out, bytes),
    }
}

fn write_small_integer(out: &mut impl ByteSink, number: i64) -> bool {
    if let Ok(number) = i8::try_from(number) {
        out.extend_from_slice(&[0xc0, number as u8]);
    } else if let Ok(number) = i16::try_from(number) {
        out.push(0xc1);
        out.extend_from_slice(&number.to_le_bytes());
    } else if let Ok(number) = i32::try_from(number) {
        out.push(0xc2);
        out.extend_from_slice(&number.to_le_bytes());
    } else {
        return false;
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_string(&mut out, bytes);
        out
    }

    #[test]
    fn strings_are_written_as_redis_writes_them() {
        for (text, expected) in [
            ("", &b"\x00"[..]),
            ("a", b"\x01a"),
            ("12", b"\xc0\x0c"),
            ("-129", b"\xc1\x7f\xff"),
            ("65536", b"\xc2\x00\x00\x01\x00"),
            ("2147483648", b"\x0a2147483648"),
            ("01", b"\x0201"),
        ] {
            assert_eq!(written(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn compressed_strings_are_read() {
        let bytes = [0xc3, 9, 0x40, 100, 1, b'a', b'a', 0xe0, 0x57, 0, 1, b'a', b'a'];
        assert_eq!(read_string(&mut Reader::new(&bytes)).unwrap().into_vec(), [b'a'; 100]);
        for length in 0..bytes.len() {
            assert!(read_string(&mut Reader::new(&bytes[..length])).is_err());
        }
        let forged = [0xc3, 1, 0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0];
        assert!(read_string(&mut Reader::new(&forged)).is_err());
        assert!(read_string(&mut Reader::new(&[0xc4, 0])).is_err());
    }

    proptest! {
        #[test]
        fn strings_survive(bytes: Vec<u8>, number: i64, shift in 0u32..64) {
            let number = number >> shift;
            let text = number.to_string();
            let mut out = written(&bytes);
            write_integer(&mut out, number);
            write_string(&mut out, text.as_bytes());
            let mut reader = Reader::new(&out);
            prop_assert_eq!(read_string(&mut reader).unwrap().into_vec(), bytes);
            prop_assert_eq!(read_string(&mut reader).unwrap().into_vec(), text.as_bytes());
            prop_assert_eq!(read_string(&mut reader).unwrap().into_vec(), text.as_bytes());
            prop_assert!(reader.is_empty());
        }
    }
}

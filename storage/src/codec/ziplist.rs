//! The packed encodings that Redis wrote before listpacks: read only, to load old dumps.
//!
//! ```text
//! ziplist: bytes u32 LE | offset of the last entry u32 LE | count u16 LE (FFFF: unknown) | entry ... | FF
//!   entry: length of the entry before (u8, or FE and u32 LE) | encoding | data
//!     00xxxxxx                string of up to 63 bytes     01xxxxxx xxxxxxxx   14 bits of length
//!     80 u32 BE               string of any length
//!     C0 D0 E0 F0 FE          integer of 16, 32, 64, 24, 8 bits, little-endian
//!     F1 to FD                integer 0 to 12
//! zipmap: count u8 (254 or more: unknown) | pair ... | FF
//!   pair: length | field | length | unused u8 | value | unused bytes
//!   length: u8, or FE and u32 LE
//! ```

use dormouse_types::Item;

use super::{CodecError, Reader};

type Result<T> = std::result::Result<T, CodecError>;

const HEADER_BYTES: usize = 10;
const END: u8 = 0xff;
const LONG: u8 = 0xfe;

/// All items of a ziplist.
pub fn read_ziplist(bytes: &[u8]) -> Result<Vec<Item<'_>>> {
    let broken = || CodecError::Malformed("ziplist");
    let mut reader = Reader::new(bytes);
    let total = reader.u32_le()?;
    let last = reader.u32_le()? as usize;
    let count = reader.u16_le()?;
    if total as usize != bytes.len() {
        return Err(broken());
    }
    let mut items = Vec::new();
    let (mut last_start, mut last_length) = (HEADER_BYTES, 0);
    while reader.rest().first() != Some(&END) {
        let before = reader;
        let length_before = match reader.u8()? {
            LONG => reader.u32_le()? as usize,
            length => usize::from(length),
        };
        if length_before != last_length {
            return Err(broken());
        }
        items.push(read_entry(&mut reader)?);
        last_start = bytes.len() - before.remaining();
        last_length = before.remaining() - reader.remaining();
    }
    reader.u8()?;
    reader.finish()?;
    let counted = count == u16::MAX || usize::from(count) == items.len();
    if counted && last == last_start { Ok(items) } else { Err(broken()) }
}

fn read_entry<'a>(reader: &mut Reader<'a>) -> Result<Item<'a>> {
    let encoding = reader.u8()?;
    let length = match (encoding >> 6, encoding & 0x3f) {
        (0, low) => usize::from(low),
        (1, low) => usize::from(low) << 8 | usize::from(reader.u8()?),
        (2, 0) => u32::from_be_bytes(reader.array()?) as usize,
        (3, _) => return read_integer(encoding, reader).map(Item::Int),
        _ => return Err(CodecError::Malformed("ziplist")),
    };
    reader.take(length).map(Item::parse)
}

fn read_integer(encoding: u8, reader: &mut Reader<'_>) -> Result<i64> {
    Ok(match encoding {
        0xc0 => i64::from(i16::from_le_bytes(reader.array()?)),
        0xd0 => i64::from(i32::from_le_bytes(reader.array()?)),
        0xe0 => i64::from_le_bytes(reader.array()?),
        0xf0 => {
            let [a, b, c] = reader.array()?;
            i64::from(i32::from_le_bytes([0, a, b, c]) >> 8)
        }
        0xfe => i64::from(i8::from_le_bytes(reader.array()?)),
        0xf1..=0xfd => i64::from(encoding & 0x0f) - 1,
        _ => return Err(CodecError::Malformed("ziplist")),
    })
}

/// All fields and values of a zipmap, one after the other.
pub fn read_zipmap(bytes: &[u8]) -> Result<Vec<Item<'_>>> {
    let mut reader = Reader::new(bytes);
    let count = reader.u8()?;
    let mut items = Vec::new();
    while let Some(length) = read_zipmap_length(&mut reader)? {
        items.push(Item::parse(reader.take(length)?));
        let length = read_zipmap_length(&mut reader)?.ok_or(CodecError::Malformed("zipmap"))?;
        let unused = usize::from(reader.u8()?);
        items.push(Item::parse(reader.take(length)?));
        reader.take(unused)?;
    }
    reader.finish()?;
    let counted = count >= LONG || usize::from(count) * 2 == items.len();
    if counted { Ok(items) } else { Err(CodecError::Malformed("zipmap")) }
}

fn read_zipmap_length(reader: &mut Reader<'_>) -> Result<Option<usize>> {
    Ok(match reader.u8()? {
        END => None,
        LONG => Some(reader.u32_le()? as usize),
        length => Some(usize::from(length)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ziplist(entries: &[&[u8]]) -> Vec<u8> {
        let mut body = Vec::new();
        let mut last = (HEADER_BYTES, 0);
        for entry in entries {
            let start = body.len();
            body.push(last.1 as u8);
            body.extend_from_slice(entry);
            last = (HEADER_BYTES + start, body.len() - start);
        }
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&(body.len() as u32 + 11).to_le_bytes());
        bytes.extend_from_slice(&(last.0 as u32).to_le_bytes());
        bytes.extend_from_slice(&(entries.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes.push(END);
        bytes
    }

    #[test]
    fn every_kind_of_entry_is_read() {
        let bytes = ziplist(&[
            b"\x03abc",
            b"\x40\x02xy",
            b"\x80\0\0\0\x02zz",
            b"\xc0\xff\xff",
            b"\xd0\0\0\0\x80",
            b"\xe0\0\0\0\0\0\0\0\x80",
            b"\xf0\xff\xff\xff",
            b"\xfe\x80",
            b"\xf1",
            b"\xfd",
            b"\x0242",
        ]);
        let texts: Vec<_> = read_ziplist(&bytes).unwrap().into_iter().map(Item::to_vec).collect();
        let expected: [&[u8]; 11] =
            [b"abc", b"xy", b"zz", b"-1", b"-2147483648", b"-9223372036854775808", b"-1", b"-128", b"0", b"12", b"42"];
        assert_eq!(texts, expected);
        assert!(read_ziplist(&ziplist(&[])).unwrap().is_empty());
        for length in 0..bytes.len() {
            assert!(read_ziplist(&bytes[..length]).is_err());
        }
    }

    #[test]
    fn zipmaps_are_read() {
        let bytes = b"\x02\x01a\x01\x02b..\x03foo\x02\x00ba\xff";
        let texts: Vec<_> = read_zipmap(bytes).unwrap().into_iter().map(Item::to_vec).collect();
        assert_eq!(texts, [&b"a"[..], b"b", b"foo", b"ba"]);
        for length in 0..bytes.len() {
            assert!(read_zipmap(&bytes[..length]).is_err());
        }
    }

    proptest! {
        #[test]
        fn noise_does_no_harm(noise: Vec<u8>, count in 0u16..3) {
            let _ = read_zipmap(&noise);
            let _ = read_ziplist(&noise);
            let mut bytes = Vec::from((noise.len() as u32 + 11).to_le_bytes());
            bytes.extend_from_slice(&10u32.to_le_bytes());
            bytes.extend_from_slice(&count.to_le_bytes());
            bytes.extend_from_slice(&noise);
            bytes.push(END);
            let _ = read_ziplist(&bytes);
        }
    }
}

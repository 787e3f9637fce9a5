//! Documents as RedisJSON stores them.
//!
//! A value of a [module](super::module) of RedisJSON has one field, a string:
//!
//! | version | by | string |
//! | --- | --- | --- |
//! | 2, 3 | RedisJSON 2 | the text of the document; version 2 has a number behind it, which is 0 |
//! | 4 | Redis 8.4 and later | the document as CBOR (RFC 8949), where arrays of numbers of one type are typed ones (RFC 8746) |

use dormouse_types::Object;
use dormouse_types::json::{self, DEPTH_MAX, Json};

use super::json::of_text;
use super::module::{self, Fields};
use crate::codec::{CodecError, Reader};

/// The name of RedisJSON's type.
const NAME: u64 = module::without_version(module::id(b"ReJSON-RL", 0)).0;

/// Whether a module's value, by the module's name and its own version, is a document that can be read.
pub(super) fn is_module(name: u64, version: u16) -> bool {
    name == NAME && (2..=4).contains(&version)
}

/// Reads the fields of a document behind the module's id.
pub(super) fn decode_module(version: u16, fields: &mut Fields<'_, '_>) -> Result<Object, CodecError> {
    let string = fields.string()?;
    if version == 2 && fields.number()? != 0 {
        return Err(CodecError::Malformed("fields of a JSON document"));
    }
    string.with_bytes(|bytes| if version < 4 { of_text(bytes) } else { of_cbor(bytes) })
}

fn of_cbor(bytes: &[u8]) -> Result<Object, CodecError> {
    let (mut reader, mut out) = (Reader::new(bytes), Vec::with_capacity(bytes.len()));
    item(&mut reader, DEPTH_MAX, &mut out)?;
    reader.finish()?;
    // Names of members may be repeated, and strings be anything: the document is checked as one from a disk.
    Ok(Object::Json(Json::from_bytes(&out)?))
}

const CBOR: CodecError = CodecError::Malformed("CBOR of a JSON document");

/// The major types of CBOR.
mod major {
    pub const UNSIGNED: u8 = 0;
    pub const NEGATIVE: u8 = 1;
    pub const BYTES: u8 = 2;
    pub const TEXT: u8 = 3;
    pub const ARRAY: u8 = 4;
    pub const MAP: u8 = 5;
    pub const TAG: u8 = 6;
}

/// Reads the head of an item: its major type, its additional information and its argument.
fn head(reader: &mut Reader<'_>) -> Result<(u8, u8, u64), CodecError> {
    let first = reader.u8()?;
    let (major, info) = (first >> 5, first & 31);
    let argument = match info {
        0..24 => u64::from(info),
        24 => u64::from(reader.u8()?),
        25 => u64::from(u16::from_be_bytes(reader.array()?)),
        26 => u64::from(u32::from_be_bytes(reader.array()?)),
        27 => u64::from_be_bytes(reader.array()?),
        // Lengths are given beforehand.
        _ => return Err(CBOR),
    };
    Ok((major, info, argument))
}

/// Appends the value that comes next.
fn item(reader: &mut Reader<'_>, depth: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let deeper = depth.checked_sub(1).ok_or(CodecError::Malformed("JSON document nested too deep"));
    match head(reader)? {
        (major::UNSIGNED, _, number) => json::put_unsigned(out, number),
        (major::NEGATIVE, _, number) => match i64::try_from(number) {
            Ok(number) => json::put_integer(out, -1 - number),
            Err(_) => json::put_float(out, -1.0 - number as f64),
        },
        (major::TEXT, _, len) => json::put_string(out, reader.take_u64(len)?),
        (major::ARRAY, _, count) => {
            let (deeper, mut elements) = (deeper?, Vec::new());
            let count = reader.check_count(count, 1)?;
            (0..count).try_for_each(|_| item(reader, deeper, &mut elements))?;
            json::put_array(out, &elements, count);
        }
        (major::MAP, _, count) => {
            let (deeper, mut members) = (deeper?, Vec::new());
            let count = reader.check_count(count, 2)?;
            for _ in 0..count {
                let (major::TEXT, _, len) = head(reader)? else { return Err(CBOR) };
                json::put_string(&mut members, reader.take_u64(len)?);
                item(reader, deeper, &mut members)?;
            }
            json::put_object(out, &members, count);
        }
        (major::TAG, _, tag) => {
            deeper?;
            let (major::BYTES, _, len) = head(reader)? else { return Err(CBOR) };
            numbers(tag, reader.take_u64(len)?, out)?;
        }
        (_, 20, _) => json::put_bool(out, false),
        (_, 21, _) => json::put_bool(out, true),
        (_, 22, _) => json::put_null(out),
        (_, 25, bits) => put_float(out, half(bits as u16))?,
        (_, 26, bits) => put_float(out, f64::from(f32::from_bits(bits as u32)))?,
        (_, 27, bits) => put_float(out, f64::from_bits(bits))?,
        _ => return Err(CBOR),
    }
    Ok(())
}

fn put_float(out: &mut Vec<u8>, number: f64) -> Result<(), CodecError> {
    if !number.is_finite() {
        return Err(CBOR);
    }
    json::put_float(out, number);
    Ok(())
}

/// Appends an array of numbers of one type, little endian.
fn numbers(tag: u64, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
    fn each<const N: usize>(
        bytes: &[u8],
        out: &mut Vec<u8>,
        mut put: impl FnMut(&mut Vec<u8>, [u8; N]) -> Result<(), CodecError>,
    ) -> Result<(), CodecError> {
        let (chunks, rest) = bytes.as_chunks::<N>();
        if !rest.is_empty() {
            return Err(CBOR);
        }
        let mut elements = Vec::with_capacity(bytes.len());
        chunks.iter().try_for_each(|chunk| put(&mut elements, *chunk))?;
        json::put_array(out, &elements, chunks.len());
        Ok(())
    }
    let integer = |out: &mut Vec<u8>, number: i64| {
        json::put_integer(out, number);
        Ok(())
    };
    match tag {
        64 => each(bytes, out, |out, [byte]| integer(out, byte.into())),
        69 => each(bytes, out, |out, chunk| integer(out, u16::from_le_bytes(chunk).into())),
        70 => each(bytes, out, |out, chunk| integer(out, u32::from_le_bytes(chunk).into())),
        71 => each(bytes, out, |out, chunk| {
            json::put_unsigned(out, u64::from_le_bytes(chunk));
            Ok(())
        }),
        72 => each(bytes, out, |out, chunk| integer(out, i8::from_le_bytes(chunk).into())),
        77 => each(bytes, out, |out, chunk| integer(out, i16::from_le_bytes(chunk).into())),
        78 => each(bytes, out, |out, chunk| integer(out, i32::from_le_bytes(chunk).into())),
        79 => each(bytes, out, |out, chunk| integer(out, i64::from_le_bytes(chunk))),
        84 => each(bytes, out, |out, chunk| put_float(out, half(u16::from_le_bytes(chunk)))),
        85 => each(bytes, out, |out, chunk| put_float(out, f32::from_le_bytes(chunk).into())),
        86 => each(bytes, out, |out, chunk| put_float(out, f64::from_le_bytes(chunk))),
        // The upper half of a float of 32 bits: a tag of RedisJSON's own.
        0x10000 => each(bytes, out, |out, chunk| {
            put_float(out, f32::from_bits(u32::from(u16::from_le_bytes(chunk)) << 16).into())
        }),
        _ => Err(CBOR),
    }
}

/// A float of 16 bits, as RFC 8949 decodes it (appendix D).
fn half(bits: u16) -> f64 {
    let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f64::from(bits & 0x3ff));
    let value = match exponent {
        0 => mantissa * 2f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (mantissa + 1024.0) * 2f64.powi(exponent - 25),
    };
    if bits & 0x8000 == 0 { value } else { -value }
}

#[cfg(test)]
mod tests {
    use dormouse_types::ObjectRef;

    use super::*;

    fn shown(version: u16, fields: &[u8]) -> Result<String, CodecError> {
        let mut reader = Reader::new(fields);
        let mut fields = Fields(&mut reader);
        let object = decode_module(version, &mut fields)?;
        fields.end()?;
        reader.finish()?;
        let ObjectRef::Json(json) = object.as_ref() else { panic!("a document") };
        Ok(format!("{json:?}"))
    }

    /// Fields with one string.
    fn fields(string: &[u8]) -> Vec<u8> {
        assert!(string.len() < 64);
        [&[5, string.len() as u8][..], string, &[0]].concat()
    }

    #[test]
    fn texts_are_read() {
        assert_eq!(shown(3, &fields(b"{\"a\": [1, 2.0]}")).unwrap(), "{\"a\":[1,2.0]}");
        assert_eq!(shown(2, b"\x05\x02[]\x02\x00\x00").unwrap(), "[]");
        assert!(shown(2, b"\x05\x02[]\x02\x01\x05\x01x\x05\x01x\x00").is_err());
        assert!(shown(3, &fields(b"{")).is_err());
        assert!(shown(3, b"\x02\x01\x00").is_err());
        assert!(shown(3, b"\x05\x02[]\x05\x02[]\x00").is_err());
    }

    /// The examples of RFC 8949, appendix A, and typed arrays.
    #[test]
    fn cbor_is_read() {
        for (hex, text) in [
            ("00", "0"),
            ("1818", "24"),
            ("1903e8", "1000"),
            ("1bffffffffffffffff", "18446744073709551615"),
            ("20", "-1"),
            ("3903e7", "-1000"),
            ("3b7fffffffffffffff", "-9223372036854775808"),
            ("3bffffffffffffffff", "-1.8446744073709552e19"),
            ("f90000", "0.0"),
            ("f98000", "-0.0"),
            ("f93c00", "1.0"),
            ("fb3ff199999999999a", "1.1"),
            ("f93e00", "1.5"),
            ("f97bff", "65504.0"),
            ("fa47c35000", "100000.0"),
            ("fb7e37e43c8800759c", "1e300"),
            ("f90001", "5.960464477539063e-8"),
            ("f4", "false"),
            ("f5", "true"),
            ("f6", "null"),
            ("60", "\"\""),
            ("62c3bc", "\"ü\""),
            ("80", "[]"),
            ("8301820203820405", "[1,[2,3],[4,5]]"),
            ("a0", "{}"),
            ("a26161016162820203", "{\"a\":1,\"b\":[2,3]}"),
            ("d8404301ff02", "[1,255,2]"),
            ("d8454401000001", "[1,256]"),
            ("d84842ff7f", "[-1,127]"),
            ("d84e44ffffffff", "[-1]"),
            ("d85442003c", "[1.0]"),
            ("d855440000c03f", "[1.5]"),
            ("d85648000000000000f83f", "[1.5]"),
            ("da0001000042c03f", "[1.5]"),
        ] {
            let bytes: Vec<u8> =
                (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
            assert_eq!(shown(4, &fields(&bytes)).as_deref(), Ok(text), "{hex}");
            for len in 0..bytes.len() {
                assert!(shown(4, &fields(&bytes[..len])).is_err(), "{len} bytes of {hex}");
            }
        }
        for refused in [
            &b"\xf9\x7c\x00"[..],
            b"\x5f\xff",
            b"\x41x",
            b"\xa1\x01\x02",
            b"\x61\xff",
            b"\xa2\x61a\x01\x61a\x02",
            b"\xd8\x45\x41\x01",
            b"\xd8\x20\x61a",
            b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x00\x00",
        ] {
            assert!(shown(4, &fields(refused)).is_err(), "{refused:x?}");
        }
        let mut deep = vec![0x81; DEPTH_MAX];
        deep.push(0);
        let long = |bytes: &[u8]| [&[5, 0x40, bytes.len() as u8][..], bytes, &[0]].concat();
        assert!(shown(4, &long(&deep)).is_ok());
        deep.insert(0, 0x81);
        assert!(shown(4, &long(&deep)).is_err());
    }

    #[test]
    fn other_modules_are_told_apart() {
        let known = |name: &[u8; 9], version| {
            let (name, version) = module::without_version(module::id(name, version));
            is_module(name, version)
        };
        assert_eq!(
            [0, 1, 2, 3, 4, 5].map(|version| known(b"ReJSON-RL", version)),
            [false, false, true, true, true, false]
        );
        assert!(!known(b"vectorset", 3));
    }
}

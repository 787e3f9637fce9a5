//! Converts the hash encodings of newer servers: to the plain one, or to Redis 7.4's if a field expires.
//!
//! | type | written by | value |
//! | --- | --- | --- |
//! | 22 | Valkey 9 | n, n of (field, value, expiry i64 LE, -1: none) |
//! | 24 | Redis 7.4 | earliest expiry i64 LE, n, n of (expiry - earliest + 1, 0: none; field; value) |
//! | 25 | Redis 7.4 | earliest expiry i64 LE, listpack of (field, value, expiry, 0: none), those that expire first in front |
//! | 22, 23 | Redis 7.4's release candidates | as 24 and 25 without the earliest expiry |
//! | 29 | Redis 8.10, payloads | fields, listpack of (number, value ...) |
//! | 30 | Redis 8.10, files | listpack of (template's number, value ...) |
//! | 31 | Redis 8.10, payloads | fields, value ... |
//! | 32 | Redis 8.10, files | template's number, value ... |
//!
//! *fields* is 0 and a listpack, or 1, n, n strings. A **template** is a list of fields that many hashes share; a file
//! stores its templates before its keys. The template's number in a payload is the sender's and is ignored.
//!
//! Expiries are Unix milliseconds. Strings are copied in their encoded form.

use std::collections::HashMap;

use dormouse_types::Item;
use dormouse_types::listpack::Listpack;

use super::hash::write_expiry;
use super::kind;
use crate::codec::reader::{RdbLength, write_rdb_length};
use crate::codec::string::{read_string, write_item};
use crate::codec::{CodecError, Reader};

type Result<T> = std::result::Result<T, CodecError>;

/// Limit on the size of a file's templates, which stay in memory until the file has been read.
const TEMPLATE_BYTES_MAX: usize = 256 << 20;

pub const TEMPLATES_TOO_LARGE: CodecError = CodecError::Malformed("hash templates over 256 MiB");

const LISTPACK: CodecError = CodecError::Malformed("hash listpack");
const TEMPLATE: CodecError = CodecError::Malformed("hash without its template");

/// The servers that a value's type number belongs to: Valkey and Redis have given the same numbers to different types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Redis,
    Valkey,
}

/// A file's templates by number.
#[derive(Debug, Default)]
pub struct Templates {
    by_number: HashMap<u64, Fields>,
    bytes: usize,
}

/// Field names, as consecutive RDB strings.
#[derive(Debug, Default)]
struct Fields {
    count: usize,
    strings: Vec<u8>,
}

impl Templates {
    /// Adds a template, encoded as `n, n strings`.
    ///
    /// # Errors
    /// When the number is in use, or the fields are malformed or too many.
    pub fn add(&mut self, number: u64, fields: &[u8]) -> Result<()> {
        let mut reader = Reader::new(fields);
        let fields = Fields::read(&mut reader)?;
        reader.finish()?;
        self.bytes += fields.strings.len() + size_of::<(u64, Fields)>();
        if self.bytes > TEMPLATE_BYTES_MAX {
            return Err(TEMPLATES_TOO_LARGE);
        }
        match self.by_number.insert(number, fields) {
            None => Ok(()),
            Some(_) => Err(CodecError::Malformed("hash template twice")),
        }
    }

    /// How many bytes the next template may have.
    pub fn room(&self) -> usize {
        TEMPLATE_BYTES_MAX.saturating_sub(self.bytes)
    }

    /// The number of values of a hash with that template.
    ///
    /// # Errors
    /// When the template does not exist.
    pub fn count(&self, number: u64) -> Result<usize> {
        self.fields(number).map(|fields| fields.count)
    }

    fn fields(&self, number: u64) -> Result<&Fields> {
        self.by_number.get(&number).ok_or(TEMPLATE)
    }
}

impl Fields {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let count = reader.rdb_count(1)?;
        let before = reader.rest();
        (0..count).try_for_each(|_| raw_string(reader).map(drop))?;
        Ok(Fields { count, strings: before[..before.len() - reader.remaining()].to_vec() })
    }

    fn of_listpack(listpack: &[u8]) -> Result<Self> {
        let listpack = Listpack::from_bytes(listpack)?;
        let mut fields = Fields { count: listpack.view().len(), strings: Vec::new() };
        listpack.view().iter().for_each(|field| write_item(&mut fields.strings, field));
        Ok(fields)
    }

    /// Reads *fields*, the form in payloads.
    fn read_tagged(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.rdb_plain_length()? {
            0 => read_string(reader)?.with_bytes(Fields::of_listpack),
            1 => Fields::read(reader),
            _ => Err(CodecError::Malformed("form of hash fields")),
        }
    }

    /// Writes a hash of these fields and the next values of `reader`.
    fn write_with_values(&self, reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<()> {
        reader.check_count(self.count as u64, 1)?;
        write_rdb_length(out, self.count as u64);
        let mut fields = Reader::new(&self.strings);
        for _ in 0..self.count {
            out.extend_from_slice(raw_string(&mut fields)?);
            out.extend_from_slice(raw_string(reader)?);
        }
        Ok(())
    }

    /// Writes a hash of these fields and the values in a listpack, whose first entry is the template's number.
    fn write_with_packed(&self, listpack: &Listpack, out: &mut Vec<u8>) -> Result<()> {
        if listpack.view().len() != self.count + 1 {
            return Err(LISTPACK);
        }
        write_rdb_length(out, self.count as u64);
        let mut fields = Reader::new(&self.strings);
        for value in listpack.view().iter().skip(1) {
            out.extend_from_slice(raw_string(&mut fields)?);
            write_item(out, value);
        }
        Ok(())
    }
}

/// Names a type that is known but not supported.
pub fn unsupported(kind: u8) -> Option<&'static str> {
    Some(match kind {
        kind::MODULE | kind::MODULE_2 => "a module's value",
        _ => return None,
    })
}

/// Whether [`flatten`] reads this type.
pub fn is_newer_hash(kind: u8, origin: Dialect) -> bool {
    match origin {
        Dialect::Redis => matches!(kind, kind::HASH_TTL_EARLY..=kind::HASH_TTL_LISTPACK) || is_template(kind),
        Dialect::Valkey => kind == kind::HASH_TTL_EARLY,
    }
}

fn is_template(kind: u8) -> bool {
    matches!(kind, kind::HASH_TEMPLATE_LISTPACK..=kind::HASH_TEMPLATE_VALUES_REFERRED)
}

/// Reads a hash and writes it to `out` as type 4, or as type 24 if a field expires. Returns that type.
///
/// # Errors
/// When the value is malformed or of another type.
pub fn flatten(
    kind: u8,
    origin: Dialect,
    templates: &Templates,
    reader: &mut Reader<'_>,
    out: &mut Vec<u8>,
) -> Result<u8> {
    out.clear();
    match kind {
        kind::HASH_TTL_EARLY if origin == Dialect::Valkey => return write_entries(reader, behind_each, out),
        _ if origin == Dialect::Valkey => return Err(CodecError::Type(kind)),
        kind::HASH_TTL_EARLY => return write_entries(reader, |reader, each| before_each(reader, None, each), out),
        kind::HASH_TTL_LISTPACK_EARLY => return in_listpack(reader, out),
        kind::HASH_TTL => {
            let earliest = reader.u64_le()?;
            return write_entries(reader, |reader, each| before_each(reader, Some(earliest), each), out);
        }
        kind::HASH_TTL_LISTPACK => {
            reader.take(8)?;
            return in_listpack(reader, out);
        }
        kind::HASH_TEMPLATE_LISTPACK => {
            let fields = Fields::read_tagged(reader)?;
            fields.write_with_packed(&read_listpack(reader)?, out)?;
        }
        kind::HASH_TEMPLATE_LISTPACK_REFERRED => {
            let listpack = read_listpack(reader)?;
            let Some(Item::Int(number)) = listpack.view().iter().next() else { return Err(LISTPACK) };
            let number = u64::try_from(number).map_err(|_| LISTPACK)?;
            templates.fields(number)?.write_with_packed(&listpack, out)?;
        }
        kind::HASH_TEMPLATE_VALUES => Fields::read_tagged(reader)?.write_with_values(reader, out)?,
        kind::HASH_TEMPLATE_VALUES_REFERRED => {
            let number = reader.rdb_plain_length()?;
            templates.fields(number)?.write_with_values(reader, out)?;
        }
        other => return Err(CodecError::Type(other)),
    }
    Ok(kind::HASH)
}

/// Receives the expiry of a field, its name and its value, these two encoded.
type Each<'e> = &'e mut dyn FnMut(Option<u64>, &[u8], &[u8]);

/// Writes the fields that `read` finds and counts. It reads them twice, as only the last may expire.
fn write_entries(
    reader: &mut Reader<'_>,
    read: impl Fn(&mut Reader<'_>, Each<'_>) -> Result<usize>,
    out: &mut Vec<u8>,
) -> Result<u8> {
    let mut expires = false;
    let mut ahead = *reader;
    let count = read(&mut ahead, &mut |expiry, _, _| expires |= expiry.is_some())?;
    write_head(count, expires, out);
    read(reader, &mut |expiry, field, value| {
        if expires {
            write_expiry(out, expiry, 0);
        }
        out.extend_from_slice(field);
        out.extend_from_slice(value);
    })?;
    Ok(if expires { kind::HASH_TTL } else { kind::HASH })
}

/// Writes everything before the fields. Expiries are given from 0 on.
fn write_head(count: usize, expires: bool, out: &mut Vec<u8>) {
    if expires {
        out.extend_from_slice(&[0; 8]);
    }
    write_rdb_length(out, count as u64);
}

fn behind_each(reader: &mut Reader<'_>, each: Each<'_>) -> Result<usize> {
    const NONE: i64 = -1;
    let count = reader.rdb_count(10)?;
    for _ in 0..count {
        let (field, value) = (raw_string(reader)?, raw_string(reader)?);
        let expiry = i64::from_le_bytes(reader.array()?);
        // A time before 1970 has passed.
        each((expiry != NONE).then(|| u64::try_from(expiry).unwrap_or(1)), field, value);
    }
    Ok(count)
}

/// `earliest`: what the expiries are relative to, plus 1; the first forms have the expiries themselves.
fn before_each(reader: &mut Reader<'_>, earliest: Option<u64>, each: Each<'_>) -> Result<usize> {
    let count = reader.rdb_count(3)?;
    for _ in 0..count {
        let expiry = match reader.rdb_plain_length()? {
            0 => None,
            given => Some(earliest.map_or(given, |earliest| earliest.saturating_add(given - 1))),
        };
        each(expiry, raw_string(reader)?, raw_string(reader)?);
    }
    Ok(count)
}

fn in_listpack(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<u8> {
    let listpack = read_listpack(reader)?;
    let view = listpack.view();
    if !view.len().is_multiple_of(3) || view.iter().skip(2).step_by(3).any(|expiry| !matches!(expiry, Item::Int(0..))) {
        return Err(LISTPACK);
    }
    let expires = view.iter().skip(2).step_by(3).any(|expiry| expiry != Item::Int(0));
    write_head(view.len() / 3, expires, out);
    let mut items = view.iter();
    while let (Some(field), Some(value), Some(Item::Int(expiry))) = (items.next(), items.next(), items.next()) {
        if expires {
            write_expiry(out, u64::try_from(expiry).ok().filter(|expiry| *expiry > 0), 0);
        }
        write_item(out, field);
        write_item(out, value);
    }
    Ok(if expires { kind::HASH_TTL } else { kind::HASH })
}

fn read_listpack(reader: &mut Reader<'_>) -> Result<Listpack> {
    Ok(read_string(reader)?.with_bytes(Listpack::from_bytes)?)
}

/// The encoded form of the next string, including its length.
fn raw_string<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8]> {
    let before = reader.rest();
    let bytes = match reader.rdb_length()? {
        RdbLength::Length(length) => length,
        RdbLength::Encoding(0) => 1,
        RdbLength::Encoding(1) => 2,
        RdbLength::Encoding(2) => 4,
        RdbLength::Encoding(3) => {
            let compressed = reader.rdb_plain_length()?;
            reader.rdb_plain_length()?;
            compressed
        }
        RdbLength::Encoding(_) => return Err(CodecError::Malformed("unknown string encoding")),
    };
    reader.take_u64(bytes)?;
    Ok(&before[..before.len() - reader.remaining()])
}

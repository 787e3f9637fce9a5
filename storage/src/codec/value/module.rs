//! Values of modules that other servers have.
//!
//! ```text
//! | id | field ... | 0 |
//! id:     nine letters of six bits, above ten bits of the module's own version; a length
//! field:  1 | length          a signed number
//!         2 | length          a number
//!         3 | f32 LE
//!         4 | f64 LE
//!         5 | string
//! ```
//!
//! All numbers, those of the fields' kinds too, are lengths.

use crate::codec::reader::{ByteSink, write_rdb_length};
use crate::codec::string::{RdbString, read_string, skip_string};
use crate::codec::{CodecError, Reader};

type Result<T> = std::result::Result<T, CodecError>;

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// The bits of an id that are the module's version.
const VERSION_BITS: u32 = 10;

const END: u64 = 0;
const SIGNED: u64 = 1;
const UNSIGNED: u64 = 2;
const FLOAT: u64 = 3;
const DOUBLE: u64 = 4;
const STRING: u64 = 5;

const FIELD: CodecError = CodecError::Malformed("field of a module's value");

/// The name of a module's type.
pub fn name(id: u64) -> String {
    (0..9).map(|at| char::from(LETTERS[(id >> (VERSION_BITS + 6 * (8 - at)) & 63) as usize])).collect()
}

/// The id of a type with a name of nine letters.
pub(super) const fn id(name: &[u8; 9], version: u16) -> u64 {
    let (mut id, mut at) = (0, 0);
    while at < name.len() {
        let mut letter = 0;
        while LETTERS[letter] != name[at] {
            letter += 1;
        }
        id = id << 6 | letter as u64;
        at += 1;
    }
    id << VERSION_BITS | version as u64
}

/// An id without the module's own version, and that version.
pub(super) const fn without_version(id: u64) -> (u64, u16) {
    (id >> VERSION_BITS, (id & ((1 << VERSION_BITS) - 1)) as u16)
}

/// The fields of a value, one after the other.
pub(super) struct Fields<'r, 'a>(pub &'r mut Reader<'a>);

impl<'a> Fields<'_, 'a> {
    fn kind(&mut self, kind: u64) -> Result<()> {
        if self.0.rdb_plain_length()? == kind { Ok(()) } else { Err(FIELD) }
    }

    pub fn number(&mut self) -> Result<u64> {
        self.kind(UNSIGNED)?;
        self.0.rdb_plain_length()
    }

    pub fn double(&mut self) -> Result<f64> {
        self.kind(DOUBLE)?;
        self.0.array().map(f64::from_le_bytes)
    }

    pub fn string(&mut self) -> Result<RdbString<'a>> {
        self.kind(STRING)?;
        read_string(self.0)
    }

    pub fn end(&mut self) -> Result<()> {
        self.kind(END)
    }
}

/// The bytes of the strings among the fields, as long as they can be read.
pub(in crate::codec) fn strings_bytes(reader: &mut Reader<'_>) -> usize {
    let mut sum = 0usize;
    while let Ok(field) = reader.rdb_plain_length() {
        let passed = match field {
            SIGNED | UNSIGNED => reader.rdb_plain_length().map(drop),
            FLOAT => reader.take(4).map(drop),
            DOUBLE => reader.take(8).map(drop),
            STRING => skip_string(reader).map(|bytes| sum = sum.saturating_add(bytes)),
            _ => break,
        };
        if passed.is_err() {
            break;
        }
    }
    sum
}

/// Writes the fields of a value.
pub(super) struct FieldWriter<'o, S>(&'o mut S);

impl<'o, S: ByteSink> FieldWriter<'o, S> {
    /// Begins a value.
    pub fn begin(id: u64, out: &'o mut S) -> Self {
        write_rdb_length(out, id);
        FieldWriter(out)
    }

    pub fn number(&mut self, number: u64) {
        write_rdb_length(self.0, UNSIGNED);
        write_rdb_length(self.0, number);
    }

    pub fn double(&mut self, double: f64) {
        write_rdb_length(self.0, DOUBLE);
        self.0.extend_from_slice(&double.to_le_bytes());
    }

    /// A string of so many bytes, which come in runs.
    pub fn string<'b>(&mut self, bytes: usize, runs: impl Iterator<Item = &'b [u8]>) {
        write_rdb_length(self.0, STRING);
        write_rdb_length(self.0, bytes as u64);
        runs.for_each(|run| self.0.extend_from_slice(run));
    }

    pub fn end(self) {
        write_rdb_length(self.0, END);
    }
}

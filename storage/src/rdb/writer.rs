//! Writing RDB into a stream.
//!
//! The version is that of a [`RdbReaders`]: 11, which Redis 7.2 and all later servers read, another one of Redis, or Valkey's.
//! A value has the form that the target's readers know, and one of a type that they lack is not written.
//!
//! | version | read since | packed forms |
//! | --- | --- | --- |
//! | 80 | Valkey 9 | all |
//! | 15 | Redis 8.10 | all |
//! | 11 | Redis 7.2 | all |
//! | 10 | Redis 7.0 | all but those of sets |
//! | 9 | Redis 5.0 | sets of integers |
//!
//! A hash whose fields expire is written in the form of Redis 7.4 where the version is 11, as its readers know the form in
//! files of any version, and refused where it is an older one.
//!
//! The caller says the items in the order in which readers
//! want them: [`RdbWriter::aux`], then for each index [`RdbWriter::select`], [`RdbWriter::resize`] and its records, then
//! [`RdbWriter::finish`]. Bytes are gathered and written in long runs, however large a value is.

use std::io::{self, Write};

use crc_fast::{CrcAlgorithm, Digest};
use dormouse_types::ObjectRef;
use dormouse_types::record::Value;

use super::{
    OPCODE_AUX, OPCODE_END, OPCODE_EXPIRY_MS, OPCODE_FREQUENCY, OPCODE_FUNCTION, OPCODE_IDLE, OPCODE_RESIZE,
    OPCODE_SELECT, REDIS, VALKEY,
};
use crate::codec::reader::{ByteSink, write_rdb_length};
use crate::codec::string::{write_plain_string, write_string};
use crate::codec::value::RdbReaders;
use crate::codec::value::newer::Dialect;
use crate::codec::value::pieces::{Outline, write_outline};

/// Bytes that are gathered before they are written.
const RUN_BYTES: usize = 64 << 10;

pub struct RdbWriter<W> {
    inner: W,
    target: RdbReaders,
    run: Vec<u8>,
    digest: Digest,
    written: u64,
    /// The stream's error in the midst of a value. Nothing is written after it.
    failed: Option<io::Error>,
}

/// The first version that has expiries of fields.
const VERSION_OF_EXPIRIES: u16 = 11;

/// Metadata beside a key's value.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside {
    /// Unix milliseconds.
    pub expiry_ms: Option<u64>,
    /// Seconds since the key was used.
    pub idle_s: Option<u64>,
    /// How often it is used, as Redis counts it.
    pub frequency: Option<u8>,
}

impl<W: Write> RdbWriter<W> {
    /// Begins with the header of the version that all servers since Redis 7.2 read.
    pub fn new(inner: W) -> Self {
        Self::with_target(inner, RdbReaders::REDIS_7_2)
    }

    /// Begins with the header of the target's version.
    pub fn with_target(inner: W, target: RdbReaders) -> Self {
        let mut run = Vec::with_capacity(2 * RUN_BYTES);
        let version = target.version;
        match target.dialect {
            Dialect::Redis => {
                run.extend_from_slice(REDIS);
                run.extend_from_slice(format!("{version:04}").as_bytes());
            }
            Dialect::Valkey => {
                run.extend_from_slice(VALKEY);
                run.extend_from_slice(format!("{version:03}").as_bytes());
            }
        }
        RdbWriter { inner, target, run, digest: Digest::new(CrcAlgorithm::Crc64Redis), written: 0, failed: None }
    }

    /// Something about the writer, such as `redis-ver`.
    pub fn aux(&mut self, name: &str, value: &str) -> io::Result<()> {
        self.run.push(OPCODE_AUX);
        write_string(&mut self.run, name.as_bytes());
        write_string(&mut self.run, value.as_bytes());
        self.write_run()
    }

    /// The source of a library of functions.
    pub fn function(&mut self, source: &[u8]) -> io::Result<()> {
        self.run.push(OPCODE_FUNCTION);
        write_plain_string(&mut self.run, source);
        self.write_run()
    }

    /// The records after it belong to this logical index.
    pub fn select(&mut self, index: u64) -> io::Result<()> {
        self.run.push(OPCODE_SELECT);
        write_rdb_length(&mut self.run, index);
        self.write_run()
    }

    /// How many keys the index has, and how many of them expire.
    pub fn resize(&mut self, keys: u64, expires: u64) -> io::Result<()> {
        self.run.push(OPCODE_RESIZE);
        write_rdb_length(&mut self.run, keys);
        write_rdb_length(&mut self.run, expires);
        self.write_run()
    }

    /// Whether the readers have a type for this value.
    pub fn takes(&self, value: &Value<'_>) -> bool {
        self.target.encoding_of(value).is_some()
    }

    /// A key and its value, which the readers must have [a type for](Self::takes).
    ///
    /// # Errors
    /// When the stream refuses, or the version cannot hold all of the value ([`io::ErrorKind::Unsupported`]).
    pub fn record(&mut self, key: &[u8], value: &Value<'_>, beside: Beside) -> io::Result<()> {
        let version = self.target.version;
        let Some(encoding) = self.target.encoding_of(value) else {
            let text = format!("RDB version {version} has no type for the key `{}`", String::from_utf8_lossy(key));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        };
        if matches!(value, Value::Object(ObjectRef::Hash(hash)) if hash.expires()) && version < VERSION_OF_EXPIRIES {
            let key = String::from_utf8_lossy(key);
            let text = format!("fields of the hash `{key}` expire, which RDB version {version} cannot hold");
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let at = self.begin(beside);
        self.run[at] = encoding;
        write_string(self, key);
        self.target.encode(value, self);
        self.write_run()
    }

    /// A key and its value in the RDB encoding of the written version.
    pub fn encoded(&mut self, key: &[u8], kind: u8, value: &[u8], beside: Beside) -> io::Result<()> {
        let at = self.begin(beside);
        self.run[at] = kind;
        write_string(&mut self.run, key);
        self.run.extend_from_slice(value);
        self.write_run()
    }

    /// Begins a key whose value comes in pieces: [`RdbWriter::piece`] follows for each. Its form must be one that is
    /// [passed on](crate::codec::value::pieces::is_passed_on).
    pub fn begin_in_pieces(&mut self, key: &[u8], outline: Outline, beside: Beside) -> io::Result<()> {
        let at = self.begin(beside);
        self.run[at] = outline.kind;
        write_string(self, key);
        write_outline(outline, self);
        self.write_run()
    }

    /// The next piece of a value.
    pub fn piece(&mut self, piece: &[u8]) -> io::Result<()> {
        self.extend_from_slice(piece);
        self.write_run()
    }

    /// Ends the RDB and returns the stream, flushed, and the number of bytes written to it.
    pub fn finish(mut self) -> io::Result<(W, u64)> {
        self.check()?;
        self.run.push(OPCODE_END);
        self.digest.update(&self.run);
        let checksum = self.digest.finalize();
        self.run.extend_from_slice(&checksum.to_le_bytes());
        self.inner.write_all(&self.run)?;
        self.inner.flush()?;
        Ok((self.inner, self.written + self.run.len() as u64))
    }

    /// How many bytes have been written, including those that still gather.
    pub fn written(&self) -> u64 {
        self.written + self.run.len() as u64
    }

    /// Writes the metadata before a type, and room for the type; returns the offset of that room.
    fn begin(&mut self, beside: Beside) -> usize {
        if let Some(expiry) = beside.expiry_ms {
            self.run.push(OPCODE_EXPIRY_MS);
            self.run.extend_from_slice(&expiry.to_le_bytes());
        }
        if let Some(idle) = beside.idle_s {
            self.run.push(OPCODE_IDLE);
            write_rdb_length(&mut self.run, idle);
        }
        if let Some(frequency) = beside.frequency {
            self.run.extend_from_slice(&[OPCODE_FREQUENCY, frequency]);
        }
        self.run.push(0);
        self.run.len() - 1
    }

    fn write_run(&mut self) -> io::Result<()> {
        if self.run.len() >= RUN_BYTES {
            self.pass_on(&[]);
        }
        if self.run.capacity() > 16 * RUN_BYTES {
            self.run.shrink_to(2 * RUN_BYTES);
        }
        self.check()
    }

    fn check(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Writes the gathered bytes, and `more` after them.
    fn pass_on(&mut self, more: &[u8]) {
        let run = std::mem::take(&mut self.run);
        for bytes in [&run[..], more] {
            self.digest.update(bytes);
            self.written += bytes.len() as u64;
            if self.failed.is_none() {
                self.failed = self.inner.write_all(bytes).err();
            }
        }
        self.run = run;
        self.run.clear();
    }
}

/// A value on its way: gathered bytes are written as soon as they are enough.
impl<W: Write> ByteSink for RdbWriter<W> {
    #[inline]
    fn push(&mut self, byte: u8) {
        self.run.push(byte);
    }

    #[inline]
    fn extend_from_slice(&mut self, bytes: &[u8]) {
        if self.run.len() + bytes.len() >= RUN_BYTES {
            self.pass_on(bytes);
        } else {
            self.run.extend_from_slice(bytes);
        }
    }
}

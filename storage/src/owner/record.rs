//! The records of a run, and the names of runs and nodes.
//!
//! ```text
//! owner/000000000007, nodes/NAME/000000000007:
//! | "DMOWN\n\n\n"  | 8 bytes
//! | format version | u32 LE, 1 of a lone process, 2 of a node
//! | number         | u64 LE, as in the name
//! | writer         | u64 LE, as in the name of its log; 0: released
//! | since          | u64 LE, unix milliseconds by the writer's clock
//! | length         | varint, of the text that follows
//! | program        | the version of the writer's program
//! | length, node   | version 2 only: varint, and the name of the node that wrote it
//! | checksum       | u64 LE, CRC-64 of all before
//! ```
//!
//! A record that another node wrote, and any record of version 2 in `owner/`, is an *adoption*.

use std::fmt;

use crate::codec::reader::write_bytes;
use crate::codec::{CodecError, Reader, checksum, read_header, write_header};
use crate::store::{Store, StoreError};

/// The folder of a lone process's records.
pub const FOLDER: &str = "owner";
/// The folder of the runs of a fleet's nodes.
pub const NODES: &str = "nodes";

const MAGIC: &[u8; 8] = b"DMOWN\n\n\n";
const VERSION: u32 = 1;
/// Of a record that a node of a fleet wrote.
const VERSION_OF_NODE: u32 = 2;
const CHECKSUM_BYTES: usize = 8;
/// The writer of a record that releases its run.
const NO_WRITER: u64 = 0;
const NODE_BYTES_MAX: usize = 63;
const DIGITS: usize = 12;

/// A run of records: whose last one decides which process may write.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnerRun {
    /// Of a process that has the store for itself.
    Lone,
    /// Of the node with this name.
    Node(String),
}

impl OwnerRun {
    /// The run of a node.
    ///
    /// # Errors
    /// [`StoreError::NodeName`] when no node can have that name.
    pub fn node(name: &str) -> Result<Self, StoreError> {
        match is_node_name(name) {
            true => Ok(Self::Node(name.to_owned())),
            false => Err(StoreError::NodeName(name.to_owned())),
        }
    }

    pub(super) fn folder(&self) -> String {
        match self {
            Self::Lone => FOLDER.to_owned(),
            Self::Node(node) => format!("{NODES}/{node}"),
        }
    }

    /// The name of one of its records.
    pub fn record(&self, number: u64) -> String {
        format!("{}/{number:0DIGITS$}", self.folder())
    }

    /// The run and the number in the name of a record.
    pub(super) fn parse(name: &str) -> Option<(Self, u64)> {
        let (folder, number) = name.rsplit_once('/')?;
        let run = match folder.split_once('/') {
            None if folder == FOLDER => Self::Lone,
            Some((NODES, node)) if is_node_name(node) => Self::Node(node.to_owned()),
            _ => return None,
        };
        let is_number = number.len() == DIGITS && number.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| number.parse().ok()).flatten().map(|number| (run, number))
    }

    /// Whether another node than that of the run wrote the record.
    pub fn is_adopted_by(&self, record: &OwnerRecord) -> bool {
        match (self, &record.node) {
            (_, None) => false,
            (Self::Lone, Some(_)) => true,
            (Self::Node(own), Some(node)) => own != node,
        }
    }
}

impl fmt::Display for OwnerRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.folder())
    }
}

/// Whether a node can have this name: 1 to 63 characters of `a-z`, `0-9`, `-` and `.`, the first a letter or a digit.
pub fn is_node_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let begins_well = name.bytes().next().is_some_and(is_plain);
    begins_well
        && name.len() <= NODE_BYTES_MAX
        && name.bytes().all(|byte| is_plain(byte) || matches!(byte, b'-' | b'.'))
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerRecord {
    pub number: u64,
    pub writer: u64,
    /// Unix milliseconds.
    pub since_ms: u64,
    /// The version of the program that wrote it.
    pub program: String,
    /// The node that wrote it; none of a lone process.
    pub node: Option<String>,
}

impl OwnerRecord {
    /// A record of this program.
    pub(super) fn of(number: u64, writer: u64, since_ms: u64, node: Option<&str>) -> Self {
        let program = env!("CARGO_PKG_VERSION").to_owned();
        Self { number, writer, since_ms, program, node: node.map(str::to_owned) }
    }

    /// The record with which a process ends a run.
    pub(super) fn release(number: u64, since_ms: u64, node: Option<&str>) -> Self {
        Self::of(number, NO_WRITER, since_ms, node)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_header(&mut out, MAGIC, self.node.as_ref().map_or(VERSION, |_| VERSION_OF_NODE));
        for field in [self.number, self.writer, self.since_ms] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        write_bytes(&mut out, self.program.as_bytes());
        if let Some(node) = &self.node {
            write_bytes(&mut out, node.as_bytes());
        }
        let sum = checksum(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// # Errors
    /// When the bytes are no record that this build reads.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        read_header(&mut Reader::new(bytes), MAGIC, "owner record", VERSION_OF_NODE)?;
        let at = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(CodecError::Truncated)?;
        let (body, mut sum) = (&bytes[..at], Reader::new(&bytes[at..]));
        let (stored, computed) = (sum.u64_le()?, checksum(body));
        if stored != computed {
            return Err(CodecError::Checksum { stored, computed });
        }
        let mut reader = Reader::new(body);
        let version = read_header(&mut reader, MAGIC, "owner record", VERSION_OF_NODE)?;
        let (number, writer, since_ms) = (reader.u64_le()?, reader.u64_le()?, reader.u64_le()?);
        let program = reader.text()?.to_owned();
        let node = if version == VERSION_OF_NODE { Some(reader.text()?.to_owned()) } else { None };
        reader.finish()?;
        if node.as_ref().is_some_and(|node| !is_node_name(node)) {
            return Err(CodecError::Malformed("name of a node"));
        }
        Ok(Self { number, writer, since_ms, program, node })
    }

    /// Whether it says that the owner before has ended.
    pub fn is_release(&self) -> bool {
        self.writer == NO_WRITER
    }
}

/// Creates a record; false if its number belongs to another process. A gateway between this process and the store may
/// repeat a request, so a record of this process can be the reason for a refusal.
pub(super) async fn create(store: &Store, run: &OwnerRun, record: &OwnerRecord) -> Result<bool, StoreError> {
    match store.put_new(&run.record(record.number), record.encode()).await {
        Ok(()) => Ok(true),
        Err(StoreError::Exists { .. }) => Ok(read(store, run, record.number).await?.as_ref() == Some(record)),
        Err(error) => Err(error),
    }
}

/// A record; none if it was collected meanwhile.
pub(super) async fn read(store: &Store, run: &OwnerRun, number: u64) -> Result<Option<OwnerRecord>, StoreError> {
    let name = run.record(number);
    let bytes = match store.get(&name).await {
        Err(error) if error.is_missing() => return Ok(None),
        bytes => bytes?,
    };
    let record = OwnerRecord::decode(&bytes).map_err(|error| StoreError::corrupt(&name, error))?;
    if record.number != number {
        return Err(StoreError::corrupt(&name, format!("it is record {}", record.number)));
    }
    let is_of_node = matches!(run, OwnerRun::Node(_));
    if (is_of_node && record.node.is_none()) || (record.is_release() && run.is_adopted_by(&record)) {
        return Err(StoreError::corrupt(&name, "it is no record of this run"));
    }
    Ok(Some(record))
}

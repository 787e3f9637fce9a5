//! The objects of the directory: groups of changes, and snapshots.
//!
//! ```text
//! directory/000000000042:           the changes of step 42
//! directory/snapshot-000000000042:  every record after step 42, in the order of names
//! | "DMDIR\n\n\n"  | 8 bytes
//! | format version | u32 LE, 1
//! | kind           | u8: 0 changes, 1 snapshot
//! | number         | u64 LE, as in the name
//! | writer         | u64 LE, of the process that wrote it
//! | count          | varint, of the changes that follow; each is
//! |   u8           |   0: put, 1: remove
//! |   bytes        |   with their length, a varint: the record, or the name
//! | checksum       | u64 LE, CRC-64 of all before
//! ```

use super::record::{DatabaseRecord, name_in};
use crate::codec::reader::{write_bytes, write_varint};
use crate::codec::{CodecError, Reader, checksum, read_header, write_header};

const MAGIC: &[u8; 8] = b"DMDIR\n\n\n";
const VERSION: u32 = 1;
const CHECKSUM_BYTES: usize = 8;
const PUT: u8 = 0;
const REMOVE: u8 = 1;

/// A change of one database's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryChange {
    /// The encoded record replaces that of the same name, if there is one.
    Put(Box<[u8]>),
    Remove(Box<str>),
}

impl DirectoryChange {
    pub fn put(record: &DatabaseRecord) -> Self {
        Self::Put(record.encode())
    }

    /// The name of the database that changes.
    pub fn name(&self) -> &str {
        match self {
            Self::Put(record) => name_in(record),
            Self::Remove(name) => name,
        }
    }
}

/// Whether an object holds changes or all records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectoryKind {
    Changes,
    Snapshot,
}

/// Encodes an object, change by change.
#[derive(Debug)]
pub struct DirectoryEncoder {
    out: Vec<u8>,
}

impl DirectoryEncoder {
    /// `count`: how many changes follow.
    pub fn new(kind: DirectoryKind, number: u64, writer: u64, count: usize) -> Self {
        let mut out = Vec::new();
        write_header(&mut out, MAGIC, VERSION);
        out.push(match kind {
            DirectoryKind::Changes => 0,
            DirectoryKind::Snapshot => 1,
        });
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&writer.to_le_bytes());
        write_varint(&mut out, count as u64);
        Self { out }
    }

    /// Adds an encoded record.
    pub fn put(&mut self, record: &[u8]) {
        self.out.push(PUT);
        write_bytes(&mut self.out, record);
    }

    pub fn change(&mut self, change: &DirectoryChange) {
        match change {
            DirectoryChange::Put(record) => self.put(record),
            DirectoryChange::Remove(name) => {
                self.out.push(REMOVE);
                write_bytes(&mut self.out, name.as_bytes());
            }
        }
    }

    pub fn finish(mut self) -> Vec<u8> {
        let sum = checksum(&self.out);
        self.out.extend_from_slice(&sum.to_le_bytes());
        self.out
    }
}

/// Decodes an object. Nothing is kept of it but its changes.
///
/// # Errors
/// When the bytes are no such object, of this kind and number, that this build reads.
pub fn decode(bytes: &[u8], kind: DirectoryKind, number: u64) -> Result<Vec<DirectoryChange>, CodecError> {
    read_header(&mut Reader::new(bytes), MAGIC, "directory", VERSION)?;
    let at = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(CodecError::Truncated)?;
    let (body, mut sum) = (&bytes[..at], Reader::new(&bytes[at..]));
    let (stored, computed) = (sum.u64_le()?, checksum(body));
    if stored != computed {
        return Err(CodecError::Checksum { stored, computed });
    }
    let mut reader = Reader::new(body);
    read_header(&mut reader, MAGIC, "directory", VERSION)?;
    let found = match reader.u8()? {
        0 => DirectoryKind::Changes,
        1 => DirectoryKind::Snapshot,
        _ => return Err(CodecError::Malformed("kind of a directory's object")),
    };
    if found != kind || reader.u64_le()? != number {
        return Err(CodecError::Malformed("another object of the directory"));
    }
    let _writer = reader.u64_le()?;
    let count = reader.count(2)?;
    let mut changes: Vec<DirectoryChange> = Vec::with_capacity(count);
    for _ in 0..count {
        let change = match (reader.u8()?, reader.bytes()?) {
            (PUT, record) => DirectoryChange::put(&DatabaseRecord::decode(record)?),
            (REMOVE, name) if kind == DirectoryKind::Changes => {
                let name = std::str::from_utf8(name).map_err(|_| CodecError::Malformed("name of a database"))?;
                DirectoryChange::Remove(name.into())
            }
            _ => return Err(CodecError::Malformed("kind of a change")),
        };
        let is_in_order = |last: &DirectoryChange| kind == DirectoryKind::Changes || last.name() < change.name();
        if !changes.last().is_none_or(is_in_order) {
            return Err(CodecError::Malformed("order of a snapshot"));
        }
        changes.push(change);
    }
    reader.finish()?;
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::for_each_damage;

    fn encode(kind: DirectoryKind, changes: &[DirectoryChange]) -> Vec<u8> {
        let mut encoder = DirectoryEncoder::new(kind, 42, 7, changes.len());
        changes.iter().for_each(|change| encoder.change(change));
        encoder.finish()
    }

    fn put(name: &str) -> DirectoryChange {
        DirectoryChange::put(&DatabaseRecord::new(name, 1))
    }

    #[test]
    fn objects_survive_and_damage_is_found() {
        let changes = vec![put("shop"), DirectoryChange::Remove("blog".into()), put("a.b")];
        let bytes = encode(DirectoryKind::Changes, &changes);
        let names: Vec<&str> = changes.iter().map(DirectoryChange::name).collect();
        assert_eq!(names, ["shop", "blog", "a.b"]);
        assert_eq!(decode(&bytes, DirectoryKind::Changes, 42), Ok(changes));
        for_each_damage(&bytes, |bytes| decode(bytes, DirectoryKind::Changes, 42).is_err());
        assert!(decode(&bytes, DirectoryKind::Changes, 43).is_err());
        assert!(decode(&bytes, DirectoryKind::Snapshot, 42).is_err());
    }

    #[test]
    fn a_snapshot_is_in_order() {
        let of = |changes: &[DirectoryChange]| {
            let bytes = encode(DirectoryKind::Snapshot, changes);
            decode(&bytes, DirectoryKind::Snapshot, 42).map(|changes| changes.len())
        };
        assert_eq!(of(&[put("a"), put("b")]), Ok(2));
        assert_eq!(of(&[]), Ok(0));
        assert!(of(&[put("b"), put("a")]).is_err());
        assert!(of(&[put("a"), put("a")]).is_err());
        assert!(of(&[put("a"), DirectoryChange::Remove("b".into())]).is_err());
    }
}

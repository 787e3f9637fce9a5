//! The record of what has been pushed to a receiver of usage: which objects of the ledger, and which notices.
//!
//! Objects are known by marks, the CRC-64 of their names, so that the record of years is small. It depends on no clock and no
//! order: an object that appears late, in an hour that was pushed long ago, has no mark.
//!
//! ```text
//! ledger-pushed/00000000000000000007                its seventh version
//!
//! | "DMPUSH\n\n"   | 8 bytes
//! | format version | u32 LE, 1
//! | count          | varint, of the marks that follow, ascending; each is u64 LE
//! | count          | varint, of the notices that follow; each is
//! |   id, body     |   two texts with their lengths, varints; the body of one that was pushed is empty
//! |   end          |   varint, the Unix second after which it may be forgotten
//! | checksum       | u64 LE, CRC-64 of all before
//! ```
//!
//! Each version is a new object, after which the older ones are deleted. A crash may leave several. Reading takes them
//! together: what any of them has as pushed was pushed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::codec::reader::{write_bytes, write_varint};
use crate::codec::{CodecError, Reader, checksum, read_header, write_header};
use crate::store::{Store, StoreError};

/// The folder of the versions.
pub const FOLDER: &str = "ledger-pushed";
const MAGIC: &[u8; 8] = b"DMPUSH\n\n";
const VERSION: u32 = 1;
const CHECKSUM_BYTES: usize = 8;
const MARK_BYTES: usize = 8;
/// The fewest bytes of a notice.
const NOTICE_BYTES_MIN: usize = 3;
/// Names that are tried for one version.
const NAMES_TRIED: usize = 100;

/// The record of pushed objects.
#[derive(Debug)]
pub struct PushRecord {
    store: Arc<Store>,
    contents: Contents,
    /// The versions in the store, and the number of the last.
    versions: Vec<String>,
    number: u64,
    is_changed: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Contents {
    marks: BTreeSet<u64>,
    notices: BTreeMap<Box<str>, Notice>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Notice {
    /// Empty: it was pushed.
    body: Box<str>,
    end_s: u64,
}

impl PushRecord {
    /// Reads it. A store in which nothing was ever recorded has an [empty](Self::is_new) one.
    ///
    /// # Errors
    /// When the store cannot be read, or a version is damaged.
    pub async fn open(store: &Arc<Store>) -> Result<Self, StoreError> {
        let mut contents = Contents::default();
        let (mut versions, mut number) = (Vec::new(), 0);
        for object in store.list(FOLDER).await? {
            let bytes = match store.get(&object.name).await {
                // Another process has deleted it after writing a newer one.
                Err(error) if error.is_missing() => continue,
                read => read?,
            };
            contents.add(decode(&bytes).map_err(|error| StoreError::corrupt(&object.name, error))?);
            let of_name = object.name.rsplit('/').next().and_then(|name| name.parse().ok());
            number = number.max(of_name.unwrap_or(0));
            versions.push(object.name);
        }
        Ok(Self { store: Arc::clone(store), contents, versions, number, is_changed: false })
    }

    /// Whether nothing was ever recorded.
    pub fn is_new(&self) -> bool {
        self.versions.is_empty()
    }

    /// Whether the object of the ledger with this name was pushed.
    pub fn has(&self, name: &str) -> bool {
        self.contents.marks.contains(&mark(name))
    }

    pub fn add(&mut self, name: &str) {
        self.is_changed |= self.contents.marks.insert(mark(name));
    }

    /// Forgets all objects but these.
    pub fn retain<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let kept: BTreeSet<u64> = names.map(mark).collect();
        let before = self.contents.marks.len();
        self.contents.marks.retain(|mark| kept.contains(mark));
        self.is_changed |= self.contents.marks.len() < before;
    }

    /// Takes a notice to be pushed, unless it is known already. It may be forgotten after `end_s`, Unix seconds.
    pub fn take_notice(&mut self, id: &str, body: &str, end_s: u64) {
        if !self.contents.notices.contains_key(id) {
            self.contents.notices.insert(id.into(), Notice { body: body.into(), end_s });
            self.is_changed = true;
        }
    }

    /// The notices that were not pushed yet: their ids and bodies.
    pub fn notices(&self) -> impl Iterator<Item = (&str, &str)> {
        let waiting = self.contents.notices.iter().filter(|(_, notice)| !notice.body.is_empty());
        waiting.map(|(id, notice)| (&**id, &*notice.body))
    }

    pub fn notice_pushed(&mut self, id: &str) {
        if let Some(notice) = self.contents.notices.get_mut(id) {
            notice.body = Box::default();
            self.is_changed = true;
        }
    }

    /// Forgets the notices that were pushed and whose time is over.
    pub fn forget_notices(&mut self, now_s: u64) {
        let before = self.contents.notices.len();
        self.contents.notices.retain(|_, notice| !notice.body.is_empty() || notice.end_s > now_s);
        self.is_changed |= self.contents.notices.len() < before;
    }

    /// Makes the changes durable, if there are any.
    ///
    /// # Errors
    /// When the store refuses. They stay in memory.
    pub async fn save(&mut self) -> Result<(), StoreError> {
        if self.is_changed || self.is_new() { self.write().await } else { Ok(()) }
    }

    async fn write(&mut self) -> Result<(), StoreError> {
        let bytes = Bytes::from(encode(&self.contents));
        let mut tried = 0;
        let name = loop {
            self.number += 1;
            let name = format!("{FOLDER}/{:020}", self.number);
            tried += 1;
            let Err(error) = self.store.put_new(&name, bytes.clone()).await else { break name };
            // One that exists is another process's, and has what that has pushed.
            let is_taken = matches!(error, StoreError::Exists { .. });
            if !is_taken {
                // It may be there, without an answer.
                self.versions.push(name);
            }
            if !is_taken || tried == NAMES_TRIED {
                return Err(error);
            }
        };
        self.is_changed = false;
        let old = std::mem::replace(&mut self.versions, vec![name]);
        if let Err(error) = self.store.delete_many(&old).await {
            self.versions.extend(old);
            return Err(error);
        }
        Ok(())
    }
}

impl Contents {
    fn add(&mut self, other: Self) {
        self.marks.extend(other.marks);
        for (id, notice) in other.notices {
            match self.notices.get_mut(&id) {
                Some(known) if notice.body.is_empty() => *known = notice,
                Some(_) => {}
                None => _ = self.notices.insert(id, notice),
            }
        }
    }
}

fn mark(name: &str) -> u64 {
    checksum(name.as_bytes())
}

fn encode(contents: &Contents) -> Vec<u8> {
    let mut out = Vec::new();
    write_header(&mut out, MAGIC, VERSION);
    write_varint(&mut out, contents.marks.len() as u64);
    contents.marks.iter().for_each(|mark| out.extend_from_slice(&mark.to_le_bytes()));
    write_varint(&mut out, contents.notices.len() as u64);
    for (id, notice) in &contents.notices {
        write_bytes(&mut out, id.as_bytes());
        write_bytes(&mut out, notice.body.as_bytes());
        write_varint(&mut out, notice.end_s);
    }
    let sum = checksum(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Result<Contents, CodecError> {
    read_header(&mut Reader::new(bytes), MAGIC, "record of pushed usage", VERSION)?;
    let at = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(CodecError::Truncated)?;
    let (body, mut sum) = (&bytes[..at], Reader::new(&bytes[at..]));
    let (stored, computed) = (sum.u64_le()?, checksum(body));
    if stored != computed {
        return Err(CodecError::Checksum { stored, computed });
    }
    let mut reader = Reader::new(body);
    read_header(&mut reader, MAGIC, "record of pushed usage", VERSION)?;
    let mut contents = Contents::default();
    for _ in 0..reader.count(MARK_BYTES)? {
        let mark = reader.u64_le()?;
        if contents.marks.last().is_some_and(|last| *last >= mark) {
            return Err(CodecError::Malformed("order of marks"));
        }
        contents.marks.insert(mark);
    }
    for _ in 0..reader.count(NOTICE_BYTES_MIN)? {
        let (id, body, end_s) = (reader.text()?, reader.text()?, reader.varint()?);
        if contents.notices.last_key_value().is_some_and(|(last, _)| **last >= *id) {
            return Err(CodecError::Malformed("order of notices"));
        }
        contents.notices.insert(id.into(), Notice { body: body.into(), end_s });
    }
    reader.finish()?;
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use proptest::prelude::*;

    use super::*;
    use crate::codec::tests::for_each_damage;
    use crate::store::{FaultyStore, StoreFault, StoreRequest};

    /// Written once: what was pushed must not be pushed again after an upgrade.
    const GOLDEN: &[u8] = include_bytes!("../../tests/golden/ledger-pushed-v1.bin");

    fn example() -> Contents {
        let notice = |body: &str, end_s| Notice { body: body.into(), end_s };
        Contents {
            marks: [0, 7, u64::MAX].into(),
            notices: [
                ("shop:spending_limit:1796083200".into(), notice("{\"specversion\":\"1.0\"}", 1_798_761_600)),
                ("shop:spending_warning:1796083200".into(), notice("", 1_798_761_600)),
            ]
            .into(),
        }
    }

    #[test]
    fn records_survive_and_damage_is_found() {
        let bytes = encode(&example());
        assert_eq!(decode(&bytes), Ok(example()));
        assert_eq!(decode(GOLDEN), Ok(example()));
        assert_eq!(bytes, GOLDEN);
        for_each_damage(&bytes, |bytes| decode(bytes).is_err());
    }

    #[tokio::test]
    async fn a_record_is_replaced_and_read_again() {
        let faults = FaultyStore::new(Arc::new(InMemory::new()));
        let store = Arc::new(Store::over(faults.clone(), "memory://"));
        let mut record = PushRecord::open(&store).await.unwrap();
        assert!(record.is_new() && !record.has("a"));
        record.save().await.unwrap();
        for name in ["a", "b", "c"] {
            record.add(name);
            record.save().await.unwrap();
        }
        record.take_notice("one", "body", 100);
        // It is written, but the answer is lost.
        faults.fail(StoreRequest::Put, 0, 1, StoreFault::Unanswered);
        assert!(record.save().await.is_err());
        record.save().await.unwrap();
        record.save().await.unwrap();
        assert_eq!(store.list(FOLDER).await.unwrap().len(), 1);
        // Another process goes on, and one that was overtaken writes once more.
        let mut next = PushRecord::open(&store).await.unwrap();
        assert!(!next.is_new() && next.has("a") && next.has("c"));
        assert_eq!(next.notices().collect::<Vec<_>>(), [("one", "body")]);
        next.take_notice("one", "another body", 100);
        next.notice_pushed("one");
        next.add("d");
        faults.fail(StoreRequest::Delete, 0, 1, StoreFault::Lost);
        assert!(next.save().await.is_err(), "the older version is still there");
        record.add("e");
        record.take_notice("two", "body", 100);
        record.save().await.unwrap();
        let mut both = PushRecord::open(&store).await.unwrap();
        assert!(both.has("d") && both.has("e"));
        assert_eq!(both.notices().collect::<Vec<_>>(), [("two", "body")]);
        both.retain(["d"].into_iter());
        both.forget_notices(100);
        assert!(both.has("d") && !both.has("e"));
        assert_eq!(both.contents.notices.len(), 1, "the other was not pushed");
        both.save().await.unwrap();
        assert_eq!(PushRecord::open(&store).await.unwrap().contents, both.contents);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut whole = Vec::new();
            write_header(&mut whole, MAGIC, VERSION);
            whole.extend_from_slice(&bytes);
            let sum = checksum(&whole);
            whole.extend_from_slice(&sum.to_le_bytes());
            let _ = decode(&whole);
        }
    }
}

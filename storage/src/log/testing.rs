//! A log's files in memory, which tests damage and which fail when they are told to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use parking_lot::Mutex;

use super::format::{EntryHead, EntryKind, Identity, NamedDatabase, write_effect, write_frame};
use super::recovery::{Entries, Recovered, take_over};
use super::sink::{Found, Remover, Sink};
use super::{Journal, Log};
use crate::store::StoreError;

pub const NOW_MS: u64 = 1_700_000_000_000;

/// Shared, so that a test sees what a log did to it.
#[derive(Debug, Clone, Default)]
pub struct MemorySink(pub Arc<Mutex<Held>>);

#[derive(Debug, Default)]
pub struct Held {
    pub files: BTreeMap<(u64, u64), Vec<u8>>,
    pub fails: bool,
    pub sealed: bool,
    /// The files that were read, in order.
    pub read: Vec<(u64, u64)>,
    /// The files that were cut, and their new lengths.
    pub cut: Vec<(u64, u64)>,
    /// How many of their bytes were known to be durable.
    pub durable: Vec<u64>,
    pub file_bytes: u64,
    /// While it is locked, deletions wait.
    pub slow_removes: Arc<Mutex<()>>,
    current: Option<(u64, u64)>,
}

impl MemorySink {
    pub fn of(files: impl IntoIterator<Item = ((u64, u64), Vec<u8>)>) -> Self {
        let sink = Self::default();
        sink.0.lock().files = files.into_iter().collect();
        sink
    }
}

impl Sink for MemorySink {
    fn found(&mut self) -> Result<Vec<Found>, StoreError> {
        let mut found: Vec<Found> = Vec::new();
        for (writer, number) in self.0.lock().files.keys() {
            match found.last_mut() {
                Some(last) if last.writer == *writer => last.numbers.push(*number),
                _ => found.push(Found { writer: *writer, numbers: vec![*number] }),
            }
        }
        Ok(found)
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn read(&mut self, writer: u64, number: u64) -> Result<Bytes, StoreError> {
        let held = &mut *self.0.lock();
        held.read.push((writer, number));
        let file = held.files.get(&(writer, number)).cloned();
        file.map(Bytes::from).ok_or(StoreError::Missing { name: "file".to_owned() })
    }

    fn begin(&mut self, writer: u64, number: u64, head: &[u8]) -> Result<(), StoreError> {
        let mut held = self.0.lock();
        assert!(!held.files.contains_key(&(writer, number)), "a file is begun once");
        held.files.insert((writer, number), head.to_vec());
        held.current = Some((writer, number));
        Ok(())
    }

    /// When it fails, half of the frame is written.
    fn append(&mut self, frame: &[&[u8]]) -> Result<(), StoreError> {
        let frame = frame.concat();
        let held = &mut *self.0.lock();
        if held.sealed {
            return Err(StoreError::LogSealed);
        }
        let current = held.current.expect("a file was begun");
        let written = if held.fails { &frame[..frame.len() / 2] } else { &frame[..] };
        held.files.get_mut(&current).expect("it was begun").extend_from_slice(written);
        if held.fails { Err(StoreError::Full { name: "file".to_owned() }) } else { Ok(()) }
    }

    fn cut(&mut self, _: u64, number: u64, durable: u64, length: u64) -> Result<(), StoreError> {
        let held = &mut *self.0.lock();
        held.cut.push((number, length));
        held.durable.push(durable);
        Ok(())
    }

    fn reader(&self) -> Box<dyn Sink> {
        Box::new(self.clone())
    }

    fn remover(&self) -> Remover {
        let held = Arc::clone(&self.0);
        Box::new(move |files| {
            let slow = Arc::clone(&held.lock().slow_removes);
            drop(slow.lock());
            files.iter().for_each(|file| drop(held.lock().files.remove(file)));
            Ok(())
        })
    }

    fn is_sealed(&mut self, _: u64, _: u64) -> Result<bool, StoreError> {
        Ok(self.0.lock().sealed)
    }

    fn file_bytes(&self) -> u64 {
        self.0.lock().file_bytes
    }
}

pub fn identity(name: &str) -> Identity {
    Identity { name: name.into(), seed: 7, created_ms: 8 }
}

/// A frame of entries: database number (0 is `a`, 1 is `b`, ...) and sequence number of each. An entry's one effect has its
/// sequence number for a body.
pub fn frame(out: &mut Vec<u8>, lsn: u64, synced: u64, of: &[(u32, u64)]) -> u64 {
    let mut entries = Vec::new();
    let mut names: Vec<NamedDatabase> = Vec::new();
    for (database, sequence) in of {
        let mut items = Vec::new();
        write_effect(&mut items, 0, *sequence << 11, |body| body.extend_from_slice(&sequence.to_le_bytes()));
        let head = EntryHead {
            database: *database,
            kind: EntryKind::Effects,
            sequence: *sequence,
            now_ms: NOW_MS,
            items_bytes: items.len() as u64,
        };
        head.write(&mut entries);
        entries.extend_from_slice(&items);
        if names.iter().all(|name| name.number != *database) {
            let name = char::from(b'a' + *database as u8).to_string();
            names.push(NamedDatabase { number: *database, identity: identity(&name) });
        }
    }
    write_frame(out, lsn, synced, &names, &entries);
    lsn + entries.len() as u64
}

pub fn recover(files: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Recovered {
    let mut sink = MemorySink::of(files.into_iter().map(|(number, file)| ((1, number), file)));
    take_over(&mut sink).expect("memory can be read").0
}

/// The sequence numbers of entries, after a check that each is what [`frame`] made.
pub fn numbers(entries: &Entries) -> Vec<u64> {
    let number = |entry: &super::recovery::LogEntry| {
        assert_eq!(entry.now_ms, NOW_MS);
        assert_eq!(entry.items[16..], entry.sequence.to_le_bytes());
        entry.sequence
    };
    entries.entries.iter().map(number).collect()
}

pub fn open(sink: &MemorySink) -> Arc<Log> {
    Log::over(Box::new(sink.clone()), 1, || NOW_MS).expect("memory can be read").0
}

/// Writes of one database.
pub struct Writer {
    pub journal: Journal,
    pub sequence: AtomicU64,
}

impl Writer {
    pub fn new(log: &Arc<Log>, name: &str) -> Self {
        let journal = Journal::of(log, &identity(name));
        journal.record(true);
        Self { journal, sequence: AtomicU64::new(0) }
    }

    /// Returns the lsn after it.
    pub fn write(&self) -> u64 {
        let mut items = Vec::new();
        let next = self.sequence.load(std::sync::atomic::Ordering::SeqCst) + 1;
        write_effect(&mut items, 0, next << 11, |body| body.extend_from_slice(&next.to_le_bytes()));
        self.journal.append(&self.sequence, NOW_MS, &items)
    }
}

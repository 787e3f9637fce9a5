//! What comes from a disk, thrown at the code that reads it: bodies of the targets in `fuzz/`, which `tests/fuzz_smoke.rs`
//! runs too. None of them may panic, hang, or allocate much more than its input, whatever that is.

use bytes::Bytes;

use crate::chunk::ChunkIndex;
use crate::codec::block::seal;
use crate::codec::segment::{decode_segment, visit_segment};
use crate::commands;
use crate::keyspace::contents::INDEXES;
use crate::keyspace::{Contents, Keyspace, Shared, effect};
use crate::log::format::{FileHead, Identity, Name, write_frame};
use crate::log::recovery::{collect, look};
use crate::log::sink::{Found, Remover, Sink};
use crate::log::tail::LogTail;
use crate::manifest::Manifest;
use crate::segment::{Range53, SlotPlacement};
use crate::store::StoreError;
use crate::tail::Tail;
use crate::topology::SLOTS;
use crate::types::Limits;

const PLACEMENT: SlotPlacement = SlotPlacement { seed: 0x0123_4567_89ab_cdef };

/// A target: its name and its body.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 6] = [
    ("chunk", chunk),
    ("segment", segment),
    ("manifest", manifest),
    ("tail", tail),
    ("log", log),
    ("effects", effects),
];

pub fn chunk(input: &[u8]) {
    let unchecked = ChunkIndex::of_chunk(input);
    let Ok(index) = ChunkIndex::parse(input) else { return };
    assert_eq!(unchecked.as_ref(), Ok(&index));
    for entry in index.entries {
        segment(&input[entry.offset as usize..(entry.offset + entry.len) as usize]);
    }
}

/// As it is, and as what a right checksum stands behind.
pub fn segment(input: &[u8]) {
    body(input);
    body(&seal(input));
}

fn body(input: &[u8]) {
    let mut records = 0;
    let visited = visit_segment(input, &Limits::default(), |_| records += 1);
    if let Ok(count) = &visited {
        assert_eq!(*count, records);
    }
    if let Ok(segment) = decode_segment(input, &PLACEMENT, &Limits::default(), Range53::WHOLE) {
        assert_eq!(visited, Ok(segment.len() as u32));
    }
}

/// What is read can be written, and is the same then.
pub fn manifest(input: &[u8]) {
    let Ok(manifest) = Manifest::decode(input) else { return };
    assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
}

pub fn tail(input: &[u8]) {
    let Ok(tail) = Tail::decode("fuzz", Bytes::copy_from_slice(input)) else { return };
    let (all, found) = (tail.all(), tail.effects(3, Range53::WHOLE, 0));
    if let (Ok(all), Ok(found)) = (all, found) {
        assert!(tail.verify().is_ok() && found.len() <= all.len());
        all.iter().for_each(|record| drop(effect::read(&record.body)));
    }
}

/// A whole file of a log; and one whose only frame, with a right checksum, has the input for its entries.
pub fn log(input: &[u8]) {
    log_file(Bytes::copy_from_slice(input));
    let mut file = FileHead { writer: 1, number: 1, lsn: 0 }.encode().to_vec();
    let identity = Identity { name: "fuzz".into(), seed: 1, created_ms: 1 };
    write_frame(&mut file, 0, 0, &[Name { number: 0, identity }], input);
    log_file(file.into());
}

fn log_file(file: Bytes) {
    let mut sink = OneFile(file);
    let Ok(logs) = look(&mut sink) else { return };
    let mut recovered = collect(logs);
    let identities: Vec<_> = recovered.identities().into_iter().cloned().collect();
    for identity in identities {
        let entries = recovered.take(&identity);
        let floor = entries.entries.first().map_or(0, |entry| entry.sequence.saturating_sub(1));
        for tail in [LogTail::prefix(entries.entries.clone(), floor).0, LogTail::new(entries, 0, 0).unwrap_or_default()]
        {
            assert!(tail.effects(0, Range53::WHOLE, 0).len() <= tail.len());
        }
    }
}

/// Effects one after the other, each with a byte for its length before it, replayed onto one keyspace.
pub fn effects(mut input: &[u8]) {
    let shared = Shared::new("fuzz", PLACEMENT.seed);
    let mut contents = Contents::empty(0, SLOTS, PLACEMENT, [0; INDEXES]);
    while let Some((length, rest)) = input.split_first() {
        let (body, after) = rest.split_at(rest.len().min(usize::from(*length)));
        input = after;
        let mut db = Keyspace::new([&mut contents], &shared, 0, 1_700_000_000_000, 0);
        // What is malformed is refused, and the next may be good.
        let _ = commands::replay(&mut db, body);
    }
}

/// A log that is one file.
struct OneFile(Bytes);

impl Sink for OneFile {
    fn found(&mut self) -> Result<Vec<Found>, StoreError> {
        Ok(vec![Found { writer: 1, numbers: vec![1] }])
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn read(&mut self, _: u64, _: u64) -> Result<Bytes, StoreError> {
        Ok(self.0.clone())
    }

    fn seal(&mut self, _: u64, _: u64) -> Result<Vec<u64>, StoreError> {
        Ok(Vec::new())
    }

    fn begin(&mut self, _: u64, _: u64, _: &[u8]) -> Result<(), StoreError> {
        Err(StoreError::LogSealed)
    }

    fn append(&mut self, _: &[&[u8]]) -> Result<(), StoreError> {
        Err(StoreError::LogSealed)
    }

    fn cut(&mut self, _: u64, _: u64, _: u64) -> Result<(), StoreError> {
        Ok(())
    }

    fn remover(&self) -> Remover {
        Box::new(|_| Ok(()))
    }

    fn is_sealed(&mut self, _: u64, _: u64) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn file_bytes(&self) -> u64 {
        0
    }
}

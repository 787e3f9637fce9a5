//! Bodies of the targets in `fuzz/`, which feed arbitrary bytes to the code that reads a disk.
//! `shard/tests/fuzz_smoke.rs` runs them too. None of them may panic, hang, or allocate much more than its input,
//! whatever that is.

use std::io::{self, Read};

use bytes::Bytes;
use dormouse_types::Limits;
use dormouse_types::record::Value;
use dormouse_types::segment::{Range53, SlotPlacement};

use crate::chunk::ChunkIndex;
use crate::codec::block::seal;
use crate::codec::dump::{self, RDB_VERSION, restore};
use crate::codec::segment::{decode_segment, visit_segment};
use crate::codec::value::{LoadedValue, decode_value};
use crate::codec::{Reader, checksum};
use crate::directory::{DirectoryEncoder, DirectoryKind, format};
use crate::effect;
use crate::ledger::format::{decode as decode_windows, encode as encode_windows};
use crate::log::format::{FileHead, Identity, NamedDatabase, write_frame};
use crate::log::recovery::{collect, look};
use crate::log::sink::{Found, Remover, Sink};
use crate::log::tail::LogTail;
use crate::manifest::Manifest;
use crate::rdb::{Beside, RdbEntry, RdbReader, RdbRecord, RdbWriter};
use crate::store::StoreError;
use crate::stretch::{MomentContents, StretchContents};
use crate::tail::Tail;

const PLACEMENT: SlotPlacement = SlotPlacement { seed: 0x0123_4567_89ab_cdef };

/// A target: its name and its body.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 10] = [
    ("chunk", chunk),
    ("segment", segment),
    ("manifest", manifest),
    ("tail", tail),
    ("stretch", stretch),
    ("log", log),
    ("rdb", rdb),
    ("dump", dump),
    ("directory", directory),
    ("ledger", ledger),
];

pub fn chunk(input: &[u8]) {
    let unchecked = ChunkIndex::of_chunk(input);
    let Ok(index) = ChunkIndex::parse(input) else { return };
    assert_eq!(unchecked.as_ref(), Ok(&index));
    for entry in index.entries {
        segment(&input[entry.offset as usize..(entry.offset + entry.len) as usize]);
    }
}

/// The input as it is, and with a valid checksum appended.
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

/// A decoded manifest survives a round trip.
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

/// What is decoded survives a round trip, and shows a database at any moment or a problem.
pub fn stretch(input: &[u8]) {
    let Ok(stretch) = StretchContents::decode(&Bytes::copy_from_slice(input)) else { return };
    let again = StretchContents::decode(&stretch.encode()).expect("it was just encoded");
    assert_eq!((&again.base, again.entries.len()), (&stretch.base, stretch.entries.len()));
    for at_ms in [0, stretch.entries.first().map_or(0, |entry| entry.now_ms), u64::MAX] {
        if let Ok(MomentContents { manifest, changes }) = stretch.clone().at(at_ms) {
            changes.iter().for_each(|change| assert!(change.sequence < manifest.sequence));
        }
    }
}

/// A whole object of the directory, as it is and with a valid checksum appended. What decodes survives a round trip.
pub fn directory(input: &[u8]) {
    let sealed = [input, &checksum(input).to_le_bytes()].concat();
    for bytes in [input, &sealed] {
        for (kind, number) in [(DirectoryKind::Changes, 42), (DirectoryKind::Snapshot, 41)] {
            let Ok(changes) = format::decode(bytes, kind, number) else { continue };
            let mut encoder = DirectoryEncoder::new(kind, number, 7, changes.len());
            changes.iter().for_each(|change| encoder.change(change));
            assert_eq!(format::decode(&encoder.finish(), kind, number), Ok(changes));
        }
    }
}

/// The same for an object of the ledger.
pub fn ledger(input: &[u8]) {
    let sealed = [input, &checksum(input).to_le_bytes()].concat();
    for bytes in [input, &sealed] {
        let Ok(windows) = decode_windows(bytes, &|_: &str| true) else { continue };
        let encoded = encode_windows(&windows.iter().collect::<Vec<_>>());
        assert_eq!(decode_windows(&encoded, &|_: &str| true), Ok(windows));
    }
}

/// A whole file of a log; and one whose only frame, with a right checksum, has the input for its entries.
pub fn log(input: &[u8]) {
    log_file(Bytes::copy_from_slice(input));
    let mut file = FileHead { writer: 1, number: 1, lsn: 0 }.encode().to_vec();
    let identity = Identity { name: "fuzz".into(), seed: 1, created_ms: 1 };
    write_frame(&mut file, 0, 0, &[NamedDatabase { number: 0, identity }], input);
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

/// An RDB: the first byte says in which pieces the rest arrives. However it arrives, the same items and the same error come
/// out, and what follows the end is given back. Values that decode are written again and come out of that as they were.
///
/// The rest is taken as it is, and as items after valid headers.
pub fn rdb(input: &[u8]) {
    let Some((&piece, rest)) = input.split_first() else { return };
    for header in ["", "REDIS0011", "REDIS0015", "VALKEY080"] {
        let bytes = [header.as_bytes(), rest].concat();
        let whole = items(Pieces(&bytes, bytes.len().max(1)));
        let pieces = items(Pieces(&bytes, usize::from(piece % 16) + 1));
        assert_eq!(whole, pieces);
    }
}

struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.1.min(into.len());
        (&mut self.0).take(count as u64).read(into)
    }
}

fn items(stream: Pieces<'_>) -> Vec<String> {
    let total = stream.0.len() as u64;
    let mut reader = match RdbReader::new(stream) {
        Ok(reader) => reader,
        Err(error) => return vec![error.to_string()],
    };
    let mut items = Vec::new();
    loop {
        items.push(match reader.next() {
            Ok(RdbEntry::Key(record)) => {
                write_again(&record);
                format!("{record:?}")
            }
            Ok(RdbEntry::End) => break,
            Ok(entry) => format!("{entry:?}"),
            Err(error) => {
                items.push(error.to_string());
                return items;
            }
        });
    }
    let read = reader.offset();
    let (stream, rest) = reader.into_inner();
    assert_eq!(read + rest.len() as u64 + stream.0.len() as u64, total);
    items
}

fn write_again(record: &RdbRecord<'_>) {
    let mut inside = Reader::new(record.value);
    if decode_value(record.kind, &mut inside, &Limits::default()).is_err() {
        return;
    }
    assert!(inside.is_empty(), "the decoder ends before the skimmer");
    let RdbRecord { expiry_ms, idle_s, frequency, kind, .. } = *record;
    let key = record.key.with_bytes(<[u8]>::to_vec);
    let mut writer = RdbWriter::new(Vec::new());
    let written = writer
        .encoded(&key, kind, record.value, Beside { expiry_ms, idle_s, frequency })
        .and_then(|()| writer.finish())
        .map(|(bytes, _)| bytes);
    let bytes = written.unwrap_or_default();
    let again = RdbReader::new(&bytes[..]).and_then(|mut reader| match reader.next()? {
        RdbEntry::Key(again) => {
            assert_eq!((again.expiry_ms, again.idle_s, again.frequency), (expiry_ms, idle_s, frequency));
            assert_eq!((again.kind, again.value), (kind, record.value));
            assert_eq!(again.key.into_vec(), key);
            reader.next().map(|entry| matches!(entry, RdbEntry::End))
        }
        _ => Ok(false),
    });
    assert!(again.is_ok_and(|whole| whole), "what was written comes back");
}

/// A payload of RESTORE: the input as it is, and as the body of payloads of every origin whose checksum is right. What is
/// restored survives DUMP.
pub fn dump(input: &[u8]) {
    restored(input);
    for version in [RDB_VERSION, 15, 80] {
        let mut sealed = input.to_vec();
        sealed.extend_from_slice(&version.to_le_bytes());
        sealed.extend_from_slice(&checksum(&sealed).to_le_bytes());
        restored(&sealed);
    }
}

fn restored(payload: &[u8]) {
    let limits = Limits::default();
    let again = match restore(payload, &limits) {
        Ok(LoadedValue::Text(text)) => {
            let text = text.into_vec();
            let payload = dump::dump(&Value::Raw(&text));
            matches!(restore(&payload, &limits), Ok(LoadedValue::Text(again)) if again.with_bytes(|bytes| bytes == text))
        }
        Ok(LoadedValue::Object(object)) => {
            let payload = dump::dump(&Value::Object(object.as_ref()));
            match restore(&payload, &limits) {
                Ok(LoadedValue::Object(again)) => dump::dump(&Value::Object(again.as_ref())).len() == payload.len(),
                _ => false,
            }
        }
        Err(_) => return,
    };
    assert!(again, "what was restored survives DUMP");
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

    fn begin(&mut self, _: u64, _: u64, _: &[u8]) -> Result<(), StoreError> {
        Err(StoreError::LogSealed)
    }

    fn append(&mut self, _: &[&[u8]]) -> Result<(), StoreError> {
        Err(StoreError::LogSealed)
    }

    fn cut(&mut self, _: u64, _: u64, _: u64, _: u64) -> Result<(), StoreError> {
        Ok(())
    }

    fn reader(&self) -> Box<dyn Sink> {
        Box::new(Self(self.0.clone()))
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

//! Every version of every format on disk stays readable: one file each, written once by the build that brought the
//! version, never again.
//!
//! A new version adds files and a test; `cargo test -p dormouse-storage --test golden -- --ignored` writes those that are
//! missing and touches no other.

use std::{fs, path::PathBuf};

use dormouse_storage::chunk::{ChunkIndex, ChunkWriter, SegmentLocation};
use dormouse_storage::codec::block::open;
use dormouse_storage::codec::segment::{
    InPieces, RawSegment, SegmentBody, decode_body, decode_segment, encode_segment,
};
use dormouse_storage::codec::value::kind;
use dormouse_storage::codec::value::pieces::{self, Assembly, Outline, Sizes};
use dormouse_storage::log::format::{
    EntryHead, EntryKind, FileHead, HEADER_BYTES, Identity, NamedDatabase, write_effect, write_frame, write_ids,
};
use dormouse_storage::log::recovery::{self, LogEntry, Recovered};
use dormouse_storage::log::sink::Files;
use dormouse_storage::log::tail::LogTail;
use dormouse_storage::manifest::{
    ChunkInfo, DroppedObject, Manifest, Names, PieceInfo, SegmentInfo, Stretch, TailInfo,
};
use dormouse_storage::shown::{RECEIPTS, Shown, first_ids};
use dormouse_storage::stretch::StretchContents;
use dormouse_storage::tail::{Tail, TailRecord, encode_tail};
use dormouse_types::record::{Record, Value};
use dormouse_types::segment::{Placement, Range53, SlotPlacement, prefix53};
use dormouse_types::stream::{Deliveries, Idempotency};
use dormouse_types::{End, Hash, Limits, List, Object, ObjectRef, Set, SortedSet, Stream, StreamId};

const PLACEMENT: SlotPlacement = SlotPlacement { seed: 0x0123_4567_89ab_cdef };
const NOW_MS: u64 = 1_700_000_000_000;

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/golden", name].iter().collect()
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn records() -> Vec<Record> {
    let limits = Limits::default();
    let mut records = vec![
        Record::new_raw(b"text", b"hello world", None),
        Record::new_raw(b"empty", b"", Some(NOW_MS + 5)),
        Record::new_raw(b"{tag}number", b"-9000000000", Some(NOW_MS)),
        Record::new_raw(b"long text", &b"dormouse ".repeat(3000), None),
    ];
    for count in [3, 400] {
        let (mut list, mut hash, mut set) = (List::new(), Hash::new(), Set::new());
        let (mut sorted, mut numbers) = (SortedSet::new(), Set::new());
        for at in 0..count {
            let element = format!("element {at}");
            list.push(End::Tail, element.repeat(at % 9).as_bytes(), &limits);
            hash.set(element.as_bytes(), at.to_string().as_bytes(), &limits);
            set.add(element.as_bytes(), &limits);
            sorted.insert(at as f64 / 8.0, element.as_bytes(), &limits);
            numbers.add((at * 1000).to_string().as_bytes(), &limits);
        }
        let objects = [
            ("list", Object::List(list)),
            ("hash", Object::Hash(hash)),
            ("set", Object::Set(set)),
            ("sorted set", Object::SortedSet(sorted)),
            ("numbers", Object::Set(numbers)),
        ];
        for (name, object) in objects {
            records.push(Record::new_object(format!("{name} of {count}").as_bytes(), object, None));
        }
    }
    for (at, record) in records.iter_mut().enumerate() {
        record.set_access([0, 0x12_3456, 0x12_3456, 7][at % 4]);
    }
    records
}

fn show(record: &Record) -> String {
    let item = |item: dormouse_types::Item<'_>| String::from_utf8_lossy(&item.to_vec()).into_owned();
    let mut elements: Vec<String> = match record.value() {
        Value::Int(number) => vec![number.to_string()],
        Value::Raw(bytes) => vec![String::from_utf8_lossy(bytes).into_owned()],
        Value::Object(ObjectRef::Text(text)) => vec![String::from_utf8_lossy(text).into_owned()],
        Value::Object(ObjectRef::List(list)) => {
            list.iter().map(item).enumerate().map(|(at, it)| format!("{at}: {it}")).collect()
        }
        Value::Object(ObjectRef::Hash(hash)) => {
            hash.iter().map(|(field, value)| item(field) + "=" + &item(value)).collect()
        }
        Value::Object(ObjectRef::Set(set)) => set.iter().map(item).collect(),
        Value::Object(ObjectRef::Stream(stream)) => vec![format!("{stream:?}")],
        Value::Object(ObjectRef::Filter(filter)) => vec![format!("{filter:?}")],
        Value::Object(ObjectRef::Array(array)) => vec![format!("{array:?}")],
        Value::Object(ObjectRef::Json(json)) => vec![format!("{json:?}")],
        Value::Object(ObjectRef::VectorSet(set)) => vec![format!("{set:?}")],
        Value::Object(ObjectRef::SortedSet(set)) => {
            set.iter().map(|(it, score)| item(it) + "=" + &score.to_string()).collect()
        }
    };
    elements.sort();
    let key = String::from_utf8_lossy(record.key()).into_owned();
    format!("{key} {:?} {} {elements:?}", record.expiry(), record.access())
}

fn shown<'r>(records: impl IntoIterator<Item = &'r Record>) -> Vec<String> {
    let mut shown: Vec<_> = records.into_iter().map(show).collect();
    shown.sort();
    shown
}

fn manifest() -> Manifest {
    let names = Names::new("Golden/1").expect("a good name");
    let mut manifest = Manifest::new("Golden/1", PLACEMENT.seed, 0xfeed, NOW_MS);
    manifest.number = 42;
    manifest.epoch = 3;
    manifest.sequence = 9000;
    manifest.next_object = 12;
    manifest.keyspaces.swap(0, 3);
    manifest.next_keyspace = 20;
    manifest.shard_cuts = vec![5, 8192, 16383];
    manifest.chunks =
        (9..11).map(|counter| ChunkInfo { name: names.chunk(3, 0xfeed, counter), bytes: 10_000 }).collect();
    let (low, high) = Range53::WHOLE.halves();
    for (at, (keyspace, range)) in [(0, low), (0, high.halves().1), (3, Range53::WHOLE)].into_iter().enumerate() {
        let at = at as u32;
        manifest.segments.push(SegmentInfo {
            keyspace,
            range,
            location: SegmentLocation { chunk: at / 2, offset: 12 + 100 * u64::from(at % 2), len: 100 },
            records: 1000 + at,
            expiring: 10 * at,
            heap_bytes: 123_456,
            sequence: 9000 - u64::from(at),
            seen: 9000 - u64::from(at),
            crc: 0xdead_beef_0000_0000 + u64::from(at),
        });
    }
    manifest.tails = vec![TailInfo { name: names.tail(3, 0xfeed, 11), bytes: 99, effects: 4, from_sequence: 8990 }];
    manifest.meters = b"requests: 5".to_vec();
    manifest.cut = manifest.sequence;
    manifest
}

/// The additions of version 2.
fn manifest_2() -> Manifest {
    let mut manifest = manifest();
    manifest.cut = 9007;
    manifest.source = Some("Golden".to_owned());
    manifest.expires_ms = Some(NOW_MS + 1);
    manifest.settings.insert("loss-window".to_owned(), "0".to_owned());
    manifest.tails.push(TailInfo { name: "db/golden/tail/12".to_owned(), bytes: 7, effects: 1, from_sequence: 9000 });
    manifest.segments[0].seen = 9005;
    let last = manifest.segments[2];
    let location = SegmentLocation { chunk: 0, offset: 0, len: 0 };
    manifest.segments.push(SegmentInfo {
        keyspace: 19,
        location,
        records: 0,
        expiring: 0,
        heap_bytes: 0,
        crc: 0,
        ..last
    });
    manifest
}

/// The additions of version 3: an import fills the staged indexes, and the source decides what expires in them.
fn manifest_3() -> Manifest {
    let mut manifest = manifest_2();
    manifest.keyspaces[16..RECEIPTS].iter_mut().zip(20..).for_each(|(keyspace, id)| *keyspace = id);
    manifest.next_keyspace = 36;
    manifest.followed = 0xffff_0001;
    let last = manifest.segments[3];
    manifest.segments.push(SegmentInfo { keyspace: 20, seen: 9006, ..last });
    manifest
}

/// The additions of version 4. Version 3 is one with an import.
fn manifest_4() -> Manifest {
    let mut manifest = manifest_2();
    for (at, number) in [1, 2, 5].into_iter().enumerate() {
        let location = SegmentLocation { chunk: at as u32 % 2, offset: 5000 + 100 * at as u64, len: 77 };
        let crc = 0xfeed_0000_0000_0000 + u64::from(number);
        manifest.pieces.push(PieceInfo { keyspace: 0, start: 0, number, location, crc });
    }
    manifest
}

/// The additions of version 5: so many segments that they are in pages.
fn manifest_5() -> Manifest {
    let mut manifest = manifest_4();
    manifest.keyspaces[16..RECEIPTS].iter_mut().zip(20..).for_each(|(keyspace, id)| *keyspace = id);
    manifest.next_keyspace = 36;
    manifest.followed = 0xffff_0001;
    manifest.shard_cuts = vec![7000, 8192];
    let sample = manifest.segments[0];
    manifest.segments = (0..100u64)
        .map(|at| SegmentInfo {
            range: Range53 { start: at << 46, bits: 46 },
            location: SegmentLocation { chunk: (at / 50) as u32, offset: 12 + 40 * (at % 50), len: 40 },
            records: 1000 + at as u32,
            seen: sample.sequence + at % 3,
            crc: 0xdead_beef_0000_0000 + at,
            ..sample
        })
        .collect();
    manifest
}

/// The additions of version 6: history, beside segments in pages.
fn manifest_6() -> Manifest {
    let mut manifest = manifest_5();
    let names = Names::new("Golden/1").expect("a good name");
    let dropped = |counter, bytes| DroppedObject { name: names.chunk(2, 0xfeed, counter), bytes };
    manifest.uncounted = manifest.segments[1].seen;
    manifest.timeline.until_ms = NOW_MS + 60_000;
    for (counter, from_ms, dropped) in
        [(3, NOW_MS - 100, vec![dropped(1, 700), dropped(2, 800)]), (7, NOW_MS + 9, Vec::new())]
    {
        let name = names.stretch(3, 0xfeed, counter);
        manifest.timeline.stretches.push(Stretch { name, bytes: 1000 + counter, from_ms, dropped });
    }
    manifest
}

/// The same in one level.
fn manifest_6_whole() -> Manifest {
    Manifest { segments: Vec::new(), pieces: Vec::new(), uncounted: 0, ..manifest_6() }
}

/// A stretch with an entry of each kind.
fn stretch() -> StretchContents {
    let mut items = Vec::new();
    write_effect(&mut items, 3, 77, |body| body.extend_from_slice(b"effect"));
    let entry =
        |sequence, now_ms, kind, items: &[u8]| LogEntry { sequence, now_ms, kind, items: items.to_vec().into() };
    let entries = vec![
        entry(9001, NOW_MS, EntryKind::Effects, &items),
        entry(9002, NOW_MS + 5, EntryKind::Resume, &[]),
        entry(9003, NOW_MS - 5, EntryKind::Continue, &9001u64.to_le_bytes()),
    ];
    StretchContents { base: manifest_2(), entries }
}

/// Values in pieces, with the elements of each piece.
fn in_pieces() -> Vec<(InPieces, Vec<Vec<u8>>)> {
    let record = |key: &str, kind: u8, elements: u64, first: u32, pieces: u32| InPieces {
        key: key.as_bytes().into(),
        expiry: (first > 1).then_some(NOW_MS + 9),
        access: first,
        outline: Outline { kind, elements },
        first,
        pieces,
    };
    let score = 1.5f64.to_le_bytes();
    vec![
        (record("hash", kind::HASH, 3, 1, 2), vec![b"\x01a\x011\x01b\xc0\x02".to_vec(), b"\x01c\x013".to_vec()]),
        // Number 3 was given up.
        (record("set", kind::SET, 2, 4, 1), vec![b"\x01x\xc0\x07".to_vec()]),
        (record("sorted set", kind::SORTED_SET, 1, 5, 1), vec![[&b"\x01m"[..], &score].concat()]),
        (record("list", kind::LIST_QUICKLIST_2, 2, 6, 2), vec![b"\x01\x05plain".to_vec(), b"\x01\x03end".to_vec()]),
        (record("text", kind::STRING, 9, 8, 2), vec![b"half ".to_vec(), b"half".to_vec()]),
    ]
}

/// A chunk of one body and its pieces.
fn chunk_3() -> Vec<u8> {
    let mut writer = ChunkWriter::new();
    let mut raw = RawSegment::new(0);
    raw.push(&Record::new_raw(b"small", b"value", None));
    for (record, pieces) in in_pieces() {
        for (number, piece) in (record.first..).zip(&pieces) {
            writer.push_piece(3, Range53::WHOLE, 9000, number, &SegmentBody::of_piece(piece));
        }
        raw.push_in_pieces(&record);
    }
    raw.push_later(PLACEMENT.position(b"gone"), 7);
    writer.push(3, Range53::WHOLE, 9000, &raw.seal());
    writer.finish(&manifest().origin()).to_vec()
}

/// A stream that remembers the messages of its producers, and has released entries.
fn stream(count: u64) -> Stream {
    let mut stream = Stream::new();
    stream.set_idempotency(Idempotency { duration_s: 1000, size_max: 50 });
    stream.add_group(b"group", StreamId::MIN, Some(0));
    for at in 0..count {
        let (id, value) = (StreamId::new(NOW_MS + at, at), format!("value {at}"));
        stream.append(id, [(&b"field"[..], value.as_bytes())].into_iter(), &Limits::default());
        stream.add_message(format!("producer {}", at % 3).as_bytes(), value.as_bytes(), id, NOW_MS + at);
        stream.change_group(b"group", |entries, group| {
            let (owner, _) = group.owner_or_new(b"consumer", NOW_MS as i64);
            group.deliver(entries, id, Some(owner), (NOW_MS + at) as i64);
        });
    }
    stream.count_repeated();
    stream.change_group(b"group", |entries, group| {
        for at in (0..count).rev().step_by(4) {
            group.release(entries, StreamId::new(NOW_MS + at, at), Deliveries::Exactly(at), false);
        }
    });
    stream
}

/// A chunk of such a stream, and of one in pieces.
fn chunk_3_of_streams() -> Vec<u8> {
    let (mut writer, mut raw) = (ChunkWriter::new(), RawSegment::new(0));
    raw.push(&Record::new_object(b"small", Object::Stream(stream(9)), None));
    let mut large = Object::Stream(stream(300));
    let outline = pieces::begin(large.as_mut(), 1, &Sizes::DEFAULT).expect("it can be captured");
    let (mut number, mut is_done) = (1, false);
    while !is_done {
        let mut piece = Vec::new();
        is_done = pieces::take(large.as_mut(), 1, 4000, &mut piece).expect("the moment is remembered").is_done;
        writer.push_piece(3, Range53::WHOLE, 9000, number, &SegmentBody::of_piece(&piece));
        number += 1;
    }
    let (key, access, first) = (b"large"[..].into(), 1, 1);
    raw.push_in_pieces(&InPieces { key, expiry: None, access, outline, first, pieces: number - 1 });
    writer.push(3, Range53::WHOLE, 9000, &raw.seal());
    writer.finish(&manifest().origin()).to_vec()
}

fn effects() -> Vec<TailRecord> {
    let effect = |sequence: u64| TailRecord {
        sequence: 100 + sequence,
        now_ms: NOW_MS + sequence * 3,
        keyspace: (sequence % 2) as u32,
        position: PLACEMENT.position(sequence.to_string().as_bytes()),
        body: format!("SET {sequence} value").into(),
    };
    (0..50).map(effect).collect()
}

/// The bit of a time in a tail that says that the effect's index was followed.
const FOLLOWED_TIME: u64 = 1 << 63;

/// The additions of version 2: effects on followed indexes among others.
fn effects_2() -> Vec<TailRecord> {
    let mut effects = effects();
    effects.iter_mut().step_by(3).for_each(|effect| effect.now_ms |= FOLLOWED_TIME);
    effects
}

fn chunk() -> Vec<u8> {
    let (low, high) = Range53::WHOLE.halves();
    let mut writer = ChunkWriter::new();
    for range in [low, high] {
        let records = records();
        let inside = |record: &&Record| range.contains(prefix53(PLACEMENT.position(record.key())));
        writer.push(3, range, 9000 + range.start % 7, &encode_segment(records.iter().filter(inside)));
    }
    writer.finish(&manifest().origin()).to_vec()
}

/// All indexes show keyspace `id`, and nothing is staged.
fn plain(id: u32, next: u32) -> Shown {
    let mut ids = first_ids();
    ids[..16].fill(id);
    Shown { ids, followed: 0, next }
}

fn identity(number: u32) -> Identity {
    Identity { name: format!("Golden/{number}").into(), seed: PLACEMENT.seed, created_ms: NOW_MS + u64::from(number) }
}

/// A file of three frames: databases 1 and 2 with effects, one of which shows other keyspaces, and goes on after writes that
/// were not logged; database 3 is gone.
fn log(head: impl Fn(&FileHead) -> [u8; HEADER_BYTES]) -> Vec<u8> {
    let mut file = head(&FileHead { writer: 0xfeed, number: 2, lsn: 1000 }).to_vec();
    let mut lsn = 1000;
    let frames: [&[(u32, EntryKind, u64)]; 3] = [
        &[(1, EntryKind::Effects, 1), (2, EntryKind::Effects, 1), (1, EntryKind::Effects, 2)],
        &[(3, EntryKind::Effects, 7), (1, EntryKind::Resume, 3), (3, EntryKind::Gone, 0)],
        &[(1, EntryKind::Effects, 4), (2, EntryKind::Effects, 2)],
    ];
    for frame in frames {
        let mut entries = Vec::new();
        let mut names: Vec<NamedDatabase> = Vec::new();
        for &(database, kind, sequence) in frame {
            let mut items = Vec::new();
            if kind == EntryKind::Effects {
                write_effect(&mut items, database, sequence << 40, |body| body.extend_from_slice(b"\0\x03key"));
                write_effect(&mut items, database, sequence << 50, |body| body.extend_from_slice(b"\0\x05other"));
            }
            if (database, sequence) == (2, 1) {
                write_ids(&mut items, &plain(3, 20));
            }
            let items_bytes = items.len() as u64;
            EntryHead { database, kind, sequence, now_ms: NOW_MS + sequence, items_bytes }.write(&mut entries);
            entries.extend_from_slice(&items);
            if names.iter().all(|name| name.number != database) {
                names.push(NamedDatabase { number: database, identity: identity(database) });
            }
        }
        write_frame(&mut file, lsn, lsn, &names, &entries);
        lsn += entries.len() as u64;
    }
    file
}

/// The bit of a keyspace in the log that says that an effect's index was followed.
const FOLLOWED: u32 = 1 << 31;

/// The keyspaces that all indexes show during an import: staged ones exist, and they and index 3 are followed.
fn staged() -> Shown {
    let mut ids = first_ids();
    ids[16..RECEIPTS].iter_mut().zip(20..).for_each(|(id, keyspace)| *id = keyspace);
    Shown { ids, followed: 0xffff_0008, next: 36 }
}

/// A file as an import leaves it: the long item that shows staged indexes, and an effect on one of them beside a plain one.
fn log_of_an_import() -> Vec<u8> {
    let mut items = Vec::new();
    write_ids(&mut items, &staged());
    write_effect(&mut items, 21 | FOLLOWED, 7 << 40, |body| body.extend_from_slice(b"\0\x03key"));
    write_effect(&mut items, 1, 8 << 40, |body| body.extend_from_slice(b"\0\x05other"));
    let mut entries = Vec::new();
    let items_bytes = items.len() as u64;
    EntryHead { database: 1, kind: EntryKind::Effects, sequence: 1, now_ms: NOW_MS, items_bytes }.write(&mut entries);
    entries.extend_from_slice(&items);
    let mut file = FileHead { writer: 0xfeed, number: 2, lsn: 1000 }.encode().to_vec();
    write_frame(&mut file, 1000, 1000, &[NamedDatabase { number: 1, identity: identity(1) }], &entries);
    file
}

fn recovered(file: &[u8]) -> Recovered {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("log/000000000000feed");
    fs::create_dir_all(&log).expect("a folder");
    fs::write(log.join("000000000002"), file).expect("a file");
    recovery::collect(recovery::look(&mut Files::new(folder.path())).expect("readable"))
}

#[test]
fn segment_version_1() {
    let segment =
        decode_segment(&golden("segment-v1.bin"), &PLACEMENT, &Limits::default(), Range53::WHOLE).expect("readable");
    assert_eq!(shown(segment.iter()), shown(&records()));
}

#[test]
fn chunk_version_1() {
    let index = check_chunk("chunk-v1.bin");
    assert!(index.origin.is_none() && index.entries.iter().all(|entry| entry.sequence == 0));
}

#[test]
fn chunk_version_2() {
    let index = check_chunk("chunk-v2.bin");
    assert_eq!(index.origin, Some(manifest().origin()));
    let sequences: Vec<u64> = index.entries.iter().map(|entry| entry.sequence).collect();
    assert_eq!(sequences, [9000, 9000 + (1 << 52) % 7]);
}

#[test]
fn chunk_version_3() {
    let chunk = golden("chunk-v3.bin");
    let index = ChunkIndex::parse(&chunk).expect("readable");
    let bytes = |at: usize| {
        let entry = index.entries[at];
        &chunk[entry.offset as usize..][..entry.len as usize]
    };
    let numbers: Vec<u32> = index.entries.iter().map(|entry| entry.piece).collect();
    assert_eq!(numbers, [1, 2, 4, 5, 6, 7, 8, 9, 0]);
    let limits = Limits::default();
    let body = decode_body(bytes(8), &PLACEMENT, &limits, Range53::WHOLE).expect("readable");
    assert_eq!((body.segment.len(), body.later), (1, vec![(PLACEMENT.position(b"gone"), 7)]));
    let expected = in_pieces();
    assert_eq!(body.in_pieces, expected.iter().map(|(record, _)| record.clone()).collect::<Vec<_>>());
    let mut shown = Vec::new();
    for record in body.in_pieces {
        let mut value = Assembly::new(record.outline, &limits).expect("a kind of value");
        for number in record.first..record.first + record.pieces {
            let at = numbers.iter().position(|other| *other == number).expect("it is there");
            value.push(&open(bytes(at)).expect("whole"), &limits).expect("readable");
        }
        shown.push(format!("{:?}", value.finish(&limits).expect("whole")));
    }
    assert_eq!(shown.len(), 5);
    assert_eq!(shown[0], "Hash({Bytes([97]): Int(1), Bytes([98]): Int(2), Bytes([99]): Int(3)})");
    // The listpack or bytes of "plain" and "end".
    assert!(shown[3].contains("112, 108, 97, 105, 110") && shown[3].contains("101, 110, 100"), "{}", shown[3]);
    assert_eq!(shown[4], format!("{:?}", Object::Text(b"half half".to_vec())));
    // This build writes the same bytes.
    assert_eq!(chunk_3(), chunk);
}

#[test]
fn chunk_version_3_of_newer_streams() {
    check_newer_streams(&golden("chunk-v3-streams.bin"));
    // This build writes the messages of producers in another order, which every build reads.
    check_newer_streams(&chunk_3_of_streams());
}

fn check_newer_streams(chunk: &[u8]) {
    let index = ChunkIndex::parse(chunk).expect("readable");
    let entries =
        index.entries.iter().map(|entry| (entry.piece, &chunk[entry.offset as usize..][..entry.len as usize]));
    let (limits, mut entries): (_, Vec<_>) = (Limits::default(), entries.collect());
    let (_, body) = entries.pop().expect("the body comes last");
    let body = decode_body(body, &PLACEMENT, &limits, Range53::WHOLE).expect("readable");
    let small = body.segment.iter().next().expect("it is there");
    assert_eq!(show(small), show(&Record::new_object(b"small", Object::Stream(stream(9)), None)));
    let [large] = &body.in_pieces[..] else { panic!("one is in pieces") };
    assert_eq!((large.outline.kind, large.pieces as usize), (kind::STREAM_5, entries.len()));
    let mut value = Assembly::new(large.outline, &limits).expect("a kind of value");
    for (_, piece) in &entries {
        value.push(&open(piece).expect("whole"), &limits).expect("readable");
    }
    let value = value.finish(&limits).expect("whole");
    assert_eq!(format!("{value:?}"), format!("{:?}", Object::Stream(stream(300))));
}

fn check_chunk(name: &str) -> ChunkIndex {
    let chunk = golden(name);
    let index = ChunkIndex::parse(&chunk).expect("readable");
    let mut found = Vec::new();
    for entry in &index.entries {
        let body = &chunk[entry.offset as usize..][..entry.len as usize];
        let segment = decode_segment(body, &PLACEMENT, &Limits::default(), entry.range).expect("readable");
        assert_eq!((entry.keyspace, entry.records as usize), (3, segment.len()));
        found.extend(shown(segment.iter()));
    }
    found.sort();
    assert_eq!(found, shown(&records()));
    index
}

#[test]
fn manifest_version_1() {
    assert_eq!(Manifest::decode(&golden("manifest-v1.bin")).expect("readable"), manifest());
}

#[test]
fn manifest_version_2() {
    assert_eq!(Manifest::decode(&golden("manifest-v2.bin")).expect("readable"), manifest_2());
}

#[test]
fn manifest_version_3() {
    let file = golden("manifest-v3.bin");
    assert_eq!(Manifest::decode(&file).expect("readable"), manifest_3());
    assert_eq!(file[8], 3, "an older build must not take it for its own");
}

#[test]
fn manifest_version_4() {
    let file = golden("manifest-v4.bin");
    assert_eq!(Manifest::decode(&file).expect("readable"), manifest_4());
    assert_eq!(manifest_4().encode(), file);
}

#[test]
fn manifest_version_5() {
    let file = golden("manifest-v5.bin");
    assert_eq!(Manifest::decode(&file).expect("readable"), manifest_5());
    assert_eq!(file[8], 5, "an older build must not take it for its own");
    assert_eq!(manifest_5().encode(), file);
}

#[test]
fn manifest_version_6() {
    for (name, manifest) in [("manifest-v6.bin", manifest_6()), ("manifest-v6-whole.bin", manifest_6_whole())] {
        let file = golden(name);
        assert_eq!(Manifest::decode(&file).expect("readable"), manifest);
        assert_eq!(file[8], 6, "an older build must not take it for its own");
        assert_eq!(manifest.encode(), file);
    }
}

#[test]
fn stretch_version_1() {
    let file = golden("stretch-v1.bin");
    let read = StretchContents::decode(&file.clone().into()).expect("readable");
    assert_eq!(read.base, manifest_2());
    let fields = |of: StretchContents| {
        let entries = of.entries.into_iter();
        entries.map(|entry| (entry.sequence, entry.now_ms, entry.kind, entry.items)).collect::<Vec<_>>()
    };
    assert_eq!(fields(read), fields(stretch()));
    assert_eq!(stretch().encode(), file);
}

#[test]
fn tail_version_1() {
    let tail = Tail::decode("tail", golden("tail-v1.bin").into()).expect("readable");
    assert_eq!(tail.all().expect("readable"), effects());
}

#[test]
fn tail_version_2() {
    let file = golden("tail-v2.bin");
    assert_eq!(Tail::decode("tail", file.clone().into()).expect("readable").all().expect("readable"), effects_2());
    assert_eq!(file[8], 2, "an older build must not take the times for plain ones");
}

#[test]
fn log_of_an_import_version_1() {
    let file = golden("log-import-v1.bin");
    let tail = LogTail::new(recovered(&file).take(&identity(1)), 0, 1).expect("whole");
    assert_eq!((tail.sequence, tail.shown), (1, Some(staged())));
    let effects = |keyspace| {
        let found = tail.effects(keyspace, Range53::WHOLE, 0).into_iter();
        found.map(|effect| (effect.now_ms, effect.position, effect.body.to_vec())).collect::<Vec<_>>()
    };
    assert_eq!(effects(21), [(NOW_MS | FOLLOWED_TIME, 7 << 40, b"\0\x03key".to_vec())]);
    assert_eq!(effects(1), [(NOW_MS, 8 << 40, b"\0\x05other".to_vec())]);
    assert_eq!(log_of_an_import(), file, "what is written today is the same");
}

#[test]
fn log_version_1() {
    let file = golden("log-v1.bin");
    check_log(&file);
    // This build writes the same bytes.
    assert_eq!(log(FileHead::encode), file);
}

#[test]
fn log_version_2() {
    let file = golden("log-v2.bin");
    check_log(&file);
    assert_eq!(log(FileHead::encode_restating), file);
}

fn check_log(file: &[u8]) {
    let mut recovered = recovered(file);
    assert_eq!(recovered.identities(), [&identity(1), &identity(2)]);
    let shown = |tail: &LogTail, keyspace: u32| -> Vec<_> {
        let effects = tail.effects(keyspace, Range53::WHOLE, 0).into_iter();
        effects.map(|effect| (effect.sequence, effect.now_ms - NOW_MS, effect.position, effect.body.to_vec())).collect()
    };
    let both = |sequence: u64| {
        [
            (sequence, sequence, sequence << 40, b"\0\x03key".to_vec()),
            (sequence, sequence, sequence << 50, b"\0\x05other".to_vec()),
        ]
    };
    let entries = recovered.take(&identity(1));
    let before = LogTail::new(entries.clone(), 0, 2).expect("whole");
    assert_eq!((before.sequence, shown(&before, 1), before.shown), (2, [both(1), both(2)].concat(), None));
    let after = LogTail::new(entries, 3, 4).expect("whole");
    assert_eq!((after.sequence, shown(&after, 1)), (4, both(4).to_vec()));
    let other = LogTail::new(recovered.take(&identity(2)), 0, 2).expect("whole");
    assert_eq!((shown(&other, 2), other.shown), ([both(1), both(2)].concat(), Some(plain(3, 20))));
}

#[test]
#[ignore = "only for a new version"]
fn write_what_is_missing() {
    let files = [
        ("segment-v1.bin", encode_segment(&records()).bytes),
        ("chunk-v2.bin", chunk()),
        ("manifest-v2.bin", manifest_2().encode()),
        ("chunk-v3.bin", chunk_3()),
        ("chunk-v3-streams.bin", chunk_3_of_streams()),
        ("manifest-v4.bin", manifest_4().encode()),
        ("tail-v1.bin", encode_tail(effects()).to_vec()),
        ("manifest-v3.bin", manifest_3().encode()),
        ("manifest-v5.bin", manifest_5().encode()),
        ("manifest-v6.bin", manifest_6().encode()),
        ("manifest-v6-whole.bin", manifest_6_whole().encode()),
        ("stretch-v1.bin", stretch().encode().to_vec()),
        ("tail-v2.bin", encode_tail(effects_2()).to_vec()),
        ("log-import-v1.bin", log_of_an_import()),
        ("log-v1.bin", log(FileHead::encode)),
        ("log-v2.bin", log(FileHead::encode_restating)),
    ];
    for (name, bytes) in files {
        if !path(name).exists() {
            fs::write(path(name), bytes).expect("writable");
        }
    }
}

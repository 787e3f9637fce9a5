//! Tests of import and export: the exported data equals the imported data.

use std::collections::BTreeMap;

use dormouse_storage::rdb::error::ImportError;
use dormouse_storage::rdb::import::{Import, Imported, ImportStep};
use dormouse_storage::rdb::*;
use dormouse_storage::chunk::SegmentLocation;
use dormouse_storage::codec::checksum;
use dormouse_storage::codec::value::{LoadedValue, RdbReaders, decode_value};
use dormouse_storage::effect;
use dormouse_storage::log::recovery::Recovered;
use dormouse_storage::manifest::{self, Names, SegmentInfo, TailInfo};
use dormouse_types::record::Value;
use dormouse_types::segment::{Placement, Range53, SlotPlacement};
use dormouse_storage::store::Store;
use dormouse_storage::tail::{TailRecord, encode_tail};
use dormouse_types::{End, Hash, Limits, List, Object, Set, SortedSet};
use futures::executor::block_on;
use proptest::prelude::*;

use crate::export::{About, Exported, export};
use crate::snapshot::Snapshot;

const NOW: u64 = 1_700_000_000_000;

/// Index and key; expiry, idle time, and the value as the codec's debug text.
type Data = BTreeMap<(u64, Vec<u8>), (Option<u64>, Option<u64>, String)>;

fn data(rdb: &[u8]) -> Data {
    let mut reader = RdbReader::new(rdb).unwrap();
    let (mut data, mut index) = (Data::new(), 0);
    loop {
        match reader.next().unwrap() {
            RdbEntry::Select(select) => index = select,
            RdbEntry::Key(record) => {
                let mut inside = dormouse_storage::codec::Reader::new(record.value);
                let value = match decode_value(record.kind, &mut inside, &Limits::default()).unwrap() {
                    LoadedValue::Text(text) => text.into_vec().escape_ascii().to_string(),
                    LoadedValue::Object(object) => show(&object),
                };
                let before = data.insert((index, record.key.into_vec()), (record.expiry_ms, record.idle_s, value));
                assert!(before.is_none());
            }
            RdbEntry::End => return data,
            _ => {}
        }
    }
}

fn show(object: &Object) -> String {
    match object {
        Object::Text(text) => text.escape_ascii().to_string(),
        Object::List(list) => format!("{:?}", list.iter().map(|item| item.to_vec()).collect::<Vec<_>>()),
        Object::Set(set) => {
            let mut members: Vec<_> = set.iter().map(|member| member.to_vec()).collect();
            members.sort();
            format!("{members:?}")
        }
        Object::Hash(hash) => {
            let mut pairs: Vec<_> = hash.iter().map(|(field, value)| (field.to_vec(), value.to_vec())).collect();
            pairs.sort();
            format!("{pairs:?}")
        }
        Object::Stream(stream) => format!("{stream:?}"),
        Object::Array(array) => format!("{array:?}"),
        Object::Filter(filter) => format!("{filter:?}"),
        Object::Json(json) => format!("{json:?}"),
        Object::VectorSet(set) => format!("{set:?}"),
        Object::SortedSet(set) => format!("{:?}", set.iter().map(|(m, score)| (m.to_vec(), score)).collect::<Vec<_>>()),
    }
}

struct Setup {
    store: Store,
    folder: tempfile::TempDir,
    unsupported: Vec<String>,
}

impl Setup {
    fn new() -> Self {
        Setup { store: Store::memory(), folder: tempfile::tempdir().unwrap(), unsupported: Vec::new() }
    }

    fn import_with(&mut self, rdb: &[u8], change: impl FnOnce(&mut Import<'_>)) -> Result<Imported, ImportError> {
        let mut import = Import {
            store: &self.store,
            recovered: &Recovered::default(),
            database: "shop",
            owner: None,
            replace: false,
            skip_unsupported: false,
            now_ms: NOW,
            seed: 5,
            writer: 9,
            folder: self.folder.path(),
            memory_bytes: 100_000,
        };
        change(&mut import);
        let unsupported = &mut self.unsupported;
        block_on(import.run(rdb, &mut |step| {
            if let ImportStep::Unsupported { name, what } = step {
                unsupported.push(format!("{} is {what}", name.escape_ascii()));
            }
        }))
    }

    fn import(&mut self, rdb: &[u8]) -> Result<Imported, ImportError> {
        self.import_with(rdb, |_| {})
    }

    fn export(&self) -> (Vec<u8>, Exported) {
        self.export_for(RdbReaders::REDIS_7_2)
    }

    fn export_for(&self, target: RdbReaders) -> (Vec<u8>, Exported) {
        let about = About { target, server: "7.2.4", now_ms: NOW, keeps_expired: false };
        block_on(async {
            let snapshot = Snapshot::open(&self.store, "shop", Recovered::default()).await.unwrap().unwrap();
            export(&snapshot, Vec::new(), about, &mut |_| {}).await.unwrap()
        })
    }

    fn objects(&self) -> usize {
        block_on(self.store.list("db")).unwrap().len()
    }
}

/// Strings of every kind and a collection of every kind, small and large.
fn objects() -> Vec<(Vec<u8>, Object)> {
    let limits = Limits::default();
    let mut objects = Vec::new();
    for size in [1, 3, 700] {
        let (mut list, mut hash, mut set) = (List::new(), Hash::new(), Set::new());
        let (mut words, mut sorted) = (Set::new(), SortedSet::new());
        for at in 0..size {
            let word = format!("word {at}");
            list.push(End::Tail, word.as_bytes(), &limits);
            hash.set(word.as_bytes(), at.to_string().as_bytes(), &limits);
            set.add(at.to_string().as_bytes(), &limits);
            words.add(word.as_bytes(), &limits);
            sorted.insert(f64::from(at) / 3.0, word.as_bytes(), &limits);
        }
        for (name, object) in [
            ("list", Object::List(list)),
            ("hash", Object::Hash(hash)),
            ("integers", Object::Set(set)),
            ("words", Object::Set(words)),
            ("scores", Object::SortedSet(sorted)),
        ] {
            objects.push((format!("{name} of {size}").into_bytes(), object));
        }
    }
    objects
}

fn sample() -> Vec<u8> {
    let mut rdb = RdbWriter::new(Vec::new());
    for index in [0, 3, 15] {
        rdb.select(index).unwrap();
        for (key, object) in objects() {
            rdb.record(&key, &Value::Object(object.as_ref()), Beside::default()).unwrap();
        }
        for number in 0..4000u64 {
            let beside = Beside {
                expiry_ms: (number % 3 == 0).then_some(NOW + number + 1),
                idle_s: (number % 5 == 1).then_some(number),
                ..Beside::default()
            };
            let key = format!("key:{index}:{number}");
            match number % 4 {
                0 => rdb.record(key.as_bytes(), &Value::Int(number as i64 - 7), beside).unwrap(),
                1 => rdb.encoded(key.as_bytes(), 0, b"\xc3\x09\x40\x64\x01aa\xe0\x57\x00\x01aa", beside).unwrap(),
                _ => rdb.record(key.as_bytes(), &Value::Raw(&vec![b'v'; number as usize % 200]), beside).unwrap(),
            }
        }
    }
    rdb.finish().unwrap().0
}

#[test]
fn what_goes_in_comes_out() {
    let rdb = sample();
    let expected = data(&rdb);
    for memory_bytes in [100_000, 1 << 30] {
        let mut setup = Setup::new();
        let imported = setup.import_with(&rdb, |import| import.memory_bytes = memory_bytes).unwrap();
        assert_eq!((imported.keys, imported.expired), (expected.len() as u64, 0));
        assert!(imported.segments > 9, "{imported:?}");
        let (again, exported) = setup.export();
        assert_eq!((exported.keys, exported.bytes), (expected.len() as u64, again.len() as u64));
        assert!(data(&again) == expected);
        let newest = [
            (RdbReaders::REDIS_5, 11),
            (RdbReaders::REDIS_7_0, 18),
            (RdbReaders::REDIS_7_2, 20),
            (RdbReaders::REDIS_8, 20),
            (RdbReaders::VALKEY_9, 20),
        ];
        for (target, newest) in newest {
            let (old, _) = setup.export_for(target);
            assert!(data(&old) == expected, "{target:?}");
            let mut reader = RdbReader::new(&old[..]).unwrap();
            assert_eq!(reader.version(), u32::from(target.version));
            loop {
                match reader.next().unwrap() {
                    RdbEntry::Key(record) => assert!(record.kind <= newest, "type {} in {target:?}", record.kind),
                    RdbEntry::End => break,
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn keys_of_one_slot_are_cut_too() {
    let mut rdb = RdbWriter::new(Vec::new());
    for number in 0..10_000 {
        rdb.record(format!("{{tag}}:{number}").as_bytes(), &Value::Raw(b"x"), Beside::default()).unwrap();
    }
    let rdb = rdb.finish().unwrap().0;
    let mut setup = Setup::new();
    let imported = setup.import(&rdb).unwrap();
    assert!((8..40).contains(&imported.segments), "{imported:?}");
    assert!(data(&setup.export().0) == data(&rdb));
}

#[test]
fn large_values_have_segments_of_their_own() {
    let mut rdb = RdbWriter::new(Vec::new());
    for number in 0..8 {
        rdb.record(format!("key:{number}").as_bytes(), &Value::Raw(&vec![b'x'; 3 << 20]), Beside::default()).unwrap();
    }
    let rdb = rdb.finish().unwrap().0;
    let mut setup = Setup::new();
    assert_eq!(setup.import(&rdb).unwrap().segments, 8);
    assert!(data(&setup.export().0) == data(&rdb));
}

#[test]
fn what_has_expired_stays_out() {
    let mut rdb = RdbWriter::new(Vec::new());
    for (key, expiry) in [("gone", NOW), ("long gone", 0), ("there", NOW + 1)] {
        let beside = Beside { expiry_ms: Some(expiry), ..Beside::default() };
        rdb.record(key.as_bytes(), &Value::Int(1), beside).unwrap();
    }
    let mut setup = Setup::new();
    let imported = setup.import(&rdb.finish().unwrap().0).unwrap();
    assert_eq!((imported.keys, imported.expired), (1, 2));
    assert_eq!(data(&setup.export().0).len(), 1);
}

#[test]
fn what_cannot_be_taken_leaves_nothing() {
    let sealed = |items: &[u8]| {
        let mut bytes = [b"REDIS0011", items, &[OPCODE_END]].concat();
        bytes.extend_from_slice(&checksum(&bytes).to_le_bytes());
        bytes
    };
    for (rdb, expected) in [
        (sealed(b"\x00\x01k\x01v\x00\x01l\x01v\x00\x01k\x01w"), "key `k` of index 0 occurs twice in the RDB"),
        (sealed(b"\xfe\x10\x00\x01k\x01v"), "the RDB has keys of index 16; there are indexes 0 to 15"),
        (sealed(b"\x0f\x01s\x00\x00\x00\x00\x00"), "1 values in the RDB are not supported"),
        (sealed(b"\xf5\x03#!l\xf7\x00\x00"), "2 values in the RDB are not supported"),
        (sealed(b"\x02\x02k\n\x02\x01a\x01a"), "the value of key `k\\n` is damaged: malformed: set member twice"),
        (sealed(b"\x01\x01k\x00"), "the value of key `k` is damaged: malformed: empty collection"),
        (sealed(b"\x00\x01k\xc3\x01\x02\x00"), "the value of key `k` is damaged: "),
        ([sealed(b""), b"x".to_vec()].concat(), "unexpected data after the end of the RDB"),
        (b"REDIS0011\x00\x01k\x01v".to_vec(), "at byte 14: ends too early"),
    ] {
        let mut setup = Setup::new();
        let error = setup.import(&rdb).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}, not {expected}");
        assert_eq!(setup.objects(), 0, "{expected}");
    }
    // The same key in two indexes is two keys.
    let mut setup = Setup::new();
    setup.import(&sealed(b"\x00\x01k\x01v\xfe\x01\x00\x01k\x01v")).unwrap();
    assert_eq!(data(&setup.export().0).len(), 2);
}

#[test]
fn the_unsupported_is_named_and_left_out() {
    let mut rdb = b"REDIS0011\x07\x05thing\x81abcdefgh\x00\x00\x01k\x01v\xff".to_vec();
    rdb.extend_from_slice(&checksum(&rdb).to_le_bytes());
    let mut setup = Setup::new();
    let imported = setup.import_with(&rdb, |import| import.skip_unsupported = true).unwrap();
    assert_eq!((imported.keys, imported.unsupported), (1, 1));
    assert_eq!(setup.unsupported, ["thing is a module's value (YWJjZGVmZ)"]);
    assert_eq!(data(&setup.export().0).len(), 1);
}

#[test]
fn data_are_replaced_only_on_request() {
    let rdb_of = |key: &[u8]| {
        let mut rdb = RdbWriter::new(Vec::new());
        rdb.record(key, &Value::Int(1), Beside::default()).unwrap();
        rdb.finish().unwrap().0
    };
    let mut setup = Setup::new();
    setup.import(&rdb_of(b"old")).unwrap();
    let before = block_on(manifest::latest(&setup.store, "shop")).unwrap().unwrap();
    let error = setup.import(&rdb_of(b"new")).unwrap_err();
    assert_eq!(error.to_string(), "database `shop` holds data already");
    setup
        .import_with(&rdb_of(b"new"), |import| {
            import.replace = true;
            import.seed = 6;
        })
        .unwrap();
    let after = block_on(manifest::latest(&setup.store, "shop")).unwrap().unwrap();
    // The seed distinguishes it from the earlier database's entries in the log.
    assert_eq!((after.number, after.epoch, after.seed), (before.number + 1, before.epoch + 1, 6));
    let found: Vec<_> = data(&setup.export().0).into_keys().collect();
    assert_eq!(found, [(0, b"new".to_vec())]);
}

#[test]
fn effects_are_exported_too() {
    let mut rdb = RdbWriter::new(Vec::new());
    for number in 0..3000 {
        rdb.record(format!("key:{number}").as_bytes(), &Value::Int(number), Beside::default()).unwrap();
    }
    let mut setup = Setup::new();
    setup.import(&rdb.finish().unwrap().0).unwrap();
    let mut expected = data(&setup.export().0);
    // A tail that deletes a key, changes one, and makes one in an index that has no segments.
    let mut manifest = block_on(manifest::latest(&setup.store, "shop")).unwrap().unwrap();
    let placement = SlotPlacement { seed: manifest.seed };
    let record = |sequence, index: usize, key: &[u8], body: Vec<u8>| TailRecord {
        sequence,
        now_ms: NOW,
        keyspace: manifest.keyspaces[index],
        position: placement.position(key),
        body: body.into(),
    };
    let value = |key: &[u8]| {
        let mut body = Vec::new();
        effect::value(&mut body, &dormouse_types::record::Record::new_raw(key, b"changed", None));
        body
    };
    let mut gone = Vec::new();
    effect::delete(&mut gone, b"key:7");
    let records = vec![
        record(1, 0, b"key:7", gone),
        record(2, 0, b"key:8", value(b"key:8")),
        record(3, 7, b"fresh", value(b"fresh")),
    ];
    let object = encode_tail(records);
    let name = Names::new("shop").unwrap().tail(1, 9, 1000);
    block_on(setup.store.put_new(&name, object.clone())).unwrap();
    manifest.tails.push(TailInfo { name, bytes: object.len() as u64, effects: 3, from_sequence: 0 });
    manifest.segments.iter_mut().for_each(|segment| segment.seen = 3);
    let location = SegmentLocation { chunk: 0, offset: 0, len: 0 };
    let fresh =
        SegmentInfo { keyspace: manifest.keyspaces[7], range: Range53::WHOLE, location, ..manifest.segments[0] };
    manifest.segments.push(SegmentInfo { records: 1, expiring: 0, sequence: 0, ..fresh });
    (manifest.sequence, manifest.cut) = (3, 3);
    block_on(manifest::commit(&setup.store, &mut manifest)).unwrap();
    expected.remove(&(0, b"key:7".to_vec()));
    expected.insert((0, b"key:8".to_vec()), (None, None, "changed".to_owned()));
    expected.insert((7, b"fresh".to_vec()), (None, None, "changed".to_owned()));
    assert!(data(&setup.export().0) == expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_strings_survive(
        records in proptest::collection::btree_map(
            (0u64..16, proptest::collection::vec(any::<u8>(), 0..6)),
            (any::<Vec<u8>>(), proptest::option::of(NOW + 1..NOW * 2)),
            0..300,
        ),
        memory_bytes in 1usize..20_000,
    ) {
        let mut rdb = RdbWriter::new(Vec::new());
        for ((index, key), (value, expiry_ms)) in &records {
            rdb.select(*index).unwrap();
            rdb.record(key, &Value::Raw(value), Beside { expiry_ms: *expiry_ms, ..Beside::default() }).unwrap();
        }
        let rdb = rdb.finish().unwrap().0;
        let mut setup = Setup::new();
        setup.import_with(&rdb, |import| import.memory_bytes = memory_bytes).unwrap();
        prop_assert_eq!(data(&setup.export().0), data(&rdb));
    }
}

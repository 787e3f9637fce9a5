use std::io::Read;

use dormouse_types::listpack::Listpack;
use dormouse_types::record::Value;
use dormouse_types::{Hash, Item, Limits, Object};
use proptest::prelude::*;

use super::*;
use crate::codec::reader::write_rdb_length;
use crate::codec::string::write_plain_string;
use crate::codec::tests::for_each_damage;
use crate::codec::value::json::of_text;
use crate::codec::value::{LoadedValue, RdbReaders, decode_value, encode_value};
use crate::codec::{Reader, checksum};

/// Everything in an RDB, a line each; the last one is the error, if any.
fn lines(stream: impl Read) -> Vec<String> {
    let mut lines = Vec::new();
    let mut reader = match RdbReader::new(stream) {
        Ok(reader) => reader,
        Err(error) => return vec![error.to_string()],
    };
    loop {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        lines.push(match reader.next() {
            Ok(RdbEntry::Aux { name, value }) => format!("aux {}={}", text(&name), text(&value)),
            Ok(RdbEntry::Select(index)) => format!("select {index}"),
            Ok(RdbEntry::Resize { keys, expires }) => format!("resize {keys} {expires}"),
            Ok(RdbEntry::Function(source)) => format!("function {}", text(&source)),
            Ok(RdbEntry::ModuleAux { module }) => format!("module {module}"),
            Ok(RdbEntry::Key(RdbRecord { expiry_ms, idle_s, frequency, kind, key, value })) => {
                let mut line = format!("{} type {kind} value {}", key.with_bytes(text), value.escape_ascii());
                for (name, number) in [("expiry", expiry_ms), ("idle", idle_s), ("frequency", frequency.map(u64::from))]
                {
                    line += &number.map(|number| format!(" {name} {number}")).unwrap_or_default();
                }
                line
            }
            Ok(RdbEntry::Unsupported { key, what }) => format!("{} is {what}", text(&key)),
            Ok(RdbEntry::End) => return lines,
            Err(error) => {
                lines.push(error.to_string());
                return lines;
            }
        });
    }
}

/// An RDB of these items, with its checksum.
fn rdb(header: &str, items: &[&[u8]]) -> Vec<u8> {
    let mut bytes = header.as_bytes().to_vec();
    items.iter().for_each(|item| bytes.extend_from_slice(item));
    bytes.push(OPCODE_END);
    bytes.extend_from_slice(&checksum(&bytes).to_le_bytes());
    bytes
}

/// A stream that gives a few bytes at a time.
struct Drip<'a>(&'a [u8], usize);

impl Read for Drip<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.1.min(into.len());
        (&mut self.0).take(count as u64).read(into)
    }
}

/// A stream that remembers how it was written to, and refuses after a number of bytes.
struct Strict {
    bytes: Vec<u8>,
    longest: usize,
    room: usize,
}

impl std::io::Write for Strict {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.room {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(bytes);
        self.longest = self.longest.max(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_large_value_is_written_in_runs() {
    let limits = Limits::default();
    let mut hash = Hash::new();
    for at in 0..100_000 {
        hash.set(format!("field {at}").as_bytes(), format!("value {at}").as_bytes(), &limits);
    }
    let object = Object::Hash(hash);
    let (newer, older) = (RdbReaders::REDIS_7_2, RdbReaders::REDIS_5);
    for (target, room) in [(newer, usize::MAX), (older, usize::MAX), (newer, 500_000), (older, 70_000)] {
        let mut rdb = RdbWriter::with_target(Strict { bytes: Vec::new(), longest: 0, room }, target);
        rdb.record(b"before", &Value::Int(1), Beside::default()).unwrap();
        let written = rdb.record(b"hash", &Value::Object(object.as_ref()), Beside::default());
        if room < usize::MAX {
            assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
            continue;
        }
        written.unwrap();
        let (Strict { bytes, longest, .. }, count) = rdb.finish().unwrap();
        assert!(bytes.len() as u64 == count && bytes.len() > 1 << 21);
        assert!(longest < 65 << 10, "{longest} bytes at once");
        let mut reader = RdbReader::new(&bytes[..]).unwrap();
        assert!(matches!(reader.next(), Ok(RdbEntry::Key(_))));
        let Ok(RdbEntry::Key(RdbRecord { kind, value, .. })) = reader.next() else { panic!("no hash") };
        let mut expected = Vec::new();
        assert_eq!(encode_value(&Value::Object(object.as_ref()), &mut expected), kind);
        assert!(*value == expected[..]);
        assert!(matches!(reader.next(), Ok(RdbEntry::End)));
    }
}

#[test]
fn a_document_becomes_a_string_or_is_refused() {
    let text = br#"{"name":"Ada","\u00e9":[1,-2.5,1e300,true,null,{}]}"#;
    let object = of_text(text).unwrap();
    let value = Value::Object(object.as_ref());
    for target in RdbReaders::ALL {
        assert!(!RdbWriter::with_target(Vec::new(), target).takes(&value));
        let mut rdb = RdbWriter::with_target(Vec::new(), RdbReaders { json_as_string: true, ..target });
        assert!(rdb.takes(&value), "{target:?}");
        rdb.record(b"doc", &value, Beside::default()).unwrap();
        let bytes = rdb.finish().unwrap().0;
        let mut reader = RdbReader::new(&bytes[..]).unwrap();
        let Ok(RdbEntry::Key(RdbRecord { kind: 0, value, .. })) = reader.next() else {
            panic!("no string for {target:?}")
        };
        let LoadedValue::Text(said) = decode_value(0, &mut Reader::new(value), &Limits::default()).unwrap() else {
            panic!("no text for {target:?}")
        };
        assert_eq!(said.into_vec(), "{\"name\":\"Ada\",\"\u{e9}\":[1,-2.5,1e300,true,null,{}]}".as_bytes());
    }
}

#[test]
fn every_item_is_read() {
    let stream_3: &[&[u8]] = &[
        &[21, 1, b's', 1, 16],
        &[0; 16],
        b"\x03lpk\x01\x02\x03\x01\x02\x01\x02\x03",
        b"\x01\x01g\x01\x02\x03\x01",
        &[0; 24],
        b"\x05\x01\x01c",
        &[0; 16],
        b"\x01",
        &[0; 16],
    ];
    let read_3 = format!("s type 21 value {}", stream_3.concat()[3..].escape_ascii());
    let cases: &[(&str, Vec<u8>, &[&str])] = &[
        ("REDIS0011", vec![], &[]),
        ("REDIS0011", b"\xfa\x09redis-ver\x057.2.4".to_vec(), &["aux redis-ver=7.2.4"]),
        ("REDIS0011", b"\xfa\x0aredis-bits\xc0\x40".to_vec(), &["aux redis-bits=64"]),
        ("REDIS0011", b"\xfe\x00\xfb\x03\x01".to_vec(), &["select 0", "resize 3 1"]),
        ("REDIS0011", b"\xfe\x40\x63\xf5\x03#!l".to_vec(), &["select 99", "function #!l"]),
        ("REDIS0001", b"\x00\x01k\x01v".to_vec(), &["k type 0 value \\x01v"]),
        ("REDIS0011", b"\x00\xc0\x0c\xc1\x10\x27".to_vec(), &["12 type 0 value \\xc1\\x10\\'"]),
        ("REDIS0011", b"\xfd\x01\0\0\0\x00\x01k\x01v".to_vec(), &["k type 0 value \\x01v expiry 1000"]),
        ("REDIS0011", b"\xfd\xff\xff\xff\xff\x00\x01k\x01v".to_vec(), &["k type 0 value \\x01v expiry 0"]),
        (
            "REDIS0011",
            b"\xfc\x02\x01\0\0\0\0\0\0\xf8\x07\x00\x01k\x01v\x00\x01l\x01w".to_vec(),
            &["k type 0 value \\x01v expiry 258 idle 7", "l type 0 value \\x01w"],
        ),
        ("REDIS0012", b"\xf4\x01\x02\x03\xf9\xff\x00\x01k\x00".to_vec(), &["k type 0 value \\x00 frequency 255"]),
        ("REDIS0011", b"\x01\x01k\x02\x01a\xc0\x01".to_vec(), &["k type 1 value \\x02\\x01a\\xc0\\x01"]),
        (
            "REDIS0011",
            b"\x03\x01k\x02\x01a\xfe\x01b\x031.5".to_vec(),
            &["k type 3 value \\x02\\x01a\\xfe\\x01b\\x031.5"],
        ),
        ("REDIS0011", b"\x04\x01k\x01\x01f\x01v".to_vec(), &["k type 4 value \\x01\\x01f\\x01v"]),
        (
            "REDIS0011",
            b"\x05\x01k\x01\x01m\0\0\0\0\0\0\0\0\x00\x01l\x00".to_vec(),
            &["k type 5 value \\x01\\x01m\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00", "l type 0 value \\x00"],
        ),
        ("REDIS0009", b"\x0e\x01k\x02\x01a\x01b".to_vec(), &["k type 14 value \\x02\\x01a\\x01b"]),
        ("REDIS0010", b"\x12\x01k\x02\x01\x01a\x02\x01b".to_vec(), &["k type 18 value \\x02\\x01\\x01a\\x02\\x01b"]),
        ("REDIS0011", b"\x14\x01k\xc3\x02\x03..".to_vec(), &["k type 20 value \\xc3\\x02\\x03.."]),
        ("REDIS0011", [&stream_3.concat(), &b"\x00\x01k\x00"[..]].concat(), &[&read_3, "k type 0 value \\x00"]),
        ("REDIS0009", b"\x0f\x01s\x00\x00\x00\x00\x00".to_vec(), &["s type 15 value \\x00\\x00\\x00\\x00\\x00"]),
        (
            "REDIS0010",
            b"\x13\x01s\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00".to_vec(),
            &[&format!("s type 19 value {}", "\\x00".repeat(10))],
        ),
        (
            "REDIS0011",
            [
                &b"\x07\x01j"[..],
                &module("exampledb"),
                b"\x02\x05\x01\x06\x03....\x04........\x05\x03{\"}\x00\x00\x01k\x00",
            ]
            .concat(),
            &["j is a module's value (exampledb)", "k type 0 value \\x00"],
        ),
        (
            "REDIS0015",
            [
                &b"\x07\x01v"[..],
                &module("vectorset"),
                b"\x02\x05\x00\x1c\x01a\x02\x01\x07\x03\x00\x01x\x04\x01........\x00\x01k\x00",
            ]
            .concat(),
            &[
                "v is a vector set",
                "a type 28 value \\x02\\x01\\x07\\x03\\x00\\x01x\\x04\\x01........",
                "k type 0 value \\x00",
            ],
        ),
        // Metadata of two modules before a key.
        (
            "REDIS0015",
            b"\xfd\x01\0\0\0\xf3\x02....\x02\x07\x00....\x05\x01x\x00\x00\x01k\x01v\x00\x01l\x01w".to_vec(),
            &["k is a value with metadata of a module", "l type 0 value \\x01w"],
        ),
        (
            "VALKEY080",
            b"\xf3\x03job\x01\x05\x40\xff\x00\x01k\x00".to_vec(),
            &["job is an unfinished import of slots", "k type 0 value \\x00"],
        ),
        (
            "REDIS0011",
            [&b"\xf7"[..], &module("scripting"), b"\x02\x01\x05\x01x\x00\x00\x01k\x00"].concat(),
            &["module scripting", "k type 0 value \\x00"],
        ),
        (
            "VALKEY080",
            b"\x16\x01h\x01\x01f\x01v\xff\xff\xff\xff\xff\xff\xff\xff\x16\x01i\x01\x01f\x01v\0\0\0\0\x01\0\0\0"
                .to_vec(),
            &[
                "h type 4 value \\x01\\x01f\\x01v",
                "i type 24 value \\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x01\\x81\\x00\\x00\\x00\\x01\\x00\\x00\\x00\\x01\\x01f\\x01v",
            ],
        ),
        (
            "REDIS0012",
            [
                &b"\x18\x01h\x03\0\0\0\0\0\0\0\x01\x05\x01f\x01v\x19\x01i........"[..],
                &listpack(&["f", "v", "99999"]),
                b"\x16\x01j\x02\x00\x01e\x01v\x05\x01f\x01v\x17\x01k",
                &listpack(&["e", "v", "0", "f", "v", "99999"]),
            ]
            .concat(),
            &[
                "h type 24 value \\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x01\\x08\\x01f\\x01v",
                "i type 24 value \\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x01\\x80\\x00\\x01\\x86\\xa0\\x01f\\x01v",
                "j type 24 value \\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\x01e\\x01v\\x06\\x01f\\x01v",
                "k type 24 value \\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\x01e\\x01v\\x80\\x00\\x01\\x86\\xa0\\x01f\\x01v",
            ],
        ),
        // None of the fields expires.
        (
            "REDIS0012",
            [
                &b"\x18\x01h........\x01\x00\x01f\xc0\x07\x19\x01i........"[..],
                &listpack(&["f", "7", "0", "g", "v", "0"]),
                b"\x16\x01j\x01\x00\x01f\x01v\xfd\x01\0\0\0\x17\x01k",
                &listpack(&["f", "v", "0"]),
            ]
            .concat(),
            &[
                "h type 4 value \\x01\\x01f\\xc0\\x07",
                "i type 4 value \\x02\\x01f\\xc0\\x07\\x01g\\x01v",
                "j type 4 value \\x01\\x01f\\x01v",
                "k type 4 value \\x01\\x01f\\x01v expiry 1000",
            ],
        ),
        // Templates, and hashes that name them.
        (
            "REDIS0015",
            [
                &b"\xf2\x07\x02\x01a\xc0\x05\xf2\x08\x01\x01b\xfe\x00\x20\x01h\x07\x01v\x01w\x1e\x01i"[..],
                &listpack(&["8", "v"]),
                b"\xfd\x01\0\0\0\x1e\x01j",
                &listpack(&["7", "1", "w"]),
            ]
            .concat(),
            &[
                "select 0",
                "h type 4 value \\x02\\x01a\\x01v\\xc0\\x05\\x01w",
                "i type 4 value \\x01\\x01b\\x01v",
                "j type 4 value \\x02\\x01a\\xc0\\x01\\xc0\\x05\\x01w expiry 1000",
            ],
        ),
    ];
    for (header, items, expected) in cases {
        let bytes = rdb(header, &[items]);
        assert_eq!(lines(&bytes[..]), *expected);
        for count in [1, 2, 7] {
            assert_eq!(lines(Drip(&bytes, count)), *expected);
        }
    }
}

/// A listpack as a string.
fn listpack(items: &[&str]) -> Vec<u8> {
    let mut listpack = Listpack::new();
    items.iter().for_each(|item| listpack.push_back(Item::parse(item.as_bytes())));
    let mut bytes = Vec::new();
    write_plain_string(&mut bytes, listpack.view().bytes());
    bytes
}

/// A module's id as a length.
fn module(name: &str) -> Vec<u8> {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let number = |letter: u8| letters.iter().position(|other| *other == letter).unwrap() as u64;
    let id = name.bytes().fold(0, |id, letter| id << 6 | number(letter)) << 10 | 3;
    let mut bytes = Vec::new();
    write_rdb_length(&mut bytes, id);
    bytes
}

#[test]
fn what_cannot_be_read_is_named() {
    for (bytes, expected) in [
        (b"".to_vec(), "at byte 0: not a Redis data set (RDB)"),
        (b"garbage".to_vec(), "at byte 0: not a Redis data set (RDB)"),
        (b"REDIX0011\xff".to_vec(), "at byte 0: not a Redis data set (RDB)"),
        (b"REDIS001x\xff".to_vec(), "at byte 0: not a Redis data set (RDB)"),
        (b"REDIS0000\xff".to_vec(), "at byte 9: RDB of format version 0, which this build cannot read"),
        (b"REDIS0016\xff".to_vec(), "at byte 9: RDB of format version 16, which this build cannot read"),
        (b"REDIS0080\xff".to_vec(), "at byte 9: RDB of format version 80, which this build cannot read"),
        (b"VALKEY081\xff".to_vec(), "at byte 9: RDB of format version 81, which this build cannot read"),
        // Before the field of 300 MiB is read.
        (b"REDIS0015\xf2\x01\x01\x80\x12\xc0\0\0".to_vec(), "at byte 17: malformed: hash templates over 256 MiB"),
        (rdb("REDIS0011", &[b"\x08"]), "at byte 10: opcode 8, which this build does not know"),
        (rdb("REDIS0015", &[b"\xf1"]), "at byte 10: opcode 241, which this build does not know"),
        (rdb("VALKEY080", &[b"\xf2"]), "at byte 10: opcode 242, which this build does not know"),
        (rdb("REDIS0015", &[b"\x1d"]), "at byte 10: opcode 29, which this build does not know"),
        (rdb("REDIS0015", &[b"\x20\x01h\x07\x01v"]), "at byte 13: malformed: hash without its template"),
        (rdb("REDIS0015", &[b"\xf2\x07\x01\x01a\xf2\x07\x01\x01b"]), "at byte 19: malformed: hash template twice"),
        (
            rdb("REDIS0015", &[b"\xf2\x07\x01\x01a\x1e\x01h", &listpack(&["7", "v", "w"])]),
            "at byte 33: the value of key `h` is damaged: malformed: hash listpack",
        ),
        (
            rdb("REDIS0015", &[b"\x19\x01h........\x01x"]),
            "at byte 22: the value of key `h` is damaged: malformed: listpack",
        ),
        (
            rdb("REDIS0011", &[b"\x06\x01k"]),
            "at byte 12: after the value of key `k`, a module's value in the form of Redis 4, whose end cannot be found",
        ),
        (rdb("REDIS0011", &[b"\x00\xc4"]), "at byte 11: malformed: unknown string encoding"),
        (rdb("REDIS0011", &[b"\x01\x01k\xc0\x01"]), "at byte 13: malformed: string encoding in place of a length"),
        (rdb("VALKEY080", &[b"\x17\x01h\x01x"]), "at byte 10: opcode 23, which this build does not know"),
        (b"REDIS0011\x00\x01k\x81\xff\xff\xff\xff\xff\xff\xff\xff.".to_vec(), "at byte 21: ends too early"),
        (b"REDIS0011\xff12345678".to_vec(), "at byte 18: checksum mismatch (stored 3837363534333231, computed "),
    ] {
        let lines = lines(&bytes[..]);
        assert!(lines.last().is_some_and(|line| line.starts_with(expected)), "{lines:?}, not {expected}");
    }
}

#[test]
fn a_checksum_of_zero_is_not_checked() {
    assert!(lines(&b"REDIS0011\xff\0\0\0\0\0\0\0\0"[..]).is_empty());
}

#[test]
fn what_comes_behind_is_given_back() {
    for header in ["REDIS0011", "REDIS0004"] {
        let mut bytes = rdb(header, &[b"\x00\x01k\x01v"]);
        if header == "REDIS0004" {
            bytes.truncate(bytes.len() - 8);
        }
        let end = bytes.len();
        bytes.extend_from_slice(b"*1\r\n$4\r\nPING\r\n");
        for count in [1, 5, 1000] {
            let mut reader = RdbReader::new(Drip(&bytes, count)).unwrap();
            while !matches!(reader.next().unwrap(), RdbEntry::End) {}
            assert_eq!(reader.offset(), end as u64);
            assert!(matches!(reader.next(), Ok(RdbEntry::End)));
            let (mut stream, mut rest) = reader.into_inner();
            stream.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"*1\r\n$4\r\nPING\r\n");
        }
    }
}

#[test]
fn a_large_value_is_whole_and_a_lie_costs_nothing() {
    let mut item = b"\x00\x01k".to_vec();
    write_plain_string(&mut item, &vec![b'x'; 5 << 20]);
    let mut items = vec![&item[..]; 3];
    items.push(b"\x00\x01l\x01v");
    let bytes = rdb("REDIS0011", &items);
    for count in [10_000, 1 << 20] {
        let found = lines(Drip(&bytes, count));
        assert_eq!(found.len(), 4);
        assert!(found[..3].iter().all(|line| line.len() > 5 << 20));
        assert_eq!(found[3], "l type 0 value \\x01v");
    }
    // 2^63 bytes are announced, and 2^62 elements.
    for lie in
        [&b"\x00\x01k\x81\x7f\xff\xff\xff\xff\xff\xff\xff.."[..], b"\x01\x01k\x81\x3f\xff\xff\xff\xff\xff\xff\xff\x00"]
    {
        let found = lines(&[b"REDIS0011", lie].concat()[..]);
        assert!(found.last().unwrap().contains("ends too early"), "{found:?}");
    }
}

#[test]
fn every_damage_is_found() {
    let mut writer = RdbWriter::new(Vec::new());
    writer.aux("redis-ver", "7.2.0").unwrap();
    writer.select(3).unwrap();
    writer.resize(2, 1).unwrap();
    writer.record(b"key", &Value::Raw(b"value"), Beside { expiry_ms: Some(1 << 40), ..Beside::default() }).unwrap();
    writer.record(b"n", &Value::Int(5000), Beside { idle_s: Some(100), ..Beside::default() }).unwrap();
    let (bytes, written) = writer.finish().unwrap();
    assert_eq!(written, bytes.len() as u64);
    assert_eq!(
        lines(&bytes[..]),
        [
            "aux redis-ver=7.2.0",
            "select 3",
            "resize 2 1",
            "key type 0 value \\x05value expiry 1099511627776",
            "n type 0 value \\xc1\\x88\\x13 idle 100",
        ]
    );
    for_each_damage(&bytes, |damaged| {
        let Ok(mut reader) = RdbReader::new(damaged) else { return true };
        loop {
            match reader.next() {
                Ok(RdbEntry::End) => break,
                Ok(_) => {}
                Err(_) => return true,
            }
        }
        // A version without checksums, or too many bytes.
        let (stream, rest) = reader.into_inner();
        !(stream.is_empty() && rest.is_empty())
    });
}

proptest! {
    #[test]
    fn records_survive(
        records in proptest::collection::vec((
            any::<Vec<u8>>(),
            proptest::collection::vec(any::<u8>(), 0..2000),
            proptest::option::of(0..u64::MAX >> 1),
            proptest::option::of(any::<u32>()),
            proptest::option::of(any::<u8>()),
        ), 0..200),
        count in 1usize..70_000,
    ) {
        let mut writer = RdbWriter::new(Vec::new());
        for (key, value, expiry_ms, idle_s, frequency) in &records {
            let beside = Beside { expiry_ms: *expiry_ms, idle_s: idle_s.map(u64::from), frequency: *frequency };
            writer.record(key, &Value::Raw(value), beside).unwrap();
        }
        let (bytes, _) = writer.finish().unwrap();
        let mut reader = RdbReader::new(Drip(&bytes, count)).unwrap();
        for (key, value, expiry, idle, frequency_before) in &records {
            let Ok(RdbEntry::Key(record)) = reader.next() else { panic!() };
            prop_assert_eq!((record.expiry_ms, record.frequency), (*expiry, *frequency_before));
            prop_assert_eq!(record.idle_s, idle.map(u64::from));
            prop_assert_eq!(&record.key.into_vec(), key);
            let mut inside = Reader::new(record.value);
            let Ok(crate::codec::value::LoadedValue::Text(text)) = decode_value(record.kind, &mut inside, &Limits::default())
            else { panic!() };
            prop_assert!(inside.is_empty());
            prop_assert_eq!(&text.into_vec(), value);
        }
        prop_assert!(matches!(reader.next(), Ok(RdbEntry::End)));
    }

    #[test]
    fn noise_does_no_harm(noise: Vec<u8>, kind in 0u8..34) {
        lines(&[b"REDIS0011", &noise[..]].concat()[..]);
        lines(&[&b"REDIS0015\xf2\x01\x01\x01f"[..], &[kind, 1, b'k'][..], &noise[..]].concat()[..]);
        lines(&[&b"VALKEY080"[..], &[kind, 1, b'k'][..], &noise[..]].concat()[..]);
    }

    /// The decoder ends where the skimmer finds a value's end.
    #[test]
    fn the_decoder_ends_where_the_skimmer_does(noise: Vec<u8>, kind in 0u8..33) {
        let bytes = [&b"REDIS0001\xf2\x01\x01\x01f"[..], &[kind, 1, b'k'][..], &noise[..]].concat();
        let mut reader = RdbReader::new(&bytes[..]).unwrap();
        if let Ok(RdbEntry::Key(record)) = reader.next() {
            let mut inside = Reader::new(record.value);
            if decode_value(record.kind, &mut inside, &Limits::default()).is_ok() {
                prop_assert!(inside.is_empty());
            }
        }
    }
}

use dormouse_types::record::Value;
use dormouse_types::segment::SlotPlacement;
use dormouse_types::{End, List, Object};
use proptest::prelude::*;

use super::*;
use crate::codec::tests::for_each_damage;

const PLACEMENT: SlotPlacement = SlotPlacement { seed: 7 };

fn decode(bytes: &[u8]) -> Result<Segment<Record>, CodecError> {
    decode_segment(bytes, &PLACEMENT, &Limits::default(), Range53::WHOLE)
}

/// Everything that must survive.
fn image(record: &Record) -> (Vec<u8>, String, Option<u64>, u32) {
    (record.key().to_vec(), format!("{:?}", record.value()), record.expiry(), record.access())
}

fn images(segment: &Segment<Record>) -> Vec<(Vec<u8>, String, Option<u64>, u32)> {
    let mut images: Vec<_> = segment.iter().map(image).collect();
    images.sort();
    images
}

fn list(elements: usize) -> Object {
    let mut list = List::new();
    for element in 0..elements {
        list.push(End::Tail, element.to_string().as_bytes(), &Limits::default());
    }
    Object::List(list)
}

fn sample() -> Vec<Record> {
    let mut records = vec![
        Record::new_raw(b"text", b"hello", None),
        Record::new_raw(b"", b"", Some(1_700_000_000_000)),
        Record::new_raw(b"number", b"-42", Some(1_700_000_000_001)),
        Record::new_raw(b"big number", b"9223372036854775807", None),
        Record::new_raw(&[0xff; 300], &[b'x'; 20_000], Some(0)),
        Record::new_object(b"short list", list(5), Some(u64::MAX)),
        Record::new_object(b"long list", list(5000), None),
    ];
    for (at, record) in records.iter_mut().enumerate() {
        record.set_access([0, 5, 5, 0xff_ffff][at % 4]);
    }
    records
}

#[test]
fn a_segment_survives() {
    let records = sample();
    let body = encode_segment(&records);
    assert_eq!((body.records, body.expiring), (7, 4));
    assert_eq!(body.crc, stored_checksum(&body.bytes));
    let segment = decode(&body.bytes).unwrap();
    let mut expected: Vec<_> = records.iter().map(image).collect();
    expected.sort();
    assert_eq!(images(&segment), expected);
    let mut visited = Vec::new();
    assert_eq!(visit_segment(&body.bytes, &Limits::default(), |record| visited.push(image(&record))), Ok(7));
    visited.sort();
    assert_eq!(visited, expected);
    assert!(decode(&encode_segment([]).bytes).unwrap().is_empty());
}

#[test]
fn values_in_pieces_are_told_from_others() {
    for kind in [crate::codec::value::kind::HASH, 30, 31, 32, 201, 255] {
        values_of_a_kind_in_pieces_are_told_from_others(kind);
    }
}

fn values_of_a_kind_in_pieces_are_told_from_others(kind: u8) {
    let outline = Outline { kind, elements: 70_000 };
    let record = |key: &[u8], first, pieces| InPieces {
        key: key.into(),
        expiry: (first > 1).then_some(99),
        access: first,
        outline,
        first,
        pieces,
    };
    let mut raw = RawSegment::new(0);
    raw.push(&Record::new_raw(b"text", b"hello", None));
    // The first was written again under other numbers.
    let records = [record(b"a", 3, 2), record(b"b", 5, 1)];
    raw.push_in_pieces(&records[0]);
    raw.push_later(77, 5);
    raw.push_later(78, 5);
    raw.push_later(77, 6);
    raw.push_in_pieces(&records[1]);
    let body = raw.seal();
    assert_eq!((body.records, body.expiring), (3, 2));
    let decoded = decode_body(&body.bytes, &PLACEMENT, &Limits::default(), Range53::WHOLE).unwrap();
    assert_eq!((decoded.segment.len(), decoded.in_pieces), (1, records.to_vec()));
    assert_eq!(decoded.later, [(78, 5), (77, 6)]);
    assert_eq!(SegmentBody::of_sealed(&body.bytes).unwrap().records, 3);
    assert_eq!(visit_segment(&body.bytes, &Limits::default(), drop), Err(VALUE_IN_PIECES));
    for_each_damage(&body.bytes, |damaged| {
        decode_body(damaged, &PLACEMENT, &Limits::default(), Range53::WHOLE).is_err()
    });
    let mut twice = RawSegment::new(0);
    (1..3).for_each(|first| twice.push_in_pieces(&record(b"a", first, 1)));
    let twice = decode_body(&twice.seal().bytes, &PLACEMENT, &Limits::default(), Range53::WHOLE).err();
    assert_eq!(twice, Some(CodecError::Malformed("key twice")));
}

proptest! {
    #[test]
    fn strings_survive(
        entries in proptest::collection::btree_map(
            any::<Vec<u8>>(),
            (prop_oneof![any::<Vec<u8>>(), any::<i64>().prop_map(|i| i.to_string().into_bytes())], any::<Option<u64>>(), 0u32..1 << 24),
            0..60,
        )
    ) {
        let records: Vec<_> = entries.iter().map(|(key, (value, expiry, access))| {
            let mut record = Record::new_raw(key, value, *expiry);
            record.set_access(*access);
            record
        }).collect();
        let segment = decode(&encode_segment(&records).bytes).unwrap();
        let expected: Vec<_> = records.iter().map(image).collect();
        prop_assert_eq!(images(&segment), expected);
    }

    #[test]
    fn noise_is_refused(noise: Vec<u8>, count in 0u32..4) {
        let _ = decode(&noise);
        let mut raw = Vec::from(count.to_le_bytes());
        raw.extend_from_slice(&noise);
        let _ = decode(&seal(&raw));
    }
}

#[test]
fn every_damage_is_noticed() {
    let records = [Record::new_raw(b"a", b"hello", Some(5)), Record::new_object(b"b", list(40), None)];
    for_each_damage(&encode_segment(&records).bytes, |damaged| decode(damaged).is_err());
}

#[test]
fn forged_bodies_are_refused() {
    let refused = |raw: &[u8]| decode(&seal(raw)).err().expect("accepted");
    let good = |raw: &[u8]| decode(&seal(raw)).unwrap();
    // head 0x40: a string, access as before; key "k"; value "v".
    assert_eq!(good(b"\x01\0\0\0\x40\x01k\x01v").len(), 1);
    assert_eq!(refused(b"\x01\0\0\0\x40\x01k\x01vx"), CodecError::Malformed("trailing bytes"));
    assert_eq!(refused(b"\x02\0\0\0\x40\x01k\x01v\x40\x01k\x01v"), CodecError::Malformed("key twice"));
    // Bit 7: the value is in pieces. The elements, the first piece and the number of pieces follow.
    assert_eq!(refused(b"\x01\0\0\0\xc0\x01k\x05\x01\x01"), VALUE_IN_PIECES);
    assert_eq!(refused(b"\x01\0\0\0\xc0\x01k\x05\x00\x01"), CodecError::Malformed("pieces"));
    assert_eq!(refused(b"\x01\0\0\0\xc0\x01k\x05\x01\x00"), CodecError::Malformed("pieces"));
    assert_eq!(
        refused(b"\x02\0\0\0\xc0\x01k\x05\x01\x02\xc0\x01l\x05\x02\x01"),
        CodecError::Malformed("pieces"),
        "two values share a piece"
    );
    // Bit 31 of the count: some keys were seen later.
    assert_eq!(good(b"\x01\0\0\x80\x40\x01k\x01v\x01\x08\0\0\0\0\0\0\0\x05").len(), 1);
    assert_eq!(refused(b"\x01\0\0\x80\x40\x01k\x01v"), CodecError::Truncated);
    assert_eq!(refused(b"\x01\0\0\x80\x40\x01k\x01v\x02\x08\0\0\0\0\0\0\0\x05"), CodecError::Truncated);
    // A number from 31 on follows the key.
    assert_eq!(refused(b"\x01\0\0\0\x5f\x01k\x1f\x01v"), CodecError::Type(31));
    assert_eq!(refused(b"\x01\0\0\0\x5f\x01k\xff\x01v"), CodecError::Type(255));
    assert_eq!(refused(b"\x01\0\0\0\x5f\x01k\x00\x01v"), CodecError::Malformed("number of an encoding behind a key"));
    assert_eq!(refused(b"\x01\0\0\0\x5f\x01k"), CodecError::Truncated);
    assert_eq!(refused(b"\xff\xff\xff\xff\x40\x01k\x01v"), CodecError::Truncated);
    let mut crowd = vec![0; 1 << 19];
    crowd[2] = 2;
    assert_eq!(refused(&crowd), CodecError::Malformed("too many records for a segment"));
    assert_eq!(refused(b"\x01\0\0"), CodecError::Truncated);
    let (low, high) = Range53::WHOLE.halves();
    let body = encode_segment(&[Record::new_raw(b"k", b"v", None)]);
    let fits = |range| decode_segment(&body.bytes, &PLACEMENT, &Limits::default(), range).is_ok();
    assert!(fits(low) != fits(high), "a key belongs into one half");
}

/// Time that this thread has been running, so that a busy machine does not change the measurement.
fn cpu_seconds() -> f64 {
    let running = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    running.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// Not a test but a measurement: `cargo test --release ... -- --ignored --nocapture segment_speed`.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn segment_speed() {
    let records: Vec<_> = (0..1500u64)
        .map(|at| {
            let value: Vec<u8> =
                (0..14u64).flat_map(|i| (at * 31 + i).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
            Record::new_raw(
                format!("user:{:011}", at * 7919).as_bytes(),
                &value,
                (at % 3 == 0).then_some(1_700_000_000_000 + at * 1000),
            )
        })
        .collect();
    let mut segment = Segment::with_capacity(Range53::WHOLE, records.len());
    for record in records {
        let position = PLACEMENT.position(record.key());
        segment.insert(position, record, &PLACEMENT);
    }
    let repeat = |what: &str, work: &mut dyn FnMut()| {
        let (started, mut rounds) = (cpu_seconds(), 0u32);
        while rounds < 300 || cpu_seconds() - started < 0.5 {
            work();
            rounds += 1;
        }
        let keys = f64::from(rounds) * segment.len() as f64 / (cpu_seconds() - started);
        println!("{what}: {:.2} million keys a second", keys / 1e6);
    };
    let raw = RawSegment::collect(segment.iter(), 300_000);
    let body = raw.clone().seal();
    println!("raw {} sealed {}", body.raw_len, body.bytes.len());
    repeat("collect", &mut || drop(RawSegment::collect(segment.iter(), 300_000)));
    repeat("seal", &mut || drop(raw.clone().seal()));
    repeat("encode", &mut || drop(encode_segment(segment.iter())));
    repeat("open", &mut || drop(open(&body.bytes).unwrap()));
    repeat("visit", &mut || drop(visit_segment(&body.bytes, &Limits::default(), drop)));
    repeat("decode", &mut || drop(decode(&body.bytes).unwrap()));
    assert!(matches!(segment.iter().next().map(Record::value), Some(Value::Raw(_))));
}

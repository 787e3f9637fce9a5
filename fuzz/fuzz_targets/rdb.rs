//! The reader of RDB.
//!
//! The first byte of the input says in which pieces the rest arrives. However it arrives, the same items and the same
//! error must come out, and what follows the end must be given back. Values that decode are written again and must come
//! out of that as they were.
#![no_main]

use std::io::Read;

use dormouse_shard::codec::Reader;
use dormouse_shard::codec::value::decode_value;
use dormouse_shard::rdb::{Beside, Entry, RdbReader, RdbRecord, RdbWriter};
use dormouse_shard::types::Limits;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&piece, rest)) = input.split_first() else { return };
    let mut with_header = b"REDIS0011".to_vec();
    with_header.extend_from_slice(rest);
    for bytes in [rest, &with_header] {
        let whole = items(Pieces(bytes, bytes.len().max(1)));
        let pieces = items(Pieces(bytes, usize::from(piece % 16) + 1));
        assert_eq!(whole, pieces);
    }
});

struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
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
            Ok(Entry::Key(record)) => {
                write_again(&record);
                format!("{record:?}")
            }
            Ok(Entry::End) => break,
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
    writer.encoded(&key, kind, record.value, Beside { expiry_ms, idle_s, frequency }).expect("a Vec takes all");
    let (bytes, _) = writer.finish().expect("a Vec takes all");
    let mut reader = RdbReader::new(&bytes[..]).expect("our own header");
    let Ok(Entry::Key(again)) = reader.next() else { panic!("a key was written") };
    assert_eq!((again.expiry_ms, again.idle_s, again.frequency), (expiry_ms, idle_s, frequency));
    assert_eq!((again.kind, again.value), (kind, record.value));
    assert_eq!(again.key.into_vec(), key);
    assert!(matches!(reader.next(), Ok(Entry::End)));
}

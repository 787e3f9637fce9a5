//! The decoders of values.
//!
//! The first byte of the input is the number of the encoding, the rest a value. What is taken must survive being encoded,
//! packed and unpacked, and a second encoding must be the first.
#![no_main]

use dormouse_shard::codec::Reader;
use dormouse_shard::codec::value::{Loaded, decode_value, encode_object, encode_unpacked};
use dormouse_shard::types::{Limits, Object};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&kind, value)) = input.split_first() else { return };
    let Ok(Loaded::Object(object)) = decode_value(kind % 32, &mut Reader::new(value), &Limits::default()) else {
        return;
    };
    let mut first = Vec::new();
    let kind = encode_object(&object, &mut first);
    let mut second = Vec::new();
    assert_eq!(encode_object(&decoded(kind, &first), &mut second), kind);
    // The order of a table's elements follows from how it grew.
    assert_eq!(first.len(), second.len());
    let mut unpacked = Vec::new();
    let kind = encode_unpacked(&object, &mut unpacked);
    assert_eq!(decoded(kind, &unpacked).heap_bytes() == 0, object.heap_bytes() == 0);
    assert_eq!(decoded(kind, &unpacked).encoding(), object.encoding());
});

fn decoded(kind: u8, bytes: &[u8]) -> Object {
    let mut reader = Reader::new(bytes);
    match decode_value(kind, &mut reader, &Limits::default()) {
        Ok(Loaded::Object(object)) if reader.is_empty() => object,
        other => panic!("our own encoding of type {kind} decodes to {other:?}"),
    }
}

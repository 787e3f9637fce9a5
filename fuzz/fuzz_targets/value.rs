//! The decoders of values.
//!
//! The first byte of the input is the number of the encoding, the rest a value. An accepted value must survive being
//! encoded, packed and unpacked.
#![no_main]

use dormouse_storage::codec::Reader;
use dormouse_storage::codec::value::{LoadedValue, decode_value, encode_object, encode_unpacked, kind};
use dormouse_types::array::INDEX_MAX;
use dormouse_types::{Limits, Object};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&kind, value)) = input.split_first() else { return };
    let Ok(LoadedValue::Object(object)) = decode_value(encoding(kind), &mut Reader::new(value), &Limits::default()) else {
        return;
    };
    let mut packed = Vec::new();
    let kind = encode_object(object.as_ref(), &mut packed);
    assert_eq!(elements(&decoded(kind, &packed)), elements(&object));
    // A document becomes a string.
    if matches!(object, Object::Json(_)) {
        return;
    }
    let mut unpacked = Vec::new();
    let kind = encode_unpacked(object.as_ref(), &mut unpacked);
    assert_eq!(elements(&decoded(kind, &unpacked)), elements(&object));
});

/// One of RDB's encodings, or of our own.
fn encoding(byte: u8) -> u8 {
    match byte % 36 {
        of_rdb @ ..32 => of_rdb,
        own => kind::OWN + own - 32,
    }
}

/// Each element, with its value or the bits of its score; sorted where the type has no order.
fn elements(object: &Object) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut elements: Vec<_> = match object {
        Object::Text(text) => vec![(text.clone(), Vec::new())],
        Object::List(list) => return list.iter().map(|item| (item.to_vec(), Vec::new())).collect(),
        Object::Set(set) => set.iter().map(|member| (member.to_vec(), Vec::new())).collect(),
        Object::Hash(hash) => hash.iter().map(|(field, value)| (field.to_vec(), value.to_vec())).collect(),
        Object::Filter(filter) => vec![(format!("{filter:?}").into_bytes(), Vec::new())],
        Object::Json(json) => vec![(json.bytes().to_vec(), Vec::new())],
        Object::VectorSet(set) => vec![(format!("{set:?}").into_bytes(), Vec::new())],
        // A packed score of -0 is 0.
        Object::SortedSet(set) => {
            return set.iter().map(|(member, score)| (member.to_vec(), (score + 0.0).to_le_bytes().to_vec())).collect();
        }
        // Old encodings of streams do not have all of them.
        Object::Stream(_) => return Vec::new(),
        Object::Array(array) => {
            let mut elements = vec![(format!("{:?}", array.last_insert()).into_bytes(), Vec::new())];
            array.visit(0, INDEX_MAX, false, |index, element| {
                elements.push((index.to_be_bytes().to_vec(), element.to_vec()));
                false
            });
            return elements;
        }
    };
    elements.sort();
    elements
}

fn decoded(kind: u8, bytes: &[u8]) -> Object {
    let mut reader = Reader::new(bytes);
    match decode_value(kind, &mut reader, &Limits::default()) {
        Ok(LoadedValue::Object(object)) if reader.is_empty() => object,
        other => panic!("our own encoding of type {kind} decodes to {other:?}"),
    }
}

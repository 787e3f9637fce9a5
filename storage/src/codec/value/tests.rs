use dormouse_types::filter::{Bloom, Cuckoo};
use dormouse_types::stream::{Deliveries, Head, Idempotency, name_of_message};
use dormouse_types::vector_set::{Projection, Quantization, StoredNode, VectorHead, VectorLoader, VectorShape};
use dormouse_types::{
    End, Filter, Hash, Inserted, Limits, List, Set, SetExpiry, SortedSet, Stream, StreamId, VectorSet,
};
use proptest::prelude::*;

use super::*;
use crate::codec::dump::{RestoreError, dump, dump_bytes, restore, restored_bytes_max};

/// Payloads that redis-server 7.0 answered to `DUMP`, with what was in them. The last two streams are those of Valkey 9.1
/// and Redis 8.10.
const DUMPS: &[(&str, &str)] = &[
    ("00c00c0a003c2af8515c04bcd5", "12"),
    ("00c17fff0a001760822854808480", "-129"),
    ("00c2000001000a00c00a6ba7876138da", "65536"),
    ("000b31323334353637383930310a00304e52d727176510", "12345678901"),
    (
        "00c30b3e0361626361e02f020162630a00f9d5f31b208e27de",
        "abcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcbc",
    ),
    (
        "120102c32c406c1b6c00000008008161020101dffb02c12c02f270110104f400f2052a01201a05098001e04678e03c000148ff0a008bd5ec35f1c3a357",
        "list [a 1 -5 300 70000 5000000000  xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx]",
    ),
    ("0b180400000004000000fbffffff0100000002000000701101000a00749cce0a5f64ef0e", "intset [-5 1 2 70000]"),
    ("02030161c01101620a008b7a8799b961b2a7", "listpack [17 a b]"),
    ("101b1b0000000600816602817602816e020c01800185656d70747906ff0a00502875c4d50decca", "listpack [=empty f=v n=12]"),
    (
        "0402016ec00c0166c3094046017979e039000179790a00523ed8f6fb714f00",
        "hashtable [f=yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy n=12]",
    ),
    (
        "1121210000000800816302842d696e6605816102010181620283322e350411010301ff0a00c62ae41844313e05",
        "listpack [c=-inf a=1 b=2.5 17=3]",
    ),
    (
        "05030162000000000000f07fc3094046017979e03900017979000000000000f03f01639a9999999999b9bf0a00f92032be2f240304",
        "skiplist [c=-0.1 yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy=1 b=inf]",
    ),
    (
        "130110000000000000000100000000000000014050500000001d00030101010101816602000102010001000181760204010301000101010c01040100010401dfff020201856f7468657206817802846d6f72650581790208010201040100018177020401ff0305010101010204020462757379050104020000000000000005000000000000000059b5d724a2010000010000000000000005000000000000000166b5d724a2010000010304646f726159b5d724a20100000100000000000000050000000000000000066e6f626f647945b5d724a201000000046e6f726165b5d724a201000001000000000000000500000000000000010469646c65000081ffffffffffffffff00000a003332dc088a5496e4",
        "3 of 4, 1-1 to 5-1, deleted 1-2; 1-1 f=v; 5-0 other=x more=y; 5-1 f=w; group busy at 5-1, Some(4) read, dora seen 1795914446169 active Some(1795914446169) 5-0 at 1795914446169 x1, nobody seen 1795914446149 active Some(1795914446149), nora seen 1795914446181 active Some(1795914446181) 5-1 at 1795914446182 x1; group idle at 0-0, None read",
    ),
    (
        "150110000000000000000100000000000000014050500000001d00030101010101816602000102010001000181760204010301000101010c01040100010401dfff020201856f7468657206817802846d6f72650581790208010201040100018177020401ff030501010101020402046275737905010402000000000000000500000000000000002eb8d724a201000001000000000000000500000000000000013bb8d724a2010000010304646f72612eb8d724a20100002eb8d724a20100000100000000000000050000000000000000066e6f626f647909b8d724a2010000ffffffffffffffff00046e6f72613bb8d724a20100003bb8d724a201000001000000000000000500000000000000010469646c65000081ffffffffffffffff00005000be82222fb2eaf46d",
        "3 of 4, 1-1 to 5-1, deleted 1-2; 1-1 f=v; 5-0 other=x more=y; 5-1 f=w; group busy at 5-1, Some(4) read, dora seen 1795914446894 active Some(1795914446894) 5-0 at 1795914446894 x1, nobody seen 1795914446857 active None, nora seen 1795914446907 active Some(1795914446907) 5-1 at 1795914446907 x1; group idle at 0-0, None read",
    ),
    (
        "1b0110000000000000000100000000000000014050500000001d00030101010101816602000102010001000181760204010301000101010c01040100010401dfff020201856f7468657206817802846d6f72650581790208010201040100018177020401ff03050101010102040204627573790501040200000000000000050000000000000000debad724a20100000100000000000000050000000000000001f1bad724a2010000010304646f7261debad724a2010000debad724a20100000100000000000000050000000000000000066e6f626f6479cdbad724a2010000ffffffffffffffff00046e6f7261f1bad724a2010000f1bad724a20100000100000000000000050000000000000001000469646c65000081ffffffffffffffff000000406440640000000f00ab100a0479c90c5d",
        "3 of 4, 1-1 to 5-1, deleted 1-2; 1-1 f=v; 5-0 other=x more=y; 5-1 f=w; group busy at 5-1, Some(4) read, dora seen 1795914447582 active Some(1795914447582) 5-0 at 1795914447582 x1, nobody seen 1795914447565 active None, nora seen 1795914447601 active Some(1795914447601) 5-1 at 1795914447601 x1; group idle at 0-0, None read",
    ),
];

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn text(item: dormouse_types::Item<'_>) -> String {
    String::from_utf8_lossy(&item.to_vec()).into_owned()
}

/// Encoding and content, as text. The score -0 shows as 0: packed sorted sets keep an integer.
fn show(object: &Object) -> String {
    let mut elements: Vec<String> = match object {
        Object::Text(text) => return String::from_utf8_lossy(text).into_owned(),
        Object::List(list) => list.iter().map(text).collect(),
        Object::Set(set) => set.iter().map(text).collect(),
        Object::Hash(hash) => {
            let until = |expiry: Option<u64>| expiry.map(|at| format!(" until {at}")).unwrap_or_default();
            hash.entries()
                .map(|(field, value, expiry)| format!("{}={}{}", text(field), text(value), until(expiry)))
                .collect()
        }
        Object::SortedSet(set) => {
            set.iter().map(|(member, score)| format!("{}={}", text(member), score + 0.0)).collect()
        }
        Object::Stream(stream) => return format!("{stream:?}"),
        Object::Array(array) => return format!("{array:?}"),
        Object::Filter(filter) => return format!("{filter:?}"),
        Object::Json(json) => return format!("{json:?}"),
        Object::VectorSet(set) => return format!("{set:?}"),
    };
    if let Object::Set(_) | Object::Hash(_) = object {
        elements.sort();
        if object.as_ref().encoding() == "intset" {
            elements.sort_by_key(|element| element.parse::<i64>().unwrap());
        }
    }
    let encoding = match object {
        Object::List(_) => "list",
        // It keeps this form until it is stored.
        Object::Hash(hash) if hash.is_packed() && !hash.expires() => "listpack",
        _ => object.as_ref().encoding(),
    };
    format!("{encoding} [{}]", elements.join(" "))
}

fn show_loaded(loaded: LoadedValue<'_>) -> String {
    match loaded {
        LoadedValue::Text(text) => String::from_utf8_lossy(&text.into_vec()).into_owned(),
        LoadedValue::Object(object) => show(&object),
    }
}

fn decode(kind: u8, bytes: &[u8]) -> Result<String, CodecError> {
    let mut reader = Reader::new(bytes);
    let loaded = decode_value(kind, &mut reader, &Limits::default())?;
    reader.finish()?;
    Ok(show_loaded(loaded))
}

/// A stream of so many entries, some of them deleted, with a group that has read half of them.
fn stream(count: u64) -> Stream {
    let mut stream = Stream::new();
    for at in 1..=count {
        let value = format!("value {at}");
        stream.append(StreamId::new(at / 3, at), [(&b"field"[..], value.as_bytes())].into_iter(), &Limits::REDIS);
    }
    stream.delete((1..=count / 7).map(|at| StreamId::new(at * 7 / 3, at * 7)));
    stream.add_group(b"unread", StreamId::MIN, None);
    stream.add_group(b"read", StreamId::MIN, Some(0));
    stream.change_group(b"read", |entries, group| {
        for (at, entry) in entries.iter().take(count as usize / 2).enumerate() {
            let (owner, _) = group.owner_or_new(format!("consumer {}", at % 3).as_bytes(), 7);
            group.deliver(entries, entry.id, Some(owner), at as i64);
        }
        group.owner_or_new(b"idle", 5);
    });
    stream
}

/// The same with messages of producers, and entries that were released.
fn newer_stream(count: u64) -> Stream {
    let mut stream = stream(count);
    stream.set_idempotency(Idempotency { duration_s: 60, size_max: 20 });
    for at in 1..=count {
        let (producer, message) = (format!("producer {}", at % 7), format!("message {at}"));
        stream.add_message(producer.as_bytes(), message.as_bytes(), StreamId::new(at / 3, at), 0);
    }
    stream.count_repeated();
    stream.change_group(b"read", |entries, group| {
        let ids: Vec<StreamId> = group.pending_from(StreamId::MIN).map(|pending| pending.id).collect();
        for id in ids.into_iter().rev().step_by(3) {
            group.release(entries, id, Deliveries::Exactly(id.seq), false);
        }
    });
    stream
}

/// Values of each kind, packed and not.
fn collections() -> Vec<Object> {
    let limits = Limits::default();
    let document = format!("[{}]", (0..20_000).map(|at| at.to_string()).collect::<Vec<_>>().join(","));
    let mut all = vec![Object::Text(vec![b'x'; 100_000])];
    for count in [2, 5000] {
        all.push(Object::Stream(newer_stream(count as u64)));
    }
    for count in [2, 5000] {
        let (mut list, mut hash, mut set) = (List::new(), Hash::new(), Set::new());
        let (mut sorted, mut numbers, mut expiring) = (SortedSet::new(), Set::new(), Hash::new());
        for at in 0..count {
            let element = format!("element {at}");
            list.push(End::Tail, element.as_bytes(), &limits);
            hash.set(element.as_bytes(), at.to_string().as_bytes(), &limits);
            set.add(element.as_bytes(), &limits);
            sorted.insert(f64::from(at), element.as_bytes(), &limits);
            numbers.add(at.to_string().as_bytes(), &limits);
            let expiry = if at % 3 == 0 { SetExpiry::Drop } else { SetExpiry::At(1_700_000_000_000 + at as u64) };
            expiring.set_with(element.as_bytes(), b"v", expiry, &limits);
        }
        all.extend([Object::List(list), Object::Hash(hash), Object::Set(set)]);
        all.extend([Object::SortedSet(sorted), Object::Set(numbers), Object::Stream(stream(count as u64))]);
        all.push(Object::Hash(expiring));
    }
    all.push(json::of_text(document.as_bytes()).unwrap());
    all.extend(
        [Quantization::Q8, Quantization::None, Quantization::Binary].map(|form| Object::VectorSet(vectors(form))),
    );
    all
}

/// A vector set whose vectors are projected.
fn vectors(quantization: Quantization) -> VectorSet {
    let shape = VectorShape { dim: 9, quantization, links: 4 };
    let mut set = VectorSet::with_shape(shape, Some(Projection::new(12)));
    for at in 0..60u32 {
        let given: Vec<f32> = (0..12).map(|place| (at * 17 + place * 5) as f32 % 23.0 - 11.0).collect();
        let vector = set.projection().unwrap().apply(&given, 9);
        let attributes = if at % 3 == 0 { &b"{}"[..] } else { b"" };
        set.add(format!("element {at}").as_bytes(), &vector, Some(attributes), 20, 3);
    }
    set
}

#[test]
fn the_first_pass_knows_encoding_and_length() {
    for object in collections() {
        let mut bytes = Vec::new();
        assert_eq!(encode_unpacked(object.as_ref(), &mut bytes), unpacked_encoding_of(object.as_ref()));
        let value = Value::Object(object.as_ref());
        assert_eq!(encode_value(&value, &mut bytes), encoding_of(&value));
        assert_eq!(dump(&value).len() as u64, dump_bytes(&value));
        assert_eq!(show_loaded(restore(&dump(&value), &Limits::default()).unwrap()), show(&object));
    }
    for value in [Value::Int(5), Value::Int(i64::MIN), Value::Raw(b""), Value::Raw(b"text")] {
        assert_eq!(encode_value(&value, &mut Vec::new()), encoding_of(&value));
        assert_eq!(dump(&value).len() as u64, dump_bytes(&value));
    }
}

/// A payload of another server's has no number for the set, so that of the restored one is another.
#[test]
fn vector_sets_survive_both_forms() {
    for object in [Quantization::Q8, Quantization::None, Quantization::Binary].map(vectors) {
        let mut bytes = Vec::new();
        let kind = encode_object(ObjectRef::VectorSet(&object), &mut bytes);
        assert_eq!((kind, decode(kind, &bytes).unwrap()), (kind::VECTOR_SET, format!("{object:?}")));
        for end in 0..bytes.len() {
            assert!(decode(kind, &bytes[..end]).is_err());
        }
        let payload = dump(&Value::Object(ObjectRef::VectorSet(&object)));
        assert_eq!(payload[0], kind::MODULE_2);
        assert!(restored_bytes_max(&payload) >= ObjectRef::VectorSet(&object).heap_bytes());
        let body = &payload[1..payload.len() - 10];
        assert_eq!(decode(kind::MODULE_2, body).unwrap(), format!("{object:?}"));
        for at in 0..body.len() {
            assert!(decode(kind::MODULE_2, &body[..at]).is_err());
            let mut damaged = body.to_vec();
            damaged[at] ^= 1 << (at % 8);
            let _ = decode(kind::MODULE_2, &damaged);
        }
    }
}

/// The stored form, which never changes: two elements without quantization, one with, and one of signs.
#[test]
fn stored_vector_sets_stay_readable() {
    let floats = b"\x02\x00\x04\x00\x02\x00\x02\x07\0\0\0\0\0\0\0\
        \x01a\x02{}\x00\x00\x00\x40\x9a\x99\x19\x3f\xcd\xcc\x4c\x3f\x01\x01\x01\0\0\0\
        \x01b\x00\x00\x00\x80\x3f\x00\x00\x80\x3f\0\0\0\0\x01\x01\0\0\0\0";
    let bytes = b"\x02\x01\x10\x00\x01\x00\x03\x07\0\0\0\0\0\0\0\
        \x01a\x00\x00\x00\x00\x40\xcd\xcc\x4c\x3f\x5f\x81\x02\x00\x00";
    let bits = b"\x02\x02\x10\x03\x00\x01\x00\x01\x07\0\0\0\0\0\0\0\
        \x01a\x00\x00\x00\x00\x40\x02\0\0\0\0\0\0\0\x01\x00";
    let components: [&[f32]; 3] = [&[1.2, 1.6], &[95.0 * 0.8 / 127.0 * 2.0, -1.6], &[-1.0, 1.0]];
    for (stored, components) in [&floats[..], bytes, bits].into_iter().zip(components) {
        let LoadedValue::Object(Object::VectorSet(set)) =
            decode_value(kind::VECTOR_SET, &mut Reader::new(stored), &Limits::default()).unwrap()
        else {
            panic!("it is a vector set")
        };
        let node = set.node(set.find(b"a").unwrap());
        assert!(node.components().iter().zip(components).all(|(x, y)| (x - y).abs() < 1e-6), "{set:?}");
        assert_eq!((node.norm(), set.uid()), (2.0, 7));
        let mut again = Vec::new();
        encode_object(ObjectRef::VectorSet(&set), &mut again);
        assert_eq!(again.escape_ascii().to_string(), stored.escape_ascii().to_string());
    }
}

/// `DUMP` of Redis 8.10.2, after VADD of a = (1 2 3), b = (3 2 1) with attributes, c = (-1 0.5 0), and a again.
#[test]
fn a_payload_of_redis_has_its_links() {
    let payload = b"\x07\x81\xbd\xe7-\xa2\xbb\x1e\xb4\x00\x02\x03\x02\x03\x02P\x01\x02\x02\x05\x01a\x05\x00\x05\x03*U\x7f\x02\x0c\
        \x02\x04\x02\x80\x01\x00\x00\x01\x02\x02\x02 \x02\x02\x02\x03\x02\x81?\x7f\xc2\xcf\x00\x00\x00\x01\x02\x01\x02\x10\
        \x02\x02\x02\x81>\x92\xdc\x02\x00\x00\x00\x00\x02\x81?MA\xb2@owQ\x05\x01c\x05\x00\x05\x03\x81?\x00\x02\x08\
        \x02\x03\x02\x80\x01\x00\x00\x00\x02\x02\x02 \x02\x02\x02\x04\x02\x81?\xbdQ.\x00\x00\x00\x00\x02\x81?d\xf9.?\x8f\x1b\
        \xbd\x05\x01b\x05\x07{\"x\":1}\x05\x03\x7fU*\x02\x0c\x02\x02\x02\x80\x01\x00\x00\x01\x02\x02\x02 \x02\x03\x02\x04\
        \x02\x81?\xbdQ.\x00\x00\x00\x00\x02\x01\x02\x10\x02\x04\x02\x81>\x92\xdc\x02\x00\x00\x00\x00\x02\x81?MA\xb2@owQ\x00\
        \x0f\x00\x85\xe9X.\x99\xf5\xcf\xd2";
    let LoadedValue::Object(Object::VectorSet(set)) = restore(payload, &Limits::default()).unwrap() else { panic!() };
    assert_eq!(set.shape(), VectorShape { dim: 3, quantization: Quantization::Q8, links: 16 });
    assert_eq!((set.len(), set.inserted(), set.level_max(), set.attribute_count()), (3, 4, 1, 1));
    let node = |name: &[u8]| set.node(set.find(name).unwrap());
    let names =
        |name: &[u8], layer| -> Vec<&[u8]> { node(name).links(layer).iter().map(|id| set.node(*id).name()).collect() };
    assert_eq!(node(b"a").components(), [0.992_125_9, 2.007_874, 3.0]);
    assert_eq!(node(b"b").attributes(), b"{\"x\":1}");
    assert_eq!((names(b"a", 0), names(b"a", 1)), (vec![&b"b"[..], b"c"], vec![&b"b"[..]]));
    assert_eq!((names(b"c", 0), node(b"c").level()), (vec![&b"b"[..], b"a"], 0));
    let found = set.nearest(&node(b"a").components(), 10);
    assert_eq!(
        found.iter().map(|found| 1.0 - f64::from(found.distance) / 2.0).collect::<Vec<_>>(),
        [1.0, 0.856_380_671_262_741_1, 0.500_466_585_159_301_8]
    );
    let other = [&payload[..2], b"\xbd\xe8", &payload[4..payload.len() - 8], &[0; 8]].concat();
    assert!(matches!(restore(&other, &Limits::default()), Err(RestoreError::Unsupported(_))), "another module's");
}

#[test]
fn the_first_form_of_a_stream_has_its_entries_and_groups() {
    let Object::Stream(stream) = &collections()[8] else { panic!("the sixth small value is a stream") };
    let mut bytes = Vec::new();
    stream::encode_for_others(kind::STREAM, stream, &mut bytes);
    let again = decode(kind::STREAM, &bytes).unwrap();
    assert!(again.contains("group unread at 0-0") && again.contains("group read at 0-1"), "{again}");
    bytes.clear();
    stream::encode_for_others(kind::STREAM_2, stream, &mut bytes);
    let again = decode(kind::STREAM_2, &bytes).unwrap();
    // It has no time of the last success.
    let again = again.replace("seen 5 active Some(5)", "seen 5 active None").replace("Some(7) 0-1", "Some(0) 0-1");
    assert_eq!(again, format!("{stream:?}"));
    // An empty stream is a value.
    let mut empty = Stream::new();
    empty.set_head(Head { last: StreamId::new(7, 7), added: 3, ..Head::default() });
    let payload = dump(&Value::Object(ObjectRef::Stream(&empty)));
    assert_eq!(show_loaded(restore(&payload, &Limits::default()).unwrap()), format!("{empty:?}"));
}

/// Released entries have no place in the earlier forms, in which they are those of a consumer without a name.
#[test]
fn earlier_forms_leave_out_what_is_newer() {
    let mut stream = newer_stream(20);
    let group = |stream: &Stream| stream.group(b"read").unwrap().clone();
    let released = group(&stream).released();
    assert!(released.len() > 2 && stream.is_newer());
    for form in [kind::STREAM, kind::STREAM_2, kind::STREAM_3] {
        for has_nameless in [false, true] {
            if has_nameless {
                stream.change_group(b"read", |_, group| group.owner_or_new(b"", 9));
            }
            let mut bytes = Vec::new();
            stream::encode_for_others(form, &stream, &mut bytes);
            let mut reader = Reader::new(&bytes);
            let decoded = decode_value(form, &mut reader, &Limits::default()).unwrap();
            reader.finish().unwrap();
            let LoadedValue::Object(Object::Stream(again)) = decoded else { panic!("it is a stream") };
            assert!(!again.is_newer());
            let nameless = group(&again).owner(b"").unwrap();
            let of_nameless: Vec<StreamId> =
                group(&again).consumer(nameless).unwrap().pending_from(StreamId::MIN).collect();
            let mut sorted = released.clone();
            sorted.sort();
            assert_eq!(of_nameless, sorted);
        }
    }
    for (readers, encoding) in RdbReaders::ALL.into_iter().zip([15, 19, 21, 27, 21]) {
        let (value, mut bytes) = (Value::Object(ObjectRef::Stream(&stream)), Vec::new());
        assert_eq!(readers.encoding_of(&value), Some(encoding), "{readers:?}");
        readers.encode(&value, &mut bytes);
        decode(encoding, &bytes).unwrap();
    }
}

/// Made by Redis 8.10.2: three messages of two producers, of which one was sent again, and two released entries.
#[test]
fn a_stream_of_redis_8_keeps_its_messages_and_released_entries() {
    let payload = unhex(
        "1b0110000001a22db6d9d50000000000000000c3293011300000001400030100010101816602000102200a400c0004600900012005800902\
         020103200900ff0381000001a22db6d9d50281000001a22db6d9d50000000301016781000001a22db6d9d5020303000001a22db6d9d50000\
         0000000000000000000000000000817fffffffffffffff000001a22db6d9d50000000000000001d6d9b62da201000001000001a22db6d9d5\
         0000000000000002000000000000000001010163d6d9b62da2010000d6d9b62da201000001000001a22db6d9d50000000000000001020000\
         01a22db6d9d50000000000000002000001a22db6d9d500000000000000004064406402036f6e6502016181000001a22db6d9d50001628100\
         0001a22db6d9d5010374776f011096de98e0718df631324869459c1ec25f81000001a22db6d9d50203010f007218c3231e2e92f1",
    );
    let LoadedValue::Object(Object::Stream(stream)) = restore(&payload, &Limits::default()).unwrap() else {
        panic!("it is a stream")
    };
    let id = |seq| StreamId::new(1_796_063_287_765, seq);
    let now_ms = id(0).ms + 1;
    assert_eq!((stream.idempotency(), stream.messages_ever()), (Idempotency::REDIS, (3, 1)));
    assert_eq!(stream.message(b"one", b"a", now_ms), Some(id(0)));
    assert_eq!(stream.message(b"one", b"b", now_ms), Some(id(1)));
    let name = name_of_message([(&b"f"[..], &b"3"[..])].into_iter());
    assert_eq!(stream.message(b"two", &name, now_ms), Some(id(2)));
    let group = stream.group(b"g").unwrap();
    assert_eq!(group.released(), [id(2), id(0)]);
    assert_eq!(group.pending(id(0)).unwrap().deliveries, Deliveries::MOST);
    // The form for Redis 8.10 says the same.
    let (value, mut bytes) = (Value::Object(ObjectRef::Stream(&stream)), Vec::new());
    assert_eq!(RdbReaders::REDIS_8.encoding_of(&value), Some(kind::STREAM_5));
    RdbReaders::REDIS_8.encode(&value, &mut bytes);
    assert_eq!(decode(kind::STREAM_5, &bytes).unwrap(), format!("{stream:?}"));
    let dumped = dump(&value);
    assert_eq!(dumped[dumped.len() - 10..][..2], 15u16.to_le_bytes(), "earlier servers must not take it");
}

/// A payload in any order must not take the square of its length: a client may send it.
#[test]
fn groups_and_consumers_of_a_stream_come_in_any_order() {
    const COUNT: u32 = 100_000;
    let head = |bytes: &mut Vec<u8>, groups: u32| {
        bytes.extend_from_slice(&[0; 9]);
        write_rdb_length(bytes, groups.into());
    };
    let group = |bytes: &mut Vec<u8>, name: &[u8], consumers: u32| {
        write_plain_string(bytes, name);
        bytes.extend_from_slice(&[0; 4]);
        write_rdb_length(bytes, consumers.into());
    };
    let consumer = |bytes: &mut Vec<u8>, name: &[u8]| {
        write_plain_string(bytes, name);
        bytes.extend_from_slice(&[0; 17]);
    };
    let mut bytes = Vec::new();
    head(&mut bytes, COUNT + 1);
    (1..=COUNT).rev().for_each(|name| group(&mut bytes, &name.to_be_bytes(), 0));
    group(&mut bytes, &0u32.to_be_bytes(), COUNT);
    (0..COUNT).rev().for_each(|name| consumer(&mut bytes, &name.to_be_bytes()));
    let decoded = decode_value(kind::STREAM_3, &mut Reader::new(&bytes), &Limits::default()).unwrap();
    let LoadedValue::Object(Object::Stream(stream)) = decoded else { panic!("it is a stream") };
    assert!(stream.groups().map(|group| group.name().to_vec()).eq((0..=COUNT).map(|name| name.to_be_bytes().to_vec())));
    let group_of_all = stream.group(&0u32.to_be_bytes()).unwrap();
    let names = group_of_all.consumers().map(|(_, consumer)| consumer.name().to_vec());
    assert!(names.eq((0..COUNT).map(|name| name.to_be_bytes().to_vec())));
    assert!(group_of_all.owner(&7u32.to_be_bytes()).is_some());
    for (groups, consumers) in [(2, 0), (1, 2)] {
        bytes.clear();
        head(&mut bytes, groups);
        (0..groups).for_each(|_| group(&mut bytes, b"same", consumers));
        (0..consumers).for_each(|_| consumer(&mut bytes, b"same"));
        assert!(decode(kind::STREAM_3, &bytes).is_err(), "a name comes twice");
    }
}

#[test]
fn dumps_of_redis_are_restored() {
    for (payload, expected) in DUMPS {
        let payload = unhex(payload);
        assert_eq!(show_loaded(restore(&payload, &Limits::default()).unwrap()), *expected);
        for length in 0..payload.len() {
            assert!(restore(&payload[..length], &Limits::default()).is_err());
        }
        for bit in 0..payload.len() * 8 {
            let mut damaged = payload.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(restore(&damaged, &Limits::default()), Err(RestoreError::Envelope)));
        }
    }
}

#[test]
fn a_valid_checksum_does_not_make_a_value_valid() {
    // Every damage to every value, under a valid checksum: any result will do but a panic.
    for (payload, _) in DUMPS {
        let payload = unhex(payload);
        let body = &payload[..payload.len() - 10];
        for bit in 0..body.len() * 8 {
            let mut damaged = body.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let _ = decode(damaged[0], &damaged[1..]);
        }
        for length in 1..body.len() {
            assert!(decode(body[0], &body[1..length]).is_err(), "{length} bytes of {body:?}");
        }
    }
}

#[test]
fn old_encodings_are_read() {
    let ziplist = |count: u8, last: u8, entries: &[u8]| {
        let mut bytes = vec![entries.len() as u8 + 11, 0, 0, 0, last, 0, 0, 0, count, 0];
        bytes.extend_from_slice(entries);
        bytes.push(0xff);
        let mut string = vec![bytes.len() as u8];
        string.extend_from_slice(&bytes);
        string
    };
    let four = ziplist(4, 18, b"\x00\x01a\x03\xf2\x02\x01b\x03\xc0\x2c\x01");
    assert_eq!(decode(kind::LIST_ZIPLIST, &four), Ok("list [a 1 b 300]".to_owned()));
    assert_eq!(decode(kind::HASH_ZIPLIST, &four), Ok("listpack [a=1 b=300]".to_owned()));
    assert_eq!(decode(kind::SORTED_SET_ZIPLIST, &four), Ok("listpack [a=1 b=300]".to_owned()));
    let scores = ziplist(2, 13, b"\x00\x01a\x03\x042.75");
    assert_eq!(decode(kind::SORTED_SET_ZIPLIST, &scores), Ok("listpack [a=2.75]".to_owned()));
    let two_nodes = [&[2], &four[..], &four[..]].concat();
    assert_eq!(decode(kind::LIST_QUICKLIST, &two_nodes), Ok("list [a 1 b 300 a 1 b 300]".to_owned()));
    assert_eq!(decode(kind::LIST, b"\x02\x01a\xc0\x05"), Ok("list [a 5]".to_owned()));
    assert_eq!(decode(kind::HASH_ZIPMAP, b"\x08\x01\x01a\x02\x00bc\xff"), Ok("listpack [a=bc]".to_owned()));
    assert_eq!(decode(kind::HASH_ZIPMAP, b"\x07\x01\x01a\x02\x00bc"), Err(CodecError::Truncated));
    assert_eq!(
        decode(kind::SORTED_SET_TEXT, b"\x03\x01a\x032.5\x01b\xfe\x01c\xff"),
        Ok("listpack [c=-inf a=2.5 b=inf]".to_owned())
    );
}

#[test]
fn what_no_writer_writes_is_refused() {
    for (kind, bytes) in [
        (kind::LIST, &b"\x00"[..]),
        (kind::SET, b"\x00"),
        (kind::HASH, b"\x00"),
        (kind::SORTED_SET, b"\x00"),
        (kind::LIST_QUICKLIST_2, b"\x00"),
        (kind::LIST_QUICKLIST_2, b"\x01\x03\x01a"),
        (kind::SET, b"\x02\x01a\x01a"),
        (kind::SET, b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\x01a"),
        (kind::HASH, b"\x02\x01a\x01b\x01a\x01c"),
        (kind::HASH, b"\x01\x01a"),
        (kind::SORTED_SET, b"\x01\x01a\x00\x00\x00\x00\x00\x00\xf8\x7f"),
        (kind::SORTED_SET, b"\x02\x01a\x00\x00\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x00\x00\x00\x00\x00\x00"),
        (kind::SORTED_SET_TEXT, b"\x01\x01a\xfd"),
        (kind::SORTED_SET_TEXT, b"\x01\x01a\x03abc"),
        (kind::SORTED_SET_TEXT, b"\x01\x01a\x03nan"),
        // Intsets: unsorted, repeated, too short, of an unknown width, empty.
        (kind::SET_INTSET, b"\x0c\x02\0\0\0\x02\0\0\0\x02\0\x01\0"),
        (kind::SET_INTSET, b"\x0c\x02\0\0\0\x02\0\0\0\x01\0\x01\0"),
        (kind::SET_INTSET, b"\x0a\x02\0\0\0\x02\0\0\0\x01\0"),
        (kind::SET_INTSET, b"\x0b\x03\0\0\0\x01\0\0\0\x01\0\0"),
        (kind::SET_INTSET, b"\x08\x02\0\0\0\0\0\0\0"),
        // Listpacks: a member twice, a field without a value, empty.
        (kind::SET_LISTPACK, b"\x0b\x0b\0\0\0\x02\0\x01\x01\x01\x01\xff"),
        (kind::HASH_LISTPACK, b"\x09\x09\0\0\0\x01\0\x01\x01\xff"),
        (kind::SORTED_SET_LISTPACK, b"\x0d\x0d\0\0\0\x02\0\x01\x01\x82no\x03\xff"),
        (kind::SET_LISTPACK, b"\x07\x07\0\0\0\0\0\xff"),
        (6, b"\x01"),
        // Streams: cut short, of a length that is not its nodes', with an owner of an entry that is not pending.
        (kind::STREAM, b"\x01"),
        (kind::STREAM, b"\x00\x01\x00\x00\x00"),
        (kind::STREAM, b"\x00\x00\x00\x00\x01\x01g\x00\x00\x00\x01\x01c\0\0\0\0\0\0\0\0\x01................"),
        (255, b"\x01"),
    ] {
        assert!(decode(kind, bytes).is_err(), "type {kind}: {bytes:?}");
    }
}

/// An object of any kind, small or large.
fn object() -> impl Strategy<Value = Object> {
    let element = || {
        prop_oneof![
            any::<i64>().prop_map(|number| number.to_string().into_bytes()),
            any::<i8>().prop_map(|number| number.to_string().into_bytes()),
            proptest::collection::vec(any::<u8>(), 0..80),
        ]
    };
    let limits = Limits::default();
    (0..6, proptest::collection::vec((element(), element(), any::<f64>()), 1..300)).prop_map(move |(kind, elements)| {
        let (mut list, mut hash, mut set, mut sorted) = (List::new(), Hash::new(), Set::new(), SortedSet::new());
        let mut stream = Stream::new();
        // A hash stays a table when the long value that made it one is replaced, and would be packed after loading.
        let mut names = std::collections::BTreeSet::new();
        for (first, second, score) in &elements {
            if matches!(kind, 1 | 5) && !names.insert(first) {
                continue;
            }
            match kind {
                0 => list.push(End::Tail, first, &limits),
                1 => drop(hash.set(first, second, &limits)),
                2 => drop(set.add(first, &limits)),
                5 => {
                    let expiry = if score.is_nan() { SetExpiry::Drop } else { SetExpiry::At(score.to_bits()) };
                    hash.set_with(first, second, expiry, &limits);
                }
                3 => {
                    let id = stream.entries().next_id(second.len() as u64).expect("ids are small");
                    stream.append(id, [(&first[..], &second[..])].into_iter(), &Limits::REDIS);
                }
                _ if score.is_nan() => drop::<Inserted>(sorted.insert(0.0, first, &limits)),
                _ => drop::<Inserted>(sorted.insert(*score, first, &limits)),
            }
        }
        match kind {
            0 => Object::List(list),
            1 | 5 => Object::Hash(hash),
            2 => Object::Set(set),
            3 => Object::Stream(stream),
            _ => Object::SortedSet(sorted),
        }
    })
}

proptest! {
    #[test]
    fn objects_survive(object in object()) {
        let payload = dump(&Value::Object(object.as_ref()));
        let Ok(LoadedValue::Object(again)) = restore(&payload, &Limits::default()) else { panic!("{object:?}") };
        prop_assert_eq!(show(&again), show(&object));
    }

    #[test]
    fn objects_survive_unpacked(object in object()) {
        let mut bytes = Vec::new();
        let kind = encode_unpacked(object.as_ref(), &mut bytes);
        prop_assert!(kind <= kind::SORTED_SET || kind == kind::STREAM);
        // The members of a set may be in another order, but must be the same.
        let mut object = object;
        if let Object::Hash(hash) = &mut object {
            // Expiries are left out.
            let fields: Vec<Vec<u8>> = hash.iter().map(|(field, _)| field.to_vec()).collect();
            fields.iter().for_each(|field| assert!(hash.set_expiry(field, None)));
        }
        prop_assert_eq!(decode(kind, &bytes).unwrap(), show(&object));
    }

    #[test]
    fn noise_does_no_harm(kind in 0u8..28, noise: Vec<u8>) {
        let _ = decode(kind, &noise);
        let mut string = vec![noise.len() as u8];
        string.extend_from_slice(&noise);
        let _ = decode(kind, &string);
    }
}

/// As XGROUP and XSETID can leave it. A store keeps it; for other servers the number is one that each of them loads.
#[test]
fn other_servers_are_told_of_no_more_reads_than_entries() {
    let mut stream = Stream::new();
    for at in 1..10 {
        stream.append(StreamId::new(at, 0), [(&b"field"[..], &b"value"[..])].into_iter(), &Limits::REDIS);
    }
    for (name, read) in [(&b"more"[..], Some(1000)), (b"some", Some(4)), (b"unknown", None)] {
        stream.add_group(name, StreamId::MIN, read);
    }
    let object = Object::Stream(stream);
    let value = Value::Object(object.as_ref());
    let reads = |kind: u8, bytes: &[u8]| {
        let LoadedValue::Object(Object::Stream(loaded)) =
            decode_value(kind, &mut Reader::new(bytes), &Limits::REDIS).unwrap()
        else {
            panic!("it is a stream")
        };
        loaded.groups().map(|group| group.read()).collect::<Vec<_>>()
    };
    let mut stored = Vec::new();
    let kind = encode_value(&value, &mut stored);
    assert_eq!(reads(kind, &stored), [Some(1000), Some(4), None]);
    for target in [RdbReaders::REDIS_7_0, RdbReaders::REDIS_7_2, RdbReaders::REDIS_8, RdbReaders::VALKEY_9] {
        let mut told = Vec::new();
        target.encode(&value, &mut told);
        assert_eq!(reads(target.encoding_of(&value).unwrap(), &told), [Some(9), Some(4), None], "{target:?}");
    }
    let payload = dump(&value);
    assert_eq!(dump_bytes(&value), payload.len() as u64);
    assert_eq!(reads(kind, &payload[1..]), [Some(9), Some(4), None]);
}

fn with_envelope(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], body, &11u16.to_le_bytes(), &[0; 8]].concat()
}

/// A set whose nodes have no links, but room for all that they may have, in all layers.
#[test]
fn the_room_for_links_is_known_beforehand() {
    for links in [4, 16, 4096] {
        for layers in [1, 16] {
            let shape = VectorShape { dim: 1, quantization: Quantization::Binary, links };
            let head = VectorHead { shape, projection: None, len: 20, entry: 0, inserted: 20, uid: 1 };
            let mut loader = VectorLoader::new(head, 1).unwrap();
            for name in 0..20u8 {
                let none = vec![Vec::new(); layers];
                let (name, vector) = ([name], [0; 8]);
                let (attributes, links) = (b"", &none[..]);
                loader
                    .push(StoredNode { name: &name, attributes, norm: 1.0, range: 0.0, vector: &vector, links })
                    .unwrap();
            }
            let object = Object::VectorSet(loader.finish().unwrap());
            let takes = object.as_ref().heap_bytes();
            let mut body = Vec::new();
            let kind = encode_object(object.as_ref(), &mut body);
            let own = restored_bytes_max(&with_envelope(kind, &body));
            let others = restored_bytes_max(&dump(&Value::Object(object.as_ref())));
            assert!(
                own >= takes && others >= takes,
                "{links} {layers}: {takes} bytes, but {own} and {others} were said"
            );
        }
    }
}

/// A filter's bytes are not compressed, so it takes about as many when it is restored.
#[test]
fn a_filter_needs_no_more_than_a_few_times_its_bytes() {
    let bloom = Filter::from(Bloom::with_capacity(100_000, 0.01, 2, false).unwrap());
    let cuckoo = Filter::from(Cuckoo::with_capacity(100_000, 2, 20, 1).unwrap());
    for object in [bloom, cuckoo].map(Object::Filter) {
        let takes = object.as_ref().heap_bytes();
        let mut body = Vec::new();
        let kind = encode_object(object.as_ref(), &mut body);
        for payload in [with_envelope(kind, &body), dump(&Value::Object(object.as_ref()))] {
            let said = restored_bytes_max(&payload);
            assert!((takes..4 * takes).contains(&said), "{takes} bytes, but {said} were said");
        }
    }
}

/// A document of many empty lists, as CBOR that is compressed.
#[test]
fn a_compressed_document_is_known_to_be_large() {
    const RUNS: usize = 50;
    let count = 1 + RUNS * 264;
    let mut compressed = [&[5, 0x9a][..], &(count as u32).to_be_bytes(), &[0x80]].concat();
    (0..RUNS).for_each(|_| compressed.extend_from_slice(&[0xe0, 0xff, 0]));
    let mut body = Vec::new();
    write_rdb_length(&mut body, module::id(b"ReJSON-RL", 4));
    body.extend_from_slice(&[5, 0xc3]);
    write_rdb_length(&mut body, compressed.len() as u64);
    write_rdb_length(&mut body, 5 + count as u64);
    body.extend_from_slice(&compressed);
    body.push(0);
    let payload = with_envelope(kind::MODULE_2, &body);
    let LoadedValue::Object(object) = restore(&payload, &Limits::default()).unwrap() else { panic!("a document") };
    assert!(restored_bytes_max(&payload) >= object.as_ref().heap_bytes());
}

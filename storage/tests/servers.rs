//! Files written by Valkey 9.1.2 and Redis 8.10.2, with every type and encoding of theirs: the types that Dormouse has are
//! read, the others are named.

use std::{collections::BTreeMap, fs, path::PathBuf};

use dormouse_storage::codec::dump::{RestoreError, restore};
use dormouse_storage::codec::value::{LoadedValue, decode_value};
use dormouse_storage::codec::{Reader, checksum};
use dormouse_storage::rdb::{RdbEntry, RdbReader};
use dormouse_types::{Item, Limits, Object, VectorSet};

fn golden(name: &str) -> Vec<u8> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/golden", name].iter().collect();
    fs::read(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn show(loaded: LoadedValue<'_>) -> String {
    let item = |item: Item<'_>| text(&item.to_vec());
    let mut elements: Vec<String> = match &loaded {
        LoadedValue::Text(string) => return string.with_bytes(text),
        LoadedValue::Object(Object::Text(string)) => return text(string),
        LoadedValue::Object(Object::List(list)) => return list.iter().map(item).collect::<Vec<_>>().join(" "),
        LoadedValue::Object(Object::Set(set)) => set.iter().map(item).collect(),
        LoadedValue::Object(Object::Hash(hash)) => {
            let until = |expiry: Option<u64>| expiry.map(|at| format!(" until {at}")).unwrap_or_default();
            hash.entries()
                .map(|(field, value, expiry)| format!("{}={}{}", item(field), item(value), until(expiry)))
                .collect()
        }
        LoadedValue::Object(Object::Stream(stream)) => return format!("{stream:?}"),
        LoadedValue::Object(Object::Array(array)) => return format!("{array:?}"),
        LoadedValue::Object(Object::Filter(filter)) => return format!("{filter:?}"),
        LoadedValue::Object(Object::Json(json)) => return format!("{json:?}"),
        LoadedValue::Object(Object::VectorSet(set)) => return vectors(set),
        LoadedValue::Object(Object::SortedSet(set)) => {
            set.iter().map(|(member, score)| format!("{}={score}", item(member))).collect()
        }
    };
    elements.sort();
    elements.join(" ")
}

/// The elements of a vector set by their names, with their vectors, rounded, and their neighbours.
fn vectors(set: &VectorSet) -> String {
    let element = |id: u32| {
        let node = set.node(id);
        let components: Vec<String> = node.components().iter().map(|x| format!("{x:.1}")).collect();
        let mut near: Vec<String> = node.links(0).iter().map(|link| text(set.node(*link).name())).collect();
        near.sort();
        format!("{}=({}) near {}", text(node.name()), components.join(" "), near.join(" "))
    };
    set.names_from(b"").map(element).collect::<Vec<_>>().join(", ")
}

/// The contents of a file: index and key, and the value, or what it is that cannot be taken.
fn content(file: &[u8]) -> BTreeMap<String, String> {
    let mut content = BTreeMap::new();
    let mut reader = RdbReader::new(file).expect("a known version");
    let mut index = 0;
    loop {
        let (key, shown) = match reader.next().expect("the file is whole") {
            RdbEntry::Select(select) => {
                index = select;
                continue;
            }
            RdbEntry::Key(record) => {
                let mut inside = Reader::new(record.value);
                let shown = show(decode_value(record.kind, &mut inside, &Limits::default()).expect("a good value"));
                inside.finish().expect("nothing behind it");
                let expiry = record.expiry_ms.map(|at| format!(" until {at}")).unwrap_or_default();
                (record.key.with_bytes(text), shown + &expiry)
            }
            RdbEntry::Unsupported { key, what } => (text(&key), format!("cannot be taken: {what}")),
            RdbEntry::Function(source) => (text(&source), "a function".to_owned()),
            RdbEntry::Aux { .. } | RdbEntry::Resize { .. } => continue,
            RdbEntry::ModuleAux { module } => (module, "of a module".to_owned()),
            RdbEntry::End => return content,
        };
        let twice = content.insert(format!("{index} {key}"), shown);
        assert!(twice.is_none(), "{key}");
    }
}

fn joined(count: usize, one: impl Fn(usize) -> String) -> String {
    let mut all: Vec<String> = (0..count).map(one).collect();
    all.sort();
    all.join(" ")
}

const STREAM_OF_VALKEY: &str = "2 of 2, 1-1 to 2-1, deleted 0-0; 1-1 f=v; 2-1 f=v g=w; \
    group group at 1-1, Some(1) read, \
    alice seen 1795883612332 active Some(1795883612332) 1-1 at 1795883612332 x1";

const VECTORS: &str = "one=(1.0 2.0 3.0) near two, two=(3.0 2.0 1.0) near one";

/// Set and inserted.
const ARRAY: &str = r#"{0: "inserted", 1: "one", 2: "2", 3: "3.5", 1000: "thousand", "last insert": Some(0)}"#;

/// One entry was released by its consumer, and one came with the id of a producer.
const STREAM_OF_REDIS: &str = "3 of 3, 1-1 to 1795883611579-0, deleted 0-0; 1-1 f=v; 2-1 f=v g=w; \
    1795883611579-0 f=v; 100 messages for 100 s, 1 added, 0 repeated; producer producer m1 1795883611579-0; \
    group group at 2-1, Some(2) read, alice seen 1795883611568 active Some(1795883611568), \
    bob seen 1795883611579 active Some(1795883611579) 2-1 at 1795883611579 x1, released 1-1 x1";

/// The expiry of fields that expire.
const UNTIL: &str = " until 4102444800000";

/// The data that both servers were given.
fn common() -> BTreeMap<String, String> {
    let list: Vec<String> = (0..40).map(|at| format!("element {at}")).chain(["x".repeat(9000)]).collect();
    let fields = |count| move |at| if at == count { "number=3".to_owned() } else { format!("field {at}=v{at}") };
    let hash = |at| if at == 30 { format!("long={}", "y".repeat(80)) } else { fields(30)(at) };
    let mortal = |at| format!("field {at}=v{at}{}", if at == 0 || at == 2 { UNTIL } else { "" });
    let library = "#!lua name=lib\nredis.register_function('f', function() return 1 end)";
    [
        ("0 int8", "12".to_owned()),
        ("0 int16", "-300".to_owned()),
        ("0 int32", "70000".to_owned()),
        ("0 big", "5000000000".to_owned()),
        ("0 text", "hello".to_owned()),
        ("0 later", "v until 4102444800000".to_owned()),
        ("0 compressed", "abc".repeat(100)),
        ("0 binary", text(b"\0\xff\r\n")),
        ("0 list:small", "a 1 -5 70000".to_owned()),
        ("0 list:large", list.join(" ")),
        ("0 set:ints", "-3 1099511627776 5 70000".to_owned()),
        ("0 set:small", "3 a b".to_owned()),
        ("0 set:large", joined(150, |at| format!("member {at}"))),
        ("0 hash:small", "f=v n=7".to_owned()),
        ("0 hash:large", joined(31, hash)),
        ("0 zset:small", "a=1.5 b=-inf c=3".to_owned()),
        ("0 zset:large", joined(140, |at| format!("member {at}={}", at as f64 / 8.0))),
        ("0 stream", STREAM_OF_VALKEY.to_owned()),
        ("0 ttl:small", joined(4, mortal)),
        ("0 ttl:large", joined(150, mortal)),
        ("0 ttl:wide", format!("f={} g=1{UNTIL}", "z".repeat(100))),
        ("0 persisted:small", joined(5, fields(4))),
        ("0 persisted:large", joined(151, fields(150))),
        ("3 other", "index".to_owned()),
        (&format!("0 {library}"), "a function".to_owned()),
    ]
    .into_iter()
    .map(|(key, shown)| (key.to_owned(), shown))
    .collect()
}

#[track_caller]
fn assert_same(found: &BTreeMap<String, String>, expected: &BTreeMap<String, String>) {
    for (key, shown) in expected {
        assert_eq!(found.get(key), Some(shown), "{key}");
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn a_file_of_valkey_9_1_2() {
    assert_same(&content(&golden("valkey-9.1.2.rdb")), &common());
}

#[test]
fn a_file_of_redis_8_10_2() {
    let mut expected = common();
    let long = "n".repeat(100);
    for (key, shown) in [
        ("stream", STREAM_OF_REDIS.to_owned()),
        ("vectors", VECTORS.to_owned()),
        ("array", ARRAY.to_owned()),
        // Hashes that were made with HIMPORT: packed, with a long value, with many fields, with long ones.
        ("person:1", "age=41 name=dora".to_owned()),
        ("person:2", format!("age=7{UNTIL} name=emil")),
        ("person:long", format!("age=40 name={}", "x".repeat(200))),
        ("wide", joined(600, |at| format!("f{at:03}={at}"))),
        ("longnames", format!("{long}0=1 {long}1=2 {long}2=3")),
    ] {
        expected.insert(format!("0 {key}"), shown);
    }
    assert_same(&content(&golden("redis-8.10.2.rdb")), &expected);
}

/// `DUMP` has hashes with their own template, which files have not.
#[test]
fn payloads_of_redis_8_10_2() {
    let limits = Limits::default();
    for (payload, expected) in payloads() {
        let payload: Vec<u8> =
            (0..payload.len()).step_by(2).map(|at| u8::from_str_radix(&payload[at..at + 2], 16).unwrap()).collect();
        let shown = match restore(&payload, &limits) {
            Ok(loaded) => show(loaded),
            Err(RestoreError::Unsupported(what)) => what.to_owned(),
            Err(error) => panic!("{expected}: {error}"),
        };
        assert_eq!(shown, expected);
        // Whatever is cut off or changed inside, a right checksum does not make it whole.
        let body = &payload[..payload.len() - 10];
        for length in 0..body.len() {
            for damage in [None, Some(0xff), Some(0)] {
                let mut damaged = body[..length].to_vec();
                damaged.extend(damage);
                if damaged == body {
                    continue;
                }
                damaged.extend_from_slice(&[15, 0]);
                damaged.extend_from_slice(&checksum(&damaged).to_le_bytes());
                if let Ok(loaded) = restore(&damaged, &limits) {
                    assert_ne!(show(loaded), expected, "{length} {damage:?}");
                }
            }
        }
    }
}

fn payloads() -> Vec<(&'static str, String)> {
    let long = "n".repeat(100);
    let payloads = [
        (
            "1d00121200000002008361676504846e616d6505ff111100000003000001290184646f726105ff0f00d5a60b7eefc10884",
            "age=41 name=dora".to_owned(),
        ),
        (
            "1900d8c32cbb030000c34041404f144f0000000f00876669656c64203108827631030001a00e0032200e0032e0010e0033200e0033200e09866e756d626572070301e000290030201a0030201a00ff0f00d6f4c7d5f8c9ab3e",
            "field 0=v0 field 1=v1 field 2=v2 field 3=v3 number=3".to_owned(),
        ),
        (
            "1900d8c32cbb030000c33e40531c530000000c00876669656c6420320882763203f400d8c32cbb03000009a016003020160030e00916003120160331030001a0250033200e0033200e00ff0f0088a596b5002dc021",
            format!("field 0=v0{UNTIL} field 1=v1 field 2=v2{UNTIL} field 3=v3"),
        ),
        (
            "1800d8c32cbb03000002000166c3094064017a7ae05700017a7a010167c0010f00444f159393ffca37",
            format!("f={} g=1{UNTIL}", "z".repeat(100)),
        ),
        (
            "1c050100000008696e7365727465640103036f6e650201020000000000000003020000000000000c4043e8000874686f7573616e640f0057f18da4fe7902a1",
            ARRAY.to_owned(),
        ),
        (
            "1b011000000000000000010000000000000001404747000000180003010001010181660200010201000100018176020401000101010001020181660281760281670281770208010201f4ba350123a201000009dfff028176020401ff0381000001a2230135bb000101000003010567726f7570020102020000000000000001000000000000000100000000000000000100000000000000020000000000000001bb350123a2010000010205616c696365b0350123a2010000b0350123a20100000003626f62bb350123a2010000bb350123a20100000100000000000000020000000000000001010000000000000001000000000000000140644064010870726f647563657201026d3181000001a2230135bb0001000f0034e1070270da807c",
            STREAM_OF_REDIS.to_owned(),
        ),
        (
            "0781bde72da2bb1eb400020302020250010200050374776f05037f552a0207020202800100000002010220020102813e92dc020000000002813f4d41b2406f775105036f6e6505032a557f0207020102800100000002010220020202813e92dc020000000002813f4d41b2406f7751000f00872e4e4a1d17180e",
            VECTORS.to_owned(),
        ),
        (
            "1f00121200000002008361676504846e616d6505ffc028c30940c8017878e0bb000178780f000a3f833d5b271c68",
            format!("age=40 name={}", "x".repeat(200)),
        ),
        (
            "1d0103c3094065016e6ee05800016e30c3094065016e6ee05800016e31c3094065016e6ee05800016e320f0f00000004000201010102010301ff0f009cf61aeda4f87073",
            format!("{long}0=1 {long}1=2 {long}2=3"),
        ),
    ];
    payloads.to_vec()
}

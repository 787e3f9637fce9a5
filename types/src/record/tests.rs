//! Entries against what they should hold, under random changes.

use proptest::prelude::*;

use super::*;
use crate::entry::{Field, Member, Scored};
use crate::object::{Collection, Object, ObjectRef};
use crate::{End, Hash, Json, Limits, List, Set, SortedSet};

fn text(bytes: &[u8]) -> Object {
    Object::Text(bytes.to_vec())
}

/// The string that a record spells, and whether it is stored as an object.
fn spelled(record: &Record) -> (Vec<u8>, bool) {
    match record.value() {
        Value::Int(number) => (number.to_string().into_bytes(), false),
        Value::Raw(bytes) => (bytes.to_vec(), false),
        Value::Object(ObjectRef::Text(text)) => (text.clone(), true),
        Value::Object(other) => panic!("no test makes {other:?}"),
    }
}

#[test]
fn allocations_are_as_small_as_promised() {
    let key = b"key:000000000001";
    let (value, expiry) = ([b'x'; 64], Some(1_900_000_000_000));
    for (what, record, bytes) in [
        ("64 bytes", Record::new_raw(key, &value, None), 88),
        ("64 bytes with expiry", Record::new_raw(key, &value, expiry), 96),
        ("8 bytes", Record::new_raw(key, &value[..8], None), 32),
        ("integer", Record::new_raw(key, b"-9223372036854775808", None), 32),
        ("integer with expiry", Record::new_raw(key, b"123456789", expiry), 40),
        ("object", Record::new_object(key, List::new().into_object(), None), 32),
        ("object with expiry", Record::new_object(key, List::new().into_object(), expiry), 40),
    ] {
        assert_eq!(record.heap_bytes(), bytes, "{what}");
        assert_eq!(record.key(), key, "{what}");
    }
    assert_eq!(Member::new(&[b'x'; 17]).heap_bytes(), 24);
    assert_eq!(Field::new(key, &value[..32]).heap_bytes(), 56);
    assert_eq!(Scored::new(1.5, &[b'x'; 17]).heap_bytes(), 32);
}

#[test]
fn a_value_of_the_same_class_is_written_in_place() {
    let mut record = Record::new_raw(b"key", &[b'x'; 60], None);
    for (value, expiry) in
        [(&[b'y'; 64][..], None), (&[b'y'; 59], Some(1)), (b"12345", Some(2)), (b"yy", None), (&[b'z'; 60], Some(3))]
    {
        let (address, class) = (record.address(), record.heap_bytes());
        record.set_raw(value, expiry);
        assert_eq!((spelled(&record).0, record.expiry()), (value.to_vec(), expiry));
        assert!(record.heap_bytes() != class || record.address() == address);
    }
    let long = vec![b'a'; RAW_MAX + 1];
    record.set_raw(&long, None);
    let Value::Object(ObjectRef::Text(before)) = record.value() else { panic!("a long string is an object") };
    let address = before.as_ptr();
    record.set_raw(&vec![b'b'; RAW_MAX + 1], Some(5));
    let Value::Object(ObjectRef::Text(after)) = record.value() else { panic!("a long string is an object") };
    assert_eq!((after.as_ptr(), after[0], record.expiry()), (address, b'b', Some(5)));
}

#[test]
fn a_record_holds_an_object_of_every_kind() {
    let limits = Limits::default();
    let members: Vec<Vec<u8>> = (0..600).map(|number| format!("member {number}").into_bytes()).collect();
    for count in [1, 600] {
        let (mut list, mut hash, mut set, mut sorted) = (List::new(), Hash::new(), Set::new(), SortedSet::new());
        for (score, member) in members[..count].iter().enumerate() {
            list.push(End::Tail, &member.repeat(3), &limits);
            hash.set(member, b"value", &limits);
            set.add(member, &limits);
            sorted.insert(score as f64, member, &limits);
        }
        let names: Vec<String> =
            members[..count].iter().map(|name| format!("{:?}", name.escape_ascii().to_string())).collect();
        let json = crate::json::parse(format!("[{}]", names.join(",")).as_bytes()).unwrap();
        let json = Json::of(&json).unwrap();
        let objects = [
            text(b"a text"),
            list.into_object(),
            hash.into_object(),
            set.into_object(),
            sorted.into_object(),
            json.clone().into_object(),
            json.into_object(),
        ];
        let keys = [&b"key"[..], &[b'k'; 300], b"", b"key", b"12345678", b"json", &[b'j'; 300]];
        for (object, key) in objects.into_iter().zip(keys) {
            // Copies of a table have another order.
            let show = |object: ObjectRef<'_>| {
                let mut letters = format!("{object:?}").into_bytes();
                letters.sort_unstable();
                String::from_utf8(letters).unwrap()
            };
            let (shown, kind) = (show(object.as_ref()), object.as_ref().kind());
            let mut record = Record::new_object(key, object, None);
            for expiry in [Some(5), None, Some(6)] {
                record.set_expiry(expiry);
                let Value::Object(held) = record.value() else { panic!("it holds an object") };
                assert_eq!((record.key(), record.expiry(), held.kind()), (key, expiry, kind));
                assert_eq!(show(held.to_object().as_ref()), shown);
            }
            let len = record.object_mut().unwrap().as_ref().len();
            let taken = record.take_object().unwrap();
            assert_eq!((taken.as_ref().len(), show(taken.as_ref())), (len, shown));
            assert!(record.object_mut().is_none() && matches!(record.value(), Value::Raw(b"")));
            record.set_object(taken, None);
            record.set_raw(b"1", None);
            assert!(matches!(record.value(), Value::Int(1)));
        }
    }
}

#[test]
fn holders_share_one_allocation() {
    let scored = Scored::new(1.0, b"member");
    let holder = scored.clone();
    holder.set_score(2.5);
    assert_eq!((scored.score(), scored.address()), (2.5, holder.address()));
    drop(scored);
    assert_eq!((holder.member(), holder.score()), (b"member" as &[u8], 2.5));
}

#[derive(Clone, Debug)]
enum Change {
    Raw(Vec<u8>, Origin, Option<u64>),
    Object(Vec<u8>, Option<u64>),
    Expiry(Option<u64>),
    Access(u32),
    Take,
    Scribble(u8),
}

fn any_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..400),
        4 => any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        4 => any::<i16>().prop_map(|number| number.to_string().into_bytes()),
        1 => (RAW_MAX - 2..RAW_MAX + 3, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
    ]
}

fn any_origin() -> impl Strategy<Value = Origin> {
    prop_oneof![2 => Just(Origin::Given), 1 => Just(Origin::Computed), 1 => Just(Origin::Edited)]
}

fn any_change() -> impl Strategy<Value = Change> {
    let expiry = || prop::option::of(any::<u64>());
    prop_oneof![
        4 => (any_value(), any_origin(), expiry())
            .prop_map(|(value, origin, expiry)| Change::Raw(value, origin, expiry)),
        2 => (any_value(), expiry()).prop_map(|(value, expiry)| Change::Object(value, expiry)),
        3 => expiry().prop_map(Change::Expiry),
        1 => (0..1u32 << 24).prop_map(Change::Access),
        1 => Just(Change::Take),
        1 => any::<u8>().prop_map(Change::Scribble),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 512 }, ..ProptestConfig::default() })]

    #[test]
    fn a_record_holds_what_was_put_in(
        key in prop_oneof![4 => prop::collection::vec(any::<u8>(), 0..40), 1 => prop::collection::vec(any::<u8>(), 250..300)],
        changes in prop::collection::vec(any_change(), 1..30),
    ) {
        let mut record = Record::new_raw(&key, b"", None);
        let (mut value, mut is_object, mut expiry, mut access) = (Vec::new(), false, None, 0);
        let mut origin = Origin::Computed;
        for change in changes {
            match change {
                Change::Raw(bytes, made, until) => {
                    record.set_string(&bytes, made, until);
                    // Bytes that spell no integer do not tell the first two apart.
                    let is_bytes = made == Origin::Given && canonical_integer(&bytes).is_none();
                    origin = if is_bytes { Origin::Computed } else { made };
                    (is_object, expiry) = (bytes.len() > RAW_MAX, until);
                    value = bytes;
                }
                Change::Object(bytes, until) => {
                    record.set_object(text(&bytes), until);
                    (value, is_object, expiry) = (bytes, true, until);
                }
                Change::Expiry(until) => {
                    record.set_expiry(until);
                    expiry = until;
                }
                Change::Access(number) => {
                    record.set_access(number);
                    access = number;
                }
                Change::Take => {
                    let taken = record.take_object();
                    prop_assert_eq!(taken.is_some(), is_object);
                    if let Some(Object::Text(bytes)) = taken {
                        prop_assert_eq!(bytes, std::mem::take(&mut value));
                        is_object = false;
                    }
                }
                Change::Scribble(byte) => {
                    if let Some(bytes) = record.raw_mut() {
                        bytes.fill(byte);
                        value.fill(byte);
                    }
                }
            }
            prop_assert_eq!(record.key(), &key[..]);
            prop_assert_eq!(spelled(&record), (value.clone(), is_object));
            prop_assert_eq!((record.expiry(), record.access()), (expiry, access));
            if is_object {
                origin = Origin::Computed;
            }
            prop_assert_eq!(record.origin(), origin);
            let owned = if let Value::Object(object) = record.value() { 32 + object.heap_bytes() } else { 0 };
            prop_assert_eq!(record.heap_bytes(), record.shell_bytes() + owned);
        }
    }

    #[test]
    fn a_field_keeps_its_name(
        name in prop::collection::vec(any::<u8>(), 0..300),
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..20),
    ) {
        let mut field = Field::new(&name, b"");
        for value in values {
            field.set_value(&value);
            prop_assert_eq!((field.field(), field.value()), (&name[..], &value[..]));
        }
        let copy = field.clone();
        prop_assert_eq!((copy.field(), copy.value()), (field.field(), field.value()));
        let (member, scored) = (Member::new(&name), Scored::new(0.5, &name));
        prop_assert_eq!((member.as_bytes(), scored.member()), (&name[..], &name[..]));
    }
}

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::entry::block_size;

fn redis_bytes(intset: &Intset) -> Vec<u8> {
    [&intset.view().header(), intset.view().numbers()].concat()
}

/// The answer of `DUMP` of Redis 7.0.15.
#[test]
fn bytes_are_those_of_redis() {
    let cases: [(&[i64], &[u8]); 3] = [
        (&[5, -3, 300], b"\x02\0\0\0\x03\0\0\0\xfd\xff\x05\0\x2c\x01"),
        (&[5, -3, 70_000, -70_000], b"\x04\0\0\0\x04\0\0\0\x90\xee\xfe\xff\xfd\xff\xff\xff\x05\0\0\0\x70\x11\x01\0"),
        (
            &[5, -3, 1 << 40, i64::MIN],
            b"\x08\0\0\0\x04\0\0\0\0\0\0\0\0\0\0\x80\xfd\xff\xff\xff\xff\xff\xff\xff\x05\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0",
        ),
    ];
    for (numbers, bytes) in cases {
        let mut intset = Intset::new();
        for &number in numbers {
            assert!(intset.insert(number));
        }
        assert_eq!(redis_bytes(&intset), bytes);
        assert_eq!(redis_bytes(&Intset::from_bytes(bytes).unwrap()), bytes);
    }
}

#[test]
fn what_is_not_an_intset_is_refused() {
    let refused: [&[u8]; 5] = [
        b"",
        b"\x02\0\0\0\x03\0\0\0\xfd\xff\x05\0",
        b"\x03\0\0\0\x01\0\0\0\x01\0\0",
        b"\x02\0\0\0\x02\0\0\0\x05\0\x05\0",
        b"\x08\0\0\0\xff\xff\xff\xff\x05\0\x05\0",
    ];
    for bytes in refused {
        assert!(Intset::from_bytes(bytes).is_err(), "{bytes:?}");
    }
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![-20i64..20, -40_000i64..40_000, any::<i32>().prop_map(i64::from), any::<i64>()]
}

proptest! {
    #[test]
    fn behaves_as_an_ordered_set(steps in prop::collection::vec((any::<bool>(), number()), 1..200)) {
        let (mut intset, mut model) = (Intset::new(), BTreeSet::new());
        for (insert, number) in steps {
            if insert {
                prop_assert_eq!(intset.insert(number), model.insert(number));
            } else {
                let known = model.range(number..).next().copied().unwrap_or(number);
                prop_assert_eq!(intset.remove(known), model.remove(&known));
            }
            prop_assert_eq!(intset.view().contains(number), model.contains(&number));
            prop_assert!(intset.view().iter().eq(model.iter().copied()));
            let bytes = redis_bytes(&intset);
            let expected = if model.is_empty() { 0 } else { block_size(bytes.len()) };
            prop_assert_eq!(intset.heap_bytes(), expected);
            prop_assert!(Intset::from_bytes(&bytes).is_ok_and(|again| redis_bytes(&again) == bytes));
        }
    }
}

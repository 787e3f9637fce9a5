use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use dormouse_types::record::Origin;
use dormouse_types::segment::{Range53, SLOTS};
use dormouse_types::{End, List};

use super::*;
use crate::commands::testing::Bench;
use crate::error::Error;
use crate::keyspace::index::aligned;
use crate::keyspace::place::Dirty;
use crate::keyspace::testing::{Kept, TestLog};

const NOW: u64 = 1_700_000_000_000;

type Act = fn(&mut Keyspace<'_>);

/// Every primitive that changes `key`, which holds `1`, or `list`, which holds a list.
const CHANGES: &[(&str, &[u8], Act)] = &[
    ("set a string", b"key", |db| db.set_string(b"key", b"v", Expiry::None)),
    ("set a new string", b"new", |db| db.set_string(b"new", b"v", Expiry::At(NOW + 1))),
    ("set a string where a list is", b"list", |db| db.set_string(b"list", b"v", Expiry::Keep)),
    ("rewrite a string", b"key", |db| db.rewrite_string(b"key", Origin::Given, |_| Ok(("2", ()))).expect("a string")),
    ("rewrite a new string", b"new", |db| {
        db.rewrite_string(b"new", Origin::Given, |_| Ok(("2", ()))).expect("nothing")
    }),
    ("update a string", b"key", |db| {
        db.update_string(b"key", Origin::Given, |bytes| {
            bytes.push(b'x');
            Ok(Change::Yes(()))
        })
        .expect("a string");
    }),
    ("update a new string", b"new", |db| {
        db.update_string(b"new", Origin::Given, |bytes| {
            bytes.push(b'x');
            Ok(Change::Yes(()))
        })
        .expect("nothing");
    }),
    ("delete", b"key", |db| assert!(db.delete(b"key"))),
    ("set an expiry", b"key", |db| assert!(db.set_expiry(b"key", Some(NOW + 1)))),
    ("put", b"new", |db| {
        let taken = db.copy_of(b"key").expect("there is a key");
        db.put_taken(b"new", taken);
    }),
    ("put over another", b"list", |db| {
        let taken = db.copy_of(b"key").expect("there is a key");
        db.put_taken(b"list", taken);
    }),
];

/// Every call that looks like a change and is none.
const NO_CHANGES: &[(&str, Act)] = &[
    ("contains", |db| assert!(db.contains(b"key") && !db.contains(b"new"))),
    ("rewrite what is no string", |db| {
        let refused = db.rewrite_string(b"list", Origin::Given, |_| Ok(("2", ())));
        assert_eq!(refused, Err(Error::WrongType));
    }),
    ("rewrite and be refused", |db| {
        let refused = db.rewrite_string(b"key", Origin::Given, |_| Err::<(&str, ()), _>(Error::Overflow));
        assert_eq!(refused, Err(Error::Overflow));
    }),
    ("rewrite nothing and be refused", |db| {
        let refused = db.rewrite_string(b"new", Origin::Given, |text| {
            assert!(text.is_none());
            Err::<(&str, ()), _>(Error::Overflow)
        });
        assert_eq!(refused, Err(Error::Overflow));
    }),
    ("update what is no string", |db| {
        assert_eq!(db.update_string(b"list", Origin::Given, |_| Ok(Change::Yes(()))), Err(Error::WrongType));
    }),
    ("update a string and leave it", |db| {
        assert_eq!(db.update_string(b"key", Origin::Given, |bytes| Ok(Change::No(bytes.len()))), Ok(1));
        assert_eq!(db.update_string(b"new", Origin::Given, |bytes| Ok(Change::No(bytes.len()))), Ok(0));
    }),
    ("delete nothing", |db| assert!(!db.delete(b"new"))),
    ("persist what never expires", |db| assert!(!db.set_expiry(b"key", None))),
    ("read an expiry", |db| assert_eq!((db.expiry_unread(b"key"), db.expiry_unread(b"new")), (Some(None), None))),
];

/// The result of `act` on a keyspace with `key` and `list`, clean before: changes, whether a watch on `watched` was
/// touched, whether the places of changed keys are dirty, effects.
fn after(watched: &[u8], act: Act) -> (u64, bool, bool, Vec<Kept>) {
    let mut shared = Shared::new("test", 7);
    let mut contents = Contents::empty(0, SLOTS, shared.placement, std::array::from_fn(|id| id as u32));
    {
        let mut db = Keyspace::new([&mut contents], &shared, 0, NOW, 1);
        db.set_string(b"key", b"1", Expiry::None);
        let mut list = List::new();
        list.push(End::Tail, b"element", db.limits());
        db.put(b"list", list, None);
    }
    let index = contents.put_index(0, None).expect("there are keys");
    let id = index.id;
    let mut places = index.into_places();
    places.iter_mut().for_each(|place| place.dirty = Dirty::Clean);
    contents.put_index(0, Some(Box::new(Index::new(id, places))));
    let log = TestLog::of(&mut shared);
    let touched = Arc::new(AtomicBool::new(false));
    shared.watches.add(0, watched, &touched);
    let mut db = Keyspace::new([&mut contents], &shared, 0, NOW, 1);
    db.begin(true, true);
    act(&mut db);
    let changes = db.changes();
    drop(db);
    let dirty = contents.index(0).is_some_and(Index::is_dirty);
    (changes, touched.load(Ordering::SeqCst), dirty, log.effects())
}

#[test]
fn every_change_is_marked_told_and_recorded() {
    for (what, key, act) in CHANGES {
        let (changes, touched, dirty, effects) = after(key, *act);
        assert_eq!((changes, touched, dirty, effects.len()), (1, true, true, 1), "{what}");
        assert_eq!(effects[0].position, Shared::new("test", 7).placement.position(key), "{what}");
    }
}

#[test]
fn a_change_beside_the_elements_is_marked_but_touches_no_watch() {
    let (changes, touched, dirty, _) = after(b"list", |db| {
        let change = |_: &mut List, _: &Limits| Change::Beside(());
        db.update(b"list", change).unwrap();
    });
    assert_eq!((changes, touched, dirty), (1, false, true));
}

#[test]
fn what_changes_nothing_leaves_no_trace() {
    for (what, act) in NO_CHANGES {
        for watched in [&b"key"[..], b"list", b"new"] {
            let (changes, touched, dirty, effects) = after(watched, *act);
            assert_eq!((changes, touched, dirty, effects.len()), (0, false, false, 0), "{what}");
        }
    }
}

#[test]
fn a_rewritten_string_keeps_its_expiry() {
    let shared = Shared::new("test", 7);
    let mut contents = Contents::empty(0, SLOTS, shared.placement, std::array::from_fn(|id| id as u32));
    let mut db = Keyspace::new([&mut contents], &shared, 0, NOW, 1);
    db.set_string(b"key", b"1", Expiry::At(NOW + 5));
    let before = db.rewrite_string(b"key", Origin::Given, |text| {
        Ok(("long enough for another size class", text.map(|t| t.to_vec())))
    });
    assert_eq!(before, Ok(Some(b"1".to_vec())));
    assert_eq!(db.expiry(b"key"), Some(Some(NOW + 5)));
}

#[test]
fn keys_of_other_shards_are_not_looked_up() {
    let shared = Shared::new("test", 7);
    let mut contents = Contents::empty(0, SLOTS, shared.placement, std::array::from_fn(|id| id as u32));
    for key in [b"a", b"b", b"c", b"d"] {
        let mut db = Keyspace::new([&mut contents], &shared, 0, NOW, 1);
        db.set_string(key, b"value", Expiry::None);
    }
    assert!(contents.cut(SLOTS / 2));
    let mut other = contents.split_off(SLOTS / 2);
    let mut held = [0, 0];
    for (half, held) in [&mut contents, &mut other].into_iter().zip(&mut held) {
        let db = Keyspace::new([half], &shared, 0, NOW, 1);
        *held = [b"a", b"b", b"c", b"d"].iter().filter(|key| db.string_length(**key) > 0).count();
    }
    assert!(held[0] > 0 && held[1] > 0, "{held:?}");
    assert_eq!(held[0] + held[1], 4);
}

#[test]
fn what_is_large_is_freed_elsewhere() {
    let shared = Shared::new("test", 7);
    let mut contents = Contents::empty(0, SLOTS, shared.placement, std::array::from_fn(|id| id as u32));
    let mut db = Keyspace::new([&mut contents], &shared, 0, NOW, 1);
    let overwrite: &[Act] = &[
        |db| db.set_string(b"key", b"small", Expiry::None),
        |db| assert!(db.delete(b"key")),
        |db| {
            let small = db.copy_of(b"small").expect("it was set");
            db.put_taken(b"key", small);
        },
        |db| db.flush(0),
    ];
    for (at, overwrite) in overwrite.iter().enumerate() {
        db.set_string(b"small", b"v", Expiry::None);
        let mut list = List::new();
        for _ in 0..2 * BURY_ABOVE / 100 {
            list.push(End::Tail, &[b'x'; 100], db.limits());
        }
        db.put(b"key", list, None);
        assert!(db.take_graveyard().is_none());
        overwrite(&mut db);
        assert_eq!(db.take_graveyard().map(|dead| dead.len()), Some(1), "case {at}");
    }
}

/// A command's time may be before that of one that ran before it: a key that the earlier one saw expire stays gone.
#[test]
fn what_has_expired_does_not_come_back_in_replay() {
    for actively in [false, true] {
        let mut bench = Bench::new();
        bench.run("SET k 5 PX 10");
        let log = TestLog::of(&mut bench.shared);
        bench.now_ms += 20;
        if actively {
            assert_eq!(bench.contents.expire(&bench.shared, bench.now_ms, 100).removed.len(), 1);
        } else {
            assert_eq!(bench.run("GET k"), "nil");
        }
        bench.now_ms -= 15;
        assert_eq!(bench.run("INCR k"), "1");
        let effects = log.effects();
        assert!(effects.is_sorted_by_key(|effect| effect.sequence));
        let mut replayed = Bench::new();
        replayed.run("SET k 5 PX 10");
        for effect in &effects {
            let mut db = Keyspace::new([&mut replayed.contents], &replayed.shared, 0, effect.now_ms, 1);
            crate::commands::replay(&mut db, &effect.body).expect("effects are well-formed");
        }
        assert_eq!(replayed.data(), bench.data());
    }
}

/// Whatever `mark_dirty` looks at, it marks just the places that share positions with the range.
#[test]
fn a_range_marks_the_places_that_it_touches() {
    let shared = Shared::new("test", 7);
    let mut contents = Contents::empty(0, SLOTS, shared.placement, std::array::from_fn(|id| id as u32));
    let mut db = Keyspace::new([&mut contents], &shared, 0, NOW, 1);
    for n in 0..40_000 {
        db.set_string(format!("key:{n}").as_bytes(), b"v", Expiry::None);
    }
    drop(db);
    assert!(contents.cut(SLOTS / 4));
    let mut upper = contents.split_off(SLOTS / 4);
    for shard in [&mut contents, &mut upper] {
        let index = shard.put_index(0, None).expect("there are keys");
        let (id, mut places) = (index.id, index.into_places());
        places.iter_mut().for_each(|place| place.dirty = Dirty::Clean);
        let ranges: Vec<Range53> = places.iter().map(|place| place.range).collect();
        assert!(ranges.len() > 4);
        let mut index = Index::new(id, places);
        let whole = Range53 { start: 0, bits: 53 };
        let halves = ranges.iter().filter(|range| range.bits > 0).map(|range| range.halves().1);
        let elsewhere = aligned(SLOTS / 8, SLOTS).into_iter().chain([whole]);
        for range in ranges.iter().copied().chain(halves).chain(elsewhere) {
            index.mark_dirty(range);
            for place in index.places().iter() {
                let shares = place.range.start < range.end() && range.start < place.range.end();
                assert_eq!(place.dirty == Dirty::Whole, shares, "{range:?} and {:?}", place.range);
            }
            let mut places = index.into_places();
            places.iter_mut().for_each(|place| place.dirty = Dirty::Clean);
            index = Index::new(id, places);
        }
    }
}

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::*;

fn item(number: u32) -> Vec<u8> {
    format!("item:{number}").into_bytes()
}

fn head(filter: &Filter) -> Vec<u8> {
    let mut head = Vec::new();
    filter.write_head(&mut head);
    head
}

fn bytes(filter: &Filter) -> Vec<u8> {
    filter.parts().all().collect::<Vec<_>>().concat()
}

fn bloom(capacity: u64, rate: f64, growth: u32, is_fixed: bool) -> Bloom {
    Bloom::with_capacity(capacity, rate, growth, is_fixed).unwrap()
}

fn insert(cuckoo: &mut Cuckoo, item: &[u8]) -> CuckooInserted {
    let mut told = None;
    cuckoo.insert([item].into_iter(), false, |inserted| told = Some(inserted));
    told.unwrap()
}

/// The heads and bits that RedisBloom makes of the same commands.
#[test]
fn filters_are_those_of_redis_bloom() {
    let mut filter = Bloom::default();
    for word in ["a", "hello", "", "a longer item than eight bytes"] {
        assert_eq!(filter.add(word.as_bytes()), BloomAdded::New, "{word}");
    }
    assert_eq!((filter.capacity(), filter.shown_bytes(), filter.links(), filter.growth()), (100, 240, 1, 2));
    let filter = Filter::from(filter);
    let shown = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(shown(&head(&filter)), BLOOM_HEAD);
    assert_eq!(shown(&bytes(&filter)), BLOOM_BITS);
    let mut filter = Cuckoo::with_capacity(8, 2, 20, 1).unwrap();
    for word in ["a", "hello", "", "a longer item than eight bytes", "a"] {
        assert_eq!(insert(&mut filter, word.as_bytes()), CuckooInserted::New, "{word}");
    }
    let filter = Filter::from(filter);
    assert_eq!(shown(&head(&filter)), CUCKOO_HEAD_AND_SLOTS[0]);
    assert_eq!(shown(&bytes(&filter)), CUCKOO_HEAD_AND_SLOTS[1]);
}

const BLOOM_HEAD: &str = "04000000000000000100000005000000020000009000000000000000800400000000000004000000000000007b14ae47e17a\
    743fe9862fb2350e264008000000640000000000000000";
const BLOOM_BITS: &str = "0000000000000000002000000200080000040000001000000000008000000000020200000000000000000000004000000000\
    00800000000008400000000002002000000b0000000000000000000000000000000000010000000000000000011000002000\
    000200600000020000000000000000000000002000001000000000000004000000002000000000a000040000";
const CUCKOO_HEAD_AND_SLOTS: [&str; 2] =
    ["0500000000000000040000000000000000000000000000000100000000000000020014000100", "0100c4c4a9009f00"];

/// No item that was added is missing, and the others are found about as rarely as was asked for.
#[test]
fn error_rates_are_kept() {
    for (capacity, rate, growth, is_fixed, added) in [
        (1000, 0.01, 2, true, 1000),
        (1000, 0.01, 2, false, 1000),
        (500, 0.01, 2, false, 20_000),
        (2000, 0.05, 1, false, 12_000),
        (1000, 0.001, 4, false, 30_000),
        (20_000, 0.03, 2, true, 20_000),
    ] {
        let mut filter = bloom(capacity, rate, growth, is_fixed);
        let mut known = 0;
        for number in 0..added {
            match filter.add(&item(number)) {
                BloomAdded::New => {}
                BloomAdded::Known => known += 1,
                other => panic!("{number} of {capacity}: {other:?}"),
            }
        }
        assert_eq!(filter.items() + known, u64::from(added));
        assert!((0..added).all(|number| filter.contains(&item(number))), "a false negative");
        let tries = 100_000;
        let wrong = (added..added + tries).filter(|number| filter.contains(&item(*number))).count();
        let bound = rate * f64::from(tries);
        // Four standard deviations, which a right filter exceeds less than once in ten thousand tests.
        assert!((wrong as f64) < bound + 4.0 * bound.sqrt(), "{wrong} of {tries} at {rate}");
    }
}

#[test]
fn a_filter_grows_by_links_that_are_better() {
    let mut filter = bloom(10, 0.01, 3, false);
    let mut number = 0;
    while filter.links() < 4 {
        let before = (filter.links(), Filter::from(filter.clone()).heap_bytes(), filter.parts().len());
        let growth = filter.growth_for(1);
        filter.add(&item(number));
        number += 1;
        let grown = filter.parts().len() - before.2;
        assert!(grown <= growth && (growth == 0) == (grown == 0), "{grown} bytes, and {growth} were said");
    }
    assert_eq!(filter.capacity(), 10 + 30 + 90 + 270);
    let rates: Vec<f64> = filter.each_link().map(|link| link.error_rate).collect();
    assert_eq!(rates, [0.005, 0.0025, 0.00125, 0.000_625]);
    let mut fixed = bloom(2, 0.01, 2, true);
    assert_eq!([1, 2, 3].map(|number| fixed.add(&item(number))), [BloomAdded::New, BloomAdded::New, BloomAdded::Full]);
    assert_eq!(fixed.add(&item(1)), BloomAdded::Known);
    assert_eq!(fixed.growth_for(1000), 0);
}

/// What a request may add is known before it runs.
#[test]
fn growth_is_an_upper_bound() {
    for (capacity, growth, items) in [(1, 1, 200u32), (5, 2, 1000), (100, 2, 99), (100, 2, 101), (10, 32768, 11)] {
        let said = Bloom::bytes_for(capacity, 0.01, growth, false, items as usize);
        let mut filter = bloom(capacity, 0.01, growth, false);
        (0..items).for_each(|number| _ = filter.add(&item(number)));
        assert!(filter.parts().len() <= said, "{} bytes, and {said} were said", filter.parts().len());
    }
    for (capacity, growth, batch) in [(8u64, 1u16, 3u32), (64, 2, 100), (1024, 1, 1000), (16, 4, 9)] {
        let mut filter = Cuckoo::with_capacity(capacity, 2, 20, growth).unwrap();
        for round in 0..20 {
            let items: Vec<Vec<u8>> = (0..batch).map(|number| item(round * batch + number)).collect();
            let items = || items.iter().map(Vec::as_slice);
            let (said, before) = (filter.growth_for(items()), filter.parts().len());
            filter.insert(items(), false, |inserted| assert_eq!(inserted, CuckooInserted::New));
            let grown = filter.parts().len() - before;
            assert!(grown <= said, "{grown} bytes, and {said} were said");
        }
        // One item many times has room for as many as are in two buckets of each layer.
        let same = vec![&b"same"[..]; 5000];
        let (said, before) = (filter.growth_for(same.iter().copied()), filter.parts().len());
        filter.insert(same.iter().copied(), false, |_| {});
        assert!(filter.parts().len() - before <= said);
        let new = Cuckoo::bytes_for(capacity, 2, growth, batch as usize);
        let mut filter = Cuckoo::with_capacity(capacity, 2, 20, growth).unwrap();
        let items: Vec<Vec<u8>> = (0..batch).map(item).collect();
        filter.insert(items.iter().map(Vec::as_slice), false, |_| {});
        assert!(filter.parts().len() <= new, "{} bytes, and {new} were said", filter.parts().len());
    }
}

#[test]
fn impossible_filters_are_refused() {
    for (capacity, rate) in [(0, 0.1), (1, 0.0), (1, 1.0), (1, -0.5), (1, f64::NAN), (1, 2.5)] {
        assert_eq!(Bloom::with_capacity(capacity, rate, 2, true).err(), Some(BadFilter::Invalid), "{capacity} {rate}");
    }
    assert_eq!(Bloom::with_capacity(1 << 40, 0.01, 2, true).err(), Some(BadFilter::TooLarge));
    assert_eq!(Bloom::with_capacity(u64::MAX, 1e-300, 2, true).err(), Some(BadFilter::TooLarge));
    assert_eq!(Bloom::bytes_for(u64::MAX, 1e-300, 2, true, 5), 0);
    assert!(Bloom::with_capacity(100, f64::MIN_POSITIVE, 2, true).is_ok());
    assert_eq!(Cuckoo::with_capacity(1 << 40, 2, 20, 1).err(), Some(BadFilter::TooLarge));
    assert_eq!(Cuckoo::with_capacity(u64::MAX, 255, 20, 1).err(), Some(BadFilter::TooLarge));
    for (bucket_size, moves, growth) in [(0, 20, 1), (256, 20, 1), (2, 0, 1), (2, 20, 40_000)] {
        let refused = Cuckoo::with_capacity(100, bucket_size, moves, growth).err();
        assert_eq!(refused, Some(BadFilter::Invalid), "{bucket_size} {moves} {growth}");
    }
    assert_eq!(Cuckoo::bytes_for(u64::MAX, 255, 1, 7), 0);
}

/// A layer that would be too large, and an error rate that becomes zero, end the growth.
#[test]
fn growth_ends() {
    let mut filter = bloom(1, f64::MIN_POSITIVE * 2.0, 1, false);
    let outcomes: Vec<BloomAdded> = (0..80).map(|number| filter.add(&item(number))).collect();
    assert_eq!(outcomes[0], BloomAdded::New);
    assert_eq!(outcomes.last(), Some(&BloomAdded::Failed));
    let mut filter = bloom(1 << 20, 0.01, 32768, false);
    assert_eq!(filter.growth_for(1 << 21), 0, "no link of 40 gigabytes");
    filter.add(b"x");
    let mut filter = Cuckoo::with_capacity(64, 2, 5, 0).unwrap();
    let outcomes: Vec<CuckooInserted> = (0..9).map(|_| insert(&mut filter, b"same")).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == CuckooInserted::New).count(), 4);
    assert_eq!(outcomes.last(), Some(&CuckooInserted::Full));
    assert_eq!(filter.growth_for([&b"same"[..]].into_iter()), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Against a bag: what is there is found, with all its copies, and no item is lost when it moves.
    #[test]
    fn a_cuckoo_filter_loses_nothing(
        capacity in 4u64..200,
        bucket_size in 1u16..6,
        growth in 0u16..5,
        steps in proptest::collection::vec((0u8..10, 0u32..300), 1..600),
    ) {
        let mut filter = Cuckoo::with_capacity(capacity.max(2 * u64::from(bucket_size)), bucket_size, 7, growth).unwrap();
        let mut bag: BTreeMap<u32, u64> = BTreeMap::new();
        for (kind, number) in steps {
            if kind < 6 {
                if insert(&mut filter, &item(number)) == CuckooInserted::New {
                    *bag.entry(number).or_default() += 1;
                }
            } else if bag.contains_key(&number) {
                prop_assert!(filter.delete(&item(number)));
                let left = bag.get_mut(&number).unwrap();
                *left -= 1;
                if *left == 0 {
                    bag.remove(&number);
                }
            }
            prop_assert_eq!(filter.items(), bag.values().sum::<u64>());
        }
        for (number, count) in &bag {
            prop_assert!(filter.contains(&item(*number)));
            prop_assert!(filter.count(&item(*number)) >= *count);
        }
        let slots = filter.parts().all().flatten().filter(|slot| **slot != 0).count();
        prop_assert_eq!(slots as u64, filter.items());
    }

    /// The bytes that a filter says it takes are those of its allocations, whatever was done to it.
    #[test]
    fn a_bloom_filter_is_as_large_as_it_says(
        capacity in 1u64..5000, growth in 1u32..4, steps in proptest::collection::vec(0u32..5000, 1..500),
    ) {
        let mut filter = bloom(capacity, 0.01, growth, false);
        let mut added = HashSet::new();
        for number in steps {
            let outcome = filter.add(&item(number));
            prop_assert!(outcome != BloomAdded::New || added.insert(number));
            prop_assert!(outcome == BloomAdded::New || outcome == BloomAdded::Known);
        }
        let blocks: usize = filter.parts().each().map(|(bytes, _)| blocks_bytes(bytes)).sum();
        prop_assert_eq!(filter.parts().heap_bytes() - filter.parts().lists_bytes(), blocks);
        let mut loaded = Bloom::from_head(&head(&filter.clone().into())).unwrap();
        for run in filter.parts().all() {
            run.chunks(1000).for_each(|chunk| assert_eq!(loaded.parts_mut().load(chunk), 0));
        }
        prop_assert!(loaded.parts().is_loaded());
        prop_assert_eq!(bytes(&loaded.clone().into()), bytes(&filter.clone().into()));
        prop_assert!(added.iter().all(|number| loaded.contains(&item(*number))));
        prop_assert_eq!(loaded.parts_mut().load(b"x"), 1);
    }
}

/// The bytes of a part's blocks: of each size there is a class, and a list of them.
fn blocks_bytes(bytes: usize) -> usize {
    let whole = bytes / (64 << 10) * (64 << 10);
    let list = heap::allocation(bytes.div_ceil(64 << 10) * size_of::<Box<[u8]>>());
    whole + heap::allocation(bytes % (64 << 10)) + list
}

#[test]
fn filters_are_freed_in_steps() {
    let mut filter = Filter::from(bloom(1_000_000, 0.01, 2, true));
    let blocks = filter.len() - 1;
    assert!(blocks > 10);
    let mut steps = 1;
    while !filter.dismantle(2048) {
        steps += 1;
    }
    assert!((blocks / 2..blocks).contains(&steps), "{steps} steps for {blocks} blocks");
    assert!(filter.parts().is_empty());
}

#[test]
fn damaged_heads_are_refused() {
    let mut filter = bloom(10, 0.01, 2, false);
    (0..40).for_each(|number| _ = filter.add(&item(number)));
    let good = head(&filter.into());
    assert!(Bloom::from_head(&good).is_ok());
    for len in 0..good.len() {
        assert!(Bloom::from_head(&good[..len]).is_err(), "{len}");
    }
    let with = |at: usize, word: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + word.len()].copy_from_slice(word);
        Bloom::from_head(&bad).err()
    };
    let link = 20;
    for (at, word, expected) in [
        (0, &[9; 8][..], BadFilter::Invalid),
        (8, &[0; 4], BadFilter::Invalid),
        (8, &[0xff; 4], BadFilter::Invalid),
        (12, &[16], BadFilter::Invalid),
        (link, &[0; 8], BadFilter::Invalid),
        (link + 8, &[0; 8], BadFilter::Invalid),
        (link + 24, &2f64.to_le_bytes(), BadFilter::Invalid),
        (link + 24, &f64::NAN.to_le_bytes(), BadFilter::Invalid),
        (link + 32, &1e12f64.to_le_bytes(), BadFilter::Invalid),
        (link + 40, &[1], BadFilter::Invalid),
        (link + 52, &[64], BadFilter::Invalid),
        (link + 52, &[40], BadFilter::Invalid),
    ] {
        assert_eq!(with(at, word), Some(expected), "{word:?} at {at}");
    }
    // Bytes and bits that agree, and are terabytes.
    let large = [(1u64 << 40).to_le_bytes(), (1u64 << 43).to_le_bytes()].concat();
    assert_eq!(with(link, &large), Some(BadFilter::TooLarge));
    let good = head(&Cuckoo::with_capacity(64, 2, 20, 2).unwrap().into());
    assert!(Cuckoo::from_head(&good).is_ok());
    for len in 0..good.len() {
        assert!(Cuckoo::from_head(&good[..len]).is_err(), "{len}");
    }
    for (at, word) in [(8, &[3u8][..]), (8, &[0; 8]), (14, &[1]), (24, &[0]), (24, &[97]), (32, &[0]), (36, &[3])] {
        let mut bad = good.clone();
        bad[at..at + word.len()].copy_from_slice(word);
        assert!(Cuckoo::from_head(&bad).is_err(), "{word:?} at {at}");
    }
}

/// The numbers in the head of a filter are those of a client.
#[test]
fn counts_of_other_servers_may_be_any() {
    let mut head = Vec::new();
    for number in [u64::MAX, 8, u64::MAX, 1] {
        head.extend_from_slice(&number.to_le_bytes());
    }
    for number in [2u16, 20, 1] {
        head.extend_from_slice(&number.to_le_bytes());
    }
    let mut cuckoo = Cuckoo::from_head(&head).unwrap();
    cuckoo.parts_mut().fill();
    assert_eq!(insert(&mut cuckoo, b"a"), CuckooInserted::New);
    assert!(cuckoo.delete(b"a"));
    assert_eq!((cuckoo.items(), cuckoo.deleted()), (u64::MAX - 1, u64::MAX));
    let link = |items| BloomLink {
        capacity: 100,
        error_rate: 0.01,
        hashes: 7,
        bits_per_item: 9.585,
        bits: 64,
        log_2: 0,
        items,
    };
    let mut bloom = Bloom::from_module(&[link(u64::MAX), link(0)], u64::MAX, 5, 2).unwrap();
    bloom.parts_mut().fill();
    assert_eq!(bloom.add(b"a"), BloomAdded::New);
    assert_eq!(bloom.items(), u64::MAX);
}

/// Each item of many is looked for room for by all moves, in vain.
#[test]
fn insertions_into_a_full_filter_give_way() {
    thread_local! {
        static OFFERS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }
    let mut cuckoo = Cuckoo::with_capacity(64, 2, 1000, 0).unwrap();
    let items: Vec<Vec<u8>> = (0..500).map(item).collect();
    crate::pace::give_way(|| OFFERS.set(OFFERS.get() + 1));
    cuckoo.insert(items.iter().map(Vec::as_slice), false, |_| {});
    assert!(OFFERS.get() > 100, "{}", OFFERS.get());
}

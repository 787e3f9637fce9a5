//! Segments, directories and tables against ordered maps, under random operations.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;

/// An entry of the simplest kind.
#[derive(Debug)]
struct Word(Box<Box<[u8]>>);

impl Word {
    fn new(key: &[u8]) -> Self {
        Word(Box::new(key.into()))
    }

    fn of(number: u64) -> Self {
        Self::new(&number.to_be_bytes())
    }

    fn number(&self) -> u64 {
        u64::from_be_bytes(self.0[..8].try_into().unwrap())
    }
}

impl Ranged for Range53 {
    fn range(&self) -> Range53 {
        *self
    }
}

impl Entry for Word {
    fn key(&self) -> &[u8] {
        &self.0
    }

    fn heap_bytes(&self) -> usize {
        16 + size_class(self.0.len())
    }

    fn address(&self) -> *const u8 {
        (&raw const *self.0).cast()
    }
}

/// Puts keys of eight bytes exactly where a test wants them.
#[derive(Clone, Copy)]
struct Exact;

impl Placement for Exact {
    fn position(&self, key: &[u8]) -> u64 {
        u64::from_be_bytes(key[..8].try_into().unwrap())
    }
}

const SEED: HashPlacement = HashPlacement { seed: 0x9e37_79b9_7f4a_7c15 };

/// Keys in several patterns: spread evenly, in crowds of neighbours, at few positions, all at one.
#[derive(Clone, Copy, Debug)]
enum Crowd {
    Even,
    Runs,
    OneSlot,
    FewPositions,
    OnePosition,
}

impl Crowd {
    fn key(self, number: u64) -> u64 {
        let even = scramble(number + 1);
        match self {
            Crowd::Even => even,
            Crowd::Runs => scramble(number / 40) & !0xfff_ffff | even & 0xfff_ffff,
            Crowd::OneSlot => 0x1234 << 50 | even >> 14,
            Crowd::FewPositions => scramble(number % 5) & !0x7ff | number & 0x7ff,
            Crowd::OnePosition => 0xabcd_ef01_2345_6000 | number & 0x7ff,
        }
    }
}

fn any_crowd() -> impl Strategy<Value = Crowd> {
    prop_oneof![
        Just(Crowd::Even),
        Just(Crowd::Runs),
        Just(Crowd::OneSlot),
        Just(Crowd::FewPositions),
        Just(Crowd::OnePosition)
    ]
}

impl<E: Entry> Segment<E> {
    /// Checks everything that the module's documentation promises.
    fn check<P: Placement>(&self, placement: &P) {
        let mut stashed = HashMap::new();
        for entry in self.stash.iter().flat_map(|stash| stash.iter()) {
            *stashed.entry(self.home(prefix53(placement.position(entry.key())))).or_insert(0) += 1;
        }
        let mut len = self.stash_len();
        for (index, bucket) in self.buckets.iter().enumerate() {
            let homes: Vec<_> = bucket.iter().map(|it| self.home(prefix53(placement.position(it.key())))).collect();
            let own = self.own_len(index);
            assert!(homes[..own].iter().all(|&home| home == index), "own entries come first");
            assert!(homes[own..].iter().all(|&home| home + 1 == index), "then those of the bucket before");
            assert_eq!(bucket.occupied() & ((1 << own) - 1), (1 << own) - 1, "own entries leave no gap");
            assert_eq!(
                bucket.occupied() >> own << own,
                ((1 << WIDTH) - 1) >> (WIDTH - (homes.len() - own)) << (WIDTH - (homes.len() - own)),
                "nor do others"
            );
            assert!(bucket.in_next() == 0 || bucket.is_full());
            assert_eq!(bucket.may_be_stashed(), stashed.get(&index).copied().unwrap_or(0) > 0);
            len += homes.len();
        }
        assert_eq!(len, self.len());
        assert!(self.stash.as_ref().is_none_or(|stash| !stash.is_empty()));
    }
}

impl<E: Entry, P: Placement> Table<E, P> {
    fn check(&self) {
        self.segments.iter().for_each(|segment| segment.check(&self.placement));
        let entries: usize = self.iter().map(Entry::heap_bytes).sum();
        let segments: usize = self.segments.iter().map(Segment::heap_bytes).sum();
        assert_eq!(self.bytes, entries + segments);
        assert_eq!(self.len(), self.segments.iter().map(Segment::len).sum::<usize>());
        self.segments.check();
    }
}

impl<S: Ranged> Directory<S> {
    fn check(&self) {
        for (index, segment) in self.iter().enumerate() {
            let range = segment.range();
            for prefix in [range.start, range.start + (1 << range.bits) / 3, range.end() - 1] {
                assert_eq!(self.find(prefix), index);
            }
        }
    }
}

#[test]
fn a_table_of_many_keys() {
    let mut table = Table::new(SEED);
    for number in 0..20_000 {
        assert!(table.insert(Word::of(number)).is_none());
    }
    table.check();
    for number in 0..20_000u64 {
        assert_eq!(table.get(&number.to_be_bytes()).unwrap().number(), number);
        assert!(table.get(&(number + 20_000).to_be_bytes()).is_none());
    }
    for number in 0..19_990u64 {
        assert_eq!(table.remove(&number.to_be_bytes()).unwrap().number(), number);
        assert!(table.remove(&number.to_be_bytes()).is_none());
    }
    table.check();
    assert_eq!((table.len(), table.iter().count(), table.segments.len()), (10, 10, 1));
}

/// Many tags of a few keys each: entries come in crowds that fill a bucket or overflow it.
#[test]
fn small_crowds_cost_a_little_more() {
    let mut table = Table::new(SlotPlacement { seed: 7 });
    for tag in 0..3000 {
        for number in 0..10 {
            table.insert(Word::new(format!("user:{{{tag}}}:{number}").as_bytes()));
        }
    }
    table.check();
    let entries: usize = table.iter().map(Entry::heap_bytes).sum();
    let each = (table.heap_bytes() - entries) / table.len();
    assert!(each < 20, "{each} bytes of table for each entry");
}

#[test]
fn even_entries_cost_twelve_bytes_of_table() {
    let mut table = Table::new(SEED);
    let (mut samples, mut sum) = (0, 0.0);
    for number in 0..60_000u64 {
        table.insert(Word::of(number));
        if number > 2_000 && number % 500 == 0 {
            let entries = table.len() * 24;
            sum += (table.heap_bytes() - entries) as f64 / table.len() as f64;
            samples += 1;
        }
    }
    let each = sum / f64::from(samples);
    assert!(each < 12.0, "{each:.2} bytes of table for each entry");
}

#[test]
fn little_costs_little() {
    let mut segment = Segment::new(Range53::WHOLE);
    assert_eq!(segment.heap_bytes(), 0);
    for number in 0..3u64 {
        segment.insert(SEED.position(&number.to_be_bytes()), Word::of(number), &SEED);
    }
    assert_eq!(segment.heap_bytes(), 128);
    for number in 0..3u64 {
        segment.remove(SEED.position(&number.to_be_bytes()), &number.to_be_bytes(), &SEED);
    }
    assert_eq!(segment.heap_bytes(), 0);
    let table: Table<Word, _> = Table::new(SEED);
    assert!(table.heap_bytes() <= 64);
}

/// Five hundred picks of each entry, in crowds of all sizes; if their odds differed by two in a hundred, this would fail.
#[test]
#[cfg_attr(miri, ignore)]
fn every_entry_is_as_likely() {
    for crowd in [Crowd::Even, Crowd::Runs, Crowd::OnePosition] {
        let mut table = Table::new(Exact);
        for number in 0..2_000 {
            table.insert(Word::of(crowd.key(number)));
        }
        let mut counts: HashMap<u64, f64> = table.iter().map(|word| (word.number(), 0.0)).collect();
        let picks = 500 * counts.len();
        let mut state = 0u64;
        for _ in 0..picks {
            let mut random = || {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                scramble(state)
            };
            *counts.get_mut(&table.random(&mut random).unwrap().number()).unwrap() += 1.0;
        }
        // The sum of the squared deviations, each over its variance, is the number of entries, give or take its root.
        let chi_squared: f64 = counts.values().map(|count| (count - 500.0f64).powi(2) / 500.0).sum();
        let (expected, spread) = (counts.len() as f64, (2.0 * counts.len() as f64).sqrt());
        assert!((chi_squared - expected).abs() < 5.0 * spread, "{crowd:?}: {chi_squared:.0} of {expected:.0}");
    }
}

#[test]
fn a_scan_goes_on_where_it_was_when_the_table_has_changed() {
    let mut table = Table::new(Exact);
    (0..1000).for_each(|number| drop(table.insert(Word::of(Crowd::Even.key(number)))));
    let mut visited = Vec::new();
    let cursor = table.scan(0, 300, |word| visited.push(word.number()));
    (1000..20_000).for_each(|number| drop(table.insert(Word::of(Crowd::Even.key(number)))));
    visited.extend(table.iter().map(Word::number).filter(|&number| prefix53(number) >= cursor));
    visited.sort_unstable();
    visited.dedup();
    assert!((0..1000).all(|number| visited.binary_search(&Crowd::Even.key(number)).is_ok()));
}

#[derive(Clone, Debug)]
enum Step {
    Insert { from: u64, count: u64 },
    Remove { from: u64, count: u64 },
    Scan,
    Random(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4000u64, 1..700u64).prop_map(|(from, count)| Step::Insert { from, count }),
        3 => (0..4000u64, 1..900u64).prop_map(|(from, count)| Step::Remove { from, count }),
        2 => Just(Step::Scan),
        1 => any::<u64>().prop_map(Step::Random),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 96 }, ..ProptestConfig::default() })]

    #[test]
    fn a_table_is_a_map(crowd in any_crowd(), steps in prop::collection::vec(any_step(), 1..40)) {
        let mut table = Table::new(Exact);
        let mut model = BTreeSet::new();
        // The scan in progress: its cursor, the entries visited, the entries that existed all along.
        let (mut cursor, mut visited, mut lasting) = (0, BTreeMap::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Insert { from, count } => {
                    for key in (from..from + count).map(|number| crowd.key(number)) {
                        let replaced = table.insert(Word::of(key));
                        prop_assert_eq!(replaced.is_some(), !model.insert(key));
                    }
                }
                Step::Remove { from, count } => {
                    for key in (from..from + count).map(|number| crowd.key(number)) {
                        let removed = table.remove(&key.to_be_bytes());
                        prop_assert_eq!(removed.map(|word| word.number()), model.remove(&key).then_some(key));
                        lasting.remove(&key);
                    }
                }
                Step::Scan => {
                    if cursor == 0 {
                        visited.clear();
                        lasting = model.clone();
                    }
                    cursor = table.scan(cursor, 60, |word| *visited.entry(word.number()).or_insert(0) += 1);
                    prop_assert!(cursor < PREFIX_END);
                    if cursor == 0 {
                        prop_assert!(lasting.iter().all(|key| visited.contains_key(key)));
                    }
                    prop_assert!(visited.values().all(|&times| times == 1));
                }
                Step::Random(seed) => {
                    let mut seed = seed;
                    let picked = table.random(&mut || { seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15); scramble(seed) });
                    prop_assert_eq!(picked.is_some(), !model.is_empty());
                    prop_assert!(picked.is_none_or(|word| model.contains(&word.number())));
                }
            }
            table.check();
            prop_assert_eq!(table.len(), model.len());
            prop_assert!(model.iter().all(|key| table.contains(&key.to_be_bytes())));
            prop_assert!(table.iter().all(|word| model.contains(&word.number())));
        }
        let mut left: Vec<_> = table.into_iter().map(|word| word.number()).collect();
        left.sort_unstable();
        prop_assert!(left.into_iter().eq(model));
    }

    #[test]
    fn what_is_extracted_is_all_that_was_chosen(
        crowd in any_crowd(),
        count in 0..1800u64,
        rounds in prop::collection::vec((any::<u64>(), 1..12u64), 1..6),
    ) {
        let mut segment = Segment::new(Range53::WHOLE);
        let mut model: BTreeSet<_> = (0..count).map(|number| crowd.key(number)).collect();
        model.iter().for_each(|&key| segment.insert(key, Word::of(key), &Exact));
        for (seed, one_in) in rounds {
            let chosen = |key: u64| scramble(key ^ seed).is_multiple_of(one_in);
            let mut taken = Vec::new();
            segment.extract(&Exact, |word| chosen(word.number()), |word| taken.push(word.number()));
            segment.check(&Exact);
            taken.sort_unstable();
            let expected: Vec<_> = model.iter().copied().filter(|&key| chosen(key)).collect();
            prop_assert_eq!(taken, expected);
            model.retain(|&key| !chosen(key));
            let mut left: Vec<_> = segment.from_random(seed).map(Word::number).collect();
            left.sort_unstable();
            prop_assert!(left.into_iter().eq(model.iter().copied()));
        }
    }

    #[test]
    fn a_directory_finds_what_covers(
        skewed in any::<bool>(),
        first_slot in 0..200u64,
        steps in prop::collection::vec((any::<u64>(), 0..4u8), 1..300),
    ) {
        // A shard's directory covers any run of slots; here each begins as a segment.
        let slot_bits = (PREFIX_BITS - SLOT_BITS) as u8;
        let whole = (first_slot..first_slot + 3).map(|slot| Range53 { start: slot << slot_bits, bits: slot_bits });
        let mut directory = Directory::new(whole.collect());
        let (start, end) = (directory.start(), directory.end());
        for (random, what) in steps {
            let offset = fraction(random, (end - start) as usize) as u64;
            let prefix = start + if skewed { offset >> 20 } else { offset };
            let index = directory.find(prefix);
            let range = *directory.get(index).unwrap();
            prop_assert!(range.contains(prefix));
            match what {
                0 if index + 1 < directory.len() => {
                    if let Some(joined) = range.joined(*directory.get(index + 1).unwrap()) {
                        directory.splice(index..index + 2, [joined]);
                    }
                }
                1 if index > 0 => {
                    let rest = directory.split_off(range.start);
                    directory.check();
                    rest.check();
                    directory.append(rest);
                }
                _ if range.bits > 0 => {
                    let (low, high) = range.halves();
                    prop_assert_eq!(directory.replace(index, [low, high]), range);
                }
                _ => {}
            }
            directory.check();
            prop_assert_eq!((directory.start(), directory.end()), (start, end));
        }
    }

    #[test]
    fn a_segment_splits_and_merges(crowd in any_crowd(), count in 0..3000u64) {
        let mut segment = Segment::new(Range53::WHOLE);
        let keys: BTreeSet<_> = (0..count).map(|number| crowd.key(number)).collect();
        for &key in &keys {
            segment.insert(key, Word::of(key), &Exact);
        }
        segment.check(&Exact);
        let (low, high) = segment.split(&Exact);
        low.check(&Exact);
        high.check(&Exact);
        prop_assert!(low.iter().all(|word| word.number() >> 63 == 0) && high.iter().all(|word| word.number() >> 63 == 1));
        let merged = low.merge(high, &Exact);
        merged.check(&Exact);
        let mut left: Vec<_> = merged.into_iter().map(|word| word.number()).collect();
        left.sort_unstable();
        prop_assert!(left.into_iter().eq(keys));
    }
}

#[test]
fn entries_are_counted_by_parts_of_the_range() {
    for (crowd, count) in [(Crowd::Even, 900), (Crowd::Runs, 600), (Crowd::FewPositions, 60), (Crowd::OneSlot, 500)] {
        let mut segment = Segment::new(Range53::WHOLE);
        let keys: BTreeSet<u64> = (0..count).map(|number| crowd.key(number)).collect();
        keys.iter().for_each(|key| segment.insert(*key, Word::of(*key), &Exact));
        // From all of the range down to single buckets and less, around every key of some.
        for key in keys.iter().step_by(37) {
            for bits in (0..=PREFIX_BITS as u8).rev().step_by(3) {
                let start = prefix53(*key) >> bits << bits;
                let part = Range53 { start, bits };
                let expected = keys.iter().filter(|key| part.contains(prefix53(**key))).count();
                assert_eq!(segment.len_within(part, &Exact), expected, "{crowd:?} {part:?}");
            }
        }
    }
}

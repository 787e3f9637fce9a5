use super::super::format::{write_effect, write_ids};
use super::super::recovery::LogEntry;
use super::*;
use crate::shown::{RECEIPTS, first_ids};

fn entry(sequence: u64, kind: EntryKind, positions: &[u64]) -> LogEntry {
    let mut items = Vec::new();
    for position in positions {
        write_effect(&mut items, 0, *position, |body| body.extend_from_slice(&sequence.to_le_bytes()));
    }
    LogEntry { sequence, now_ms: sequence / 2, kind, items: items.into() }
}

fn effects(sequences: &[u64]) -> Entries {
    let entries = sequences.iter().map(|sequence| entry(*sequence, EntryKind::Effects, &[sequence << 60])).collect();
    Entries { entries, damage: None }
}

fn refusal(entries: Entries, floor: u64, cut: u64) -> String {
    LogTail::new(entries, floor, cut).expect_err("it must be refused")
}

#[test]
fn nothing_may_be_missing() {
    let tail = LogTail::new(effects(&[3, 4, 5, 6]), 4, 6).unwrap();
    assert_eq!((tail.sequence, tail.len()), (6, 2));
    assert!(LogTail::new(effects(&[3, 4]), 4, 4).unwrap().is_empty());
    assert_eq!(refusal(effects(&[1, 3]), 0, 0), "the log lacks writes 2 to 2");
    assert_eq!(refusal(effects(&[9]), 4, 4), "the log lacks writes 5 to 8");
    assert_eq!(refusal(effects(&[5, 5]), 4, 4), "the log has write 5 twice");
    assert!(refusal(effects(&[5]), 4, 6).contains("ends at write 5"));
    assert!(refusal(effects(&[]), 4, 5).contains("ends at write 4"));
    let damaged = Entries { damage: Some("a hole".to_owned()), ..effects(&[5]) };
    assert!(refusal(damaged, 4, 5).starts_with("a hole"));
}

#[test]
fn what_was_not_logged_ends_it() {
    let mut entries = effects(&[1, 2, 4]);
    entries.entries.insert(2, entry(3, EntryKind::Resume, &[]));
    assert_eq!(LogTail::new(entries.clone(), 0, 0).unwrap().sequence, 2);
    assert_eq!(LogTail::new(entries.clone(), 3, 4).unwrap().sequence, 4);
    assert!(refusal(entries, 0, 4).contains("ends at write 2"));
}

#[test]
fn effects_are_found_by_their_place_in_the_order_of_writes() {
    let (low, high) = Range53::WHOLE.halves();
    let entries = Entries {
        entries: vec![
            entry(1, EntryKind::Effects, &[u64::MAX, 0, u64::MAX]),
            entry(2, EntryKind::Effects, &[0]),
            entry(3, EntryKind::Effects, &[u64::MAX, 1]),
        ],
        damage: None,
    };
    let tail = LogTail::new(entries, 0, 3).unwrap();
    let found = |range, after| -> Vec<_> {
        tail.effects(0, range, after).into_iter().map(|effect| (effect.sequence, effect.position)).collect()
    };
    assert_eq!(found(low, 0), [(1, 0), (2, 0), (3, 1)]);
    assert_eq!(found(high, 0), [(1, u64::MAX), (1, u64::MAX), (3, u64::MAX)]);
    assert_eq!(found(low, 1), [(2, 0), (3, 1)]);
    assert!(tail.touches(0, low) && !tail.touches(1, low) && !tail.touches(0, low.halves().1));
}

#[test]
fn the_last_ids_count() {
    let mut items = Vec::new();
    let plain = Shown { ids: first_ids(), followed: 0, next: 17 };
    let mut ids = first_ids();
    ids[..RECEIPTS].iter_mut().zip(40..).for_each(|(shown, id)| *shown = id);
    let staged = Shown { ids, followed: 0xffff_0001, next: 80 };
    write_ids(&mut items, &plain);
    write_ids(&mut items, &staged);
    let entry = LogEntry { sequence: 1, now_ms: 0, kind: EntryKind::Effects, items: items.into() };
    let tail = LogTail::new(Entries { entries: vec![entry], damage: None }, 0, 1).unwrap();
    assert_eq!(tail.shown, Some(staged));
}

#[test]
fn what_can_be_read_before_a_problem_is_whole_entries() {
    let mut entries = effects(&[1, 2, 3]).entries;
    let broken = entry(2, EntryKind::Effects, &[7, 8]);
    entries[1].items = broken.items.slice(..broken.items.len() - 1);
    let (tail, problem) = LogTail::prefix(entries, 0);
    assert!(problem.is_some_and(|problem| problem.contains("write 2")));
    assert_eq!((tail.sequence, tail.effects(0, Range53::WHOLE, 0).len()), (1, 1));
    let (tail, problem) = LogTail::prefix(effects(&[u64::MAX, u64::MAX]).entries, u64::MAX - 1);
    assert!(problem.is_some_and(|problem| problem.contains("twice")));
    assert_eq!(tail.sequence, u64::MAX);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    #[test]
    fn dealt_out_they_are_found_in_every_range(
        seed: u64,
        count in DEALT_MIN - 1..DEALT_MIN * 3,
        keyspaces in 1u32..40,
        crowded: bool,
    ) {
        let mut state = seed | 1;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut effects: Vec<Place> = (0..count as u32)
            .map(|entry| {
                let position = if crowded { random() >> 14 | (random() % 3) << 50 } else { random() };
                let keyspace = (random() >> 32) as u32 % keyspaces * 5;
                Place { keyspace, position, entry, start: 0 }
            })
            .collect();
        let mut expected = effects.clone();
        expected.sort();
        deal(&mut effects);
        let tail = LogTail { effects, ..LogTail::default() };
        for _ in 0..200 {
            let (keyspace, bits) = (random() as u32 % keyspaces * 5, random() as u32 % 54);
            let place = expected[random() as usize % expected.len()];
            let range = Range53 { start: prefix53(place.position) >> bits << bits, bits: bits as u8 };
            for keyspace in [keyspace, place.keyspace] {
                let inside = |place: &&Place| place.keyspace == keyspace && range.contains(prefix53(place.position));
                let mut found: Vec<&Place> = tail.of(keyspace, range).collect();
                found.sort();
                proptest::prop_assert_eq!(&found, &expected.iter().filter(inside).collect::<Vec<_>>());
                proptest::prop_assert_eq!(tail.touches(keyspace, range), !found.is_empty());
            }
        }
    }
}

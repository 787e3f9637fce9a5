//! An array does as a map.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::*;
use crate::entry::{Buffer, size_class};

type Model = BTreeMap<u64, Vec<u8>>;

fn text(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(..8) {
        0 | 1 => rng.i64(-100_000..100_000).to_string().into(),
        2 => rng.i64(..).to_string().into(),
        3 => format!("{}.{:03}", rng.i16(..), rng.u16(..1000)).into(),
        4 => vec![b'l'; rng.usize(INLINE_MAX - 2..INLINE_MAX + 200)],
        _ => (0..rng.usize(..12)).map(|_| rng.u8(..)).collect(),
    }
}

fn content(array: &Array) -> Model {
    let mut content = Model::new();
    array.visit(0, INDEX_MAX, false, |index, element| {
        assert!(content.insert(index, element.to_vec()).is_none());
        false
    });
    content
}

/// The bytes that an array owns, counted one by one.
fn counted_bytes(array: &Array) -> usize {
    match array.0.view() {
        FormRef::Packed(small) => small.storage.heap_bytes(),
        FormRef::Large(sliced) => {
            let slices: usize = sliced.slices.iter().map(|(_, slice)| slice.heap_bytes()).sum();
            let large: usize = sliced.large.iter().map(|(_, text)| Buffer::heap_bytes(text)).sum();
            assert_eq!(sliced.bytes, slices + large);
            assert_eq!(sliced.count, sliced.slices.iter().map(|(_, slice)| slice.len()).sum::<usize>());
            assert!(sliced.slices.iter().all(|(_, slice)| slice.len() > 0));
            let marked = sliced.slices.iter().map(|(_, slice)| {
                let mut marked = 0;
                slice.visit(0, u16::MAX, false, |_, code, _| {
                    marked += usize::from(code == LARGE);
                    false
                });
                marked
            });
            assert_eq!(marked.sum::<usize>(), sliced.large.len());
            size_class(size_of::<Sliced>()) + slices + large + sliced.slices.heap_bytes() + sliced.large.heap_bytes()
        }
    }
}

#[track_caller]
fn check(array: &Array, model: &Model) {
    assert_eq!(array.len(), model.len());
    assert_eq!(array.highest(), model.keys().last().copied());
    assert_eq!(&content(array), model);
    assert_eq!(array.heap_bytes(), counted_bytes(array));
}

#[test]
fn it_does_as_a_map() {
    // How wide the indices are, and where they begin.
    for (seed, span, start) in [
        (1, 60, 0),
        (2, 700, 5000),
        (3, 20_000, 0),
        (4, 4096, 4096 * 9 - 50),
        (5, u64::MAX / 2, 0),
        (6, 1 << 20, u64::MAX - (1 << 21)),
        (7, 500, u64::MAX - 501),
    ] {
        let mut rng = Rng::with_seed(seed);
        let (mut array, mut model) = (Array::new(), Model::new());
        let mut next = start;
        for round in 0..6000 {
            let index = start + rng.u64(..=span);
            match rng.u8(..100) {
                0..40 => {
                    let text = text(&mut rng);
                    assert_eq!(array.set(index, &text), model.insert(index, text).is_none());
                }
                // In order, as insertions come.
                40..65 => {
                    let text = text(&mut rng);
                    assert_eq!(array.set(next, &text), model.insert(next, text).is_none());
                    next = start + (next - start + 1) % span.min(3000);
                }
                65..90 => assert_eq!(array.remove(index), model.remove(&index).is_some()),
                90..93 => {
                    let high = index.saturating_add(rng.u64(..=span / 8));
                    let before = model.len();
                    model.retain(|other, _| !(index..=high).contains(other));
                    assert_eq!(array.remove_range(index, high), before - model.len());
                }
                93..95 => {
                    // Nearly all of it.
                    let keep: Vec<u64> = model.keys().copied().skip(rng.usize(..5)).take(rng.usize(..20)).collect();
                    let (low, high) = (keep.first().copied().unwrap_or(5), keep.last().copied().unwrap_or(0));
                    if rng.u8(..4) == 0 && low <= high {
                        let mut removed = array.remove_range(high.saturating_add(1), INDEX_MAX);
                        removed += if low > 0 { array.remove_range(0, low - 1) } else { 0 };
                        let before = model.len();
                        model.retain(|other, _| (low..=high).contains(other));
                        assert_eq!(removed, before - model.len());
                    }
                }
                95 => array.set_last_insert(Some(index)),
                96 => {
                    let copy = array.clone();
                    check(&copy, &model);
                    assert_eq!(copy.last_insert(), array.last_insert());
                    array = copy;
                }
                _ => {
                    let (low, high, reverse) = (start + rng.u64(..=span), start + rng.u64(..=span), rng.bool());
                    let mut expected: Vec<_> = match low <= high {
                        true => model.range(low..=high).map(|(index, text)| (*index, text.clone())).collect(),
                        false => Vec::new(),
                    };
                    if reverse {
                        expected.reverse();
                    }
                    expected.truncate(rng.usize(1..50));
                    let mut seen = Vec::new();
                    let most = expected.len().max(1);
                    array.visit(low, high, reverse, |index, element| {
                        seen.push((index, element.to_vec()));
                        seen.len() == most
                    });
                    assert_eq!(seen, expected);
                }
            }
            assert_eq!(array.get(index).map(Element::to_vec).as_ref(), model.get(&index));
            if round % 100 == 0 {
                check(&array, &model);
            }
        }
        check(&array, &model);
        let parts = array.len();
        let mut steps = 0;
        while !array.dismantle(100) {
            steps += 1;
        }
        assert!(array.is_empty() && array.heap_bytes() == 0 && steps <= parts);
    }
}

#[test]
fn what_a_packed_array_remembers_stays() {
    let mut array = Array::new();
    assert_eq!((array.heap_bytes(), array.last_insert(), array.highest()), (0, None, None));
    array.set_last_insert(Some(7));
    assert_eq!((array.is_empty(), array.last_insert(), array.is_packed()), (true, Some(7), true));
    for index in 0..200 {
        array.set(index * 100, b"v");
        assert_eq!(array.last_insert(), Some(7));
    }
    assert!(!array.is_packed());
    assert_eq!(array.remove_range(100, u64::MAX - 1), 199);
    assert!(array.is_packed(), "one element is left");
    assert_eq!(array.last_insert(), Some(7));
    array.set_last_insert(None);
    assert_eq!((array.last_insert(), content(&array)), (None, Model::from([(0, b"v".to_vec())])));
}

/// Rings as Redis lays them out: the elements, the last insertion, the size, and what is left.
#[test]
fn rings_are_laid_out() {
    for (elements, last, size, moves, left, left_last) in [
        ("a b c", Some(2), 3, None, "a b c", Some(2)),
        ("a b c", Some(2), 5, None, "a b c", Some(2)),
        ("d b c", Some(0), 5, Some(3), "b c d", Some(2)),
        ("d b c", Some(0), 2, Some(2), "c d", Some(1)),
        ("a b c", None, 2, Some(2), "b c", Some(1)),
        ("a b c", None, 5, None, "a b c", None),
        ("a - c", Some(2), 2, Some(2), "c", Some(0)),
        ("a b - d", Some(1), 9, Some(4), "d a b", Some(2)),
        ("a b c", Some(7), 2, Some(2), "a b", Some(1)),
        ("- - c", Some(0), 2, Some(2), "", None),
    ] {
        let mut array = Array::new();
        for (index, text) in (0..).zip(elements.split(' ')).filter(|(_, text)| *text != "-") {
            array.set(index, text.as_bytes());
        }
        array.set_last_insert(last);
        let shown = format!("{elements} {last:?} {size}");
        assert_eq!(array.ring_moves(size), moves, "{shown}");
        if let Some(most) = moves {
            array.lay_out_ring(most);
        }
        let texts: Vec<_> = content(&array).into_values().map(|text| String::from_utf8(text).unwrap()).collect();
        assert_eq!((texts.join(" ").as_str(), array.last_insert()), (left, left_last), "{shown}");
    }
}

/// Bytes of an element, of at most 0.9 of what Redis 8.10.2 takes by `MEMORY USAGE`: 8.04 next to each other, 32.07 if texts
/// have 20 bytes; and with one at each thousandth index 20.68, or 44.68.
#[test]
fn elements_take_less_memory_than_in_redis() {
    const COUNT: u64 = 100_000;
    let fill = |index: fn(u64) -> u64, text: fn(u64) -> String| {
        let mut array = Array::new();
        (0..COUNT).for_each(|n| _ = array.set(index(n), text(n).as_bytes()));
        assert_eq!(array.heap_bytes(), counted_bytes(&array));
        array.heap_bytes() as f64 / COUNT as f64
    };
    let next = |n: u64| n;
    let far = |n: u64| 1000 * n;
    for (name, ours, theirs) in [
        ("integers", fill(next, |n| (10 * n).to_string()), 8.04),
        ("decimals", fill(next, |n| format!("{}.{:02}", n / 100, n % 100)), 8.04),
        ("texts of 5 bytes", fill(next, |n| format!("v{:04}", n % 10_000)), 8.04),
        ("texts of 20 bytes", fill(next, |n| format!("value:{n:014}")), 32.07),
        ("far integers", fill(far, |n| (10 * n).to_string()), 20.68),
        ("far texts of 20 bytes", fill(far, |n| format!("value:{n:014}")), 44.68),
    ] {
        println!("{name}: {ours:.2} bytes, {theirs} in Redis");
        assert!(ours <= 0.9 * theirs, "{name}: {ours} bytes, {theirs} in Redis");
    }
}

#[test]
fn the_bytes_of_large_texts_are_known_by_their_range() {
    let mut array = Array::new();
    (0..1000).for_each(|index| _ = array.set(index, b"small"));
    assert_eq!(array.large_bytes(0, INDEX_MAX, 10), 0);
    for index in [5, 700, u64::MAX - 1] {
        array.set(index, &[b'x'; 100_000]);
    }
    let of = |low, high, looks| array.large_bytes(low, high, looks) / 100_000;
    assert_eq!((of(0, 4, 9), of(5, 5, 9), of(6, 699, 9), of(0, 700, 9), of(700, INDEX_MAX, 9)), (0, 1, 0, 2, 2));
    assert!(array.large_bytes(0, INDEX_MAX, 2) >= array.heap_bytes() - 1000);
}

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::entry::block_size;

/// The fields and values of `golden/listpack.bin`, which is what `DUMP` of Redis 7.0.15 gave for a hash with them.
fn golden() -> Vec<Vec<u8>> {
    let xs = |count| "x".repeat(count);
    let values = [
        "0",
        "127",
        "128",
        "-1",
        "-4096",
        "4095",
        "4096",
        "-4097",
        "32767",
        "-32768",
        "32768",
        "-32769",
        "8388607",
        "-8388608",
        "8388608",
        "2147483647",
        "-2147483648",
        "2147483648",
        "9223372036854775807",
        "-9223372036854775808",
        "9223372036854775808",
        "",
        "a",
        &xs(63),
        &xs(64),
        "-0",
        "007",
        &xs(126),
        &xs(125),
        &xs(4095),
        &xs(4096),
    ];
    let field = |i| if i == 3 { "77".to_owned() } else { format!("f{i}") };
    values.iter().enumerate().flat_map(|(i, value)| [field(i).into_bytes(), value.as_bytes().to_vec()]).collect()
}

fn texts(listpack: &Listpack) -> Vec<Vec<u8>> {
    listpack.view().iter().map(Item::to_vec).collect()
}

#[test]
fn bytes_are_those_of_redis() {
    let bytes = include_bytes!("../golden/listpack.bin");
    let mut built = Listpack::new();
    for text in golden() {
        built.push_back(Item::parse(&text));
    }
    assert!(built.view().bytes() == bytes);
    let loaded = Listpack::from_bytes(bytes).unwrap();
    assert_eq!(texts(&loaded), golden());
    assert!(loaded.view().bytes() == bytes);
}

#[test]
fn an_empty_one_has_redis_bytes_and_no_storage() {
    let mut listpack = Listpack::new();
    assert_eq!(listpack.view().bytes(), [7, 0, 0, 0, 0, 0, 0xFF]);
    listpack.push_front(Item::Int(3));
    assert_eq!(listpack.view().bytes(), [9, 0, 0, 0, 1, 0, 3, 1, 0xFF]);
    listpack.remove(HEADER, 1);
    assert_eq!((listpack.heap_bytes(), listpack.view().len()), (0, 0));
    assert_eq!(Listpack::from_bytes(EMPTY).unwrap().heap_bytes(), 0);
}

#[test]
fn an_uncounted_or_wasteful_one_is_normalized() {
    // The count is unknown, and 5 is written with 16 bits.
    let foreign = [11, 0, 0, 0, 0xFF, 0xFF, 0xF1, 5, 0, 3, 0xFF];
    let listpack = Listpack::from_bytes(&foreign).unwrap();
    assert_eq!(listpack.view().bytes(), [9, 0, 0, 0, 1, 0, 5, 1, 0xFF]);
}

#[test]
fn more_entries_than_the_header_can_count() {
    let mut listpack = Listpack::new();
    for number in 0..70_000 {
        listpack.push_back(Item::Int(number % 128));
    }
    assert_eq!(listpack.view().len(), 70_000);
    assert_eq!(listpack.view().get(69_999), Some(Item::Int(69_999 % 128)));
    listpack.remove(HEADER, 10_000);
    assert_eq!(listpack.view().len(), 60_000);
    assert_eq!(Listpack::from_bytes(listpack.view().bytes()).unwrap().view().len(), 60_000);
}

#[derive(Clone, Debug)]
enum Step {
    Insert(usize, Vec<u8>),
    Pair(usize, Vec<u8>, Vec<u8>),
    Replace(usize, Vec<u8>),
    Remove(usize, usize),
    Push(Vec<Vec<u8>>),
    Move(usize, usize, usize),
    Split(usize),
    Find(Vec<u8>, usize),
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        (-5000i64..5000).prop_map(|number| number.to_string().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..10),
        (0usize..5000).prop_map(|len| vec![b'y'; len]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<usize>();
    prop_oneof![
        3 => (index, text()).prop_map(|(i, text)| Step::Insert(i, text)),
        1 => (index, text(), text()).prop_map(|(i, a, b)| Step::Pair(i, a, b)),
        1 => (index, text()).prop_map(|(i, text)| Step::Replace(i, text)),
        1 => (index, 0usize..4).prop_map(|(i, count)| Step::Remove(i, count)),
        1 => prop::collection::vec(text(), 0..25).prop_map(Step::Push),
        1 => (index, 0usize..4, index).prop_map(|(i, count, to)| Step::Move(i, count, to)),
        1 => index.prop_map(Step::Split),
        1 => (text(), 0usize..2).prop_map(|(text, skip)| Step::Find(text, skip)),
    ]
}

fn position(listpack: &Listpack, index: usize) -> usize {
    listpack.view().seek(index).unwrap_or(listpack.view().end())
}

proptest! {
    #[test]
    fn behaves_as_a_sequence(steps in prop::collection::vec(step(), 1..60)) {
        let (mut listpack, mut model) = (Listpack::new(), VecDeque::<Vec<u8>>::new());
        for step in steps {
            match step {
                Step::Insert(index, text) => {
                    let index = index % (model.len() + 1);
                    let at = position(&listpack, index);
                    let after = listpack.insert(at, Item::Bytes(&text));
                    prop_assert_eq!(after, position(&listpack, index + 1));
                    model.insert(index, text);
                }
                Step::Pair(index, first, second) => {
                    let index = index % (model.len() + 1);
                    listpack.insert_pair(position(&listpack, index), Item::parse(&first), Item::parse(&second));
                    model.insert(index, second);
                    model.insert(index, first);
                }
                Step::Replace(index, text) if !model.is_empty() => {
                    let index = index % model.len();
                    listpack.replace(position(&listpack, index), Item::parse(&text));
                    model[index] = text;
                }
                Step::Replace(..) => {}
                Step::Remove(index, count) => {
                    let index = index % (model.len() + 1);
                    listpack.remove(position(&listpack, index), count);
                    model.drain(index..(index + count).min(model.len()));
                }
                Step::Push(texts) => {
                    listpack.push_all(texts.iter().map(|text| Item::Bytes(text)));
                    model.extend(texts);
                }
                Step::Move(index, count, to) => {
                    let index = index % (model.len() + 1);
                    let (count, to) = (count.min(model.len() - index), to % (model.len() + 1));
                    listpack.move_run(position(&listpack, index), count, position(&listpack, to));
                    // Inside the run there is nowhere to move it.
                    if to < index || to > index + count {
                        let run: Vec<Vec<u8>> = model.drain(index..index + count).collect();
                        let to = if to < index { to } else { to - count };
                        run.into_iter().rev().for_each(|text| model.insert(to, text));
                    }
                }
                Step::Split(index) => {
                    let index = index % (model.len() + 1);
                    let second = listpack.split_off(position(&listpack, index));
                    prop_assert_eq!(listpack.view().len(), index);
                    let mut joined = second;
                    joined.append(listpack.view());
                    listpack = joined;
                    model.rotate_left(index);
                }
                Step::Find(text, skip) => {
                    let known = model.get(text.len() % model.len().max(1)).cloned();
                    for wanted in [Some(text), known].into_iter().flatten() {
                        let index = (0..model.len()).step_by(skip + 1).find(|&i| model[i] == wanted);
                        let found = listpack.view().find(HEADER, &wanted, skip);
                        prop_assert_eq!(found, index.and_then(|index| listpack.view().seek(index)));
                    }
                }
            }
            prop_assert_eq!(texts(&listpack), Vec::from(model.clone()));
            prop_assert!(listpack.view().iter().rev().map(Item::to_vec).eq(model.iter().rev().cloned()));
            let expected = if model.is_empty() { 0 } else { block_size(listpack.view().bytes_len()) };
            prop_assert_eq!(listpack.heap_bytes(), expected);
            let again = Listpack::from_bytes(listpack.view().bytes()).unwrap();
            prop_assert_eq!(again.view().bytes(), listpack.view().bytes());
        }
    }

    #[test]
    fn damaged_bytes_are_refused_or_read_without_a_panic(
        at in 0..8877usize, value in any::<u8>(), cut in 0..8877usize, noise in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let golden = include_bytes!("../golden/listpack.bin");
        let mut bytes = golden.to_vec();
        bytes[at] = value;
        let mut small = noise.clone();
        small.splice(0..0, [(noise.len() + 7) as u8, 0, 0, 0, 0xFF, 0xFF]);
        small.push(0xFF);
        for bytes in [&bytes[..], &bytes[..cut], &noise, &small] {
            if let Ok(listpack) = Listpack::from_bytes(bytes) {
                prop_assert_eq!(listpack.view().iter().count(), listpack.view().len());
                prop_assert_eq!(listpack.view().iter().rev().count(), listpack.view().len());
            }
        }
    }
}

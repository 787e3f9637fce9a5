use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn limits(list_max_listpack_size: i32) -> Limits {
    Limits { list_max_listpack_size, ..Limits::default() }
}

fn texts(list: &List) -> Vec<Vec<u8>> {
    list.iter().map(Item::to_vec).collect()
}

/// Redis 7.2: `listTypeTryConvertListpack`, `listTypeTryConvertQuicklist`.
#[test]
fn the_form_changes_at_the_thresholds_of_redis() {
    let by_count = limits(4);
    let mut list = List::new();
    for _ in 0..4 {
        list.push(End::Tail, b"a", &by_count);
        assert_eq!(list.encoding(), "listpack");
    }
    list.push(End::Tail, b"a", &by_count);
    assert_eq!(list.encoding(), "quicklist");
    for left in [4, 3] {
        list.pop(End::Tail, &by_count, |_| ()).unwrap();
        assert_eq!((list.len(), list.encoding()), (left, "quicklist"));
    }
    list.pop(End::Tail, &by_count, |_| ()).unwrap();
    assert_eq!((list.len(), list.encoding()), (2, "listpack"));

    // If the count is limited, only half of that matters.
    let mut wide = List::new();
    for _ in 0..5 {
        wide.push(End::Tail, &[b'x'; 2500], &by_count);
    }
    wide.drop_end(End::Tail, 2, &by_count);
    assert_eq!((wide.len(), wide.encoding()), (3, "quicklist"));
    wide.drop_end(End::Tail, 1, &by_count);
    assert_eq!((wide.len(), wide.encoding()), (2, "listpack"));

    // A listpack's 7 bytes, and the text's 8185, are the 8192 that still fit.
    let by_size = limits(-2);
    for (len, encoding) in [(8185, "listpack"), (8186, "quicklist")] {
        let mut list = List::new();
        list.push(End::Head, &vec![b'x'; len], &by_size);
        assert_eq!(list.encoding(), encoding);
    }
}

#[test]
fn several_values_are_looked_at_together() {
    let mut list = List::new();
    list.push_all(End::Tail, [&b"a"[..], b"b", b"c"], &limits(2));
    assert_eq!((list.len(), list.encoding()), (3, "quicklist"));
}

#[test]
fn values_pushed_together_stand_as_if_pushed_alone() {
    let limits = limits(-2);
    let mut rng = fastrand::Rng::with_seed(5);
    let (mut together, mut alone) = (List::new(), List::new());
    for _ in 0..60 {
        let values: Vec<Vec<u8>> = (0..rng.usize(1..200)).map(|_| vec![b'x'; rng.usize(1..120)]).collect();
        let end = if rng.bool() { End::Head } else { End::Tail };
        together.push_all(end, values.iter().map(Vec::as_slice), &limits);
        values.iter().for_each(|value| alone.push(end, value, &limits));
        assert_eq!(together.heap_bytes(), alone.heap_bytes());
        let lens = |list: &List| list.chunks().map(ChunkRef::len).collect::<Vec<_>>();
        assert_eq!(lens(&together), lens(&alone));
    }
    assert_eq!(texts(&together), texts(&alone));
}

#[test]
fn a_large_element_has_a_chunk_of_its_own() {
    let limits = limits(-2);
    let mut list = List::new();
    let large = vec![b'x'; 100_000];
    for value in [&b"a"[..], &large, b"b"] {
        list.push(End::Tail, value, &limits);
    }
    assert_eq!(list.chunks().filter(|chunk| matches!(chunk, ChunkRef::Plain(_))).count(), 1);
    assert!(list.set(1, b"small", &limits));
    assert_eq!(list.encoding(), "listpack");
    assert_eq!(texts(&list), [&b"a"[..], b"small", b"b"]);
}

#[test]
fn a_long_list_is_dense_and_is_freed_in_pieces() {
    let limits = limits(-2);
    let mut list = List::new();
    for number in 0..100_000 {
        list.push(End::Tail, format!("element:{number:024}").as_bytes(), &limits);
    }
    assert!(list.heap_bytes() < 100_000 * 36, "{} bytes", list.heap_bytes());
    let mut pieces = 1;
    while !list.dismantle(1000) {
        pieces += 1;
    }
    assert!((80..=100).contains(&pieces), "{pieces}");
    assert_eq!((list.len(), list.heap_bytes()), (0, 0));
}

#[test]
fn chunks_can_be_stored_and_loaded() {
    let limits = limits(3);
    let mut list = List::new();
    for number in 0..20 {
        list.push(End::Tail, number.to_string().as_bytes(), &limits);
    }
    list.insert(10, &vec![b'l'; 9000], &limits);
    let mut loaded = List::new();
    for chunk in list.chunks() {
        match chunk {
            ChunkRef::Packed(view) => loaded.append_listpack(view.bytes()).unwrap(),
            ChunkRef::Short(view) => loaded.append_listpack(&view.to_listpack_bytes()).unwrap(),
            ChunkRef::Plain(value) => loaded.append_plain(value),
        }
    }
    loaded.loaded(&limits);
    assert_eq!(texts(&loaded), texts(&list));
    assert!(loaded.append_listpack(b"nonsense").is_err());
    let mut short = List::new();
    short.append_listpack(list.chunks().next().unwrap().view().unwrap().bytes()).unwrap();
    short.loaded(&limits);
    assert_eq!(short.encoding(), "listpack");
}

/// Whether a list takes less than a listpack.
fn is_short(list: &List) -> bool {
    list.chunks().any(|chunk| matches!(chunk, ChunkRef::Short(_)))
}

#[test]
fn a_small_list_takes_one_byte_beside_each_element() {
    let limits = limits(-2);
    let (mut list, value) = (List::new(), [b'x'; 32]);
    (0..20).for_each(|_| list.push(End::Head, &value, &limits));
    assert_eq!((list.heap_bytes(), list.encoding()), (664, "listpack"));
    // One element too many, or too long.
    let mut count = 20;
    while is_short(&list) {
        list.push(End::Head, &value, &limits);
        count += 1;
    }
    assert_eq!((count, list.len()), (31, 31));
    let mut long = List::new();
    long.push(End::Tail, b"12", &limits);
    long.push(End::Tail, &[b'y'; 240], &limits);
    assert!(!is_short(&long));
    // It is short again when it has shrunk.
    for left in (0..31).rev() {
        list.drop_end(End::Tail, 1, &limits);
        assert_eq!((list.len(), is_short(&list)), (left, (1..15).contains(&left)));
    }
    assert!(long.set(1, &value, &limits) && is_short(&long));
    assert_eq!(texts(&long), [&b"12"[..], &value]);
    // What is stored is a listpack.
    let mut loaded = List::new();
    let Some(ChunkRef::Short(short)) = long.chunks().next() else { panic!("it is short") };
    loaded.append_listpack(&short.to_listpack_bytes()).unwrap();
    loaded.loaded(&limits);
    assert!(is_short(&loaded) && texts(&loaded) == texts(&long));
}

#[derive(Clone, Debug)]
enum Step {
    Push(End, Vec<Vec<u8>>),
    Pop(End),
    Drop(End, usize),
    Set(usize, Vec<u8>),
    Insert(usize, Vec<u8>),
    Remove(usize, usize, End),
    Trim(usize, usize),
    Range(usize, usize, Vec<bool>),
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![Just(End::Head), Just(End::Tail)]
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        6 => (-3i64..300).prop_map(|number| number.to_string().into_bytes()),
        3 => (0usize..300).prop_map(|len| vec![b'm'; len]),
        1 => (3000usize..9000).prop_map(|len| vec![b'l'; len]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<usize>();
    prop_oneof![
        4 => (end(), prop::collection::vec(text(), 1..8)).prop_map(|(end, texts)| Step::Push(end, texts)),
        2 => end().prop_map(Step::Pop),
        1 => (end(), 0usize..5).prop_map(|(end, count)| Step::Drop(end, count)),
        2 => (index, text()).prop_map(|(index, text)| Step::Set(index, text)),
        3 => (index, text()).prop_map(|(index, text)| Step::Insert(index, text)),
        2 => (index, 0usize..4, end()).prop_map(|(index, count, end)| Step::Remove(index, count, end)),
        1 => (0usize..5, 0usize..5).prop_map(|(head, tail)| Step::Trim(head, tail)),
        2 => (index, index, prop::collection::vec(any::<bool>(), 0..20)).prop_map(|(a, b, ends)| Step::Range(a, b, ends)),
    ]
}

/// The value of `heap_bytes`, counted.
fn counted_bytes(list: &List) -> usize {
    let FormRef::Large(chunked) = list.0.view() else { return list.heap_bytes() };
    chunked.counted_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn behaves_as_a_deque(size in prop_oneof![Just(-2), Just(-1), 1i32..6], steps in prop::collection::vec(step(), 1..80)) {
        let limits = limits(size);
        let (mut list, mut model) = (List::new(), VecDeque::<Vec<u8>>::new());
        for step in steps {
            let len = model.len();
            match step {
                Step::Push(end, texts) => {
                    list.push_all(end, texts.iter().map(Vec::as_slice), &limits);
                    for text in texts {
                        match end {
                            End::Head => model.push_front(text),
                            End::Tail => model.push_back(text),
                        }
                    }
                }
                Step::Pop(end) => {
                    let expected = if end == End::Head { model.pop_front() } else { model.pop_back() };
                    prop_assert_eq!(list.pop(end, &limits, |item| item.to_vec()), expected);
                }
                Step::Drop(end, count) => {
                    list.drop_end(end, count, &limits);
                    let count = count.min(len);
                    match end {
                        End::Head => drop(model.drain(..count)),
                        End::Tail => model.truncate(len - count),
                    }
                }
                Step::Set(index, text) => {
                    let index = index % (len + 1);
                    prop_assert_eq!(list.set(index, &text, &limits), index < len);
                    if let Some(present) = model.get_mut(index) {
                        *present = text;
                    }
                }
                Step::Insert(index, text) => {
                    let index = index % (len + 1);
                    list.insert(index, &text, &limits);
                    model.insert(index, text);
                }
                Step::Remove(index, count, end) => {
                    let Some(value) = model.get(index % len.max(1)).cloned() else { continue };
                    prop_assert_eq!(list.position(&value), model.iter().position(|text| *text == value));
                    let removed = list.remove(&value, count, end, &limits);
                    let mut expected = 0;
                    while expected < count {
                        let found = match end {
                            End::Head => model.iter().position(|text| *text == value),
                            End::Tail => model.iter().rposition(|text| *text == value),
                        };
                        let Some(found) = found else { break };
                        model.remove(found);
                        expected += 1;
                    }
                    prop_assert_eq!(removed, expected);
                }
                Step::Trim(head, tail) => {
                    list.trim(head, len.saturating_sub(tail), &limits);
                    model.truncate(len.saturating_sub(tail).max(head.min(len)));
                    model.drain(..head.min(model.len()));
                }
                Step::Range(start, end, ends) => {
                    let (start, end) = (start % (len + 1), end % (len + 2));
                    let mut range = list.range(start, end);
                    let mut expected = model.iter().take(end).skip(start);
                    for back in ends {
                        let (item, text) =
                            if back { (range.next_back(), expected.next_back()) } else { (range.next(), expected.next()) };
                        prop_assert_eq!(item.map(Item::to_vec), text.cloned());
                        prop_assert_eq!(range.len(), expected.len());
                    }
                }
            }
            prop_assert_eq!(list.len(), model.len());
            prop_assert_eq!(texts(&list), Vec::from(model.clone()));
            prop_assert!(list.iter().rev().map(Item::to_vec).eq(model.iter().rev().cloned()));
            prop_assert_eq!(list.heap_bytes(), counted_bytes(&list));
            if let Some(last) = model.len().checked_sub(1) {
                prop_assert_eq!(list.get(last / 2).map(Item::to_vec), model.get(last / 2).cloned());
            }
        }
    }
}

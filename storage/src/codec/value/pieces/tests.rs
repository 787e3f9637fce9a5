use dormouse_types::filter::{Bloom, Cuckoo};
use dormouse_types::stream::{Deliveries, Head, Idempotency, Trim, Until};
use dormouse_types::vector_set::{Quantization, VectorShape};
use dormouse_types::{Array, Collection, End, Limits, SetExpiry, Stream, StreamId, VectorSet};
use proptest::prelude::*;

use super::*;

/// A step of a random schedule: what is done to the value, or that a piece is taken.
#[derive(Debug, Clone)]
enum Step {
    Take(usize),
    Set(u16),
    Change(u16),
    Remove(u16),
    /// For a list: at an end, in the middle, and of many at once.
    Push(bool, u16),
    Pop(bool, u16),
    Trim(u16, u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1usize..40_000).prop_map(Step::Take),
        3 => any::<u16>().prop_map(Step::Set),
        3 => any::<u16>().prop_map(Step::Change),
        3 => any::<u16>().prop_map(Step::Remove),
        2 => (any::<bool>(), any::<u16>()).prop_map(|(head, by)| Step::Push(head, by)),
        2 => (any::<bool>(), 0u16..500).prop_map(|(head, by)| Step::Pop(head, by)),
        1 => (0u16..2000, 0u16..2000).prop_map(|(from, to)| Step::Trim(from, to)),
    ]
}

fn name(number: u16) -> Vec<u8> {
    // Some look like numbers, some are longer than a listpack may hold.
    match number % 7 {
        0 => number.to_string().into_bytes(),
        1 => format!("{number:0>120}").into_bytes(),
        _ => format!("member {number}").into_bytes(),
    }
}

const SIZES: Sizes = Sizes::DEFAULT;
const LIMITS: Limits = Limits { seed: 7, list_max_listpack_size: 64, ..Limits::REDIS };

/// A vector that depends on a number.
fn vector(number: u16) -> Vec<f32> {
    (0..24).map(|at| ((u32::from(number) * 31 + at * 7) % 101) as f32 - 50.0).collect()
}

fn apply(object: &mut Object, step: &Step) {
    let end = |head: bool| if head { End::Head } else { End::Tail };
    match (object, step) {
        (Object::Hash(hash), Step::Set(number)) => {
            let _ = hash.set(&name(*number), b"new", &LIMITS);
        }
        (Object::Hash(hash), Step::Change(number)) => {
            // Only existing elements, and the value gets longer.
            let field = name(*number % 3000);
            if hash.contains(&field) {
                hash.set(&field, &[b'x'; 90], &LIMITS);
            }
        }
        (Object::Hash(hash), Step::Push(expires, number)) => {
            let _ = hash.set_expiry(&name(*number % 3000), expires.then_some(u64::from(*number) + 1));
        }
        (Object::Hash(hash), Step::Trim(from, _)) => drop(hash.sweep(u64::from(*from), 0, 2000, |_| {})),
        (Object::Hash(hash), Step::Remove(number)) => {
            let _ = hash.remove(&name(*number % 3000));
        }
        (Object::Set(set), Step::Set(number)) => {
            let _ = set.add(&name(*number), &LIMITS);
        }
        (Object::Set(set), Step::Remove(number)) => {
            let _ = set.remove(&name(*number % 3000));
        }
        (Object::SortedSet(set), Step::Set(number) | Step::Change(number)) => {
            let _ = set.insert(f64::from(*number), &name(*number % 4000), &LIMITS);
        }
        (Object::SortedSet(set), Step::Remove(number)) => {
            let _ = set.remove(&name(*number % 3000));
        }
        (Object::SortedSet(set), Step::Pop(head, count)) => {
            let (len, count) = (set.len(), usize::from(*count));
            let ranks = if *head { 0..count } else { len.saturating_sub(count)..len };
            set.remove_ranks(ranks, |_, _| {});
        }
        (Object::List(list), Step::Set(number)) => {
            list.set(usize::from(*number) % list.len().max(1), &[b'y'; 300], &LIMITS);
        }
        (Object::List(list), Step::Change(number)) if !list.is_empty() => {
            list.insert(usize::from(*number) % list.len(), b"inserted", &LIMITS);
        }
        (Object::List(list), Step::Remove(number)) => {
            list.remove(&name(*number % 3000), 2, end(number % 2 == 0), &LIMITS);
        }
        (Object::Stream(stream), Step::Set(number)) => {
            let id = stream.entries().next_id(u64::from(*number)).expect("ids are small");
            stream.append(id, [(&b"field"[..], &name(*number)[..])].into_iter(), &Limits::REDIS);
            let (producer, message) = (name(*number % 40), name(*number));
            if number % 2 == 0 && stream.message(&producer, &message, 0).is_none() {
                stream.add_message(&producer, &message, id, u64::from(*number) * 3);
            }
        }
        (Object::Stream(stream), Step::Remove(number)) => {
            let _ = stream.delete([StreamId::new(u64::from(*number % 3000), 0)].into_iter());
        }
        (Object::Stream(stream), Step::Change(number)) => {
            let _ = stream.change_group(b"second", |entries, group| {
                let (owner, _) = group.owner_or_new(&name(*number % 9), 3);
                let id = entries.range(StreamId::new(u64::from(*number % 3000), 0), StreamId::MAX).next();
                id.into_iter().for_each(|entry| group.deliver(entries, entry.id, Some(owner), i64::from(*number)));
                group.release(entries, StreamId::new(u64::from(*number % 1000), 0), Deliveries::Kept, number % 2 == 0);
            });
        }
        (Object::Stream(stream), Step::Push(_, number)) => {
            let group: &[u8] = if number % 2 == 0 { b"first" } else { b"second" };
            stream.change_group(group, |_, group| match number % 50 {
                0 => drop(group.delete_consumer(&name(*number % 9))),
                _ => drop(group.acknowledge(StreamId::new(u64::from(*number % 3000), 0))),
            });
        }
        (Object::Stream(stream), Step::Pop(head, count)) => {
            let until = Until::Length(stream.len().saturating_sub(usize::from(*count)));
            stream.trim(Trim { until, is_approximate: *head, limit: 0 });
            if stream.is_empty() {
                stream.set_head(Head::default());
            }
        }
        (Object::Filter(filter), Step::Set(number) | Step::Change(number)) => {
            let item = name(*number);
            filter.bloom_mut().into_iter().for_each(|bloom| _ = bloom.add(&item));
            filter.cuckoo_mut().into_iter().for_each(|cuckoo| cuckoo.insert([&item[..]].into_iter(), false, drop));
        }
        (Object::Filter(filter), Step::Remove(number)) => {
            filter.cuckoo_mut().into_iter().for_each(|cuckoo| _ = cuckoo.delete(&name(*number % 3000)));
        }
        // The last layer goes.
        (Object::Filter(filter), Step::Pop(..)) => {
            let cuckoo = filter.cuckoo_mut().into_iter();
            cuckoo.for_each(|cuckoo| (0..500).for_each(|number| _ = cuckoo.delete(&name(number))));
        }
        (Object::Filter(filter), Step::Push(_, number)) => {
            let at = usize::from(*number) % (filter.parts().len() - 300);
            let _ = filter.parts_mut().write(at, &[0x55; 300]);
        }
        (Object::Stream(stream), Step::Trim(from, _)) if from % 8 == 0 => drop(stream.remove_group(b"first")),
        (Object::Stream(stream), Step::Trim(from, to)) if from % 32 == 1 => {
            let size_max = u32::from(to % 9 + 1);
            stream.set_idempotency(Idempotency { size_max, ..Idempotency::REDIS });
        }
        (Object::Array(array), Step::Set(number)) => drop(array.set(3 * u64::from(*number), &name(*number))),
        // Some are in the slices no more.
        (Object::Array(array), Step::Change(number)) => {
            let _ = array.set(5 * u64::from(*number % 3000), &vec![b'x'; usize::from(*number % 400)]);
        }
        (Object::Array(array), Step::Remove(number)) => drop(array.remove(5 * u64::from(*number % 3000))),
        (Object::Array(array), Step::Push(_, number)) => array.set_last_insert(Some(u64::from(*number))),
        (Object::Array(array), Step::Pop(head, count)) => {
            let (low, high) = if *head { (0, u64::from(*count)) } else { (15_000 - u64::from(*count), u64::MAX - 1) };
            array.remove_range(low, high);
        }
        (Object::Array(array), Step::Trim(from, to)) => match array.ring_moves(8 * u64::from(*to)) {
            Some(most) if from % 8 == 0 => array.lay_out_ring(most),
            _ => drop(array.remove_range(5 * u64::from(*from), 5 * u64::from(*to))),
        },
        (Object::VectorSet(set), Step::Set(number)) => {
            set.add(&name(*number % 500), &vector(*number), None, 10, LIMITS.seed);
        }
        (Object::VectorSet(set), Step::Change(number)) => {
            set.set_attributes(&name(*number % 400), &name(*number));
        }
        (Object::VectorSet(set), Step::Remove(number) | Step::Pop(_, number)) => {
            set.remove(&name(*number % 400));
        }
        (Object::List(list), Step::Push(head, number)) => list.push(end(*head), &name(*number), &LIMITS),
        (Object::List(list), Step::Pop(head, count)) => list.drop_end(end(*head), usize::from(*count), &LIMITS),
        (Object::List(list), Step::Trim(from, to)) => list.trim(usize::from(*from), usize::from(*to), &LIMITS),
        _ => {}
    }
}

fn filled(kind: u8) -> Object {
    let numbers = 0..3000u16;
    match kind {
        0 => {
            let mut hash = Hash::new();
            numbers.for_each(|number| {
                let _ = hash.set(&name(number), &name(number / 2), &LIMITS);
            });
            hash.into_object()
        }
        5 => {
            let mut hash = Hash::new();
            numbers.for_each(|number| {
                let expiry = if number % 3 == 0 { SetExpiry::Drop } else { SetExpiry::At(u64::from(number) * 20) };
                let _ = hash.set_with(&name(number), &name(number / 2), expiry, &LIMITS);
            });
            hash.into_object()
        }
        1 => {
            let mut set = Set::new();
            numbers.for_each(|number| {
                let _ = set.add(&name(number), &LIMITS);
            });
            set.into_object()
        }
        2 => {
            let mut set = SortedSet::new();
            numbers.for_each(|number| {
                let _ = set.insert(f64::from(number % 50), &name(number), &LIMITS);
            });
            set.into_object()
        }
        6 => {
            let mut array = Array::new();
            numbers.for_each(|number| {
                let text = if number % 97 == 0 { vec![b'z'; 300] } else { name(number) };
                let _ = array.set(5 * u64::from(number), &text);
            });
            array.set_last_insert(Some(77));
            array.into_object()
        }
        4 | 7 => {
            let mut stream = Stream::new();
            // The other one has what Redis 7 has.
            if kind == 7 {
                for number in 0..3000 {
                    stream.add_message(&name(number % 50), &name(number), StreamId::new(u64::from(number) + 1, 0), 0);
                }
            }
            numbers.for_each(|number| {
                let value = format!("{number:0>40}");
                stream.append(
                    StreamId::new(u64::from(number) + 1, 0),
                    [(&b"field"[..], value.as_bytes())].into_iter(),
                    &Limits::REDIS,
                );
            });
            for group in [&b"first"[..], b"second", b"third"] {
                stream.add_group(group, StreamId::MIN, Some(0));
                stream.change_group(group, |entries, group| {
                    for (at, entry) in entries.iter().take(1000).enumerate() {
                        let (owner, _) = group.owner_or_new(&name(at as u16 % 9), 0);
                        group.deliver(entries, entry.id, Some(owner), at as i64);
                    }
                });
            }
            stream.into_object()
        }
        8 => {
            let mut bloom = Bloom::with_capacity(40_000, 0.001, 2, false).expect("a small filter");
            numbers.for_each(|number| _ = bloom.add(&name(number)));
            Object::Filter(bloom.into())
        }
        9 => {
            // The second layer holds a few items, which find room in the first one when some of its are deleted.
            let mut cuckoo = Cuckoo::with_capacity(2048, 2, 20, 64).expect("a small filter");
            numbers.take(2100).for_each(|number| cuckoo.insert([&name(number)[..]].into_iter(), false, drop));
            assert_eq!(cuckoo.layers(), 2);
            Object::Filter(cuckoo.into())
        }
        10 => {
            let shape = VectorShape { dim: 24, quantization: Quantization::None, links: 8 };
            let mut set = VectorSet::with_shape(shape, None);
            for number in 0..400u16 {
                set.add(&name(number), &vector(number), Some(&name(number / 2)), 10, LIMITS.seed);
            }
            set.into_object()
        }
        _ => {
            let mut list = List::new();
            numbers.for_each(|number| list.push(End::Tail, &name(number), &LIMITS));
            list.push(End::Tail, &[b'z'; 20_000], &LIMITS);
            list.into_object()
        }
    }
}

/// The contents of an object, in order for a list and sorted for anything else, and the memory that it takes.
fn shown(object: &Object) -> Vec<Vec<u8>> {
    let pair = |a: Item<'_>, b: Vec<u8>| [a.to_vec(), b"=".to_vec(), b].concat();
    let mut elements: Vec<Vec<u8>> = match object {
        Object::Text(text) => vec![text.clone()],
        Object::List(list) => list.iter().map(|item| item.to_vec()).collect(),
        Object::Hash(hash) => {
            let until = |expiry: Option<u64>| format!(" until {expiry:?}").into_bytes();
            let shown =
                |(field, value, expiry): (Item<'_>, Item<'_>, _)| pair(field, [value.to_vec(), until(expiry)].concat());
            hash.entries().map(shown).collect()
        }
        Object::Set(set) => set.iter().map(|item| item.to_vec()).collect(),
        // In order, which must be that of the scores.
        Object::SortedSet(set) => set.iter().map(|(member, score)| pair(member, score.to_string().into())).collect(),
        Object::Stream(stream) => vec![format!("{stream:?}").into_bytes()],
        Object::Array(array) => vec![format!("{array:?}").into_bytes()],
        Object::Filter(filter) => {
            let mut head = Vec::new();
            filter.write_head(&mut head);
            vec![head, filter.parts().all().collect::<Vec<_>>().concat()]
        }
        Object::Json(json) => vec![json.bytes().to_vec()],
        Object::VectorSet(set) => vec![format!("{set:?}").into_bytes()],
    };
    if matches!(object, Object::Hash(_) | Object::Set(_)) {
        elements.sort();
    }
    elements
}

fn assembled(outline: Outline, pieces: &[Vec<u8>]) -> Result<Object, CodecError> {
    let mut assembly = Assembly::new(outline, &LIMITS)?;
    pieces.iter().try_for_each(|piece| assembly.push(piece, &LIMITS))?;
    assembly.finish(&LIMITS)
}

fn rest(object: &mut Object, id: u64, pieces: &mut Vec<Vec<u8>>) -> usize {
    let mut entries = 0;
    loop {
        let mut piece = Vec::new();
        let captured = take(object.as_mut(), id, 10_000, &mut piece).expect("the moment is remembered");
        entries += captured.entries;
        pieces.push(piece);
        if captured.is_done {
            return entries;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_value_is_taken_as_it_was(kind in 0u8..11, steps in proptest::collection::vec(step(), 0..300)) {
        let mut object = filled(kind);
        prop_assert!(is_large(object.as_ref(), &SIZES));
        let then = shown(&object);
        let outline = begin(object.as_mut(), 9, &SIZES).unwrap();
        let (mut pieces, mut entries, mut is_done) = (Vec::new(), 0, false);
        for step in &steps {
            if let Step::Take(bytes) = step {
                let mut piece = Vec::new();
                match take(object.as_mut(), 9, *bytes, &mut piece) {
                    Some(captured) => {
                        prop_assert!(!is_done);
                        entries += captured.entries;
                        is_done = captured.is_done;
                        pieces.push(piece);
                    }
                    None => prop_assert!(is_done),
                }
            } else {
                apply(&mut object, step);
            }
        }
        if !is_done {
            entries += rest(&mut object, 9, &mut pieces);
        }
        prop_assert_eq!(entries as u64, outline.elements);
        let taken = assembled(outline, &pieces).unwrap();
        prop_assert_eq!(shown(&taken), then);
        // The present value can be taken as well, and the sums are right.
        if is_large(object.as_ref(), &SIZES) {
            let outline = begin(object.as_mut(), 10, &SIZES).unwrap();
            let mut pieces = Vec::new();
            rest(&mut object, 10, &mut pieces);
            prop_assert_eq!(shown(&assembled(outline, &pieces).unwrap()), shown(&object));
        }
    }
}

#[test]
fn only_the_moment_that_was_begun_last_is_remembered() {
    for kind in 0..11 {
        let mut object = filled(kind);
        let mut out = Vec::new();
        assert_eq!(take(object.as_mut(), 1, 100, &mut out), None);
        begin(object.as_mut(), 1, &SIZES).unwrap();
        begin(object.as_mut(), 2, &SIZES).unwrap();
        assert_eq!(take(object.as_mut(), 1, 100, &mut out), None);
        assert!(take(object.as_mut(), 2, 100, &mut out).is_some());
        let mut copy = object.clone();
        assert_eq!(take(copy.as_mut(), 2, 100, &mut out), None, "a copy remembers nothing");
        end(object.as_mut());
        assert_eq!(take(object.as_mut(), 2, 100, &mut out), None);
    }
}

/// As when all that is left is taken at once, with cells of a byte.
#[test]
fn a_step_may_be_as_long_as_the_rest() {
    let sizes = Sizes { step_bytes: 16, ..SIZES };
    for kind in 0..11 {
        let mut object = filled(kind);
        begin(object.as_mut(), 1, &sizes).unwrap();
        assert!(!take(object.as_mut(), 1, 1, &mut Vec::new()).unwrap().is_done);
        assert!(take(object.as_mut(), 1, usize::MAX, &mut Vec::new()).unwrap().is_done);
    }
}

#[test]
fn what_is_removed_from_a_list_puts_aside_its_own_chunk_only() {
    let mut list = List::new();
    (0..20_000).for_each(|n| list.push(End::Tail, format!("element-{n}").as_bytes(), &LIMITS));
    let mut object = Object::List(list);
    let outline = begin(object.as_mut(), 1, &SIZES).unwrap();
    let Object::List(list) = &mut object else { unreachable!("it is a list") };
    assert_eq!(list.remove(b"element-9999", usize::MAX, End::Head, &LIMITS), 1);
    assert_eq!(list.remove(b"none", usize::MAX, End::Head, &LIMITS), 0);
    assert!(aside_bytes(object.as_ref()) < object.as_ref().heap_bytes() / 4, "{}", aside_bytes(object.as_ref()));
    let mut pieces = Vec::new();
    assert_eq!(rest(&mut object, 1, &mut pieces) as u64, outline.elements);
    let Object::List(taken) = assembled(outline, &pieces).unwrap() else { unreachable!("it is a list") };
    assert_eq!(taken.len(), 20_000);
}

#[test]
fn a_step_is_bounded() {
    for kind in 0..11 {
        let mut object = filled(kind);
        begin(object.as_mut(), 1, &SIZES).unwrap();
        let mut steps = 0;
        loop {
            let mut out = Vec::new();
            let captured = take(object.as_mut(), 1, 4096, &mut out).unwrap();
            assert!(out.len() < 30_000, "{}", out.len());
            steps += 1;
            if captured.is_done {
                break;
            }
        }
        assert!(steps > 5, "{steps}");
    }
}

#[test]
fn a_list_that_is_cut_short_is_still_taken_whole() {
    let mut object = filled(3);
    let then = shown(&object);
    let outline = begin(object.as_mut(), 1, &SIZES).unwrap();
    let Object::List(list) = &mut object else { panic!("a list") };
    list.trim(1, 3, &LIMITS);
    let mut pieces = Vec::new();
    rest(&mut object, 1, &mut pieces);
    assert_eq!(shown(&assembled(outline, &pieces).unwrap()), then);
}

#[test]
fn texts_come_back() {
    let text: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let mut object = Object::Text(text.clone());
    assert!(is_large(object.as_ref(), &SIZES) && !is_large(Object::Text(vec![0; 1000]).as_ref(), &SIZES));
    assert_eq!(begin(object.as_mut(), 1, &SIZES), None);
    let outline = Outline { kind: kind::STRING, elements: text.len() as u64 };
    let pieces: Vec<Vec<u8>> = text.chunks(1000).map(<[u8]>::to_vec).collect();
    let Object::Text(back) = assembled(outline, &pieces).unwrap() else { panic!("a text") };
    assert_eq!(back, text);
}

#[test]
fn documents_come_back() {
    let text = format!("[{}]", (0..20_000).map(|at| format!("{{\"at\":{at}}}")).collect::<Vec<_>>().join(","));
    let mut object = json::of_text(text.as_bytes()).unwrap();
    assert!(is_large(object.as_ref(), &SIZES) && !is_large(json::of_text(b"[]").unwrap().as_ref(), &SIZES));
    assert_eq!(begin(object.as_mut(), 1, &SIZES), None);
    let (kind, bytes) = run_of(object.as_ref()).unwrap();
    let outline = Outline { kind, elements: bytes.len() as u64 };
    let mut pieces: Vec<Vec<u8>> = bytes.chunks(1000).map(<[u8]>::to_vec).collect();
    assert_eq!(shown(&assembled(outline, &pieces).unwrap()), shown(&object));
    pieces[0][0] = 0xff;
    assert!(assembled(outline, &pieces).is_err());
    // Outline and pieces together are the value.
    let (mut whole, mut joined) = (Vec::new(), Vec::new());
    crate::codec::value::encode_object(object.as_ref(), &mut whole);
    write_outline(outline, &mut joined);
    bytes.chunks(1000).for_each(|piece| joined.extend_from_slice(piece));
    assert_eq!(whole, joined);
}

#[test]
fn what_does_not_fit_its_outline_is_refused() {
    for kind in 0..11 {
        let mut object = filled(kind);
        let outline = begin(object.as_mut(), 1, &SIZES).unwrap();
        let mut pieces = Vec::new();
        rest(&mut object, 1, &mut pieces);
        let with = |elements: u64, pieces: &[Vec<u8>]| assembled(Outline { elements, ..outline }, pieces).err();
        assert_eq!(with(outline.elements, &pieces), None);
        assert!(with(outline.elements + 1, &pieces).is_some());
        assert!(with(outline.elements - 1, &pieces).is_some());
        assert!(with(u64::MAX, &pieces).is_some());
        assert!(with(outline.elements, &pieces[1..]).is_some());
        pieces[0].pop();
        assert!(with(outline.elements, &pieces).is_some());
        if kind != 3 {
            pieces[0] = pieces[1].clone();
            assert!(with(outline.elements, &pieces).is_some(), "the same elements twice");
        }
    }
    assert!(Assembly::new(Outline { kind: kind::SET_INTSET, elements: 1 }, &LIMITS).is_err());
}

/// Databases have arrays in this form.
#[test]
fn the_pieces_of_an_array_are_as_they_were() {
    let long = [b'x'; 200];
    let mut array = Array::new();
    for (index, text) in [(0, &b"a"[..]), (5, b"12"), (3 * 4096, b"0.5"), (70_000, &long)] {
        array.set(index, text);
    }
    array.set_last_insert(Some(5));
    let mut object = array.into_object();
    let then = shown(&object);
    let outline = begin(object.as_mut(), 1, &SIZES).unwrap();
    assert_eq!(outline, Outline { kind: 28, elements: 5 });
    let mut pieces = Vec::new();
    rest(&mut object, 1, &mut pieces);
    let written = [
        &b"\x01\x05"[..],
        b"\x00\x03\x01a",
        b"\x05\x01\x0c\x00\x00\x00\x00\x00\x00\x00",
        b"\x70\x00\x02\x00\x00\x00\x00\x00\x00\xe0\x3f",
        b"\x80\x00\x01\x11\x70\x00\x40\xc8",
        &long,
    ]
    .concat();
    assert_eq!(pieces.concat(), written);
    // RDB has the same, behind the number of elements.
    let mut whole = Vec::new();
    write_outline(outline, &mut whole);
    assert_eq!(whole, [4]);
    assert_eq!(count_elements(28, &pieces[0], true).unwrap(), Some(5));
    whole.extend_from_slice(&written);
    let mut encoded = Vec::new();
    assert_eq!(crate::codec::value::encode_object(object.as_ref(), &mut encoded), 28);
    assert_eq!(encoded, whole);
    assert_eq!(shown(&assembled(outline, &[written]).unwrap()), then);
}

//! Listpacks from outside.
//!
//! An accepted listpack must read the same forwards, backwards, by index and by search, and must survive changes. Items
//! that another writer could have packed tighter are packed tighter, and keep that form.
#![no_main]

use dormouse_types::Item;
use dormouse_types::listpack::Listpack;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(mut listpack) = Listpack::from_bytes(input) else { return };
    let view = listpack.view();
    assert!(view.bytes_len() <= input.len());
    assert_eq!(Listpack::from_bytes(view.bytes()).expect("our own form").view().bytes(), view.bytes());
    let mut forwards = Vec::new();
    let mut at = view.first();
    while let Some(entry) = at {
        forwards.push((entry, view.item(entry).to_vec()));
        at = view.next(entry);
    }
    assert_eq!(forwards.len(), view.len());
    let mut backwards = Vec::new();
    let mut at = view.last();
    while let Some(entry) = at {
        backwards.push((entry, view.item(entry).to_vec()));
        at = view.previous(entry);
    }
    backwards.reverse();
    assert_eq!(forwards, backwards);
    for (index, (entry, text)) in forwards.iter().enumerate().take(64) {
        assert_eq!(view.seek(index), Some(*entry));
        assert_eq!(view.get(index).map(Item::to_vec).as_ref(), Some(text));
        if let Some(first) = view.first() {
            assert!(view.find(first, text, 0).is_some_and(|found| found <= *entry));
        }
    }
    // Changed at both ends and changed back.
    listpack.push_front(Item::Int(-7));
    listpack.push_back(Item::parse(b"back"));
    let view = listpack.view();
    assert_eq!(view.len(), forwards.len() + 2);
    let (first, last) = (view.first().expect("it was pushed"), view.last().expect("it was pushed"));
    assert_eq!((view.item(first).to_vec(), view.item(last).to_vec()), (b"-7".to_vec(), b"back".to_vec()));
    listpack.remove(last, 1);
    listpack.remove(first, 1);
    let again = Listpack::from_bytes(listpack.view().bytes()).expect("our own changes");
    let view = again.view();
    let texts: Vec<_> = (0..view.len()).take(64).map(|index| view.get(index).expect("an entry").to_vec()).collect();
    assert!(texts.iter().zip(&forwards).all(|(text, (_, expected))| text == expected));
});

//! The packed form of a hash whose fields expire: a listpack of (field, value, expiry), which is marked.
//!
//! As in Redis, the triplets are in the order of their expiries, and those without one (0) come last. So the first
//! triplet is the first to expire, and what has expired is removed from the front.

use crate::item::Item;
use crate::listpack::{Listpack, ListpackRef};

pub const WIDTH: usize = 3;

/// The form of a listpack of (field, value).
pub fn from_pairs(pairs: ListpackRef<'_>) -> Listpack {
    let mut listpack = Listpack::new();
    listpack.push_all(pairs.pairs().flat_map(|(field, value)| [field, value, Item::Int(0)]));
    listpack.mark();
    listpack
}

pub fn iter<'a>(view: ListpackRef<'a>) -> impl Iterator<Item = (Item<'a>, Item<'a>, Option<u64>)> {
    let mut items = view.iter();
    std::iter::from_fn(move || Some((items.next()?, items.next()?, expiry_of(items.next()?))))
}

/// The expiry that a third item stands for.
pub fn expiry_of(item: Item<'_>) -> Option<u64> {
    match item {
        Item::Int(expiry @ 1..) => Some(expiry.cast_unsigned()),
        Item::Int(_) | Item::Bytes(_) => None,
    }
}

/// The position of a field.
pub fn find(view: ListpackRef<'_>, field: &[u8]) -> Option<usize> {
    view.find(view.start(), field, WIDTH - 1)
}

/// The value and expiry of the field at `at`.
pub fn read(view: ListpackRef<'_>, at: usize) -> (Item<'_>, Option<u64>) {
    let (value, after) = view.read(view.after(at));
    (value, expiry_of(view.item(after)))
}

/// The earliest expiry.
pub fn soonest(view: ListpackRef<'_>) -> Option<u64> {
    read(view, view.first()?).1
}

/// Adds a field that is not there.
pub fn insert(listpack: &mut Listpack, field: Item<'_>, value: Item<'_>, expiry: Option<u64>) {
    let view = listpack.view();
    let at = place(view, view.start(), expiry);
    listpack.insert_run(at, [field, value, item_of(expiry)]);
    listpack.mark();
}

/// Replaces the value and expiry of the field at `at`.
pub fn replace(listpack: &mut Listpack, at: usize, value: Option<Item<'_>>, expiry: Option<u64>) {
    let present = read(listpack.view(), at).1;
    let value_at = listpack.view().after(at);
    if let Some(value) = value {
        listpack.replace(value_at, value);
    }
    if present == expiry {
        return;
    }
    listpack.replace(listpack.view().after(value_at), item_of(expiry));
    let view = listpack.view();
    // Those up to it expire no later than it did.
    let is_later = expiry.is_none_or(|expiry| present.is_some_and(|present| present < expiry));
    let from = if is_later { after(view, at) } else { view.start() };
    let to = place(view, from, expiry);
    listpack.move_run(at, WIDTH, to);
}

fn item_of(expiry: Option<u64>) -> Item<'static> {
    Item::Int(expiry.unwrap_or(0).cast_signed())
}

/// The position after the triplet at `at`.
fn after(view: ListpackRef<'_>, at: usize) -> usize {
    view.after(view.after(view.after(at)))
}

/// The position for a triplet with this expiry, `from` or later: before those that expire no sooner, as in Redis.
fn place(view: ListpackRef<'_>, from: usize, expiry: Option<u64>) -> usize {
    let Some(expiry) = expiry else { return view.end() };
    let (mut at, end) = (from, view.end());
    while at < end {
        let (third, after) = view.read(view.after(view.after(at)));
        if expiry_of(third).is_none_or(|present| present >= expiry) {
            break;
        }
        at = after;
    }
    at
}

/// Triplets from outside, in whatever order. `None` if they are none, or a field comes twice.
pub fn checked(listpack: Listpack) -> Option<Listpack> {
    let view = listpack.view();
    if !view.len().is_multiple_of(WIDTH) || view.has_duplicates(WIDTH) {
        return None;
    }
    let (mut before, mut in_order) = (1, true);
    for third in view.iter().skip(WIDTH - 1).step_by(WIDTH) {
        let Item::Int(expiry @ 0..) = third else { return None };
        let rank = if expiry == 0 { i64::MAX } else { expiry };
        in_order &= rank >= before;
        before = rank;
    }
    if in_order {
        let mut listpack = listpack;
        listpack.mark();
        return Some(listpack);
    }
    let mut sorted = Listpack::new();
    iter(view).for_each(|(field, value, expiry)| insert(&mut sorted, field, value, expiry));
    Some(sorted)
}

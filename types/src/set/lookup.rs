//! A set prepared for many look-ups in a row, as in an intersection.
//!
//! A listpack has no index, so each look-up goes through half of its entries. The first few items are looked up like that.
//! Then the entries go into a table of hashes, which takes about as long as three more look-ups would.
//!
//! Hashes are not keyed. Members that collide make a look-up as slow as it is without the table, and no slower.

use rapidhash::v3::{DEFAULT_RAPID_SECRETS, rapidhash_v3_nano_inline};

use super::{Set, View};
use crate::item::Item;
use crate::listpack::ListpackRef;

/// Look-ups before the table is made.
const SEARCHES: u32 = 4;
/// Fewer entries than this are searched as fast as a table is.
const HASHED_MIN: usize = 8;

/// The members of a set, to be looked up one after the other.
pub struct Lookup<'a> {
    set: &'a Set,
    /// How many look-ups a listpack has answered without a table.
    searches: u32,
    table: Option<HashedListpack<'a>>,
}

impl<'a> Lookup<'a> {
    pub fn new(set: &'a Set) -> Self {
        Lookup { set, searches: 0, table: None }
    }

    /// Whether the set holds an item.
    pub fn holds(&mut self, item: Item<'_>) -> bool {
        if let Some(table) = &self.table {
            return table.holds(item);
        }
        match (self.set.view(), item) {
            (View::Integers(integers), Item::Int(number)) => integers.contains(number),
            (View::Listpack(listpack), _) => {
                if self.searches >= SEARCHES && listpack.len() >= HASHED_MIN {
                    return self.table.insert(HashedListpack::new(listpack)).holds(item);
                }
                self.searches += 1;
                item.with_text(|text| listpack.find(listpack.start(), text, 0).is_some())
            }
            _ => item.with_text(|text| self.set.contains(text)),
        }
    }
}

/// The positions of a listpack's entries by their hashes, in open addressing.
///
/// Invariant: `slots` has a power of two slots, and at least half of them are free, so that every search ends. A slot holds 32
/// bits of hash over 32 bits of position; 0 is a free one, since no entry has position 0.
struct HashedListpack<'a> {
    listpack: ListpackRef<'a>,
    slots: Vec<u64>,
}

impl<'a> HashedListpack<'a> {
    fn new(listpack: ListpackRef<'a>) -> Self {
        let slots = (listpack.len() * 2).next_power_of_two();
        let mut table = HashedListpack { listpack, slots: vec![0; slots] };
        let mut next = listpack.first();
        while let Some(at) = next {
            let hash = hash(listpack.item(at));
            let mut slot = table.home(hash);
            while table.slots[slot] != 0 {
                slot = table.after(slot);
            }
            table.slots[slot] = hash << 32 | at as u64;
            next = listpack.next(at);
        }
        table
    }

    fn holds(&self, item: Item<'_>) -> bool {
        // A table keeps numbers as text.
        let item = match item {
            Item::Bytes(text) => Item::parse(text),
            number @ Item::Int(_) => number,
        };
        let hash = hash(item);
        let mut slot = self.home(hash);
        loop {
            let (found, at) = (self.slots[slot] >> 32, self.slots[slot] & 0xFFFF_FFFF);
            if at == 0 {
                return false;
            }
            if found == hash & 0xFFFF_FFFF && self.listpack.item(at as usize) == item {
                return true;
            }
            slot = self.after(slot);
        }
    }

    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.slots.len() - 1)
    }

    fn after(&self, slot: usize) -> usize {
        (slot + 1) & (self.slots.len() - 1)
    }
}

/// The hash of an item that is a number if its text is one.
#[inline]
fn hash(item: Item<'_>) -> u64 {
    match item {
        Item::Int(number) => {
            let product = u128::from(number as u64 ^ 0x9E37_79B9_7F4A_7C15) * 0xD1B5_4A32_D192_ED03;
            product as u64 ^ (product >> 64) as u64
        }
        Item::Bytes(text) => rapidhash_v3_nano_inline::<false, false>(text, &DEFAULT_RAPID_SECRETS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Digits, Limits};

    /// Each form, with members that are numbers, short and long strings, in and beyond the table's default size.
    #[test]
    fn answers_as_the_set_does() {
        let limits = Limits { set_max_listpack_entries: 1000, ..Limits::REDIS };
        for members in [0, 1, 7, 8, 9, 100, 128, 129, 700] {
            for (from, limits) in [(0, &limits), (1, &Limits::REDIS)] {
                let text = |number: usize| match number % 3 {
                    0 => (number as i64 * 7919 - 300).to_string(),
                    1 => format!("member:{number}"),
                    _ => format!("{number:060}"),
                };
                let mut set = Set::new();
                for number in 0..members {
                    set.add(text(number * 2 + from).as_bytes(), limits);
                }
                let mut lookup = Lookup::new(&set);
                for number in 0..members * 2 + 20 {
                    let text = text(number);
                    for item in [Item::Bytes(text.as_bytes()), Item::parse(text.as_bytes())] {
                        let expected = set.contains(item.text(&mut Digits::new()));
                        assert_eq!(lookup.holds(item), expected, "{item:?} in {} of {members}", set.encoding());
                    }
                }
            }
        }
        let integers = (0..20).fold(Set::new(), |mut set, number: i32| {
            set.add(number.to_string().as_bytes(), &Limits::REDIS);
            set
        });
        let mut lookup = Lookup::new(&integers);
        assert!((0..20).all(|number| lookup.holds(Item::Int(number)) && !lookup.holds(Item::Int(number + 20))));
        assert!(
            lookup.holds(Item::Bytes(b"7")) && !lookup.holds(Item::Bytes(b"07")) && !lookup.holds(Item::Bytes(b"a"))
        );
    }
}

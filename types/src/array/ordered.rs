//! Values in the order of their numbers: a vector of sorted leaves.
//!
//! A value is found by its leaf's first number and then inside the leaf: at once where the leaf's numbers have no gaps. New
//! numbers behind all others fill one leaf after the other; one in between cuts a full leaf in two. A leaf that has become
//! small is joined with a neighbour.
//!
//! Invariants: no leaf is empty; `firsts` are the leaves' first numbers; `bytes` is that of the leaves' allocations.

use crate::heap;

const LEAF_MAX: usize = 256;
const LEAF_SMALL: usize = LEAF_MAX / 4;

#[derive(Clone, Debug)]
struct Leaf<V> {
    numbers: Vec<u64>,
    values: Vec<V>,
}

impl<V> Leaf<V> {
    fn heap_bytes(&self) -> usize {
        heap::allocation(self.numbers.capacity() * size_of::<u64>())
            + heap::allocation(self.values.capacity() * size_of::<V>())
    }

    #[inline]
    fn search(&self, number: u64) -> Result<usize, usize> {
        let first = self.numbers.first().copied().unwrap_or(0);
        let guess = usize::try_from(number.wrapping_sub(first)).unwrap_or(usize::MAX);
        if self.numbers.get(guess) == Some(&number) { Ok(guess) } else { self.numbers.binary_search(&number) }
    }

    fn insert(&mut self, at: usize, number: u64, value: V) {
        if self.numbers.len() == self.numbers.capacity() {
            // Half as much again: leaves are many, and the last one of each array is seldom full.
            let more = (self.numbers.len() / 2).clamp(2, LEAF_MAX);
            self.numbers.reserve_exact(more);
            self.values.reserve_exact(more);
        }
        self.numbers.insert(at, number);
        self.values.insert(at, value);
    }
}

#[derive(Clone, Debug)]
pub(super) struct Ordered<V> {
    firsts: Vec<u64>,
    leaves: Vec<Leaf<V>>,
    len: usize,
    bytes: usize,
}

/// The place of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    leaf: usize,
    at: usize,
}

impl<V> Default for Ordered<V> {
    fn default() -> Self {
        Ordered { firsts: Vec::new(), leaves: Vec::new(), len: 0, bytes: 0 }
    }
}

impl<V> Ordered<V> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of its own allocations, without what the values own.
    pub fn heap_bytes(&self) -> usize {
        self.bytes
            + heap::allocation(self.firsts.capacity() * size_of::<u64>())
            + heap::allocation(self.leaves.capacity() * size_of::<Leaf<V>>())
    }

    /// The leaf that holds a number if any does: the last that does not begin after it.
    #[inline]
    fn leaf_of(&self, number: u64) -> Option<usize> {
        if self.firsts.last().is_some_and(|first| *first <= number) {
            return Some(self.firsts.len() - 1);
        }
        self.firsts.partition_point(|first| *first <= number).checked_sub(1)
    }

    #[inline]
    pub fn find(&self, number: u64) -> Option<Spot> {
        let leaf = self.leaf_of(number)?;
        let at = self.leaves[leaf].search(number).ok()?;
        Some(Spot { leaf, at })
    }

    #[inline]
    pub fn get(&self, number: u64) -> Option<&V> {
        self.find(number).map(|spot| &self.leaves[spot.leaf].values[spot.at])
    }

    #[inline]
    pub fn get_mut(&mut self, number: u64) -> Option<&mut V> {
        let spot = self.find(number)?;
        Some(&mut self.leaves[spot.leaf].values[spot.at])
    }

    /// The number and value at a spot.
    #[inline]
    pub fn at(&self, spot: Spot) -> (u64, &V) {
        let leaf = &self.leaves[spot.leaf];
        (leaf.numbers[spot.at], &leaf.values[spot.at])
    }

    /// The first spot whose number is not below `number`.
    pub fn from(&self, number: u64) -> Option<Spot> {
        let Some(leaf) = self.leaf_of(number) else {
            return (!self.is_empty()).then_some(Spot { leaf: 0, at: 0 });
        };
        let (Ok(at) | Err(at)) = self.leaves[leaf].search(number);
        self.settle(Spot { leaf, at })
    }

    /// The last spot whose number is not above `number`.
    pub fn until(&self, number: u64) -> Option<Spot> {
        let leaf = self.leaf_of(number)?;
        match self.leaves[leaf].search(number) {
            Ok(at) => Some(Spot { leaf, at }),
            // The leaf begins at or before the number.
            Err(at) => Some(Spot { leaf, at: at.saturating_sub(1) }),
        }
    }

    fn settle(&self, spot: Spot) -> Option<Spot> {
        if spot.at < self.leaves.get(spot.leaf)?.numbers.len() {
            return Some(spot);
        }
        (spot.leaf + 1 < self.leaves.len()).then_some(Spot { leaf: spot.leaf + 1, at: 0 })
    }

    pub fn after(&self, spot: Spot) -> Option<Spot> {
        self.settle(Spot { at: spot.at + 1, ..spot })
    }

    pub fn before(&self, spot: Spot) -> Option<Spot> {
        if spot.at > 0 {
            return Some(Spot { at: spot.at - 1, ..spot });
        }
        let leaf = spot.leaf.checked_sub(1)?;
        Some(Spot { leaf, at: self.leaves[leaf].numbers.len() - 1 })
    }

    pub fn last(&self) -> Option<(u64, &V)> {
        let leaf = self.leaves.last()?;
        Some((*leaf.numbers.last()?, leaf.values.last()?))
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        self.leaves.iter().flat_map(|leaf| leaf.numbers.iter().copied().zip(&leaf.values))
    }

    /// Inserts a value under a number that has none.
    pub fn insert(&mut self, number: u64, value: V) {
        let Some(mut index) = self.leaf_of(number).or((!self.is_empty()).then_some(0)) else {
            return self.add(0, Leaf { numbers: vec![number], values: vec![value] }, 1);
        };
        let (Ok(mut at) | Err(mut at)) = self.leaves[index].search(number);
        if self.leaves[index].numbers.len() == LEAF_MAX {
            if at == LEAF_MAX {
                return self.add(index + 1, Leaf { numbers: vec![number], values: vec![value] }, 1);
            }
            let second = self.edit(index, |leaf| {
                let (numbers, values) = (leaf.numbers.split_off(LEAF_MAX / 2), leaf.values.split_off(LEAF_MAX / 2));
                leaf.numbers.shrink_to_fit();
                leaf.values.shrink_to_fit();
                Leaf { numbers, values }
            });
            self.add(index + 1, second, 0);
            if at > LEAF_MAX / 2 {
                (index, at) = (index + 1, at - LEAF_MAX / 2);
            }
        }
        self.edit(index, |leaf| leaf.insert(at, number, value));
        self.len += 1;
        if at == 0 {
            self.firsts[index] = number;
        }
    }

    pub fn remove(&mut self, number: u64) -> Option<V> {
        let Spot { leaf: index, at } = self.find(number)?;
        let value = self.edit(index, |leaf| {
            leaf.numbers.remove(at);
            leaf.values.remove(at)
        });
        self.len -= 1;
        match self.leaves[index].numbers.first() {
            None => drop(self.take(index)),
            Some(first) => {
                self.firsts[index] = *first;
                if self.leaves[index].numbers.len() == LEAF_SMALL {
                    self.join(index);
                }
            }
        }
        Some(value)
    }

    /// Removes the values whose numbers are from `low` to `high`, and shows them to `gone`.
    pub fn remove_range(&mut self, low: u64, high: u64, mut gone: impl FnMut(u64, V)) {
        let Some(start) = self.from(low).filter(|spot| self.at(*spot).0 <= high) else { return };
        let Some(end) = self.until(high) else { return };
        for index in [end.leaf, start.leaf] {
            let from = if index == start.leaf { start.at } else { 0 };
            let to = if index == end.leaf { end.at + 1 } else { self.leaves[index].numbers.len() };
            let taken = self.edit(index, |leaf| {
                let numbers: Vec<u64> = leaf.numbers.drain(from..to).collect();
                let values: Vec<V> = leaf.values.drain(from..to).collect();
                if leaf.numbers.len() <= LEAF_SMALL {
                    leaf.numbers.shrink_to_fit();
                    leaf.values.shrink_to_fit();
                }
                numbers.into_iter().zip(values)
            });
            self.len -= taken.len();
            taken.for_each(|(number, value)| gone(number, value));
            if start.leaf == end.leaf {
                break;
            }
        }
        if end.leaf > start.leaf + 1 {
            self.firsts.drain(start.leaf + 1..end.leaf);
            for leaf in self.leaves.drain(start.leaf + 1..end.leaf) {
                self.bytes -= leaf.heap_bytes();
                self.len -= leaf.numbers.len();
                leaf.numbers.into_iter().zip(leaf.values).for_each(|(number, value)| gone(number, value));
            }
        }
        // What is left of the first leaf, and of the last one, which is next to it now.
        for index in [start.leaf + 1, start.leaf] {
            match self.leaves.get(index).map(|leaf| leaf.numbers.first().copied()) {
                Some(None) => drop(self.take(index)),
                Some(Some(first)) => self.firsts[index] = first,
                None => {}
            }
        }
        if self.leaves.len() * 4 <= self.leaves.capacity() {
            self.leaves.shrink_to_fit();
            self.firsts.shrink_to_fit();
        }
    }

    /// Joins a leaf with a neighbour, if half a leaf holds both.
    fn join(&mut self, index: usize) {
        for first in [index, index.wrapping_sub(1)] {
            let (Some(a), Some(b)) = (self.leaves.get(first), self.leaves.get(first.wrapping_add(1))) else { continue };
            if a.numbers.len() + b.numbers.len() <= LEAF_MAX / 2 {
                let second = self.take(first + 1);
                self.edit(first, |leaf| {
                    leaf.numbers.extend(second.numbers);
                    leaf.values.extend(second.values);
                    leaf.numbers.shrink_to_fit();
                    leaf.values.shrink_to_fit();
                });
                return;
            }
        }
    }

    fn add(&mut self, index: usize, leaf: Leaf<V>, more: usize) {
        self.len += more;
        self.bytes += leaf.heap_bytes();
        self.firsts.insert(index, leaf.numbers[0]);
        self.leaves.insert(index, leaf);
    }

    fn take(&mut self, index: usize) -> Leaf<V> {
        self.firsts.remove(index);
        let leaf = self.leaves.remove(index);
        self.bytes -= leaf.heap_bytes();
        leaf
    }

    fn edit<T>(&mut self, index: usize, change: impl FnOnce(&mut Leaf<V>) -> T) -> T {
        let leaf = &mut self.leaves[index];
        let before = leaf.heap_bytes();
        let answer = change(leaf);
        self.bytes = self.bytes - before + leaf.heap_bytes();
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fastrand::Rng;

    use super::*;

    fn check(ordered: &Ordered<u32>, model: &BTreeMap<u64, u32>) {
        assert_eq!(ordered.len(), model.len());
        assert!(ordered.iter().map(|(number, value)| (number, *value)).eq(model.iter().map(|(n, v)| (*n, *v))));
        assert!(ordered.leaves.iter().all(|leaf| (1..=LEAF_MAX).contains(&leaf.numbers.len())));
        assert!(ordered.leaves.iter().all(|leaf| leaf.numbers.len() == leaf.values.len()));
        assert!(ordered.firsts.iter().eq(ordered.leaves.iter().map(|leaf| &leaf.numbers[0])));
        assert_eq!(ordered.bytes, ordered.leaves.iter().map(Leaf::heap_bytes).sum::<usize>());
    }

    #[test]
    fn it_does_as_a_map() {
        for (seed, span) in [(1, 3000u64), (2, u64::MAX), (3, 100_000)] {
            let mut rng = Rng::with_seed(seed);
            let (mut ordered, mut model) = (Ordered::default(), BTreeMap::new());
            for round in 0..30_000u32 {
                let number = if span == 100_000 && rng.bool() { u64::from(round) } else { rng.u64(..span) };
                match rng.u32(..100) {
                    0..60 => {
                        if let Some(value) = ordered.get_mut(number) {
                            *value = round;
                        } else {
                            ordered.insert(number, round);
                        }
                        model.insert(number, round);
                    }
                    60..97 => assert_eq!(ordered.remove(number), model.remove(&number)),
                    97..99 => {
                        let near: Vec<u64> = model.range(number..).take(rng.usize(..40)).map(|(n, _)| *n).collect();
                        for number in near {
                            assert_eq!(ordered.remove(number), model.remove(&number));
                        }
                    }
                    _ => {
                        let high = number.saturating_add(rng.u64(..=span / 20));
                        let mut gone = BTreeMap::new();
                        ordered.remove_range(number, high, |number, value| _ = gone.insert(number, value));
                        let mut kept = BTreeMap::new();
                        let mut expected = BTreeMap::new();
                        for (n, v) in std::mem::take(&mut model) {
                            if (number..=high).contains(&n) { &mut expected } else { &mut kept }.insert(n, v);
                        }
                        assert_eq!(gone, expected);
                        model = kept;
                    }
                }
                assert_eq!(ordered.get(number), model.get(&number));
                let from = ordered.from(number).map(|spot| ordered.at(spot).0);
                assert_eq!(from, model.range(number..).next().map(|(n, _)| *n));
                let until = ordered.until(number).map(|spot| ordered.at(spot).0);
                assert_eq!(until, model.range(..=number).next_back().map(|(n, _)| *n));
                if round % 500 == 0 {
                    check(&ordered, &model);
                    let mut spot = ordered.from(0);
                    for number in model.keys() {
                        let here = spot.expect("there is one more");
                        assert_eq!(ordered.at(here).0, *number);
                        let after = ordered.after(here);
                        assert_eq!(after.and_then(|after| ordered.before(after)).unwrap_or(here), here);
                        spot = after;
                    }
                    assert_eq!(spot, None);
                }
            }
            ordered.remove_range(0, u64::MAX, |_, _| {});
            assert_eq!((ordered.len(), ordered.bytes), (0, 0));
        }
    }
}

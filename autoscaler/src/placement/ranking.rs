//! The nodes that take parts, in order of a measure that changes as parts are placed.

use std::collections::BTreeSet;

/// Nodes of equal measure are in order of their slots, so that plans are reproducible.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranking {
    /// The bits of a number that is not negative are in the order of the numbers.
    order: BTreeSet<(u64, u16)>,
    /// By slot.
    keys: Vec<Option<u64>>,
}

impl Ranking {
    pub(crate) fn new(nodes: impl Iterator<Item = (u16, f64)>) -> Self {
        let mut ranking = Ranking::default();
        nodes.for_each(|(slot, measure)| ranking.set(slot, measure));
        ranking
    }

    pub(crate) fn set(&mut self, slot: u16, measure: f64) {
        self.remove(slot);
        let key = measure.max(0.0).to_bits();
        let index = usize::from(slot);
        if self.keys.len() <= index {
            self.keys.resize(index + 1, None);
        }
        self.keys[index] = Some(key);
        self.order.insert((key, slot));
    }

    pub(crate) fn remove(&mut self, slot: u16) {
        if let Some(key) = self.keys.get_mut(usize::from(slot)).and_then(Option::take) {
            self.order.remove(&(key, slot));
        }
    }

    pub(crate) fn contains(&self, slot: u16) -> bool {
        self.keys.get(usize::from(slot)).is_some_and(Option::is_some)
    }

    pub(crate) fn ascending(&self) -> impl DoubleEndedIterator<Item = (u16, f64)> {
        self.order.iter().map(|(key, slot)| (*slot, f64::from_bits(*key)))
    }

    pub(crate) fn lowest(&self) -> Option<(u16, f64)> {
        self.ascending().next()
    }

    pub(crate) fn highest(&self) -> Option<(u16, f64)> {
        self.ascending().next_back()
    }
}

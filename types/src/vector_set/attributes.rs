//! The sizes of the attributes of a set's nodes, for bounds on the work of those who read them.
//!
//! Sizes are counted by their number of bits, so a bound on the attributes of some nodes is less than twice the bytes that the
//! largest ones have, even if one node has huge ones among many with few.

/// Sizes by their bits: those below 2, below 4, and so on.
const CLASSES: usize = u32::BITS as usize;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AttributeSizes {
    /// How many nodes have attributes.
    pub count: u32,
    bytes: usize,
    by_bits: [u32; CLASSES],
}

impl AttributeSizes {
    /// Counts the attributes of one node, which may be empty.
    pub fn add(&mut self, size: usize) {
        if let Some(class) = class_of(size) {
            self.count += 1;
            self.bytes += size;
            self.by_bits[class] += 1;
        }
    }

    /// The reverse of [`Self::add`].
    pub fn remove(&mut self, size: usize) {
        if let Some(class) = class_of(size) {
            self.count -= 1;
            self.bytes -= size;
            self.by_bits[class] -= 1;
        }
    }

    /// The bytes that the attributes of so many nodes have at most.
    pub fn bytes_max(&self, nodes: usize) -> usize {
        let (mut left, mut bytes) = (nodes, 0usize);
        for (class, count) in self.by_bits.iter().enumerate().rev() {
            let taken = left.min(*count as usize);
            left -= taken;
            let most = usize::try_from((2u64 << class) - 1).unwrap_or(usize::MAX);
            bytes = bytes.saturating_add(taken.saturating_mul(most));
        }
        bytes.min(self.bytes)
    }
}

/// The place of a size among the classes; none of an empty one.
fn class_of(size: usize) -> Option<usize> {
    size.checked_ilog2().map(|bits| (bits as usize).min(CLASSES - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_and_are_near() {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let (mut sizes, mut all) = (AttributeSizes::default(), Vec::new());
            for _ in 0..rng.usize(..60) {
                let bits = rng.u8(..20);
                let size = rng.usize(..1 << bits);
                sizes.add(size);
                if rng.u8(..4) == 0 {
                    sizes.remove(size);
                } else {
                    all.push(size);
                }
            }
            all.sort_unstable_by(|one, other| other.cmp(one));
            for nodes in 0..=all.len() + 1 {
                let truth: usize = all.iter().take(nodes).sum();
                let bound = sizes.bytes_max(nodes);
                assert!(truth <= bound && bound <= 2 * truth, "{nodes} of {all:?}: {bound}");
            }
            assert_eq!(sizes.bytes_max(all.len()), all.iter().sum::<usize>());
            assert_eq!(sizes.count as usize, all.iter().filter(|size| **size > 0).count());
        }
        let mut sizes = AttributeSizes::default();
        (0..1000).for_each(|_| sizes.add(10));
        sizes.add(1 << 20);
        assert!((1 << 20..2 << 20).contains(&sizes.bytes_max(1)));
        assert_eq!(sizes.bytes_max(1001), (1 << 20) + 10_000);
    }
}

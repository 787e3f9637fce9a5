//! The choice of a cut through a shard: each half should carry about half of the excessive quantity.
//!
//! 1. Find the part of the histogram that holds the median of the weight. The best boundary is one of its two edges:
//!    the one whose heavier side is lighter, or, in a draw, the one that cuts off more slots.
//! 2. A median part of one slot is indivisible: if the lighter side gets next to nothing, a cut does not help.
//! 3. A wider part may hold several busy slots. Then even a cut that only removes idle slots helps: the shard around
//!    the part is narrower, so its next histogram is finer.

use crate::{Part, Policy, ShardLoad};

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Strictly inside the shard.
    At(u16),
    /// The shard is one slot.
    OneSlot,
    /// One slot outweighs all others.
    HotSlot(u16),
}

pub(crate) fn cut(shard: &ShardLoad, histogram: &[Part], policy: &Policy) -> Cut {
    let slots = shard.slots();
    if slots <= 1 {
        return Cut::OneSlot;
    }
    let middle = shard.first_slot + slots / 2;
    let parts = within(shard, histogram);
    let total: f64 = parts.iter().map(|part| part.weight).sum();
    // Without weights, or with all of them in one part, the histogram does not show where to cut.
    if parts.len() < 2 || total <= 0.0 || !total.is_finite() {
        return Cut::At(middle);
    }

    let mut before = 0.0;
    let mut median = 0;
    while median + 1 < parts.len() && before + parts[median].weight < total / 2.0 {
        before += parts[median].weight;
        median += 1;
    }
    let after = total - before - parts[median].weight;
    let first = parts[median].first_slot;
    let end = parts.get(median + 1).map_or(shard.end_slot, |next| next.first_slot);
    let (cut_off_left, cut_off_right) = (first - shard.first_slot, shard.end_slot - end);
    // Nothing can be cut off at the edges of the shard. It has at least two parts, so one side is not empty.
    let left = if cut_off_right == 0 {
        true
    } else {
        cut_off_left > 0 && (before > after || before == after && cut_off_left > cut_off_right)
    };
    let lighter = if left { before } else { after };
    if end - first == 1 && lighter < policy.lighter_half_min * total {
        return Cut::HotSlot(first);
    }
    Cut::At(if left { first } else { end })
}

/// The parts inside the shard, in order, the first moved to its start, invalid weights corrected: an observer's
/// histogram may predate a split.
fn within(shard: &ShardLoad, histogram: &[Part]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::with_capacity(histogram.len());
    for part in histogram.iter().filter(|part| part.first_slot < shard.end_slot) {
        let part = Part { first_slot: part.first_slot.max(shard.first_slot), weight: part.weight.max(0.0) };
        match parts.last_mut() {
            Some(last) if last.first_slot >= part.first_slot => last.weight += part.weight,
            _ => parts.push(part),
        }
    }
    if let Some(first) = parts.first_mut() {
        first.first_slot = shard.first_slot;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_of(slots: std::ops::Range<u16>, histogram: &[(u16, f64)]) -> Cut {
        let shard = ShardLoad { first_slot: slots.start, end_slot: slots.end, ..Default::default() };
        let parts: Vec<Part> = histogram.iter().map(|&(first_slot, weight)| Part { first_slot, weight }).collect();
        cut(&shard, &parts, &Policy::default())
    }

    #[test]
    fn halves_the_weight_not_the_range() {
        assert_eq!(cut_of(0..400, &[(0, 1.0), (100, 1.0), (200, 1.0), (300, 1.0)]), Cut::At(200));
        assert_eq!(cut_of(0..400, &[(0, 5.0), (100, 4.0), (200, 1.0), (300, 0.0)]), Cut::At(100));
        assert_eq!(cut_of(0..400, &[(0, 0.0), (100, 0.0), (200, 3.0), (300, 3.0)]), Cut::At(300));
    }

    #[test]
    fn without_a_histogram_the_range_is_halved() {
        assert_eq!(cut_of(100..400, &[]), Cut::At(250));
        assert_eq!(cut_of(100..400, &[(100, 0.0), (200, 0.0)]), Cut::At(250));
        assert_eq!(cut_of(100..102, &[(100, 7.0)]), Cut::At(101));
    }

    #[test]
    fn one_slot_is_the_least() {
        assert_eq!(cut_of(7..8, &[(7, 9.0)]), Cut::OneSlot);
        assert_eq!(cut_of(7..7, &[]), Cut::OneSlot);
        assert_eq!(cut_of(0..400, &[(0, 1.0), (100, 97.0), (101, 1.0)]), Cut::HotSlot(100));
    }

    #[test]
    fn a_hot_slot_is_cut_off_where_the_rest_is_worth_it() {
        assert_eq!(cut_of(0..400, &[(0, 20.0), (100, 80.0), (101, 0.0)]), Cut::At(100));
    }

    #[test]
    fn a_coarse_histogram_is_narrowed_down() {
        assert_eq!(cut_of(0..400, &[(0, 0.0), (100, 9.0), (200, 0.0), (300, 0.0)]), Cut::At(200));
        assert_eq!(cut_of(0..400, &[(0, 0.0), (100, 0.0), (200, 9.0), (300, 0.0)]), Cut::At(200));
        assert_eq!(cut_of(100..400, &[(100, 9.0), (200, 0.0), (300, 0.0)]), Cut::At(200));
        assert_eq!(cut_of(0..400, &[(0, 0.0), (300, 9.0)]), Cut::At(300));
    }

    #[test]
    fn a_histogram_that_does_not_fit_the_shard_cannot_cut_outside_it() {
        assert_eq!(cut_of(100..200, &[(0, 5.0), (50, 5.0), (150, 1.0), (300, 50.0)]), Cut::At(150));
        assert_eq!(cut_of(100..200, &[(300, 50.0)]), Cut::At(150));
        assert_eq!(cut_of(100..200, &[(150, 1.0)]), Cut::At(150));
        assert_eq!(cut_of(100..200, &[(100, f64::NAN), (150, f64::INFINITY)]), Cut::At(150));
        assert_eq!(cut_of(100..200, &[(180, 1.0), (120, 1.0)]), Cut::At(150));
    }
}

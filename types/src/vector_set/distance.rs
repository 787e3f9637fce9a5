//! Distances between vectors: 0 for the same direction, 1 for a right angle, 2 for the opposite direction.
//!
//! A graph that is replayed on another machine must become the same one, so a result depends on no instruction that a
//! processor may lack: integers are exact, and floats are added in a fixed order.

use crate::entry::{differing_bits, dot_bytes, dot_floats};

/// Shorter vectors are added in the order that Redis uses for them, so that their scores are the same to the last bit.
const SHORT: usize = 16;

/// The distance of two vectors of length 1.
#[inline]
pub(super) fn of_floats(one: &[f32], other: &[f32]) -> f32 {
    1.0 - if one.len() < SHORT { dot_short(one, other) } else { dot_floats(one, other) }
}

/// The distance of two quantized vectors of length 1; `ranges` are the values that 127 stands for.
#[inline]
pub(super) fn of_bytes(one: &[i8], other: &[i8], ranges: (f32, f32)) -> f32 {
    if ranges.0 == 0.0 || ranges.1 == 0.0 {
        return 1.0;
    }
    let scale = (ranges.0 / 127.0) * (ranges.1 / 127.0);
    (1.0 - dot_bytes(one, other) as f32 * scale).clamp(0.0, 2.0)
}

/// The distance of two vectors of signs: from the share of those that differ.
#[inline]
pub(super) fn of_bits(one: &[u64], other: &[u64], dim: usize) -> f32 {
    (differing_bits(one, other) * 2) as f32 / dim as f32
}

fn dot_short(one: &[f32], other: &[f32]) -> f32 {
    let (ones, one_rest) = one.as_chunks::<8>();
    let (others, other_rest) = other.as_chunks::<8>();
    let (mut first, mut second) = (0.0, 0.0);
    for (x, y) in ones.iter().zip(others) {
        first += x[0] * y[0] + x[1] * y[1] + x[2] * y[2] + x[3] * y[3];
        second += x[4] * y[4] + x[5] * y[5] + x[6] * y[6] + x[7] * y[7];
    }
    one_rest.iter().zip(other_rest).for_each(|(x, y)| first += x * y);
    first + second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_definition() {
        assert_eq!(of_floats(&[1.0, 0.0], &[0.0, 1.0]), 1.0);
        assert_eq!(of_floats(&[0.25; 16], &[0.25; 16]), 0.0);
        assert_eq!(of_bits(&[0b1011, 1], &[0b0001, 1], 100), 0.04);
        assert_eq!(of_bytes(&[127, 0], &[-127, 0], (1.0, 1.0)), 2.0);
        assert_eq!(of_bytes(&[0, 0], &[127, 0], (0.0, 1.0)), 1.0);
    }
}

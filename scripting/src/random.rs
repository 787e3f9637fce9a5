//! `math.random` as Redis has it: other numbers in every run, unless the script seeds it.
//!
//! The generator is that of `drand48`: 48 bits, `x' = x * 0x5DEECE66D + 0xB`, of which the upper 31 are the number.

use std::cell::Cell;

const MULTIPLIER: u64 = 0x5_DEEC_E66D;
const INCREMENT: u64 = 0xB;
const MASK: u64 = (1 << 48) - 1;

#[derive(Debug, Default)]
pub(crate) struct Random(Cell<u64>);

impl Random {
    /// Begins a run.
    pub(crate) fn start(&self, chance: u64) {
        self.0.set(chance & MASK);
    }

    pub(crate) fn seed(&self, seed: i32) {
        self.0.set(u64::from(seed as u32) << 16 | 0x330E);
    }

    /// 31 bits.
    pub(crate) fn next(&self) -> u32 {
        let next = self.0.get().wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT) & MASK;
        self.0.set(next);
        (next >> 17) as u32
    }

    /// From 0 to below 1.
    pub(crate) fn fraction(&self) -> f64 {
        const MOST: u32 = i32::MAX as u32;
        f64::from(self.next() % MOST) / f64::from(MOST)
    }
}

//! Ranges of positions.
//!
//! Only the top 53 bits of a position place anything, its **prefix**: so a prefix fits a double, and a SCAN cursor, which
//! is a prefix, survives clients that read numbers as doubles.

pub const PREFIX_BITS: u32 = 53;

/// The first prefix after all.
pub const PREFIX_END: u64 = 1 << PREFIX_BITS;

/// The part of a position that places.
#[inline]
pub const fn prefix53(position: u64) -> u64 {
    position >> (64 - PREFIX_BITS)
}

/// An aligned run of 2^bits prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range53 {
    pub start: u64,
    pub bits: u8,
}

impl Range53 {
    pub const WHOLE: Range53 = Range53 { start: 0, bits: PREFIX_BITS as u8 };

    /// The first prefix after the range.
    #[inline]
    pub const fn end(self) -> u64 {
        self.start + (1 << self.bits)
    }

    #[inline]
    pub const fn contains(self, prefix: u64) -> bool {
        prefix >> self.bits == self.start >> self.bits
    }

    /// The two halves of a range of more than one prefix.
    pub const fn halves(self) -> (Range53, Range53) {
        assert!(self.bits > 0, "a single prefix cannot be halved");
        let bits = self.bits - 1;
        (Range53 { start: self.start, bits }, Range53 { start: self.start + (1 << bits), bits })
    }

    /// The range whose halves these are, if they are any's.
    pub const fn joined(self, next: Range53) -> Option<Range53> {
        let is_low_half = self.start >> self.bits & 1 == 0;
        if self.bits == next.bits && is_low_half && self.end() == next.start {
            Some(Range53 { start: self.start, bits: self.bits + 1 })
        } else {
            None
        }
    }
}

/// A thing that covers a range of positions.
pub trait Ranged {
    fn range(&self) -> Range53;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_join_and_strangers_do_not() {
        let (low, high) = Range53::WHOLE.halves();
        assert_eq!((low.end(), high.end()), (high.start, PREFIX_END));
        assert_eq!(low.joined(high), Some(Range53::WHOLE));
        assert_eq!(high.joined(low), None);
        let ((_, second), (third, _)) = (low.halves(), high.halves());
        assert_eq!(second.end(), third.start);
        assert_eq!(second.joined(third), None);
        assert!(third.contains(third.start) && third.contains(third.end() - 1));
        assert!(!third.contains(third.end()) && !third.contains(third.start - 1));
    }
}

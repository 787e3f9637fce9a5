//! Ranges of a sorted set, by score and by member.

use std::ops::Bound;

/// Scores from `min` to `max`; neither is NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreRange {
    pub min: Bound<f64>,
    pub max: Bound<f64>,
}

impl ScoreRange {
    pub const ALL: ScoreRange = ScoreRange { min: Bound::Unbounded, max: Bound::Unbounded };

    /// Whether a score is before the range.
    pub(super) fn begins_after(&self, score: f64) -> bool {
        match self.min {
            Bound::Included(min) => score < min,
            Bound::Excluded(min) => score <= min,
            Bound::Unbounded => false,
        }
    }

    /// Whether a score is in the range or before it.
    pub(super) fn ends_at_or_after(&self, score: f64) -> bool {
        match self.max {
            Bound::Included(max) => score <= max,
            Bound::Excluded(max) => score < max,
            Bound::Unbounded => true,
        }
    }

    pub fn contains(&self, score: f64) -> bool {
        !self.begins_after(score) && self.ends_at_or_after(score)
    }
}

/// One end of a range by member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LexBound<'a> {
    /// `-`: before all members.
    Lowest,
    /// `+`: after all members.
    Highest,
    /// `[member`
    Included(&'a [u8]),
    /// `(member`
    Excluded(&'a [u8]),
}

/// Members from `min` to `max`, in byte order. It has a meaning if all scores are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LexRange<'a> {
    pub min: LexBound<'a>,
    pub max: LexBound<'a>,
}

impl LexRange<'_> {
    pub(super) fn begins_after(&self, member: &[u8]) -> bool {
        match self.min {
            LexBound::Lowest => false,
            LexBound::Highest => true,
            LexBound::Included(min) => member < min,
            LexBound::Excluded(min) => member <= min,
        }
    }

    pub(super) fn ends_at_or_after(&self, member: &[u8]) -> bool {
        match self.max {
            LexBound::Lowest => false,
            LexBound::Highest => true,
            LexBound::Included(max) => member <= max,
            LexBound::Excluded(max) => member < max,
        }
    }

    pub fn contains(&self, member: &[u8]) -> bool {
        !self.begins_after(member) && self.ends_at_or_after(member)
    }
}

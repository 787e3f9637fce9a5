//! Counts of what the target received and what was left out. They count once the target holds the data.
//!
//! After a link has dropped, the importer may read the same bytes of the source again. So what it remembers about them
//! must never run ahead of the target:
//!
//! 1. What a unit stands for beside its requests travels with it, as a [`Tally`].
//! 2. The batch that goes to the target leaves its tally here, in doubt. An answer settles it. Without an answer, the
//!    next session reads the place in the target, which says whether the batch was applied.
//! 3. The reader judges by marks of its own. Each session begins them with the settled ones.
//! 4. A copy is counted separately until the target shows it. If the copy is cut off, the data that the target shows
//!    still counts.

use std::collections::BTreeMap;

use super::left_out::{MarkChange, Marks};
use super::place::SourcePlace;

/// Limit of left-out names that are counted separately. The rest is counted together.
const SKIPPED_NAMES_MAX: usize = 200;

/// Counts of left-out items by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped(BTreeMap<String, u64>);

impl Skipped {
    pub fn add(&mut self, what: &str, times: u64) {
        let name = if self.0.len() < SKIPPED_NAMES_MAX || self.0.contains_key(what) { what } else { "others" };
        *self.0.entry(name.to_string()).or_default() += times;
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(what, times)| (what.as_str(), *times))
    }
}

/// Counters and marks that a unit or a batch carries beside its requests.
#[derive(Debug, Default)]
pub struct Tally {
    pub keys: u64,
    pub commands: u64,
    pub skipped: Skipped,
    pub marks: Vec<MarkChange>,
}

impl Tally {
    /// Whether the target need not record the place behind it.
    pub fn is_empty(&self) -> bool {
        self.keys == 0 && self.commands == 0 && self.skipped.0.is_empty() && self.marks.is_empty()
    }

    /// Takes over the contents of `other`, which comes behind this one.
    pub fn append(&mut self, other: &mut Self) {
        self.keys += std::mem::take(&mut other.keys);
        self.commands += std::mem::take(&mut other.commands);
        std::mem::take(&mut other.skipped).iter().for_each(|(what, times)| self.skipped.add(what, times));
        self.marks.append(&mut other.marks);
    }
}

/// The sum of tallies.
#[derive(Debug, Default)]
pub struct Sum {
    pub keys: u64,
    pub commands: u64,
    pub skipped: Skipped,
    pub marks: Marks,
}

impl Sum {
    fn add(&mut self, tally: Tally) {
        self.keys += tally.keys;
        self.commands += tally.commands;
        tally.skipped.iter().for_each(|(what, times)| self.skipped.add(what, times));
        tally.marks.iter().for_each(|change| _ = self.marks.apply(change));
    }
}

/// State of what this process has brought to the target.
#[derive(Debug, Default)]
pub struct Brought {
    shown: Sum,
    /// The sum of a copy that the target does not show yet.
    copy: Option<Sum>,
    in_doubt: Option<(SourcePlace, Tally)>,
}

impl Brought {
    /// Records that a copy begins.
    pub fn begin_copy(&mut self) {
        (self.copy, self.in_doubt) = (Some(Sum::default()), None);
    }

    /// Records that a batch leading to `place` is about to be sent.
    pub fn send(&mut self, place: SourcePlace, tally: Tally) {
        self.in_doubt = Some((place, tally));
    }

    /// Records that the target has applied the last batch.
    pub fn settle(&mut self) {
        let Some((place, tally)) = self.in_doubt.take() else { return };
        self.copy.as_mut().unwrap_or(&mut self.shown).add(tally);
        if matches!(place, SourcePlace::Following { .. })
            && let Some(copy) = self.copy.take()
        {
            self.shown = copy;
        }
    }

    /// Begins a session with a target that shows the data up to `place`. Returns whether a batch in doubt was applied.
    pub fn resume(&mut self, place: Option<&SourcePlace>) -> bool {
        let applied = self.in_doubt.as_ref().is_some_and(|(sent, _)| Some(sent) == place);
        if applied {
            self.settle();
        }
        (self.copy, self.in_doubt) = (None, None);
        applied
    }

    /// Returns the sum that counts now: the copy's while a copy is under way.
    pub fn sum(&self) -> &Sum {
        self.copy.as_ref().unwrap_or(&self.shown)
    }

    /// Takes back keys and commands of the last batch that the target has refused.
    pub fn take_back(&mut self, keys: u64, commands: u64) {
        let sum = self.copy.as_mut().unwrap_or(&mut self.shown);
        sum.keys = sum.keys.saturating_sub(keys);
        sum.commands = sum.commands.saturating_sub(commands);
    }

    /// Counts a request that the target has refused.
    pub fn skip(&mut self, what: &str, times: u64) {
        self.copy.as_mut().unwrap_or(&mut self.shown).skipped.add(what, times);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incomplete(step: u64) -> SourcePlace {
        SourcePlace::Incomplete { source: "h:1".into(), run: 1, step }
    }

    fn following(offset: u64) -> SourcePlace {
        SourcePlace::Following { source: "h:1".into(), replid: "a".into(), offset, index: 0 }
    }

    fn tally(name: &str) -> Tally {
        let mut tally = Tally { keys: 1, commands: 2, ..Tally::default() };
        tally.skipped.add("a kind", 1);
        tally.marks.push(MarkChange::Add(0, name.as_bytes().into()));
        tally
    }

    /// Returns the keys, the commands, the left-out values, and whether each mark is present.
    fn seen<const N: usize>(brought: &Brought, names: [&str; N]) -> (u64, u64, u64, [bool; N]) {
        let sum = brought.sum();
        let skipped = sum.skipped.iter().map(|(_, times)| times).sum();
        (sum.keys, sum.commands, skipped, names.map(|name| sum.marks.has(0, name.as_bytes())))
    }

    #[test]
    fn a_batch_counts_once_however_often_it_is_sent() {
        let mut brought = Brought::default();
        brought.send(following(5), tally("a"));
        assert_eq!(seen(&brought, ["a"]), (0, 0, 0, [false]));
        // The batch did not arrive, and is sent again in two parts. The answer to the second is lost.
        assert!(!brought.resume(Some(&following(3))));
        brought.send(following(4), tally("a"));
        brought.settle();
        brought.send(following(5), tally("b"));
        assert_eq!(seen(&brought, ["a", "b"]), (1, 2, 1, [true, false]));
        assert!(brought.resume(Some(&following(5))));
        assert!(!brought.resume(Some(&following(5))));
        assert_eq!(seen(&brought, ["a", "b"]), (2, 4, 2, [true, true]));
    }

    #[test]
    fn what_the_target_refuses_does_not_count_as_brought() {
        let mut brought = Brought::default();
        brought.begin_copy();
        brought.send(incomplete(1), Tally { keys: 3, ..Tally::default() });
        brought.settle();
        brought.take_back(1, 0);
        brought.skip("the command RESTORE", 1);
        assert_eq!(seen(&brought, []), (2, 0, 1, []));
        brought.send(following(5), tally("a"));
        brought.settle();
        brought.take_back(0, 1);
        assert_eq!(seen(&brought, []), (3, 1, 2, []));
    }

    #[test]
    fn a_copy_counts_when_it_is_shown() {
        let mut brought = Brought::default();
        brought.send(following(5), tally("old"));
        brought.settle();
        for cut_off in [true, false] {
            brought.begin_copy();
            brought.send(incomplete(1), tally("new"));
            brought.settle();
            assert_eq!(seen(&brought, ["old", "new"]), (1, 2, 1, [false, true]));
            if cut_off {
                // The target still shows its old data.
                assert!(!brought.resume(Some(&following(5))));
                assert_eq!(seen(&brought, ["old", "new"]), (1, 2, 1, [true, false]));
            }
        }
        brought.send(following(9), tally("last"));
        assert!(brought.resume(Some(&following(9))));
        assert_eq!(seen(&brought, ["old", "new", "last"]), (2, 4, 2, [false, true, true]));
    }

    #[test]
    fn the_names_of_what_is_left_out_are_bounded() {
        let mut skipped = Skipped::default();
        (0..2 * SKIPPED_NAMES_MAX).for_each(|n| skipped.add(&format!("kind {n}"), 1));
        assert_eq!(skipped.iter().count(), SKIPPED_NAMES_MAX + 1);
        assert_eq!(skipped.iter().find(|(what, _)| *what == "others").map(|(_, n)| n), Some(SKIPPED_NAMES_MAX as u64));
    }
}

//! Runs that hold `?` or classes, searched with one bit for each element: the *shift-and* algorithm.

use super::WORDS_MAX;
use super::elements::{Case, element_end, is_caseless};
use crate::pace;

/// Words of the state that are shifted in the time of one step of [`pace`].
const WORDS_PER_STEP: usize = 64;
/// Bytes of an element that are read in the time of one step.
const READ_PER_STEP: usize = 16;

/// A run that holds `?` or classes. Bytes that all of its elements treat alike form one kind.
#[derive(Clone, Debug)]
pub(super) struct Mixed {
    pub(super) elements: usize,
    pub(super) words: usize,
    kinds: [u8; 256],
    /// For each kind, `words` words: a bit for each element that matches bytes of this kind.
    pub(super) masks: Box<[u64]>,
}

impl Mixed {
    pub(super) fn new(run: &[u8], elements: usize, case: Case) -> Self {
        let words = elements.div_ceil(64);
        let kinds = Kinds::of(run, case);
        let mut masks = vec![0; kinds.samples.len() * words].into_boxed_slice();
        let (mut at, mut element) = (0, 0);
        while at < run.len() {
            let after = element_end(run, at);
            pace::step(1 + (after - at) / READ_PER_STEP);
            let taken = Taken::by(&run[at..after], case);
            let mut note = |kind: usize| masks[kind * words + element / 64] |= 1 << (element % 64);
            match &run[at..after] {
                [plain] if !b"?[".contains(plain) && is_caseless(*plain, case) => {
                    note(kinds.of_byte[usize::from(*plain)].into())
                }
                _ => {
                    let samples = kinds.samples.iter().enumerate();
                    samples.filter(|(_, sample)| taken.contains(**sample)).for_each(|(kind, _)| note(kind));
                }
            }
            (at, element) = (after, element + 1);
        }
        Self { elements, words, kinds: kinds.of_byte, masks }
    }

    pub(super) fn takes(&self, element: usize, byte: u8) -> bool {
        let word = self.masks[usize::from(self.kinds[usize::from(byte)]) * self.words + element / 64];
        word >> (element % 64) & 1 != 0
    }

    /// Bit `n` of the state is set while the first `n + 1` elements match the last `n + 1` bytes.
    pub(super) fn search(&self, text: &[u8]) -> Option<usize> {
        let accepts = 1 << ((self.elements - 1) % 64);
        if self.words == 1 {
            let mut state = 0u64;
            let end = text.iter().position(|&byte| {
                state = (state << 1 | 1) & self.masks[usize::from(self.kinds[usize::from(byte)])];
                state & accepts != 0
            });
            return end.map(|at| at + 1);
        }
        let mut state = [0u64; WORDS_MAX];
        // No bit is set beyond these words.
        let mut live = 0;
        for (at, &byte) in text.iter().enumerate() {
            let masks = &self.masks[usize::from(self.kinds[usize::from(byte)]) * self.words..][..self.words];
            let mut carry = 1;
            let mut next_live = 0;
            let reach = (live + 1).min(self.words);
            if !pace::goes_on(1 + reach / WORDS_PER_STEP) {
                return None;
            }
            for (number, (word, mask)) in state[..reach].iter_mut().zip(masks).enumerate() {
                let shifted = *word << 1 | carry;
                carry = *word >> 63;
                *word = shifted & mask;
                if *word != 0 {
                    next_live = number + 1;
                }
            }
            live = next_live;
            if state[self.words - 1] & accepts != 0 {
                return Some(at + 1);
            }
        }
        None
    }
}

/// The kinds of bytes that the elements of a run treat alike.
pub(super) struct Kinds {
    of_byte: [u8; 256],
    /// A byte of each kind.
    samples: Vec<u8>,
}

impl Kinds {
    /// Begins with all bytes as one kind and divides them by each element.
    pub(super) fn of(run: &[u8], case: Case) -> Self {
        let mut kinds = vec![Taken::ALL];
        let mut seen = Taken::NONE;
        let mut at = 0;
        while at < run.len() && kinds.len() < 256 {
            let after = element_end(run, at);
            pace::step(1 + (after - at) / READ_PER_STEP);
            let element = &run[at..after];
            at = after;
            // Only the first occurrence of a literal byte divides.
            let is_new = match element {
                [b'?'] => false,
                [plain] => !seen.contains(*plain),
                _ => true,
            };
            if let [plain] = element {
                seen.insert(*plain);
            }
            if is_new {
                divide(&mut kinds, Taken::by(element, case));
            }
        }
        let mut of_byte = [0; 256];
        for byte in 0..=255u8 {
            let kind = kinds.iter().position(|kind| kind.contains(byte));
            of_byte[usize::from(byte)] = kind.expect("every byte is of a kind") as u8;
        }
        let sample = |kind: usize| (0..=255).find(|byte| usize::from(of_byte[usize::from(*byte)]) == kind);
        let samples = (0..kinds.len()).map(|kind| sample(kind).expect("no kind is empty")).collect();
        Self { of_byte, samples }
    }
}

/// Divides each kind into the bytes in `taken` and the others.
pub(super) fn divide(kinds: &mut Vec<Taken>, taken: Taken) {
    for at in 0..kinds.len() {
        let (inside, outside) = (kinds[at].and(taken), kinds[at].and(taken.negated()));
        if inside != Taken::NONE && outside != Taken::NONE {
            kinds[at] = inside;
            kinds.push(outside);
        }
    }
}

/// A set of bytes: those that an element matches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken([u64; 4]);

impl Taken {
    pub(super) const ALL: Self = Self([u64::MAX; 4]);
    pub(super) const NONE: Self = Self([0; 4]);

    /// The bytes that an element, which is not a star, matches. A class is read once, however long it is.
    pub(super) fn by(element: &[u8], case: Case) -> Self {
        let mut exact = Self::NONE;
        match element {
            [b'?'] => return Self::ALL,
            [b'[', inside @ ..] => return Self::by_class(inside, case),
            [b'\\', byte] | [byte, ..] => exact.insert(case.fold(*byte)),
            [] => {}
        }
        exact.unfolded(case)
    }

    pub(super) fn by_class(inside: &[u8], case: Case) -> Self {
        let (is_negated, mut rest) = match inside {
            [b'^', rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        // Bytes that match exactly, and bytes in the pattern's case.
        let (mut exact, mut folded) = (Self::NONE, Self::NONE);
        loop {
            rest = match rest {
                [] | [b']', ..] => break,
                [b'\\', escaped, rest @ ..] => {
                    exact.insert(*escaped);
                    rest
                }
                [from, b'-', to, rest @ ..] => {
                    let (from, to) = (from.cast_signed(), to.cast_signed());
                    let order = |byte: i8| case.fold(byte.cast_unsigned()).cast_signed();
                    folded.insert_range(order(from.min(to)), order(from.max(to)));
                    rest
                }
                [plain, rest @ ..] => {
                    folded.insert(case.fold(*plain));
                    rest
                }
            };
        }
        let taken = exact.or(folded.unfolded(case));
        if is_negated { taken.negated() } else { taken }
    }

    pub(super) fn contains(self, byte: u8) -> bool {
        self.0[usize::from(byte / 64)] >> (byte % 64) & 1 != 0
    }

    pub(super) fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte / 64)] |= 1 << (byte % 64);
    }

    /// Bytes in the order of signed numbers.
    pub(super) fn insert_range(&mut self, from: i8, to: i8) {
        // -128 to 127 are the bits from 0 to 255.
        let up_to = |bit: usize| -> [u64; 4] {
            std::array::from_fn(|word| match bit.checked_sub(64 * word) {
                None | Some(0) => 0,
                Some(bits @ 1..64) => (1 << bits) - 1,
                Some(_) => u64::MAX,
            })
        };
        let bit = |byte: i8| (i32::from(byte) + 128) as usize;
        if from > to {
            return;
        }
        let (below, through) = (up_to(bit(from)), up_to(bit(to) + 1));
        for word in 0..4 {
            // The negative ones are the bytes from 128 on.
            self.0[(word + 2) % 4] |= through[word] & !below[word];
        }
    }

    /// All bytes that fold to these, which are folded.
    pub(super) fn unfolded(self, case: Case) -> Self {
        const UPPER: u64 = ((1 << 26) - 1) << (b'A' % 64);
        let Self(mut words) = self;
        if case == Case::Insensitive {
            let lower = words[1] >> (b'a' - b'A');
            words[1] = words[1] & !UPPER | lower & UPPER;
        }
        Self(words)
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    pub(super) fn negated(self) -> Self {
        Self(self.0.map(|word| !word))
    }
}

//! The elements of a pattern that match one byte each: literal bytes, `?`, and classes.

/// Whether case matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    Sensitive,
    Insensitive,
}

/// The end of the element that begins at `at`, which is not a star.
pub(super) fn element_end(pattern: &[u8], at: usize) -> usize {
    match pattern[at] {
        b'[' => class_end(pattern, at + 1),
        b'\\' if at + 1 < pattern.len() => at + 2,
        _ => at + 1,
    }
}

/// Matches one byte with the element at `p`, which is not a star. Returns the start of the next element.
#[inline(always)]
pub(super) fn match_one(pattern: &[u8], p: usize, byte: u8, case: Case) -> Option<usize> {
    match (*pattern.get(p)?, pattern.get(p + 1)) {
        (b'?', _) => Some(p + 1),
        (b'[', _) => match_class(pattern, p + 1, byte, case),
        (b'\\', Some(&escaped)) => (case.fold(escaped) == case.fold(byte)).then_some(p + 2),
        (plain, _) => (case.fold(plain) == case.fold(byte)).then_some(p + 1),
    }
}

impl Case {
    #[inline(always)]
    pub(super) fn fold(self, byte: u8) -> u8 {
        match self {
            Self::Sensitive => byte,
            Self::Insensitive => byte.to_ascii_lowercase(),
        }
    }
}

/// The end of the class whose inside begins at `p`.
pub(super) fn class_end(pattern: &[u8], mut p: usize) -> usize {
    p += usize::from(pattern.get(p) == Some(&b'^'));
    loop {
        match pattern[p..] {
            [] => return p,
            [b']', ..] => return p + 1,
            [b'\\', _, ..] => p += 2,
            [_, b'-', _, ..] => p += 3,
            _ => p += 1,
        }
    }
}

/// Matches one byte with the class whose inside begins at `p`. An escaped byte keeps its case, and a range does not end
/// at `]`; both as in Redis.
pub(super) fn match_class(pattern: &[u8], mut p: usize, byte: u8, case: Case) -> Option<usize> {
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let mut found = false;
    loop {
        match pattern[p..] {
            [] => break,
            [b'\\', escaped, ..] => {
                found |= escaped == byte;
                p += 2;
            }
            [b']', ..] => {
                p += 1;
                break;
            }
            [from, b'-', to, ..] => {
                let order = |byte: u8| case.fold(byte).cast_signed();
                let (from, to) = if from.cast_signed() <= to.cast_signed() { (from, to) } else { (to, from) };
                found |= (order(from)..=order(to)).contains(&order(byte));
                p += 3;
            }
            [plain, ..] => {
                found |= case.fold(plain) == case.fold(byte);
                p += 1;
            }
        }
    }
    (found != negated).then_some(p)
}

pub(super) fn is_caseless(byte: u8, case: Case) -> bool {
    case == Case::Sensitive || !byte.is_ascii_alphabetic()
}

//! Patterns as in `KEYS`, `SCAN MATCH`, `PSUBSCRIBE`, `CONFIG GET`: `*`, `?`, `[abc]`, `[^a-z]`, `\` before a literal
//! byte. A class that is not closed ends with the pattern.
//!
//! Every element but `*` matches one byte, so the elements between two stars (a *run*) match as many bytes as there are
//! elements. A pattern is cut into its runs once and can then be matched against many texts:
//!
//! 1. The first run must match at the beginning of the text, the last one at its end.
//! 2. Each run between them is searched from the end of the previous one. The earliest match is always right: it leaves
//!    the most to all runs that follow.
//! 3. A run of literal bytes is searched in linear time. Any other run is searched with one bit for each of its
//!    elements (the *shift-and* algorithm): one step for each byte of the text and 64 elements of the run.
//!
//! So a match costs at most the length of the text times [`ELEMENTS_MAX`] / 64: see [`Glob::cost`]. Reading a pattern costs
//! its length, and more for its classes: see [`reading_cost`].
//!
//! Redis's peculiarities, those of a build for x86: an empty text matches only an empty pattern, not even `*` (commands
//! for which a lone `*` means every key do not use this module); a pattern of more than 1,000 stars matches nothing;
//! the bytes from 0x80 to 0xff come before 0x00 in a range.

use std::borrow::Cow;
use std::fmt;

use memchr::memmem::Finder;

/// Most elements in a pattern's searched runs that hold `?` or a class.
pub const ELEMENTS_MAX: usize = 4096;
const WORDS_MAX: usize = ELEMENTS_MAX / 64;

/// Most stars, with something behind them, of a pattern that can match.
pub const STARS_MAX: usize = 1000;

/// A pattern that would take too long to search for. `Display` is the text that the client sees after `ERR `.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooComplex;

impl fmt::Display for TooComplex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the pattern is too complex: between its stars it may have at most {ELEMENTS_MAX} elements in parts with '?' or '['"
        )
    }
}

impl std::error::Error for TooComplex {}

/// Whether case matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Sensitive,
    Insensitive,
}

/// A pattern that is ready to be matched.
#[derive(Clone, Debug)]
pub struct Glob<'p> {
    pattern: Cow<'p, [u8]>,
    case: Case,
    /// The end of the first run in the pattern, and its number of elements.
    head: (usize, usize),
    /// The runs between stars.
    middle: Vec<Run<'p>>,
    /// The start of the last run, and its number of elements; `None` if the pattern has no star.
    tail: Option<(usize, usize)>,
    /// The pattern has too many stars to match.
    is_hopeless: bool,
    /// How the first and the last run are compared.
    anchored: [Anchored; 2],
}

/// A run that must match at a fixed position.
#[derive(Clone, Debug)]
enum Anchored {
    /// Its bytes in the pattern are those in the text.
    Literal,
    Ready(Box<Mixed>),
    /// Each element is read again for each text. The average length of an element, in bytes.
    Elements(usize),
}

#[derive(Clone, Debug)]
enum Run<'p> {
    Plain(Box<Finder<'p>>),
    Mixed(Box<Mixed>),
}

impl<'p> Glob<'p> {
    /// Reads a pattern.
    ///
    /// # Errors
    /// If it has too many elements that are searched for and are not literal bytes.
    pub fn new(pattern: &'p [u8]) -> Result<Self, TooComplex> {
        Self::read(pattern, Case::Sensitive)
    }

    /// As [`Self::new`], ignoring the case of ASCII letters.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn nocase(pattern: &'p [u8]) -> Result<Self, TooComplex> {
        Self::read(pattern, Case::Insensitive)
    }

    fn read(pattern: &'p [u8], case: Case) -> Result<Self, TooComplex> {
        let mut glob = Self {
            pattern: Cow::Borrowed(pattern),
            case,
            head: (pattern.len(), 0),
            middle: Vec::new(),
            tail: None,
            is_hopeless: false,
            anchored: [Anchored::Literal, Anchored::Literal],
        };
        let (mut at, mut stars, mut mixed) = (0, 0, 0);
        loop {
            let run = scan_run(pattern, at, case);
            let is_last = run.end == pattern.len();
            let anchored = || Anchored::read(&pattern[at..run.end], &run, case);
            match stars {
                0 => {
                    glob.head = (run.end, run.elements);
                    glob.anchored[0] = anchored();
                }
                _ if is_last => {
                    glob.tail = Some((at, run.elements));
                    glob.anchored[1] = anchored();
                }
                _ if run.is_plain => glob.middle.push(Run::Plain(Box::new(plain(&pattern[at..run.end])))),
                _ => {
                    mixed += run.elements;
                    if mixed > ELEMENTS_MAX {
                        return Err(TooComplex);
                    }
                    glob.middle.push(Run::Mixed(Box::new(Mixed::new(&pattern[at..run.end], run.elements, case))));
                }
            }
            if is_last {
                return Ok(glob);
            }
            // Several stars mean the same as one.
            at = run.end + pattern[run.end..].iter().take_while(|&&byte| byte == b'*').count();
            if at == pattern.len() {
                glob.tail = Some((at, 0));
                return Ok(glob);
            }
            stars += 1;
            if stars > STARS_MAX {
                glob.is_hopeless = true;
                return Ok(glob);
            }
        }
    }

    /// The same pattern with its own copy of the bytes.
    pub fn into_owned(self) -> Glob<'static> {
        let middle = self.middle.into_iter().map(|run| match run {
            Run::Plain(finder) => Run::Plain(Box::new(finder.into_owned())),
            Run::Mixed(mixed) => Run::Mixed(mixed),
        });
        Glob { pattern: Cow::Owned(self.pattern.into_owned()), middle: middle.collect(), ..self }
    }

    pub fn pattern(&self) -> &[u8] {
        &self.pattern
    }

    /// The cost of matching this many texts of this many bytes together, in units of about 100 ns: the time that a
    /// command takes for one element of a collection.
    pub fn cost(&self, texts: usize, bytes: usize) -> usize {
        let words = self.middle.iter().map(|run| match run {
            Run::Plain(_) => 0,
            Run::Mixed(mixed) => mixed.words,
        });
        let searched = match words.max().unwrap_or(0) {
            0 => bytes / 1024,
            words => bytes.saturating_mul(words + 1) / 128,
        };
        let begun = texts.saturating_mul(self.middle.len()).min(bytes) / 4;
        let lengths = [self.head.1, self.tail.map_or(0, |(_, elements)| elements)];
        let compared = self.anchored.iter().zip(lengths).map(|(run, elements)| {
            let bytes = texts.saturating_mul(elements).min(bytes);
            match run {
                Anchored::Literal => bytes / 1024,
                Anchored::Ready(_) => bytes / 64,
                Anchored::Elements(length) => bytes.saturating_mul(*length) / 64,
            }
        });
        compared.fold(searched.saturating_add(begun), usize::saturating_add)
    }

    /// Memory beyond its own size, in bytes.
    pub fn heap_bytes(&self) -> usize {
        let of_ready = |mixed: &Mixed| size_of::<Mixed>() + size_of_val(&*mixed.masks);
        let anchored = self.anchored.iter().map(|run| match run {
            Anchored::Ready(mixed) => of_ready(mixed),
            Anchored::Literal | Anchored::Elements(_) => 0,
        });
        let runs: usize = anchored.sum::<usize>() + self.middle.iter().map(Run::heap_bytes).sum::<usize>();
        self.pattern.len() + self.middle.capacity() * size_of::<Run<'_>>() + runs
    }

    /// Whether the whole of `text` matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        if text.is_empty() {
            return self.pattern.is_empty();
        }
        let (head_end, head_len) = self.head;
        let (tail_start, tail_len) = self.tail.unwrap_or((self.pattern.len(), 0));
        if self.is_hopeless || text.len() < head_len + tail_len || !self.fits(0, &self.pattern[..head_end], text) {
            return false;
        }
        if self.tail.is_none() {
            return text.len() == head_len;
        }
        let last = text.len() - tail_len;
        if !self.fits(1, &self.pattern[tail_start..], &text[last..]) {
            return false;
        }
        let mut rest = &text[head_len..last];
        for run in &self.middle {
            let Some(end) = run.search(rest) else { return false };
            rest = &rest[end..];
        }
        true
    }

    /// Whether `text` begins with a match of `run`, the first or the last one. The text is long enough.
    fn fits(&self, which: usize, run: &[u8], text: &[u8]) -> bool {
        match &self.anchored[which] {
            Anchored::Literal => return text.starts_with(run),
            Anchored::Ready(ready) => {
                return (0..ready.elements).zip(text).all(|(element, &byte)| ready.takes(element, byte));
            }
            Anchored::Elements(_) => {}
        }
        let (mut at, mut bytes) = (0, text.iter());
        while at < run.len() {
            let Some(&byte) = bytes.next() else { return false };
            match match_one(run, at, byte, self.case) {
                Some(after) => at = after,
                None => return false,
            }
        }
        true
    }
}

/// Whether the whole of `text` matches `pattern`; false if the pattern is too complex.
///
/// To match several texts, or to report that error to the client, read the pattern first: [`Glob::new`].
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    Glob::new(pattern).is_ok_and(|glob| glob.matches(text))
}

/// Like [`matches`], ignoring the case of ASCII letters.
pub fn matches_nocase(pattern: &[u8], text: &[u8]) -> bool {
    Glob::nocase(pattern).is_ok_and(|glob| glob.matches(text))
}

/// The cost of reading `pattern`, in the unit of [`Glob::cost`]. At most [`ELEMENTS_MAX`] elements of three parts are
/// prepared, and a class takes longest.
pub fn reading_cost(pattern: &[u8]) -> usize {
    let classes = memchr::memchr_iter(b'[', pattern).take(3 * ELEMENTS_MAX).count();
    4 * classes + pattern.len() / 64
}

impl Anchored {
    fn read(run: &[u8], scanned: &Scanned, case: Case) -> Self {
        if scanned.is_plain && scanned.elements == run.len() {
            return Self::Literal;
        }
        if scanned.elements <= ELEMENTS_MAX && run.contains(&b'[') {
            return Self::Ready(Box::new(Mixed::new(run, scanned.elements, case)));
        }
        Self::Elements(run.len().div_ceil(scanned.elements.max(1)))
    }
}

/// A run between two stars.
struct Scanned {
    /// The position of the star, or the pattern's end.
    end: usize,
    elements: usize,
    /// Every element is a literal byte.
    is_plain: bool,
}

fn scan_run(pattern: &[u8], mut at: usize, case: Case) -> Scanned {
    let (mut elements, mut is_plain) = (0, true);
    while let Some(&first) = pattern.get(at) {
        match (first, pattern.get(at + 1)) {
            (b'*', _) => break,
            (b'?', _) => (is_plain, at) = (false, at + 1),
            (b'[', _) => (is_plain, at) = (false, class_end(pattern, at + 1)),
            (b'\\', Some(&escaped)) => (is_plain, at) = (is_plain && is_caseless(escaped, case), at + 2),
            (plain, _) => (is_plain, at) = (is_plain && is_caseless(plain, case), at + 1),
        }
        elements += 1;
    }
    Scanned { end: at, elements, is_plain }
}

fn is_caseless(byte: u8, case: Case) -> bool {
    case == Case::Sensitive || !byte.is_ascii_alphabetic()
}

/// The bytes of a literal run, to be searched for.
fn plain(run: &[u8]) -> Finder<'_> {
    if !run.contains(&b'\\') {
        return Finder::new(run);
    }
    let mut bytes = Vec::with_capacity(run.len());
    let mut at = 0;
    while at < run.len() {
        at += usize::from(run[at] == b'\\' && at + 1 < run.len());
        bytes.push(run[at]);
        at += 1;
    }
    Finder::new(&bytes).into_owned()
}

impl Run<'_> {
    /// The end of its first occurrence in `text`.
    fn search(&self, text: &[u8]) -> Option<usize> {
        match self {
            Self::Plain(finder) => finder.find(text).map(|at| at + finder.needle().len()),
            Self::Mixed(mixed) => mixed.search(text),
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Self::Plain(finder) => size_of::<Finder<'_>>() + finder.needle().len(),
            Self::Mixed(mixed) => size_of::<Mixed>() + size_of_val(&*mixed.masks),
        }
    }
}

/// A run that holds `?` or classes. Bytes that all of its elements treat alike form one kind.
#[derive(Clone, Debug)]
struct Mixed {
    elements: usize,
    words: usize,
    kinds: [u8; 256],
    /// For each kind, `words` words: a bit for each element that matches bytes of this kind.
    masks: Box<[u64]>,
}

impl Mixed {
    fn new(run: &[u8], elements: usize, case: Case) -> Self {
        let words = elements.div_ceil(64);
        let kinds = Kinds::of(run, case);
        let mut masks = vec![0; kinds.samples.len() * words].into_boxed_slice();
        let (mut at, mut element) = (0, 0);
        while at < run.len() {
            let after = element_end(run, at);
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

    fn takes(&self, element: usize, byte: u8) -> bool {
        let word = self.masks[usize::from(self.kinds[usize::from(byte)]) * self.words + element / 64];
        word >> (element % 64) & 1 != 0
    }

    /// Bit `n` of the state is set while the first `n + 1` elements match the last `n + 1` bytes.
    fn search(&self, text: &[u8]) -> Option<usize> {
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
struct Kinds {
    of_byte: [u8; 256],
    /// A byte of each kind.
    samples: Vec<u8>,
}

impl Kinds {
    /// Begins with all bytes as one kind and divides them by each element.
    fn of(run: &[u8], case: Case) -> Self {
        let mut kinds = vec![Taken::ALL];
        let mut seen = Taken::NONE;
        let mut at = 0;
        while at < run.len() && kinds.len() < 256 {
            let after = element_end(run, at);
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
fn divide(kinds: &mut Vec<Taken>, taken: Taken) {
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
struct Taken([u64; 4]);

impl Taken {
    const ALL: Self = Self([u64::MAX; 4]);
    const NONE: Self = Self([0; 4]);

    /// The bytes that an element, which is not a star, matches. A class is read once, however long it is.
    fn by(element: &[u8], case: Case) -> Self {
        let mut exact = Self::NONE;
        match element {
            [b'?'] => return Self::ALL,
            [b'[', inside @ ..] => return Self::by_class(inside, case),
            [b'\\', byte] | [byte, ..] => exact.insert(case.fold(*byte)),
            [] => {}
        }
        exact.unfolded(case)
    }

    fn by_class(inside: &[u8], case: Case) -> Self {
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

    fn contains(self, byte: u8) -> bool {
        self.0[usize::from(byte / 64)] >> (byte % 64) & 1 != 0
    }

    fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte / 64)] |= 1 << (byte % 64);
    }

    /// Bytes in the order of signed numbers.
    fn insert_range(&mut self, from: i8, to: i8) {
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
    fn unfolded(self, case: Case) -> Self {
        const UPPER: u64 = ((1 << 26) - 1) << (b'A' % 64);
        let Self(mut words) = self;
        if case == Case::Insensitive {
            let lower = words[1] >> (b'a' - b'A');
            words[1] = words[1] & !UPPER | lower & UPPER;
        }
        Self(words)
    }

    fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    fn or(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    fn negated(self) -> Self {
        Self(self.0.map(|word| !word))
    }
}

/// The end of the element that begins at `at`, which is not a star.
fn element_end(pattern: &[u8], at: usize) -> usize {
    match pattern[at] {
        b'[' => class_end(pattern, at + 1),
        b'\\' if at + 1 < pattern.len() => at + 2,
        _ => at + 1,
    }
}

/// Matches one byte with the element at `p`, which is not a star. Returns the start of the next element.
#[inline(always)]
fn match_one(pattern: &[u8], p: usize, byte: u8, case: Case) -> Option<usize> {
    match (*pattern.get(p)?, pattern.get(p + 1)) {
        (b'?', _) => Some(p + 1),
        (b'[', _) => match_class(pattern, p + 1, byte, case),
        (b'\\', Some(&escaped)) => (case.fold(escaped) == case.fold(byte)).then_some(p + 2),
        (plain, _) => (case.fold(plain) == case.fold(byte)).then_some(p + 1),
    }
}

impl Case {
    #[inline(always)]
    fn fold(self, byte: u8) -> u8 {
        match self {
            Self::Sensitive => byte,
            Self::Insensitive => byte.to_ascii_lowercase(),
        }
    }
}

/// The end of the class whose inside begins at `p`.
fn class_end(pattern: &[u8], mut p: usize) -> usize {
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
fn match_class(pattern: &[u8], mut p: usize, byte: u8, case: Case) -> Option<usize> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("*", "", false),
            ("", "a", false),
            ("*", "a", true),
            ("**", "a", true),
            ("a*", "a", true),
            ("a**", "a", true),
            ("a*b", "ab", true),
            ("a*b", "acbcb", true),
            ("a*b", "acbc", false),
            ("*a*", "bab", true),
            ("?", "", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a-c]llo", "hdllo", false),
            ("[]", "a", false),
            ("[^]", "a", true),
            ("[", "a", false),
            ("[^", "a", true),
            ("[abc", "b", true),
            ("[a-", "-", true),
            ("[]-a]", "]", false),
            ("[a-]]", "^", true),
            (r"[\]]", "]", true),
            (r"[\-a]", "-", true),
            (r"[a\", r"\", true),
            (r"\*", "*", true),
            (r"\*", "a", false),
            (r"\", r"\", true),
            (r"a\", "a", false),
            (r"\a", "a", true),
            ("A", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern:?} {text:?}");
        }
        for (pattern, text, expected) in [
            (&b"[\x80-\xff]"[..], &b"\xc3"[..], true),
            (b"[a-\xff]", b"b", false),
            (b"[a-\xff]", b"\0", true),
            (b"[\0-\xff]", b"a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn case_aside() {
        for (pattern, text, expected) in [
            ("aB*", "AbC", true),
            ("[a-c]", "B", true),
            ("[A-C]", "b", true),
            ("[x]", "X", true),
            (r"[\x]", "X", false),
            (r"\x", "X", true),
            ("[^a]", "A", false),
        ] {
            assert_eq!(matches_nocase(pattern.as_bytes(), text.as_bytes()), expected, "{pattern:?} {text:?}");
        }
    }

    /// The answers of Redis 7.0.15, Redis 8.10.2 and Valkey 9.1.2.
    #[test]
    fn a_thousand_stars_match_and_more_do_not() {
        let text = "a".repeat(3_000);
        for (stars, before_a, at_the_end) in [(1000, true, true), (1001, false, true), (1002, false, false)] {
            let pattern = "a*".repeat(stars);
            assert_eq!(matches((pattern.clone() + "aaaaa").as_bytes(), text.as_bytes()), before_a, "{stars}");
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), at_the_end, "{stars}");
        }
    }

    /// Each of these took seconds or hours when the cost was the product of the lengths. A regression would not end
    /// here.
    #[test]
    fn long_patterns_over_long_texts_are_quick() {
        let text = "a".repeat(256 << 10);
        let long = 128 << 10;
        let class = format!("*[{}]q", "ab".repeat(long));
        let mixed = format!("*{}b", "[ab]".repeat(ELEMENTS_MAX - 1));
        for pattern in [
            format!("*{}b", "a".repeat(long)),
            format!("*{}b*", "a".repeat(long)),
            format!("{}b", "*a".repeat(900)),
            format!("*{}?b", "a".repeat(long)),
            class,
            mixed,
        ] {
            let glob = Glob::new(pattern.as_bytes()).unwrap();
            assert!(!glob.matches(text.as_bytes()), "{}...", &pattern[..20]);
        }
    }

    #[test]
    fn what_would_take_too_long_is_refused() {
        let elements = |count: usize| format!("*{}*", "[ab]".repeat(count));
        assert_eq!(Glob::new(elements(ELEMENTS_MAX).as_bytes()).unwrap().cost(1, 1 << 20), (64 + 1) << 13);
        assert_eq!(Glob::new(elements(ELEMENTS_MAX + 1).as_bytes()).unwrap_err(), TooComplex);
        assert_eq!(Glob::new(format!("{0}x{0}", elements(ELEMENTS_MAX * 2 / 3)).as_bytes()).unwrap_err(), TooComplex);
        // A run that is not searched for costs only its length.
        let anchored = "[ab]".repeat(ELEMENTS_MAX * 2);
        let text = "ab".repeat(ELEMENTS_MAX);
        for pattern in [anchored.clone(), format!("{anchored}*"), format!("*{anchored}")] {
            assert!(matches(pattern.as_bytes(), text.as_bytes()));
        }
    }

    /// The definition, tried exhaustively: the answer of Redis's recursive matcher without its shortcuts.
    fn model(pattern: &[u8], text: &[u8]) -> bool {
        let Some((&first, after)) = pattern.split_first() else {
            return text.is_empty();
        };
        if first == b'*' {
            return (0..=text.len()).any(|taken| model(after, &text[taken..]));
        }
        let Some((&byte, text)) = text.split_first() else {
            return false;
        };
        match first {
            b'?' => model(after, text),
            b'[' => {
                let (negated, mut rest) = match after {
                    [b'^', rest @ ..] => (true, rest),
                    rest => (false, rest),
                };
                let mut members = Vec::new();
                loop {
                    match rest {
                        [] => break,
                        [b'\\', escaped, tail @ ..] => {
                            members.push(*escaped);
                            rest = tail;
                        }
                        [b']', tail @ ..] => {
                            rest = tail;
                            break;
                        }
                        [from, b'-', to, tail @ ..] => {
                            let (from, to) = (from.cast_signed(), to.cast_signed());
                            members.extend((from.min(to)..=from.max(to)).map(i8::cast_unsigned));
                            rest = tail;
                        }
                        [plain, tail @ ..] => {
                            members.push(*plain);
                            rest = tail;
                        }
                    }
                }
                members.contains(&byte) != negated && model(rest, text)
            }
            b'\\' if !after.is_empty() => after[0] == byte && model(&after[1..], text),
            plain => plain == byte && model(after, text),
        }
    }

    /// The definition by dynamic programming: quick enough for long runs.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        let mut reached = vec![false; text.len() + 1];
        reached[0] = true;
        let mut at = 0;
        while at < pattern.len() {
            let mut next = vec![false; text.len() + 1];
            if pattern[at] == b'*' {
                let first = reached.iter().position(|reached| *reached).unwrap_or(next.len());
                next[first..].fill(true);
                at += 1;
            } else {
                for (t, &byte) in text.iter().enumerate() {
                    next[t + 1] = reached[t] && match_one(pattern, at, byte, Case::Sensitive).is_some();
                }
                at = element_end(pattern, at);
            }
            reached = next;
        }
        reached[text.len()]
    }

    /// The bytes that an element matches are read in two ways: all at once, and byte by byte.
    #[test]
    fn a_class_takes_what_it_matches() {
        for element in [
            "?",
            "a",
            "Q",
            r"\a",
            r"\Q",
            "[a]",
            "[Q]",
            "[^a-c]",
            "[a-Q]",
            "[Q-a]",
            "[\u{80}-\u{ff}]",
            "[\0-\u{7f}]",
            r"[\aB-Y]",
            "[]",
            "[^]",
            "[",
            "[^",
            "[a-",
            r"[a\",
            "[@-`]",
            "[z-z]",
        ] {
            let element = element.as_bytes();
            for case in [Case::Sensitive, Case::Insensitive] {
                let taken = Taken::by(element, case);
                for byte in 0..=255 {
                    let matches = match_one(element, 0, byte, case).is_some();
                    assert_eq!(
                        taken.contains(byte),
                        matches,
                        "{:?} {byte} {case:?}",
                        element.escape_ascii().to_string()
                    );
                }
            }
        }
        for (from, to) in [(i8::MIN, i8::MAX), (-1, 0), (0, 0), (-128, -128), (127, 127), (-65, 63), (-64, 64), (5, 4)]
        {
            let mut taken = Taken::NONE;
            taken.insert_range(from, to);
            for byte in 0..=255u8 {
                assert_eq!(taken.contains(byte), (from..=to).contains(&byte.cast_signed()), "{from} {to} {byte}");
            }
        }
    }

    /// The work of a match, in bytes and elements looked at.
    #[test]
    fn the_cost_counts_every_part_of_a_pattern() {
        let glob = |pattern: &str| Glob::new(pattern.as_bytes()).unwrap().into_owned();
        let long_class = format!("[{}]", "ab".repeat(1000));
        for (pattern, texts, bytes, least) in [
            // A prepared class at the beginning or at the end.
            ("[ab]".repeat(4096) + "*", 10, 10 * 4096, 10 * 4096 / 64),
            (format!("*{}", "[ab]".repeat(4096)), 10, 10 * 4096, 10 * 4096 / 64),
            // The same, too long to be prepared: each class is read for each text.
            (long_class.repeat(5000), 1, 5000, 5000 * 2002 / 64),
            (format!("*{}", long_class.repeat(5000)), 1, 5000, 5000 * 2002 / 64),
            // Each part is searched for separately.
            ("*a".repeat(900), 10, 10 << 10, 10 * 899 / 4),
        ] {
            let cost = glob(&pattern).cost(texts, bytes);
            assert!((least..2 * least + 100).contains(&cost), "{}...: {cost} of {least}", &pattern[..10]);
        }
        assert_eq!(glob("user:*").cost(1000, 1 << 20), (1 << 20) / 1024 + 5000 / 1024);
        assert_eq!(glob("user[0-9]*").cost(1000, 1 << 20), (1 << 20) / 1024 + 5000 / 64);
        assert!(reading_cost(b"user:[0-9]*") < 10);
        assert!(reading_cost("[ab]".repeat(1 << 20).as_bytes()) > 10_000);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn agrees_with_the_definition(pattern in r"[ab*?\[\]\^\\-]{0,10}", text in r"[ab\-\]\\\[*]{1,8}") {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(matches(pattern, text), model(pattern, text));
        }

        /// Runs of more than 64 elements are searched word by word.
        #[test]
        fn long_runs_agree_with_the_definition(
            runs in prop::collection::vec(r"([ab?]|\[ab\]|\[\^a\]){60,70}", 1..3),
            text in "a{0,3}[ab]{55,75}a{0,3}([ab]{60,75})?",
        ) {
            let pattern = format!("*{}*", runs.join("*"));
            prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), naive(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn any_bytes_are_answered(pattern: Vec<u8>, text: Vec<u8>) {
            matches_nocase(&pattern, &text);
            prop_assert_eq!(matches(&pattern, &text), !text.is_empty() && model(&pattern, &text) || pattern.is_empty() && text.is_empty());
        }
    }
}

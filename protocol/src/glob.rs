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

mod elements;
mod mixed;

use std::borrow::Cow;
use std::fmt;

use memchr::memmem::Finder;

use self::elements::{Case, class_end, is_caseless, match_one};
use self::mixed::Mixed;

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

    /// Whether it has something between two stars, so that a match looks at the whole text.
    pub fn searches(&self) -> bool {
        !self.middle.is_empty()
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

#[cfg(test)]
mod tests;

//! Parts shared by the commands over collections: how an element is written, `SCAN`'s options within one key, counts,
//! and the choice of elements at random.

use dormouse_protocol::Reply;
use dormouse_protocol::glob::Glob;
use dormouse_types::Item;

use crate::commands::args::{Args, Argument, Rest, integer};
use crate::commands::cursor_of;
use crate::error::{Error, Result};

/// Largest reply that draws elements with repetition: `HRANDFIELD key -1000000000` would otherwise fill the memory from
/// a single field. One element more is always written.
const REPEATS_BYTES_MAX: usize = 64 << 20;
/// The reply of an empty element: `$0`, and two line ends.
const ELEMENT_BYTES_MIN: usize = 6;

/// Overhead of a stored member beside its bytes, with its score.
pub const MEMBER_BYTES: usize = 64;

pub fn write_item(reply: &mut Reply, item: Item<'_>) {
    match item {
        Item::Int(number) => reply.bulk_integer(number),
        Item::Bytes(bytes) => reply.bulk(bytes),
    }
}

/// How many elements to pop: an integer that is not negative.
#[derive(Debug, Clone, Copy)]
pub struct Count(pub usize);

impl<'a> Argument<'a> for Count {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let count = integer(args.bytes()?).ok().and_then(|count| usize::try_from(count).ok());
        count.map(Count).ok_or(Error::NotPositive)
    }
}

/// An integer whose negation is one too.
#[derive(Debug, Clone, Copy)]
pub struct Negatable(pub i64);

impl<'a> Argument<'a> for Negatable {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        match args.take()? {
            i64::MIN => Err(Error::NotNegatable),
            number => Ok(Self(number)),
        }
    }
}

/// The cursor of `HSCAN`, `SSCAN`, `ZSCAN`.
#[derive(Debug, Clone, Copy)]
pub struct Cursor(pub u64);

impl<'a> Argument<'a> for Cursor {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        cursor_of(args.bytes()?).map(Cursor).ok_or(Error::InvalidCursor)
    }
}

/// `[MATCH pattern] [COUNT count] [NOVALUES | NOSCORES]`. Redis reads them after it has found the key: without one it
/// answers with nothing, whatever they are.
#[derive(Debug, Clone)]
pub struct ScanOptions<'a> {
    pattern: Option<Glob<'a>>,
    pub count: usize,
    /// The reply has elements without their values or scores.
    pub is_bare: bool,
}

/// The word that leaves something out of a scan's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bare {
    NoValues,
    NoScores,
}

impl<'a> ScanOptions<'a> {
    /// Reads the options of a scan that knows the word `bare`.
    pub fn read(options: Rest<'a>, bare: Option<Bare>) -> Result<Self> {
        Self::read_if(options, |word| Some(word) == bare)
    }

    /// Reads the options of any scan.
    pub fn read_any(options: Rest<'a>) -> Result<Self> {
        Self::read_if(options, |_| true)
    }

    fn read_if(options: Rest<'a>, may_be: impl Fn(Bare) -> bool) -> Result<Self> {
        let mut read = Self { pattern: None, count: 10, is_bare: false };
        let mut words = options.iter();
        while let Some(word) = words.next() {
            if let Some(bare) = Bare::of(word) {
                if !may_be(bare) {
                    return Err(bare.is_misplaced());
                }
                read.is_bare = true;
                continue;
            }
            let value = words.next().ok_or(Error::Syntax)?;
            if word.eq_ignore_ascii_case(b"MATCH") {
                read.pattern = if value == b"*" { None } else { Some(Glob::new(value)?) };
            } else if word.eq_ignore_ascii_case(b"COUNT") {
                let count = integer(value)?;
                read.count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or(Error::Syntax)?;
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(read)
    }

    pub fn matches(&self, item: Item<'_>) -> bool {
        self.pattern.as_ref().is_none_or(|glob| item.with_text(|text| glob.matches(text)))
    }

    /// The cost of looking at `count` elements that have so many bytes together.
    pub fn cost(&self, count: usize, bytes: usize) -> usize {
        self.pattern.as_ref().map_or(0, |glob| glob.cost(count, bytes))
    }
}

impl Bare {
    pub fn of(word: &[u8]) -> Option<Self> {
        if word.eq_ignore_ascii_case(b"NOVALUES") {
            Some(Self::NoValues)
        } else if word.eq_ignore_ascii_case(b"NOSCORES") {
            Some(Self::NoScores)
        } else {
            None
        }
    }

    /// The error of a scan that does not know the word.
    pub fn is_misplaced(self) -> Error {
        match self {
            Self::NoValues => Error::NoValuesElsewhere,
            Self::NoScores => Error::NoScoresElsewhere,
        }
    }
}

/// Makes `[cursor [...]]` of the `len` replies that were written since the reply was `start` bytes long.
pub fn write_page(reply: &mut Reply, start: usize, cursor: u64, len: usize) {
    reply.array_since(start, len);
    let end = reply.len();
    reply.array(2);
    reply.bulk(itoa::Buffer::new().format(cursor).as_bytes());
    let head = reply.len() - end;
    reply.buffer[start..].rotate_right(head);
}

/// Chooses some of a number of visited elements, every choice being equally likely: each is taken with the probability
/// of those still wanted among those still to come (Knuth's algorithm S).
#[derive(Debug, Clone, Copy)]
pub struct Selection {
    left: usize,
    wanted: usize,
}

impl Selection {
    pub fn new(wanted: usize, of: usize) -> Self {
        Self { left: of, wanted: wanted.min(of) }
    }

    /// Whether the next element is chosen; `random` is uniform.
    pub fn takes(&mut self, random: u64) -> bool {
        let rank = ((u128::from(random) * self.left as u128) >> 64) as usize;
        let takes = rank < self.wanted;
        self.left = self.left.saturating_sub(1);
        self.wanted -= usize::from(takes);
        takes
    }
}

/// Calls `write` to write an element at random, `count` times.
///
/// # Errors
/// `Error::OutOfRange` when the reply becomes too large.
pub fn write_repeatedly(reply: &mut Reply, count: u64, mut write: impl FnMut(&mut Reply)) -> Result<()> {
    if count > (REPEATS_BYTES_MAX / ELEMENT_BYTES_MIN) as u64 {
        return Err(Error::OutOfRange);
    }
    let start = reply.len();
    for _ in 0..count {
        if reply.len() - start > REPEATS_BYTES_MAX {
            return Err(Error::OutOfRange);
        }
        write(reply);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_takes_as_many_as_wanted_and_each_as_often() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut taken = [0; 10];
        for _ in 0..3000 {
            let mut selection = Selection::new(3, 10);
            let mut count = 0;
            for of in &mut taken {
                if selection.takes(random.u64(..)) {
                    *of += 1;
                    count += 1;
                }
            }
            assert_eq!(count, 3);
        }
        assert!(taken.iter().all(|of| (750..1050).contains(of)), "{taken:?}");
    }

    #[test]
    fn repetition_is_bounded() {
        let mut reply = Reply::default();
        let outcome = write_repeatedly(&mut reply, 1000, |reply| reply.bulk(&[b'x'; 1 << 20]));
        assert_eq!(outcome, Err(Error::OutOfRange));
        assert!(reply.len() <= REPEATS_BYTES_MAX + (2 << 20));
        let outcome = write_repeatedly(&mut reply, u64::MAX, |_| panic!("nothing is written when it cannot end well"));
        assert_eq!(outcome, Err(Error::OutOfRange));
    }
}

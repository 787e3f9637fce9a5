//! Commands that look at the elements of a range.

use std::cmp::Ordering;

use dormouse_protocol::glob::{Glob, reading_cost};
use dormouse_protocol::{Reply, Request};
use dormouse_types::Array;
use dormouse_types::array::{Element, ElementText, double_of};
use dormouse_types::pace;
use memchr::memmem::Finder;
use regex::bytes::Regex;

use super::expression::{self, NEEDED_BYTES};
use super::{INVALID_INDEX, Index, Span, cost_of_span, index_of, write_element, write_index};
use crate::commands::args::Args;
use crate::commands::cost::{BYTES_PER_ELEMENT, READING_MAX};
use crate::commands::long_double::LongDouble;
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;

/// The cost of a regular expression: it has no bound that is known from its length, so it runs on the slow lane.
const EXPRESSION: usize = 1_000_000;

/// Large texts of a range that are looked at to know their bytes.
const LARGE_LOOKS: usize = 1024;

/// The most conditions of an `ARGREP`.
const CONDITIONS_MAX: usize = 250;

/// `ARSCAN key start end [LIMIT count]`
pub(super) fn arscan(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, Index(start), Index(end), mut options): (&[u8], Index, Index, Args<'_>),
) -> Result<()> {
    let mut left = match options.len() {
        0 => u64::MAX,
        2 if options.word("LIMIT") => limit(&mut options)?,
        2 => return Err(Error::Syntax),
        _ => return Err(Error::WrongArity(options.name())),
    };
    let span = Span::new(start, end);
    let array = db.read::<Array>(key)?;
    let (begin, mut found) = (reply.len(), 0);
    if let Some(array) = array {
        array.visit(span.low, span.high, span.reverse, |index, element| {
            reply.array(2);
            write_index(reply, index);
            write_element(reply, element);
            found += 1;
            left -= 1;
            left == 0 || !pace::goes_on(1)
        });
    }
    reply.array_since(begin, found);
    Ok(())
}

/// The number after `LIMIT`.
fn limit(options: &mut Args<'_>) -> Result<u64> {
    match options.take::<i64>()? {
        ..1 => Err(Error::text("ERR LIMIT must be positive")),
        limit => Ok(limit.unsigned_abs()),
    }
}

/// `ARGREP key start end EXACT | MATCH | GLOB | RE pattern ... [AND | OR] [LIMIT count] [WITHVALUES] [NOCASE]`
pub(super) fn argrep(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, start, end, words): (&[u8], &[u8], &[u8], Args<'_>),
) -> Result<()> {
    let (start, end) = (Bound::of(start)?, Bound::of(end)?);
    let options = Search::read(words)?;
    let conditions = options.conditions()?;
    let array = db.read::<Array>(key)?;
    let (begin, mut found) = (reply.len(), 0);
    if let Some((array, highest)) = array.and_then(|array| Some((array, array.highest()?))) {
        let span = Span::new(start.index(highest), end.index(highest));
        let mut left = options.limit;
        let mut lower = Vec::new();
        array.visit(span.low, span.high, span.reverse, |index, element| {
            let mut room = ElementText::new();
            let text = element.text(&mut room);
            if !pace::goes_on(1 + text.len() / BYTES_PER_ELEMENT) {
                return true;
            }
            if options.nocase {
                lower.clear();
                lower.extend(text.iter().map(u8::to_ascii_lowercase));
            }
            let mut met = conditions.iter().map(|condition| condition.is_met(text, &lower, options.nocase));
            let is_found = if options.all { met.all(|is_met| is_met) } else { met.any(|is_met| is_met) };
            if !is_found {
                return false;
            }
            if options.with_values {
                reply.array(2);
            }
            write_index(reply, index);
            if options.with_values {
                write_element(reply, element);
            }
            found += 1;
            left -= 1;
            left == 0
        });
    }
    reply.array_since(begin, found);
    Ok(())
}

/// An end of a range: an index, or one of the array's ends.
#[derive(Clone, Copy)]
enum Bound {
    Index(u64),
    First,
    Last,
}

impl Bound {
    fn of(word: &[u8]) -> Result<Self> {
        match word {
            b"-" => Ok(Bound::First),
            b"+" => Ok(Bound::Last),
            word => index_of(word).map(Bound::Index).ok_or(INVALID_INDEX),
        }
    }

    fn index(self, highest: u64) -> u64 {
        match self {
            Bound::Index(index) => index,
            Bound::First => 0,
            Bound::Last => highest,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ConditionKind {
    Exact,
    Contains,
    Glob,
    Expression,
}

impl ConditionKind {
    fn named(word: &[u8]) -> Option<Self> {
        Some(match word {
            b"EXACT" => Self::Exact,
            b"MATCH" => Self::Contains,
            b"GLOB" => Self::Glob,
            b"RE" => Self::Expression,
            _ => return None,
        })
    }
}

/// The words of an `ARGREP` after its range.
struct Search<'a> {
    patterns: Vec<(ConditionKind, &'a [u8])>,
    all: bool,
    limit: u64,
    with_values: bool,
    nocase: bool,
}

impl<'a> Search<'a> {
    fn read(mut words: Args<'a>) -> Result<Self> {
        let mut search =
            Search { patterns: Vec::new(), all: false, limit: u64::MAX, with_values: false, nocase: false };
        while let Some(word) = words.upper() {
            words.skip();
            if let Some(kind) = ConditionKind::named(word.as_bytes()) {
                let pattern = words.bytes()?;
                if search.patterns.len() == CONDITIONS_MAX {
                    return Err(Error::text("ERR too many predicates, maximum is 250"));
                }
                if kind == ConditionKind::Expression {
                    expression::check_length(pattern)?;
                }
                search.patterns.push((kind, pattern));
                continue;
            }
            match word.as_bytes() {
                b"LIMIT" => search.limit = limit(&mut words)?,
                b"WITHVALUES" => search.with_values = true,
                b"NOCASE" => search.nocase = true,
                b"AND" => search.all = true,
                b"OR" => search.all = false,
                _ => return Err(Error::Syntax),
            }
        }
        if search.patterns.is_empty() { Err(Error::Syntax) } else { Ok(search) }
    }

    /// The conditions, ready to be tested.
    fn conditions(&self) -> Result<Vec<Condition<'a>>> {
        let ready = |(kind, pattern): &(ConditionKind, &'a [u8])| {
            Ok(match kind {
                ConditionKind::Exact => Condition::Exact(pattern),
                ConditionKind::Contains if self.nocase => {
                    Condition::Contains(Finder::new(&pattern.to_ascii_lowercase()).into_owned())
                }
                ConditionKind::Contains => Condition::Contains(Finder::new(*pattern)),
                ConditionKind::Glob if self.nocase => Condition::Glob(Glob::nocase(pattern)?),
                ConditionKind::Glob => Condition::Glob(Glob::new(pattern)?),
                ConditionKind::Expression => Condition::Expression(expression::compile(pattern, self.nocase)?),
            })
        };
        self.patterns.iter().map(ready).collect()
    }
}

enum Condition<'a> {
    Exact(&'a [u8]),
    Contains(Finder<'a>),
    Glob(Glob<'a>),
    Expression(Regex),
}

impl Condition<'_> {
    /// `lower`: the text in lower case, if case makes no difference.
    fn is_met(&self, text: &[u8], lower: &[u8], nocase: bool) -> bool {
        match self {
            Condition::Exact(pattern) if nocase => pattern.eq_ignore_ascii_case(text),
            Condition::Exact(pattern) => *pattern == text,
            Condition::Contains(finder) => finder.find(if nocase { lower } else { text }).is_some(),
            Condition::Glob(glob) => glob.matches(text),
            Condition::Expression(regex) => regex.is_match(text),
        }
    }
}

/// The elements of the range, with their bytes, for each condition.
pub(super) fn cost_of_search(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    if request.len() < 6 {
        return 0;
    }
    let Ok(search) = Search::read(Args::new(request, 4)) else { return 0 };
    let key = request.arg(1);
    let Some(array) = db.peek_collection::<Array>(key) else { return 0 };
    let Some(highest) = array.highest() else { return 0 };
    let (Ok(start), Ok(end)) = (Bound::of(request.arg(2)), Bound::of(request.arg(3))) else { return 0 };
    let span = Span::new(start.index(highest), end.index(highest));
    let count = usize::try_from(span.len()).unwrap_or(usize::MAX).min(db.cardinality(key));
    // The average says nothing of the large texts in the range.
    let bytes = db.collection_bytes(key).saturating_mul(2) / db.cardinality(key).max(1) * count;
    let bytes = bytes.saturating_add(array.large_bytes(span.low, span.high, LARGE_LOOKS));
    let reading: usize = search.patterns.iter().map(|(_, pattern)| 2 * reading_cost(pattern)).sum();
    if reading > READING_MAX {
        return usize::MAX;
    }
    let conditions = search.patterns.iter().map(|(kind, pattern)| match kind {
        ConditionKind::Expression => EXPRESSION.saturating_add(bytes),
        ConditionKind::Glob => Glob::new(pattern).map_or(0, |glob| count.saturating_add(glob.cost(count, bytes))),
        _ => count.saturating_add(bytes / BYTES_PER_ELEMENT),
    });
    let elements = cost_of_span(db, key, span).saturating_add(bytes / BYTES_PER_ELEMENT);
    conditions.fold(elements.saturating_add(reading), usize::saturating_add)
}

/// The memory of compiled expressions, which are many times as large as their text.
pub(super) fn needs_of_search(_: &Keyspace<'_>, request: Request<'_>) -> usize {
    if request.len() < 6 {
        return 0;
    }
    let Ok(search) = Search::read(Args::new(request, 4)) else { return 0 };
    let expressions = search.patterns.iter().filter(|(kind, _)| *kind == ConditionKind::Expression);
    expressions.count().saturating_mul(NEEDED_BYTES)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation<'a> {
    Sum,
    Least,
    Most,
    And,
    Or,
    Xor,
    Equal(&'a [u8]),
    Count,
}

/// `AROP key start end SUM | MIN | MAX | AND | OR | XOR | USED | MATCH value`
pub(super) fn arop(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, Index(start), Index(end), mut words): (&[u8], Index, Index, Args<'_>),
) -> Result<()> {
    let word = words.upper().ok_or(Error::Syntax)?;
    words.skip();
    let operation = match word.as_bytes() {
        b"SUM" => Operation::Sum,
        b"MIN" => Operation::Least,
        b"MAX" => Operation::Most,
        b"AND" => Operation::And,
        b"OR" => Operation::Or,
        b"XOR" => Operation::Xor,
        b"USED" => Operation::Count,
        b"MATCH" if words.len() == 1 => Operation::Equal(words.bytes()?),
        b"MATCH" => return Err(Error::text("ERR MATCH requires a value argument")),
        _ => return Err(Error::text("ERR unknown operation")),
    };
    if !words.is_empty() {
        return Err(Error::WrongArity(words.name()));
    }
    let span = Span::new(start, end);
    let array = db.read::<Array>(key)?;
    let visit = |each: &mut dyn FnMut(Element<'_>)| {
        if let Some(array) = array {
            array.visit(span.low, span.high, span.reverse, |_, element| {
                each(element);
                !pace::goes_on(1)
            });
        }
    };
    match operation {
        Operation::Count | Operation::Equal(_) => {
            let mut count = 0;
            visit(&mut |element| {
                let is_counted = match operation {
                    Operation::Equal(value) => element.text(&mut ElementText::new()) == value,
                    _ => true,
                };
                count += i64::from(is_counted);
            });
            reply.integer(count);
        }
        Operation::And | Operation::Or | Operation::Xor => {
            let mut bits: Option<i64> = None;
            visit(&mut |element| {
                let Some(number) = Number::of(element).and_then(Number::truncated) else { return };
                bits = Some(bits.map_or(number, |bits| match operation {
                    Operation::And => bits & number,
                    Operation::Or => bits | number,
                    _ => bits ^ number,
                }));
            });
            match bits {
                Some(bits) => reply.integer(bits),
                None => reply.null(),
            }
        }
        Operation::Sum | Operation::Least | Operation::Most => {
            let mut result: Option<Number> = None;
            visit(&mut |element| {
                let Some(number) = Number::of(element) else { return };
                result = Some(result.map_or(number, |before| match operation {
                    Operation::Sum => before.plus(number),
                    Operation::Least if number.compare(before) == Some(Ordering::Less) => number,
                    Operation::Most if number.compare(before) == Some(Ordering::Greater) => number,
                    _ => before,
                }));
            });
            match result {
                Some(number) => reply.bulk(number.long().format_general().as_bytes()),
                None => reply.null(),
            }
        }
    }
    Ok(())
}

/// A number as `AROP` computes with it: always a `long double`, which holds each integer exactly.
#[derive(Clone, Copy)]
enum Number {
    Integer(i64),
    Long(LongDouble),
}

impl Number {
    /// The number that an element is. Where Redis keeps a double in place of the text, that is the number.
    fn of(element: Element<'_>) -> Option<Self> {
        if let Element::Int(number) = element {
            return Some(Number::Integer(number));
        }
        let mut room = ElementText::new();
        let text = element.text(&mut room);
        // Nothing else begins a number.
        if !matches!(text.first(), Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'i' | b'I')) {
            return None;
        }
        let double = double_of(text).map(LongDouble::from_double);
        double.or_else(|| LongDouble::parse(text)).map(Number::Long)
    }

    fn long(self) -> LongDouble {
        match self {
            Number::Integer(number) => LongDouble::from_integer(number),
            Number::Long(number) => number,
        }
    }

    fn plus(self, other: Self) -> Self {
        if let (Number::Integer(one), Number::Integer(two)) = (self, other)
            && let Some(sum) = one.checked_add(two)
        {
            return Number::Integer(sum);
        }
        Number::Long(self.long().sum(other.long()))
    }

    fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Number::Integer(one), Number::Integer(two)) => Some(one.cmp(&two)),
            _ => self.long().partial_cmp(&other.long()),
        }
    }

    fn truncated(self) -> Option<i64> {
        match self {
            Number::Integer(number) => Some(number),
            Number::Long(number) => number.truncated(),
        }
    }
}

/// The elements of the range; texts are read as numbers, which takes a few times as long.
pub(super) fn cost_of_operation(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    const READING: usize = 24;
    let Some(span) = Span::of(request.arg(2), request.arg(3)) else { return 0 };
    cost_of_span(db, request.arg(1), span).saturating_mul(READING)
}

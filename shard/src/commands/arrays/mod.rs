//! Arrays: texts at indices of 64 bits.
//!
//! [`cursor`] has the commands that insert behind each other, [`search`] those that look at the elements of a range.

mod cursor;
mod expression;
mod search;
#[cfg(test)]
mod tests;

use dormouse_protocol::{Reply, Request};
use dormouse_types::Array;
use dormouse_types::array::{Element, ElementText, GROUP, INDEX_MAX, SLICE};
use dormouse_types::pace;

use crate::commands::args::{Args, Argument, Pairs, Rest, canonical_integer};
use crate::commands::{Access, Category, Command, Family, Flags, KeySpec, Run, at_least, cost, exactly, run};
use crate::error::{Error, Result};
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::{Change, Keyspace};

const READ: Flags = Flags::READ;
const READ_FAST: Flags = READ.union(Flags::FAST);
const WRITE: Flags = Flags::WRITE.union(Flags::NOT_TO_REPLICAS);
const WRITE_FAST: Flags = WRITE.union(Flags::FAST);
const GROW: Flags = WRITE.union(Flags::DENY_OOM);
const GROW_FAST: Flags = WRITE_FAST.union(Flags::DENY_OOM);

const KEY_READ: &[KeySpec] = &[KeySpec::one(1, Access::RO.union(Access::ACCESS))];
const KEY_UPDATE: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::UPDATE))];
const KEY_DELETE: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::DELETE))];

/// The most elements and gaps of `ARGETRANGE`.
const RANGE_MAX: u64 = 1_000_000;

const INVALID_INDEX: Error = Error::text("ERR invalid array index");

pub(crate) const FAMILY: Family<Run> = Family {
    group: "array",
    category: Category::ARRAY,
    commands: &[
        Command::new("ARSET", at_least(4), KEY_UPDATE, GROW_FAST, run!(arset))
            .event(KeyEvent::array("arset"))
            .grows(growth_of_arset)
            .modest(is_modest)
            .doc(
                "8.8.0",
                "O(N) where N is the number of values",
                "Sets values at an index of an array and at those that follow it.",
            ),
        Command::new("ARMSET", at_least(4), KEY_UPDATE, GROW_FAST, run!(armset))
            .event(KeyEvent::array("armset"))
            .grows(growth_of_armset)
            .modest(is_modest)
            .doc("8.8.0", "O(N) where N is the number of pairs", "Sets values at several indices of an array."),
        Command::new("ARGET", exactly(3), KEY_READ, READ_FAST, run!(arget)).doc(
            "8.8.0",
            "O(1)",
            "Returns the value at an index of an array.",
        ),
        Command::new("ARMGET", at_least(3), KEY_READ, READ_FAST, run!(armget)).doc(
            "8.8.0",
            "O(N) where N is the number of indices",
            "Returns the values at several indices of an array.",
        ),
        Command::new("ARGETRANGE", exactly(4), KEY_READ, READ, run!(argetrange))
            .doc(
                "8.8.0",
                "O(N) where N is the number of indices in the range",
                "Returns the values at all indices of a range, those without one included.",
            )
            .cost(cost_of_positions),
        Command::new("ARDEL", at_least(3), KEY_DELETE, WRITE_FAST, run!(ardel)).event(KeyEvent::array("ardel")).doc(
            "8.8.0",
            "O(N) where N is the number of indices",
            "Deletes the elements at several indices of an array. Deletes the array if no elements remain.",
        ),
        Command::new("ARDELRANGE", at_least(4), KEY_DELETE, WRITE, run!(ardelrange))
            .event(KeyEvent::array("ardelrange"))
            .doc(
                "8.8.0",
                "O(N) where N is the number of elements in the ranges",
                "Deletes the elements of ranges of indices. Deletes the array if no elements remain.",
            )
            .cost(cost_of_deletion),
        Command::new("ARLEN", exactly(2), KEY_READ, READ_FAST, run!(arlen)).doc(
            "8.8.0",
            "O(1)",
            "Returns the highest index of an array plus one.",
        ),
        Command::new("ARCOUNT", exactly(2), KEY_READ, READ_FAST, run!(arcount)).doc(
            "8.8.0",
            "O(1)",
            "Returns the number of elements of an array.",
        ),
        Command::new("ARINSERT", at_least(3), KEY_UPDATE, GROW_FAST, run!(cursor::arinsert))
            .event(KeyEvent::array("arinsert"))
            .doc("8.8.0", "O(N) where N is the number of values", "Sets values behind the one that was inserted last.")
            .grows(cursor::growth_of_insertion)
            .modest(is_modest),
        Command::new("ARNEXT", exactly(2), KEY_READ, READ_FAST, run!(cursor::arnext)).doc(
            "8.8.0",
            "O(1)",
            "Returns the index at which ARINSERT would set a value.",
        ),
        Command::new("ARSEEK", exactly(3), KEY_UPDATE, WRITE_FAST, run!(cursor::arseek))
            .event(KeyEvent::array("arseek"))
            .doc("8.8.0", "O(1)", "Sets the index at which ARINSERT and ARRING set the next value."),
        Command::new("ARRING", at_least(4), KEY_UPDATE, GROW, run!(cursor::arring))
            .event(KeyEvent::array("arring"))
            .doc(
                "8.8.0",
                "O(N) where N is the number of values; O(N+M) where M is the size of the ring, if that changes",
                "Sets values in a ring of a size, over the oldest ones when it is full.",
            )
            .cost(cursor::cost_of_ring)
            .grows(cursor::growth_of_ring)
            .needs(cursor::needs_of_ring),
        Command::new("ARLASTITEMS", at_least(3), KEY_READ, READ, run!(cursor::arlastitems))
            .doc("8.8.0", "O(N) where N is the number of values", "Returns the values that were inserted last.")
            .cost(cost::counted),
        Command::new("ARSCAN", at_least(4), KEY_READ, READ, run!(search::arscan))
            .doc(
                "8.8.0",
                "O(N) where N is the number of elements in the range",
                "Returns the elements of a range with their indices.",
            )
            .cost(cost_of_range),
        Command::new("ARGREP", at_least(6), KEY_READ, READ, run!(search::argrep))
            .doc(
                "8.8.0",
                "O(N*M) where N is the number of elements in the range and M is the cost of the conditions",
                "Returns the indices of the elements of a range that meet conditions on their text.",
            )
            .cost(search::cost_of_search)
            .needs(search::needs_of_search),
        Command::new("AROP", at_least(5), KEY_READ, READ, run!(search::arop))
            .doc(
                "8.8.0",
                "O(N) where N is the number of elements in the range",
                "Computes a sum, an extreme, a combination of bits or a count over the elements of a range.",
            )
            .cost(search::cost_of_operation),
        Command::new("ARINFO", at_least(2), KEY_READ, READ, run!(arinfo))
            .doc("8.8.0", "O(N) where N is the number of slices", "Returns the structure of an array.")
            .cost(cost_of_slices),
    ],
};

/// `ARSET key index value [value ...]`
fn arset(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, Index(first), values): (&[u8], Index, Rest<'_>),
) -> Result<()> {
    let last = first.checked_add(values.len().max(1) as u64 - 1).filter(|last| *last <= INDEX_MAX);
    let last = last.ok_or(Error::text("ERR array index overflow"))?;
    let added = db.update(key, |array: &mut Array, _| {
        let added = (first..=last).zip(values.iter()).filter(|(index, value)| array.set(*index, value)).count();
        Change::Yes(added)
    })?;
    reply.integer(added as i64);
    Ok(())
}

/// `ARMSET key index value [index value ...]`
fn armset(db: &mut Keyspace<'_>, reply: &mut Reply, (key, IndexPairs(pairs)): (&[u8], IndexPairs<'_>)) -> Result<()> {
    let added = db.update(key, |array: &mut Array, _| {
        let pairs = pairs.iter().filter_map(|(index, value)| Some((index_of(index)?, value)));
        Change::Yes(pairs.filter(|(index, value)| array.set(*index, value)).count())
    })?;
    reply.integer(added as i64);
    Ok(())
}

/// So few elements need little memory, even if each of them makes a slice dense.
fn is_modest(request: Request<'_>) -> bool {
    request.len() <= 12
}

/// The bytes that elements at these indices, in ascending order, add to the array under a request's key, besides their texts.
fn growth_at(db: &Keyspace<'_>, request: Request<'_>, indices: impl Iterator<Item = u64>) -> usize {
    match db.peek_collection::<Array>(request.arg(1)) {
        Some(array) => array.growth_for(indices),
        None => Array::new().growth_for(indices),
    }
}

fn growth_of_arset(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let Some(first) = request.get(2).and_then(index_of) else { return 0 };
    growth_at(db, request, (first..=INDEX_MAX).take(request.len().saturating_sub(3)))
}

fn growth_of_armset(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let mut indices: Vec<u64> = request.iter().skip(2).step_by(2).filter_map(index_of).collect();
    indices.sort_unstable();
    growth_at(db, request, indices.into_iter())
}

/// `ARGET key index`
fn arget(db: &mut Keyspace<'_>, reply: &mut Reply, (key, index): (&[u8], &[u8])) -> Result<()> {
    let array = db.read::<Array>(key)?;
    let index = index_of(index).ok_or(INVALID_INDEX)?;
    write_optional(reply, array.and_then(|array| array.get(index)));
    Ok(())
}

/// `ARMGET key index [index ...]`
fn armget(db: &mut Keyspace<'_>, reply: &mut Reply, (key, indices): (&[u8], Rest<'_>)) -> Result<()> {
    let array = db.read::<Array>(key)?;
    check_indices(indices)?;
    reply.array(indices.len());
    for index in indices.iter().filter_map(index_of) {
        write_optional(reply, array.and_then(|array| array.get(index)));
    }
    Ok(())
}

/// `ARGETRANGE key start end`
fn argetrange(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, Index(start), Index(end)): (&[u8], Index, Index),
) -> Result<()> {
    let array = db.read::<Array>(key)?;
    let span = Span::new(start, end);
    if span.len() > RANGE_MAX {
        return Err(Error::text("ERR range exceeds maximum of 1000000 items"));
    }
    reply.array(span.len() as usize);
    write_positions(reply, array, span);
    Ok(())
}

/// `ARDEL key index [index ...]`
fn ardel(db: &mut Keyspace<'_>, reply: &mut Reply, (key, indices): (&[u8], Rest<'_>)) -> Result<()> {
    check_indices(indices)?;
    let removed = db.update_existing(key, |array: &mut Array, _| {
        let removed = indices.iter().filter_map(index_of).filter(|index| array.remove(*index)).count();
        Change::when(removed > 0, removed)
    })?;
    reply.integer(removed.unwrap_or(0) as i64);
    Ok(())
}

/// `ARDELRANGE key start end [start end ...]`
fn ardelrange(db: &mut Keyspace<'_>, reply: &mut Reply, (key, Spans(spans)): (&[u8], Spans<'_>)) -> Result<()> {
    let removed = db.update_existing(key, |array: &mut Array, _| {
        let spans = spans.iter().filter_map(|(start, end)| Span::of(start, end));
        let removed = spans.map(|span| array.remove_range(span.low, span.high)).sum::<usize>();
        Change::when(removed > 0, removed)
    })?;
    reply.integer(removed.unwrap_or(0) as i64);
    Ok(())
}

/// `ARLEN key`
fn arlen(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    let highest = db.read::<Array>(key)?.and_then(Array::highest);
    write_index(reply, highest.map_or(0, |highest| highest + 1));
    Ok(())
}

/// `ARCOUNT key`
fn arcount(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    let count = db.read::<Array>(key)?.map_or(0, Array::len);
    reply.integer(count as i64);
    Ok(())
}

/// `ARINFO key [FULL]`
fn arinfo(db: &mut Keyspace<'_>, reply: &mut Reply, (key, mut options): (&[u8], Args<'_>)) -> Result<()> {
    let is_full = options.word("FULL");
    if !options.is_empty() {
        return Err(Error::Syntax);
    }
    let array = db.read::<Array>(key)?.ok_or(Error::NoSuchKey)?;
    let shape = array.shape();
    // Redis's directory: flat for the first slices, groups of them behind.
    let is_grouped = shape.highest >= GROUP;
    let groups = if is_grouped { shape.groups } else { 0 };
    let directory = if is_grouped {
        shape.groups.next_power_of_two().max(4) as u64
    } else {
        (shape.highest + 1).next_power_of_two()
    };
    let next = array.last_insert().map_or(0, |last| if last == INDEX_MAX { 0 } else { last + 1 });
    reply.map(if is_full { 12 } else { 7 });
    for (name, value) in [
        ("count", array.len() as u64),
        ("len", array.highest().map_or(0, |highest| highest + 1)),
        ("next-insert-index", next),
        ("slices", (shape.dense + shape.sparse) as u64),
        ("directory-size", directory),
        ("super-dir-entries", groups as u64),
        ("slice-size", SLICE),
    ] {
        reply.bulk(name.as_bytes());
        write_index(reply, value);
    }
    if is_full {
        let average = |sum: usize, count: usize| if count == 0 { 0.0 } else { sum as f64 / count as f64 };
        reply.bulk(b"dense-slices");
        reply.integer(shape.dense as i64);
        reply.bulk(b"sparse-slices");
        reply.integer(shape.sparse as i64);
        for (name, value) in [
            ("avg-dense-size", average(shape.dense_reach, shape.dense)),
            ("avg-dense-fill", average(shape.dense_elements, shape.dense_reach)),
            ("avg-sparse-size", average(shape.sparse_elements, shape.sparse)),
        ] {
            reply.bulk(name.as_bytes());
            reply.double(value);
        }
    }
    Ok(())
}

/// An index as Redis reads it: a number in its canonical form, or as C's `strtoull` takes it, which knows signs, spaces and
/// zeros in front. The text ends at a zero byte.
fn index_of(word: &[u8]) -> Option<u64> {
    number_of(word).filter(|index| *index <= INDEX_MAX)
}

fn number_of(word: &[u8]) -> Option<u64> {
    if let Some(number) = canonical_integer(word) {
        return u64::try_from(number).ok();
    }
    let text = word.split(|byte| *byte == 0).next().unwrap_or_default();
    if let Some(number) = canonical_integer(text) {
        return u64::try_from(number).ok();
    }
    let spaces = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r')).count();
    let (is_negative, digits) = match &text[spaces..] {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let value = digits.iter().try_fold(0u64, |value, byte| {
        let digit = char::from(*byte).to_digit(10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })?;
    Some(if is_negative { value.wrapping_neg() } else { value })
}

/// An index.
#[derive(Debug, Clone, Copy)]
struct Index(u64);

impl<'a> Argument<'a> for Index {
    #[inline]
    fn take(args: &mut Args<'a>) -> Result<Self> {
        index_of(args.bytes()?).map(Self).ok_or(INVALID_INDEX)
    }
}

fn check_indices(indices: Rest<'_>) -> Result<()> {
    if indices.iter().all(|index| index_of(index).is_some()) { Ok(()) } else { Err(INVALID_INDEX) }
}

/// `index value [index value ...]`
struct IndexPairs<'a>(Pairs<'a>);

impl<'a> Argument<'a> for IndexPairs<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let pairs = Pairs::new(args.take()?).ok_or_else(|| Error::WrongArity(args.name()))?;
        if pairs.iter().any(|(index, _)| index_of(index).is_none()) {
            return Err(INVALID_INDEX);
        }
        Ok(Self(pairs))
    }
}

/// `start end [start end ...]`
struct Spans<'a>(Pairs<'a>);

impl<'a> Argument<'a> for Spans<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let spans = Pairs::new(args.take()?).ok_or_else(|| Error::WrongArity(args.name()))?;
        if spans.iter().any(|(start, end)| Span::of(start, end).is_none()) {
            return Err(INVALID_INDEX);
        }
        Ok(Self(spans))
    }
}

/// A range of indices, and its direction.
#[derive(Debug, Clone, Copy)]
struct Span {
    low: u64,
    high: u64,
    reverse: bool,
}

impl Span {
    fn new(start: u64, end: u64) -> Self {
        Self { low: start.min(end), high: start.max(end), reverse: start > end }
    }

    fn of(start: &[u8], end: &[u8]) -> Option<Self> {
        Some(Self::new(index_of(start)?, index_of(end)?))
    }

    fn len(self) -> u64 {
        self.high - self.low + 1
    }
}

/// Writes an index, or a count: a big number beyond 63 bits.
fn write_index(reply: &mut Reply, index: u64) {
    match i64::try_from(index) {
        Ok(index) => reply.integer(index),
        Err(_) => reply.big_number(itoa::Buffer::new().format(index)),
    }
}

#[inline]
fn write_element(reply: &mut Reply, element: Element<'_>) {
    match element {
        Element::Int(number) => reply.bulk_integer(number),
        Element::Text(text) => reply.bulk(text),
        Element::Decimal(_) => reply.bulk(element.text(&mut ElementText::new())),
    }
}

fn write_optional(reply: &mut Reply, element: Option<Element<'_>>) {
    match element {
        Some(element) => write_element(reply, element),
        None => reply.null(),
    }
}

/// Writes the elements of a range, and null where there is none.
fn write_positions(reply: &mut Reply, array: Option<&Array>, span: Span) {
    let mut left = span.len();
    let nulls = |reply: &mut Reply, count: u64| {
        for _ in 0..count {
            if !pace::goes_on(1) {
                break;
            }
            reply.null();
        }
    };
    if let Some(array) = array {
        array.visit(span.low, span.high, span.reverse, |index, element| {
            // The positions from here to the end of the range.
            let behind = if span.reverse { index - span.low } else { span.high - index };
            nulls(reply, left - behind - 1);
            write_element(reply, element);
            left = behind;
            !pace::goes_on(1)
        });
    }
    nulls(reply, left);
}

/// The elements that a range may have, with their bytes.
fn cost_of_span(db: &Keyspace<'_>, key: &[u8], span: Span) -> usize {
    let count = usize::try_from(span.len()).unwrap_or(usize::MAX).min(db.cardinality(key));
    cost::some(db, key, count)
}

/// The positions of a range, with or without elements.
fn cost_of_positions(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let Some(span) = Span::of(request.arg(2), request.arg(3)).filter(|span| span.len() <= RANGE_MAX) else { return 0 };
    cost_of_span(db, request.arg(1), span).saturating_add(span.len() as usize)
}

/// The elements of a range; with `LIMIT`, as many at most.
fn cost_of_range(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let Some(span) = Span::of(request.arg(2), request.arg(3)) else { return 0 };
    let limit = request.get(5).and_then(canonical_integer).and_then(|limit| u64::try_from(limit).ok());
    let len = span.len().min(limit.unwrap_or(u64::MAX)).max(1);
    cost_of_span(db, request.arg(1), Span::new(span.low, span.low.saturating_add(len - 1)))
}

/// The elements of all ranges.
fn cost_of_deletion(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let mut len = 0u64;
    let mut words = request.iter().skip(2);
    while let (Some(start), Some(end)) = (words.next(), words.next()) {
        len = len.saturating_add(Span::of(start, end).map_or(0, Span::len));
    }
    usize::try_from(len).unwrap_or(usize::MAX).min(db.cardinality(request.arg(1)))
}

fn cost_of_slices(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    db.peek_collection::<Array>(request.arg(1)).map_or(0, Array::slices)
}

//! The insertion cursor of an array: commands that set values one behind the other, and rings.

use dormouse_protocol::{Reply, Request};
use dormouse_types::Array;
use dormouse_types::array::INDEX_MAX;

use super::{INVALID_INDEX, Span, growth_at, number_of, write_index, write_positions};
use crate::commands::args::{Args, Rest, canonical_integer};
use crate::commands::cost;
use crate::error::{Error, Result};
use crate::keyspace::{Change, Keyspace};

/// `ARINSERT key value [value ...]`
pub(super) fn arinsert(db: &mut Keyspace<'_>, reply: &mut Reply, (key, values): (&[u8], Rest<'_>)) -> Result<()> {
    let last = db.update(key, |array: &mut Array, _| {
        let first = array.last_insert().map_or(Some(0), |last| last.checked_add(1));
        let last = first.and_then(|first| first.checked_add(values.len().max(1) as u64 - 1));
        let (Some(first), Some(last @ ..=INDEX_MAX)) = (first, last) else {
            return Change::No(Err(Error::text("ERR insert index overflow")));
        };
        for (index, value) in (first..=last).zip(values.iter()) {
            array.set(index, value);
        }
        array.set_last_insert(Some(last));
        Change::Yes(Ok(last))
    })??;
    write_index(reply, last);
    Ok(())
}

/// `ARNEXT key`
pub(super) fn arnext(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    match db.read::<Array>(key)?.and_then(Array::last_insert) {
        None => reply.integer(0),
        Some(INDEX_MAX) => reply.null(),
        Some(last) => write_index(reply, last + 1),
    }
    Ok(())
}

/// `ARSEEK key index`; the index after the highest one means that nothing can be inserted any more.
pub(super) fn arseek(db: &mut Keyspace<'_>, reply: &mut Reply, (key, index): (&[u8], &[u8])) -> Result<()> {
    let index = number_of(index).ok_or(INVALID_INDEX)?;
    let found = db.update_existing(key, |array: &mut Array, _| {
        array.set_last_insert(index.checked_sub(1));
        Change::Yes(())
    })?;
    reply.integer(i64::from(found.is_some()));
    Ok(())
}

/// `ARRING key size value [value ...]`
pub(super) fn arring(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, size, values): (&[u8], &[u8], Rest<'_>),
) -> Result<()> {
    let size = match canonical_integer(size) {
        None => return Err(Error::text("ERR invalid size")),
        Some(..1) => return Err(Error::text("ERR size must be positive")),
        Some(size) => size.unsigned_abs(),
    };
    let last = db.update(key, |array: &mut Array, _| {
        if let Some(most) = array.ring_moves(size) {
            array.lay_out_ring(most);
        }
        let mut last = 0;
        for value in values.iter() {
            let next = array.last_insert().map_or(0, |last| last + 1);
            last = next % size;
            array.set(last, value);
            array.set_last_insert(Some(last));
        }
        Change::Yes(last)
    })?;
    write_index(reply, last);
    Ok(())
}

/// `ARLASTITEMS key count [REV]`
pub(super) fn arlastitems(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, count, mut options): (&[u8], &[u8], Args<'_>),
) -> Result<()> {
    let count = canonical_integer(count).ok_or(Error::text("ERR invalid COUNT"))?;
    let count = u64::try_from(count).unwrap_or(0);
    if count == 0 {
        reply.array(0);
        return Ok(());
    }
    if options.len() > 1 {
        return Err(Error::WrongArity(options.name()));
    }
    let reverse = options.word("REV");
    if !options.is_empty() {
        return Err(Error::Syntax);
    }
    let array = db.read::<Array>(key)?;
    let Some((array, highest)) = array.and_then(|array| Some((array, array.highest()?))) else {
        reply.array(0);
        return Ok(());
    };
    let count = count.min(array.len() as u64);
    let newest = array.last_insert().unwrap_or(highest);
    // Going back from the newest one, the highest index comes before the first.
    let before = count.min(newest.saturating_add(1));
    let wrapped = count - before;
    reply.array(count as usize);
    let mut spans =
        [(wrapped > 0).then(|| (highest + 1 - wrapped, highest)), (before > 0).then(|| (newest + 1 - before, newest))];
    if reverse {
        spans.reverse();
    }
    for (low, high) in spans.into_iter().flatten() {
        write_positions(reply, Some(array), Span { low, high, reverse });
    }
    Ok(())
}

/// The bytes that values behind the one inserted last add, besides their texts.
pub(super) fn growth_of_insertion(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    growth_behind(db, request, INDEX_MAX, request.len().saturating_sub(2))
}

/// The same in a ring, which goes on with its first index behind its last.
pub(super) fn growth_of_ring(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let size = request.get(2).and_then(canonical_integer).and_then(|size| u64::try_from(size).ok());
    let Some(last) = size.and_then(|size| size.checked_sub(1)) else { return 0 };
    growth_behind(db, request, last.min(INDEX_MAX), request.len().saturating_sub(3))
}

fn growth_behind(db: &Keyspace<'_>, request: Request<'_>, last: u64, values: usize) -> usize {
    let inserted = db.peek_collection::<Array>(request.arg(1)).and_then(Array::last_insert);
    let next = inserted.map_or(0, |index| index.saturating_add(1));
    // A ring that has shrunk begins at its first index, too.
    let next = if next > last { 0 } else { next };
    let ahead = (next..=last).take(values).count();
    growth_at(db, request, (0..=last).take(values - ahead).chain((next..=last).take(ahead)))
}

/// The elements that move when a ring gets a new layout.
pub(super) fn cost_of_ring(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    moves(db, request).map_or(0, |moves| cost::some(db, request.arg(1), moves))
}

/// The bytes of their copy.
pub(super) fn needs_of_ring(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    moves(db, request).map_or(0, |_| cost::copied_bytes(db, request.arg(1)))
}

fn moves(db: &Keyspace<'_>, request: Request<'_>) -> Option<usize> {
    let size = request
        .get(2)
        .and_then(canonical_integer)
        .and_then(|size| u64::try_from(size).ok())
        .filter(|size| *size > 0)?;
    let array = db.peek_collection::<Array>(request.get(1)?)?;
    // All elements go, whether or not they are kept.
    array.ring_moves(size).map(|_| array.len())
}

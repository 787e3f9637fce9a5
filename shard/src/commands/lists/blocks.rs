//! `LMOVEM` and `BLMOVEM`: several elements move from one list to another.
//!
//! 1. The elements are copied out of the source, in the order in which they will stand in the destination: that of the
//!    source (`BULK`), or the order that moving them one by one leaves (`OBO`). These differ where both sides are the same.
//! 2. They are pushed, and then removed from the source. Within one list it is the other way round.
//! 3. The effects are a push and a pop, as replicas and keys that are replayed alone need them.

use dormouse_protocol::{Reply, Request};
use dormouse_types::{End, Item, Limits, List};
use smallvec::SmallVec;

use super::{cost_of_end, end_word, pop_event, pop_name, push_event, push_name};
use crate::commands::args::{Args, Argument, integer};
use crate::commands::blocking::{Timeout, wait_or};
use crate::commands::cost::{BYTES_PER_ELEMENT, TURN};
use crate::error::{Error, Result};
use crate::keyspace::{Change, Keyspace, Offer, Wait};

/// `LMOVEM source destination <LEFT | RIGHT> <LEFT | RIGHT> [<COUNT | EXACTLY> count <OBO | BULK>]`
pub(super) fn lmovem(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (source, destination, from, to, block): (&[u8], &[u8], End, End, Block),
) -> Result<()> {
    if !move_block(db, reply, (source, destination, from, to), block)? {
        reply.null_array();
    }
    Ok(())
}

/// `BLMOVEM source destination <LEFT | RIGHT> <LEFT | RIGHT> timeout [<COUNT | EXACTLY> count <OBO | BULK>]`
pub(super) fn blmovem(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (source, destination, from, to, mut rest): (&[u8], &[u8], End, End, Args<'_>),
) -> Result<()> {
    let timeout_ms = rest.take::<Timeout>()?.after(db.now())?;
    let block = rest.take()?;
    if move_block(db, reply, (source, destination, from, to), block)? {
        return Ok(());
    }
    let wait = Wait { moves: true, ..Wait::new(Offer::List, timeout_ms) };
    wait_or(db, reply, wait, Reply::null_array)
}

/// Moves elements and replies with them. False: there are too few.
fn move_block(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (source, destination, from, to): (&[u8], &[u8], End, End),
    block: Block,
) -> Result<bool> {
    if source == destination {
        return rotate_block(db, reply, source, (from, to), block);
    }
    let moved = db.read_to_change::<List>(source).map(|list| block.copy(list?, from, to));
    let Some(moved) = db.found_waiting(moved)? else { return Ok(false) };
    // Also asked for its error, which must come before anything is changed.
    let held = db.read_to_change::<List>(destination)?.map(List::heap_bytes);
    if held.unwrap_or(0).saturating_add(moved.bytes.len()) > db.settings().records.value_bytes_max {
        return Err(Error::ValueTooLarge);
    }
    db.call_changes(push_event(to));
    db.update(destination, |list: &mut List, limits| {
        moved.push(list, to, limits);
        Change::Yes(())
    })?;
    // The keyspace itself records a key that it has made.
    if held.is_some() {
        moved.record_push(db, destination, to);
    }
    db.call_changes(pop_event(from));
    db.update_existing(source, |list: &mut List, limits| {
        list.drop_end(from, moved.len(), limits);
        Change::Yes(())
    })?;
    db.effect(source, &[pop_name(from), source, itoa::Buffer::new().format(moved.len()).as_bytes()]);
    moved.write(reply);
    Ok(true)
}

/// Moves elements within one list, which is never deleted meanwhile: it keeps its expiry even if all elements move.
fn rotate_block(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    key: &[u8],
    (from, to): (End, End),
    block: Block,
) -> Result<bool> {
    db.call_changes(pop_event(from));
    let moved = db.update_existing(key, |list: &mut List, limits| {
        let Some(moved) = block.copy(list, from, to) else { return Change::No(None) };
        let is_all = moved.len() == list.len();
        list.drop_end(from, moved.len(), limits);
        moved.push(list, to, limits);
        Change::Yes(Some((moved, is_all)))
    });
    let Some((moved, is_all)) = db.found_waiting(moved)?.flatten() else { return Ok(false) };
    if is_all {
        // A pop of all elements would delete the key, and its expiry with it.
        db.effect_value(key);
    } else {
        db.effect(key, &[pop_name(from), key, itoa::Buffer::new().format(moved.len()).as_bytes()]);
        moved.record_push(db, key, to);
    }
    db.tell(push_event(to), key);
    moved.write(reply);
    Ok(true)
}

/// Elements on their way, in the order in which they will stand.
struct Moved {
    bytes: SmallVec<[u8; 256]>,
    /// The end of each.
    ends: SmallVec<[usize; 16]>,
}

impl Moved {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + DoubleEndedIterator + Clone {
        self.ends.iter().enumerate().map(|(at, end)| {
            let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
            &self.bytes[start..*end]
        })
    }

    /// Pushes them so that they stand in this order.
    fn push(&self, list: &mut List, to: End, limits: &Limits) {
        match to {
            End::Head => list.push_all(to, self.iter().rev(), limits),
            End::Tail => list.push_all(to, self.iter(), limits),
        }
    }

    fn record_push(&self, db: &mut Keyspace<'_>, key: &[u8], to: End) {
        if !db.records_by_key() {
            return;
        }
        let mut effect: SmallVec<[&[u8]; 18]> = SmallVec::with_capacity(self.len() + 2);
        effect.extend([push_name(to), key]);
        match to {
            End::Head => effect.extend(self.iter().rev()),
            End::Tail => effect.extend(self.iter()),
        }
        db.effect(key, &effect);
    }

    fn write(&self, reply: &mut Reply) {
        reply.array(self.len());
        self.iter().for_each(|element| reply.bulk(element));
    }
}

/// `[<COUNT | EXACTLY> count <OBO | BULK>]`, the last arguments; one element if they are not given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    count: usize,
    /// All of them or none.
    is_exact: bool,
    one_by_one: bool,
}

impl Block {
    /// The elements of a list that move. `None`: there are too few.
    fn copy(self, list: &List, from: End, to: End) -> Option<Moved> {
        let (len, count) = (list.len(), self.count.min(list.len()));
        if count == 0 || self.is_exact && count < self.count {
            return None;
        }
        let elements = match from {
            End::Head => list.range(0, count),
            End::Tail => list.range(len - count, len),
        };
        let mut moved = Moved { bytes: SmallVec::new(), ends: SmallVec::with_capacity(count) };
        let mut add = |item: Item<'_>| {
            item.with_text(|text| moved.bytes.extend_from_slice(text));
            moved.ends.push(moved.bytes.len());
        };
        match self.one_by_one && from == to {
            true => elements.rev().for_each(&mut add),
            false => elements.for_each(&mut add),
        }
        Some(moved)
    }
}

impl<'a> Argument<'a> for Block {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.is_empty() {
            return Ok(Self { count: 1, is_exact: false, one_by_one: false });
        }
        if args.len() != 3 {
            return Err(Error::Syntax);
        }
        let is_exact = args.word("EXACTLY");
        if !is_exact && !args.word("COUNT") {
            return Err(Error::Syntax);
        }
        let count = integer(args.bytes()?).ok().and_then(|count| usize::try_from(count).ok());
        let count = count.filter(|count| *count > 0).ok_or(Error::CountNotPositive)?;
        let one_by_one = args.word("OBO");
        if !one_by_one && !args.word("BULK") {
            return Err(Error::Syntax);
        }
        Ok(Self { count, is_exact, one_by_one })
    }
}

/// How many elements a request may move. `at`: the argument behind the sides and the timeout.
fn count_of(request: Request<'_>, at: usize) -> usize {
    let count = request.get(at + 1).map_or(Some(1), |count| integer(count).ok());
    count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
}

/// Each element, and its bytes, which are copied several times.
pub(super) fn cost(db: &Keyspace<'_>, request: Request<'_>, at: usize) -> usize {
    let count = count_of(request, at);
    let cost = cost_of_end(db, request.arg(1), end_word(request.arg(3)), count);
    // Each is pushed by itself.
    if count <= 1 { cost } else { cost.saturating_mul(2) }
}

/// Memory for the elements on their way: their copy, which may move when it grows, and both lists have them for a while.
pub(super) fn need(db: &Keyspace<'_>, request: Request<'_>, at: usize) -> usize {
    let count = count_of(request, at);
    let Some(list) = db.peek_collection::<List>(request.arg(1)) else { return 0 };
    let (len, all) = (list.len(), list.heap_bytes());
    let count = count.min(len);
    // Few elements of a small list need no closer look.
    if count > TURN || all <= TURN * BYTES_PER_ELEMENT {
        return 3 * all;
    }
    let elements = match end_word(request.arg(3)) {
        End::Head => list.range(0, count),
        End::Tail => list.range(len - count, len),
    };
    3 * elements.map(Item::len).sum::<usize>()
}

//! Taking members from an end, and choosing some at random.

use std::collections::HashSet;

use dormouse_protocol::{Reply, Request, Version};
use dormouse_types::{Item, SortedSet};

use super::{write_header, write_member};
use crate::commands::args::{Args, Argument, Last, Rest, canonical_integer, integer};
use crate::commands::blocking::{KeysAndTimeout, Timeout, wait_or};
use crate::commands::cost::{self, BYTES_PER_ELEMENT, TURN};
use crate::commands::elements::{Count, Negatable, Selection, write_item, write_repeatedly};
use crate::error::{Error, Result};
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::{Change, Keyspace, Offer, Wait};

/// Which end of the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Min,
    Max,
}

/// `ZPOPMIN key [count]`
pub fn zpopmin(db: &mut Keyspace<'_>, reply: &mut Reply, (key, Last(count)): (&[u8], Last<Count>)) -> Result<()> {
    pop_from_one(db, reply, key, End::Min, count)
}

/// `ZPOPMAX key [count]`
pub fn zpopmax(db: &mut Keyspace<'_>, reply: &mut Reply, (key, Last(count)): (&[u8], Last<Count>)) -> Result<()> {
    pop_from_one(db, reply, key, End::Max, count)
}

/// `ZMPOP numkeys key [key ...] <MIN | MAX> [COUNT count]`
pub fn zmpop(db: &mut Keyspace<'_>, reply: &mut Reply, (pops,): (Pops<'_>,)) -> Result<()> {
    if !pop_some(db, reply, pops)? {
        reply.null_array();
    }
    Ok(())
}

/// Pops members from the first of the keys that has some. False: none has.
fn pop_some(db: &mut Keyspace<'_>, reply: &mut Reply, pops: Pops<'_>) -> Result<bool> {
    db.call_changes(pop_event(pops.end));
    for key in pops.keys.iter() {
        if !db.looks_at(key) {
            continue;
        }
        let len = db.read_to_change::<SortedSet>(key).map(|set| set.map(SortedSet::len));
        let Some(len) = db.found_waiting(len)? else { continue };
        let count = pops.count.min(len);
        db.update_existing(key, |set: &mut SortedSet, _| {
            reply.array(2);
            reply.bulk(key);
            reply.array(count);
            let ends = ranks(set, pops.end, count);
            visit(set, pops.end, count, |member, score| {
                reply.array(2);
                write_item(reply, member);
                reply.double(score);
            });
            set.remove_ranks(ends, |_, _| {});
            Change::Yes(())
        })?;
        db.effect(key, &[pop_name(pops.end), key, itoa::Buffer::new().format(count).as_bytes()]);
        return Ok(true);
    }
    Ok(false)
}

/// `BZPOPMIN key [key ...] timeout`
pub fn bzpopmin(db: &mut Keyspace<'_>, reply: &mut Reply, (wanted,): (KeysAndTimeout<'_>,)) -> Result<()> {
    pop_or_wait(db, reply, wanted, End::Min)
}

/// `BZPOPMAX key [key ...] timeout`
pub fn bzpopmax(db: &mut Keyspace<'_>, reply: &mut Reply, (wanted,): (KeysAndTimeout<'_>,)) -> Result<()> {
    pop_or_wait(db, reply, wanted, End::Max)
}

fn pop_or_wait(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    KeysAndTimeout { keys, timeout }: KeysAndTimeout<'_>,
    end: End,
) -> Result<()> {
    let timeout_ms = timeout.after(db.now())?;
    db.call_changes(pop_event(end));
    for key in keys.iter() {
        if !db.looks_at(key) {
            continue;
        }
        let popped = db.update_existing(key, |set: &mut SortedSet, _| {
            reply.array(3);
            reply.bulk(key);
            visit(set, end, 1, |member, score| {
                write_item(reply, member);
                reply.double(score);
            });
            set.remove_ranks(ranks(set, end, 1), |_, _| {});
            Change::Yes(())
        });
        if db.found_waiting(popped)?.is_some() {
            db.effect(key, &[pop_name(end), key]);
            return Ok(());
        }
    }
    wait_or(db, reply, Wait::new(Offer::SortedSet, timeout_ms), Reply::null_array)
}

/// `BZMPOP timeout numkeys key [key ...] <MIN | MAX> [COUNT count]`
pub fn bzmpop(db: &mut Keyspace<'_>, reply: &mut Reply, (timeout, pops): (&[u8], Pops<'_>)) -> Result<()> {
    let timeout_ms = Timeout::seconds(timeout)?.after(db.now())?;
    if pop_some(db, reply, pops)? {
        return Ok(());
    }
    wait_or(db, reply, Wait::new(Offer::SortedSet, timeout_ms), Reply::null_array)
}

const fn pop_event(end: End) -> KeyEvent {
    KeyEvent::sorted_set(match end {
        End::Min => "zpopmin",
        End::Max => "zpopmax",
    })
}

const fn pop_name(end: End) -> &'static [u8] {
    match end {
        End::Min => b"ZPOPMIN",
        End::Max => b"ZPOPMAX",
    }
}

/// `ZRANDMEMBER key [count [WITHSCORES]]`
pub fn zrandmember(db: &mut Keyspace<'_>, reply: &mut Reply, (key, Draw(draw)): (&[u8], Draw)) -> Result<()> {
    let mut randoms = db.randoms();
    let Some(set) = db.read::<SortedSet>(key)? else {
        match draw {
            Some(_) => reply.array(0),
            None => reply.null(),
        }
        return Ok(());
    };
    let Some((count, with_scores)) = draw else {
        if let Some((member, _)) = set.random(&mut randoms) {
            write_item(reply, member);
        }
        return Ok(());
    };
    let wanted = count.unsigned_abs();
    if count < 0 {
        write_header(reply, wanted as usize, with_scores);
        return write_repeatedly(reply, wanted, |reply| {
            if let Some((member, score)) = set.random(&mut randoms) {
                write_member(reply, member, score, with_scores);
            }
        });
    }
    let wanted = wanted.min(set.len() as u64) as usize;
    write_header(reply, wanted, with_scores);
    if wanted.saturating_mul(3) <= set.len() {
        // Few of many: a member that was drawn already is drawn again.
        let mut drawn = HashSet::with_capacity(wanted);
        while drawn.len() < wanted {
            if let Some((member, score)) = set.random(&mut randoms)
                && drawn.insert(member)
            {
                write_member(reply, member, score, with_scores);
            }
        }
    } else {
        let mut selection = Selection::new(wanted, set.len());
        for (member, score) in set.iter().filter(|_| selection.takes(randoms())) {
            write_member(reply, member, score, with_scores);
        }
    }
    Ok(())
}

/// The arguments of `ZMPOP`.
#[derive(Debug, Clone, Copy)]
pub struct Pops<'a> {
    keys: Rest<'a>,
    end: End,
    count: usize,
}

impl<'a> Argument<'a> for Pops<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let positive = |bytes, error| match integer(bytes) {
            Ok(number) if number > 0 => usize::try_from(number).map_err(|_| error),
            _ => Err(error),
        };
        let keys = positive(args.bytes()?, Error::NumkeysNotPositive)?;
        let keys = args.split_to(keys)?;
        let end = match args.upper().ok_or(Error::Syntax)?.as_bytes() {
            b"MIN" => End::Min,
            b"MAX" => End::Max,
            _ => return Err(Error::Syntax),
        };
        args.skip();
        let count = if args.word("COUNT") { positive(args.bytes()?, Error::CountNotPositive)? } else { 1 };
        Ok(Self { keys, end, count })
    }
}

/// `[count [WITHSCORES]]`
#[derive(Debug, Clone, Copy)]
pub struct Draw(Option<(i64, bool)>);

impl<'a> Argument<'a> for Draw {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let Some(Negatable(count)) = args.take()? else { return Ok(Self(None)) };
        let with_scores = args.len() == 1 && args.word("WITHSCORES");
        if !args.is_empty() {
            return Err(Error::Syntax);
        }
        // Twice the count must be a number, for the array that RESP2 has.
        if with_scores && count.unsigned_abs() > i64::MAX as u64 / 2 {
            return Err(Error::OutOfRange);
        }
        Ok(Self(Some((count, with_scores))))
    }
}

/// Without a count the pair is flat in RESP3 too.
fn pop_from_one(db: &mut Keyspace<'_>, reply: &mut Reply, key: &[u8], end: End, count: Option<Count>) -> Result<()> {
    let pairs = count.is_some() && reply.version() == Version::Resp3;
    let popped = db.update_existing(key, |set: &mut SortedSet, _| {
        let count = count.map_or(1, |Count(count)| count).min(set.len());
        reply.array(if pairs { count } else { 2 * count });
        visit(set, end, count, |member, score| {
            if pairs {
                reply.array(2);
            }
            write_item(reply, member);
            reply.double(score);
        });
        set.remove_ranks(ranks(set, end, count), |_, _| {});
        Change::when(count > 0, ())
    })?;
    if popped.is_none() {
        reply.array(0);
    }
    Ok(())
}

/// The members that are popped. The reply of a write cannot be moved to another thread afterwards, so their bytes count
/// too.
pub(super) fn cost_of_pop(db: &Keyspace<'_>, request: Request<'_>, end: End) -> usize {
    let count = request.get(2).map_or(Some(1), canonical_integer).unwrap_or(0);
    let bytes = bytes_of_end(db, request.arg(1), end, count);
    cost::counted(db, request).saturating_add(bytes / BYTES_PER_ELEMENT)
}

/// A member of any of the keys, the last argument not counted.
pub(super) fn cost_of_first(db: &Keyspace<'_>, request: Request<'_>, end: End) -> usize {
    let keys = request.iter().take(request.len() - 1).skip(1);
    keys.map(|key| 1 + bytes_of_end(db, key, end, 1) / BYTES_PER_ELEMENT).max().unwrap_or(0)
}

/// The same of the costlier end of any of the keys, whose number is argument `at`.
pub fn cost_of_pops(db: &Keyspace<'_>, request: Request<'_>, at: usize) -> usize {
    let count = request.iter().next_back().and_then(canonical_integer).unwrap_or(1);
    let of = |key| [End::Min, End::Max].map(|end| bytes_of_end(db, key, end, count)).into_iter().max().unwrap_or(0);
    let bytes = cost::counted_keys(request, at).map(of).max().unwrap_or(0);
    cost::popped(db, request, at).saturating_add(bytes / BYTES_PER_ELEMENT)
}

/// The bytes of the first `count` members from one end, where they may be many.
fn bytes_of_end(db: &Keyspace<'_>, key: &[u8], end: End, count: i64) -> usize {
    let Some(set) = db.peek_collection::<SortedSet>(key) else { return 0 };
    if set.heap_bytes() < TURN * BYTES_PER_ELEMENT {
        return 0;
    }
    let mut bytes = 0;
    let count = usize::try_from(count).unwrap_or(0).min(set.len()).min(TURN);
    visit(set, end, count, |member, _| bytes += member.len());
    bytes
}

/// The ranks of the first `count` members from one end.
fn ranks(set: &SortedSet, end: End, count: usize) -> std::ops::Range<usize> {
    match end {
        End::Min => 0..count,
        End::Max => set.len() - count..set.len(),
    }
}

fn visit(set: &SortedSet, end: End, count: usize, mut visit: impl FnMut(Item<'_>, f64)) {
    let members = set.range(ranks(set, end, count));
    match end {
        End::Min => members.for_each(|(member, score)| visit(member, score)),
        End::Max => members.rev().for_each(|(member, score)| visit(member, score)),
    }
}

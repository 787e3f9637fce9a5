//! Ranges by rank, by score and by member: read, stored, counted, removed.
//!
//! However a range is given, it comes down to a range of ranks, which the sorted set finds in logarithmic time; `REV`
//! reads it backwards, `LIMIT` cuts it.

use std::ops::{Bound, Range};

use dormouse_protocol::{Reply, Request};
use dormouse_types::{LexBound, LexRange, ScoreRange, SortedSet};

use super::{write_header, write_member};
use crate::commands::args::{Args, Argument, Rest, Word, integer, parse, parse_bound};
use crate::commands::cost::{copied_bytes, some};
use crate::error::{Error, Result};
use crate::keyspace::{Change, Keyspace};

const LIMIT_NEEDS_BY: Error =
    Error::text("ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX");
const SCORES_NOT_BY_LEX: Error = Error::text("ERR syntax error, WITHSCORES not supported in combination with BYLEX");

/// A set of no more members costs less than a closer look.
const SMALL: usize = 256;

/// The kind of a range's ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Rank,
    Score,
    Lex,
}

/// The choices that a command's name fixes, and its options may not.
#[derive(Debug, Clone, Copy)]
pub struct RangeForm {
    by: Option<By>,
    reverse: Option<bool>,
    stores: bool,
}

pub const ZRANGE: RangeForm = RangeForm { by: None, reverse: None, stores: false };
pub const ZRANGESTORE: RangeForm = RangeForm { by: None, reverse: None, stores: true };
pub const ZREVRANGE: RangeForm = RangeForm { by: Some(By::Rank), reverse: Some(true), stores: false };
pub const ZRANGEBYSCORE: RangeForm = RangeForm { by: Some(By::Score), reverse: Some(false), stores: false };
pub const ZREVRANGEBYSCORE: RangeForm = RangeForm { by: Some(By::Score), reverse: Some(true), stores: false };
pub const ZRANGEBYLEX: RangeForm = RangeForm { by: Some(By::Lex), reverse: Some(false), stores: false };
pub const ZREVRANGEBYLEX: RangeForm = RangeForm { by: Some(By::Lex), reverse: Some(true), stores: false };

/// `ZRANGE key start stop [BYSCORE | BYLEX] [REV] [LIMIT offset count] [WITHSCORES]`
pub fn zrange(db: &mut Keyspace<'_>, reply: &mut Reply, (range,): (Given<'_>,)) -> Result<()> {
    read(db, reply, range, ZRANGE)
}

/// `ZRANGESTORE dst src min max [BYSCORE | BYLEX] [REV] [LIMIT offset count]`
pub fn zrangestore(db: &mut Keyspace<'_>, reply: &mut Reply, (destination, given): (&[u8], Given<'_>)) -> Result<()> {
    let query = Query::read(given, ZRANGESTORE)?;
    let limits = *db.limits();
    let mut result = SortedSet::new();
    if let Some(set) = db.read::<SortedSet>(given.key)? {
        let members = set.range(query.ranks(set));
        result = SortedSet::with_capacity(members.len(), &limits);
        for (member, score) in members {
            member.with_text(|member| result.insert(score, member, &limits));
        }
    }
    reply.integer(result.len() as i64);
    db.put_result(destination, result)
}

/// `ZREVRANGE key start stop [WITHSCORES]`
pub fn zrevrange(db: &mut Keyspace<'_>, reply: &mut Reply, (range,): (Given<'_>,)) -> Result<()> {
    read(db, reply, range, ZREVRANGE)
}

/// `ZRANGEBYSCORE key min max [WITHSCORES] [LIMIT offset count]`
pub fn zrangebyscore(db: &mut Keyspace<'_>, reply: &mut Reply, (range,): (Given<'_>,)) -> Result<()> {
    read(db, reply, range, ZRANGEBYSCORE)
}

/// `ZREVRANGEBYSCORE key max min [WITHSCORES] [LIMIT offset count]`
pub fn zrevrangebyscore(db: &mut Keyspace<'_>, reply: &mut Reply, (range,): (Given<'_>,)) -> Result<()> {
    read(db, reply, range, ZREVRANGEBYSCORE)
}

/// `ZRANGEBYLEX key min max [LIMIT offset count]`
pub fn zrangebylex(db: &mut Keyspace<'_>, reply: &mut Reply, (range,): (Given<'_>,)) -> Result<()> {
    read(db, reply, range, ZRANGEBYLEX)
}

/// `ZREVRANGEBYLEX key max min [LIMIT offset count]`
pub fn zrevrangebylex(db: &mut Keyspace<'_>, reply: &mut Reply, (range,): (Given<'_>,)) -> Result<()> {
    read(db, reply, range, ZREVRANGEBYLEX)
}

/// `ZCOUNT key min max`
pub fn zcount(db: &mut Keyspace<'_>, reply: &mut Reply, (key, min, max): (&[u8], &[u8], &[u8])) -> Result<()> {
    count(db, reply, key, Ends::read(By::Score, min, max)?)
}

/// `ZLEXCOUNT key min max`
pub fn zlexcount(db: &mut Keyspace<'_>, reply: &mut Reply, (key, min, max): (&[u8], &[u8], &[u8])) -> Result<()> {
    count(db, reply, key, Ends::read(By::Lex, min, max)?)
}

/// `ZREMRANGEBYRANK key start stop`
pub fn zremrangebyrank(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, start, stop): (&[u8], &[u8], &[u8]),
) -> Result<()> {
    remove(db, reply, key, Ends::read(By::Rank, start, stop)?)
}

/// `ZREMRANGEBYSCORE key min max`
pub fn zremrangebyscore(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, min, max): (&[u8], &[u8], &[u8]),
) -> Result<()> {
    remove(db, reply, key, Ends::read(By::Score, min, max)?)
}

/// `ZREMRANGEBYLEX key min max`
pub fn zremrangebylex(db: &mut Keyspace<'_>, reply: &mut Reply, (key, min, max): (&[u8], &[u8], &[u8])) -> Result<()> {
    remove(db, reply, key, Ends::read(By::Lex, min, max)?)
}

/// The cost of reading a range: the members in it.
pub fn cost(db: &Keyspace<'_>, request: Request<'_>, form: RangeForm) -> usize {
    let given = parse::<Given<'_>>(request, if form.stores { 2 } else { 1 });
    let Ok(given) = given else { return 0 };
    match db.peek_collection::<SortedSet>(given.key) {
        None => 0,
        Some(set) if set.len() <= SMALL && !form.stores => set.len(),
        Some(set) => {
            let count = Query::read(given, form).map_or(0, |query| query.ranks(set).len());
            // Stored members are not part of the reply, whose bytes count by themselves.
            if form.stores { some(db, given.key, count) } else { count }
        }
    }
}

/// The bytes that `ZRANGESTORE` may store: the same share of the source as the range has of its members.
pub fn stored_bytes(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let source = request.arg(2);
    let (bytes, members) = (copied_bytes(db, source), cost(db, request, ZRANGESTORE));
    (bytes / db.cardinality(source).max(1)).saturating_mul(members)
}

/// The cost of removing a range: the members in it.
pub fn removal_cost(db: &Keyspace<'_>, request: Request<'_>, by: By) -> usize {
    match db.peek_collection::<SortedSet>(request.arg(1)) {
        None => 0,
        Some(set) => {
            let count = Ends::read(by, request.arg(2), request.arg(3)).map_or(0, |ends| ends.ranks(set).len());
            some(db, request.arg(1), count)
        }
    }
}

/// `key min max [option ...]`, not yet understood.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    key: &'a [u8],
    min: &'a [u8],
    max: &'a [u8],
    options: Rest<'a>,
}

impl<'a> Argument<'a> for Given<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let (key, min, max, options) = args.take()?;
        Ok(Self { key, min, max, options })
    }
}

/// A range to be read.
#[derive(Debug, Clone, Copy)]
struct Query<'a> {
    ends: Ends<'a>,
    reverse: bool,
    with_scores: bool,
    offset: i64,
    /// Negative: no limit.
    limit: i64,
}

impl<'a> Query<'a> {
    fn read(given: Given<'a>, form: RangeForm) -> Result<Self> {
        let RangeForm { mut by, mut reverse, stores } = form;
        let (mut with_scores, mut offset, mut limit) = (false, 0, -1);
        let mut at = 0;
        while at < given.options.len() {
            let left = given.options.len() - at - 1;
            match Word::new(given.options.at(at)).as_bytes() {
                b"WITHSCORES" if !stores => with_scores = true,
                b"LIMIT" if left >= 2 => {
                    offset = integer(given.options.at(at + 1))?;
                    limit = integer(given.options.at(at + 2))?;
                    at += 2;
                }
                b"REV" if reverse.is_none() => reverse = Some(true),
                b"BYLEX" if by.is_none() => by = Some(By::Lex),
                b"BYSCORE" if by.is_none() => by = Some(By::Score),
                _ => return Err(Error::Syntax),
            }
            at += 1;
        }
        let (by, reverse) = (by.unwrap_or(By::Rank), reverse.unwrap_or(false));
        if limit != -1 && by == By::Rank {
            return Err(LIMIT_NEEDS_BY);
        }
        if with_scores && by == By::Lex {
            return Err(SCORES_NOT_BY_LEX);
        }
        // Backwards, scores and members are given from the greatest on.
        let (min, max) = if reverse && by != By::Rank { (given.max, given.min) } else { (given.min, given.max) };
        let ends = Ends::read(by, min, max)?;
        Ok(Self { ends, reverse, with_scores, offset, limit })
    }

    /// The ranks from the least member on, also if they are to be read backwards.
    fn ranks(&self, set: &SortedSet) -> Range<usize> {
        let Range { start, end } = self.ends.ranks(set);
        if let Ends::Ranks(..) = self.ends {
            return if self.reverse { set.len() - end..set.len() - start } else { start..end };
        }
        let Ok(offset) = usize::try_from(self.offset) else { return 0..0 };
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        if self.reverse {
            let end = end.saturating_sub(offset).max(start);
            end.saturating_sub(limit).max(start)..end
        } else {
            let start = start.saturating_add(offset).min(end);
            start..start.saturating_add(limit).min(end)
        }
    }
}

/// The ends of a range.
#[derive(Debug, Clone, Copy)]
enum Ends<'a> {
    /// Both included; negative ones count from the end.
    Ranks(i64, i64),
    Scores(ScoreRange),
    Members(LexRange<'a>),
}

impl<'a> Ends<'a> {
    fn read(by: By, min: &'a [u8], max: &'a [u8]) -> Result<Self> {
        Ok(match by {
            By::Rank => Self::Ranks(integer(min)?, integer(max)?),
            By::Score => Self::Scores(ScoreRange { min: score_bound(min)?, max: score_bound(max)? }),
            By::Lex => Self::Members(LexRange { min: lex_bound(min)?, max: lex_bound(max)? }),
        })
    }

    fn ranks(&self, set: &SortedSet) -> Range<usize> {
        match self {
            Self::Ranks(start, stop) => {
                let len = set.len() as i64;
                let from_start = |rank: i64| if rank < 0 { rank.saturating_add(len) } else { rank };
                let start = from_start(*start).clamp(0, len);
                let end = from_start(*stop).saturating_add(1).clamp(start, len);
                start as usize..end as usize
            }
            Self::Scores(range) => set.score_ranks(range),
            Self::Members(range) => set.lex_ranks(range),
        }
    }
}

/// `score`, or `(score` to exclude it.
fn score_bound(bytes: &[u8]) -> Result<Bound<f64>> {
    let score = |bytes: &[u8]| parse_bound(bytes).ok_or(Error::MinMaxNotAFloat);
    match bytes {
        [b'(', rest @ ..] => score(rest).map(Bound::Excluded),
        bytes => score(bytes).map(Bound::Included),
    }
}

/// `[member`, `(member`, `-` or `+`.
fn lex_bound(bytes: &[u8]) -> Result<LexBound<'_>> {
    match bytes {
        b"-" => Ok(LexBound::Lowest),
        b"+" => Ok(LexBound::Highest),
        [b'[', member @ ..] => Ok(LexBound::Included(member)),
        [b'(', member @ ..] => Ok(LexBound::Excluded(member)),
        _ => Err(Error::MinMaxNotAString),
    }
}

fn read(db: &mut Keyspace<'_>, reply: &mut Reply, given: Given<'_>, form: RangeForm) -> Result<()> {
    let query = Query::read(given, form)?;
    let Some(set) = db.read::<SortedSet>(given.key)? else {
        reply.array(0);
        return Ok(());
    };
    let members = set.range(query.ranks(set));
    write_header(reply, members.len(), query.with_scores);
    let write = |(member, score)| write_member(reply, member, score, query.with_scores);
    if query.reverse {
        members.rev().for_each(write)
    } else {
        members.for_each(write)
    }
    Ok(())
}

fn count(db: &mut Keyspace<'_>, reply: &mut Reply, key: &[u8], ends: Ends<'_>) -> Result<()> {
    let count = db.read::<SortedSet>(key)?.map_or(0, |set| ends.ranks(set).len());
    reply.integer(count as i64);
    Ok(())
}

fn remove(db: &mut Keyspace<'_>, reply: &mut Reply, key: &[u8], ends: Ends<'_>) -> Result<()> {
    let removed = db.update_existing(key, |set: &mut SortedSet, _| {
        let removed = set.remove_ranks(ends.ranks(set), |_, _| {});
        Change::when(removed > 0, removed)
    })?;
    reply.integer(removed.unwrap_or(0) as i64);
    Ok(())
}

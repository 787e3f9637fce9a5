//! Sorted sets: unique members ordered by score, ties broken by member.

mod algebra;
mod draws;
mod ranges;
#[cfg(test)]
mod tests;

use dormouse_protocol::{Reply, Version, format_double};
use dormouse_types::{Inserted, Item, Limits, SortedSet};
use smallvec::SmallVec;

use crate::commands::args::{Args, Argument, Pairs, Rest, float};
use crate::commands::elements::{Bare, Cursor, ScanOptions, write_item, write_page};
use crate::commands::{Access, Category, Command, Family, Flags, KeySpec, Run, at_least, cost, exactly, run};
use crate::error::{Error, Result};
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::{Change, Keyspace};

const READ: Flags = Flags::READ;
const WRITE: Flags = Flags::WRITE;
const FAST: Flags = Flags::FAST;
const DENY_OOM: Flags = Flags::DENY_OOM;
const MOVABLE: Flags = Flags::MOVABLE_KEYS;
const BY_KEY: Flags = Flags::BY_KEY;
const BLOCK_POP: Flags = WRITE.union(BY_KEY).union(Flags::BLOCKING);

const READS: Access = Access::RO.union(Access::ACCESS);
const POPS: Access = Access::RW.union(Access::ACCESS).union(Access::DELETE);
const STORES: Access = Access::OW.union(Access::UPDATE);

const KEY_LOOK: &[KeySpec] = &[KeySpec::one(1, Access::RO)];
const KEY_READ: &[KeySpec] = &[KeySpec::one(1, READS)];
const KEY_UPDATE: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::UPDATE))];
const KEY_INCREMENT: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::ACCESS).union(Access::UPDATE))];
const KEY_DELETE: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::DELETE))];
const KEY_POP: &[KeySpec] = &[KeySpec::one(1, POPS)];
const KEYS_POP: &[KeySpec] = &[KeySpec::counted(1, POPS)];
const KEYS_BLOCK: &[KeySpec] = &[KeySpec::range(1, -2, POPS)];
const KEYS_BLOCK_SOME: &[KeySpec] = &[KeySpec::counted(2, POPS)];
const KEYS_COUNTED: &[KeySpec] = &[KeySpec::counted(1, READS)];
const KEYS_COUNTED_STORE: &[KeySpec] = &[KeySpec::one(1, STORES), KeySpec::counted(2, READS)];
const KEYS_RANGE_STORE: &[KeySpec] = &[KeySpec::one(1, STORES), KeySpec::one(2, READS)];

const ANY_OUTPUT: &[&str] = &["nondeterministic_output"];

const POP_COMPLEXITY: &str = "O(log(N)*M) with N being the number of elements in the sorted set, and M being the \
    number of elements popped.";
const BLOCK_POP_COMPLEXITY: &str = "O(log(N)) with N being the number of elements in the sorted set.";
const RANGE_COMPLEXITY: &str = "O(log(N)+M) with N being the number of elements in the sorted set and M the number \
    of elements being returned. If M is constant (e.g. always asking for the first 10 elements with LIMIT), you \
    can consider it O(log(N)).";
const REMOVE_COMPLEXITY: &str = "O(log(N)+M) with N being the number of elements in the sorted set and M the number \
    of elements removed by the operation.";
const UNION_COMPLEXITY: &str = "O(N)+O(M*log(M)) with N being the sum of the sizes of the input sorted sets, and M \
    being the number of elements in the resulting sorted set.";
const INTER_COMPLEXITY: &str = "O(N*K)+O(M*log(M)) worst case with N being the smallest input sorted set, K being \
    the number of input sorted sets and M being the number of elements in the resulting sorted set.";
const DIFF_COMPLEXITY: &str = "O(L + (N-K)log(N)) worst case where L is the total number of elements in all the \
    sets, N is the size of the first set, and K is the size of the result set.";

pub(crate) const FAMILY: Family<Run> = Family {
    group: "sorted-set",
    category: Category::SORTED_SET,
    commands: &[
        Command::new("ZADD", at_least(4), KEY_UPDATE, WRITE.union(DENY_OOM).union(FAST), run!(zadd))
            .event(KeyEvent::sorted_set("zadd"))
            .doc(
                "1.2.0",
                "O(log(N)) for each item added, where N is the number of elements in the sorted set.",
                "Adds one or more members to a sorted set, or updates their scores. Creates the key if it doesn't \
             exist.",
            ),
        Command::new("ZINCRBY", exactly(4), KEY_INCREMENT, WRITE.union(DENY_OOM).union(FAST), run!(zincrby))
            .event(KeyEvent::sorted_set("zincr"))
            .doc(
                "1.2.0",
                "O(log(N)) where N is the number of elements in the sorted set.",
                "Increments the score of a member in a sorted set.",
            ),
        Command::new("ZREM", at_least(3), KEY_DELETE, WRITE.union(FAST), run!(zrem))
            .event(KeyEvent::sorted_set("zrem"))
            .doc(
                "1.2.0",
                "O(M*log(N)) with N being the number of elements in the sorted set and M the number of elements to \
             be removed.",
                "Removes one or more members from a sorted set. Deletes the sorted set if all members were removed.",
            ),
        Command::new("ZCARD", exactly(2), KEY_LOOK, READ.union(FAST), run!(zcard)).doc(
            "1.2.0",
            "O(1)",
            "Returns the number of members in a sorted set.",
        ),
        Command::new("ZSCORE", exactly(3), KEY_READ, READ.union(FAST), run!(zscore)).doc(
            "1.2.0",
            "O(1)",
            "Returns the score of a member in a sorted set.",
        ),
        Command::new("ZMSCORE", at_least(3), KEY_READ, READ.union(FAST), run!(zmscore)).doc(
            "6.2.0",
            "O(N) where N is the number of members being requested.",
            "Returns the score of one or more members in a sorted set.",
        ),
        Command::new("ZRANK", at_least(3), KEY_READ, READ.union(FAST), run!(zrank)).doc(
            "2.0.0",
            "O(log(N))",
            "Returns the index of a member in a sorted set ordered by ascending scores.",
        ),
        Command::new("ZREVRANK", at_least(3), KEY_READ, READ.union(FAST), run!(zrevrank)).doc(
            "2.0.0",
            "O(log(N))",
            "Returns the index of a member in a sorted set ordered by descending scores.",
        ),
        Command::new("ZPOPMIN", at_least(2), KEY_POP, WRITE.union(FAST), run!(draws::zpopmin))
            .event(KeyEvent::sorted_set("zpopmin"))
            .doc(
                "5.0.0",
                POP_COMPLEXITY,
                "Returns the lowest-scoring members from a sorted set after removing them. Deletes the sorted set if \
             the last member was popped.",
            )
            .cost(|db, request| draws::cost_of_pop(db, request, draws::End::Min)),
        Command::new("ZPOPMAX", at_least(2), KEY_POP, WRITE.union(FAST), run!(draws::zpopmax))
            .event(KeyEvent::sorted_set("zpopmax"))
            .doc(
                "5.0.0",
                POP_COMPLEXITY,
                "Returns the highest-scoring members from a sorted set after removing them. Deletes the sorted set \
             if the last member was popped.",
            )
            .cost(|db, request| draws::cost_of_pop(db, request, draws::End::Max)),
        Command::new("ZMPOP", at_least(4), KEYS_POP, WRITE.union(MOVABLE).union(BY_KEY), run!(draws::zmpop))
            .doc(
                "7.0.0",
                "O(K) + O(M*log(N)) where K is the number of provided keys, N being the number of elements in the \
             sorted set, and M being the number of elements popped.",
                "Returns the highest- or lowest-scoring members from one or more sorted sets after removing them. \
             Deletes the sorted set if the last member was popped.",
            )
            .cost(|db, request| draws::cost_of_pops(db, request, 1)),
        Command::new("BZPOPMIN", at_least(3), KEYS_BLOCK, BLOCK_POP.union(FAST), run!(draws::bzpopmin))
            .doc(
                "5.0.0",
                BLOCK_POP_COMPLEXITY,
                "Removes and returns the member with the lowest score from one or more sorted sets. Blocks until a \
             member is available otherwise. Deletes the sorted set if the last element was popped.",
            )
            .cost(|db, request| draws::cost_of_first(db, request, draws::End::Min)),
        Command::new("BZPOPMAX", at_least(3), KEYS_BLOCK, BLOCK_POP.union(FAST), run!(draws::bzpopmax))
            .doc(
                "5.0.0",
                BLOCK_POP_COMPLEXITY,
                "Removes and returns the member with the highest score from one or more sorted sets. Blocks until a \
             member available otherwise.  Deletes the sorted set if the last element was popped.",
            )
            .cost(|db, request| draws::cost_of_first(db, request, draws::End::Max)),
        Command::new("BZMPOP", at_least(5), KEYS_BLOCK_SOME, BLOCK_POP.union(MOVABLE), run!(draws::bzmpop))
            .doc(
                "7.0.0",
                "O(K) + O(M*log(N)) where K is the number of provided keys, N being the number of elements in the \
             sorted set, and M being the number of elements popped.",
                "Removes and returns a member by score from one or more sorted sets. Blocks until a member is \
             available otherwise. Deletes the sorted set if the last element was popped.",
            )
            .cost(|db, request| draws::cost_of_pops(db, request, 2)),
        Command::new("ZRANDMEMBER", at_least(2), KEY_READ, READ, run!(draws::zrandmember))
            .doc(
                "6.2.0",
                "O(N) where N is the number of members returned",
                "Returns one or more random members from a sorted set.",
            )
            .tips(ANY_OUTPUT)
            .cost(cost::counted),
        Command::new("ZSCAN", at_least(3), KEY_READ, READ, run!(zscan))
            .doc(
                "2.8.0",
                "O(1) for every call. O(N) for a complete iteration, including enough command calls for the cursor \
             to return back to 0. N is the number of elements inside the collection.",
                "Iterates over members and scores of a sorted set.",
            )
            .tips(ANY_OUTPUT)
            .cost(cost::scanned),
        Command::new("ZRANGE", at_least(4), KEY_READ, READ, run!(ranges::zrange))
            .doc(
                "1.2.0",
                "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements \
             returned.",
                "Returns members in a sorted set within a range of indexes.",
            )
            .cost(|db, request| ranges::cost(db, request, ranges::ZRANGE)),
        Command::new(
            "ZRANGESTORE",
            at_least(5),
            KEYS_RANGE_STORE,
            WRITE.union(DENY_OOM).union(BY_KEY),
            run!(ranges::zrangestore),
        )
        .event(KeyEvent::sorted_set("zrangestore"))
        .doc(
            "6.2.0",
            "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements \
             stored into the destination key.",
            "Stores a range of members from sorted set in a key.",
        )
        .cost(|db, request| ranges::cost(db, request, ranges::ZRANGESTORE))
        .needs(ranges::stored_bytes),
        Command::new("ZREVRANGE", at_least(4), KEY_READ, READ, run!(ranges::zrevrange))
            .doc(
                "1.2.0",
                "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements \
             returned.",
                "Returns members in a sorted set within a range of indexes in reverse order.",
            )
            .cost(|db, request| ranges::cost(db, request, ranges::ZREVRANGE)),
        Command::new("ZRANGEBYSCORE", at_least(4), KEY_READ, READ, run!(ranges::zrangebyscore))
            .doc("1.0.5", RANGE_COMPLEXITY, "Returns members in a sorted set within a range of scores.")
            .cost(|db, request| ranges::cost(db, request, ranges::ZRANGEBYSCORE)),
        Command::new("ZREVRANGEBYSCORE", at_least(4), KEY_READ, READ, run!(ranges::zrevrangebyscore))
            .doc(
                "2.2.0",
                RANGE_COMPLEXITY,
                "Returns members in a sorted set within a range of scores in reverse order.",
            )
            .cost(|db, request| ranges::cost(db, request, ranges::ZREVRANGEBYSCORE)),
        Command::new("ZRANGEBYLEX", at_least(4), KEY_READ, READ, run!(ranges::zrangebylex))
            .doc("2.8.9", RANGE_COMPLEXITY, "Returns members in a sorted set within a lexicographical range.")
            .cost(|db, request| ranges::cost(db, request, ranges::ZRANGEBYLEX)),
        Command::new("ZREVRANGEBYLEX", at_least(4), KEY_READ, READ, run!(ranges::zrevrangebylex))
            .doc(
                "2.8.9",
                RANGE_COMPLEXITY,
                "Returns members in a sorted set within a lexicographical range in reverse order.",
            )
            .cost(|db, request| ranges::cost(db, request, ranges::ZREVRANGEBYLEX)),
        Command::new("ZCOUNT", exactly(4), KEY_READ, READ.union(FAST), run!(ranges::zcount)).doc(
            "2.0.0",
            "O(log(N)) with N being the number of elements in the sorted set.",
            "Returns the count of members in a sorted set that have scores within a range.",
        ),
        Command::new("ZLEXCOUNT", exactly(4), KEY_READ, READ.union(FAST), run!(ranges::zlexcount)).doc(
            "2.8.9",
            "O(log(N)) with N being the number of elements in the sorted set.",
            "Returns the number of members in a sorted set within a lexicographical range.",
        ),
        Command::new("ZREMRANGEBYRANK", exactly(4), KEY_DELETE, WRITE, run!(ranges::zremrangebyrank))
            .event(KeyEvent::sorted_set("zremrangebyrank"))
            .doc(
                "2.0.0",
                REMOVE_COMPLEXITY,
                "Removes members in a sorted set within a range of indexes. Deletes the sorted set if all members \
             were removed.",
            )
            .cost(|db, request| ranges::removal_cost(db, request, ranges::By::Rank)),
        Command::new("ZREMRANGEBYSCORE", exactly(4), KEY_DELETE, WRITE, run!(ranges::zremrangebyscore))
            .event(KeyEvent::sorted_set("zremrangebyscore"))
            .doc(
                "1.2.0",
                REMOVE_COMPLEXITY,
                "Removes members in a sorted set within a range of scores. Deletes the sorted set if all members \
             were removed.",
            )
            .cost(|db, request| ranges::removal_cost(db, request, ranges::By::Score)),
        Command::new("ZREMRANGEBYLEX", exactly(4), KEY_DELETE, WRITE, run!(ranges::zremrangebylex))
            .event(KeyEvent::sorted_set("zremrangebylex"))
            .doc(
                "2.8.9",
                REMOVE_COMPLEXITY,
                "Removes members in a sorted set within a lexicographical range. Deletes the sorted set if all \
             members were removed.",
            )
            .cost(|db, request| ranges::removal_cost(db, request, ranges::By::Lex)),
        Command::new("ZUNION", at_least(3), KEYS_COUNTED, READ.union(MOVABLE), run!(algebra::zunion))
            .doc("6.2.0", UNION_COMPLEXITY, "Returns the union of multiple sorted sets.")
            .cost(|db, request| cost::sum(db, cost::counted_keys(request, 1))),
        Command::new("ZINTER", at_least(3), KEYS_COUNTED, READ.union(MOVABLE), run!(algebra::zinter))
            .doc("6.2.0", INTER_COMPLEXITY, "Returns the intersect of multiple sorted sets.")
            .cost(|db, request| cost::smallest(db, cost::counted_keys(request, 1))),
        Command::new("ZDIFF", at_least(3), KEYS_COUNTED, READ.union(MOVABLE), run!(algebra::zdiff))
            .doc("6.2.0", DIFF_COMPLEXITY, "Returns the difference between multiple sorted sets.")
            .cost(|db, request| cost::sum(db, cost::counted_keys(request, 1))),
        Command::new(
            "ZUNIONSTORE",
            at_least(4),
            KEYS_COUNTED_STORE,
            WRITE.union(DENY_OOM).union(MOVABLE).union(BY_KEY),
            run!(algebra::zunionstore),
        )
        .event(KeyEvent::sorted_set("zunionstore"))
        .doc(
            "2.0.0",
            "O(N)+O(M log(M)) with N being the sum of the sizes of the input sorted sets, and M being the number \
             of elements in the resulting sorted set.",
            "Stores the union of multiple sorted sets in a key.",
        )
        .cost(|db, request| cost::sum(db, cost::counted_keys(request, 2)))
        .needs(|db, request| cost::counted_keys(request, 2).map(|key| cost::copied_bytes(db, key)).sum()),
        Command::new(
            "ZINTERSTORE",
            at_least(4),
            KEYS_COUNTED_STORE,
            WRITE.union(DENY_OOM).union(MOVABLE).union(BY_KEY),
            run!(algebra::zinterstore),
        )
        .event(KeyEvent::sorted_set("zinterstore"))
        .doc("2.0.0", INTER_COMPLEXITY, "Stores the intersect of multiple sorted sets in a key.")
        .cost(|db, request| cost::smallest(db, cost::counted_keys(request, 2)))
        .needs(|db, request| cost::counted_keys(request, 2).map(|key| cost::copied_bytes(db, key)).min().unwrap_or(0)),
        Command::new(
            "ZDIFFSTORE",
            at_least(4),
            KEYS_COUNTED_STORE,
            WRITE.union(DENY_OOM).union(MOVABLE).union(BY_KEY),
            run!(algebra::zdiffstore),
        )
        .event(KeyEvent::sorted_set("zdiffstore"))
        .doc("6.2.0", DIFF_COMPLEXITY, "Stores the difference of multiple sorted sets in a key.")
        .cost(|db, request| cost::sum(db, cost::counted_keys(request, 2)))
        .needs(|db, request| cost::counted_keys(request, 2).next().map_or(0, |key| cost::copied_bytes(db, key))),
        Command::new("ZINTERCARD", at_least(3), KEYS_COUNTED, READ.union(MOVABLE), run!(algebra::zintercard))
            .doc(
                "7.0.0",
                "O(N*K) worst case with N being the smallest input sorted set, K being the number of input sorted \
             sets.",
                "Returns the number of members of the intersect of multiple sorted sets.",
            )
            .cost(|db, request| cost::smallest(db, cost::counted_keys(request, 1))),
    ],
};

const XX_AND_NX: Error = Error::text("ERR XX and NX options at the same time are not compatible");
const GT_LT_NX: Error = Error::text("ERR GT, LT, and/or NX options at the same time are not compatible");
const INCR_PAIRS: Error = Error::text("ERR INCR option supports a single increment-element pair");

/// `ZADD key [NX | XX] [GT | LT] [CH] [INCR] score member [score member ...]`
fn zadd(db: &mut Keyspace<'_>, reply: &mut Reply, (key, rule, pairs): (&[u8], Rule, Rest<'_>)) -> Result<()> {
    let pairs = Pairs::new(pairs).ok_or(Error::Syntax)?;
    rule.check(pairs.len())?;
    let scored = pairs.iter().map(|(score, member)| Ok((float(score)?, member)));
    add(db, reply, key, rule, &scored.collect::<Result<SmallVec<[_; 8]>>>()?)
}

/// `ZINCRBY key increment member`
fn zincrby(db: &mut Keyspace<'_>, reply: &mut Reply, (key, by, member): (&[u8], f64, &[u8])) -> Result<()> {
    add(db, reply, key, Rule { increment: true, ..Rule::default() }, &[(by, member)])
}

/// `ZREM key member [member ...]`
fn zrem(db: &mut Keyspace<'_>, reply: &mut Reply, (key, members): (&[u8], Rest<'_>)) -> Result<()> {
    let removed = db.update_existing(key, |set: &mut SortedSet, _| {
        let removed = members.iter().filter(|member| set.remove(member).is_some()).count();
        Change::when(removed > 0, removed)
    })?;
    reply.integer(removed.unwrap_or(0) as i64);
    Ok(())
}

/// `ZCARD key`
fn zcard(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    reply.integer(db.read::<SortedSet>(key)?.map_or(0, SortedSet::len) as i64);
    Ok(())
}

/// `ZSCORE key member`
fn zscore(db: &mut Keyspace<'_>, reply: &mut Reply, (key, member): (&[u8], &[u8])) -> Result<()> {
    write_score(reply, db.read::<SortedSet>(key)?.and_then(|set| set.score(member)));
    Ok(())
}

/// `ZMSCORE key member [member ...]`
fn zmscore(db: &mut Keyspace<'_>, reply: &mut Reply, (key, members): (&[u8], Rest<'_>)) -> Result<()> {
    let set = db.read::<SortedSet>(key)?;
    reply.array(members.len());
    for member in members.iter() {
        write_score(reply, set.and_then(|set| set.score(member)));
    }
    Ok(())
}

/// `ZRANK key member [WITHSCORE]`
fn zrank(db: &mut Keyspace<'_>, reply: &mut Reply, arguments: (&[u8], &[u8], Rest<'_>)) -> Result<()> {
    rank(db, reply, "zrank", arguments, |rank, _| rank)
}

/// `ZREVRANK key member [WITHSCORE]`
fn zrevrank(db: &mut Keyspace<'_>, reply: &mut Reply, arguments: (&[u8], &[u8], Rest<'_>)) -> Result<()> {
    rank(db, reply, "zrevrank", arguments, |rank, len| len - 1 - rank)
}

/// `ZSCAN key cursor [MATCH pattern] [COUNT count] [NOSCORES]`
fn zscan(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, Cursor(cursor), options): (&[u8], Cursor, Rest<'_>),
) -> Result<()> {
    let start = reply.len();
    let Some(set) = db.read::<SortedSet>(key)? else {
        write_page(reply, start, 0, 0);
        return Ok(());
    };
    let options = ScanOptions::read(options, Some(Bare::NoScores))?;
    let mut len = 0;
    let next = set.scan(cursor, options.count, |member, score| {
        if options.matches(member) {
            write_item(reply, member);
            len += 1;
            if !options.is_bare {
                reply.bulk(&format_double(score));
                len += 1;
            }
        }
    });
    write_page(reply, start, next, len);
    Ok(())
}

/// The options of `ZADD`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rule {
    /// NX: existing members stay as they are.
    pub(super) only_new: bool,
    /// XX: new members are not added.
    pub(super) only_present: bool,
    /// GT: scores only grow.
    only_greater: bool,
    /// LT: scores only shrink.
    only_less: bool,
    /// CH: the answer counts changed members, not only added ones.
    pub(super) counts_changes: bool,
    /// INCR: the score is added to the one that the member has; the answer is the sum.
    increment: bool,
}

impl<'a> Argument<'a> for Rule {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let mut rule = Self::default();
        // Most words here are scores.
        while args.peek().and_then(<[u8]>::first).is_some_and(u8::is_ascii_alphabetic)
            && let Some(word) = args.upper()
        {
            match word.as_bytes() {
                b"NX" => rule.only_new = true,
                b"XX" => rule.only_present = true,
                b"GT" => rule.only_greater = true,
                b"LT" => rule.only_less = true,
                b"CH" => rule.counts_changes = true,
                b"INCR" => rule.increment = true,
                _ => break,
            }
            args.skip();
        }
        Ok(rule)
    }
}

impl Rule {
    fn check(&self, pairs: usize) -> Result<()> {
        if self.only_new && self.only_present {
            return Err(XX_AND_NX);
        }
        if u8::from(self.only_new) + u8::from(self.only_greater) + u8::from(self.only_less) > 1 {
            return Err(GT_LT_NX);
        }
        if self.increment && pairs > 1 { Err(INCR_PAIRS) } else { Ok(()) }
    }

    /// Gives a member a score as far as the rule allows. Returns its new score and the kind of change, or nothing.
    fn apply(
        &self,
        set: &mut SortedSet,
        score: f64,
        member: &[u8],
        limits: &Limits,
    ) -> Result<Option<(f64, Inserted)>> {
        let unconditional =
            !(self.only_new || self.only_present || self.only_greater || self.only_less || self.increment);
        if unconditional {
            return Ok(Some((score, set.insert(score, member, limits))));
        }
        let score = match set.score(member) {
            None if self.only_present => return Ok(None),
            None => score,
            Some(_) if self.only_new => return Ok(None),
            Some(current) => {
                let score = if self.increment { current + score } else { score };
                if score.is_nan() {
                    return Err(Error::ScoreIsNan);
                }
                if (self.only_greater && score <= current) || (self.only_less && score >= current) {
                    return Ok(None);
                }
                score
            }
        };
        Ok(Some((score, set.insert(score, member, limits))))
    }
}

pub(super) fn add(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    key: &[u8],
    rule: Rule,
    pairs: &[(f64, &[u8])],
) -> Result<()> {
    if rule.increment {
        db.call_changes(KeyEvent::sorted_set("zincr"));
    }
    let outcome = db.update(key, |set: &mut SortedSet, limits| {
        let (mut added, mut updated, mut sum) = (0, 0, None);
        if !rule.only_present {
            set.expect(pairs.len(), 0, limits);
        }
        for (score, member) in pairs {
            match rule.apply(set, *score, member, limits) {
                Ok(Some((score, inserted))) => {
                    added += i64::from(inserted == Inserted::Added);
                    updated += i64::from(matches!(inserted, Inserted::Updated(_)));
                    sum = Some(score);
                }
                Ok(None) => {}
                // There is one pair only, so nothing has been changed.
                Err(error) => return Change::No(Err(error)),
            }
        }
        Change::when(added + updated > 0, Ok((added, updated, sum)))
    })?;
    let (added, updated, sum) = outcome?;
    match rule.increment {
        true => write_score(reply, sum),
        false => reply.integer(if rule.counts_changes { added + updated } else { added }),
    }
    Ok(())
}

fn rank(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    name: &str,
    (key, member, options): (&[u8], &[u8], Rest<'_>),
    from_end: impl Fn(usize, usize) -> usize,
) -> Result<()> {
    let with_score = match options.len() {
        0 => false,
        1 if options.at(0).eq_ignore_ascii_case(b"WITHSCORE") => true,
        1 => return Err(Error::Syntax),
        _ => return Err(Error::WrongArity(name.into())),
    };
    let found = db.read::<SortedSet>(key)?.and_then(|set| {
        let (rank, score) = set.rank(member)?;
        Some((from_end(rank, set.len()), score))
    });
    match (found, with_score) {
        (Some((rank, score)), true) => {
            reply.array(2);
            reply.integer(rank as i64);
            reply.double(score);
        }
        (Some((rank, _)), false) => reply.integer(rank as i64),
        (None, true) => reply.null_array(),
        (None, false) => reply.null(),
    }
    Ok(())
}

fn write_score(reply: &mut Reply, score: Option<f64>) {
    match score {
        Some(score) => reply.double(score),
        None => reply.null(),
    }
}

/// The header of an array of members. With scores, RESP2 has them in between, RESP3 has pairs.
fn write_header(reply: &mut Reply, len: usize, with_scores: bool) {
    let flat = with_scores && reply.version() == Version::Resp2;
    reply.array(if flat { 2 * len } else { len });
}

fn write_member(reply: &mut Reply, member: Item<'_>, score: f64, with_scores: bool) {
    if with_scores && reply.version() == Version::Resp3 {
        reply.array(2);
    }
    write_item(reply, member);
    if with_scores {
        reply.double(score);
    }
}

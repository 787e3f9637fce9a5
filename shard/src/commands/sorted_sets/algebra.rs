//! Union, intersection and difference of sorted sets; plain sets take part with a score of 1 for each member.
//!
//! Results are gathered as references to members that stay where they are, then sorted; only a result that is stored is
//! copied, in order, so that its tree is filled from left to right.

#[cfg(test)]
mod tests;

use std::cmp::{Ordering, Reverse};
use std::collections::{HashMap, HashSet};

use dormouse_protocol::Reply;
use dormouse_types::record::Value;
use dormouse_types::{Item, Limits, ObjectRef, Set, SortedSet};
use smallvec::SmallVec;

use super::{write_header, write_member};
use crate::commands::args::{Rest, Word, float};
use crate::commands::sets::{Limit, holds};
use crate::commands::{endable, work};
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;

/// `ZUNION numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX | COUNT>] [WITHSCORES]`
pub fn zunion(db: &mut Keyspace<'_>, reply: &mut Reply, (count, rest): (i64, Rest<'_>)) -> Result<()> {
    let (inputs, options) = read(db, "zunion", count, rest, WEIGHED)?;
    work(reply, all(&inputs) * SCORED_BYTES)?;
    write(reply, union(inputs, options.aggregate), options.with_scores);
    Ok(())
}

/// `ZINTER numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX | COUNT>] [WITHSCORES]`
pub fn zinter(db: &mut Keyspace<'_>, reply: &mut Reply, (count, rest): (i64, Rest<'_>)) -> Result<()> {
    let (inputs, options) = read(db, "zinter", count, rest, WEIGHED)?;
    work(reply, least(&inputs) * SCORED_BYTES)?;
    write(reply, intersection(inputs, options.aggregate).collect(), options.with_scores);
    Ok(())
}

/// `ZDIFF numkeys key [key ...] [WITHSCORES]`
pub fn zdiff(db: &mut Keyspace<'_>, reply: &mut Reply, (count, rest): (i64, Rest<'_>)) -> Result<()> {
    let (inputs, options) = read(db, "zdiff", count, rest, SCORED)?;
    work(reply, first(&inputs) * SCORED_BYTES)?;
    write(reply, difference(inputs).collect(), options.with_scores);
    Ok(())
}

/// `ZUNIONSTORE destination numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX | COUNT>]`
pub fn zunionstore(db: &mut Keyspace<'_>, reply: &mut Reply, (key, count, rest): (&[u8], i64, Rest<'_>)) -> Result<()> {
    let limits = *db.limits();
    let (inputs, options) = read(db, "zunionstore", count, rest, WEIGHED_STORE)?;
    work(reply, all(&inputs) * SCORED_BYTES)?;
    let result = endable(|| Ok(collect(union(inputs, options.aggregate), &limits)))?;
    store(db, reply, key, result)
}

/// `ZINTERSTORE destination numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX | COUNT>]`
pub fn zinterstore(db: &mut Keyspace<'_>, reply: &mut Reply, (key, count, rest): (&[u8], i64, Rest<'_>)) -> Result<()> {
    let limits = *db.limits();
    let (inputs, options) = read(db, "zinterstore", count, rest, WEIGHED_STORE)?;
    work(reply, least(&inputs) * SCORED_BYTES)?;
    let result = endable(|| Ok(collect(intersection(inputs, options.aggregate).collect(), &limits)))?;
    store(db, reply, key, result)
}

/// `ZDIFFSTORE destination numkeys key [key ...]`
pub fn zdiffstore(db: &mut Keyspace<'_>, reply: &mut Reply, (key, count, rest): (&[u8], i64, Rest<'_>)) -> Result<()> {
    let limits = *db.limits();
    let (inputs, _) = read(db, "zdiffstore", count, rest, PLAIN_STORE)?;
    work(reply, first(&inputs) * SCORED_BYTES)?;
    let result = endable(|| Ok(collect(difference(inputs).collect(), &limits)))?;
    store(db, reply, key, result)
}

/// `ZINTERCARD numkeys key [key ...] [LIMIT limit]`
pub fn zintercard(db: &mut Keyspace<'_>, reply: &mut Reply, (count, rest): (i64, Rest<'_>)) -> Result<()> {
    let (inputs, options) = read(db, "zintercard", count, rest, LIMITED)?;
    reply.integer(intersection(inputs, options.aggregate).take(options.limit).count() as i64);
    Ok(())
}

/// Which options a command has.
#[derive(Debug, Clone, Copy)]
struct Form {
    weights: bool,
    scores: bool,
    limit: bool,
}

const WEIGHED: Form = Form { weights: true, scores: true, limit: false };
const WEIGHED_STORE: Form = Form { weights: true, scores: false, limit: false };
const SCORED: Form = Form { weights: false, scores: true, limit: false };
const PLAIN_STORE: Form = Form { weights: false, scores: false, limit: false };
const LIMITED: Form = Form { weights: false, scores: false, limit: true };

#[derive(Debug, Clone)]
struct Options {
    weights: Option<SmallVec<[f64; 4]>>,
    aggregate: Aggregate,
    with_scores: bool,
    limit: usize,
}

impl Options {
    fn read(options: Rest<'_>, inputs: usize, form: Form) -> Result<Self> {
        let mut read = Self { weights: None, aggregate: Aggregate::Sum, with_scores: false, limit: usize::MAX };
        let mut rest = options;
        while let Some((word, after)) = rest.split_at(1) {
            let taken = match Word::new(word.at(0)).as_bytes() {
                b"WEIGHTS" if form.weights => {
                    let (weights, _) = after.split_at(inputs).ok_or(Error::Syntax)?;
                    let weights = weights.iter().map(|weight| float(weight).map_err(|_| Error::WeightNotAFloat));
                    read.weights = Some(weights.collect::<Result<_>>()?);
                    inputs
                }
                b"AGGREGATE" if form.weights && !after.is_empty() => {
                    read.aggregate = match Word::new(after.at(0)).as_bytes() {
                        b"SUM" => Aggregate::Sum,
                        b"MIN" => Aggregate::Min,
                        b"MAX" => Aggregate::Max,
                        b"COUNT" => Aggregate::Count,
                        _ => return Err(Error::Syntax),
                    };
                    1
                }
                b"WITHSCORES" if form.scores => {
                    read.with_scores = true;
                    0
                }
                b"LIMIT" if form.limit && !after.is_empty() => {
                    let Limit(limit) = Limit::read(after.at(0))?;
                    read.limit = limit;
                    1
                }
                _ => return Err(Error::Syntax),
            };
            (_, rest) = after.split_at(taken).ok_or(Error::Syntax)?;
        }
        Ok(read)
    }
}

/// How the scores of one member in several inputs become one.
#[derive(Debug, Clone, Copy)]
enum Aggregate {
    Sum,
    Min,
    Max,
    /// The sum of the weights of the inputs that hold the member.
    Count,
}

impl Aggregate {
    /// Infinities that cancel each other out are 0. `left` is a number; where `right` is none, it is not the least nor the
    /// greatest.
    fn of(self, left: f64, right: f64) -> f64 {
        match self {
            Self::Sum | Self::Count => number(left + right),
            Self::Min => left.min(right),
            Self::Max => left.max(right),
        }
    }
}

fn number(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

#[derive(Debug, Clone, Copy)]
enum Source<'s> {
    Plain(&'s Set),
    Sorted(&'s SortedSet),
}

/// A source, and the factor of its scores.
#[derive(Debug, Clone, Copy)]
struct Input<'s> {
    source: Option<Source<'s>>,
    weight: f64,
    /// Its weight stands for each member's score.
    is_counted: bool,
}

/// Memory of a reference to a member with its score, in a table that may be half empty and then in a list.
const SCORED_BYTES: usize = 4 * size_of::<(Item<'_>, f64)>();

type Inputs<'s> = SmallVec<[Input<'s>; 4]>;

impl<'s> Input<'s> {
    fn len(&self) -> usize {
        match self.source {
            None => 0,
            Some(Source::Plain(set)) => set.len(),
            Some(Source::Sorted(set)) => set.len(),
        }
    }

    /// The weighed score of a member; infinity times nothing is not a number, and makes 0 of a sum.
    fn score(&self, member: Item<'_>) -> Option<f64> {
        let score = match self.source? {
            Source::Plain(set) => holds(set, member).then_some(1.0),
            Source::Sorted(set) => member.with_text(|text| set.score(text)),
        };
        score.map(|score| self.weighed(score))
    }

    fn weighed(&self, score: f64) -> f64 {
        if self.is_counted { self.weight } else { score * self.weight }
    }

    fn holds(&self, member: Item<'_>) -> bool {
        self.score(member).is_some()
    }

    /// The members with their weighed scores.
    fn iter(&self) -> impl Iterator<Item = (Item<'s>, f64)> + use<'s> {
        let (plain, sorted) = match self.source {
            None => (None, None),
            Some(Source::Plain(set)) => (Some(set), None),
            Some(Source::Sorted(set)) => (None, Some(set)),
        };
        let input = *self;
        let plain = plain.into_iter().flat_map(Set::iter).map(|member| (member, 1.0));
        let members = plain.chain(sorted.into_iter().flat_map(SortedSet::iter));
        members.map(move |(member, score)| (member, number(input.weighed(score))))
    }
}

/// The members of all inputs, of the smallest, and of the first.
fn all(inputs: &Inputs<'_>) -> usize {
    inputs.iter().map(Input::len).sum()
}

fn least(inputs: &Inputs<'_>) -> usize {
    inputs.iter().map(Input::len).min().unwrap_or(0)
}

fn first(inputs: &Inputs<'_>) -> usize {
    inputs.first().map_or(0, Input::len)
}

/// Redis looks at the keys before it reads the options: a wrong kind among them comes before a syntax error behind
/// them.
fn read<'s>(
    db: &'s mut Keyspace<'_>,
    name: &'static str,
    count: i64,
    rest: Rest<'_>,
    form: Form,
) -> Result<(Inputs<'s>, Options)> {
    if count < 1 {
        return Err(Error::NoInputKeys(name));
    }
    let split = usize::try_from(count).ok().and_then(|count| rest.split_at(count));
    let (keys, options) = split.ok_or(Error::Syntax)?;
    let input = |value: Option<Value<'s>>| match value {
        None => Ok(None),
        Some(Value::Object(ObjectRef::Set(set))) => Ok(Some(Source::Plain(set))),
        Some(Value::Object(ObjectRef::SortedSet(set))) => Ok(Some(Source::Sorted(set))),
        Some(_) => Err(Error::WrongType),
    };
    let sources: SmallVec<[_; 4]> = db.values(keys.iter()).map(input).collect::<Result<_>>()?;
    let options = Options::read(options, sources.len(), form)?;
    let weight = |at: usize| options.weights.as_ref().map_or(1.0, |weights| weights[at]);
    let is_counted = matches!(options.aggregate, Aggregate::Count);
    let inputs = sources.into_iter().enumerate().map(|(at, source)| Input { source, weight: weight(at), is_counted });
    Ok((inputs.collect(), options))
}

/// From the smallest input to the largest, as Redis does, since the sum of doubles depends on their order.
fn union<'s>(mut inputs: Inputs<'s>, aggregate: Aggregate) -> Vec<(Item<'s>, f64)> {
    inputs.sort_by_key(Input::len);
    if let [.., input] = &inputs[..]
        && inputs[..inputs.len() - 1].iter().all(|input| input.len() == 0)
    {
        return input.iter().collect();
    }
    let mut scores: HashMap<Item<'s>, f64> = HashMap::with_capacity(inputs.last().map_or(0, Input::len));
    for (member, score) in inputs.iter().flat_map(Input::iter) {
        scores.entry(member).and_modify(|sum| *sum = aggregate.of(*sum, score)).or_insert(score);
    }
    scores.into_iter().collect()
}

/// The members of the smallest input that all others have.
fn intersection<'s>(mut inputs: Inputs<'s>, aggregate: Aggregate) -> impl Iterator<Item = (Item<'s>, f64)> {
    inputs.sort_by_key(Input::len);
    let smallest = inputs.first().copied();
    smallest.into_iter().flat_map(|input| input.iter()).filter_map(move |(member, score)| {
        let score = inputs[1..].iter().try_fold(score, |sum, input| Some(aggregate.of(sum, input.score(member)?)));
        score.map(|score| (member, score))
    })
}

/// The members of the first input that no other has. If the others are many and small, they are gathered once, as in
/// the difference of plain sets.
fn difference<'s>(inputs: Inputs<'s>) -> impl Iterator<Item = (Item<'s>, f64)> {
    let first = inputs.first().copied();
    let mut others: Inputs<'s> = inputs.into_iter().skip(1).filter(|input| input.len() > 0).collect();
    others.sort_by_key(|input| Reverse(input.len()));
    let mut gathered = HashSet::new();
    if let Some(first) = first {
        let elements: usize = others.iter().map(Input::len).sum();
        if first.len().saturating_mul(others.len()) > first.len().saturating_add(elements.saturating_mul(2)) {
            let held = others.drain(..).flat_map(|input| input.iter()).map(|(member, _)| member);
            gathered.extend(held.filter(|member| first.holds(*member)));
        }
    }
    first
        .into_iter()
        .flat_map(|input| input.iter())
        .filter(move |(member, _)| !gathered.contains(member) && !others.iter().any(|input| input.holds(*member)))
}

fn sort(members: &mut [(Item<'_>, f64)]) {
    members.sort_unstable_by(|(left, left_score), (right, right_score)| {
        let by_score = left_score.partial_cmp(right_score).unwrap_or(Ordering::Equal);
        by_score.then_with(|| match (left, right) {
            (Item::Bytes(left), Item::Bytes(right)) => left.cmp(right),
            _ => right.with_text(|right| left.compare(right)),
        })
    });
}

fn write(reply: &mut Reply, mut members: Vec<(Item<'_>, f64)>, with_scores: bool) {
    sort(&mut members);
    write_header(reply, members.len(), with_scores);
    for (member, score) in members {
        write_member(reply, member, score, with_scores);
    }
}

fn collect(mut members: Vec<(Item<'_>, f64)>, limits: &Limits) -> SortedSet {
    sort(&mut members);
    let mut set = SortedSet::with_capacity(members.len(), limits);
    for (member, score) in members {
        member.with_text(|member| set.insert(score, member, limits));
    }
    set
}

fn store(db: &mut Keyspace<'_>, reply: &mut Reply, key: &[u8], result: SortedSet) -> Result<()> {
    reply.integer(result.len() as i64);
    db.put_result(key, result)
}

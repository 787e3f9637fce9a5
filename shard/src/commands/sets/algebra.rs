//! Intersection, union and difference of sets, read or stored.
//!
//! Each is an iterator over members that stay where they are; only a result that is stored is copied.
//!
//! - Intersection: the members of the smallest set that all others hold.
//! - Union: the members of the largest set, then those of the others that it does not hold; what several of the others
//!   share is told apart by a table of references.
//! - Difference: the members of the first set that no other holds. If the others are many and small beside the first,
//!   their members are gathered in a table of references once, instead of asking each of them for every member.

use std::collections::HashSet;

use dormouse_protocol::Reply;
use dormouse_types::record::Value;
use dormouse_types::{Item, Limits, Lookup, ObjectRef, Set};
use smallvec::SmallVec;

use crate::commands::args::{Args, Argument, Counted, Rest, integer};
use crate::commands::elements::write_item;
use crate::commands::{endable, work};
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;

/// Memory of a reference to a member in a table that may be half empty, and has to move when it grows.
const REFERENCE_BYTES: usize = 3 * size_of::<Item<'_>>();

/// The sets under some keys; `None` where there is none.
type Sets<'s> = SmallVec<[Option<&'s Set>; 4]>;

/// `SINTER key [key ...]`
pub fn sinter(db: &mut Keyspace<'_>, reply: &mut Reply, (keys,): (Rest<'_>,)) -> Result<()> {
    write_members(reply, intersection(sets(db, keys)?));
    Ok(())
}

/// `SINTERSTORE destination key [key ...]`
pub fn sinterstore(db: &mut Keyspace<'_>, reply: &mut Reply, (key, keys): (&[u8], Rest<'_>)) -> Result<()> {
    let limits = *db.limits();
    let sets = sets(db, keys)?;
    let result = endable(|| Ok(collect(intersection(sets), &limits)))?;
    store(db, reply, key, result)
}

/// `SINTERCARD numkeys key [key ...] [LIMIT limit]`
pub fn sintercard(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (Counted(keys), Limit(limit)): (Counted<'_>, Limit),
) -> Result<()> {
    reply.integer(intersection(sets(db, keys)?).take(limit).count() as i64);
    Ok(())
}

/// `SUNIONCARD numkeys key [key ...] [APPROX] [LIMIT limit]`
///
/// `APPROX` allows an estimate. The exact number is one too.
pub fn sunioncard(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (Counted(keys), UnionOptions(limit)): (Counted<'_>, UnionOptions),
) -> Result<()> {
    let sets = sets(db, keys)?;
    work(reply, union_bytes(&sets))?;
    let (largest, new) = union_parts(sets);
    // The members of the largest set need not be looked at.
    let known = largest.map_or(0, Set::len).min(limit);
    reply.integer((known + new.take(limit - known).count()) as i64);
    Ok(())
}

/// `SDIFFCARD numkeys key [key ...] [LIMIT limit]`
pub fn sdiffcard(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (Counted(keys), Limit(limit)): (Counted<'_>, Limit),
) -> Result<()> {
    let sets = sets(db, keys)?;
    work(reply, difference_bytes(&sets))?;
    reply.integer(difference(sets).take(limit).count() as i64);
    Ok(())
}

/// `SUNION key [key ...]`
pub fn sunion(db: &mut Keyspace<'_>, reply: &mut Reply, (keys,): (Rest<'_>,)) -> Result<()> {
    let sets = sets(db, keys)?;
    work(reply, union_bytes(&sets))?;
    write_members(reply, union(sets));
    Ok(())
}

/// `SUNIONSTORE destination key [key ...]`
pub fn sunionstore(db: &mut Keyspace<'_>, reply: &mut Reply, (key, keys): (&[u8], Rest<'_>)) -> Result<()> {
    let limits = *db.limits();
    let sets = sets(db, keys)?;
    work(reply, union_bytes(&sets))?;
    let result = endable(|| Ok(collect(union(sets), &limits)))?;
    store(db, reply, key, result)
}

/// `SDIFF key [key ...]`
pub fn sdiff(db: &mut Keyspace<'_>, reply: &mut Reply, (keys,): (Rest<'_>,)) -> Result<()> {
    let sets = sets(db, keys)?;
    work(reply, difference_bytes(&sets))?;
    write_members(reply, difference(sets));
    Ok(())
}

/// `SDIFFSTORE destination key [key ...]`
pub fn sdiffstore(db: &mut Keyspace<'_>, reply: &mut Reply, (key, keys): (&[u8], Rest<'_>)) -> Result<()> {
    let limits = *db.limits();
    let sets = sets(db, keys)?;
    work(reply, difference_bytes(&sets))?;
    let result = endable(|| Ok(collect(difference(sets), &limits)))?;
    store(db, reply, key, result)
}

/// `[LIMIT limit]`, any number of times; 0: none.
#[derive(Debug, Clone, Copy)]
pub struct Limit(pub usize);

impl Limit {
    pub fn read(bytes: &[u8]) -> Result<Self> {
        match integer(bytes).ok().and_then(|limit| usize::try_from(limit).ok()) {
            Some(0) => Ok(Self(usize::MAX)),
            Some(limit) => Ok(Self(limit)),
            None => Err(Error::LimitNegative),
        }
    }
}

impl<'a> Argument<'a> for Limit {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let mut limit = Self(usize::MAX);
        while args.word("LIMIT") {
            limit = Self::read(args.bytes()?)?;
        }
        Ok(limit)
    }
}

/// `[APPROX] [LIMIT limit]`, in any order and any number of times.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnionOptions(usize);

impl<'a> Argument<'a> for UnionOptions {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let mut limit = Limit(usize::MAX);
        loop {
            if args.word("LIMIT") {
                limit = Limit::read(args.bytes()?)?;
            } else if !args.word("APPROX") {
                return Ok(Self(limit.0));
            }
        }
    }
}

/// Whether a set holds an item; numbers are looked up in an intset as they are.
pub fn holds(set: &Set, item: Item<'_>) -> bool {
    match (item, set.integers()) {
        (Item::Int(number), Some(integers)) => integers.contains(number),
        _ => item.with_text(|text| set.contains(text)),
    }
}

fn sets<'s>(db: &'s mut Keyspace<'_>, keys: Rest<'_>) -> Result<Sets<'s>> {
    let set = |value: Option<Value<'s>>| match value {
        None => Ok(None),
        Some(Value::Object(ObjectRef::Set(set))) => Ok(Some(set)),
        Some(_) => Err(Error::WrongType),
    };
    db.values(keys.iter()).map(set).collect()
}

fn write_members<'s>(reply: &mut Reply, members: impl Iterator<Item = Item<'s>>) {
    let start = reply.len();
    let count = members.map(|member| write_item(reply, member)).count();
    reply.set_since(start, count);
}

fn collect<'s>(members: impl Iterator<Item = Item<'s>>, limits: &Limits) -> Set {
    let mut set = Set::new();
    for member in members {
        member.with_text(|text| set.add(text, limits));
    }
    set
}

fn store(db: &mut Keyspace<'_>, reply: &mut Reply, key: &[u8], result: Set) -> Result<()> {
    reply.integer(result.len() as i64);
    db.put_result(key, result)
}

fn intersection<'s>(sets: Sets<'s>) -> impl Iterator<Item = Item<'s>> {
    let all = sets.iter().all(Option::is_some);
    let mut sets: SmallVec<[&Set; 4]> = sets.into_iter().flatten().filter(|_| all).collect();
    sets.sort_by_key(|set| set.len());
    let smallest = sets.first().copied();
    let members = smallest.into_iter().flat_map(Set::iter);
    let mut others: SmallVec<[Lookup<'_>; 3]> = sets.into_iter().skip(1).map(Lookup::new).collect();
    members.filter(move |member| others.iter_mut().all(|set| set.holds(*member)))
}

fn union<'s>(sets: Sets<'s>) -> impl Iterator<Item = Item<'s>> {
    let (largest, new) = union_parts(sets);
    largest.into_iter().flat_map(Set::iter).chain(new)
}

/// The largest set, and the members of the others that it does not hold.
fn union_parts<'s>(sets: Sets<'s>) -> (Option<&'s Set>, impl Iterator<Item = Item<'s>>) {
    let mut sets: SmallVec<[&Set; 4]> = sets.into_iter().flatten().collect();
    sets.sort_by_key(|set| std::cmp::Reverse(set.len()));
    let largest = sets.first().copied();
    let mut known = largest.map(Lookup::new);
    let several = sets.len() > 2;
    let mut seen = HashSet::new();
    let others = sets.into_iter().skip(1).flat_map(Set::iter);
    let new = others.filter(move |member| {
        !known.as_mut().is_some_and(|set| set.holds(*member)) && (!several || seen.insert(*member))
    });
    (largest, new)
}

/// Memory that a union needs while it is made: a table of the members of all but the largest set, if there are several.
fn union_bytes(sets: &Sets<'_>) -> usize {
    let lens = || sets.iter().flatten().map(|set| set.len());
    let largest = lens().max().unwrap_or(0);
    if lens().nth(2).is_some() { (lens().sum::<usize>() - largest) * REFERENCE_BYTES } else { 0 }
}

/// Memory that a difference may need while it is made: a table of as many members as the first set has.
fn difference_bytes(sets: &Sets<'_>) -> usize {
    let mut lens = sets.iter().map(|set| set.map_or(0, Set::len));
    let first = lens.next().unwrap_or(0);
    first.min(lens.sum()) * REFERENCE_BYTES
}

fn difference<'s>(sets: Sets<'s>) -> impl Iterator<Item = Item<'s>> {
    let first = sets.first().copied().flatten();
    let mut others: SmallVec<[&Set; 4]> = sets.into_iter().skip(1).flatten().collect();
    // The largest is the likeliest to hold a member.
    others.sort_by_key(|set| std::cmp::Reverse(set.len()));
    let mut gathered = HashSet::new();
    if let Some(first) = first {
        let elements: usize = others.iter().map(|set| set.len()).sum();
        // A member gathered costs about as much as two looked up.
        if first.len().saturating_mul(others.len()) > first.len().saturating_add(elements.saturating_mul(2)) {
            let mut first = Lookup::new(first);
            let held = others.drain(..).flat_map(Set::iter).filter(|member| first.holds(*member));
            gathered.extend(held);
        }
    }
    let members = first.into_iter().flat_map(Set::iter);
    let mut others: SmallVec<[Lookup<'_>; 3]> = others.into_iter().map(Lookup::new).collect();
    members.filter(move |member| !gathered.contains(member) && !others.iter_mut().any(|set| set.holds(*member)))
}

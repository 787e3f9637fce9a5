//! Sorted sets: a listpack of alternating members and scores while small, else a hash table of members beside a [`tree`]
//! of the same members in order.
//!
//! Redis 7.2's rules: packed up to `zset-max-listpack-entries` members of up to `zset-max-listpack-value` bytes. A set that
//! has once left the packed form does not come back to it.
//!
//! The order is by score, then by the members' bytes. Scores are never NaN: the caller has refused it. Nor are they -0,
//! which the packed form, as Redis's, cannot tell from 0: a set must not change when it is stored and loaded again.
//! Every range is one of ranks: [`SortedSet::score_ranks`] and [`SortedSet::lex_ranks`] find it, [`SortedSet::range`]
//! reads it, [`SortedSet::remove_ranks`] removes it, and its length is the count.

mod range;
mod tree;

use std::ops::Range;

use dormouse_protocol::format_double;

pub use range::{LexBound, LexRange, ScoreRange};
use tree::{Entries, Tree};

use super::heap;
use super::item::Item;
use super::listpack::{Listpack, ListpackRef};
use super::{Limits, Malformed};
use crate::entry::{Form, FormMut, FormRef, Scored};
use crate::segment::{HashPlacement, Placement, Table};

#[derive(Default)]
pub struct SortedSet(Form<Listpack, Large>);

/// Invariant: the table and the tree share the same members, and each is in the tree by the score that it has.
struct Large {
    table: Table<Scored, HashPlacement>,
    tree: Tree,
}

/// The outcome of [`SortedSet::insert`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Inserted {
    Added,
    /// The member existed with this other score.
    Updated(f64),
    Same,
}

impl SortedSet {
    pub fn new() -> Self {
        SortedSet::default()
    }

    /// An empty set in the form that `members` members will need at least, with room for them.
    pub fn with_capacity(members: usize, limits: &Limits) -> Self {
        let mut set = SortedSet::new();
        set.expect(members, 0, limits);
        set
    }

    /// Loads the bytes of [`SortedSet::packed`], or of Redis, chooses the form by `limits`, and sorts members that are
    /// out of order.
    pub fn from_listpack(bytes: &[u8], limits: &Limits) -> Result<Self, Malformed> {
        const BAD: Malformed = Malformed("sorted set");
        let listpack = Listpack::from_bytes(bytes)?;
        let view = listpack.view();
        if !view.len().is_multiple_of(2) || view.has_duplicates(2) {
            return Err(BAD);
        }
        let (mut longest, mut sorted, mut last) = (0, true, None);
        for (member, score) in view.pairs() {
            let score = read_score(score).ok_or(BAD)?;
            sorted &= last.is_none_or(|last| before(last, score, member));
            last = Some((member, score));
            longest = longest.max(member.len());
        }
        let many = view.len() / 2 > limits.zset_max_listpack_entries;
        let mut set = SortedSet(Form::packed(listpack));
        if many || longest > limits.zset_max_listpack_value || !sorted {
            let mut again = SortedSet::with_capacity(set.len(), limits);
            for (member, score) in set.iter() {
                member.with_text(|member| again.insert(score, member, limits));
            }
            set = again;
        }
        Ok(set)
    }

    pub fn len(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(listpack) => listpack.view().len() / 2,
            FormRef::Large(large) => large.tree.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn encoding(&self) -> &'static str {
        match self.0.view() {
            FormRef::Packed(_) => "listpack",
            FormRef::Large(_) => "skiplist",
        }
    }

    /// The address of its first allocation: only ever prefetched.
    pub(crate) fn address(&self) -> *const u8 {
        self.0.address()
    }

    pub fn heap_bytes(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(listpack) => listpack.heap_bytes(),
            FormRef::Large(large) => {
                heap::allocation(size_of::<Large>()) + large.table.heap_bytes() + large.tree.heap_bytes()
            }
        }
    }

    /// The listpack, if the set is one.
    pub fn packed(&self) -> Option<ListpackRef<'_>> {
        match self.0.view() {
            FormRef::Packed(listpack) => Some(listpack.view()),
            FormRef::Large(_) => None,
        }
    }

    /// Says that `members` members of up to `longest` bytes are about to be added, so that the form changes at most once.
    pub fn expect(&mut self, members: usize, longest: usize, limits: &Limits) {
        if let FormRef::Packed(_) = self.0.view()
            && (members > limits.zset_max_listpack_entries || longest > limits.zset_max_listpack_value)
        {
            self.large(members, limits);
        }
    }

    pub fn score(&self, member: &[u8]) -> Option<f64> {
        match self.0.view() {
            FormRef::Packed(listpack) => {
                let view = listpack.view();
                let at = view.find(view.start(), member, 1)?;
                Some(score_at(view, view.after(at)))
            }
            FormRef::Large(large) => large.table.get(member).map(Scored::score),
        }
    }

    pub fn contains(&self, member: &[u8]) -> bool {
        self.score(member).is_some()
    }

    /// Gives a member this score; -0 becomes 0.
    pub fn insert(&mut self, score: f64, member: &[u8], limits: &Limits) -> Inserted {
        let score = score + 0.0;
        if let FormMut::Packed(listpack) = self.0.view_mut() {
            let view = listpack.view();
            if let Some(at) = view.find(view.start(), member, 1) {
                let old = score_at(view, view.after(at));
                if old == score {
                    return Inserted::Same;
                }
                let from = if score > old { view.next(view.after(at)) } else { view.first() };
                let to = place_in(view, from, score, member);
                with_score(score, |score| listpack.move_pair(at, to, Item::parse(member), score));
                return Inserted::Updated(old);
            }
            if view.len() / 2 < limits.zset_max_listpack_entries
                && member.len() <= limits.zset_max_listpack_value
                && view.has_room(member.len())
            {
                insert_packed(listpack, score, member);
                return Inserted::Added;
            }
        }
        self.large(1, limits).insert(score, member)
    }

    /// Returns the score that the member had.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        match self.0.view_mut() {
            FormMut::Packed(listpack) => {
                let view = listpack.view();
                let at = view.find(view.start(), member, 1)?;
                let score = score_at(view, view.after(at));
                listpack.remove(at, 2);
                Some(score)
            }
            FormMut::Large(large) => {
                let score = large.table.remove(member)?.score();
                large.tree.remove(score, member);
                Some(score)
            }
        }
    }

    /// How many members come before this one, and its score.
    pub fn rank(&self, member: &[u8]) -> Option<(usize, f64)> {
        match self.0.view() {
            FormRef::Packed(listpack) => {
                let wanted = Item::parse(member);
                let found = listpack.view().pairs().enumerate().find(|(_, (member, _))| *member == wanted);
                found.map(|(rank, (_, score))| (rank, read_score(score).unwrap_or(0.0)))
            }
            FormRef::Large(large) => {
                let score = large.table.get(member)?.score();
                Some((large.tree.rank(|entry| entry.compare(score, member).is_lt()), score))
            }
        }
    }

    /// The ranks of the members whose scores are in the range.
    pub fn score_ranks(&self, range: &ScoreRange) -> Range<usize> {
        let (start, end) = match self.0.view() {
            FormRef::Packed(listpack) => {
                let scores = || listpack.view().pairs().map(|(_, score)| read_score(score).unwrap_or(0.0));
                let start = scores().take_while(|&score| range.begins_after(score)).count();
                (start, scores().take_while(|&score| range.ends_at_or_after(score)).count())
            }
            FormRef::Large(large) => (
                large.tree.rank(|entry| range.begins_after(entry.score)),
                large.tree.rank(|entry| range.ends_at_or_after(entry.score)),
            ),
        };
        start..end.max(start)
    }

    /// The ranks of the members that are in the range, if all scores are equal.
    pub fn lex_ranks(&self, range: &LexRange<'_>) -> Range<usize> {
        let (start, end) = match self.0.view() {
            FormRef::Packed(listpack) => {
                let members = || listpack.view().pairs().map(|(member, _)| member);
                let start =
                    members().take_while(|member| member.with_text(|member| range.begins_after(member))).count();
                (
                    start,
                    members().take_while(|member| member.with_text(|member| range.ends_at_or_after(member))).count(),
                )
            }
            FormRef::Large(large) => (
                large.tree.rank(|entry| range.begins_after(entry.member.member())),
                large.tree.rank(|entry| range.ends_at_or_after(entry.member.member())),
            ),
        };
        start..end.max(start)
    }

    /// The members with these ranks and their scores, from either end.
    pub fn range(&self, ranks: Range<usize>) -> Members<'_> {
        let end = ranks.end.min(self.len());
        let start = ranks.start.min(end);
        match self.0.view() {
            FormRef::Packed(listpack) => Members::packed(listpack.view(), start..end),
            FormRef::Large(large) => Members(Source::Tree(large.tree.range(start..end))),
        }
    }

    pub fn iter(&self) -> Members<'_> {
        self.range(0..self.len())
    }

    /// Removes the members with these ranks, showing each to `visit` in order. Returns how many.
    pub fn remove_ranks(&mut self, ranks: Range<usize>, mut visit: impl FnMut(Item<'_>, f64)) -> usize {
        let end = ranks.end.min(self.len());
        let start = ranks.start.min(end);
        match self.0.view_mut() {
            FormMut::Packed(listpack) => {
                let view = listpack.view();
                let Some(at) = view.seek(2 * start) else { return 0 };
                Members::packed(view, start..end).for_each(|(member, score)| visit(member, score));
                listpack.remove(at, 2 * (end - start));
            }
            FormMut::Large(large) => {
                let Large { table, tree } = large;
                tree.remove_range(start..end, &mut |entry| {
                    table.remove(entry.member.member());
                    visit(Item::Bytes(entry.member.member()), entry.score);
                });
            }
        }
        end - start
    }

    /// Visits about `count` members from `cursor` on, first 0; returns the next cursor, 0 at the end. A packed set is
    /// visited whole.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(Item<'_>, f64)) -> u64 {
        match self.0.view() {
            FormRef::Packed(_) => {
                self.iter().for_each(|(member, score)| visit(member, score));
                0
            }
            FormRef::Large(large) => {
                large.table.scan(cursor, count, |entry| visit(Item::Bytes(entry.member()), entry.score()))
            }
        }
    }

    /// A member at random, each as likely as any other.
    pub fn random(&self, random: &mut impl FnMut() -> u64) -> Option<(Item<'_>, f64)> {
        let rank = heap::below(random(), self.len());
        self.range(rank..rank + 1).next()
    }

    /// The table of a large set, to be captured.
    pub fn table_mut(&mut self) -> Option<&mut Table<Scored, HashPlacement>> {
        match self.0.view_mut() {
            FormMut::Packed(_) => None,
            FormMut::Large(large) => Some(&mut large.table),
        }
    }

    /// The capture of its table in progress.
    pub fn captured_id(&self) -> Option<u64> {
        match self.0.view() {
            FormRef::Packed(_) => None,
            FormRef::Large(large) => large.table.captured_id(),
        }
    }

    /// Bytes that it has written aside.
    pub fn aside_bytes(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(_) => 0,
            FormRef::Large(large) => large.table.aside_bytes(),
        }
    }

    /// A set of `members` members that come in no order, made with [`Unordered`].
    pub fn unordered(members: usize, limits: &Limits) -> Unordered {
        if members <= limits.zset_max_listpack_entries {
            return Unordered(Gathered::Few(SortedSet::new()));
        }
        let large = Box::new(Large::new(HashPlacement { seed: limits.seed }, members));
        Unordered(Gathered::Many { large, entries: Vec::with_capacity(members) })
    }

    /// Frees about `budget` members. Until it returns true nothing else may be done with the set.
    pub fn dismantle(&mut self, budget: usize) -> bool {
        let done = match self.0.view_mut() {
            FormMut::Packed(_) => true,
            FormMut::Large(large) => {
                if heap::dismantle_table(&mut large.table, budget) {
                    let len = large.tree.len();
                    large.tree.remove_range(len.saturating_sub(budget)..len, &mut drop);
                }
                large.tree.len() == 0
            }
        };
        if done {
            *self = SortedSet::new();
        }
        done
    }

    /// The large form, made if missing, with room for `more` members.
    fn large(&mut self, more: usize, limits: &Limits) -> &mut Large {
        if let FormRef::Packed(_) = self.0.view() {
            let mut large = Large::new(HashPlacement { seed: limits.seed }, self.len() + more);
            for (member, score) in self.iter() {
                member.with_text(|member| large.insert(score, member));
            }
            self.0 = Form::large(Box::new(large));
        }
        match self.0.view_mut() {
            FormMut::Large(large) => large,
            FormMut::Packed(_) => unreachable!("a packed set has just been made a large one"),
        }
    }
}

impl Large {
    fn new(placement: HashPlacement, members: usize) -> Self {
        Large { table: Table::with_capacity(placement, members), tree: Tree::new() }
    }

    fn insert(&mut self, score: f64, member: &[u8]) -> Inserted {
        let position = self.table.placement().position(member);
        match self.table.get_at(position, member) {
            Some(entry) => {
                let old = entry.score();
                if old == score {
                    return Inserted::Same;
                }
                let entry = match self.table.is_captured() {
                    true => {
                        self.table.before_change(position);
                        self.table.get_at(position, member).expect("a capture changes no entry")
                    }
                    false => entry,
                };
                if self.tree.change_score(old, member, score) {
                    entry.set_score(score);
                } else {
                    self.tree.remove(old, member);
                    entry.set_score(score);
                    self.tree.insert(tree::Entry::new(entry));
                }
                Inserted::Updated(old)
            }
            None => {
                let entry = Scored::new(score, member);
                self.tree.insert(tree::Entry::new(&entry));
                self.table.insert_at(position, entry);
                Inserted::Added
            }
        }
    }
}

/// The builder of a sorted set from members in no order: they are sorted once, so that its tree is dense.
pub struct Unordered(Gathered);

enum Gathered {
    Few(SortedSet),
    /// All members are in the table, and none is in the tree.
    Many {
        large: Box<Large>,
        entries: Vec<tree::Entry>,
    },
}

impl Unordered {
    /// Adds a member, whose score is a number. Returns whether it is new.
    pub fn add(&mut self, score: f64, member: &[u8], limits: &Limits) -> bool {
        let score = score + 0.0;
        match &mut self.0 {
            Gathered::Few(set) => set.insert(score, member, limits) == Inserted::Added,
            Gathered::Many { large, entries } => {
                let entry = Scored::new(score, member);
                entries.push(tree::Entry::new(&entry));
                large.table.insert(entry).is_none()
            }
        }
    }

    pub fn finish(self) -> SortedSet {
        match self.0 {
            Gathered::Few(set) => set,
            Gathered::Many { mut large, mut entries } => {
                entries.sort_unstable_by(|a, b| a.compare(b.score, b.member.member()));
                entries.into_iter().for_each(|entry| large.tree.insert(entry));
                SortedSet(Form::large(large))
            }
        }
    }
}

impl Clone for SortedSet {
    fn clone(&self) -> Self {
        match self.0.view() {
            FormRef::Packed(listpack) => SortedSet(Form::packed(listpack.clone())),
            FormRef::Large(large) => {
                // The members of two sets are never shared.
                let mut copy = Large::new(*large.table.placement(), large.table.len());
                for entry in large.tree.range(0..large.tree.len()) {
                    copy.insert(entry.score, entry.member.member());
                }
                SortedSet(Form::large(Box::new(copy)))
            }
        }
    }
}

impl std::fmt::Debug for SortedSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Members and their scores in order; see [`SortedSet::range`].
#[derive(Clone)]
pub struct Members<'a>(Source<'a>);

#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "it lives on the stack, and an allocation would cost more")]
enum Source<'a> {
    Packed { view: ListpackRef<'a>, front: usize, back: usize, left: usize },
    Tree(Entries<'a>),
}

fn show(entry: &tree::Entry) -> (Item<'_>, f64) {
    (Item::Bytes(entry.member.member()), entry.score)
}

impl<'a> Members<'a> {
    fn packed(view: ListpackRef<'a>, ranks: Range<usize>) -> Self {
        let position = |rank: usize| view.seek(2 * rank).unwrap_or(view.end());
        let (front, back) = (position(ranks.start), position(ranks.end));
        Members(Source::Packed { view, front, back, left: ranks.end - ranks.start })
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (Item<'a>, f64);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Source::Packed { view, front, left, .. } => {
                *left = left.checked_sub(1)?;
                let score = view.after(*front);
                let shown = (view.item(*front), score_at(*view, score));
                *front = view.after(score);
                Some(shown)
            }
            Source::Tree(entries) => entries.next().map(show),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match &self.0 {
            Source::Packed { left, .. } => *left,
            Source::Tree(entries) => entries.len(),
        };
        (left, Some(left))
    }
}

impl DoubleEndedIterator for Members<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Source::Packed { view, back, left, .. } => {
                *left = left.checked_sub(1)?;
                let score = view.before(*back);
                *back = view.before(score);
                Some((view.item(*back), score_at(*view, score)))
            }
            Source::Tree(entries) => entries.next_back().map(show),
        }
    }
}

impl ExactSizeIterator for Members<'_> {}

/// Inserts a pair in order. The member must be new.
fn insert_packed(listpack: &mut Listpack, score: f64, member: &[u8]) {
    let view = listpack.view();
    let place = place_in(view, view.first(), score, member);
    with_score(score, |score| listpack.insert_pair(place, Item::parse(member), score));
}

/// The position of a member with this score among the pairs from `at` on. Pairs before `at` come before the member.
fn place_in(view: ListpackRef<'_>, from: Option<usize>, score: f64, member: &[u8]) -> usize {
    let end = view.end();
    let mut at = from.unwrap_or(end);
    while at < end {
        let (other_member, after) = view.read(at);
        let (other, next) = view.read(after);
        let other = read_score(other).unwrap_or(0.0);
        if other > score || (other == score && other_member.compare(member).is_gt()) {
            break;
        }
        at = next;
    }
    at
}

/// Shows the item that a score is kept as.
fn with_score<R>(score: f64, show: impl FnOnce(Item<'_>) -> R) -> R {
    match whole(score) {
        Some(number) => show(Item::Int(number)),
        None => show(Item::parse(&format_double(score))),
    }
}

/// The score as an integer if it is one that doubles tell apart from its neighbours; -0 is 0 then, as in Redis
/// (`double2ll`).
fn whole(score: f64) -> Option<i64> {
    const EXACT: f64 = (1u64 << 52) as f64;
    (score.abs() < EXACT && score.trunc() == score).then_some(score as i64)
}

#[inline]
fn read_score(item: Item<'_>) -> Option<f64> {
    match item {
        Item::Int(number) => Some(number as f64),
        Item::Bytes(text) => fast_float2::parse(text).ok().filter(|score: &f64| !score.is_nan()),
    }
}

/// The score at a position of a listpack that has been checked.
fn score_at(view: ListpackRef<'_>, at: usize) -> f64 {
    read_score(view.item(at)).unwrap_or(0.0)
}

fn before((last, last_score): (Item<'_>, f64), score: f64, member: Item<'_>) -> bool {
    last_score < score || (last_score == score && member.with_text(|member| last.compare(member).is_lt()))
}

#[cfg(test)]
mod tests;

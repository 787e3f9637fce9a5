//! Values that a path selects, in the order of the document.
//!
//! The work of a selection is bounded ([`WORK_MAX`]): filters that look at the whole document for each value, or several
//! scans inside of each other, would multiply it.

use std::cmp::Ordering;

use dormouse_types::json::{Json, JsonNode, JsonValue, Numbers, equal};
use dormouse_types::pace;
use smallvec::{SmallVec, smallvec};

use super::path::{Comparison, Path, PathFilter, PathStep, Pattern, Term};
use crate::error::{Error, Result};

/// Values that a selection may look at.
const WORK_MAX: usize = 1 << 25;
/// Values that it may select: a value may be selected several times.
const SELECTED_MAX: usize = 1 << 22;

/// The work of compiling a pattern that is a value.
const PATTERN_WORK: usize = 20_000;

const TOO_MUCH: Error = Error::text("ERR the path looks at too many values");

/// Values of a document.
#[derive(Debug, Default)]
pub struct Selected<'d> {
    document: &'d [u8],
    places: Vec<u32>,
}

impl<'d> Selected<'d> {
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = JsonNode<'d>> + use<'d, '_> {
        self.places.iter().map(|at| JsonNode::at_offset(self.document, *at as usize))
    }
}

/// The values that a path selects.
pub fn all<'d>(document: &'d Json, path: &Path<'_>) -> Result<Selected<'d>> {
    Ok(Selected { document: document.bytes(), places: places(document, path)? })
}

/// The first value that a path selects, if any.
pub fn one<'d>(document: &'d Json, path: &Path<'_>) -> Result<Selected<'d>> {
    let places = first(document, path)?.iter().map(|value| value.at() as u32).collect();
    Ok(Selected { document: document.bytes(), places })
}

/// The offsets of the values that a path selects.
pub fn places(document: &Json, path: &Path<'_>) -> Result<Vec<u32>> {
    let mut selection = Selection::new(document.root(), usize::MAX);
    selection.follow(&path.steps, document.root())?;
    Ok(selection.places)
}

/// The first value that a path selects.
pub fn first<'d>(document: &'d Json, path: &Path<'_>) -> Result<Option<JsonNode<'d>>> {
    follow(document, &path.steps)
}

/// The first value that steps lead to.
pub fn follow<'d>(document: &'d Json, steps: &[PathStep]) -> Result<Option<JsonNode<'d>>> {
    let mut selection = Selection::new(document.root(), 1);
    selection.follow(steps, document.root())?;
    Ok(selection.places.first().map(|at| JsonNode::at_offset(document.bytes(), *at as usize)))
}

struct Selection<'d> {
    root: JsonNode<'d>,
    /// Work that may still be done.
    left: usize,
    /// The selection ends when it has so many values.
    wanted: usize,
    places: Vec<u32>,
}

impl<'d> Selection<'d> {
    fn new(root: JsonNode<'d>, wanted: usize) -> Self {
        Self { root, left: WORK_MAX, wanted, places: Vec::new() }
    }

    fn work(&mut self, values: usize) -> Result<()> {
        pace::step(values);
        self.left = self.left.checked_sub(values).ok_or(TOO_MUCH)?;
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.places.len() >= self.wanted
    }

    /// Follows the steps from a value.
    fn follow(&mut self, steps: &[PathStep], node: JsonNode<'d>) -> Result<()> {
        let Some((step, rest)) = steps.split_first() else {
            self.work(1)?;
            if self.places.len() >= SELECTED_MAX {
                return Err(TOO_MUCH);
            }
            self.places.push(node.at() as u32);
            return Ok(());
        };
        match step {
            PathStep::Name(name) => self.member(name, rest, node)?,
            PathStep::Names(names) => names.iter().try_for_each(|name| self.member(name, rest, node))?,
            PathStep::All => {
                for (_, child) in node.children() {
                    self.work(1)?;
                    self.follow(rest, child)?;
                    if self.is_done() {
                        break;
                    }
                }
            }
            PathStep::Indexes(indexes) if node.is_array() => {
                for index in indexes {
                    let index = absolute(*index, node.len());
                    self.work(1 + index / 8)?;
                    if let Some(element) = node.element(index) {
                        self.follow(rest, element)?;
                    }
                }
            }
            PathStep::Range { start, end, step } if node.is_array() => {
                let start = start.map_or(0, |start| absolute(start, node.len()));
                let end = end.map_or(node.len(), |end| absolute(end, node.len()));
                let chosen = node.children().enumerate().take(end).skip(start).step_by(*step);
                for (_, (_, element)) in chosen {
                    self.work(1)?;
                    self.follow(rest, element)?;
                    if self.is_done() {
                        break;
                    }
                }
            }
            PathStep::Indexes(_) | PathStep::Range { .. } => {}
            PathStep::Filter(filter) => {
                for (_, child) in node.children() {
                    self.work(1)?;
                    if self.passes(filter, child)? {
                        self.follow(rest, child)?;
                        if self.is_done() {
                            break;
                        }
                    }
                }
            }
            PathStep::Everywhere => {
                self.follow(rest, node)?;
                self.everywhere_in(rest, node)?;
            }
        }
        Ok(())
    }

    fn member(&mut self, name: &[u8], rest: &[PathStep], node: JsonNode<'d>) -> Result<()> {
        if node.is_object() {
            self.work(1 + node.len() / 8)?;
            if let Some(value) = node.get(name) {
                self.follow(rest, value)?;
            }
        }
        Ok(())
    }

    fn everywhere_in(&mut self, rest: &[PathStep], node: JsonNode<'d>) -> Result<()> {
        for (_, child) in node.children() {
            if self.is_done() {
                break;
            }
            self.work(1)?;
            self.follow(rest, child)?;
            self.everywhere_in(rest, child)?;
        }
        Ok(())
    }

    fn passes(&mut self, filter: &PathFilter, node: JsonNode<'d>) -> Result<bool> {
        match filter {
            PathFilter::Or(any) => {
                for filter in any {
                    if self.passes(filter, node)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            PathFilter::And(all) => {
                for filter in all {
                    if !self.passes(filter, node)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            PathFilter::Exists(Term::Value(_)) => Ok(true),
            PathFilter::Exists(term) => Ok(!self.values(term, node)?.is_empty()),
            PathFilter::Compare(one, comparison, other) => {
                let (one, other) = (self.values(one, node)?, self.values(other, node)?);
                self.compare(&one, *comparison, &other)
            }
            PathFilter::Matches(text, pattern, known) => {
                let (texts, patterns) = (self.values(text, node)?, self.values(pattern, node)?);
                // A text that stands in the path itself matches nothing, as in RedisJSON.
                if matches!(text, Term::Value(_)) {
                    return Ok(false);
                }
                for pattern in patterns.iter().filter_map(|pattern| pattern.string()) {
                    let own;
                    let pattern = match known {
                        Some(pattern) => pattern,
                        None => {
                            self.work(PATTERN_WORK)?;
                            own = Pattern::new(pattern);
                            &own
                        }
                    };
                    for text in texts.iter().filter_map(|text| text.string()) {
                        self.work(1 + text.len() / 16)?;
                        if pattern.is_in(text) {
                            return Ok(true);
                        }
                    }
                }
                Ok(false)
            }
        }
    }

    /// The values of a term.
    fn values<'t>(&mut self, term: &'t Term, node: JsonNode<'d>) -> Result<SmallVec<[JsonNode<'t>; 1]>>
    where
        'd: 't,
    {
        let (steps, from) = match term {
            Term::Value(encoded) => return Ok(smallvec![JsonNode::of(encoded)]),
            Term::Here(steps) => (steps, node),
            Term::Root(steps) => (steps, self.root),
        };
        let mut inner = Selection { root: self.root, left: self.left, wanted: usize::MAX, places: Vec::new() };
        let followed = inner.follow(steps, from);
        self.left = inner.left;
        followed?;
        Ok(inner.places.iter().map(|at| self.root.at_same(*at as usize)).collect())
    }

    /// Whether any two values compare as they should; for inequality, whether no two are equal.
    fn compare(&mut self, one: &[JsonNode<'_>], comparison: Comparison, other: &[JsonNode<'_>]) -> Result<bool> {
        let holds = |one: JsonNode<'_>, other: JsonNode<'_>| match comparison {
            Comparison::Equal | Comparison::NotEqual => equal(one, other, Numbers::ByValue),
            Comparison::Less => order(one, other).is_some_and(Ordering::is_lt),
            Comparison::LessOrEqual => order(one, other).is_some_and(Ordering::is_le),
            Comparison::Greater => order(one, other).is_some_and(Ordering::is_gt),
            Comparison::GreaterOrEqual => order(one, other).is_some_and(Ordering::is_ge),
        };
        let mut found = false;
        'all: for one in one {
            for other in other {
                let bytes = one.bytes().len().min(other.bytes().len());
                self.work(1 + bytes / 16)?;
                if holds(*one, *other) {
                    found = true;
                    break 'all;
                }
            }
        }
        Ok(found != (comparison == Comparison::NotEqual))
    }
}

/// A number of an element; negative ones count from the end, and stop at the first.
fn absolute(index: i64, len: usize) -> usize {
    match usize::try_from(index) {
        Ok(index) => index.min(len),
        Err(_) => len.saturating_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX)),
    }
}

/// The order of two values of one type that has one.
fn order(one: JsonNode<'_>, other: JsonNode<'_>) -> Option<Ordering> {
    match (one.value(), other.value()) {
        (JsonValue::Null, JsonValue::Null) => Some(Ordering::Equal),
        (JsonValue::Bool(one), JsonValue::Bool(other)) => Some(one.cmp(&other)),
        (JsonValue::String(one), JsonValue::String(other)) => Some(one.cmp(other)),
        (JsonValue::Integer(one), JsonValue::Integer(other)) => Some(one.cmp(&other)),
        (JsonValue::Unsigned(one), JsonValue::Unsigned(other)) => Some(one.cmp(&other)),
        (one, other) => one.as_float()?.partial_cmp(&other.as_float()?),
    }
}
